/* Row operations for processors with AVX2 and FMA. */
#include <string.h>

#include "trainer/kernels/row_ops.h"

#if defined(__x86_64__) && !defined(__clang__)
#include <immintrin.h>
#pragma GCC target("arch=x86-64-v3")
#pragma GCC optimize("fp-contract=fast") /* FMA where it helps: these are held to tolerances, not bits */

#define LANES 8
#define ROW_OPS row_ops_avx2
#define ROW_OPS_NAME "avx2"
#include "trainer/kernels/row_body.h"
#endif
