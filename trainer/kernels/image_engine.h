/*
 * image_engine.h - inside the fast image kernels: the scratch memory shared by
 * every convolution and norm of a tower, and the objects behind image_ops.h.
 *
 * Only files of kernels/ include this. Scratch memory grows while
 * convolutions and norms are opened; a layer uses it from one call to the next
 * only where image_ops.h says so (packed weights between two conv_begin).
 */
#ifndef TRAINER_KERNELS_IMAGE_ENGINE_H
#define TRAINER_KERNELS_IMAGE_ENGINE_H

#include "trainer/kernels/image_ops.h"
#include "trainer/kernels/image_rows.h"

struct scratch {
	void *data;
	size_t bytes;
};

struct onednn;      /* engine and stream of oneDNN */
struct onednn_conv;

struct image_engine {
	int threads;
	const struct image_rows *rows;       /* the loops over activations, which know their type */
	struct onednn *onednn;               /* NULL: OpenBLAS alone */
	struct scratch packed[CONV_SLOTS];   /* weights as the running pass wants them */
	const struct conv *packed_by[CONV_SLOTS];
	struct scratch weight_gradient;      /* of one call, before it is added to OIHW */
	struct scratch columns;              /* im2col */
	struct scratch data_gradient;        /* of one call, before it is added or spread */
	struct scratch blocked_from, blocked_to; /* of one forward convolution in blocked layout */
	struct scratch flipped;              /* weights turned by 180 degrees */
	struct scratch winograd;             /* transformed patches and their sums */
	struct scratch library;              /* oneDNN's own */
	struct scratch sums;                 /* threads * 3 * channels doubles, then floats */
	int channels_max;
};

/* At least `bytes`, contents lost. */
MUST_USE int scratch_reserve(struct scratch *scratch, size_t bytes, struct err *err);

enum conv_packing { PACKED_NOTHING, PACKED_ROWS, PACKED_FLIPPED, PACKED_ONEDNN };

struct conv {
	struct image_engine *engine;
	struct conv_shape shape;
	int out_height, out_width;
	int slot, pictures_max;
	const float *weights;        /* of the running pass, OIHW */
	bool by_winograd;            /* gemm_conv.c: not by the direct product */
	enum conv_packing packing;   /* what engine->packed[slot] holds, if packed_by is this */
	struct onednn_conv *onednn;  /* NULL: OpenBLAS alone */
};

struct bn {
	struct image_engine *engine;
	int channels;
	bool batch_stats;       /* else running statistics */
	const float *weight, *bias;
	float *mean, *invstd, *scale;
	float factor;           /* of what the norm puts out; bn_branch() */
	float *plain_scale, *branch_scale, *branch_bias; /* scale is one of the first two */
	const float *plain_bias;
	float *pivot;           /* subtracted before squares are summed: near the mean, else they would cancel */
	float *mean_term, *x_term; /* second pass: dx = scale * g - mean_term - x_term * (x - mean) */
	double *sum, *square;   /* forward: of x - pivot and its square; backward: of g and g * (x - mean) */
	size_t rows;
	void *memory;
};

static inline size_t conv_in_elements(const struct conv *conv)
{
	return (size_t)conv->shape.in_height * (size_t)conv->shape.in_width * (size_t)conv->shape.in_channels;
}

static inline size_t conv_out_elements(const struct conv *conv)
{
	return (size_t)conv->out_height * (size_t)conv->out_width * (size_t)conv->shape.out_channels;
}

static inline size_t conv_weight_elements(const struct conv_shape *shape)
{
	return (size_t)shape->out_channels * (size_t)shape->in_channels * (size_t)shape->kernel * (size_t)shape->kernel;
}

MUST_USE int image_engine_open(struct image_engine **out, struct err *err);
void image_engine_close(struct image_engine *engine);
size_t image_engine_bytes(const struct image_engine *engine);
int image_engine_threads(const struct image_engine *engine);

/* Checks limits, fills everything but .onednn, reserves nothing. */
MUST_USE int conv_create(struct conv **out, struct image_engine *engine, const struct conv_shape *shape, int slot,
			 int pictures_max, struct err *err);
void conv_begin(struct conv *conv, const float *weights);

MUST_USE int bn_open(struct bn **out, struct image_engine *engine, int channels, struct err *err);
void bn_close(struct bn *bn);
void bn_stats_begin(struct bn *bn);
void bn_stats_end(struct bn *bn, const float *weight, const float *bias, float *running_mean, float *running_var);
void bn_use_running(struct bn *bn, const float *weight, const float *bias, const float *running_mean,
		    const float *running_var);
void bn_branch(struct bn *bn, float factor);
void bn_sums_begin(struct bn *bn);
void bn_sums_end(struct bn *bn, float *dweight, float *dbias);

/* blas_conv.c: convolutions as matrix products. Also what oneDNN's table uses
 * where the library has only its reference code for a shape. */
MUST_USE int blas_conv_reserve(struct conv *conv, struct err *err);
void blas_conv_forward(struct conv *conv, const void *x, int n, void *y);
void blas_conv_backward_data(struct conv *conv, const void *dy, int n, void *dx, bool add);
void blas_conv_backward_weights(struct conv *conv, const void *x, const void *dy, int n, float *grad);

/* gemm_conv.c: weight gradients of activations in bf16, where this says so. */
bool gemm_conv_does_bf16_weights(const struct conv_shape *shape);
MUST_USE int gemm_conv_reserve_bf16_weights(struct conv *conv, struct err *err);
void gemm_conv_bf16_weights(struct conv *conv, const void *x, const void *dy, int n, float *grad);

/* image_norm.c: what surrounds convolutions, shared by both fast tables. */
void fast_bn_stats(struct bn *bn, const void *x, size_t rows);
void fast_bn_relu(const struct bn *bn, const void *x, size_t rows, void *y);
void fast_bn_add_relu(const struct bn *bn, const void *x, const struct bn *shortcut_bn, const void *shortcut, size_t rows,
		      void *y);
void fast_bn_relu_pool(const struct bn *bn, const void *x, int n, int height, int width, void *y, uint8_t *index);
void fast_bn_relu_sums(struct bn *bn, const void *dy, const void *x, size_t rows);
void fast_bn_add_relu_sums(struct bn *bn, const void *x, struct bn *shortcut_bn, const void *shortcut, const void *out,
			   void *g, size_t rows);
void fast_bn_backward(const struct bn *bn, bool relu, const void *dy, const void *x, size_t rows, void *dx);
void fast_pool_backward(struct image_engine *engine, const void *dy, const uint8_t *index, int n, int height, int width,
			int channels, void *dx);
void fast_average_pool(const struct image_engine *engine, const void *x, int n, int pixels, int channels, float *y);
void fast_average_pool_backward(const struct image_engine *engine, const float *dy, int n, int pixels, int channels, void *dx);
void fast_to_nhwc(const struct image_engine *engine, const float *nchw, int n, int channels, int pixels, void *nhwc);
void fast_to_nchw(const struct image_engine *engine, const void *nhwc, int n, int channels, int pixels, float *nchw);
void fast_from_floats(const struct image_engine *engine, const float *floats, size_t elements, void *x);
void fast_to_floats(const struct image_engine *engine, const void *x, size_t elements, float *floats);
/* What the two fast tables have in common. */
#define IMAGE_OPS_FAST_COMMON \
	.bn_open = bn_open, .bn_close = bn_close, .bn_stats_begin = bn_stats_begin, .bn_stats = fast_bn_stats, \
	.bn_stats_end = bn_stats_end, .bn_use_running = bn_use_running, .bn_relu = fast_bn_relu, \
	.bn_add_relu = fast_bn_add_relu, .bn_branch = bn_branch, .bn_relu_pool = fast_bn_relu_pool, .bn_sums_begin = bn_sums_begin, \
	.bn_relu_sums = fast_bn_relu_sums, .bn_add_relu_sums = fast_bn_add_relu_sums, .bn_sums_end = bn_sums_end, \
	.bn_backward = fast_bn_backward, .pool_backward = fast_pool_backward, .average_pool = fast_average_pool, \
	.average_pool_backward = fast_average_pool_backward, .to_nhwc = fast_to_nhwc, .to_nchw = fast_to_nchw, \
	.from_floats = fast_from_floats, .to_floats = fast_to_floats

/* dx += x, or rows of x (n, oh*ow, channels) added to every stride-th pixel of dx (n, h, w, channels) */
void fast_add(const struct image_engine *engine, void *dx, const void *x, size_t elements);
void fast_add_strided(const struct image_engine *engine, void *dx, const void *x, int n, const struct conv_shape *shape,
		      int out_height, int out_width);

#endif
