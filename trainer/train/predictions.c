#include "trainer/train/predictions.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "shared/base/fs.h"
#include "shared/base/mem.h"

void calibration_add(struct calibration *c, double confidence, bool right)
{
	int bin = (int)(confidence * CALIBRATION_BINS);

	/* Bins are open below and closed above, as in the paper; a NaN counts as no confidence. */
	if (!(confidence > 0))
		bin = 0;
	else if (bin > 0 && confidence * CALIBRATION_BINS == bin)
		bin--;
	if (bin >= CALIBRATION_BINS)
		bin = CALIBRATION_BINS - 1;
	c->count[bin]++;
	c->right[bin] += right;
	c->confidence[bin] += confidence;
}

double calibration_error(const struct calibration *c)
{
	double sum = 0;
	uint64_t count = 0;

	for (int i = 0; i < CALIBRATION_BINS; i++) {
		sum += fabs((double)c->right[i] - c->confidence[i]);
		count += c->count[i];
	}
	return count > 0 ? sum / (double)count : NAN;
}

struct choice choice_of(const float *logits, int classes, int32_t of)
{
	struct choice out = { 0 };
	double sum = 0;

	for (int k = 1; k < classes; k++)
		if (logits[k] > logits[out.chosen])
			out.chosen = k;
	for (int k = 0; k < classes; k++)
		sum += exp((double)logits[k] - (double)logits[out.chosen]);
	out.confidence = 1 / sum;
	out.p = exp((double)logits[of] - (double)logits[out.chosen]) / sum;
	return out;
}

int predictions_open(struct predictions *out, size_t most, struct err *err)
{
	*out = (struct predictions){ .capacity = most };
	out->all = mem_array(most + 1, sizeof(*out->all));
	return out->all != NULL ? 0 : err_nomem(err, most * sizeof(*out->all));
}

void predictions_close(struct predictions *predictions)
{
	mem_free(predictions->all);
	*predictions = (struct predictions){ 0 };
}

void predictions_add(struct predictions *predictions, const struct prediction *one)
{
	CHECK(predictions->count < predictions->capacity);
	predictions->all[predictions->count++] = *one;
}

int predictions_digest(const struct predictions *predictions, struct hash *out, struct err *err)
{
	struct hash_stream *stream;
	int code = hash_stream_open(&stream, err);

	for (size_t i = 0; code == 0 && i < predictions->count; i++) {
		hash_stream_add_u64(stream, predictions->all[i].picture);
		hash_stream_add_u64(stream, predictions->all[i].caption);
		hash_stream_add_u64(stream, (uint64_t)(int64_t)predictions->all[i].label);
	}
	if (code == 0)
		hash_stream_final(stream, out);
	return code;
}

static int by_number(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

size_t predictions_pictures(const struct predictions *predictions)
{
	uint64_t *all = mem_array(predictions->count + 1, sizeof(*all));
	size_t different = 0;

	if (all == NULL)
		return 0;
	for (size_t i = 0; i < predictions->count; i++)
		all[i] = predictions->all[i].picture;
	qsort(all, predictions->count, sizeof(*all), by_number);
	for (size_t i = 0; i < predictions->count; i++)
		different += i == 0 || all[i] != all[i - 1];
	mem_free(all);
	return different;
}

int predictions_write(const struct predictions *predictions, const char *path, struct err *err)
{
	struct buf out = BUF_INIT;
	int code = buf_add_text(&out, "pair,picture,caption,label,p,correct\n", err);

	for (size_t i = 0; code == 0 && i < predictions->count; i++) {
		const struct prediction *one = &predictions->all[i];

		code = buf_printf(&out, err, "%zu,%" PRIu64 ",%" PRIu64 ",%d,%.9g,%d\n", i, one->picture, one->caption, one->label, one->p,
				  one->correct);
	}
	if (code == 0)
		code = fs_write_atomic(path, out.data, out.size, err);
	buf_free(&out);
	return code;
}
