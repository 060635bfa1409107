/*
 * idct_avx2.c - idct.h on AVX2.
 *
 * A pass makes outputs j and 7 - j as even(j) + odd(j) and even(j) - odd(j), where
 *   even = 8192 x0 +- 10703 x2 (j = 0, 3) or 8192 x0 +- 4433 x2 (j = 1, 2)
 *   odd  = 11363 x1 + 9633 x3, 9633 x1 - 2259 x3, 6437 x1 - 11362 x3, 2260 x1 - 6436 x3
 * are the sums that libjpeg's steps come to when x4 to x7 are 0; the constants
 * are sums of its own, so that the integers are the same. Each is one vpmaddwd.
 */
#include "preprocessd/codec/idct.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx2")))
#define TARGET_INLINE TARGET __attribute__((always_inline)) static inline

enum {
	CONST_BITS = 13,
	PASS1_BITS = 2, /* more precise than samples between the passes */
	SHIFT_1 = CONST_BITS - PASS1_BITS,
	SHIFT_2 = CONST_BITS + PASS1_BITS + 3,
	CENTER = 128,
};

/* Factors of two words each for vpmaddwd, the second four for the upper half. In memory, because compilers would
 * rather put them together anew for each block. */
#define ALL(a, b) { a, b, a, b, a, b, a, b, a, b, a, b, a, b, a, b }
#define HALVES(a, b, c, d) { a, b, a, b, a, b, a, b, c, d, c, d, c, d, c, d }

struct words {
	_Alignas(32) int16_t at[16];
};

static const struct words EVEN_01 = { HALVES(8192, 10703, 8192, 4433) }, EVEN_32 = { HALVES(8192, -10703, 8192, -4433) };
static const struct words ODD_01 = { HALVES(11363, 9633, 9633, -2259) }, ODD_32 = { HALVES(2260, -6436, 6437, -11362) };
static const struct words EVEN[4] = { { ALL(8192, 10703) }, { ALL(8192, 4433) }, { ALL(8192, -4433) }, { ALL(8192, -10703) } };
static const struct words ODD[4] = { { ALL(11363, 9633) }, { ALL(9633, -2259) }, { ALL(6437, -11362) }, { ALL(2260, -6436) } };

TARGET_INLINE __m256i times(__m256i words, const struct words *factors)
{
	return _mm256_madd_epi16(words, _mm256_load_si256((const __m256i *)factors->at));
}

TARGET_INLINE void store_two(uint8_t *first, uint8_t *second, __m128i rows)
{
	_mm_storel_epi64((__m128i *)first, rows);
	_mm_storeh_pi((__m64 *)second, _mm_castsi128_ps(rows));
}

TARGET static bool corner(const int16_t *coefficients, const uint16_t *quantization, uint8_t *const *rows, size_t column)
{
	/* Rows 0 and 1, 2 and 3; columns 4 to 7 are along for the ride. */
	const __m256i rows_01 = _mm256_mullo_epi16(_mm256_loadu_si256((const __m256i *)coefficients),
						   _mm256_loadu_si256((const __m256i *)quantization));
	const __m256i rows_23 = _mm256_mullo_epi16(_mm256_loadu_si256((const __m256i *)(coefficients + 16)),
						   _mm256_loadu_si256((const __m256i *)(quantization + 16)));
	/* Columns: (row 0, row 2) in the lower half, (row 1, row 3) in the upper. */
	const __m256i pairs = _mm256_unpacklo_epi16(rows_01, rows_23);
	const __m256i even = _mm256_permute2x128_si256(pairs, pairs, 0x00), odd = _mm256_permute2x128_si256(pairs, pairs, 0x11);
	const __m256i magnitudes = _mm256_or_si256(_mm256_abs_epi16(rows_01), _mm256_abs_epi16(rows_23));
	const __m256i half_1 = _mm256_set1_epi32(1 << (SHIFT_1 - 1));
	const __m256i even_01 = _mm256_add_epi32(times(even, &EVEN_01), half_1);
	const __m256i even_32 = _mm256_add_epi32(times(even, &EVEN_32), half_1);
	const __m256i odd_01 = times(odd, &ODD_01);
	const __m256i odd_32 = times(odd, &ODD_32);
	const __m256i out_01 = _mm256_srai_epi32(_mm256_add_epi32(even_01, odd_01), SHIFT_1);
	const __m256i out_76 = _mm256_srai_epi32(_mm256_sub_epi32(even_01, odd_01), SHIFT_1);
	const __m256i out_32 = _mm256_srai_epi32(_mm256_add_epi32(even_32, odd_32), SHIFT_1);
	const __m256i out_45 = _mm256_srai_epi32(_mm256_sub_epi32(even_32, odd_32), SHIFT_1);
	/* Rows of four: 0, 3 | 1, 2 and 7, 4 | 6, 5; in each, columns 0, 2, 1, 3. */
	const __m256i order = _mm256_set_epi8(15, 14, 11, 10, 13, 12, 9, 8, 7, 6, 3, 2, 5, 4, 1, 0, 15, 14, 11, 10, 13, 12, 9, 8, 7, 6, 3,
					      2, 5, 4, 1, 0);
	const __m256 rows_03_12 = _mm256_castsi256_ps(_mm256_shuffle_epi8(_mm256_packs_epi32(out_01, out_32), order));
	const __m256 rows_74_65 = _mm256_castsi256_ps(_mm256_shuffle_epi8(_mm256_packs_epi32(out_76, out_45), order));
	/* Second pass, on all rows at once: 0, 3, 7, 4 | 1, 2, 6, 5. */
	const __m256i columns_02 = _mm256_castps_si256(_mm256_shuffle_ps(rows_03_12, rows_74_65, 0x88));
	const __m256i columns_13 = _mm256_castps_si256(_mm256_shuffle_ps(rows_03_12, rows_74_65, 0xDD));
	const __m256i half_2 = _mm256_set1_epi32(1 << (SHIFT_2 - 1));
	const __m256i even_0 = _mm256_add_epi32(times(columns_02, &EVEN[0]), half_2);
	const __m256i even_1 = _mm256_add_epi32(times(columns_02, &EVEN[1]), half_2);
	const __m256i even_2 = _mm256_add_epi32(times(columns_02, &EVEN[2]), half_2);
	const __m256i even_3 = _mm256_add_epi32(times(columns_02, &EVEN[3]), half_2);
	const __m256i odd_0 = times(columns_13, &ODD[0]);
	const __m256i odd_1 = times(columns_13, &ODD[1]);
	const __m256i odd_2 = times(columns_13, &ODD[2]);
	const __m256i odd_3 = times(columns_13, &ODD[3]);
	const __m256i column_01 = _mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(even_0, odd_0), SHIFT_2),
						     _mm256_srai_epi32(_mm256_add_epi32(even_1, odd_1), SHIFT_2));
	const __m256i column_23 = _mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(even_2, odd_2), SHIFT_2),
						     _mm256_srai_epi32(_mm256_add_epi32(even_3, odd_3), SHIFT_2));
	const __m256i column_45 = _mm256_packs_epi32(_mm256_srai_epi32(_mm256_sub_epi32(even_3, odd_3), SHIFT_2),
						     _mm256_srai_epi32(_mm256_sub_epi32(even_2, odd_2), SHIFT_2));
	const __m256i column_67 = _mm256_packs_epi32(_mm256_srai_epi32(_mm256_sub_epi32(even_1, odd_1), SHIFT_2),
						     _mm256_srai_epi32(_mm256_sub_epi32(even_0, odd_0), SHIFT_2));
	/* Samples, four columns of four rows in each half; turned, four rows of four columns. */
	const __m256i center = _mm256_set1_epi8((char)CENTER);
	const __m256i turn = _mm256_set_epi8(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0, 15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5,
					     1, 12, 8, 4, 0);
	const __m256i left = _mm256_shuffle_epi8(_mm256_add_epi8(_mm256_packs_epi16(column_01, column_23), center), turn);
	const __m256i right = _mm256_shuffle_epi8(_mm256_add_epi8(_mm256_packs_epi16(column_45, column_67), center), turn);
	const __m256i out_03_12 = _mm256_unpacklo_epi32(left, right), out_74_65 = _mm256_unpackhi_epi32(left, right);

	if (!_mm256_testz_si256(magnitudes, _mm256_set1_epi16((int16_t)0xE000)))
		return false;
	store_two(rows[0] + column, rows[3] + column, _mm256_castsi256_si128(out_03_12));
	store_two(rows[1] + column, rows[2] + column, _mm256_extracti128_si256(out_03_12, 1));
	store_two(rows[7] + column, rows[4] + column, _mm256_castsi256_si128(out_74_65));
	store_two(rows[6] + column, rows[5] + column, _mm256_extracti128_si256(out_74_65, 1));
	return true;
}

idct_fn *idct_corner_avx2(void)
{
	return __builtin_cpu_supports("avx2") ? corner : NULL;
}

#else

idct_fn *idct_corner_avx2(void)
{
	return NULL;
}

#endif
