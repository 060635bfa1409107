/* Row operations for processors with AVX-512 (F, BW, CD, DQ, VL). */
#include <string.h>

#include "trainer/kernels/row_ops.h"

#if defined(__x86_64__) && !defined(__clang__)
#include <immintrin.h>
#pragma GCC target("arch=x86-64-v4")
#pragma GCC optimize("fp-contract=fast") /* FMA where it helps: these are held to tolerances, not bits */

#define LANES 16
#define ROW_OPS row_ops_avx512
#define ROW_OPS_NAME "avx512"
#include "trainer/kernels/row_body.h"
#endif
