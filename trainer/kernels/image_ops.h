/*
 * image_ops.h - the image tower's operations: convolution, batch norm, pooling.
 *
 * Layout: activations are NHWC, (n, height, width, channels), so a
 * batch is a matrix of `rows` = n*height*width rows of `channels`. Convolution
 * weights and their gradients stay in PyTorch's OIHW; a convolution repacks
 * them for itself. NHWC is what oneDNN's fastest AVX-512 kernels want and what
 * a matrix product takes without copying, so every implementation shares it.
 *
 * An activation or its gradient is a `void *`: floats with the usual tables,
 * bf16 (the upper half of a float, rounded to nearest even) with that of
 * image_ops_bf16(). element_bytes says which. Parameters, their gradients,
 * statistics, pooled features and pixels are floats in every table, and so is the arithmetic.
 *
 * Everything works on a few pictures at a time: the caller walks a layer in
 * chunks that stay in cache, and puts what surrounds a convolution (batch
 * norm and ReLU in front of it, statistics behind it) on the same chunk.
 * Sums that span the batch are therefore accumulated over calls, between a
 * _begin and a _end.
 *
 * Arithmetic: y = (x - mean) * scale + bias with scale = weight / sqrt(var + eps);
 * sums over the batch in double precision. ReLU passes NaN on.
 *
 * Threads:   one caller; the OpenMP team works inside. The same number of threads gives the same bits.
 * Ownership: an engine owns the scratch memory that its convolutions and norms share, and must
 *            outlive them. Tensors are the caller's, 64-byte aligned.
 * Limits:    IMAGE_CHANNELS_MAX, CONV_KERNEL_MAX, CONV_SIZE_MAX, CONV_PICTURES_MAX.
 *            All memory is had by the _open functions; only the first convolution of a new number of
 *            pictures, or of a pass that was not planned ahead, may allocate, and works slower where
 *            that fails.
 */
#ifndef TRAINER_KERNELS_IMAGE_OPS_H
#define TRAINER_KERNELS_IMAGE_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/base/err.h"

enum {
	IMAGE_CHANNELS_MAX = 16384,
	CONV_KERNEL_MAX = 11,
	CONV_SIZE_MAX = 4096,   /* pixels a side */
	CONV_PICTURES_MAX = 64, /* of one call */
	CONV_SLOTS = 2,         /* convolutions that can be worked with at the same time */
};

struct conv_shape {
	int in_channels, out_channels;
	int kernel, stride, pad; /* square; pad on every side */
	int in_height, in_width;
};

static inline int conv_out_size(int in, int kernel, int stride, int pad)
{
	return (in + 2 * pad - kernel) / stride + 1;
}

/* Passes that conv_open plans ahead; the others are planned when they are first asked for. */
enum conv_passes {
	CONV_FORWARD = 1,
	CONV_DATA = 2,     /* backward_data, overwriting */
	CONV_DATA_ADD = 4, /* backward_data, adding */
	CONV_WEIGHTS = 8,
};

struct image_engine; /* threads and scratch memory */
struct conv;         /* one convolution, planned */
struct bn;           /* one batch norm: statistics of the last forward pass, sums in progress */

struct image_ops {
	const char *name;
	size_t element_bytes; /* of activations and their gradients */

	int (*engine_open)(struct image_engine **out, struct err *err);
	void (*engine_close)(struct image_engine *engine); /* NULL is fine */
	size_t (*engine_bytes)(const struct image_engine *engine);
	int (*engine_threads)(const struct image_engine *engine);

	/* Plans calls of up to pictures_max, the given passes (bits of enum conv_passes) ahead. Convolutions of different slots can be
	 * in use at the same time; one of the same slot takes its memory over. */
	int (*conv_open)(struct conv **out, struct image_engine *engine, const struct conv_shape *shape, int slot,
			 int pictures_max, unsigned passes, struct err *err);
	void (*conv_close)(struct conv *conv); /* NULL is fine */
	/* To be called when the weights (O,I,k,k) may have changed; they are borrowed until the next call. */
	void (*conv_begin)(struct conv *conv, const float *weights);
	/* x (n,h,w,I) -> y (n,oh,ow,O) */
	void (*conv_forward)(struct conv *conv, const void *x, int n, void *y);
	/* dy (n,oh,ow,O) -> dx (n,h,w,I); add: dx += */
	void (*conv_backward_data)(struct conv *conv, const void *dy, int n, void *dx, bool add);
	/* grad (O,I,k,k) += */
	void (*conv_backward_weights)(struct conv *conv, const void *x, const void *dy, int n, float *grad);

	int (*bn_open)(struct bn **out, struct image_engine *engine, int channels, struct err *err);
	void (*bn_close)(struct bn *bn); /* NULL is fine */
	/* Batch statistics: begin, x of every chunk, end. weight and bias (C) are borrowed until the
	 * next forward pass. With running statistics given, they move by momentum 0.1 (variance unbiased). */
	void (*bn_stats_begin)(struct bn *bn);
	void (*bn_stats)(struct bn *bn, const void *x, size_t rows);
	void (*bn_stats_end)(struct bn *bn, const float *weight, const float *bias, float *running_mean, float *running_var);
	/* Running statistics instead: backward then treats them as constants. */
	void (*bn_use_running)(struct bn *bn, const float *weight, const float *bias, const float *running_mean,
			       const float *running_var);
	/* Multiplies what the norm puts out by factor, in bn_add_relu, bn_add_relu_sums and bn_backward, until the next
	 * call; it has to be 1 where statistics and sums begin and end. */
	void (*bn_branch)(struct bn *bn, float factor);
	/* y = relu(bn(x)) */
	void (*bn_relu)(const struct bn *bn, const void *x, size_t rows, void *y);
	/* y = relu(bn(x) + shortcut), where shortcut is put through shortcut_bn unless that is NULL */
	void (*bn_add_relu)(const struct bn *bn, const void *x, const struct bn *shortcut_bn, const void *shortcut,
			    size_t rows, void *y);
	/* y = 3x3 max pooling, stride 2, pad 1, of relu(bn(x)); index: which of the nine won, the first
	 * among equals. x (n,h,w,C); y, index (n,oh,ow,C) */
	void (*bn_relu_pool)(const struct bn *bn, const void *x, int n, int height, int width, void *y, uint8_t *index);

	/* Backward, first pass: sums over all chunks, after bn_sums_begin. */
	void (*bn_sums_begin)(struct bn *bn);
	/* of y = relu(bn(x)), dy given */
	void (*bn_relu_sums)(struct bn *bn, const void *dy, const void *x, size_t rows);
	/* of out = relu(bn(x) + shortcut): g *= (out > 0) in place, which is then the gradient of both
	 * terms; shortcut_bn, shortcut as in bn_add_relu (shortcut is not read without shortcut_bn) */
	void (*bn_add_relu_sums)(struct bn *bn, const void *x, struct bn *shortcut_bn, const void *shortcut,
				 const void *out, void *g, size_t rows);
	/* dweight, dbias (C) +=; both NULL: not wanted */
	void (*bn_sums_end)(struct bn *bn, float *dweight, float *dbias);
	/* Second pass: gradient of x; dx may be dy (or g). With relu: of y = relu(bn(x)), else of bn(x). */
	void (*bn_backward)(const struct bn *bn, bool relu, const void *dy, const void *x, size_t rows, void *dx);

	/* dy, index (n,oh,ow,C) -> dx (n,h,w,C), the gradient of the pooled ReLU's output */
	void (*pool_backward)(struct image_engine *engine, const void *dy, const uint8_t *index, int n, int height,
			      int width, int channels, void *dx);
	/* y (n,C) = mean over each picture's pixels, floats; backward overwrites dx (n,pixels,C) */
	void (*average_pool)(const struct image_engine *engine, const void *x, int n, int pixels, int channels, float *y);
	void (*average_pool_backward)(const struct image_engine *engine, const float *dy, int n, int pixels, int channels, void *dx);
	/* pixels (n,C,h*w), floats <-> activations (n,h*w,C) */
	void (*to_nhwc)(const struct image_engine *engine, const float *nchw, int n, int channels, int pixels, void *nhwc);
	void (*to_nchw)(const struct image_engine *engine, const void *nhwc, int n, int channels, int pixels, float *nchw);
	/* floats <-> activations of the same layout */
	void (*from_floats)(const struct image_engine *engine, const float *floats, size_t elements, void *x);
	void (*to_floats)(const struct image_engine *engine, const void *x, size_t elements, float *floats);
};

#define BN_EPSILON 1e-5
#define BN_MOMENTUM 0.1

const struct image_ops *image_ops_reference(void);
/* Our own products where gemm_is_chosen(); else oneDNN where the program is built with it, else OpenBLAS alone. */
const struct image_ops *image_ops_fast(void);
const struct image_ops *image_ops_gemm(void); /* NULL: not for this processor */
const struct image_ops *image_ops_blas(void);
const struct image_ops *image_ops_onednn(void); /* NULL: not built in */
/* Of oneDNN, "" without. */
const char *image_library_version(void);
/* Activations in bf16, by oneDNN. NULL: not built in, or the processor lacks the instructions. */
const struct image_ops *image_ops_bf16(void);
/* The plain version of that: each operation of image_ops_reference() between two conversions. */
const struct image_ops *image_ops_bf16_reference(void);

#endif
