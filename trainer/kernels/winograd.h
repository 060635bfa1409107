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
 * Exactness: the sums over 9 * in terms become 16 over `in` and a few additions; G only halves. Errors are rounding's: relative root mean
 * squares of 2.3e-7 at 64 channels, 2.9e-7 at 128, 4.4e-7 at 512, 4.0e-7 in a weight gradient, 1.4 to 2 times those of gemm.h's direct
 * product (tests/unit/test_winograd.c prints both). PyTorch's convolutions with oneDNN have 2.0e-7, 4.1e-7, 7.9e-7 and 5.0e-7 on such
 * numbers. Larger tiles, as F(4x4, 3x3), would save more and lose digits; they are not here. Each of the 16 sums is a chain of
 * fused multiply-adds in blocks of at most GEMM_K_BLOCK channels, added in order. It depends on `in` alone: not on the
 * picture's place, its company, the number of threads, or which instructions of gemm_tile.h there are.
 * Infinity or NaN in a pixel reaches all results of its patches, up to one more
 * pixel away than by the direct product.
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

/* Patches are transformed once for each channel, in and out, and multiplied once for each pair of them. With 16 channels there is too little
 * of the latter: the direct product is faster. */
enum { WINOGRAD_CHANNELS_MIN = 32 };

/* What the transforms take of the saving, a sixth to a third, has to be left over. So pictures of 3 x 3 pixels (1.27) or a single line (at
 * most 1.13) are done directly, those of 5 x 5 (1.56) and 7 x 7 (1.72; measured 1.5 to 1.6) not. */
#define WINOGRAD_SAVING_MIN 1.5

/* Whether this processor has the loops, and whether a convolution is of this kind. */
bool winograd_can(const struct conv_shape *shape);

/* Whether the environment (TRAINER_KERNELS=direct) does not forbid it. */
bool winograd_is_allowed(void);

/* Whether it is allowed, possible, and also faster than the direct product: decided by the shape alone, so that a run repeats its bits.
 * See the limits above and winograd_saving(); tools/bench/bench_winograd.c measures both ways. */
bool winograd_is_chosen(const struct conv_shape *shape);

/* Multiplications of the direct product by those of this one: 2.25, and less where odd sides leave patches half empty. */
double winograd_saving(int height, int width);

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

/*
 * The weight gradient, by the transpose of the same: G' (sum over patches of [(B' x B) * (A dy A')]) G, 16 products of (out, patches)
 * (patches, in). Sums go over at most GEMM_K_BLOCK patches in a chain, blocks are added in order: bits depend on the pictures of a call.
 * A thread takes a line of four positions and does all of it, transforms included, in memory of its own: where cores are far from one
 * another, as those of a virtual machine may be, what one has written is dear to read for the next.
 */
struct winograd_gradient {
	int in, out; /* channels */
	int pictures, height, width;
	const float *x, *dy; /* (pictures, height, width, in or out) */
	float *grad;         /* (out, in, 3, 3) += */
	float *work;         /* winograd_gradient_floats(), aligned to 64 bytes */
	int threads;
};

size_t winograd_gradient_floats(int in, int out, int threads);

void winograd_gradient_run(const struct winograd_gradient *w);

#endif
