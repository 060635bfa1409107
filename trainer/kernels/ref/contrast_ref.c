/* The plain version of contrast_ops.h: one loop for each formula, in double. */
#include <math.h>
#include <stdbool.h>

#include "trainer/kernels/contrast_ops.h"

static const double length_min = 1e-12;

static void unit_rows(float *y, float *length, const float *x, int rows, int width)
{
	for (int r = 0; r < rows; r++) {
		const float *from = x + (size_t)r * width;
		double squares = 0;

		for (int i = 0; i < width; i++)
			squares += (double)from[i] * from[i];
		double norm = fmax(sqrt(squares), length_min);
		for (int i = 0; i < width; i++)
			y[(size_t)r * width + i] = (float)(from[i] / norm);
		length[r] = (float)norm;
	}
}

static void unit_rows_backward(float *dx, const float *dy, const float *y, const float *length, int rows, int width)
{
	for (int r = 0; r < rows; r++) {
		size_t at = (size_t)r * width;
		double along = 0;

		for (int i = 0; i < width; i++)
			along += (double)dy[at + i] * y[at + i];
		for (int i = 0; i < width; i++)
			dx[at + i] = (float)((dy[at + i] - along * y[at + i]) / length[r]);
	}
}

static bool left_out(const struct contrast_info *info, int i, int j)
{
	return i != j && (info->picture[i] == info->picture[j] || info->text[i] == info->text[j]);
}

/* log of the sum of exp over row i (column i when transposed), and whether its own one is the largest. */
static double log_sum(const float *scores, const struct contrast_info *info, int i, bool transposed, bool *largest)
{
	double scale = exp(info->log_scale), most = -INFINITY, sum = 0;
	int n = info->n;

	*largest = true;
	for (int j = 0; j < n; j++) {
		double score = transposed ? scores[(size_t)j * n + i] : scores[(size_t)i * n + j];

		if (left_out(info, i, j))
			continue;
		most = fmax(most, scale * score);
		if (i != j && !(scores[(size_t)i * n + i] > score))
			*largest = false;
	}
	for (int j = 0; j < n; j++)
		if (!left_out(info, i, j))
			sum += exp(scale * (transposed ? scores[(size_t)j * n + i] : scores[(size_t)i * n + j]) - most);
	return most + log(sum);
}

static double info_nce(float *dscores, const float *scores, const struct contrast_info *info, double *work,
		       double *dlog_scale, int *correct)
{
	double scale = exp(info->log_scale), loss = 0, *row = work, *column = work + info->n;
	int n = info->n;

	*correct = 0;
	*dlog_scale = 0;
	for (int i = 0; i < n; i++) {
		bool first, second;

		row[i] = log_sum(scores, info, i, false, &first);
		column[i] = log_sum(scores, info, i, true, &second);
		*correct += first + second;
		loss += row[i] + column[i] - 2 * scale * scores[(size_t)i * n + i];
	}
	for (int i = 0; i < n; i++)
		for (int j = 0; j < n; j++) {
			double logit = scale * scores[(size_t)i * n + j], d = 0;

			if (!left_out(info, i, j))
				d = (exp(logit - row[i]) + exp(logit - column[j]) - (i == j ? 2 : 0)) / (2.0 * n);
			dscores[(size_t)i * n + j] = (float)(d * scale);
			*dlog_scale += d * logit;
		}
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
	for (int r = 0; r < block.rows; r++) {
		beaten[r] = 0;
		sum[r] = 0;
		for (int p = 0; p < block.pictures; p++) {
			float score = block.scores[(size_t)r * block.pictures + p];

			beaten[r] += score > own[r] - CONTRAST_TIE;
			sum[r] += exp((double)block.scale * (score - 1.0));
		}
	}
}

static void rank_columns(struct contrast_block block, const float *best, uint32_t *beaten, double *sum)
{
	for (int p = 0; p < block.pictures; p++)
		for (int r = 0; r < block.rows; r++) {
			float score = block.scores[(size_t)r * block.pictures + p];

			beaten[p] += score > best[p] - CONTRAST_TIE;
			sum[p] += exp((double)block.scale * (score - 1.0));
		}
}

const struct contrast_ops *contrast_ops_reference(void)
{
	static const struct contrast_ops ops = {
		.unit_rows = unit_rows, .unit_rows_backward = unit_rows_backward, .info_nce = info_nce, .rank_mask = rank_mask,
		.rank_rows = rank_rows, .rank_columns = rank_columns,
	};

	return &ops;
}
