/*
 * dense_parts.h - the fast dense kernels, by file; dense_fast.c puts them into one table.
 *
 * Private to kernels/. Work is divided by rows where rows are independent and
 * by columns where rows are summed, so no sum depends on the number of threads
 * (OpenBLAS's own division aside).
 */
#ifndef TRAINER_KERNELS_DENSE_PARTS_H
#define TRAINER_KERNELS_DENSE_PARTS_H

#include "trainer/kernels/row_ops.h"

/* Below this many elements one thread is faster than waking the team. */
enum { PARALLEL_ELEMENTS_MIN = 16384 };

static inline bool worth_threads(int rows, int width)
{
	return (int64_t)rows * width >= PARALLEL_ELEMENTS_MIN;
}

/* Columns [first, last) of the calling thread, in steps of DROPOUT_GROUP. */
struct column_range {
	int first, last;
};
struct column_range dense_columns_of_thread(int width);

/* spec worked out; *out is NULL-able by dropout_is_on(spec). */
struct mask_source dense_mask(const struct dropout_spec *spec);

/* dense_fast.c: every row of y = bias, or += */
void dense_spread_bias(float *y, const float *bias, struct linear_shape s, bool accumulate);

/* dense_norm.c */
void dense_residual_norm(float *y, float *sum, float *mean, float *rstd, const float *bias, const float *residual,
			 struct norm_weights norm, int width, struct packed_rows rows, const struct dropout_spec *drop);
void dense_residual_norm_backward(float *dsum, float *dinner, float *dgamma, float *dbeta, float *dbias, const float *dy,
				  const float *sum, const float *mean, const float *rstd, struct norm_weights norm, int width,
				  struct packed_rows rows, const struct dropout_spec *drop);
void dense_embed_norm(float *y, float *sum, float *mean, float *rstd, const float *word, const float *position,
		      const float *type, struct norm_weights norm, int width, struct packed_rows rows,
		      const struct dropout_spec *drop);
void dense_embed_norm_backward(float *dsum, float *dposition, float *dtype, float *dgamma, float *dbeta, float *dy,
			       const float *sum, const float *mean, const float *rstd, struct norm_weights norm, int width,
			       struct packed_rows rows, const struct dropout_spec *drop);
void dense_relu_norm(float *y, float *z, float *mean, float *rstd, const float *bias, struct norm_weights norm, int rows,
		     int width);
void dense_relu_norm_backward(float *dz, float *dgamma, float *dbeta, float *dbias, const float *dy, const float *z,
			      const float *mean, const float *rstd, struct norm_weights norm, int rows, int width);
void dense_sum_rows(float *out, const float *x, int rows, int width, int ldx);

/* dense_pairs.c */
void dense_gather_rows(float *out, const float *table, const int32_t *ids, int n, int width);
void dense_scatter_rows(float *table, const float *x, const int32_t *ids, int n, int width, int32_t skip_id);
void dense_gather_first(float *out, const float *x, struct packed_rows rows, int width);
void dense_scatter_first(float *x, const float *rows_of, struct packed_rows rows, int width);
void dense_pair_concat(float *x, const float *v, const float *t, const uint32_t *picture, const uint32_t *caption,
		       const uint32_t *picture_positions, const uint32_t *caption_positions, int n, int width,
		       const struct dropout_spec *drop);
void dense_pair_concat_backward(float *dv, float *dt, const float *dx, const uint32_t *picture, const uint32_t *caption,
				const uint32_t *picture_positions, const uint32_t *caption_positions, int n, int pictures,
				int captions, int width, const struct dropout_spec *drop);
void dense_pair_sum(float *out, const float *a, const float *b, const uint32_t *picture, const uint32_t *caption, int n,
		    int width);
void dense_pair_sum_backward(float *da, float *db, const float *dout, const uint32_t *picture, const uint32_t *caption,
			     int n, int pictures, int captions, int width);
double dense_cross_entropy(float *dlogits, const float *logits, const int32_t *labels, const float *weight, int n,
			   int classes, int *correct);

#endif
