/*
 * blas_conv.c - convolutions as matrix products: im2col and sgemm.
 *
 * Forward: tiles of TILE_ROWS output pixels, one thread each, are gathered
 * into columns (pixels, k*k*I) that stay in the second-level cache and
 * multiplied there. 1x1 convolutions of stride 1 need no columns.
 * Input gradient, stride 1: the same with the weights turned by 180 degrees
 * and I and O exchanged. Other strides: columns of gradients, then gathered.
 * Weight gradient: for each tap of the kernel a product of what it sees with
 * the output's gradient (1x1: added to the gradient in place); for the few
 * channels of a picture, the columns of all taps side by side.
 *
 * Packed weights: "rows" (O, k, k, I), "flipped" (I, k, k, O).
 */
#include <cblas.h>
#include <omp.h>
#include <string.h>

#include "shared/base/mem.h"
#include "trainer/kernels/image_engine.h"

enum {
	TILE_ROWS = 192,
	TAP_CHANNELS_MIN = 24, /* narrower products are slow */
};

/* A convolution as im2col sees it: the input gradient is one of its own. */
struct gather {
	int channels, kernel, stride, pad;
	int in_height, in_width, out_height, out_width;
};

static struct gather forward_gather(const struct conv *conv)
{
	const struct conv_shape *s = &conv->shape;

	return (struct gather){ s->in_channels, s->kernel,    s->stride,       s->pad,
				s->in_height,   s->in_width, conv->out_height, conv->out_width };
}

static struct gather flipped_gather(const struct conv *conv)
{
	const struct conv_shape *s = &conv->shape;

	return (struct gather){ s->out_channels,  s->kernel,       1,            s->kernel - 1 - s->pad,
				conv->out_height, conv->out_width, s->in_height, s->in_width };
}

static size_t column_width(const struct gather *g)
{
	return (size_t)g->kernel * (size_t)g->kernel * (size_t)g->channels;
}

static bool is_plain_product(const struct conv_shape *s)
{
	return s->kernel == 1 && s->stride == 1 && s->pad == 0;
}

int blas_conv_reserve(struct conv *conv, struct err *err)
{
	const struct conv_shape *s = &conv->shape;
	struct image_engine *engine = conv->engine;
	size_t taps = (size_t)s->kernel * (size_t)s->kernel;
	size_t widest = taps * (size_t)(s->in_channels > s->out_channels ? s->in_channels : s->out_channels);
	size_t tiles = (size_t)engine->threads * TILE_ROWS * widest;
	size_t picture = (size_t)conv->out_height * (size_t)conv->out_width * taps * (size_t)s->in_channels;
	size_t tap = picture / taps * (size_t)conv->pictures_max;
	size_t weights = conv_weight_elements(s);
	int rc;

	if (is_plain_product(s))
		return 0;
	rc = scratch_reserve(&engine->packed[conv->slot], weights * sizeof(float), err);
	if (rc < 0)
		return rc;
	rc = scratch_reserve(&engine->weight_gradient, weights * sizeof(float), err);
	if (rc < 0)
		return rc;
	rc = scratch_reserve(&engine->columns, (tiles > picture ? tiles : picture) * sizeof(float), err);
	return rc < 0 ? rc : scratch_reserve(&engine->columns, tap * sizeof(float), err);
}

static void pack(struct conv *conv, enum conv_packing packing)
{
	const struct conv_shape *s = &conv->shape;
	size_t taps = (size_t)s->kernel * (size_t)s->kernel;
	size_t in = (size_t)s->in_channels, out = (size_t)s->out_channels;
	float *packed = conv->engine->packed[conv->slot].data;

	CHECK(conv->engine->packed_by[conv->slot] == conv);
	if (conv->packing == packing)
		return;
	conv->packing = packing;
#pragma omp parallel for schedule(static)
	for (size_t o = 0; o < out; o++)
		for (size_t i = 0; i < in; i++)
			for (size_t t = 0; t < taps; t++) {
				float w = conv->weights[(o * in + i) * taps + t];

				if (packing == PACKED_ROWS)
					packed[(o * taps + t) * in + i] = w;
				else
					packed[(i * taps + taps - 1 - t) * out + o] = w;
			}
}

/* Rows first .. first+count of the columns (pixels of all pictures, k*k*channels). */
static void gather_columns(const struct gather *g, const float *x, size_t first, size_t count, float *columns)
{
	size_t channels = (size_t)g->channels, run = channels * sizeof(float);
	size_t in_picture = (size_t)g->in_height * (size_t)g->in_width * channels;
	size_t pixels = (size_t)g->out_height * (size_t)g->out_width;

	for (size_t row = first; row < first + count; row++) {
		const float *picture = x + row / pixels * in_picture;
		int oy = (int)(row % pixels) / g->out_width, ox = (int)(row % pixels) % g->out_width;

		for (int r = 0; r < g->kernel; r++) {
			int iy = oy * g->stride - g->pad + r;

			for (int q = 0; q < g->kernel; q++, columns += channels) {
				int ix = ox * g->stride - g->pad + q;

				if (iy < 0 || ix < 0 || iy >= g->in_height || ix >= g->in_width)
					memset(columns, 0, run);
				else
					memcpy(columns, picture + ((size_t)iy * (size_t)g->in_width + (size_t)ix) * channels,
					       run);
			}
		}
	}
}

/* y (rows, out) = or += columns(x) weights^T, weights (out, k*k*channels). */
static void tiled_product(const struct image_engine *engine, const struct gather *g, const float *x, int n,
			  const float *weights, int out, float *y, float beta)
{
	size_t rows = (size_t)n * (size_t)g->out_height * (size_t)g->out_width, width = column_width(g);
	int tiles = (int)((rows + TILE_ROWS - 1) / TILE_ROWS);

#pragma omp parallel for schedule(static) num_threads(engine->threads)
	for (int tile = 0; tile < tiles; tile++) {
		float *columns = (float *)engine->columns.data + (size_t)omp_get_thread_num() * TILE_ROWS * width;
		size_t first = (size_t)tile * TILE_ROWS;
		size_t count = rows - first < TILE_ROWS ? rows - first : TILE_ROWS;

		gather_columns(g, x, first, count, columns);
		cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)count, out, (int)width, 1.0f, columns, (int)width,
			    weights, (int)width, beta, y + first * (size_t)out, out);
	}
}

void blas_conv_forward(struct conv *conv, const void *x_at, int n, void *y_at)
{
	const float *x = x_at;
	float *y = y_at;
	const struct conv_shape *s = &conv->shape;
	struct gather g = forward_gather(conv);

	if (is_plain_product(s)) {
		cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n * s->in_height * s->in_width, s->out_channels,
			    s->in_channels, 1.0f, x, s->in_channels, conv->weights, s->in_channels, 0.0f, y,
			    s->out_channels);
		return;
	}
	pack(conv, PACKED_ROWS);
	tiled_product(conv->engine, &g, x, n, conv->engine->packed[conv->slot].data, s->out_channels, y, 0.0f);
}

/* dx row iy of one picture = or += what its columns say. */
static void scatter_row(const struct conv *conv, const float *columns, int iy, float *dx, bool add)
{
	const struct conv_shape *s = &conv->shape;
	size_t channels = (size_t)s->in_channels, width = channels * (size_t)s->kernel * (size_t)s->kernel;
	float *row = dx + (size_t)iy * (size_t)s->in_width * channels;

	if (!add)
		memset(row, 0, (size_t)s->in_width * channels * sizeof(*row));
	for (int r = 0; r < s->kernel; r++) {
		int ty = iy + s->pad - r;

		if (ty < 0 || ty % s->stride != 0 || ty / s->stride >= conv->out_height)
			continue;
		for (int ox = 0; ox < conv->out_width; ox++) {
			const float *column =
				columns + ((size_t)(ty / s->stride) * (size_t)conv->out_width + (size_t)ox) * width;

			for (int q = 0; q < s->kernel; q++) {
				int ix = ox * s->stride - s->pad + q;
				const float *from = column + (size_t)(r * s->kernel + q) * channels;

				if (ix < 0 || ix >= s->in_width)
					continue;
				for (size_t c = 0; c < channels; c++)
					row[(size_t)ix * channels + c] += from[c];
			}
		}
	}
}

static void strided_backward_data(struct conv *conv, const float *dy, int n, float *dx, bool add)
{
	const struct conv_shape *s = &conv->shape;
	int pixels = conv->out_height * conv->out_width, width = s->kernel * s->kernel * s->in_channels;
	float *columns = conv->engine->columns.data;

	pack(conv, PACKED_ROWS);
	for (int p = 0; p < n; p++) {
		float *picture = dx + (size_t)p * conv_in_elements(conv);

		cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, pixels, width, s->out_channels, 1.0f,
			    dy + (size_t)p * conv_out_elements(conv), s->out_channels, conv->engine->packed[conv->slot].data,
			    width, 0.0f, columns, width);
#pragma omp parallel for schedule(static) num_threads(conv->engine->threads)
		for (int iy = 0; iy < s->in_height; iy++)
			scatter_row(conv, columns, iy, picture, add);
	}
}

void blas_conv_backward_data(struct conv *conv, const void *dy_at, int n, void *dx_at, bool add)
{
	const float *dy = dy_at;
	float *dx = dx_at;
	const struct conv_shape *s = &conv->shape;
	struct gather g = flipped_gather(conv);

	if (is_plain_product(s)) {
		cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n * s->in_height * s->in_width, s->in_channels,
			    s->out_channels, 1.0f, dy, s->out_channels, conv->weights, s->in_channels, add ? 1.0f : 0.0f, dx,
			    s->in_channels);
	} else if (s->stride == 1) {
		pack(conv, PACKED_FLIPPED);
		tiled_product(conv->engine, &g, dy, n, conv->engine->packed[conv->slot].data, s->in_channels, dx,
			      add ? 1.0f : 0.0f);
	} else {
		strided_backward_data(conv, dy, n, dx, add);
	}
}

/* grad (O, I, k, k) += packed (O, k, k, I) */
static void add_rows_to_weights(const struct conv_shape *s, const float *packed, float *grad)
{
	size_t taps = (size_t)s->kernel * (size_t)s->kernel, in = (size_t)s->in_channels;

#pragma omp parallel for schedule(static)
	for (int o = 0; o < s->out_channels; o++)
		for (size_t i = 0; i < in; i++)
			for (size_t t = 0; t < taps; t++)
				grad[((size_t)o * in + i) * taps + t] += packed[((size_t)o * taps + t) * in + i];
}

/* Row oy of one tap's columns: what the tap (r, q) sees of a picture, (out_width, channels). */
static void gather_tap_row(const struct gather *g, const float *picture, int oy, int r, int q, float *out)
{
	size_t channels = (size_t)g->channels, run = channels * sizeof(float);
	int iy = oy * g->stride - g->pad + r, ox = 0;

	if (iy < 0 || iy >= g->in_height) {
		memset(out, 0, (size_t)g->out_width * run);
		return;
	}
	const float *row = picture + (size_t)iy * (size_t)g->in_width * channels;

	for (; ox < g->out_width && ox * g->stride - g->pad + q < 0; ox++, out += channels)
		memset(out, 0, run);
	if (g->stride == 1) {
		int first = ox - g->pad + q, count = g->in_width - first;

		if (count > g->out_width - ox)
			count = g->out_width - ox;
		if (count > 0) {
			memcpy(out, row + (size_t)first * channels, (size_t)count * run);
			out += (size_t)count * channels;
			ox += count;
		}
	} else {
		for (int ix; ox < g->out_width && (ix = ox * g->stride - g->pad + q) < g->in_width; ox++, out += channels)
			memcpy(out, row + (size_t)ix * channels, run);
	}
	memset(out, 0, (size_t)(g->out_width - ox) * run);
}

static const float *gather_tap(const struct conv *conv, const struct gather *g, const float *x, int n, int tap)
{
	float *columns = conv->engine->columns.data;
	size_t row = (size_t)g->out_width * (size_t)g->channels;

#pragma omp parallel for schedule(static) num_threads(conv->engine->threads)
	for (int i = 0; i < n * g->out_height; i++)
		gather_tap_row(g, x + (size_t)(i / g->out_height) * conv_in_elements(conv), i % g->out_height,
			       tap / g->kernel, tap % g->kernel, columns + (size_t)i * row);
	return columns;
}

/* c (out, in; ldc) = beta * c + dy^T x over `rows` rows. */
static void outer_product(const struct conv_shape *s, const float *dy, const float *x, int rows, float beta, float *c, int ldc)
{
	cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, s->out_channels, s->in_channels, rows, 1.0f, dy, s->out_channels,
		    x, s->in_channels, beta, c, ldc);
}

/* Few input channels: the columns of one picture, all taps side by side. */
static void weights_by_columns(const struct conv *conv, const struct gather *g, const float *x, const float *dy, int n)
{
	int out = conv->shape.out_channels, pixels = conv->out_height * conv->out_width, width = (int)column_width(g);
	float *columns = conv->engine->columns.data, *sum = conv->engine->weight_gradient.data;

	for (int p = 0; p < n; p++) {
		const float *picture = x + (size_t)p * conv_in_elements(conv);

#pragma omp parallel for schedule(static) num_threads(conv->engine->threads)
		for (int oy = 0; oy < conv->out_height; oy++) {
			size_t first = (size_t)oy * (size_t)conv->out_width;

			gather_columns(g, picture, first, (size_t)conv->out_width, columns + first * (size_t)width);
		}
		cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, out, width, pixels, 1.0f,
			    dy + (size_t)p * conv_out_elements(conv), out, columns, width, p == 0 ? 0.0f : 1.0f, sum, width);
	}
}

void blas_conv_backward_weights(struct conv *conv, const void *x_at, const void *dy_at, int n, float *grad)
{
	const float *x = x_at, *dy = dy_at;
	const struct conv_shape *s = &conv->shape;
	struct gather g = forward_gather(conv);
	int rows = n * conv->out_height * conv->out_width, taps = s->kernel * s->kernel;
	float *sum = conv->engine->weight_gradient.data;

	if (taps == 1) {
		outer_product(s, dy, is_plain_product(s) ? x : gather_tap(conv, &g, x, n, 0), rows, 1.0f, grad, s->in_channels);
		return;
	}
	if (s->in_channels < TAP_CHANNELS_MIN)
		weights_by_columns(conv, &g, x, dy, n);
	else
		for (int tap = 0; tap < taps; tap++)
			outer_product(s, dy, gather_tap(conv, &g, x, n, tap), rows, 0.0f, sum + (size_t)tap * (size_t)s->in_channels,
				      taps * s->in_channels);
	add_rows_to_weights(s, sum, grad);
}

static int blas_conv_open(struct conv **out, struct image_engine *engine, const struct conv_shape *shape, int slot,
			  int pictures_max, unsigned passes, struct err *err)
{
	int rc = conv_create(out, engine, shape, slot, pictures_max, err);

	(void)passes; /* nothing to plan but memory */
	if (rc < 0)
		return rc;
	rc = blas_conv_reserve(*out, err);
	if (rc < 0) {
		mem_free(*out);
		*out = NULL;
	}
	return rc;
}

static void blas_conv_close(struct conv *conv)
{
	mem_free(conv);
}

const struct image_ops *image_ops_blas(void)
{
	static const struct image_ops table = {
		.name = "openblas",
		.element_bytes = sizeof(float),
		.engine_open = image_engine_open,
		.engine_close = image_engine_close,
		.engine_bytes = image_engine_bytes,
		.engine_threads = image_engine_threads,
		.conv_open = blas_conv_open,
		.conv_close = blas_conv_close,
		.conv_begin = conv_begin,
		.conv_forward = blas_conv_forward,
		.conv_backward_data = blas_conv_backward_data,
		.conv_backward_weights = blas_conv_backward_weights,
		IMAGE_OPS_FAST_COMMON,
	};

	return &table;
}

const struct image_ops *image_ops_fast(void)
{
	if (image_ops_gemm() != NULL)
		return image_ops_gemm();
	return image_ops_onednn() != NULL ? image_ops_onednn() : image_ops_blas();
}
