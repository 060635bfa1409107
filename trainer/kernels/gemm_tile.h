/*
 * gemm_tile.h - inside gemm.c: the loops that depend on the processor.
 *
 * Private to kernels/. A tile is GEMM_TILE_ROWS x GEMM_PANEL elements of c. Its rows of a are packed
 * in one of two orders, its columns of b as a panel, (depth, GEMM_PANEL).
 */
#ifndef TRAINER_KERNELS_GEMM_TILE_H
#define TRAINER_KERNELS_GEMM_TILE_H

#include "trainer/kernels/gemm.h"

enum {
	GEMM_TILE_ROWS = 6,
	GEMM_ROW_FLOATS = GEMM_K_BLOCK + 16, /* from one packed row of a to the next */
};

struct gemm_tiles {
	/* rows[r][column ...] = or += a b, where a is packed as rows, GEMM_ROW_FLOATS apart ... */
	void (*by_rows)(const float *a, const float *b, size_t depth, float *const *rows, size_t column, bool add);
	/* ... or as columns, (depth, GEMM_TILE_ROWS) */
	void (*by_columns)(const float *a, const float *b, size_t depth, float *const *rows, size_t column, bool add);
	/* to (depth, GEMM_PANEL) = from (GEMM_PANEL, depth; ld) turned */
	void (*turn)(const float *from, size_t ld, size_t depth, float *to);
	/* tile t at to + t * apart, (depth, GEMM_TILE_ROWS), = columns GEMM_TILE_ROWS * t ... of from (depth, ld); reads and
	 * writes 2 floats beyond each tile */
	void (*narrow)(const float *from, size_t ld, size_t depth, size_t count, size_t apart, float *to);
};

/* NULL: not for this processor. */
const struct gemm_tiles *gemm_tiles_avx2(void);

#endif
