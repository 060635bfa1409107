/* LayerNorm with what surrounds it (bias, dropout, residual, embeddings, ReLU), forward and backward. */
#include <omp.h>
#include <string.h>

#include "trainer/kernels/dense_parts.h"

/* Columns whose dropout factors are on the stack at a time. */
enum { CHUNK = 4 * DROPOUT_GROUP };

struct column_range dense_columns_of_thread(int width)
{
	int groups = (width + DROPOUT_GROUP - 1) / DROPOUT_GROUP, team = omp_get_num_threads(), rank = omp_get_thread_num();
	int first = (int)((int64_t)groups * rank / team) * DROPOUT_GROUP;
	int last = (int)((int64_t)groups * (rank + 1) / team) * DROPOUT_GROUP;

	return (struct column_range){ first, last < width ? last : width };
}

struct mask_source dense_mask(const struct dropout_spec *spec)
{
	struct mask_source mask = { { 0, 0 }, 0, 0, 1.0f };

	if (!dropout_is_on(spec))
		return mask;
	uint64_t threshold = dropout_threshold(spec);
	mask.key = dropout_key(spec);
	mask.step = (uint32_t)spec->step;
	mask.threshold = threshold > UINT32_MAX ? UINT32_MAX : (uint32_t)threshold;
	mask.scale = dropout_scale(spec);
	return mask;
}

static int min_int(int a, int b)
{
	return a < b ? a : b;
}

static int row_count(const struct packed_rows *rows)
{
	return rows->groups == 0 ? 0 : rows->first_only ? rows->groups : (int)rows->offsets[rows->groups];
}

/* The group of a packed row, by bisection: rows are divided evenly, whatever the groups' lengths. */
static int group_of_row(const struct packed_rows *rows, int row)
{
	int low = 0, high = rows->groups;

	if (rows->first_only)
		return row;
	while (high - low > 1) {
		int middle = (low + high) / 2;

		if (rows->offsets[middle] <= (uint32_t)row)
			low = middle;
		else
			high = middle;
	}
	return low;
}

struct row_name {
	uint32_t position, token;
};

static bool masking(const struct dropout_spec *drop)
{
	return dropout_is_on(drop) || branch_is_on(drop);
}

/* The mask of a row, with the factor of its group's branch. */
static struct mask_source mask_of_row(const struct mask_source *mask, const struct packed_rows *rows, const struct dropout_spec *drop,
				      int row)
{
	struct mask_source own = *mask;

	if (branch_is_on(drop))
		own.scale *= dropout_branch(drop, group_of_row(rows, row));
	return own;
}

static struct row_name name_of_row(const struct packed_rows *rows, const struct dropout_spec *drop, int row)
{
	int group = group_of_row(rows, row);

	return (struct row_name){ dropout_position(drop, group), rows->first_only ? 0 : (uint32_t)row - rows->offsets[group] };
}

/* y = a * mask over a row; y may be a */
static void masked_row(float *y, const float *a, int width, const struct mask_source *mask, struct row_name name)
{
	const struct row_ops *ops = row_ops();

	for (int at = 0; at < width; at += CHUNK) {
		float factors[CHUNK];
		int n = min_int(CHUNK, width - at);

		ops->factors(factors, n, mask, (uint32_t)at, name.position, name.token);
		ops->multiply(y + at, a + at, factors, n);
	}
}

static void residual_row(float *sum, const float *bias, const float *residual, int width, const struct mask_source *mask,
			 struct row_name name)
{
	const struct row_ops *ops = row_ops();

	for (int at = 0; at < width; at += CHUNK) {
		float factors[CHUNK];
		int n = min_int(CHUNK, width - at);

		ops->factors(factors, n, mask, (uint32_t)at, name.position, name.token);
		ops->residual(sum + at, bias == NULL ? NULL : bias + at, factors, residual == NULL ? NULL : residual + at, n);
	}
}

void dense_residual_norm(float *y, float *sum, float *mean, float *rstd, const float *bias, const float *residual,
			 struct norm_weights norm, int width, struct packed_rows rows, const struct dropout_spec *drop)
{
	const struct row_ops *ops = row_ops();
	struct mask_source mask = dense_mask(drop);
	bool dropping = masking(drop);
	int count = row_count(&rows);

	#pragma omp parallel for schedule(static) if (worth_threads(count, width))
	for (int r = 0; r < count; r++) {
		size_t at = (size_t)r * width;
		const float *rest = residual == NULL ? NULL : residual + at;

		if (dropping) {
			struct mask_source own = mask_of_row(&mask, &rows, drop, r);

			residual_row(sum + at, bias, rest, width, &own, name_of_row(&rows, drop, r));
		} else {
			ops->residual(sum + at, bias, NULL, rest, width);
		}
		ops->norm(y + at, &mean[r], &rstd[r], sum + at, norm.gamma, norm.beta, norm.eps, width);
	}
}

/* Inside a parallel region: this thread's columns of dgamma and dbeta. */
static void norm_columns(float *dgamma, float *dbeta, const float *dy, const float *x, const float *mean, const float *rstd,
			 int rows, int width)
{
	struct column_range range = dense_columns_of_thread(width);
	int n = dgamma == NULL ? 0 : range.last - range.first;

	for (int r = 0; r < rows && n > 0; r++) {
		size_t at = (size_t)r * width + range.first;

		row_ops()->norm_columns(dgamma + range.first, dbeta + range.first, dy + at, x + at, mean[r], rstd[r], n);
	}
}

/* Likewise: out += this thread's columns of the sum of rows. */
static void sum_columns(float *out, const float *x, int rows, int width, int ldx)
{
	struct column_range range = dense_columns_of_thread(width);
	int n = range.last - range.first;

	for (int r = 0; r < rows && n > 0; r++)
		row_ops()->add(out + range.first, x + (size_t)r * ldx + range.first, n);
}

void dense_sum_rows(float *out, const float *x, int rows, int width, int ldx)
{
	#pragma omp parallel if (worth_threads(rows, width))
	sum_columns(out, x, rows, width, ldx);
}

void dense_residual_norm_backward(float *dsum, float *dinner, float *dgamma, float *dbeta, float *dbias, const float *dy,
				  const float *sum, const float *mean, const float *rstd, struct norm_weights norm, int width,
				  struct packed_rows rows, const struct dropout_spec *drop)
{
	const struct row_ops *ops = row_ops();
	struct mask_source mask = dense_mask(drop);
	bool dropping = masking(drop);
	int count = row_count(&rows);

	/* Columns before rows: dsum may be dy. */
	#pragma omp parallel if (worth_threads(count, width))
	{
		norm_columns(dgamma, dbeta, dy, sum, mean, rstd, count, width);
		#pragma omp barrier
		#pragma omp for schedule(static)
		for (int r = 0; r < count; r++) {
			size_t at = (size_t)r * width;

			ops->norm_backward(dsum + at, dy + at, sum + at, mean[r], rstd[r], norm.gamma, width);
			if (dinner == NULL)
				continue;
			if (dropping) {
				struct mask_source own = mask_of_row(&mask, &rows, drop, r);

				masked_row(dinner + at, dsum + at, width, &own, name_of_row(&rows, drop, r));
			} else {
				memcpy(dinner + at, dsum + at, (size_t)width * sizeof(float));
			}
		}
		if (dbias != NULL)
			sum_columns(dbias, dinner == NULL ? dsum : dinner, count, width, width);
	}
}

void dense_embed_norm(float *y, float *sum, float *mean, float *rstd, const float *word, const float *position,
		      const float *type, struct norm_weights norm, int width, struct packed_rows rows,
		      const struct dropout_spec *drop)
{
	const struct row_ops *ops = row_ops();
	struct mask_source mask = dense_mask(drop);
	bool dropping = dropout_is_on(drop);
	int count = row_count(&rows);

	#pragma omp parallel for schedule(static) if (worth_threads(count, width))
	for (int r = 0; r < count; r++) {
		size_t at = (size_t)r * width;
		int token = r - (int)rows.offsets[group_of_row(&rows, r)];

		ops->sum3(sum + at, word + at, type, position + (size_t)token * width, width);
		ops->norm(y + at, &mean[r], &rstd[r], sum + at, norm.gamma, norm.beta, norm.eps, width);
		if (dropping)
			masked_row(y + at, y + at, width, &mask, name_of_row(&rows, drop, r));
	}
}

void dense_embed_norm_backward(float *dsum, float *dposition, float *dtype, float *dgamma, float *dbeta, float *dy,
			       const float *sum, const float *mean, const float *rstd, struct norm_weights norm, int width,
			       struct packed_rows rows, const struct dropout_spec *drop)
{
	const struct row_ops *ops = row_ops();
	struct mask_source mask = dense_mask(drop);
	int count = row_count(&rows);

	#pragma omp parallel if (worth_threads(count, width))
	{
		if (dropout_is_on(drop)) {
			#pragma omp for schedule(static)
			for (int r = 0; r < count; r++)
				masked_row(dy + (size_t)r * width, dy + (size_t)r * width, width, &mask,
					   name_of_row(&rows, drop, r));
		}
		norm_columns(dgamma, dbeta, dy, sum, mean, rstd, count, width);
		#pragma omp barrier
		#pragma omp for schedule(static)
		for (int r = 0; r < count; r++) {
			size_t at = (size_t)r * width;

			ops->norm_backward(dsum + at, dy + at, sum + at, mean[r], rstd[r], norm.gamma, width);
		}
		struct column_range range = dense_columns_of_thread(width);
		int n = dposition == NULL ? 0 : range.last - range.first;

		for (int g = 0; g < rows.groups && n > 0; g++) {
			for (uint32_t r = rows.offsets[g]; r < rows.offsets[g + 1]; r++) {
				const float *from = dsum + (size_t)r * width + range.first;

				ops->add(dposition + (size_t)(r - rows.offsets[g]) * width + range.first, from, n);
				ops->add(dtype + range.first, from, n);
			}
		}
	}
}

void dense_relu_norm(float *y, float *z, float *mean, float *rstd, const float *bias, struct norm_weights norm, int rows,
		     int width)
{
	const struct row_ops *ops = row_ops();

	#pragma omp parallel for schedule(static) if (worth_threads(rows, width))
	for (int r = 0; r < rows; r++) {
		size_t at = (size_t)r * width;

		ops->bias_relu(z + at, bias, width);
		ops->norm(y + at, &mean[r], &rstd[r], z + at, norm.gamma, norm.beta, norm.eps, width);
	}
}

void dense_relu_norm_backward(float *dz, float *dgamma, float *dbeta, float *dbias, const float *dy, const float *z,
			      const float *mean, const float *rstd, struct norm_weights norm, int rows, int width)
{
	const struct row_ops *ops = row_ops();

	#pragma omp parallel if (worth_threads(rows, width))
	{
		norm_columns(dgamma, dbeta, dy, z, mean, rstd, rows, width);
		#pragma omp barrier
		#pragma omp for schedule(static)
		for (int r = 0; r < rows; r++) {
			size_t at = (size_t)r * width;

			ops->norm_backward(dz + at, dy + at, z + at, mean[r], rstd[r], norm.gamma, width);
			ops->relu_mask(dz + at, z + at, width);
		}
		if (dbias != NULL)
			sum_columns(dbias, dz, rows, width, width);
	}
}
