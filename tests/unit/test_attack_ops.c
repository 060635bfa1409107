/* attack_ops.h: attacks stay within their bounds, and go where the gradient points. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "trainer/kernels/attack_ops.h"

enum { PIXELS = 64, TOKENS = 7, WIDTH = 16 };

static const struct attack_box box = { { 0.485f, 0.456f, 0.406f }, { 0.229f, 0.224f, 0.225f } };

static float normalized(double x, int c)
{
	return (float)((x - (double)box.mean[c]) / (double)box.std[c]);
}

static double picture(float x, int c)
{
	return (double)x * (double)box.std[c] + (double)box.mean[c];
}

/* Pictures with black, white and everything between. */
static void make_picture(float clean[3 * PIXELS], float g[3 * PIXELS])
{
	for (int e = 0; e < 3 * PIXELS; e++) {
		clean[e] = normalized((double)(e % 17) / 16.0, e % 3);
		g[e] = (float)(e % 5 - 2) * 1e-9f;
	}
}

static void check_within(const float *x, const float *clean, double eps)
{
	for (int e = 0; e < 3 * PIXELS; e++) {
		double now = picture(x[e], e % 3), before = picture(clean[e], e % 3);

		assert_true(now >= -1e-6 && now <= 1 + 1e-6);
		assert_true(fabs(now - before) <= eps + 1e-6);
	}
}

static void test_pixels(void **state)
{
	float clean[3 * PIXELS], x[3 * PIXELS], g[3 * PIXELS];
	const double eps = 8.0 / 255;

	(void)state;
	make_picture(clean, g);
	memcpy(x, clean, sizeof(x));
	attack_pixels_step(x, clean, g, 3 * PIXELS, &box, eps, eps);
	check_within(x, clean, eps);
	for (int e = 0; e < 3 * PIXELS; e++) {
		double before = picture(clean[e], e % 3), wanted = before + (g[e] > 0 ? eps : g[e] < 0 ? -eps : 0);

		wanted = wanted < 0 ? 0 : wanted > 1 ? 1 : wanted;
		assert_true(fabs(picture(x[e], e % 3) - wanted) < 1e-6);
	}
	/* However many steps, the bounds hold. */
	for (int i = 0; i < 10; i++)
		attack_pixels_step(x, clean, g, 3 * PIXELS, &box, eps, eps);
	check_within(x, clean, eps);
}

static void test_random_pixels(void **state)
{
	float clean[3 * PIXELS], x[3 * PIXELS], y[3 * PIXELS], g[3 * PIXELS];
	struct rng_key key = rng_key(1, RNG_ATTACK);
	const double eps = 8.0 / 255;
	int up = 0, far = 0;

	(void)state;
	make_picture(clean, g);
	attack_pixels_start(x, clean, 3 * PIXELS, &box, eps, key, 3, 0);
	check_within(x, clean, eps);
	attack_pixels_start(y, clean, 3 * PIXELS, &box, eps, key, 3, 0);
	assert_memory_equal(x, y, sizeof(x));
	attack_pixels_start(y, clean, 3 * PIXELS, &box, eps, key, 3, 1);
	assert_memory_not_equal(x, y, sizeof(x));
	attack_pixels_start(y, clean, 3 * PIXELS, &box, eps, key, 4, 0);
	assert_memory_not_equal(x, y, sizeof(x));
	attack_pixels_noise(x, clean, 3 * PIXELS, &box, eps, key, 3, 0);
	check_within(x, clean, eps);
	for (int e = 0; e < 3 * PIXELS; e++) {
		double before = picture(clean[e], e % 3), moved = picture(x[e], e % 3) - before;

		if (before < eps || before > 1 - eps)
			continue;
		assert_true(fabs(fabs(moved) - eps) < 1e-6);
		far++;
		up += moved > 0;
	}
	assert_true(far > 100 && up > far / 4 && up < far * 3 / 4);
}

static double distance(const float *x, const float *y)
{
	double sum = 0;

	for (int e = WIDTH; e < (TOKENS - 1) * WIDTH; e++)
		sum += ((double)x[e] - (double)y[e]) * ((double)x[e] - (double)y[e]);
	return sqrt(sum);
}

static void check_ends(const float *x, const float *clean)
{
	assert_memory_equal(x, clean, WIDTH * sizeof(float));
	assert_memory_equal(x + (TOKENS - 1) * WIDTH, clean + (TOKENS - 1) * WIDTH, WIDTH * sizeof(float));
}

static void test_words(void **state)
{
	float clean[TOKENS * WIDTH], x[TOKENS * WIDTH], g[TOKENS * WIDTH];
	static const float zero[TOKENS * WIDTH];
	struct rng_key key = rng_key(1, RNG_ATTACK);
	double size, along = 0, slope = 0;

	(void)state;
	for (int e = 0; e < TOKENS * WIDTH; e++) {
		clean[e] = (float)sin(e) * 0.02f;
		g[e] = (float)cos(3 * e) * 1e-7f;
	}
	size = distance(clean, zero);
	memcpy(x, clean, sizeof(x));
	attack_words_step(x, clean, g, TOKENS, WIDTH, 0.1, 0.1);
	check_ends(x, clean);
	assert_true(fabs(distance(x, clean) - 0.1 * size) < 1e-6 * size);
	for (int e = WIDTH; e < (TOKENS - 1) * WIDTH; e++) {
		along += ((double)x[e] - (double)clean[e]) * (double)g[e];
		slope += (double)g[e] * (double)g[e];
	}
	assert_true(along / (0.1 * size * sqrt(slope)) > 0.9999); /* cosine of the angle to the gradient */
	for (int i = 0; i < 10; i++)
		attack_words_step(x, clean, g, TOKENS, WIDTH, 0.1, 0.1);
	assert_true(distance(x, clean) <= 0.1 * size * (1 + 1e-5));
	attack_words_random(x, clean, TOKENS, WIDTH, 0.3, 1, key, 5, 0);
	check_ends(x, clean);
	assert_true(fabs(distance(x, clean) - 0.3 * size) < 1e-5 * size);
	/* [CLS] and [SEP] alone: nothing may move. */
	memcpy(x, clean, sizeof(x));
	attack_words_random(x, clean, 2, WIDTH, 0.3, 1, key, 5, 0);
	attack_words_step(x, clean, g, 2, WIDTH, 1, 1);
	assert_memory_equal(x, clean, sizeof(x));
	/* Without a slope nothing is known of where to go. */
	attack_words_step(x, clean, zero, TOKENS, WIDTH, 1, 1);
	assert_memory_equal(x, clean, sizeof(x));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pixels),
		cmocka_unit_test(test_random_pixels),
		cmocka_unit_test(test_words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
