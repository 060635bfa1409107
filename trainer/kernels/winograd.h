/*
 * winograd.h - convolutions 3x3 of stride 1 and pad 1 with 16 multiplications where the definition has 36.
 *
 * Winograd's minimal filtering F(2x2, 3x3) as Lavin and Gray arrange it (Fast Algorithms for Convolutional Neural Networks, CVPR
 * 2016): every 2x2 results come from a patch of 4x4 pixels, y = A' [(G w G') * (B' x B)] A with
 *
 *          1  0 -1  0          1   0   0
 *     B' = 0  1  1  0     G = .5  .5  .5     A' = 1  1  1  0
 *          0 -1  1  0         .5 -.5  .5          0  1 -1 -1
 *          0  1  0 -1          0   0   1
 *
 * so that, over the channels, there are 16 products of matrices (patches, in) (in, out). Blocks of patches go through all three steps
 * while they are in cache; the transformed patches are written in the order in which gemm_tile.h's tiles read them.
 *
 * Exactness: the sums over 9 * in terms become 16 over `in` and a few additions; G only halves. Errors against the exact result are
 * of the direct product's size (tests/unit/test_winograd.c holds both against sums in double). Larger tiles, as F(4x4, 3x3), would
 * save more and lose digits; they are not here. Each of the 16 sums is a chain of fused multiply-adds in blocks of at most GEMM_K_BLOCK
 * channels, added in order. It depends on `in` alone: not on the picture's place, its company, or the number of threads.
 * A result that is not finite makes the up to 2x2 around it so.
 *
 * Threads:   one caller; the OpenMP team works inside, whoever is free takes the next block.
 * Ownership: all memory is the caller's, also the work memory.
 * Limits:    channels are multiples of GEMM_PANEL.
 */
#ifndef TRAINER_KERNELS_WINOGRAD_H
#define TRAINER_KERNELS_WINOGRAD_H

#include <stdbool.h>
#include <stddef.h>

#include "trainer/kernels/image_ops.h"

/* Whether this processor has the loops, and whether a convolution is of this kind. */
bool winograd_can(const struct conv_shape *shape);

/* Whether it is also faster than the direct product; decided by the shape alone. The environment (TRAINER_KERNELS=direct) can forbid it. */
bool winograd_is_chosen(const struct conv_shape *shape);

/* Weights as winograd_run() wants them; of a multiple of GEMM_PANEL channels. */
size_t winograd_weight_floats(int in, int out);

/* weights: (out, in, 3, 3), or turned: (in, out, 3, 3), each turned by 180 degrees, as the input gradient wants them. */
void winograd_pack(const float *weights, int in, int out, bool turned, float *packed, int threads);

struct winograd {
	int in, out; /* channels */
	int pictures, height, width;
	const float *x;      /* (pictures, height, width, in) */
	const float *packed; /* by winograd_pack() */
	float *y;            /* (pictures, height, width, out) */
	bool add;            /* y += */
	float *work;         /* winograd_work_floats(), aligned to 64 bytes */
	int threads;
};

/* Enough for any number of pictures. */
size_t winograd_work_floats(int in, int threads);

void winograd_run(const struct winograd *w);

#endif
