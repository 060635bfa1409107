#include "trainer/kernels/random_fill.h"

#include <string.h>

/* One body, compiled for three instruction sets and chosen when the program
 * starts; without contraction to FMA all three give the same bits. */
#if defined(__x86_64__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

/* Elements whose random words are drawn before they are turned into values:
 * large enough to vectorise, small enough for the first-level cache. */
enum { RUN = 256, RUN_BLOCKS = RUN / 4, RUN_PAIRS = RUN / 2 };

/* words[w][b]: word w of block b, so that each of the four is a plain array. */
static inline __attribute__((always_inline)) void draw_run(uint32_t words[4][RUN_BLOCKS], struct rng_key key, uint64_t first_block)
{
	for (int b = 0; b < RUN_BLOCKS; b++) {
		uint64_t at = first_block + (uint64_t)b;
		struct rng_block block = rng_philox(key, (uint32_t)at, (uint32_t)(at >> 32), 0, 0);

		for (int w = 0; w < 4; w++)
			words[w][b] = block.v[w];
	}
}

/* Natural logarithm of u in (0, 1], relative error below 1e-11: u = m * 2^e with
 * m in [1/sqrt 2, sqrt 2), ln m = 2 atanh((m - 1) / (m + 1)) by its series. */
static inline __attribute__((always_inline)) double log_of_unit(double u)
{
	uint64_t bits;
	double m, e;

	memcpy(&bits, &u, sizeof(bits));
	/* Adding the distance from sqrt(1/2) to 1 makes the exponent field round where m wraps. */
	uint64_t shifted = bits + (0x3FF0000000000000u - 0x3FE6A09E667F3BCDu);
	int32_t exponent = (int32_t)(shifted >> 52) - 1023;

	bits -= (uint64_t)(int64_t)exponent << 52;
	memcpy(&m, &bits, sizeof(m));
	e = (double)exponent;
	double s = (m - 1.0) / (m + 1.0), q = s * s;
	double series = 1.0 + q * (1.0 / 3 + q * (1.0 / 5 + q * (1.0 / 7 + q * (1.0 / 9 + q * (1.0 / 11 + q * (1.0 / 13))))));

	return 2.0 * s * series + e * 0.69314718055994530942;
}

/* sin and cos of 2 pi v for v in [0, 1), absolute error below 1e-12: reduced to
 * half an octant on each side of a multiple of a quarter turn, then Taylor. */
static inline __attribute__((always_inline)) void sincos_of_turn(double v, double *sine, double *cosine)
{
	int32_t quarter = (int32_t)(v * 4.0 + 0.5);
	double x = (v - quarter * 0.25) * 6.28318530717958647693, q = x * x;
	double s = x * (1.0 + q * (-1.0 / 6 + q * (1.0 / 120 + q * (-1.0 / 5040 + q * (1.0 / 362880 + q * (-1.0 / 39916800))))));
	double c = 1.0 + q * (-1.0 / 2 + q * (1.0 / 24 + q * (-1.0 / 720 + q * (1.0 / 40320 + q * (-1.0 / 3628800 + q * (1.0 / 479001600))))));
	double a = quarter & 1 ? c : s, b = quarter & 1 ? s : c;

	*sine = quarter & 2 ? -a : a;
	*cosine = (quarter + 1) & 2 ? -b : b;
}

CLONES static void uniform_run(float *out, struct rng_key key, uint64_t first_block, float scale)
{
	uint32_t words[4][RUN_BLOCKS];

	draw_run(words, key, first_block);
	for (int b = 0; b < RUN_BLOCKS; b++)
		for (int w = 0; w < 4; w++) /* the centre of each of 2^24 steps, never an end */
			out[4 * b + w] = ((float)(words[w][b] >> 9) + 0.5f) * (1.0f / 4194304.0f) * scale - scale;
}

CLONES static void normal_run(float *out, struct rng_key key, uint64_t first_block, float scale)
{
	uint32_t words[4][RUN_BLOCKS];
	float values[4][RUN_BLOCKS];

	draw_run(words, key, first_block);
	for (int pair = 0; pair < 2; pair++) {
		for (int b = 0; b < RUN_BLOCKS; b++) {
			double u = ((double)words[2 * pair][b] + 1.0) * (1.0 / 4294967296.0);
			double v = (double)words[2 * pair + 1][b] * (1.0 / 4294967296.0), sine, cosine;
			double radius = __builtin_sqrt(-2.0 * log_of_unit(u)) * (double)scale;

			sincos_of_turn(v, &sine, &cosine);
			values[2 * pair][b] = (float)(radius * cosine);
			values[2 * pair + 1][b] = (float)(radius * sine);
		}
	}
	for (int b = 0; b < RUN_BLOCKS; b++)
		for (int w = 0; w < 4; w++)
			out[4 * b + w] = values[w][b];
}

typedef void run_function(float *out, struct rng_key key, uint64_t first_block, float scale);

static void fill(run_function *run, float *out, size_t n, struct rng_key key, float scale)
{
	size_t whole = n / RUN;

	#pragma omp parallel for schedule(static)
	for (size_t r = 0; r < whole; r++)
		run(out + r * RUN, key, (uint64_t)r * RUN_BLOCKS, scale);
	if (whole * RUN < n) {
		float last[RUN];

		run(last, key, (uint64_t)whole * RUN_BLOCKS, scale);
		memcpy(out + whole * RUN, last, (n - whole * RUN) * sizeof(float));
	}
}

void random_fill_uniform(float *out, size_t n, struct rng_key key, float scale)
{
	fill(uniform_run, out, n, key, scale);
}

void random_fill_normal(float *out, size_t n, struct rng_key key, float scale)
{
	fill(normal_run, out, n, key, scale);
}
