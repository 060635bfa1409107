#include "trainer/train/pairs.h"

#include <string.h>

#include "shared/base/mem.h"
#include "shared/base/rng.h"

size_t pairs_most(enum model_task task, int batch_size, int negatives)
{
	size_t b = (size_t)batch_size;
	size_t each = negatives == NEGATIVES_ALL || (size_t)negatives > b - 1 ? b - 1 : (size_t)negatives;

	return task == TASK_MATCH ? b * (1 + each) : b;
}

int pairs_open(struct pairs **out, enum model_task task, int batch_size, int negatives, struct err *err)
{
	size_t most = pairs_most(task, batch_size, negatives);
	struct pairs *pairs = mem_zalloc(sizeof(*pairs));

	*out = NULL;
	if (pairs == NULL)
		return err_nomem(err, sizeof(*pairs));
	CHECK(batch_size > 0 && most <= INT32_MAX);
	pairs->capacity = (int)most;
	pairs->picture = mem_array(most, sizeof(*pairs->picture));
	pairs->caption = mem_array(most, sizeof(*pairs->caption));
	pairs->label = mem_array(most, sizeof(*pairs->label));
	pairs->weight = mem_array(most, sizeof(*pairs->weight));
	pairs->candidates = mem_array((size_t)batch_size, sizeof(*pairs->candidates));
	pairs->picture_group = mem_array((size_t)batch_size, sizeof(*pairs->picture_group));
	pairs->caption_group = mem_array((size_t)batch_size, sizeof(*pairs->caption_group));
	if (pairs->picture == NULL || pairs->caption == NULL || pairs->label == NULL || pairs->weight == NULL ||
	    pairs->candidates == NULL || pairs->picture_group == NULL || pairs->caption_group == NULL) {
		pairs_close(pairs);
		return err_nomem(err, most * (sizeof(uint32_t) * 4));
	}
	pairs->list.picture = pairs->picture;
	pairs->list.caption = pairs->caption;
	pairs->list.label = pairs->label;
	pairs->list.weight = pairs->weight;
	pairs->list.picture_group = pairs->picture_group;
	pairs->list.caption_group = pairs->caption_group;
	*out = pairs;
	return 0;
}

void pairs_close(struct pairs *pairs)
{
	if (pairs == NULL)
		return;
	mem_free(pairs->picture);
	mem_free(pairs->caption);
	mem_free(pairs->label);
	mem_free(pairs->weight);
	mem_free(pairs->candidates);
	mem_free(pairs->picture_group);
	mem_free(pairs->caption_group);
	mem_free(pairs);
}

static void add_pair(struct pairs *pairs, uint32_t picture, uint32_t caption, int32_t label)
{
	int n = pairs->list.count++;

	CHECK(n < pairs->capacity);
	pairs->picture[n] = picture;
	pairs->caption[n] = caption;
	pairs->label[n] = label;
}

static bool same_tokens(const struct batch *batch, uint32_t a, uint32_t b)
{
	uint32_t length = batch->offsets[a + 1] - batch->offsets[a];

	return batch->offsets[b + 1] - batch->offsets[b] == length &&
	       memcmp(batch->ids + batch->offsets[a], batch->ids + batch->offsets[b], length * sizeof(*batch->ids)) == 0;
}

/* Fills candidates with the samples whose caption is wrong for sample i's picture. */
static uint32_t wrong_captions(struct pairs *pairs, const struct batch *batch, uint32_t i)
{
	uint32_t count = 0;

	for (uint32_t j = 0; j < batch->count; j++)
		if (batch->pictures[j] != batch->pictures[i] && !same_tokens(batch, i, j))
			pairs->candidates[count++] = j;
	return count;
}

void pairs_match(struct pairs *pairs, const struct batch *batch, int negatives, uint64_t seed, uint64_t step, uint32_t first)
{
	struct rng_key key = rng_key(seed, RNG_NEGATIVES);

	pairs->list.count = 0;
	for (uint32_t i = 0; i < batch->count; i++)
		add_pair(pairs, batch->image_index[i], i, 1);
	pairs->positives = pairs->list.count;
	for (uint32_t i = 0; i < batch->count; i++) {
		uint32_t left = wrong_captions(pairs, batch, i);
		uint32_t take = negatives == NEGATIVES_ALL || (uint32_t)negatives > left ? left : (uint32_t)negatives;

		/* The first `take` places of a shuffle (Fisher and Yates); nothing to draw when all are taken. */
		for (uint32_t k = 0; k < take; k++) {
			uint32_t pick = k;

			if (take < left) {
				struct rng_block r = rng_philox(key, (uint32_t)step, (uint32_t)(step >> 32), first + i, k);

				pick = k + (uint32_t)rng_below(r.v[0], r.v[1], left - k);
			}
			uint32_t chosen = pairs->candidates[pick];
			pairs->candidates[pick] = pairs->candidates[k];
			pairs->candidates[k] = chosen;
			add_pair(pairs, batch->image_index[i], chosen, 0);
		}
	}
	pairs->negatives = pairs->list.count - pairs->positives;
	for (int n = 0; n < pairs->list.count; n++)
		pairs->weight[n] = pairs->negatives == 0 ? 1.0f / (float)pairs->positives :
				   pairs->label[n] == 1	 ? 0.5f / (float)pairs->positives :
							   0.5f / (float)pairs->negatives;
}

void pairs_classify(struct pairs *pairs, const struct batch *batch)
{
	pairs->list.count = 0;
	for (uint32_t i = 0; i < batch->count; i++)
		if (batch->labels[i] >= 0)
			add_pair(pairs, batch->image_index[i], i, batch->labels[i]);
	pairs->positives = pairs->list.count;
	pairs->negatives = 0;
	for (int n = 0; n < pairs->list.count; n++)
		pairs->weight[n] = 1.0f / (float)pairs->list.count;
}

void pairs_contrast(struct pairs *pairs, const struct batch *batch)
{
	pairs->list.count = 0;
	pairs->negatives = 0;
	/* One sample alone has nothing to be told from. */
	for (uint32_t i = 0; i < batch->count && batch->count > 1; i++) {
		uint32_t picture = 0, caption = 0;

		while (batch->pictures[picture] != batch->pictures[i])
			picture++;
		while (!same_tokens(batch, caption, i))
			caption++;
		pairs->picture_group[i] = picture;
		pairs->caption_group[i] = caption;
		add_pair(pairs, batch->image_index[i], i, 1);
	}
	pairs->positives = pairs->list.count;
}

double pairs_accuracy(const struct pairs *pairs, const uint8_t *correct)
{
	int right[2] = { 0, 0 };
	int first = pairs->positives;

	for (int n = 0; n < pairs->list.count; n++)
		right[n >= first] += correct[n];
	if (pairs->positives == 0)
		return 0.0;
	double positive = (double)right[0] / (double)pairs->positives;
	return pairs->negatives == 0 ? positive : 0.5 * positive + 0.5 * (double)right[1] / (double)pairs->negatives;
}
