#include "trainer/model/encoder.h"

#include <string.h>

#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "shared/base/version.h"
#include "trainer/kernels/kernels.h"
#include "trainer/kernels/random_fill.h"

enum { GROUP = MODEL_FROZEN_GROUP };

/* Whether the place in a group matters, for one shape. */
enum place { PLACE_UNKNOWN, PLACE_SAME, PLACE_MATTERS };

struct encoder {
	struct model *model;
	const struct vector_ops *ops;
	size_t picture_elements, features;
	int tokens_max;           /* of a caption */
	enum place picture_place;
	enum place *caption_place; /* (tokens_max + 1) */
	float *pixels;            /* (GROUP, picture_elements) */
	int32_t *ids;             /* (GROUP * tokens_max) */
	float *word;              /* (GROUP * tokens_max, W) */
	float *rows;              /* (GROUP, F) */
	uint32_t offsets[GROUP + 1];
	int *order;               /* (order_room) captions by length */
	int order_room;
};

static const struct model_call call = { .mode = MODEL_EVAL, .dropout = false };

int encoder_open(struct encoder **out, struct model *model, int tokens_per_caption, struct err *err)
{
	const struct model_config *config = model_config(model);
	struct encoder *e = mem_zalloc(sizeof(*e));
	size_t tokens = (size_t)GROUP * (size_t)tokens_per_caption;

	*out = NULL;
	if (e == NULL)
		return err_nomem(err, sizeof(*e));
	e->model = model;
	e->ops = kernels_fast()->vector;
	e->picture_elements = 3 * (size_t)config->image.image_size * (size_t)config->image.image_size;
	e->features = (size_t)config->features;
	e->tokens_max = tokens_per_caption;
	e->caption_place = mem_array((size_t)tokens_per_caption + 1, sizeof(*e->caption_place));
	e->pixels = model_alloc(GROUP * e->picture_elements);
	e->ids = mem_array(tokens, sizeof(*e->ids));
	e->word = model_alloc(tokens * (size_t)config->text.width);
	e->rows = model_alloc(GROUP * e->features);
	if (e->caption_place == NULL || e->pixels == NULL || e->ids == NULL || e->word == NULL || e->rows == NULL) {
		int code = err_nomem(err, GROUP * e->picture_elements * sizeof(float));

		encoder_close(e);
		return code;
	}
	*out = e;
	return 0;
}

void encoder_close(struct encoder *e)
{
	if (e == NULL)
		return;
	mem_free(e->caption_place);
	model_release(e->pixels);
	mem_free(e->ids);
	model_release(e->word);
	model_release(e->rows);
	mem_free(e->order);
	mem_free(e);
}

static bool rows_equal(const struct encoder *e)
{
	for (size_t r = 1; r < GROUP; r++)
		if (memcmp(e->rows, e->rows + r * e->features, e->features * sizeof(*e->rows)) != 0)
			return false;
	return true;
}

/* ---- pictures ---- */

static void try_pictures(struct encoder *e, bool nhwc)
{
	random_fill_normal(e->pixels, e->picture_elements, rng_key(1, RNG_NOISE), 1.0f);
	for (size_t r = 1; r < GROUP; r++)
		e->ops->copy(e->pixels + r * e->picture_elements, e->pixels, e->picture_elements);
	model_image_forward(e->model, &call, e->pixels, nhwc, GROUP, e->rows);
	e->picture_place = rows_equal(e) ? PLACE_SAME : PLACE_MATTERS;
	log_debug("frozen image tower: %s", e->picture_place == PLACE_SAME ? "groups" : "one picture at a time");
}

void encoder_pictures(struct encoder *e, const float *pixels, bool nhwc, int n, const uint8_t *wanted, float *v)
{
	int group, at[GROUP], count = 0;

	if (e->picture_place == PLACE_UNKNOWN)
		try_pictures(e, nhwc);
	group = e->picture_place == PLACE_SAME ? GROUP : 1;
	for (int i = 0; i <= n; i++) {
		if (i < n && (wanted == NULL || wanted[i])) {
			e->ops->copy(e->pixels + (size_t)count * e->picture_elements, pixels + (size_t)i * e->picture_elements,
				     e->picture_elements);
			at[count++] = i;
		}
		if (count == 0 || (i < n && count < group))
			continue;
		for (int r = count; r < group; r++)
			e->ops->copy(e->pixels + (size_t)r * e->picture_elements, e->pixels + (size_t)(count - 1) * e->picture_elements,
				     e->picture_elements);
		model_image_forward(e->model, &call, e->pixels, nhwc, group, e->rows);
		for (int r = 0; r < count; r++)
			e->ops->copy(v + (size_t)at[r] * e->features, e->rows + (size_t)r * e->features, e->features);
		count = 0;
	}
}

/* ---- captions ---- */

/* `group` captions of one length from e->ids to e->rows. */
static void run_captions(struct encoder *e, int group, int length)
{
	for (int r = 0; r <= group; r++)
		e->offsets[r] = (uint32_t)(r * length);
	model_embed_forward(e->model, e->ids, group * length, e->word);
	model_text_forward(e->model, &call, e->word, e->offsets, group, e->rows);
}

static void try_captions(struct encoder *e, int length)
{
	int words = model_config(e->model)->text.vocab_size;

	for (int i = 0; i < GROUP * length; i++)
		e->ids[i] = (int32_t)((i % length + 1) * 7919LL % words);
	run_captions(e, GROUP, length);
	e->caption_place[length] = rows_equal(e) ? PLACE_SAME : PLACE_MATTERS;
	log_debug("frozen text tower, %d tokens: %s", length, e->caption_place[length] == PLACE_SAME ? "groups" : "one at a time");
}

/* Captions first..last of e->order, all of one length. */
static void encode_length(struct encoder *e, const int32_t *ids, const uint32_t *offsets, int first, int last, int length, float *t)
{
	size_t bytes = (size_t)length * sizeof(*ids);
	int group;

	if (e->caption_place[length] == PLACE_UNKNOWN)
		try_captions(e, length);
	group = e->caption_place[length] == PLACE_SAME ? GROUP : 1;
	for (int from = first; from < last; from += group) {
		int count = last - from < group ? last - from : group;

		for (int r = 0; r < group; r++)
			memcpy(e->ids + r * length, ids + offsets[e->order[from + (r < count ? r : count - 1)]], bytes);
		run_captions(e, group, length);
		for (int r = 0; r < count; r++)
			e->ops->copy(t + (size_t)e->order[from + r] * e->features, e->rows + (size_t)r * e->features, e->features);
	}
}

/* Room grows to the largest batch and stays. */
static void make_room(struct encoder *e, int n)
{
	if (n <= e->order_room)
		return;
	mem_free(e->order);
	e->order = mem_array((size_t)n, sizeof(*e->order));
	CHECK(e->order != NULL);
	e->order_room = n;
}

void encoder_captions(struct encoder *e, const int32_t *ids, const uint32_t *offsets, int n, const uint8_t *wanted, float *t)
{
	int count = 0;

	make_room(e, n);
	for (int length = 1; length <= e->tokens_max; length++) {
		int first = count;

		for (int i = 0; i < n; i++)
			if ((wanted == NULL || wanted[i]) && (int)(offsets[i + 1] - offsets[i]) == length)
				e->order[count++] = i;
		if (count > first)
			encode_length(e, ids, offsets, first, count, length, t);
	}
}

/* ---- what decides the features ---- */

static bool of_tower(const struct param *param, bool text)
{
	bool image = strncmp(param->name, "image_encoder.", strlen("image_encoder.")) == 0;

	return param->value != NULL && param->kind != PARAM_UNUSED && (text ? strncmp(param->name, "text_", strlen("text_")) == 0 : image);
}

int encoder_hash(const struct encoder *e, bool text, const char *settings, struct hash *out, struct err *err)
{
	const struct params *params = model_params(e->model);
	const struct model_config *config = model_config(e->model);
	char kernels[KERNELS_TEXT_BYTES];
	struct hash_stream *stream;
	int code = hash_stream_open(&stream, err);

	if (code != 0)
		return code;
	kernels_describe(kernels);
	hash_stream_add_field(stream, "trainer encoder 1 " PRODUCT_VERSION, strlen("trainer encoder 1 " PRODUCT_VERSION));
	hash_stream_add_field(stream, settings, strlen(settings));
	hash_stream_add_field(stream, kernels, strlen(kernels));
	hash_stream_add_u64(stream, GROUP);
	/* shapes say all else */
	hash_stream_add_u64(stream, text ? (uint64_t)config->text.heads : 0);
	hash_stream_add_field(stream, text ? (const char *)&config->text.norm_eps : "", text ? sizeof(config->text.norm_eps) : 0);
	for (int i = 0; i < params->count; i++) {
		const struct param *param = params_at(params, i);

		if (!of_tower(param, text))
			continue;
		hash_stream_add_field(stream, param->name, strlen(param->name));
		hash_stream_add_u64(stream, (uint64_t)param->rank);
		for (int d = 0; d < param->rank; d++)
			hash_stream_add_u64(stream, (uint64_t)param->shape[d]);
		hash_stream_add(stream, param->value, param->count * sizeof(*param->value));
	}
	hash_stream_final(stream, out);
	return 0;
}
