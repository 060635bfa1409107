/* Parts of reg/: kernels against their plain versions and against finite differences, draws of mixup, early stopping, updates of free. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shared/base/rng.h"
#include "trainer/kernels/kernels.h"
#include "trainer/reg/early.h"
#include "trainer/reg/mixup.h"
#include "trainer/reg/objective.h"

enum { N = 37, K = 3, W = 70, ROWS = 11, SIDE = 9, PIXELS = SIDE * SIDE };

static float uniform(uint32_t i, uint32_t which)
{
	return 4 * rng_unit(rng_philox(rng_key(1, which), i, 0, 0, 0).v[0]) - 2;
}

static void fill(float *x, size_t n, uint32_t which)
{
	for (size_t i = 0; i < n; i++)
		x[i] = uniform((uint32_t)i, which);
}

/* Equal, or closer than rounding once can tell apart. */
static void same(const float *a, const float *b, size_t n, const char *what)
{
	for (size_t i = 0; i < n; i++)
		if (!(fabsf(a[i] - b[i]) <= 1e-5f * (1 + fabsf(b[i]))))
			fail_msg("%s: element %zu: %g, expected %g", what, i, (double)a[i], (double)b[i]);
}

static void test_losses(void **state)
{
	const struct reg_ops *ops = reg_ops_fast();
	float a[N * K], b[N * K], da[N * K] = { 0 }, db[N * K] = { 0 }, weight[N], share[N], dz[N * K];
	int32_t label[N], other[N];
	struct soft_labels soft = { label, other, share, 0.3 };

	(void)state;
	fill(a, N * K, 1);
	fill(b, N * K, 2);
	for (int i = 0; i < N; i++) {
		weight[i] = 0.01f * (float)(i + 1);
		share[i] = (float)i / N;
		label[i] = i % K;
		other[i] = (i * i) % K;
	}
	double kl = ops->symmetric_kl(da, db, a, b, weight, 2.0, N, K), ce = ops->soft_cross_entropy(dz, a, &soft, weight, N, K);
	assert_true(kl > 0 && ce > 0);
	/* Central differences of each value in its first arguments. */
	for (int i = 0; i < N * K; i += 5) {
		const float h = 1e-2f;
		float kept = a[i], kept_b = b[i], scratch[N * K];

		a[i] = kept + h;
		double up = ops->symmetric_kl(NULL, NULL, a, b, weight, 1, N, K), ce_up = ops->soft_cross_entropy(scratch, a, &soft, weight, N, K);
		a[i] = kept - h;
		double down = ops->symmetric_kl(NULL, NULL, a, b, weight, 1, N, K);
		double ce_down = ops->soft_cross_entropy(scratch, a, &soft, weight, N, K);
		a[i] = kept;
		assert_true(fabs(2.0 * (up - down) / (2 * (double)h) - (double)da[i]) < 2e-3 * (double)weight[i / K]  + 1e-5);
		assert_true(fabs((ce_up - ce_down) / (2 * (double)h) - (double)dz[i]) < 1e-3 * (double)weight[i / K] + 1e-5);
		b[i] = kept_b + h;
		up = ops->symmetric_kl(NULL, NULL, a, b, weight, 1, N, K);
		b[i] = kept_b - h;
		down = ops->symmetric_kl(NULL, NULL, a, b, weight, 1, N, K);
		b[i] = kept_b;
		assert_true(fabs(2.0 * (up - down) / (2 * (double)h) - (double)db[i]) < 2e-3 * (double)weight[i / K] + 1e-5);
	}
	assert_true(ops->symmetric_kl(NULL, NULL, a, a, weight, 1, N, K) == 0);
	/* One class alone is the plain cross-entropy. */
	float plain[N * K];
	int correct;
	soft = (struct soft_labels){ .label = label };
	double hard = dense_ops_reference()->cross_entropy(plain, a, label, weight, N, K, &correct);
	assert_true(fabs(ops->soft_cross_entropy(dz, a, &soft, weight, N, K) - hard) < 1e-6);
	same(dz, plain, N * K, "soft_cross_entropy");
}

static void test_rows(void **state)
{
	const struct reg_ops *fast = reg_ops_fast(), *plain = reg_ops_reference();
	static float x[N * 2 * W], y[N * 2 * W], z[N * 2 * W], a[N * W], b[N * W];
	uint32_t row[N], other[N], offsets[4] = { 0, 5, 5, N };
	float share[N], bound[3] = { 0.5f, 1, 0 };
	struct dropout_spec drop = { .probability = 0.4f, .layer = 3, .seed = 9, .step = 5 };

	(void)state;
	fill(x, N * 2 * W, 3);
	for (uint32_t i = 0; i < N; i++) {
		row[i] = i % ROWS;
		other[i] = (i * 7) % ROWS;
		share[i] = (float)i / N;
	}
	for (int mixed = 0; mixed < 2; mixed++) {
		plain->mix_rows(y, x, row, other, mixed ? share : NULL, N, W);
		fast->mix_rows(z, x, row, other, mixed ? share : NULL, N, W);
		same(z, y, N * W, "mix_rows");
		plain->mix_rows_backward(y, x, row, other, mixed ? share : NULL, N, ROWS, W);
		fast->mix_rows_backward(z, x, row, other, mixed ? share : NULL, N, ROWS, W);
		same(z, y, ROWS * W, "mix_rows_backward");
	}
	fast->split(a, b, x, N, W);
	fast->join(y, a, b, N, W);
	assert_memory_equal(x, y, sizeof(x));
	assert_true(a[W] == x[2 * W] && b[0] == x[W]);
	plain->drop_rows(y, x, N, W, row, other, &drop);
	fast->drop_rows(z, x, N, W, row, other, &drop);
	same(z, y, N * W, "drop_rows");
	memcpy(y, x, sizeof(y));
	memcpy(z, x, sizeof(z));
	plain->group_clip(y, offsets, 3, W, bound);
	fast->group_clip(z, offsets, 3, W, bound);
	same(z, y, N * W, "group_clip");
	for (int i = 0; i < N * W; i++)
		assert_true(fabsf(z[i]) <= (i < 5 * W ? 0.5f : 0.0f));
	plain->group_scale(x, offsets, 3, W, bound);
	assert_true(x[5 * W] == 0);
}

static void test_random(void **state)
{
	const struct reg_ops *fast = reg_ops_fast(), *plain = reg_ops_reference();
	static float x[N * W], y[N * W], big[400 * W];
	uint32_t position[400], token[400];
	struct random_source source = { RANDOM_NORMAL, 4, 6, RNG_NOISE + 1, position, token };
	double sum = 0, squares = 0, fourth = 0;

	(void)state;
	for (uint32_t i = 0; i < 400; i++) {
		position[i] = i / 3;
		token[i] = i % 3;
	}
	for (int kind = RANDOM_NORMAL; kind <= RANDOM_SIGN; kind++) {
		source.kind = (enum random_kind)kind;
		plain->random_rows(x, N, W, &source);
		fast->random_rows(y, N, W, &source);
		assert_memory_equal(x, y, sizeof(x));
	}
	for (int i = 0; i < N * W; i++)
		assert_true(x[i] == 1 || x[i] == -1);
	source.kind = RANDOM_NORMAL;
	fast->random_rows(big, 400, W, &source);
	for (int i = 0; i < 400 * W; i++) {
		double v = (double)big[i];

		sum += v;
		squares += v * v;
		fourth += v * v * v * v;
	}
	double n = 400.0 * W;
	assert_true(fabs(sum / n) < 5 / sqrt(n) && fabs(squares / n - 1) < 5 * sqrt(2 / n) && fabs(fourth / n - 3) < 5 * sqrt(96 / n));
	/* Named by position and token, not by the row: rows 4 and 5 change places. */
	position[4] = 5 / 3;
	token[4] = 5 % 3;
	fast->random_rows(y, N, W, &source);
	assert_memory_equal(y + 4 * W, big + 5 * W, W * sizeof(float));
}

static void test_pixels(void **state)
{
	const struct reg_ops *fast = reg_ops_fast(), *plain = reg_ops_reference();
	static float x[2 * 3 * PIXELS], delta[2 * 3 * PIXELS], kept[2 * 3 * PIXELS], y[2 * 3 * PIXELS], z[2 * 3 * PIXELS];
	static float nchw[2 * 3 * PIXELS], nhwc[2 * 3 * PIXELS];
	const float by[3] = { 4, 5, 6 }, low[3] = { -2, -1.5f, -1 }, high[3] = { 1, 1.5f, 2 };
	struct pixel_rows layout = { 2, PIXELS, false };
	struct random_source source = { .kind = RANDOM_NORMAL, .seed = 1, .step = 2, .domain = RNG_NOISE };
	size_t n = 2 * 3 * PIXELS;

	(void)state;
	for (int turn = 0; turn < 2; turn++, layout.nhwc = true) {
		for (size_t i = 0; i < n; i++) {
			int c = layout.nhwc ? (int)(i % 3) : (int)(i / PIXELS % 3);

			x[i] = low[c] + (high[c] - low[c]) * (uniform((uint32_t)i, 4) + 2) / 4;
		}
		fill(delta, n, 5);
		memcpy(kept, delta, sizeof(kept));
		plain->move_pixels(y, delta, x, layout, by, low, high);
		fast->move_pixels(z, kept, x, layout, by, low, high);
		assert_memory_equal(y, z, sizeof(y));
		assert_memory_equal(delta, kept, sizeof(kept));
		for (size_t i = 0; i < n; i++) {
			int c = layout.nhwc ? (int)(i % 3) : (int)(i / PIXELS % 3);

			assert_true(y[i] >= low[c] && y[i] <= high[c]);
			assert_true(fabsf(x[i] + delta[i] * by[c] - y[i]) < 1e-5f);
		}
	}
	/* One name for an element in both layouts. */
	layout.nhwc = false;
	fast->random_pixels(nchw, layout, &source);
	layout.nhwc = true;
	fast->random_pixels(nhwc, layout, &source);
	for (size_t p = 0; p < PIXELS; p++)
		for (size_t c = 0; c < 3; c++)
			assert_true(nchw[c * PIXELS + p] == nhwc[p * 3 + c]);
}

/* Moments of Beta(a, a): mean 1/2, variance 1/(4(2a + 1)), E|x - 1/2|^4 = 3/(16(2a + 1)(2a + 3)). */
static void test_beta(void **state)
{
	static const double alphas[] = { 0.05, 0.2, 1.0, 1.5, 8.0 };
	enum { DRAWS = 20000 };

	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(alphas); k++) {
		double a = alphas[k], sum = 0, squares = 0, fourths = 0;

		for (uint32_t i = 0; i < DRAWS; i++) {
			double x = mixup_beta(a, 3, 4, i, 7 * i) - 0.5;

			assert_true(x >= -0.5 && x <= 0.5);
			sum += x;
			squares += x * x;
			fourths += x * x * x * x;
		}
		double variance = 1 / (4 * (2 * a + 1)), fourth = 3 / (16 * (2 * a + 1) * (2 * a + 3));
		assert_true(fabs(sum / DRAWS) < 5 * sqrt(variance / DRAWS));
		assert_true(fabs(squares / DRAWS - variance) < 5 * sqrt((fourth - variance * variance) / DRAWS));
		assert_true(fabs(fourths / DRAWS - fourth) < 0.05 * fourth);
	}
}

/* Half of all partners are positives, whatever their number. */
static void test_partners(void **state)
{
	enum { PAIRS = 1000 };
	static uint32_t index[PAIRS], partner[PAIRS];
	static float weight[PAIRS], share[PAIRS];
	static double sums[PAIRS];
	struct model_pairs pairs = { .count = PAIRS, .picture = index, .caption = index, .weight = weight };
	int positives = 0;

	(void)state;
	for (uint32_t i = 0; i < PAIRS; i++) {
		index[i] = i;
		weight[i] = i < 50 ? 0.5f / 50 : 0.5f / 950;
	}
	mixup_draw(&pairs, index, index, 0.5, 1, 2, partner, share, sums);
	for (int i = 0; i < PAIRS; i++) {
		assert_true(partner[i] < PAIRS && share[i] >= 0 && share[i] <= 1);
		positives += partner[i] < 50;
	}
	assert_true(positives > 420 && positives < 580);
}

static struct reg_spec parsed(const char *text)
{
	struct reg_spec spec;
	struct err err = { 0 };

	if (reg_spec_parse(&spec, text, &err) != 0)
		fail_msg("%s", err.message);
	return spec;
}

static void test_early(void **state)
{
	struct reg_spec spec = parsed("early=2");
	struct early_place place = { .done = 10, .best_step = 10, .every = 5, .steps_per_epoch = 5 };

	(void)state;
	assert_false(early_stops(&spec, &place));
	place.done = 15;
	assert_int_equal(early_waited(&spec, &place), 1);
	place.done = 19;
	assert_int_equal(early_waited(&spec, &place), 1);
	place.done = 20;
	assert_true(early_stops(&spec, &place));
	place = (struct early_place){ .done = 10, .best_step = 0, .every = 5, .steps_per_epoch = 5 };
	assert_true(early_stops(&spec, &place)); /* none was ever good */
	spec = parsed("early=2@4");
	place = (struct early_place){ .done = 25, .best_step = 5, .every = 5, .steps_per_epoch = 5 };
	assert_false(early_stops(&spec, &place));
	place.done = 30;
	assert_true(early_stops(&spec, &place));
	spec = parsed("early=2@0-3");
	assert_false(early_stops(&spec, &place));
	spec = parsed("none");
	assert_false(early_stops(&spec, &place));
}

static void test_updates(void **state)
{
	static const char *const texts[] = { "none", "adv", "adv:method=free", "adv:method=free,k=2,every=3", "adv:method=free,k=4@2",
					     "adv:method=free,k=4,every=4@1-3" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		struct reg_spec spec = parsed(texts[i]);
		uint64_t counted = 0;

		/* By the rule of a step, one after the other; epochs of 7 steps. */
		for (uint64_t step = 0; step < 40; step++) {
			bool works = reg_active(spec.adv.on, spec.adv.when, step / 7) && step % (uint64_t)spec.adv.every == 0;

			assert_int_equal(objective_updates(&spec, step, 7), counted);
			counted += works && spec.adv.method == ADV_FREE ? (uint64_t)spec.adv.k : 1;
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_losses), cmocka_unit_test(test_rows),     cmocka_unit_test(test_random), cmocka_unit_test(test_pixels),
		cmocka_unit_test(test_beta),   cmocka_unit_test(test_partners), cmocka_unit_test(test_early),  cmocka_unit_test(test_updates),
	};

	return cmocka_run_group_tests_name("reg_parts", tests, NULL, NULL);
}
