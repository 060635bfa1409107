/*
 * profile_ops.c - the kernel table with clocks around it.
 *
 * Counts: a convolution or product is 2 operations a multiply-add; other
 * operations count additions, multiplications and the like per element, an
 * exponential or erf as one. Bytes are those of the operands, each once.
 */
#include "trainer/kernels/image_engine.h"
#include "trainer/kernels/kernels.h"
#include "trainer/kernels/profile_parts.h"

static const struct image_ops *image;
static const struct dense_ops *dense;
static const struct vector_ops *vector;

/* Bytes of an activation of the image tower. */
#define E ((double)image->element_bytes)

/* ---- convolutions ---- */

static void count_conv(uint64_t began, enum profile_kind kind, const struct conv *conv, int n)
{
	const struct conv_shape *s = &conv->shape;
	double out = (double)conv_out_elements(conv) * n, in = (double)conv_in_elements(conv) * n;
	double weights = (double)conv_weight_elements(s);
	const int numbers[PROFILE_SHAPE_NUMBERS] = { n, s->in_channels, s->out_channels, s->kernel, s->stride, s->in_height };

	profile_count(began, kind, 2 * out * s->in_channels * s->kernel * s->kernel, E * (in + out) + F * weights, numbers);
}

static void conv_forward(struct conv *conv, const void *x, int n, void *y)
{
	uint64_t began = profile_begin();

	image->conv_forward(conv, x, n, y);
	count_conv(began, KIND_CONV_FORWARD, conv, n);
}

static void conv_backward_data(struct conv *conv, const void *dy, int n, void *dx, bool add)
{
	uint64_t began = profile_begin();

	image->conv_backward_data(conv, dy, n, dx, add);
	count_conv(began, KIND_CONV_DATA, conv, n);
}

static void conv_backward_weights(struct conv *conv, const void *x, const void *dy, int n, float *grad)
{
	uint64_t began = profile_begin();

	image->conv_backward_weights(conv, x, dy, n, grad);
	count_conv(began, KIND_CONV_WEIGHTS, conv, n);
}

/* ---- what surrounds them ---- */

static double bn_elements(const struct bn *bn, size_t rows)
{
	return (double)rows * bn->channels;
}

static void timed_bn_stats(struct bn *bn, const void *x, size_t rows)
{
	TIMED(KIND_BN_STATS, 4 * bn_elements(bn, rows), E * bn_elements(bn, rows), image->bn_stats(bn, x, rows));
}

static void timed_bn_relu(const struct bn *bn, const void *x, size_t rows, void *y)
{
	TIMED(KIND_BN_FORWARD, 4 * bn_elements(bn, rows), 2 * E * bn_elements(bn, rows), image->bn_relu(bn, x, rows, y));
}

static void timed_bn_add_relu(const struct bn *bn, const void *x, const struct bn *shortcut_bn, const void *shortcut, size_t rows,
			      void *y)
{
	TIMED(KIND_BN_FORWARD, (shortcut_bn != NULL ? 8 : 5) * bn_elements(bn, rows), 3 * E * bn_elements(bn, rows),
	      image->bn_add_relu(bn, x, shortcut_bn, shortcut, rows, y));
}

static void timed_bn_relu_pool(const struct bn *bn, const void *x, int n, int height, int width, void *y, uint8_t *index)
{
	double in = bn_elements(bn, (size_t)n * (size_t)height * (size_t)width);

	TIMED(KIND_POOL, 4 * in + 9 * in / 4, E * in + (E + 1) * in / 4, image->bn_relu_pool(bn, x, n, height, width, y, index));
}

static void timed_bn_relu_sums(struct bn *bn, const void *dy, const void *x, size_t rows)
{
	TIMED(KIND_BN_SUMS, 7 * bn_elements(bn, rows), 2 * E * bn_elements(bn, rows), image->bn_relu_sums(bn, dy, x, rows));
}

static void timed_bn_add_relu_sums(struct bn *bn, const void *x, struct bn *shortcut_bn, const void *shortcut, const void *out,
				   void *g, size_t rows)
{
	int terms = shortcut_bn != NULL ? 2 : 1;

	TIMED(KIND_BN_SUMS, (2 + 3 * terms) * bn_elements(bn, rows), (3 + terms) * E * bn_elements(bn, rows),
	      image->bn_add_relu_sums(bn, x, shortcut_bn, shortcut, out, g, rows));
}

static void timed_bn_backward(const struct bn *bn, bool relu, const void *dy, const void *x, size_t rows, void *dx)
{
	TIMED(KIND_BN_BACKWARD, (relu ? 8 : 5) * bn_elements(bn, rows), 3 * E * bn_elements(bn, rows),
	      image->bn_backward(bn, relu, dy, x, rows, dx));
}

static void timed_pool_backward(struct image_engine *engine, const void *dy, const uint8_t *index, int n, int height, int width,
				int channels, void *dx)
{
	double in = (double)n * height * width * channels;

	TIMED(KIND_POOL, in, E * in + (E + 1) * in / 4, image->pool_backward(engine, dy, index, n, height, width, channels, dx));
}

static void timed_average_pool(const struct image_engine *engine, const void *x, int n, int pixels, int channels, float *y)
{
	double in = (double)n * pixels * channels;

	TIMED(KIND_POOL, in, E * in, image->average_pool(engine, x, n, pixels, channels, y));
}

static void timed_average_pool_backward(const struct image_engine *engine, const float *dy, int n, int pixels, int channels,
					void *dx)
{
	double in = (double)n * pixels * channels;

	TIMED(KIND_POOL, 0, E * in, image->average_pool_backward(engine, dy, n, pixels, channels, dx));
}

static void timed_to_nhwc(const struct image_engine *engine, const float *nchw, int n, int channels, int pixels, void *nhwc)
{
	TIMED(KIND_LAYOUT, 0, (F + E) * n * channels * pixels, image->to_nhwc(engine, nchw, n, channels, pixels, nhwc));
}

static void timed_to_nchw(const struct image_engine *engine, const void *nhwc, int n, int channels, int pixels, float *nchw)
{
	TIMED(KIND_LAYOUT, 0, (F + E) * n * channels * pixels, image->to_nchw(engine, nhwc, n, channels, pixels, nchw));
}

static void timed_from_floats(const struct image_engine *engine, const float *floats, size_t elements, void *x)
{
	TIMED(KIND_LAYOUT, 0, (F + E) * (double)elements, image->from_floats(engine, floats, elements, x));
}

static void timed_to_floats(const struct image_engine *engine, const void *x, size_t elements, float *floats)
{
	TIMED(KIND_LAYOUT, 0, (F + E) * (double)elements, image->to_floats(engine, x, elements, floats));
}

/* ---- products ---- */

static void count_linear(uint64_t began, enum profile_kind kind, struct linear_shape s)
{
	double rows = s.rows, in = s.in, out = s.out;
	const int numbers[PROFILE_SHAPE_NUMBERS] = { s.rows, s.in, s.out };

	profile_count(began, kind, 2 * rows * in * out, F * (rows * in + rows * out + in * out), numbers);
}

static void timed_linear(float *y, const float *x, const float *w, const float *bias, struct linear_shape s, bool accumulate)
{
	uint64_t began = profile_begin();

	dense->linear(y, x, w, bias, s, accumulate);
	count_linear(began, KIND_LINEAR_FORWARD, s);
}

static void timed_linear_input(float *dx, const float *dy, const float *w, struct linear_shape s, bool accumulate)
{
	uint64_t began = profile_begin();

	dense->linear_input(dx, dy, w, s, accumulate);
	count_linear(began, KIND_LINEAR_DATA, s);
}

static void timed_linear_weights(float *dw, const float *dy, const float *x, struct linear_shape s)
{
	uint64_t began = profile_begin();

	dense->linear_weights(dw, dy, x, s);
	count_linear(began, KIND_LINEAR_WEIGHTS, s);
}

static void timed_encoder_linear(float *y, const float *x, const float *w, const float *bias, struct linear_shape s, bool accumulate)
{
	uint64_t began = profile_begin();

	dense->encoder_linear(y, x, w, bias, s, accumulate);
	count_linear(began, KIND_LINEAR_FORWARD, s);
}

static void timed_encoder_linear_input(float *dx, const float *dy, const float *w, struct linear_shape s, bool accumulate)
{
	uint64_t began = profile_begin();

	dense->encoder_linear_input(dx, dy, w, s, accumulate);
	count_linear(began, KIND_LINEAR_DATA, s);
}

static void timed_encoder_linear_weights(float *dw, const float *dy, const float *x, struct linear_shape s)
{
	uint64_t began = profile_begin();

	dense->encoder_linear_weights(dw, dy, x, s);
	count_linear(began, KIND_LINEAR_WEIGHTS, s);
}

static void timed_sum_rows(float *out, const float *x, int rows, int width, int ldx)
{
	TIMED(KIND_BIAS_GRADIENT, (double)rows * width, F * rows * width, dense->sum_rows(out, x, rows, width, ldx));
}

/* ---- the text tower ---- */

static double rows_times(struct packed_rows rows, int width)
{
	return (double)(rows.first_only ? (uint32_t)rows.groups : rows.offsets[rows.groups]) * width;
}

static void timed_bias_gelu(float *y, float *pre, const float *bias, int rows, int width)
{
	double n = (double)rows * width;

	TIMED(KIND_GELU_FORWARD, 5 * n, 3 * F * n, dense->bias_gelu(y, pre, bias, rows, width));
}

static void timed_gelu_backward(float *dy, float *y, const float *pre, int rows, int width)
{
	double n = (double)rows * width;

	TIMED(KIND_GELU_BACKWARD, 9 * n, 4 * F * n, dense->gelu_backward(dy, y, pre, rows, width));
}

static void timed_residual_norm(float *y, float *sum, float *mean, float *rstd, const float *bias, const float *residual,
				struct norm_weights norm, int width, struct packed_rows rows, const struct dropout_spec *drop)
{
	double n = rows_times(rows, width);

	TIMED(KIND_NORM_FORWARD, 10 * n, 4 * F * n,
	      dense->residual_norm(y, sum, mean, rstd, bias, residual, norm, width, rows, drop));
}

static void timed_residual_norm_backward(float *dsum, float *dinner, float *dgamma, float *dbeta, float *dbias, const float *dy,
					 const float *sum, const float *mean, const float *rstd, struct norm_weights norm, int width,
					 struct packed_rows rows, const struct dropout_spec *drop)
{
	double n = rows_times(rows, width);

	TIMED(KIND_NORM_BACKWARD, 14 * n, 4 * F * n,
	      dense->residual_norm_backward(dsum, dinner, dgamma, dbeta, dbias, dy, sum, mean, rstd, norm, width, rows, drop));
}

static void timed_embed_norm(float *y, float *sum, float *mean, float *rstd, const float *word, const float *position,
			     const float *type, struct norm_weights norm, int width, struct packed_rows rows,
			     const struct dropout_spec *drop)
{
	double n = rows_times(rows, width);

	TIMED(KIND_EMBEDDING, 10 * n, 4 * F * n,
	      dense->embed_norm(y, sum, mean, rstd, word, position, type, norm, width, rows, drop));
}

static void timed_embed_norm_backward(float *dsum, float *dposition, float *dtype, float *dgamma, float *dbeta, float *dy,
				      const float *sum, const float *mean, const float *rstd, struct norm_weights norm, int width,
				      struct packed_rows rows, const struct dropout_spec *drop)
{
	double n = rows_times(rows, width);

	TIMED(KIND_EMBEDDING, 16 * n, 5 * F * n,
	      dense->embed_norm_backward(dsum, dposition, dtype, dgamma, dbeta, dy, sum, mean, rstd, norm, width, rows, drop));
}

/* Multiply-adds of one product of an attention call, queries with keys. */
static double attention_madds(const struct attention_shape *s)
{
	double madds = 0;

	for (int c = 0; c < s->captions; c++) {
		double length = s->offsets[c + 1] - s->offsets[c];

		madds += (s->first_only ? 1 : length) * length * s->head_width * s->heads;
	}
	return madds;
}

static double attention_elements(const struct attention_shape *s)
{
	double queries = s->first_only ? (double)s->captions : (double)s->offsets[s->captions];

	return (2 * queries + 2.0 * s->offsets[s->captions]) * s->heads * s->head_width; /* q, ctx; k, v */
}

static void timed_attention(float *ctx, float *probs, const float *q, const float *k, const float *v, struct attention_shape s,
			    const struct dropout_spec *drop)
{
	TIMED(KIND_ATTENTION_FORWARD, 4 * attention_madds(&s), F * attention_elements(&s),
	      dense->attention(ctx, probs, q, k, v, s, drop));
}

static void timed_attention_backward(float *dq, float *dk, float *dv, const float *dctx, const float *ctx, const float *probs,
				     const float *q, const float *k, const float *v, struct attention_shape s,
				     const struct dropout_spec *drop)
{
	TIMED(KIND_ATTENTION_BACKWARD, 8 * attention_madds(&s), 2 * F * attention_elements(&s),
	      dense->attention_backward(dq, dk, dv, dctx, ctx, probs, q, k, v, s, drop));
}

static void timed_gather_rows(float *out, const float *table, const int32_t *ids, int n, int width)
{
	TIMED(KIND_EMBEDDING, 0, 2.0 * F * n * width, dense->gather_rows(out, table, ids, n, width));
}

static void timed_scatter_rows(float *table, const float *x, const int32_t *ids, int n, int width, int32_t skip_id)
{
	TIMED(KIND_EMBEDDING, (double)n * width, 3.0 * F * n * width, dense->scatter_rows(table, x, ids, n, width, skip_id));
}

static void timed_gather_first(float *out, const float *x, struct packed_rows rows, int width)
{
	TIMED(KIND_COPY, 0, 2.0 * F * rows.groups * width, dense->gather_first(out, x, rows, width));
}

static void timed_scatter_first(float *x, const float *rows_of, struct packed_rows rows, int width)
{
	TIMED(KIND_COPY, (double)rows.groups * width, 3.0 * F * rows.groups * width, dense->scatter_first(x, rows_of, rows, width));
}

/* ---- fusion and loss ---- */

static void timed_pair_concat(float *x, const float *v, const float *t, const uint32_t *picture, const uint32_t *caption,
			      const uint32_t *picture_positions, const uint32_t *caption_positions, int n, int width,
			      const struct dropout_spec *drop)
{
	TIMED(KIND_PAIRS, 2.0 * n * width, 4.0 * F * n * width,
	      dense->pair_concat(x, v, t, picture, caption, picture_positions, caption_positions, n, width, drop));
}

static void timed_pair_concat_backward(float *dv, float *dt, const float *dx, const uint32_t *picture, const uint32_t *caption,
				       const uint32_t *picture_positions, const uint32_t *caption_positions, int n, int pictures,
				       int captions, int width, const struct dropout_spec *drop)
{
	TIMED(KIND_PAIRS, 4.0 * n * width, F * (2.0 * n + pictures + captions) * width,
	      dense->pair_concat_backward(dv, dt, dx, picture, caption, picture_positions, caption_positions, n, pictures, captions,
					  width, drop));
}

static void timed_pair_sum(float *out, const float *a, const float *b, const uint32_t *picture, const uint32_t *caption, int n,
			   int width)
{
	TIMED(KIND_PAIRS, (double)n * width, 3.0 * F * n * width, dense->pair_sum(out, a, b, picture, caption, n, width));
}

static void timed_pair_sum_backward(float *da, float *db, const float *dout, const uint32_t *picture, const uint32_t *caption, int n,
				    int pictures, int captions, int width)
{
	TIMED(KIND_PAIRS, 2.0 * n * width, F * ((double)n + pictures + captions) * width,
	      dense->pair_sum_backward(da, db, dout, picture, caption, n, pictures, captions, width));
}

static void timed_relu_norm(float *y, float *z, float *mean, float *rstd, const float *bias, struct norm_weights norm, int rows,
			    int width)
{
	double n = (double)rows * width;

	TIMED(KIND_NORM_FORWARD, 9 * n, 3 * F * n, dense->relu_norm(y, z, mean, rstd, bias, norm, rows, width));
}

static void timed_relu_norm_backward(float *dz, float *dgamma, float *dbeta, float *dbias, const float *dy, const float *z,
				     const float *mean, const float *rstd, struct norm_weights norm, int rows, int width)
{
	double n = (double)rows * width;

	TIMED(KIND_NORM_BACKWARD, 14 * n, 3 * F * n,
	      dense->relu_norm_backward(dz, dgamma, dbeta, dbias, dy, z, mean, rstd, norm, rows, width));
}

static double timed_cross_entropy(float *dlogits, const float *logits, const int32_t *labels, const float *weight, int n, int classes,
				  int *correct)
{
	double loss;

	TIMED(KIND_LOSS, 5.0 * n * classes, 2.0 * F * n * classes,
	      loss = dense->cross_entropy(dlogits, logits, labels, weight, n, classes, correct));
	return loss;
}

/* ---- flat arrays ---- */

static void timed_fill(float *x, size_t n, float value)
{
	TIMED(KIND_CLEAR, 0, F * n, vector->fill(x, n, value));
}

static void timed_copy(float *out, const float *x, size_t n)
{
	TIMED(KIND_COPY, 0, 2 * F * n, vector->copy(out, x, n));
}

static void timed_scale(float *x, size_t n, float by)
{
	TIMED(KIND_LOSS, (double)n, 2 * F * n, vector->scale(x, n, by));
}

static void timed_axpy(float *y, const float *x, size_t n, float a)
{
	TIMED(KIND_PERTURB, 2 * (double)n, 3 * F * n, vector->axpy(y, x, n, a));
}

static void timed_add(float *out, const float *a, const float *b, size_t n)
{
	TIMED(KIND_PERTURB, (double)n, 3 * F * n, vector->add(out, a, b, n));
}

static double timed_sum_squares(const float *x, size_t n)
{
	double sum;

	TIMED(KIND_GRAD_NORM, 2 * (double)n, F * n, sum = vector->sum_squares(x, n));
	return sum;
}

static double timed_dot(const float *a, const float *b, size_t n)
{
	double sum;

	TIMED(KIND_PERTURB, 2 * (double)n, 2 * F * n, sum = vector->dot(a, b, n));
	return sum;
}

static void timed_group_sum_squares(const float *x, const uint32_t *offsets, int groups, int width, double *out)
{
	double n = (double)offsets[groups] * width;

	TIMED(KIND_PERTURB, 2 * n, F * n, vector->group_sum_squares(x, offsets, groups, width, out));
}

static void timed_group_axpy(float *out, const float *x, const float *d, const uint32_t *offsets, int groups, int width,
			     const float *scale)
{
	double n = (double)offsets[groups] * width;

	TIMED(KIND_PERTURB, 2 * n, 3 * F * n, vector->group_axpy(out, x, d, offsets, groups, width, scale));
}

static void timed_group_axpy_sign(float *out, const float *x, const float *d, const uint32_t *offsets, int groups, int width,
				  const float *scale)
{
	double n = (double)offsets[groups] * width;

	TIMED(KIND_PERTURB, 2 * n, 3 * F * n, vector->group_axpy_sign(out, x, d, offsets, groups, width, scale));
}

static void timed_row_correct(const float *logits, const int32_t *label, int n, int k, uint8_t *correct)
{
	TIMED(KIND_LOSS, (double)n * k, F * n * k, vector->row_correct(logits, label, n, k, correct));
}

static void timed_adamw(float *value, float *grad, float *m, float *v, size_t n, const struct adamw_step *step)
{
	TIMED(KIND_OPTIMIZER, 13 * (double)n, 8 * F * n, vector->adamw(value, grad, m, v, n, step));
}

static void timed_sgd(float *value, float *grad, float *momentum, size_t n, const struct sgd_step *step)
{
	TIMED(KIND_OPTIMIZER, 6 * (double)n, 6 * F * n, vector->sgd(value, grad, momentum, n, step));
}

/* ---- the table ---- */

static void wrap_image(struct image_ops *ops)
{
	ops->conv_forward = conv_forward;
	ops->conv_backward_data = conv_backward_data;
	ops->conv_backward_weights = conv_backward_weights;
	ops->bn_stats = timed_bn_stats;
	ops->bn_relu = timed_bn_relu;
	ops->bn_add_relu = timed_bn_add_relu;
	ops->bn_relu_pool = timed_bn_relu_pool;
	ops->bn_relu_sums = timed_bn_relu_sums;
	ops->bn_add_relu_sums = timed_bn_add_relu_sums;
	ops->bn_backward = timed_bn_backward;
	ops->pool_backward = timed_pool_backward;
	ops->average_pool = timed_average_pool;
	ops->average_pool_backward = timed_average_pool_backward;
	ops->to_nhwc = timed_to_nhwc;
	ops->to_nchw = timed_to_nchw;
	ops->from_floats = timed_from_floats;
	ops->to_floats = timed_to_floats;
}

static void wrap_dense(struct dense_ops *ops)
{
	ops->linear = timed_linear;
	ops->linear_input = timed_linear_input;
	ops->linear_weights = timed_linear_weights;
	ops->encoder_linear = timed_encoder_linear;
	ops->encoder_linear_input = timed_encoder_linear_input;
	ops->encoder_linear_weights = timed_encoder_linear_weights;
	ops->sum_rows = timed_sum_rows;
	ops->bias_gelu = timed_bias_gelu;
	ops->gelu_backward = timed_gelu_backward;
	ops->residual_norm = timed_residual_norm;
	ops->residual_norm_backward = timed_residual_norm_backward;
	ops->embed_norm = timed_embed_norm;
	ops->embed_norm_backward = timed_embed_norm_backward;
	ops->attention = timed_attention;
	ops->attention_backward = timed_attention_backward;
	ops->gather_rows = timed_gather_rows;
	ops->scatter_rows = timed_scatter_rows;
	ops->gather_first = timed_gather_first;
	ops->scatter_first = timed_scatter_first;
	ops->pair_concat = timed_pair_concat;
	ops->pair_concat_backward = timed_pair_concat_backward;
	ops->pair_sum = timed_pair_sum;
	ops->pair_sum_backward = timed_pair_sum_backward;
	ops->relu_norm = timed_relu_norm;
	ops->relu_norm_backward = timed_relu_norm_backward;
	ops->cross_entropy = timed_cross_entropy;
}

static void wrap_vector(struct vector_ops *ops)
{
	ops->fill = timed_fill;
	ops->copy = timed_copy;
	ops->scale = timed_scale;
	ops->axpy = timed_axpy;
	ops->add = timed_add;
	ops->sum_squares = timed_sum_squares;
	ops->dot = timed_dot;
	ops->group_sum_squares = timed_group_sum_squares;
	ops->group_axpy = timed_group_axpy;
	ops->group_axpy_sign = timed_group_axpy_sign;
	ops->row_correct = timed_row_correct;
	ops->adamw = timed_adamw;
	ops->sgd = timed_sgd;
}

const struct kernels *profile_wrap(const struct kernels *inner)
{
	static struct image_ops image_timed;
	static struct dense_ops dense_timed;
	static struct vector_ops vector_timed;
	static struct kernels table;

	image = inner->image;
	dense = inner->dense;
	vector = inner->vector;
	/* What has no wrapper is called as it is. */
	image_timed = *image;
	dense_timed = *dense;
	vector_timed = *vector;
	wrap_image(&image_timed);
	wrap_dense(&dense_timed);
	wrap_vector(&vector_timed);
	table = (struct kernels){ inner->name, &image_timed, &dense_timed, &vector_timed,
				  profile_wrap_contrast(inner->contrast), profile_wrap_reg(inner->reg) };
	return &table;
}
