/* Row operations for any processor, and the choice among the versions. */
#include <string.h>

#include "shared/base/check.h"
#include "trainer/kernels/row_ops.h"

#define LANES 4
#define ROW_OPS row_ops_plain
#define ROW_OPS_NAME "plain"
#include "trainer/kernels/row_body.h"

static const struct row_ops *const versions[] = {
#if defined(__x86_64__) && !defined(__clang__)
	&row_ops_avx512, &row_ops_avx2,
#endif
	&row_ops_plain,
};

static bool supported(const struct row_ops *ops)
{
#if defined(__x86_64__) && !defined(__clang__)
	__builtin_cpu_init();
	if (ops == &row_ops_avx512)
		return __builtin_cpu_supports("x86-64-v4");
	if (ops == &row_ops_avx2)
		return __builtin_cpu_supports("x86-64-v3");
#endif
	(void)ops;
	return true;
}

static const struct row_ops *chosen; /* every thread that finds it unset stores the same pointer */

bool row_ops_use(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(versions); i++) {
		if (strcmp(versions[i]->name, name) != 0 || !supported(versions[i]))
			continue;
		__atomic_store_n(&chosen, versions[i], __ATOMIC_RELAXED);
		return true;
	}
	return false;
}

const struct row_ops *row_ops(void)
{
	const struct row_ops *ops = __atomic_load_n(&chosen, __ATOMIC_RELAXED);

	for (size_t i = 0; ops == NULL; i++) {
		if (!supported(versions[i]))
			continue;
		ops = versions[i];
		__atomic_store_n(&chosen, ops, __ATOMIC_RELAXED);
	}
	return ops;
}
