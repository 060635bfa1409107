#include "trainer/reg/mixup.h"

#include <math.h>

#include "shared/base/check.h"
#include "shared/base/rng.h"

/* Attempts of the rejection samplers; each fails with probability below 0.5. */
enum { ATTEMPTS_MAX = 200 };

/* Two uniform numbers in (0, 1) of attempt number i. */
static void two_uniforms(double out[2], struct rng_key key, uint64_t step, uint32_t picture, uint32_t caption, uint32_t i)
{
	struct rng_block r = rng_philox(key, i, picture, caption, (uint32_t)step);

	out[0] = ((double)(((uint64_t)r.v[0] << 21) ^ (r.v[1] >> 11)) + 0.5) / 9007199254740992.0;
	out[1] = ((double)(((uint64_t)r.v[2] << 21) ^ (r.v[3] >> 11)) + 0.5) / 9007199254740992.0;
}

static struct rng_key key_of(uint64_t seed, uint64_t step)
{
	struct rng_key key = rng_key(seed, RNG_MIXUP);

	key.k1 ^= (uint32_t)(step >> 32);
	return key;
}

/* Marsaglia and Tsang, "A simple method for generating gamma variables", 2000; alpha >= 1. */
static double gamma_draw(double alpha, struct rng_key key, uint64_t step, uint32_t picture, uint32_t caption, uint32_t from)
{
	double d = alpha - 1.0 / 3, c = 1.0 / sqrt(9.0 * d);

	for (uint32_t i = 0; i < ATTEMPTS_MAX; i++) {
		double u[2], w[2], x, v;

		two_uniforms(u, key, step, picture, caption, from + 2 * i);
		two_uniforms(w, key, step, picture, caption, from + 2 * i + 1);
		x = sqrt(-2.0 * log(u[0])) * cos(6.283185307179586 * u[1]);
		v = 1.0 + c * x;
		v = v * v * v;
		if (v > 0 && log(w[0]) < 0.5 * x * x + d - d * v + d * log(v))
			return d * v;
	}
	return d;
}

double mixup_beta(double alpha, uint64_t seed, uint64_t step, uint32_t picture, uint32_t caption)
{
	struct rng_key key = key_of(seed, step);

	if (alpha > 1.0) {
		double a = gamma_draw(alpha, key, step, picture, caption, 1);
		double b = gamma_draw(alpha, key, step, picture, caption, 1 + 2 * ATTEMPTS_MAX);

		return a / (a + b);
	}
	/* Johnk's method, in logarithms because u^(1/alpha) underflows for a small alpha. */
	for (uint32_t i = 0; i < ATTEMPTS_MAX; i++) {
		double u[2], a, b, most;

		two_uniforms(u, key, step, picture, caption, 1 + i);
		a = log(u[0]) / alpha;
		b = log(u[1]) / alpha;
		most = a > b ? a : b;
		if (most + log1p(exp(-fabs(a - b))) <= 0)
			return exp(a - most) / (exp(a - most) + exp(b - most));
	}
	return 0.5;
}

void mixup_draw(const struct model_pairs *pairs, const uint32_t *picture, const uint32_t *caption, double alpha, uint64_t seed,
		uint64_t step, uint32_t *partner, float *share, double *sums)
{
	struct rng_key key = key_of(seed, step);
	double total = 0;

	for (int n = 0; n < pairs->count; n++)
		sums[n] = total += pairs->weight == NULL ? 1.0 : (double)pairs->weight[n];
	for (int n = 0; n < pairs->count; n++) {
		double u[2];
		int low = 0, high = pairs->count - 1;

		two_uniforms(u, key, step, picture[n], caption[n], 0);
		while (low < high) { /* the first whose running sum is above u * total */
			int middle = (low + high) / 2;

			if (sums[middle] > u[0] * total)
				high = middle;
			else
				low = middle + 1;
		}
		partner[n] = (uint32_t)low;
		share[n] = (float)mixup_beta(alpha, seed, step, picture[n], caption[n]);
	}
}
