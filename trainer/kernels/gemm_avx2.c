/* The tiles of gemm_tile.h for AVX2 with FMA: 12 sums of 8 floats in registers, two vectors of b, one element of a at a time. */
#include "trainer/kernels/gemm_tile.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#pragma GCC target("avx2,fma")

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 8, ROWS = GEMM_TILE_ROWS };

/* One k: element r of a at a[r * row_step]. */
INLINE void add_products(const float *a, size_t row_step, const float *b, __m256 *low, __m256 *high)
{
	__m256 b_low = _mm256_loadu_ps(b), b_high = _mm256_loadu_ps(b + LANES);

#pragma GCC unroll 6
	for (int r = 0; r < ROWS; r++) {
		__m256 element = _mm256_broadcast_ss(a + (size_t)r * row_step);

		low[r] = _mm256_fmadd_ps(element, b_low, low[r]);
		high[r] = _mm256_fmadd_ps(element, b_high, high[r]);
	}
}

/* Element (r, k) of a at a[r * row_step + k * k_step]; both are constants where this is inlined. */
INLINE void tile(const struct gemm_block *block, const float *a, size_t row_step, size_t k_step, const float *b, float *const *rows,
		 size_t column)
{
	__m256 low[ROWS], high[ROWS];
	struct gemm_ask first = block->ask[0], second = block->ask[1];
	size_t b_step = block->b_step, k = block->depth;

#pragma GCC unroll 6
	for (int r = 0; r < ROWS; r++) {
		low[r] = high[r] = _mm256_setzero_ps();
		__builtin_prefetch(rows[r] + column, 1, 3);
		__builtin_prefetch(rows[r] + column + GEMM_PANEL - 1, 1, 3);
	}
	for (; k >= 2; k -= 2, a += 2 * k_step, b += 2 * b_step) {
		__builtin_prefetch(first.from, 0, 2);
		add_products(a, row_step, b, low, high);
		__builtin_prefetch(second.from, 0, 2);
		add_products(a + k_step, row_step, b + b_step, low, high);
		first.from += 2 * first.step;
		second.from += 2 * second.step;
	}
	if (k > 0)
		add_products(a, row_step, b, low, high);
#pragma GCC unroll 6
	for (int r = 0; r < ROWS; r++) {
		float *to = rows[r] + column;

		if (block->add) {
			low[r] = _mm256_add_ps(_mm256_loadu_ps(to), low[r]);
			high[r] = _mm256_add_ps(_mm256_loadu_ps(to + LANES), high[r]);
		}
		_mm256_storeu_ps(to, low[r]);
		_mm256_storeu_ps(to + LANES, high[r]);
	}
}

static void by_rows(const struct gemm_block *block, const float *a, const float *b, float *const *rows, size_t column)
{
	tile(block, a, GEMM_ROW_FLOATS, 1, b, rows, column);
}

static void by_columns(const struct gemm_block *block, const float *a, const float *b, float *const *rows, size_t column)
{
	tile(block, a, 1, ROWS, b, rows, column);
}

/* Eight rows of eight, turned. */
INLINE void turn_8x8(const float *from, size_t ld, float *to)
{
	__m256 in[LANES], pair[LANES], quad[LANES];

#pragma GCC unroll 8
	for (int r = 0; r < LANES; r++)
		in[r] = _mm256_loadu_ps(from + (size_t)r * ld);
#pragma GCC unroll 4
	for (int r = 0; r < LANES; r += 2) {
		pair[r] = _mm256_unpacklo_ps(in[r], in[r + 1]);
		pair[r + 1] = _mm256_unpackhi_ps(in[r], in[r + 1]);
	}
#pragma GCC unroll 2
	for (int r = 0; r < LANES; r += 4) {
		quad[r] = _mm256_shuffle_ps(pair[r], pair[r + 2], 0x44);
		quad[r + 1] = _mm256_shuffle_ps(pair[r], pair[r + 2], 0xee);
		quad[r + 2] = _mm256_shuffle_ps(pair[r + 1], pair[r + 3], 0x44);
		quad[r + 3] = _mm256_shuffle_ps(pair[r + 1], pair[r + 3], 0xee);
	}
#pragma GCC unroll 4
	for (int r = 0; r < 4; r++) {
		_mm256_storeu_ps(to + r * GEMM_PANEL, _mm256_permute2f128_ps(quad[r], quad[r + 4], 0x20));
		_mm256_storeu_ps(to + (r + 4) * GEMM_PANEL, _mm256_permute2f128_ps(quad[r], quad[r + 4], 0x31));
	}
}

/* Eight rows at a time: with a width of powers of two more would not fit into the same place of the cache. */
static void turn(const float *from, size_t ld, size_t depth, float *to)
{
	size_t whole = depth / LANES * LANES;

	for (size_t n = 0; n < GEMM_PANEL; n += LANES)
		for (size_t k = 0; k < whole; k += LANES)
			turn_8x8(from + n * ld + k, ld, to + k * GEMM_PANEL + n);
	for (size_t k = whole; k < depth; k++)
		for (size_t n = 0; n < GEMM_PANEL; n++)
			to[k * GEMM_PANEL + n] = from[n * ld + k];
}

static void narrow(const float *from, size_t ld, size_t depth, size_t count, size_t apart, float *to)
{
	for (size_t k = 0; k < depth; k++, from += ld, to += ROWS)
		for (size_t t = 0; t < count; t++)
			_mm256_storeu_ps(to + t * apart, _mm256_loadu_ps(from + t * ROWS));
}

const struct gemm_tiles *gemm_tiles_avx2(void)
{
	static const struct gemm_tiles tiles = { .tall = 1, .wide = 1, .by_rows = by_rows, .by_columns = by_columns, .turn = turn,
						 .narrow = narrow };

	__builtin_cpu_init();
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &tiles : NULL;
}

#else

const struct gemm_tiles *gemm_tiles_avx2(void)
{
	return NULL;
}

#endif
