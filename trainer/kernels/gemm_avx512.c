/* The tiles of gemm_tile.h for AVX-512. What only moves floats is gemm_avx2.c's. */
#include "trainer/kernels/gemm_tile.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#ifndef EMULATED_AVX512 /* tests/emulated */
#pragma GCC target("avx512f")
#endif

#define MULTIPLY_ADD(a, b, sum) _mm512_fmadd_ps(a, b, sum)
#include "trainer/kernels/gemm_avx512_body.h"

const struct gemm_tiles *gemm_tiles_avx512(void)
{
	static struct gemm_tiles tiles = { .tall = TALL, .wide = WIDE, .by_rows = by_rows, .by_columns = by_columns };
	const struct gemm_tiles *moves = gemm_tiles_avx2();

	__builtin_cpu_init();
	if (moves == NULL || !__builtin_cpu_supports("avx512f"))
		return NULL;
	if (tiles.turn == NULL) { /* once: threads that work together ask, too */
		tiles.narrow = moves->narrow;
		tiles.turn = moves->turn;
	}
	return &tiles;
}

#else

const struct gemm_tiles *gemm_tiles_avx512(void)
{
	return NULL;
}

#endif
