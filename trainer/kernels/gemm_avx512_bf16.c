/*
 * gemm_avx512_bf16.c - the tiles of gemm_tile.h for pairs of bf16, by AVX512_BF16's dot products, and what zips pairs.
 *
 * VDPBF16PS adds the product of the upper halves to each sum, then that of the lower halves, rounding to nearest each time; it takes numbers
 * below 1.2e-38 for zero.
 */
#include "trainer/kernels/gemm_tile.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <cpuid.h>
#include <immintrin.h>
#include <string.h>
#ifndef EMULATED_AVX512 /* tests/emulated */
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512bf16")
#endif

/* The same bits under the name of another type. */
static inline __attribute__((always_inline)) __m512bh pairs_in(__m512 words)
{
	__m512bh pairs;

	memcpy(&pairs, &words, sizeof(pairs));
	return pairs;
}

#define MULTIPLY_ADD(a, b, sum) _mm512_dpbf16_ps(sum, pairs_in(a), pairs_in(b))
#include "trainer/kernels/gemm_avx512_body.h"

/* A bit for each of the first `count` of LANES elements. */
INLINE __mmask16 first_of(size_t count)
{
	return count >= LANES ? 0xffff : (__mmask16)((1u << count) - 1);
}

/* Words of the elements of two lines that the mask names. */
INLINE __m512i zipped(const uint16_t *even, const uint16_t *odd, __mmask16 mask)
{
	const __m512i in_turns = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3,
						  18, 2, 17, 1, 16, 0);
	__m256i lower = _mm256_maskz_loadu_epi16(mask, even), upper = _mm256_maskz_loadu_epi16(mask, odd);

	return _mm512_permutexvar_epi16(in_turns, _mm512_inserti64x4(_mm512_castsi256_si512(lower), upper, 1));
}

static void zip(const uint16_t *even, const uint16_t *odd, size_t count, size_t apart, float *to)
{
	size_t i = 0;

	for (; i + LANES <= count; i += LANES, to += apart)
		_mm512_storeu_si512(to, zipped(even + i, odd + i, 0xffff));
	if (i < count)
		_mm512_storeu_si512(to, zipped(even + i, odd + i, first_of(count - i)));
}

/* AMX multiplies several times as fast; oneDNN has kernels for it. */
static bool has_amx(void)
{
	enum { AMX_BF16 = 1 << 22 };
	unsigned a, b, c, d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & AMX_BF16) != 0;
}

const struct gemm_tiles *gemm_tiles_bf16(void)
{
	static const struct gemm_tiles tiles = { .tall = TALL, .wide = WIDE, .by_rows = by_rows, .by_columns = by_columns,
						 .zip = zip };
	static int usable = -1; /* CPUID takes microseconds in a virtual machine */

	if (usable < 0) {
		__builtin_cpu_init();
		usable = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
			 !has_amx();
	}
	return usable ? &tiles : NULL;
}

#else

const struct gemm_tiles *gemm_tiles_bf16(void)
{
	return NULL;
}

#endif
