/*
 * gemm_conv.c - convolutions as products of gemm.h: nothing is unfolded in memory.
 *
 * Forward: windows of x times weights. Weight gradient: dy turned times the
 * windows of x. Input gradient: each pixel of dx gets what the taps that reached it
 * send back; with a stride of s, pixels fall into s * s classes by which taps those
 * are, and each class is a convolution of dy, of stride 1 and fewer taps. So
 * no multiplication is wasted on zeros. As convolution operators that pack
 * windows inside of the product: Juan et al., High Performance and Portable
 * Convolution Operators for Multicore Processors, 2020.
 *
 * Packed weights are panels of gemm.h: forward k = (tap line, tap column, I), n = O; backward, class by class, k = (lines of
 * taps upward, columns of taps leftward, O), n = I. Convolutions of which winograd_is_chosen() says so are done by winograd.h, with weights
 * packed for that.
 */
#include <string.h>

#include "shared/base/mem.h"
#include "trainer/kernels/gemm.h"
#include "trainer/kernels/image_engine.h"
#include "trainer/kernels/winograd.h"

/* The taps that reach pixels first, first + stride, ... of one direction: last, last - stride, ... */
struct taps {
	int count, last;
	int shift; /* the line of dy that the last tap reaches from the first pixel */
};

static struct taps taps_of(const struct conv_shape *s, int first)
{
	struct taps taps = { 0, 0, 0 };

	for (int r = (first + s->pad) % s->stride; r < s->kernel; r += s->stride) {
		taps.count++;
		taps.last = r;
	}
	taps.shift = (first + s->pad - taps.last) / s->stride; /* without remainder */
	return taps;
}

static size_t taps_square(const struct conv_shape *s)
{
	return (size_t)s->kernel * (size_t)s->kernel;
}

static size_t forward_floats(const struct conv *conv)
{
	const struct conv_shape *s = &conv->shape;

	if (conv->by_winograd)
		return winograd_weight_floats(s->in_channels, s->out_channels);
	return gemm_panels_floats(taps_square(s) * (size_t)s->in_channels, (size_t)s->out_channels);
}

static size_t class_floats(const struct conv_shape *s, struct taps y, struct taps x)
{
	return gemm_panels_floats((size_t)y.count * (size_t)x.count * (size_t)s->out_channels, (size_t)s->in_channels);
}

static size_t backward_floats(const struct conv *conv)
{
	const struct conv_shape *s = &conv->shape;
	size_t floats = 0;

	if (conv->by_winograd)
		return winograd_weight_floats(s->out_channels, s->in_channels);
	for (int y = 0; y < s->stride; y++)
		for (int x = 0; x < s->stride; x++)
			floats += class_floats(s, taps_of(s, y), taps_of(s, x));
	return floats;
}

/* Rows of the weight gradient's product: all pixels of the chunk. */
static int parts_of(const struct conv *conv, int n)
{
	size_t pixels = (size_t)n * (size_t)conv->out_height * (size_t)conv->out_width;

	return gemm_parts((size_t)conv->shape.out_channels, taps_square(&conv->shape) * (size_t)conv->shape.in_channels, pixels);
}

static int reserve(struct conv *conv, struct err *err)
{
	const struct conv_shape *s = &conv->shape;
	struct image_engine *engine = conv->engine;
	size_t forward = forward_floats(conv), backward = backward_floats(conv);
	size_t gradients = (size_t)parts_of(conv, conv->pictures_max) * conv_weight_elements(s);
	int rc = scratch_reserve(&engine->packed[conv->slot], (forward > backward ? forward : backward) * sizeof(float), err);

	if (rc == 0 && conv->by_winograd) {
		int channels = s->in_channels > s->out_channels ? s->in_channels : s->out_channels;

		rc = scratch_reserve(&engine->winograd, winograd_work_floats(channels, engine->threads) * sizeof(float), err);
		gradients = winograd_gradient_floats(s->in_channels, s->out_channels, engine->threads);
	}
	return rc < 0 ? rc : scratch_reserve(&engine->weight_gradient, gradients * sizeof(float), err);
}

/* A panel of forward weights: its outputs are o .. o + width. */
static void pack_forward_panel(const struct conv *conv, size_t o, size_t width, float *panel)
{
	size_t in = (size_t)conv->shape.in_channels, taps = taps_square(&conv->shape);
	const float *from = conv->weights + o * in * taps;

	for (size_t i = 0; i < in; i++)
		for (size_t t = 0; t < taps; t++) {
			float *to = panel + (t * in + i) * GEMM_PANEL;

			for (size_t c = 0; c < GEMM_PANEL; c++)
				to[c] = c < width ? from[(c * in + i) * taps + t] : 0.0f;
		}
}

/* A panel of one class's weights: its inputs are i .. i + width. */
static void pack_backward_panel(const struct conv *conv, struct taps y, struct taps x, size_t i, size_t width, float *panel)
{
	const struct conv_shape *s = &conv->shape;
	size_t in = (size_t)s->in_channels, out = (size_t)s->out_channels, taps = taps_square(s);

	for (size_t o = 0; o < out; o++) {
		const float *from = conv->weights + (o * in + i) * taps;

		for (int r = 0; r < y.count; r++)
			for (int q = 0; q < x.count; q++) {
				size_t tap = (size_t)(y.last - r * s->stride) * (size_t)s->kernel + (size_t)(x.last - q * s->stride);
				float *to = panel + (((size_t)r * (size_t)x.count + (size_t)q) * out + o) * GEMM_PANEL;

				for (size_t c = 0; c < GEMM_PANEL; c++)
					to[c] = c < width ? from[c * taps + tap] : 0.0f;
			}
	}
}

static void pack_forward(struct conv *conv)
{
	const struct conv_shape *s = &conv->shape;
	size_t k = taps_square(s) * (size_t)s->in_channels, out = (size_t)s->out_channels, apart = gemm_panel_floats(k);
	float *panels = conv->engine->packed[conv->slot].data;

	CHECK(conv->engine->packed_by[conv->slot] == conv);
	if (conv->packing == PACKED_ROWS)
		return;
	conv->packing = PACKED_ROWS;
	if (conv->by_winograd) {
		winograd_pack(conv->weights, s->in_channels, s->out_channels, false, panels, conv->engine->threads);
		return;
	}
	if (s->kernel == 1) {
		gemm_pack_panels(GEMM_COLUMNS, conv->weights, k, k, out, panels, conv->engine->threads);
		return;
	}
#pragma omp parallel for schedule(static) num_threads(conv->engine->threads)
	for (size_t o = 0; o < out; o += GEMM_PANEL)
		pack_forward_panel(conv, o, out - o < GEMM_PANEL ? out - o : GEMM_PANEL, panels + o / GEMM_PANEL * apart);
}

static void pack_class(const struct conv *conv, struct taps y, struct taps x, float *panels)
{
	const struct conv_shape *s = &conv->shape;
	size_t in = (size_t)s->in_channels, k = (size_t)y.count * (size_t)x.count * (size_t)s->out_channels;

#pragma omp parallel for schedule(static) num_threads(conv->engine->threads)
	for (size_t i = 0; i < in; i += GEMM_PANEL)
		pack_backward_panel(conv, y, x, i, in - i < GEMM_PANEL ? in - i : GEMM_PANEL,
				    panels + i / GEMM_PANEL * gemm_panel_floats(k));
}

static void pack_backward(struct conv *conv)
{
	const struct conv_shape *s = &conv->shape;
	float *panels = conv->engine->packed[conv->slot].data;

	CHECK(conv->engine->packed_by[conv->slot] == conv);
	if (conv->packing == PACKED_FLIPPED)
		return;
	conv->packing = PACKED_FLIPPED;
	if (conv->by_winograd) {
		winograd_pack(conv->weights, s->out_channels, s->in_channels, true, panels, conv->engine->threads);
		return;
	}
	for (int y = 0; y < s->stride; y++)
		for (int x = 0; x < s->stride; x++) {
			pack_class(conv, taps_of(s, y), taps_of(s, x), panels);
			panels += class_floats(s, taps_of(s, y), taps_of(s, x));
		}
}

static struct gemm_windows forward_windows(const struct conv *conv)
{
	const struct conv_shape *s = &conv->shape;

	return (struct gemm_windows){ s->in_channels, s->in_height, s->in_width, s->kernel,        s->kernel,
				      s->stride,      -s->pad,      -s->pad,     conv->out_height, conv->out_width };
}

/* 1x1 at every pixel: windows are the rows of x as they are. */
static bool is_plain(const struct conv_shape *s)
{
	return s->kernel == 1 && s->stride == 1 && s->pad == 0;
}

/* Between pictures of the same size, with the weights that are packed. */
static void run_winograd(const struct conv *conv, int in, int out, const float *x, int n, float *y, bool add)
{
	const struct image_engine *engine = conv->engine;

	winograd_run(&(struct winograd){ .in = in,
					 .out = out,
					 .pictures = n,
					 .height = conv->out_height,
					 .width = conv->out_width,
					 .x = x,
					 .packed = engine->packed[conv->slot].data,
					 .y = y,
					 .add = add,
					 .work = engine->winograd.data,
					 .threads = engine->threads });
}

static void gemm_conv_forward(struct conv *conv, const void *x, int n, void *y)
{
	const struct conv_shape *s = &conv->shape;

	pack_forward(conv);
	if (conv->by_winograd) {
		run_winograd(conv, s->in_channels, s->out_channels, x, n, y, false);
		return;
	}
	gemm_run(&(struct gemm){ .m = (size_t)n * (size_t)conv->out_height * (size_t)conv->out_width,
				 .n = (size_t)s->out_channels,
				 .k = taps_square(s) * (size_t)s->in_channels,
				 .a_form = is_plain(s) ? GEMM_ROWS : GEMM_WINDOWS,
				 .a = x,
				 .lda = (size_t)s->in_channels,
				 .windows = forward_windows(conv),
				 .b_form = GEMM_PANELS,
				 .b = conv->engine->packed[conv->slot].data,
				 .c = y,
				 .ldc = (size_t)s->out_channels },
		 conv->engine->threads);
}

/* How many of 0 .. size - 1 are first, first + stride, ... */
static int count_of(int size, int first, int stride)
{
	return size <= first ? 0 : (size - first + stride - 1) / stride;
}

static void backward_class(const struct conv *conv, int first_y, int first_x, const float *panels, const float *dy, int n, float *dx,
			   bool add)
{
	const struct conv_shape *s = &conv->shape;
	struct taps y = taps_of(s, first_y), x = taps_of(s, first_x);
	int height = count_of(s->in_height, first_y, s->stride), width = count_of(s->in_width, first_x, s->stride);
	struct gemm_pixels pixels = { s->in_height, s->in_width, s->stride, first_y, first_x };
	bool whole = s->stride == 1;

	gemm_run(&(struct gemm){ .m = (size_t)n * (size_t)height * (size_t)width,
				 .n = (size_t)s->in_channels,
				 .k = (size_t)y.count * (size_t)x.count * (size_t)s->out_channels,
				 .a_form = is_plain(s) ? GEMM_ROWS : GEMM_WINDOWS,
				 .a = dy,
				 .lda = (size_t)s->out_channels,
				 .windows = { s->out_channels, conv->out_height, conv->out_width, y.count, x.count, 1, y.shift, x.shift,
					      height, width },
				 .b_form = GEMM_PANELS,
				 .b = panels,
				 .c = dx,
				 .ldc = (size_t)s->in_channels,
				 .pixels = whole ? NULL : &pixels,
				 .add = add },
		 conv->engine->threads);
}

static void gemm_conv_backward_data(struct conv *conv, const void *dy, int n, void *dx, bool add)
{
	const struct conv_shape *s = &conv->shape;
	const float *panels;

	pack_backward(conv);
	if (conv->by_winograd) {
		run_winograd(conv, s->out_channels, s->in_channels, dy, n, dx, add);
		return;
	}
	panels = conv->engine->packed[conv->slot].data;
	for (int y = 0; y < s->stride; y++)
		for (int x = 0; x < s->stride; x++) {
			backward_class(conv, y, x, panels, dy, n, dx, add);
			panels += class_floats(s, taps_of(s, y), taps_of(s, x));
		}
}

/* grad (O, I, k, k) += parts (O, k, k, I), one after the other */
static void add_parts(const struct conv *conv, const float *results, int parts, float *grad)
{
	const struct conv_shape *s = &conv->shape;
	size_t in = (size_t)s->in_channels, taps = taps_square(s), all = conv_weight_elements(s);

#pragma omp parallel for schedule(static) num_threads(conv->engine->threads) if (all * (size_t)parts > 16384)
	for (size_t o = 0; o < (size_t)s->out_channels; o++) {
		float *to = grad + o * in * taps;

		for (int part = 0; part < parts; part++) {
			const float *from = results + (size_t)part * all + o * in * taps;

			for (size_t i = 0; i < in; i++)
				for (size_t t = 0; t < taps; t++)
					to[i * taps + t] += from[t * in + i];
		}
	}
}

static void weights_by_product(struct conv *conv, bool bf16, const void *x, const void *dy, int n, float *grad)
{
	const struct conv_shape *s = &conv->shape;
	int parts = parts_of(conv, n);
	float *results = conv->engine->weight_gradient.data;
	struct gemm g = { .bf16 = bf16,
			  .m = (size_t)s->out_channels,
			  .n = taps_square(s) * (size_t)s->in_channels,
			  .k = (size_t)n * (size_t)conv->out_height * (size_t)conv->out_width,
			  .a_form = GEMM_COLUMNS,
			  .a = dy,
			  .lda = (size_t)s->out_channels,
			  .b_form = is_plain(s) ? GEMM_ROWS : GEMM_WINDOWS,
			  .b = x,
			  .ldb = (size_t)s->in_channels,
			  .windows = forward_windows(conv),
			  .c = grad,
			  .ldc = (size_t)s->in_channels,
			  .add = true };

	if (parts == 1 && s->kernel == 1) {
		gemm_run(&g, conv->engine->threads);
		return;
	}
	gemm_run_parts(&g, parts, results, conv->engine->threads);
	add_parts(conv, results, parts, grad);
}

static void gemm_conv_backward_weights(struct conv *conv, const void *x, const void *dy, int n, float *grad)
{
	const struct conv_shape *s = &conv->shape;

	if (conv->by_winograd) {
		winograd_gradient_run(&(struct winograd_gradient){ .in = s->in_channels,
								   .out = s->out_channels,
								   .pictures = n,
								   .height = conv->out_height,
								   .width = conv->out_width,
								   .x = x,
								   .dy = dy,
								   .grad = grad,
								   .work = conv->engine->weight_gradient.data,
								   .threads = conv->engine->threads });
		return;
	}
	weights_by_product(conv, false, x, dy, n, grad);
}

bool gemm_conv_does_bf16_weights(const struct conv_shape *shape)
{
	return gemm_bf16_is_chosen() && shape->in_channels % 2 == 0;
}

int gemm_conv_reserve_bf16_weights(struct conv *conv, struct err *err)
{
	size_t floats = (size_t)parts_of(conv, conv->pictures_max) * conv_weight_elements(&conv->shape);

	return scratch_reserve(&conv->engine->weight_gradient, floats * sizeof(float), err);
}

void gemm_conv_bf16_weights(struct conv *conv, const void *x, const void *dy, int n, float *grad)
{
	weights_by_product(conv, true, x, dy, n, grad);
}

static int gemm_conv_open(struct conv **out, struct image_engine *engine, const struct conv_shape *shape, int slot, int pictures_max,
			  unsigned passes, struct err *err)
{
	int rc = conv_create(out, engine, shape, slot, pictures_max, err);

	(void)passes; /* nothing to plan but memory */
	if (rc < 0)
		return rc;
	(*out)->by_winograd = winograd_is_chosen(shape);
	rc = reserve(*out, err);
	if (rc < 0) {
		mem_free(*out);
		*out = NULL;
	}
	return rc;
}

static void gemm_conv_close(struct conv *conv)
{
	mem_free(conv);
}

const struct image_ops *image_ops_gemm(void)
{
	static const struct image_ops table = {
		.name = "own products",
		.element_bytes = sizeof(float),
		.engine_open = image_engine_open,
		.engine_close = image_engine_close,
		.engine_bytes = image_engine_bytes,
		.engine_threads = image_engine_threads,
		.conv_open = gemm_conv_open,
		.conv_close = gemm_conv_close,
		.conv_begin = conv_begin,
		.conv_forward = gemm_conv_forward,
		.conv_backward_data = gemm_conv_backward_data,
		.conv_backward_weights = gemm_conv_backward_weights,
		IMAGE_OPS_FAST_COMMON,
	};

	return gemm_is_chosen() ? &table : NULL;
}
