/* The transforms of winograd_parts.h for AVX2: eight channels at a time. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx2,fma")
#define WINOGRAD_LANES 8
#define WINOGRAD_STEPS steps_avx2
#include "trainer/kernels/winograd_body.h"

const struct winograd_steps *winograd_steps_avx2(void)
{
	return gemm_tiles_avx2() != NULL ? &steps_avx2 : NULL;
}

#else
#include "trainer/kernels/winograd_parts.h"

const struct winograd_steps *winograd_steps_avx2(void)
{
	return NULL;
}

#endif
