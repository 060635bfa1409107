/*
 * gemm_avx512_body.h - inside gemm_avx512.c and gemm_avx512_bf16.c: blocks of up to 24 sums of 16 floats in registers, two vectors of b,
 * one word of a at a time. MULTIPLY_ADD(a, b, sum) says what is done with words.
 */
#define INLINE static inline __attribute__((always_inline))

enum { LANES = 16, ROWS = GEMM_TILE_ROWS, TALL = GEMM_BLOCK_TALL, WIDE = GEMM_BLOCK_WIDE };

/* Row r, which is row r % ROWS of a tile, at a + tile * tile_step + row * row_step. All but tile_step are constants where this is inlined. */
INLINE void block_of(const struct gemm_block *block, int tall, int wide, const float *a, size_t tile_step, size_t row_step, size_t k_step,
		     const float *b, float *const *rows, size_t column)
{
	__m512 sums[TALL * ROWS][WIDE];
	struct gemm_ask first = block->ask[0], second = block->ask[1];
	size_t b_step = block->b_step;
	const float *b_of[WIDE] = { b, b + (wide - 1) * block->b_apart }, *a_of[TALL] = { a, a + (tall - 1) * tile_step };

#pragma GCC unroll 12
	for (int r = 0; r < tall * ROWS; r++)
#pragma GCC unroll 2
		for (int w = 0; w < wide; w++) {
			sums[r][w] = _mm512_setzero_ps();
			__builtin_prefetch(rows[r] + column + w * LANES, 1, 3);
		}
	for (size_t k = 0; k < block->depth; k++, first.from += first.step, second.from += second.step) {
		__m512 of_b[WIDE];

		__builtin_prefetch(first.from, 0, 2);
		__builtin_prefetch(second.from, 0, 2);
#pragma GCC unroll 2
		for (int w = 0; w < wide; w++)
			of_b[w] = _mm512_loadu_ps(b_of[w] + k * b_step);
#pragma GCC unroll 12
		for (int r = 0; r < tall * ROWS; r++) {
			__m512 element = _mm512_set1_ps(a_of[r / ROWS][(size_t)(r % ROWS) * row_step + k * k_step]);

#pragma GCC unroll 2
			for (int w = 0; w < wide; w++)
				sums[r][w] = MULTIPLY_ADD(element, of_b[w], sums[r][w]);
		}
	}
#pragma GCC unroll 12
	for (int r = 0; r < tall * ROWS; r++)
#pragma GCC unroll 2
		for (int w = 0; w < wide; w++) {
			float *to = rows[r] + column + w * LANES;

			if (block->add)
				sums[r][w] = _mm512_add_ps(_mm512_loadu_ps(to), sums[r][w]);
			_mm512_storeu_ps(to, sums[r][w]);
		}
}

INLINE void any_block(const struct gemm_block *block, const float *a, size_t tile_step, size_t row_step, size_t k_step, const float *b,
		      float *const *rows, size_t column)
{
	if (block->tall == 2 && block->wide == 2)
		block_of(block, 2, 2, a, tile_step, row_step, k_step, b, rows, column);
	else if (block->tall == 2)
		block_of(block, 2, 1, a, tile_step, row_step, k_step, b, rows, column);
	else if (block->wide == 2)
		block_of(block, 1, 2, a, tile_step, row_step, k_step, b, rows, column);
	else
		block_of(block, 1, 1, a, tile_step, row_step, k_step, b, rows, column);
}

static void by_rows(const struct gemm_block *block, const float *a, const float *b, float *const *rows, size_t column)
{
	any_block(block, a, (size_t)ROWS * GEMM_ROW_FLOATS, GEMM_ROW_FLOATS, 1, b, rows, column);
}

static void by_columns(const struct gemm_block *block, const float *a, const float *b, float *const *rows, size_t column)
{
	any_block(block, a, block->a_apart, 1, block->a_step, b, rows, column);
}
