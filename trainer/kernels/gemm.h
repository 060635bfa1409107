/*
 * gemm.h - matrix products of our own: c (m, n) = or += a (m, k) b (k, n), with
 * operands taken from where they lie.
 *
 * For processors with AVX2 or AVX-512, where they come closer to the
 * multiply-add peak at this model's shapes than the libraries do (tools/bench/bench_gemm.c
 * measures both). Elsewhere gemm_is_chosen() says no, and OpenBLAS and oneDNN do the work.
 *
 * The structure is that of Goto and van de Geijn (Anatomy of High-Performance
 * Matrix Multiplication, 2008) and BLIS: blocks of both operands are copied into
 * the order in which a tile of 6 x 16 results (with AVX-512 a block of 12 x 32), kept in registers, reads them. Copying
 * is where an operand's form is dealt with, so a transposed matrix costs no pass of its
 * own, and a convolution's windows are copied straight out of the pictures: im2col
 * never exists in memory.
 *
 * Exactness: each element of c is sum over blocks of at most GEMM_K_BLOCK terms, each a chain of
 * fused multiply-adds in the order of k, and the blocks' sums are added in order. That depends on
 * k alone: not on m, n, the element's place, the number of threads, or which of the two instruction sets there is.
 * In bf16 blocks have twice as many terms, added as VDPBF16PS does it: of each two neighbours the second one's product first.
 *
 * Threads:   one caller; the OpenMP team works inside. Whoever is free takes the next piece.
 * Ownership: all operands are borrowed. Blocks live in static memory, touched when first used.
 * Limits:    GEMM_THREADS_MAX threads take part.
 */
#ifndef TRAINER_KERNELS_GEMM_H
#define TRAINER_KERNELS_GEMM_H

#include <stdbool.h>
#include <stddef.h>

enum {
	GEMM_THREADS_MAX = 64,
	GEMM_K_BLOCK = 256,
	GEMM_PANEL = 16,     /* columns of b that are packed side by side */
	GEMM_PARTS_MAX = 8,
};

/* What a matrix is made of. */
enum gemm_form {
	GEMM_ROWS,    /* element (i, j) at data[i * ld + j] */
	GEMM_COLUMNS, /* element (i, j) at data[j * ld + i]: transposed */
	GEMM_WINDOWS, /* row i is window i of pictures; struct gemm_windows */
	GEMM_PANELS,  /* b alone: packed by gemm_pack_panels(), or in the same order */
};

/*
 * The windows of NHWC pictures: row i of the matrix is what window i sees, (taps_y, taps_x, channels), zero
 * outside of the picture. Windows are counted picture by picture, line by line.
 */
struct gemm_windows {
	int channels, height, width; /* of the pictures */
	int taps_y, taps_x;
	int step;                    /* pixels from one window to the next */
	int first_y, first_x;        /* upper left pixel of the first window; negative: in the padding */
	int grid_height, grid_width; /* windows of a picture */
};

/* Rows of c that are pixels of NHWC pictures: every step-th from a first one on, as many as the windows. */
struct gemm_pixels {
	int height, width; /* of the pictures; their channels are ldc */
	int step, first_y, first_x;
};

struct gemm {
	size_t m, n, k;
	enum gemm_form a_form, b_form;
	bool bf16;                    /* a and b are not floats but uint16_t (bf16.h); sums and c are floats. a: GEMM_COLUMNS; b: GEMM_ROWS, or
	                               * GEMM_WINDOWS of pictures with an even number of channels */
	const void *a, *b;
	size_t lda, ldb;              /* of GEMM_ROWS and GEMM_COLUMNS */
	struct gemm_windows windows;  /* of a or b */
	float *c;
	size_t ldc;
	const struct gemm_pixels *pixels; /* NULL: row i of c is at c + i * ldc */
	bool add;
};

/* Whether this processor is one for these kernels, and the environment (TRAINER_KERNELS=libraries) does not forbid it. */
bool gemm_is_chosen(void);

/* The same for products in bf16: AVX512_BF16 is there, and no AMX, which oneDNN uses. */
bool gemm_bf16_is_chosen(void);

/* With m or n 0 nothing happens; with k 0 c becomes 0 unless it is added to. */
void gemm_run(const struct gemm *g, int threads);

/*
 * Products whose k is long and whose result is small, such as the weight gradients of convolutions on large pictures: k is
 * cut into gemm_parts() pieces, each with a result of its own, (parts, m, n) without gaps, which the caller adds up. How many
 * is decided by the shape alone. g's c, ldc and add are not read; pixels must be NULL.
 */
int gemm_parts(size_t m, size_t n, size_t k);
void gemm_run_parts(const struct gemm *g, int parts, float *results, int threads);

/* Panels of b (k, n): ceil(n / GEMM_PANEL) of (k, GEMM_PANEL), the last one padded with zeros, each
 * gemm_panel_floats(k) floats behind the one before. */
static inline size_t gemm_panel_floats(size_t k)
{
	return (k + 1) * GEMM_PANEL; /* one line more: panels of 16 kB would share their places in the cache */
}

static inline size_t gemm_panels_floats(size_t k, size_t n)
{
	return (n + GEMM_PANEL - 1) / GEMM_PANEL * gemm_panel_floats(k);
}

/* form: GEMM_ROWS or GEMM_COLUMNS. */
void gemm_pack_panels(enum gemm_form form, const float *b, size_t ldb, size_t k, size_t n, float *panels, int threads);

#endif
