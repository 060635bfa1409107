#include "trainer/train/validate.h"

#include <string.h>

#include "shared/base/clock.h"
#include "shared/base/mem.h"

struct validator {
	struct model *model;
	const struct vector_ops *ops;
	struct source *source;   /* of frozen towers, or NULL */
	struct model_limits limits;
	size_t features, width;
	uint32_t pictures, captions, batch_size;
	/* of the split */
	float *v, *t;            /* (pictures, F), (captions, F) */
	uint8_t *seen;           /* (pictures) v is filled */
	uint32_t *own, *wrong;   /* (captions) */
	int32_t *label;          /* (captions) */
	uint64_t *sample;        /* (captions) ids */
	uint64_t *name;          /* (pictures) id of the first sample that shows it */
	uint64_t *text;          /* (captions) contrast: checksum of the tokens */
	struct retrieval *retrieval; /* contrast */
	uint32_t encoded;        /* captions so far */
	/* of one batch or one chunk of pairs */
	float *word, *v_rows;    /* (tokens, W), (limits.pictures, F) */
	uint8_t *needed;         /* (batch_size) pictures of the slot to encode */
	uint32_t *picture, *caption;
	int32_t *pair_label;
	uint32_t *pair_picture;  /* of the split */
	float *logits;           /* (limits.pairs, classes) */
	struct calibration calibration;
	struct predictions *keep; /* or NULL */
};

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

void validator_limits(struct model_limits *limits, uint32_t batch_size, uint32_t pictures, uint32_t captions, uint32_t max_len)
{
	int b = (int)least(batch_size, captions), p = (int)least(batch_size, pictures);

	/* A caption is scored with two pictures, in two pairs. */
	if (limits->pictures < (p < 2 ? 2 : p))
		limits->pictures = p < 2 ? 2 : p;
	if (limits->captions < b)
		limits->captions = b;
	if (limits->tokens < b * (int)max_len)
		limits->tokens = b * (int)max_len;
	if (limits->tokens_per_caption < (int)max_len)
		limits->tokens_per_caption = (int)max_len;
	if (limits->pairs < 2 * b)
		limits->pairs = 2 * b;
}

int validator_open(struct validator **out, struct model *model, const struct model_limits *limits, const struct vector_ops *ops,
		   uint32_t pictures, uint32_t captions, uint32_t batch_size, struct err *err)
{
	struct validator *v = mem_zalloc(sizeof(*v));
	size_t features = (size_t)model_config(model)->features, width = (size_t)model_config(model)->text.width;

	*out = NULL;
	if (v == NULL)
		return err_nomem(err, sizeof(*v));
	v->model = model;
	v->ops = ops;
	v->limits = *limits;
	v->features = features;
	v->width = width;
	v->pictures = pictures;
	v->captions = captions;
	v->batch_size = least(batch_size, captions);
	v->v = model_alloc((size_t)pictures * features);
	v->t = model_alloc((size_t)captions * features);
	v->seen = mem_array(pictures, 1);
	v->own = mem_array(captions, sizeof(*v->own));
	v->wrong = mem_array(captions, sizeof(*v->wrong));
	v->label = mem_array(captions, sizeof(*v->label));
	v->sample = mem_array(captions, sizeof(*v->sample));
	v->name = mem_array(pictures, sizeof(*v->name));
	v->text = mem_array(captions, sizeof(*v->text));
	v->word = model_alloc((size_t)limits->tokens * width);
	v->v_rows = model_alloc((size_t)limits->pictures * features);
	v->needed = mem_array(v->batch_size, 1);
	v->picture = mem_array((size_t)limits->pairs, sizeof(*v->picture));
	v->caption = mem_array((size_t)limits->pairs, sizeof(*v->caption));
	v->pair_label = mem_array((size_t)limits->pairs, sizeof(*v->pair_label));
	v->pair_picture = mem_array((size_t)limits->pairs, sizeof(*v->pair_picture));
	v->logits = model_alloc((size_t)limits->pairs * (size_t)model_config(model)->classes);
	if (v->v == NULL || v->t == NULL || v->seen == NULL || v->own == NULL || v->wrong == NULL || v->label == NULL ||
	    v->word == NULL || v->v_rows == NULL || v->needed == NULL || v->picture == NULL || v->caption == NULL ||
	    v->pair_label == NULL || v->pair_picture == NULL || v->logits == NULL || v->sample == NULL || v->name == NULL ||
	    v->text == NULL) {
		validator_close(v);
		err_nomem(err, ((size_t)pictures + captions) * features * sizeof(float));
		return err_prefix(err, "features of %u pictures and %u captions", pictures, captions);
	}
	if (model_config(model)->task == TASK_CONTRAST) {
		int code = retrieval_open(&v->retrieval, pictures, captions, err);

		if (code != 0) {
			validator_close(v);
			return code;
		}
	}
	*out = v;
	return 0;
}

void validator_close(struct validator *v)
{
	if (v == NULL)
		return;
	model_release(v->v);
	model_release(v->t);
	mem_free(v->seen);
	mem_free(v->own);
	mem_free(v->wrong);
	mem_free(v->label);
	mem_free(v->sample);
	mem_free(v->name);
	mem_free(v->text);
	retrieval_close(v->retrieval);
	model_release(v->word);
	model_release(v->v_rows);
	mem_free(v->needed);
	mem_free(v->picture);
	mem_free(v->caption);
	mem_free(v->pair_label);
	mem_free(v->pair_picture);
	model_release(v->logits);
	mem_free(v);
}

void validator_keep(struct validator *v, struct predictions *predictions)
{
	v->keep = predictions;
}

void validator_take_from(struct validator *v, struct source *source)
{
	v->source = source;
}

static const struct model_call evaluation_call = { .mode = MODEL_EVAL, .dropout = false };

/* Encodes the pictures of a batch whose features are still missing: a picture
 * with many captions may reach over several batches. */
static int encode_pictures(struct validator *v, const struct batch *batch, bool nhwc, struct err *err)
{
	size_t side = (size_t)model_config(v->model)->image.image_size;
	size_t picture_elements = 3 * side * side;
	const float *pixels = batch->pixels;
	uint32_t count;
	int code;

	memset(v->needed, 0, batch->image_count);
	for (uint32_t i = 0; i < batch->count; i++)
		if (!v->seen[batch->pictures[i]])
			v->needed[batch->image_index[i]] = 1;
	if (source_images(v->source) && (code = source_pictures(v->source, batch, nhwc, v->needed, v->v_rows, err)) != 0)
		return code;
	for (uint32_t from = 0; !source_images(v->source) && from < batch->image_count; from += count) {
		for (count = 0; from + count < batch->image_count && v->needed[from + count]; count++)
			;
		if (count == 0) {
			count = 1;
			continue;
		}
		model_image_forward(v->model, &evaluation_call, pixels + from * picture_elements, nhwc, (int)count,
				    v->v_rows + from * v->features);
	}
	for (uint32_t i = 0; i < batch->count; i++) {
		uint32_t picture = batch->pictures[i];

		if (v->seen[picture])
			continue;
		v->ops->copy(v->v + picture * v->features, v->v_rows + batch->image_index[i] * v->features, v->features);
		v->seen[picture] = 1;
		v->name[picture] = batch->sample_ids[i];
	}
	return 0;
}

static int encode_captions(struct validator *v, const struct batch *batch, struct err *err)
{
	float *t = v->t + v->encoded * v->features;
	int code;

	if (source_texts(v->source)) {
		if ((code = source_captions(v->source, batch, t, err)) != 0)
			return code;
	} else {
		model_embed_forward(v->model, batch->ids, (int)batch->token_count, v->word);
		model_text_forward(v->model, &evaluation_call, v->word, batch->offsets, (int)batch->count, t);
	}
	for (uint32_t i = 0; i < batch->count; i++) {
		v->own[v->encoded] = batch->pictures[i];
		v->wrong[v->encoded] = batch->wrong_pictures[i];
		v->label[v->encoded] = batch->labels[i];
		v->sample[v->encoded] = batch->sample_ids[i];
		v->text[v->encoded] = hash_checksum(batch->ids + batch->offsets[i],
						    (batch->offsets[i + 1] - batch->offsets[i]) * sizeof(*batch->ids));
		v->encoded++;
	}
	return 0;
}

static void add_pair(struct validator *v, int *pairs, int *rows, uint32_t caption, uint32_t picture, int32_t label)
{
	CHECK(*pairs < v->limits.pairs && *rows < v->limits.pictures);
	v->ops->copy(v->v_rows + (size_t)*rows * v->features, v->v + picture * v->features, v->features);
	v->picture[*pairs] = (uint32_t)*rows;
	v->caption[*pairs] = caption;
	v->pair_label[*pairs] = label;
	v->pair_picture[*pairs] = picture;
	(*rows)++;
	(*pairs)++;
}

/* What the model said about the pairs that were just scored; captions count from `from`. */
static void note_choices(struct validator *v, const struct model_pairs *list, uint32_t from)
{
	int classes = model_config(v->model)->classes;
	bool match = model_config(v->model)->task == TASK_MATCH;

	for (int n = 0; n < list->count; n++) {
		struct choice choice = choice_of(v->logits + (size_t)n * (size_t)classes, classes, match ? 1 : list->label[n]);
		struct prediction one = {
			.picture = v->name[v->pair_picture[n]], .caption = v->sample[from + list->caption[n]], .label = list->label[n],
			.p = choice.p, .correct = choice.chosen == list->label[n],
		};

		calibration_add(&v->calibration, choice.confidence, one.correct);
		if (v->keep != NULL)
			predictions_add(v->keep, &one);
	}
}

static void score(struct validator *v, struct validation *out)
{
	bool match = model_config(v->model)->task == TASK_MATCH;
	/* By the batch alone: what is added up together must not depend on what else the model is opened for. */
	uint32_t rows_most = least(v->batch_size, v->pictures), most = !match ? rows_most : rows_most < 2 ? 1 : rows_most / 2;
	double loss = 0;
	uint64_t correct = 0;

	memset(&v->calibration, 0, sizeof(v->calibration));
	if (v->keep != NULL)
		v->keep->count = 0;
	for (uint32_t from = 0; from < v->encoded; from += most) {
		uint32_t count = least(v->encoded - from, most);
		struct model_pairs list = { .picture = v->picture, .caption = v->caption, .label = v->pair_label };
		struct model_result result;
		int rows = 0;

		for (uint32_t i = 0; i < count; i++) {
			uint32_t at = from + i;

			if (match && v->wrong[at] != UINT32_MAX) {
				add_pair(v, &list.count, &rows, i, v->own[at], 1);
				add_pair(v, &list.count, &rows, i, v->wrong[at], 0);
			} else if (!match && v->label[at] >= 0) {
				add_pair(v, &list.count, &rows, i, v->own[at], v->label[at]);
			}
		}
		if (list.count == 0)
			continue;
		model_fusion_forward(v->model, &evaluation_call, v->v_rows, rows, v->t + from * v->features, (int)count, &list, NULL,
				     NULL, v->logits, &result);
		note_choices(v, &list, from);
		loss += result.loss * list.count;
		correct += (uint64_t)result.correct;
		out->pairs += (uint64_t)list.count;
	}
	out->samples = v->encoded;
	out->loss = out->pairs > 0 ? loss / (double)out->pairs : 0;
	out->ece = calibration_error(&v->calibration);
	out->accuracy = out->pairs > 0 ? (double)correct / (double)out->pairs : 0;
}

/* Contrast: from features to ranks. */
static int retrieve(struct validator *v, struct validation *out, struct err *err)
{
	struct retrieval_input input = {
		.v = v->v, .t = v->t, .pictures = v->pictures, .captions = v->captions, .features = (int)v->features,
		.own = v->own, .wrong = v->wrong, .text = v->text, .log_scale = model_contrast_log_scale(v->model),
	};
	struct retrieval_scores scores;
	int code = retrieval_run(v->retrieval, &input, &scores, err);

	out->samples = v->encoded;
	out->loss = scores.loss;
	out->accuracy = scores.accuracy;
	out->pairs = scores.pairs;
	out->has_recalls = true;
	memcpy(out->image_to_text, scores.image_to_text, sizeof(out->image_to_text));
	memcpy(out->text_to_image, scores.text_to_image, sizeof(out->text_to_image));
	return code;
}

static int check_complete(const struct validator *v, const struct validation *out, struct err *err)
{
	bool match = model_config(v->model)->task == TASK_MATCH;

	for (uint32_t i = 0; i < v->encoded; i++)
		if (v->wrong[i] != UINT32_MAX && !v->seen[v->wrong[i]])
			return err_set(err, ERR_PROTOCOL, "a validation pair names a picture that the daemon never sent");
	if (out != NULL && out->pairs == 0)
		return err_set(err, ERR_FORMAT, match ? "the split has no pairs to score: it needs at least two pictures with different "
							"captions" :
							"no sample of the split has a label");
	return 0;
}

int validator_run(struct validator *v, struct feed *feed, bool (*cancelled)(void *), void *cancel_context,
		  struct validation *out, struct err *err)
{
	const struct stream_info *info = feed_info(feed);
	double began = clock_seconds(), waited = feed_wait_seconds(feed);
	const struct batch *batch;
	int code;

	*out = (struct validation){ .chain = info->version };
	if (info->picture_count != v->pictures || info->caption_count != v->captions)
		return err_set(err, ERR_MISMATCH, "the split has %u pictures and %u captions now, it had %u and %u",
			       info->picture_count, info->caption_count, v->pictures, v->captions);
	memset(v->seen, 0, v->pictures);
	v->encoded = 0;
	if ((code = feed_seek(feed, 0, 0, err)) != 0)
		return code;
	for (;;) {
		if (cancelled != NULL && cancelled(cancel_context))
			return err_set(err, ERR_CANCELLED, "stopped");
		if ((code = feed_next(feed, &batch, err)) != 0)
			return code;
		if (batch == NULL)
			break;
		if (batch->count > v->captions - v->encoded)
			return err_set(err, ERR_PROTOCOL, "the daemon sent more captions than the split has");
		feed_chain(&out->chain, &batch->digest);
		if ((code = encode_pictures(v, batch, feed_nhwc(feed), err)) != 0 || (code = encode_captions(v, batch, err)) != 0)
			return code;
	}
	if (v->encoded != v->captions)
		return err_set(err, ERR_PROTOCOL, "the daemon sent %u of the split's %u captions", v->encoded, v->captions);
	if ((code = check_complete(v, NULL, err)) != 0)
		return code;
	if (v->retrieval != NULL)
		code = retrieve(v, out, err);
	else
		score(v, out);
	out->seconds = clock_seconds() - began;
	out->wait_s = feed_wait_seconds(feed) - waited;
	return code != 0 ? code : check_complete(v, out, err);
}
