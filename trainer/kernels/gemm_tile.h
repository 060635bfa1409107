/*
 * gemm_tile.h - inside gemm.c: the loops that depend on the processor.
 *
 * Private to kernels/. A tile is GEMM_TILE_ROWS x GEMM_PANEL elements of c. Its rows of a are packed
 * in one of two orders, its columns of b as a panel, (depth, GEMM_PANEL). Where registers hold more, several tiles below and
 * beside one another are one block. Operands are packed the same for all processors, and each
 * element of c is the same chain of multiply-adds, so the results' bits are the same, too.
 */
#ifndef TRAINER_KERNELS_GEMM_TILE_H
#define TRAINER_KERNELS_GEMM_TILE_H

#include <stdint.h>

#include "trainer/kernels/gemm.h"

enum {
	GEMM_TILE_ROWS = 6,
	GEMM_ROW_FLOATS = GEMM_K_BLOCK + 16, /* from one packed row of a to the next */
	GEMM_BLOCK_TALL = 2, /* at most */
	GEMM_BLOCK_WIDE = 2,
	GEMM_ASKS = 2,
	GEMM_ASK_STEP_MAX = 8, /* floats: half a line, so that every other k may ask */
};

/*
 * Memory that will be wanted soon, asked for while there is something to compute: operands that come from memory would be waited
 * for otherwise. Floats from .. from + step * depth of a block, a line of the cache at a time; step is at most GEMM_ASK_STEP_MAX.
 */
struct gemm_ask {
	const float *from; /* never NULL; with step 0 nothing is wanted */
	size_t step;
};

/* Tiles that are computed together. */
struct gemm_block {
	size_t tall, wide; /* at least 1, at most those of struct gemm_tiles */
	size_t a_apart;    /* by_columns: floats from one tile's columns of a to those of the tile below */
	size_t a_step;     /* and from one column to the next: GEMM_TILE_ROWS, but for pairs of bf16 */
	size_t b_apart;    /* floats from one panel of b to the next */
	size_t b_step;     /* and from one row of a panel to the next: GEMM_PANEL where they are packed */
	size_t depth;
	bool add;
	struct gemm_ask ask[GEMM_ASKS];
};

struct gemm_tiles {
	size_t tall, wide; /* of the largest block */
	/* rows[r][column ...] = or += a b, where a is packed as rows, GEMM_ROW_FLOATS apart ... */
	void (*by_rows)(const struct gemm_block *block, const float *a, const float *b, float *const *rows, size_t column);
	/* ... or as columns, (depth, GEMM_TILE_ROWS) */
	void (*by_columns)(const struct gemm_block *block, const float *a, const float *b, float *const *rows, size_t column);
	/* to (depth, GEMM_PANEL) = from (GEMM_PANEL, depth; ld) turned */
	void (*turn)(const float *from, size_t ld, size_t depth, float *to);
	/* tile t at to + t * apart, (depth, GEMM_TILE_ROWS), = columns GEMM_TILE_ROWS * t ... of from (depth, ld); reads and
	 * writes 2 floats beyond each tile */
	void (*narrow)(const float *from, size_t ld, size_t depth, size_t count, size_t apart, float *to);
	/* Tables for pairs of bf16 alone: `count` elements of two lines zipped into words, GEMM_PANEL at a time to + t * apart; the last
	 * ones are filled up with zeros. */
	void (*zip)(const uint16_t *even, const uint16_t *odd, size_t count, size_t apart, float *to);
};

/* NULL: not for this processor. */
const struct gemm_tiles *gemm_tiles_avx2(void);
const struct gemm_tiles *gemm_tiles_avx512(void);

/* For products in bf16. NULL: not for this processor; also where it has AMX. */
const struct gemm_tiles *gemm_tiles_bf16(void);

/* What gemm.h and winograd.h use: the widest that the processor has; NULL: none. */
const struct gemm_tiles *gemm_tiles(void);

/* For tests: others, from now on. */
void gemm_use_tiles(const struct gemm_tiles *tiles);

#endif
