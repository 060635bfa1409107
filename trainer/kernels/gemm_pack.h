/*
 * gemm_pack.h - inside gemm.c: operands copied into the order in which tiles read them.
 *
 * Private to kernels/. k and depth count words: floats, or pairs of bf16 elements (k, k + 1), the first of them in the lower half. A
 * packed word is as wide as a float and is moved as one; only tiles and what makes pairs look inside.
 */
#ifndef TRAINER_KERNELS_GEMM_PACK_H
#define TRAINER_KERNELS_GEMM_PACK_H

#include "trainer/kernels/gemm_tile.h"
#include "trainer/kernels/shares.h"

enum {
	GEMM_M_BLOCK = 20 * GEMM_TILE_ROWS, /* packed rows of a: 130 kB, a quarter of the second-level cache */
	GEMM_N_BLOCK = 24 * GEMM_PANEL,     /* packed columns of b where they are packed for this product: 390 kB */
	GEMM_PAIRS_STEP = 9 * GEMM_PANEL,   /* pairs of a: from one word of k to the next; room for GEMM_M_BLOCK, not a power of two */
	GEMM_A_FLOATS = GEMM_K_BLOCK * GEMM_PAIRS_STEP, /* room for a block of a, however it is packed */
};
_Static_assert(GEMM_PAIRS_STEP >= GEMM_M_BLOCK && GEMM_A_FLOATS >= GEMM_M_BLOCK * GEMM_ROW_FLOATS, "blocks of a fit");

/* A place among windows or pixels, going from one to the next without dividing. */
struct cursor {
	size_t picture;
	int y, x;
};

static inline struct cursor cursor_at(size_t i, int grid_height, int grid_width)
{
	size_t line = i / (size_t)grid_width;

	return (struct cursor){ line / (size_t)grid_height, (int)(line % (size_t)grid_height), (int)(i % (size_t)grid_width) };
}

static inline void cursor_next(struct cursor *at, int grid_height, int grid_width)
{
	if (++at->x < grid_width)
		return;
	at->x = 0;
	if (++at->y < grid_height)
		return;
	at->y = 0;
	at->picture++;
}

/* From one tile's packed columns to the next: not a power of two, so that they lie in different places of the cache. */
static inline size_t gemm_columns_apart(size_t depth)
{
	return depth * GEMM_TILE_ROWS + 16;
}

/* Words k .. k + depth of rows m_first .. m_last of a, at most GEMM_M_BLOCK of them ... */
void gemm_pack_a(const struct gemm *g, size_t m_first, size_t m_last, size_t k, size_t depth, float *block);
/* ... and of columns n .. n + width of b, at most GEMM_N_BLOCK, into panels that lie `apart`. */
void gemm_pack_b(const struct gemm *g, size_t n, size_t width, size_t k, size_t depth, size_t apart, float *panels);

/* The same in bf16. */
void gemm_pack_a_pairs(const struct gemm *g, size_t m_first, size_t m_last, size_t k, size_t depth, float *block);
void gemm_pack_b_pairs(const struct gemm *g, size_t n, size_t width, size_t k, size_t depth, size_t apart, float *panels);

/* Elements first .. first + count of the window at a place. */
void gemm_copy_window(const struct gemm_windows *w, const float *pictures, struct cursor at, size_t first, size_t count, float *to);

#endif
