/*
 * image_rows.h - the inner loops of batch norm and pooling, one thread each,
 * compiled once for every instruction set (image_rows_body.h) and chosen at
 * run time.
 *
 * A tensor is `rows` rows of `channels` elements, floats or bf16 as
 * element_bytes says. Sums go to doubles (channels) that the caller has zeroed;
 * work is 2 * channels floats (3 for add_relu_sums) of scratch memory.
 */
#ifndef TRAINER_KERNELS_IMAGE_ROWS_H
#define TRAINER_KERNELS_IMAGE_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The per-channel numbers of a batch norm that a loop needs. */
struct bn_terms {
	const float *mean, *scale, *bias;
	const float *mean_term, *x_term; /* backward */
};

struct image_rows {
	const char *name;
	size_t element_bytes;
	/* sum += x - pivot, square += (x - pivot)^2 */
	void (*moments)(const void *x, size_t rows, size_t channels, const float *pivot, float *work, double *sum,
			double *square);
	/* y = relu(bn(x)) */
	void (*relu)(const struct bn_terms *bn, const void *x, size_t rows, size_t channels, void *y);
	/* y = relu(bn(x) + shortcut), or + other(shortcut) */
	void (*add_relu)(const struct bn_terms *bn, const void *x, const struct bn_terms *other, const void *shortcut,
			 size_t rows, size_t channels, void *y);
	/* g = dy where relu(bn(x)) passes: sum += g, product += g * (x - mean) */
	void (*relu_sums)(const struct bn_terms *bn, const void *dy, const void *x, size_t rows, size_t channels,
			  float *work, double *sum, double *product);
	/* g = 0 where out <= 0, in place: sum += g, product += g * (x - mean), other_product likewise with other and
	 * shortcut unless other is NULL */
	void (*add_relu_sums)(const struct bn_terms *bn, const void *x, const struct bn_terms *other,
			      const void *shortcut, const void *out, void *g, size_t rows, size_t channels, float *work,
			      double *sum, double *product, double *other_product);
	/* dx = scale * g - mean_term - x_term * (x - mean), g as in relu_sums or dy itself; dx may be dy */
	void (*backward)(const struct bn_terms *bn, bool relu, const void *dy, const void *x, size_t rows,
			 size_t channels, void *dx);
	/* One row of outputs (out_width, channels) of 3x3/2 max pooling of relu(bn(x)); x is the picture, row oy. */
	void (*pool)(const struct bn_terms *bn, const void *x, int height, int width, size_t channels, int oy,
		     int out_width, void *y, uint8_t *index);
	/* One row iy of the gradient (width, channels); dy and index are the picture's. */
	void (*pool_backward)(const void *dy, const uint8_t *index, int out_height, int out_width, size_t channels, int iy,
			      int width, void *dx);
	void (*add)(void *y, const void *x, size_t n);
	/* elements to floats, floats to elements, floats += elements */
	void (*load)(const void *x, size_t n, float *floats);
	void (*store)(const float *floats, size_t n, void *y);
	void (*accumulate)(float *floats, const void *x, size_t n);
};

const struct image_rows *image_rows_plain(void);
const struct image_rows *image_rows_avx2(void);   /* NULL: not this kind of processor */
const struct image_rows *image_rows_avx512(void); /* NULL likewise */
/* On bf16 instead of floats. NULL likewise. */
const struct image_rows *image_rows_bf16(void);
/* The best that this processor runs, on floats. */
const struct image_rows *image_rows(void);

#endif
