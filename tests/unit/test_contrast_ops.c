/*
 * The contrastive kernels: the fast version against the reference over awkward
 * sizes and groups, the reference's gradients against finite differences, and
 * that any number of threads gives the same bits.
 */
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shared/base/mem.h"
#include "trainer/kernels/contrast_ops.h"
#include "trainer/kernels/random_fill.h"

static const struct contrast_ops *fast, *ref;
static uint64_t draws;

static float *numbers(size_t n, float scale)
{
	float *p = mem_aligned((n + 1) * sizeof(float));

	assert_non_null(p);
	random_fill_normal(p, n + 1, rng_key(++draws, RNG_NOISE), scale);
	return p;
}

static void assert_near(const char *what, const float *a, const float *b, size_t n, double tolerance)
{
	double scale = 1e-30;

	for (size_t i = 0; i < n; i++)
		scale = fmax(scale, fabs((double)b[i]));
	for (size_t i = 0; i < n; i++)
		if (!(fabs((double)a[i] - b[i]) <= tolerance * scale))
			fail_msg("%s: element %zu is %.9g, expected %.9g", what, i, (double)a[i], (double)b[i]);
}

static void check_unit_rows(int rows, int width)
{
	size_t n = (size_t)rows * width;
	float *x = numbers(n, 3), *dy = numbers(n, 1), *y = numbers(n, 1), *y_ref = numbers(n, 1), *dx = numbers(n, 1);
	float *dx_ref = numbers(n, 1), *length = numbers((size_t)rows, 1), *length_ref = numbers((size_t)rows, 1);

	memset(x, 0, (size_t)width * sizeof(float)); /* a row without a direction */
	fast->unit_rows(y, length, x, rows, width);
	ref->unit_rows(y_ref, length_ref, x, rows, width);
	assert_near("unit_rows", y, y_ref, n, 1e-6);
	assert_near("length", length, length_ref, (size_t)rows, 1e-6);
	memset(dy, 0, (size_t)width * sizeof(float)); /* its gradient would be 1e12 times as large */
	fast->unit_rows_backward(dx, dy, y_ref, length_ref, rows, width);
	ref->unit_rows_backward(dx_ref, dy, y_ref, length_ref, rows, width);
	assert_near("unit_rows_backward", dx, dx_ref, n, 1e-6);
	float *all[] = { x, dy, y, y_ref, dx, dx_ref, length, length_ref };
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		free(all[i]);
}

static void test_unit_rows(void **state)
{
	(void)state;
	check_unit_rows(1, 1);
	check_unit_rows(3, 7);
	check_unit_rows(33, 128);
	check_unit_rows(65, 770);
}

/* Samples in groups of about `shared`; 0: all different. */
static void groups(uint32_t *out, int n, uint64_t shared)
{
	for (int i = 0; i < n; i++) {
		struct rng_block r = rng_philox(rng_key(++draws, RNG_NOISE), (uint32_t)i, 0, 0, 0);

		out[i] = shared == 0 ? (uint32_t)i : (uint32_t)rng_below(r.v[0], r.v[1], (uint64_t)n / shared + 1);
	}
}

static void check_info_nce(int n, uint64_t shared, float log_scale)
{
	size_t count = (size_t)n * n;
	float *scores = numbers(count, 0.3f), *d = numbers(count, 1), *d_ref = numbers(count, 1), *d_one = numbers(count, 1);
	uint32_t *picture = mem_array((size_t)n, sizeof(*picture)), *text = mem_array((size_t)n, sizeof(*text));
	double *work = mem_array((size_t)n * CONTRAST_WORK, sizeof(*work)), dscale, dscale_ref, dscale_one;
	int correct, correct_ref, correct_one;

	groups(picture, n, shared);
	groups(text, n, shared);
	struct contrast_info info = { picture, text, n, log_scale };
	double loss = fast->info_nce(d, scores, &info, work, &dscale, &correct);
	double loss_ref = ref->info_nce(d_ref, scores, &info, work, &dscale_ref, &correct_ref);
	assert_true(fabs(loss - loss_ref) <= 1e-5 * fabs(loss_ref) + 1e-6);
	assert_true(fabs(dscale - dscale_ref) <= 1e-4 * fabs(dscale_ref) + 1e-5);
	assert_int_equal(correct, correct_ref);
	assert_near("info_nce", d, d_ref, count, 2e-5);
	int threads = omp_get_max_threads();
	omp_set_num_threads(1);
	double loss_one = fast->info_nce(d_one, scores, &info, work, &dscale_one, &correct_one);
	omp_set_num_threads(threads);
	assert_true(loss_one == loss && dscale_one == dscale && correct_one == correct);
	assert_memory_equal(d_one, d, count * sizeof(float));
	free(scores);
	free(d);
	free(d_ref);
	free(d_one);
	free(picture);
	free(text);
	free(work);
}

static void test_info_nce(void **state)
{
	(void)state;
	for (int groups_of = 0; groups_of < 3; groups_of++) {
		check_info_nce(2, (uint64_t)groups_of, 2.66f);
		check_info_nce(7, (uint64_t)groups_of, 0);
		check_info_nce(64, (uint64_t)groups_of, 2.66f);
		check_info_nce(131, (uint64_t)groups_of, 4.6f);
	}
}

/* The reference is no oracle of itself: its gradients are held against differences of its losses. */
static void test_reference_gradients(void **state)
{
	enum { N = 5 };
	uint32_t picture[N] = { 0, 1, 2, 1, 4 }, text[N] = { 0, 1, 0, 3, 4 };
	float *scores = numbers(N * N, 0.4f), d[N * N], unused[N * N];
	double work[N * CONTRAST_WORK], dscale, ignored;
	int correct;
	struct contrast_info info = { picture, text, N, 1.3f };
	const float step = 1.0f / 512;

	(void)state;
	ref->info_nce(d, scores, &info, work, &dscale, &correct);
	for (int i = 0; i < N * N; i++) {
		float kept = scores[i];

		scores[i] = kept + step;
		double above = ref->info_nce(unused, scores, &info, work, &ignored, &correct), high = scores[i];
		scores[i] = kept - step;
		double below = ref->info_nce(unused, scores, &info, work, &ignored, &correct), low = scores[i];
		scores[i] = kept;
		assert_true(fabs((above - below) / (high - low) - d[i]) < 1e-4);
	}
	info.log_scale = 1.3f + step;
	double above = ref->info_nce(unused, scores, &info, work, &ignored, &correct), high = info.log_scale;
	info.log_scale = 1.3f - step;
	double below = ref->info_nce(unused, scores, &info, work, &ignored, &correct), low = info.log_scale;
	assert_true(fabs((above - below) / (high - low) - dscale) < 1e-4);
	/* samples 0 and 2 have the same text, 1 and 3 the same picture: not each other's negatives */
	assert_true(d[0 * N + 2] == 0 && d[2 * N + 0] == 0 && d[1 * N + 3] == 0 && d[3 * N + 1] == 0 && d[0 * N + 1] != 0);
	free(scores);
}

static void test_collapsed_features_win_nothing(void **state)
{
	enum { ROWS = 3, PICTURES = 4 };
	float scores[ROWS * PICTURES], own[ROWS], best[PICTURES];
	uint32_t at[ROWS + 1] = { 0, 1, 2, 3 }, related[ROWS] = { 0, 1, 2 }, beaten[ROWS], columns[PICTURES] = { 0 };
	double sum[ROWS], column_sum[PICTURES] = { 0 };
	struct contrast_block block = { scores, ROWS, PICTURES, at, related, 10 };

	(void)state;
	for (int i = 0; i < ROWS * PICTURES; i++)
		scores[i] = 0.5f + (i % 3) * 3e-8f;
	for (int i = 0; i < PICTURES; i++)
		best[i] = 0.5f + 6e-8f;
	for (int i = 0; i < ROWS; i++)
		own[i] = 0.5f + 6e-8f;
	fast->rank_mask(block);
	fast->rank_rows(block, own, beaten, sum);
	fast->rank_columns(block, best, columns, column_sum);
	for (int i = 0; i < ROWS; i++)
		assert_int_equal(beaten[i], PICTURES - 1);
	assert_int_equal(columns[0], ROWS - 1);
	assert_int_equal(columns[3], ROWS);
}

static void test_ranks(void **state)
{
	enum { ROWS = 37, PICTURES = 1001 };
	float *scores = numbers(ROWS * PICTURES, 0.2f), *again = mem_aligned(ROWS * PICTURES * sizeof(float));
	float *own = numbers(ROWS, 0.2f), *best = numbers(PICTURES, 0.2f);
	uint32_t at[ROWS + 1], related[2 * ROWS], beaten[2][ROWS], columns[2][PICTURES];
	static double sum[2][ROWS], column_sum[2][PICTURES];

	(void)state;
	for (uint32_t r = 0; r < ROWS; r++) {
		at[r] = 2 * r;
		related[2 * r] = 27 * r;
		related[2 * r + 1] = PICTURES - 1 - r;
	}
	at[ROWS] = 2 * ROWS;
	memcpy(again, scores, ROWS * PICTURES * sizeof(float));
	for (int k = 0; k < 2; k++) {
		const struct contrast_ops *ops = k == 0 ? fast : ref;
		struct contrast_block block = { k == 0 ? scores : again, ROWS, PICTURES, at, related, 14 };

		memset(columns[k], 0, sizeof(columns[k]));
		memset(column_sum[k], 0, sizeof(column_sum[k]));
		ops->rank_mask(block);
		ops->rank_rows(block, own, beaten[k], sum[k]);
		ops->rank_columns(block, best, columns[k], column_sum[k]);
		ops->rank_columns(block, best, columns[k], column_sum[k]);
	}
	assert_memory_equal(scores, again, ROWS * PICTURES * sizeof(float));
	assert_memory_equal(beaten[0], beaten[1], sizeof(beaten[0]));
	assert_memory_equal(columns[0], columns[1], sizeof(columns[0]));
	for (int r = 0; r < ROWS; r++)
		assert_true(fabs(sum[0][r] - sum[1][r]) <= 1e-12 * sum[1][r]);
	for (int p = 0; p < PICTURES; p++)
		assert_true(fabs(column_sum[0][p] - column_sum[1][p]) <= 1e-12 * column_sum[1][p]);
	free(scores);
	free(again);
	free(own);
	free(best);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_unit_rows), cmocka_unit_test(test_info_nce), cmocka_unit_test(test_reference_gradients),
		cmocka_unit_test(test_collapsed_features_win_nothing), cmocka_unit_test(test_ranks),
	};

	fast = contrast_ops_fast();
	ref = contrast_ops_reference();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
