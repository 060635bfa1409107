/* The loops of image_rows.h for AVX-512. The target must be chosen before any
 * header, and no function of this file may run before the processor is asked. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,fma,prefer-vector-width=512")
#define ROWS_TABLE avx512_table
#define ROWS_NAME "avx512"
#include "trainer/kernels/image_rows_body.h"

const struct image_rows *image_rows_avx512(void)
{
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
			       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")
		       ? &avx512_table
		       : NULL;
}
#else
#include "trainer/kernels/image_rows.h"

const struct image_rows *image_rows_avx512(void)
{
	return NULL;
}
#endif
