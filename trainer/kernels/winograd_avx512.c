/* The transforms of winograd_parts.h for AVX-512: sixteen channels at a time. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#ifndef EMULATED_AVX512 /* tests/emulated */
#pragma GCC target("avx512f,fma")
#endif
#define WINOGRAD_LANES 16
#define WINOGRAD_STEPS steps_avx512
#include "trainer/kernels/winograd_body.h"

const struct winograd_steps *winograd_steps_avx512(void)
{
	return gemm_tiles_avx512() != NULL ? &steps_avx512 : NULL;
}

#else
#include "trainer/kernels/winograd_parts.h"

const struct winograd_steps *winograd_steps_avx512(void)
{
	return NULL;
}

#endif
