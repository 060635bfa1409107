/* The pairs that attacks work on, out of an evaluation stream. */
#include <string.h>

#include "shared/base/mem.h"
#include "trainer/study/attack.h"

#define NONE UINT32_MAX

/* Of the whole split, in its order. */
struct listed {
	uint32_t *own, *wrong; /* (captions) pictures of the part */
	int32_t *label;        /* (captions) */
	uint32_t *taken;       /* (captions) place among the chosen captions, or NONE */
	uint32_t *place;       /* (pictures) place among the chosen pictures, or NONE */
	uint32_t captions;
};

static void listed_free(struct listed *l)
{
	mem_free(l->own);
	mem_free(l->wrong);
	mem_free(l->label);
	mem_free(l->taken);
	mem_free(l->place);
}

static int list(struct listed *l, struct feed *feed, struct err *err)
{
	const struct stream_info *info = feed_info(feed);
	const struct batch *batch;
	size_t captions = info->caption_count, pictures = info->picture_count;
	int code;

	l->own = mem_array(captions, sizeof(*l->own));
	l->wrong = mem_array(captions, sizeof(*l->wrong));
	l->label = mem_array(captions, sizeof(*l->label));
	l->taken = mem_array(captions, sizeof(*l->taken));
	l->place = mem_array(pictures, sizeof(*l->place));
	if (l->own == NULL || l->wrong == NULL || l->label == NULL || l->taken == NULL || l->place == NULL)
		return err_nomem(err, captions * 4 * sizeof(*l->own));
	memset(l->taken, 0xFF, captions * sizeof(*l->taken));
	memset(l->place, 0xFF, pictures * sizeof(*l->place));
	if ((code = feed_seek(feed, 0, 0, err)) != 0)
		return code;
	while ((code = feed_next(feed, &batch, err)) == 0 && batch != NULL)
		for (uint32_t i = 0; i < batch->count; i++) {
			if (l->captions == info->caption_count)
				return err_set(err, ERR_PROTOCOL, "the daemon sent more captions than the split has");
			l->own[l->captions] = batch->pictures[i];
			l->wrong[l->captions] = batch->wrong_pictures[i];
			l->label[l->captions++] = batch->labels[i];
		}
	return code;
}

static void add_pair(struct attack_data *data, struct listed *l, uint32_t picture, uint32_t caption, int32_t label)
{
	if (l->place[picture] == NONE)
		l->place[picture] = (uint32_t)data->pictures++;
	if (l->taken[caption] == NONE)
		l->taken[caption] = (uint32_t)data->captions++;
	data->picture[data->pairs] = l->place[picture];
	data->caption[data->pairs] = l->taken[caption];
	data->label[data->pairs++] = label;
}

static bool has_pair(const struct listed *l, uint32_t caption, bool match)
{
	return match ? l->wrong[caption] != NONE : l->label[caption] >= 0;
}

/* Captions evenly over the split. */
static int choose(struct attack_data *data, struct listed *l, bool match, int wanted, struct err *err)
{
	uint64_t usable = 0, seen = 0, take = (uint64_t)(match ? (wanted + 1) / 2 : wanted);

	for (uint32_t c = 0; c < l->captions; c++)
		usable += has_pair(l, c, match);
	if (usable == 0)
		return err_set(err, ERR_FORMAT, "the split has no pairs to attack");
	take = take > usable ? usable : take;
	size_t most = (size_t)take * (match ? 2 : 1);
	data->picture = mem_array(most, sizeof(*data->picture));
	data->caption = mem_array(most, sizeof(*data->caption));
	data->label = mem_array(most, sizeof(*data->label));
	if (data->picture == NULL || data->caption == NULL || data->label == NULL)
		return err_nomem(err, most * 3 * sizeof(*data->picture));
	for (uint32_t c = 0; c < l->captions; c++) {
		if (!has_pair(l, c, match))
			continue;
		/* One where the share of take that has been passed grows by one. */
		if ((seen + 1) * take / usable > seen * take / usable) {
			add_pair(data, l, l->own[c], c, match ? 1 : l->label[c]);
			if (match)
				add_pair(data, l, l->wrong[c], c, 0);
		}
		seen++;
	}
	return 0;
}

static int copy_batch(struct attack_data *data, const struct listed *l, const struct batch *batch, uint32_t first, uint32_t *ends,
		      uint32_t max_len)
{
	for (uint32_t i = 0; i < batch->count; i++) {
		uint32_t picture = l->place[batch->pictures[i]], caption = l->taken[first + i];

		if (picture != NONE)
			memcpy(data->pixels + picture * data->picture_elements,
			       (const float *)batch->pixels + batch->image_index[i] * data->picture_elements,
			       data->picture_elements * sizeof(*data->pixels));
		if (caption != NONE) {
			ends[caption] = batch->offsets[i + 1] - batch->offsets[i];
			memcpy(data->ids + (size_t)caption * max_len, batch->ids + batch->offsets[i], ends[caption] * sizeof(*data->ids));
		}
	}
	return 0;
}

/* Second pass: pixels and tokens of what was chosen. Tokens come in rows of max_len and are packed at the end. */
static int copy(struct attack_data *data, const struct listed *l, struct feed *feed, uint32_t max_len, struct err *err)
{
	const struct batch *batch;
	uint32_t first = 0, *lengths = mem_array((size_t)data->captions, sizeof(*lengths));
	int code;

	data->pixels = model_alloc((size_t)data->pictures * data->picture_elements);
	data->ids = mem_array((size_t)data->captions * max_len, sizeof(*data->ids));
	data->offsets = mem_array((size_t)data->captions + 1, sizeof(*data->offsets));
	if (lengths == NULL || data->pixels == NULL || data->ids == NULL || data->offsets == NULL)
		code = err_nomem(err, (size_t)data->pictures * data->picture_elements * sizeof(float));
	else
		code = feed_seek(feed, 0, 0, err);
	while (code == 0 && (code = feed_next(feed, &batch, err)) == 0 && batch != NULL) {
		if (batch->count > l->captions - first) {
			code = err_set(err, ERR_PROTOCOL, "the daemon sent more captions than before");
			break;
		}
		copy_batch(data, l, batch, first, lengths, max_len);
		first += batch->count;
	}
	for (int c = 0; c < data->captions && code == 0; c++) {
		data->offsets[c + 1] = data->offsets[c] + lengths[c];
		memmove(data->ids + data->offsets[c], data->ids + (size_t)c * max_len, lengths[c] * sizeof(*data->ids));
	}
	mem_free(lengths);
	return code;
}

int attack_data_open(struct attack_data *out, struct feed *feed, enum model_task task, int wanted, int image_size,
		     uint32_t max_len, struct err *err)
{
	struct stream_options usual;
	struct listed l = { 0 };
	int code;

	CHECK(feed_nhwc(feed));
	*out = (struct attack_data){ .picture_elements = (size_t)3 * (size_t)image_size * (size_t)image_size };
	/* What feed.c asks the daemon for. */
	stream_options_init(&usual);
	memcpy(out->box.mean, usual.mean, sizeof(usual.mean));
	memcpy(out->box.std, usual.std, sizeof(usual.std));
	if ((code = list(&l, feed, err)) == 0 && (code = choose(out, &l, task == TASK_MATCH, wanted, err)) == 0)
		code = copy(out, &l, feed, max_len, err);
	listed_free(&l);
	if (code != 0)
		attack_data_close(out);
	return code;
}

void attack_data_close(struct attack_data *data)
{
	model_release(data->pixels);
	mem_free(data->ids);
	mem_free(data->offsets);
	mem_free(data->picture);
	mem_free(data->caption);
	mem_free(data->label);
	*data = (struct attack_data){ 0 };
}
