/*
 * contrast_fast.c - contrast_ops.h for use: rows are divided among the
 * threads, columns in blocks that are summed row after row, exponentials are
 * float32 of what was subtracted exactly enough.
 */
#include <math.h>
#include <stdbool.h>

#include "trainer/kernels/contrast_ops.h"

enum {
	COLUMNS = 64,              /* summed at a time: a row of them is a few cache lines */
	PARALLEL_ELEMENTS = 16384, /* below it one thread is faster */
};
static const double length_min = 1e-12;

static bool worth_threads(int rows, int width)
{
	return (int64_t)rows * width >= PARALLEL_ELEMENTS;
}

/* Sums in eight lanes, so that the compiler may use vectors without changing the order. */
static double dot(const float *a, const float *b, int n)
{
	double lane[8] = { 0 }, sum = 0;
	int i = 0;

	for (; i + 8 <= n; i += 8)
		for (int k = 0; k < 8; k++)
			lane[k] += (double)a[i + k] * b[i + k];
	for (; i < n; i++)
		sum += (double)a[i] * b[i];
	for (int k = 0; k < 8; k++)
		sum += lane[k];
	return sum;
}

static void unit_rows(float *y, float *length, const float *x, int rows, int width)
{
	#pragma omp parallel for schedule(static) if (worth_threads(rows, width))
	for (int r = 0; r < rows; r++) {
		const float *from = x + (size_t)r * width;
		double norm = fmax(sqrt(dot(from, from, width)), length_min), factor = 1.0 / norm;

		for (int i = 0; i < width; i++)
			y[(size_t)r * width + i] = (float)(from[i] * factor);
		length[r] = (float)norm;
	}
}

static void unit_rows_backward(float *dx, const float *dy, const float *y, const float *length, int rows, int width)
{
	#pragma omp parallel for schedule(static) if (worth_threads(rows, width))
	for (int r = 0; r < rows; r++) {
		size_t at = (size_t)r * width;
		double along = dot(dy + at, y + at, width), factor = 1.0 / length[r];

		for (int i = 0; i < width; i++)
			dx[at + i] = (float)((dy[at + i] - along * y[at + i]) * factor);
	}
}

static bool left_out(const struct contrast_info *info, int i, int j)
{
	return i != j && (info->picture[i] == info->picture[j] || info->text[i] == info->text[j]);
}

/* log of the sum over row i, whose own logit is always in; *largest: it is above all others. */
static double row_log_sum(const float *scores, const struct contrast_info *info, float scale, int i, bool *largest)
{
	const float *row = scores + (size_t)i * info->n;
	float most = row[i];
	double sum = 0;
	bool beaten = false;

	for (int j = 0; j < info->n; j++) {
		if (i == j || left_out(info, i, j))
			continue;
		beaten |= !(row[i] > row[j]);
		most = row[j] > most ? row[j] : most;
	}
	for (int j = 0; j < info->n; j++)
		if (!left_out(info, i, j))
			sum += expf(scale * (row[j] - most));
	*largest = !beaten;
	return (double)scale * most + log(sum);
}

/* The same for columns first..last. Returns how many own ones are the largest. */
static int column_log_sums(double *out, const float *scores, const struct contrast_info *info, float scale, int first, int last)
{
	float most[COLUMNS];
	double sum[COLUMNS] = { 0 };
	bool beaten[COLUMNS] = { false };
	int n = info->n, largest = 0;

	for (int j = first; j < last; j++)
		most[j - first] = scores[(size_t)j * n + j];
	for (int i = 0; i < n; i++)
		for (int j = first; j < last; j++) {
			float score = scores[(size_t)i * n + j];

			if (i == j || left_out(info, i, j))
				continue;
			beaten[j - first] |= !(scores[(size_t)j * n + j] > score);
			most[j - first] = score > most[j - first] ? score : most[j - first];
		}
	for (int i = 0; i < n; i++)
		for (int j = first; j < last; j++)
			if (!left_out(info, i, j))
				sum[j - first] += expf(scale * (scores[(size_t)i * n + j] - most[j - first]));
	for (int j = first; j < last; j++) {
		out[j] = (double)scale * most[j - first] + log(sum[j - first]);
		largest += !beaten[j - first];
	}
	return largest;
}

/* Row i of the gradient; returns its part of that of log_scale. */
static double gradient_row(float *dscores, const float *scores, const struct contrast_info *info, float scale,
			   const double *row, const double *column, int i)
{
	double share = 1.0 / (2.0 * info->n), total = 0;
	int n = info->n;

	for (int j = 0; j < n; j++) {
		double logit = (double)scale * scores[(size_t)i * n + j], d = 0;

		if (!left_out(info, i, j))
			d = share * ((double)expf((float)(logit - row[i])) + (double)expf((float)(logit - column[j])) -
				     (i == j ? 2 : 0));
		dscores[(size_t)i * n + j] = (float)(d * scale);
		total += d * logit;
	}
	return total;
}

static double info_nce(float *dscores, const float *scores, const struct contrast_info *info, double *work,
		       double *dlog_scale, int *correct)
{
	int n = info->n, blocks = (n + COLUMNS - 1) / COLUMNS, right = 0;
	double *row = work, *column = work + n, *part = work + 2 * (size_t)n, loss = 0;
	float scale = expf(info->log_scale);

	#pragma omp parallel for schedule(static) reduction(+ : right) if (worth_threads(n, n))
	for (int i = 0; i < n; i++) {
		bool largest;

		row[i] = row_log_sum(scores, info, scale, i, &largest);
		right += largest;
	}
	#pragma omp parallel for schedule(static) reduction(+ : right) if (worth_threads(n, n))
	for (int b = 0; b < blocks; b++)
		right += column_log_sums(column, scores, info, scale, b * COLUMNS, (b + 1) * COLUMNS < n ? (b + 1) * COLUMNS : n);
	#pragma omp parallel for schedule(static) if (worth_threads(n, n))
	for (int i = 0; i < n; i++)
		part[i] = gradient_row(dscores, scores, info, scale, row, column, i);
	*dlog_scale = 0;
	for (int i = 0; i < n; i++) {
		loss += row[i] + column[i] - 2.0 * scale * scores[(size_t)i * n + i];
		*dlog_scale += part[i];
	}
	*correct = right;
	return loss / (2.0 * n);
}

static void rank_mask(struct contrast_block block)
{
	for (int r = 0; r < block.rows; r++)
		for (uint32_t i = block.related_at[r]; i < block.related_at[r + 1]; i++)
			block.scores[(size_t)r * block.pictures + block.related[i]] = -INFINITY;
}

static void rank_rows(struct contrast_block block, const float *own, uint32_t *beaten, double *sum)
{
	#pragma omp parallel for schedule(static) if (worth_threads(block.rows, block.pictures))
	for (int r = 0; r < block.rows; r++) {
		const float *row = block.scores + (size_t)r * block.pictures;
		float bar = own[r] - CONTRAST_TIE;
		uint32_t count = 0;
		double total = 0;

		for (int p = 0; p < block.pictures; p++) {
			count += row[p] > bar;
			total += exp((double)block.scale * (row[p] - 1.0));
		}
		beaten[r] = count;
		sum[r] = total;
	}
}

static void rank_columns(struct contrast_block block, const float *best, uint32_t *beaten, double *sum)
{
	int blocks = (block.pictures + COLUMNS - 1) / COLUMNS;

	#pragma omp parallel for schedule(static) if (worth_threads(block.rows, block.pictures))
	for (int b = 0; b < blocks; b++) {
		int last = (b + 1) * COLUMNS < block.pictures ? (b + 1) * COLUMNS : block.pictures;

		for (int r = 0; r < block.rows; r++) {
			const float *row = block.scores + (size_t)r * block.pictures;

			for (int p = b * COLUMNS; p < last; p++) {
				beaten[p] += row[p] > best[p] - CONTRAST_TIE;
				sum[p] += exp((double)block.scale * (row[p] - 1.0));
			}
		}
	}
}

const struct contrast_ops *contrast_ops_fast(void)
{
	static const struct contrast_ops ops = {
		.unit_rows = unit_rows, .unit_rows_backward = unit_rows_backward, .info_nce = info_nce, .rank_mask = rank_mask,
		.rank_rows = rank_rows, .rank_columns = rank_columns,
	};

	return &ops;
}
