#include "tests/support/floats.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "shared/base/mem.h"
#include "shared/base/rng.h"

static float *floats(size_t n)
{
	float *p = mem_aligned(n * sizeof(*p));

	assert_non_null(p);
	return p;
}

float *noise(size_t n, uint32_t name)
{
	float *p = floats(n);
	struct rng_key key = rng_key(name, RNG_NOISE);

	for (size_t i = 0; i < n; i++)
		p[i] = 2 * rng_unit(rng_philox(key, (uint32_t)i, 0, 0, 0).v[0]) - 1;
	return p;
}

float *filled(size_t n, float value)
{
	float *p = floats(n);

	for (size_t i = 0; i < n; i++)
		p[i] = value;
	return p;
}
