#include "trainer/kernels/attack_ops.h"

#include <math.h>
#include <string.h>

static float clamp(float x, float low, float high)
{
	return x < low ? low : x > high ? high : x;
}

/* Bounds of one channel around a clean value. */
static float bound(float x, float clean, float eps, float low, float high)
{
	return clamp(clamp(x, clean - eps, clean + eps), low, high);
}

void attack_pixels_step(float *x, const float *clean, const float *g, size_t elements, const struct attack_box *box, double alpha, double eps)
{
	for (int c = 0; c < 3; c++) {
		float step = (float)(alpha / box->std[c]), most = (float)(eps / box->std[c]);
		float low = -box->mean[c] / box->std[c], high = (1.0f - box->mean[c]) / box->std[c];

		for (size_t e = (size_t)c; e < elements; e += 3)
			x[e] = bound(x[e] + (g[e] > 0 ? step : g[e] < 0 ? -step : 0.0f), clean[e], most, low, high);
	}
}

static void scatter(float *x, const float *clean, size_t elements, const struct attack_box *box, double eps, struct rng_key key, uint32_t pair,
		    uint32_t draw, int signs)
{
	for (size_t e = 0; e < elements; e++) {
		int c = (int)(e % 3);
		struct rng_block block = rng_philox(key, (uint32_t)(e / 4), (uint32_t)((uint64_t)e >> 34), pair, draw);
		float unit = rng_unit(block.v[e % 4]), most = (float)(eps / box->std[c]);
		float low = -box->mean[c] / box->std[c], high = (1.0f - box->mean[c]) / box->std[c];
		float delta = signs ? (unit < 0.5f ? -most : most) : (2.0f * unit - 1.0f) * most;

		x[e] = bound(clean[e] + delta, clean[e], most, low, high);
	}
}

void attack_pixels_start(float *x, const float *clean, size_t elements, const struct attack_box *box, double eps, struct rng_key key,
			 uint32_t pair, uint32_t draw)
{
	scatter(x, clean, elements, box, eps, key, pair, draw, 0);
}

void attack_pixels_noise(float *x, const float *clean, size_t elements, const struct attack_box *box, double eps, struct rng_key key,
			 uint32_t pair, uint32_t draw)
{
	scatter(x, clean, elements, box, eps, key, pair, draw, 1);
}

/* Elements of the words between the first and the last token. */
static size_t words_of(uint32_t tokens, int width)
{
	return tokens > 2 ? (size_t)(tokens - 2) * (size_t)width : 0;
}

static double norm_of(const float *x, size_t count)
{
	double sum = 0;

	for (size_t e = 0; e < count; e++)
		sum += (double)x[e] * (double)x[e];
	return sqrt(sum);
}

void attack_words_step(float *x, const float *clean, const float *g, uint32_t tokens, int width, double alpha, double eps)
{
	size_t count = words_of(tokens, width), at = (size_t)width;
	double size = norm_of(clean + at, count), slope = norm_of(g + at, count), moved = 0;

	if (count == 0 || !(slope > 0))
		return;
	double step = alpha * size / slope;
	for (size_t e = at; e < at + count; e++) {
		double delta = (double)x[e] - (double)clean[e] + step * (double)g[e];

		x[e] = (float)((double)clean[e] + delta);
		moved += delta * delta;
	}
	moved = sqrt(moved);
	if (!(moved > eps * size))
		return;
	for (size_t e = at; e < at + count; e++)
		x[e] = (float)((double)clean[e] + ((double)x[e] - (double)clean[e]) * (eps * size / moved));
}

void attack_words_random(float *x, const float *clean, uint32_t tokens, int width, double eps, double share, struct rng_key key, uint32_t pair,
			 uint32_t draw)
{
	size_t count = words_of(tokens, width), at = (size_t)width;
	double size = norm_of(clean + at, count), drawn;

	/* Normal numbers by Box and Muller: a direction that prefers none. */
	for (size_t e = 0; e < count; e++) {
		struct rng_block block = rng_philox(key, (uint32_t)(e / 2), (uint32_t)((uint64_t)e >> 33), pair, draw);
		double u = ((double)block.v[0] + 1) / 4294967296.0, angle = 6.283185307179586 * ((double)block.v[1] / 4294967296.0);

		x[at + e] = (float)(sqrt(-2 * log(u)) * (e % 2 == 0 ? cos(angle) : sin(angle)));
	}
	if (count == 0 || !((drawn = norm_of(x + at, count)) > 0))
		return;
	for (size_t e = at; e < at + count; e++)
		x[e] = (float)((double)clean[e] + (double)x[e] * (eps * size * share / drawn));
}
