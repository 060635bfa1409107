/* The loops of image_rows.h for AVX2, as in image_rows_avx512.c. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx2,fma")
#define ROWS_TABLE avx2_table
#define ROWS_NAME "avx2"
#include "trainer/kernels/image_rows_body.h"

const struct image_rows *image_rows_avx2(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &avx2_table : NULL;
}
#else
#include "trainer/kernels/image_rows.h"

const struct image_rows *image_rows_avx2(void)
{
	return NULL;
}
#endif
