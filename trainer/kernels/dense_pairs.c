/* Moving rows: embeddings, first tokens, pairs of a picture and a caption; and the loss over pairs. */
#include <math.h>
#include <string.h>

#include "shared/base/check.h"
#include "trainer/kernels/dense_parts.h"

void dense_gather_rows(float *out, const float *table, const int32_t *ids, int n, int width)
{
	#pragma omp parallel for schedule(static) if (worth_threads(n, width))
	for (int i = 0; i < n; i++)
		memcpy(out + (size_t)i * width, table + (size_t)ids[i] * width, (size_t)width * sizeof(float));
}

void dense_scatter_rows(float *table, const float *x, const int32_t *ids, int n, int width, int32_t skip_id)
{
	#pragma omp parallel if (worth_threads(n, width))
	{
		struct column_range range = dense_columns_of_thread(width);

		for (int i = 0; i < n && range.last > range.first; i++) {
			if (ids[i] != skip_id)
				row_ops()->add(table + (size_t)ids[i] * width + range.first,
					       x + (size_t)i * width + range.first, range.last - range.first);
		}
	}
}

void dense_gather_first(float *out, const float *x, struct packed_rows rows, int width)
{
	for (int g = 0; g < rows.groups; g++)
		memcpy(out + (size_t)g * width, x + (size_t)rows.offsets[g] * width, (size_t)width * sizeof(float));
}

void dense_scatter_first(float *x, const float *rows_of, struct packed_rows rows, int width)
{
	for (int g = 0; g < rows.groups; g++)
		row_ops()->add(x + (size_t)rows.offsets[g] * width, rows_of + (size_t)g * width, width);
}

static uint32_t position_of(const uint32_t *positions, uint32_t row)
{
	return positions == NULL ? row : positions[row];
}

void dense_pair_concat(float *x, const float *v, const float *t, const uint32_t *picture, const uint32_t *caption,
		       const uint32_t *picture_positions, const uint32_t *caption_positions, int n, int width,
		       const struct dropout_spec *drop)
{
	struct mask_source mask = dense_mask(drop);
	bool dropping = dropout_is_on(drop);

	#pragma omp parallel for schedule(static) if (worth_threads(n, 2 * width))
	for (int i = 0; i < n; i++) {
		const float *from_v = v + (size_t)picture[i] * width, *from_t = t + (size_t)caption[i] * width;
		float *row = x + (size_t)i * 2 * width;

		memcpy(row, from_v, (size_t)width * sizeof(float));
		memcpy(row + width, from_t, (size_t)width * sizeof(float));
		for (int at = 0; dropping && at < 2 * width; at += DROPOUT_GROUP) {
			float factors[DROPOUT_GROUP];
			int count = 2 * width - at < DROPOUT_GROUP ? 2 * width - at : DROPOUT_GROUP;

			row_ops()->factors(factors, count, &mask, (uint32_t)at, position_of(picture_positions, picture[i]),
					   position_of(caption_positions, caption[i]));
			row_ops()->multiply(row + at, row + at, factors, count);
		}
	}
}

/* to += factors * x; factors NULL: 1 */
static void add_masked(float *to, const float *x, const float *factors, int n)
{
	if (factors == NULL)
		row_ops()->add(to, x, n);
	else
		row_ops()->multiply_add(to, x, factors, n);
}

/* Adds columns [first, first + n) of one pair's gradient to the rows of dv and dt it came from. */
static void concat_part_backward(float *dv, float *dt, const float *dx, const float *factors, int width, int first, int n)
{
	int left = first + n <= width ? n : first < width ? width - first : 0;

	if (left > 0)
		add_masked(dv + first, dx, factors, left);
	if (left < n)
		add_masked(dt + (first + left - width), dx + left, factors == NULL ? NULL : factors + left, n - left);
}

void dense_pair_concat_backward(float *dv, float *dt, const float *dx, const uint32_t *picture, const uint32_t *caption,
				const uint32_t *picture_positions, const uint32_t *caption_positions, int n, int pictures,
				int captions, int width, const struct dropout_spec *drop)
{
	struct mask_source mask = dense_mask(drop);
	bool dropping = dropout_is_on(drop);

	memset(dv, 0, (size_t)pictures * width * sizeof(float));
	memset(dt, 0, (size_t)captions * width * sizeof(float));
	#pragma omp parallel if (worth_threads(n, 2 * width))
	{
		struct column_range range = dense_columns_of_thread(2 * width);

		for (int i = 0; i < n; i++) {
			for (int at = range.first; at < range.last; at += DROPOUT_GROUP) {
				float factors[DROPOUT_GROUP];
				int count = range.last - at < DROPOUT_GROUP ? range.last - at : DROPOUT_GROUP;

				if (dropping)
					row_ops()->factors(factors, count, &mask, (uint32_t)at,
							   position_of(picture_positions, picture[i]),
							   position_of(caption_positions, caption[i]));
				concat_part_backward(dv + (size_t)picture[i] * width, dt + (size_t)caption[i] * width,
						     dx + (size_t)i * 2 * width + at, dropping ? factors : NULL, width, at,
						     count);
			}
		}
	}
}

void dense_pair_sum(float *out, const float *a, const float *b, const uint32_t *picture, const uint32_t *caption, int n,
		    int width)
{
	#pragma omp parallel for schedule(static) if (worth_threads(n, width))
	for (int i = 0; i < n; i++)
		row_ops()->sum2(out + (size_t)i * width, a + (size_t)picture[i] * width, b + (size_t)caption[i] * width, width);
}

void dense_pair_sum_backward(float *da, float *db, const float *dout, const uint32_t *picture, const uint32_t *caption,
			     int n, int pictures, int captions, int width)
{
	memset(da, 0, (size_t)pictures * width * sizeof(float));
	memset(db, 0, (size_t)captions * width * sizeof(float));
	#pragma omp parallel if (worth_threads(n, width))
	{
		struct column_range range = dense_columns_of_thread(width);
		int count = range.last - range.first;

		for (int i = 0; i < n && count > 0; i++) {
			const float *from = dout + (size_t)i * width + range.first;

			row_ops()->add(da + (size_t)picture[i] * width + range.first, from, count);
			row_ops()->add(db + (size_t)caption[i] * width + range.first, from, count);
		}
	}
}

static double one_cross_entropy(float *dlogits, const float *logits, int label, double share, int classes, int *correct)
{
	double total = 0;
	int best = 0;

	CHECK(label >= 0 && label < classes);
	for (int k = 1; k < classes; k++)
		best = logits[k] > logits[best] ? k : best;
	for (int k = 0; k < classes; k++)
		total += exp((double)logits[k] - logits[best]);
	for (int k = 0; k < classes; k++)
		dlogits[k] = (float)(share * (exp((double)logits[k] - logits[best]) / total - (k == label)));
	*correct += best == label;
	return share * (log(total) - ((double)logits[label] - logits[best]));
}

double dense_cross_entropy(float *dlogits, const float *logits, const int32_t *labels, const float *weight, int n,
			   int classes, int *correct)
{
	enum { PARTS = 64 }; /* fixed, so that the order of the sum is */
	double losses[PARTS] = { 0 }, loss = 0;
	int corrects[PARTS] = { 0 };

	#pragma omp parallel for schedule(static) if (worth_threads(n, 64 * classes))
	for (int part = 0; part < PARTS; part++) {
		int last = (int)((int64_t)n * (part + 1) / PARTS);

		for (int r = (int)((int64_t)n * part / PARTS); r < last; r++)
			losses[part] += one_cross_entropy(dlogits + (size_t)r * classes, logits + (size_t)r * classes, labels[r],
							  weight == NULL ? 1.0 / n : weight[r], classes, &corrects[part]);
	}
	*correct = 0;
	for (int part = 0; part < PARTS; part++) {
		loss += losses[part];
		*correct += corrects[part];
	}
	return loss;
}
