/* Parameters: layout of the arenas, initial values by name and seed alone, and their distributions. */
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "trainer/kernels/random_fill.h"
#include "trainer/nn/params.h"

static struct params *open_some(bool extra_first)
{
	struct params *params;
	struct err err;
	int index;
	const int64_t big[] = { 300, 37 }, vector[] = { 37 }, scalar[] = { 1 };

	assert_int_equal(params_open(&params, &err), 0);
	if (extra_first)
		assert_int_equal(params_add(params, &index, "extra", PARAM_WEIGHT, INIT_NORMAL, 1, 2, big, &err), 0);
	assert_int_equal(params_add(params, &index, "normal", PARAM_WEIGHT, INIT_NORMAL, 0.02f, 2, big, &err), 0);
	assert_int_equal(params_add(params, &index, "running_var", PARAM_BUFFER, INIT_ONE, 0, 1, vector, &err), 0);
	assert_int_equal(params_add(params, &index, "uniform", PARAM_BIAS, INIT_UNIFORM, 0.5f, 2, big, &err), 0);
	assert_int_equal(params_add(params, &index, "counter", PARAM_COUNTER, INIT_ZERO, 0, 0, scalar, &err), 0);
	assert_int_equal(params_add(params, &index, "pooler", PARAM_UNUSED, INIT_NORMAL, 1, 1, vector, &err), 0);
	assert_int_equal(params_add(params, &index, "words", PARAM_EMBEDDING, INIT_NORMAL_PAD_ZERO, 1, 2, big, &err), 0);
	params_at(params, index)->pad = 2;
	assert_int_equal(params_allocate(params, &err), 0);
	params_init(params, 7);
	return params;
}

static void test_layout(void **state)
{
	struct params *params = open_some(false);
	size_t end = 0;

	(void)state;
	for (int pass = 0; pass < 2; pass++) {
		for (int i = 0; i < params->count; i++) {
			const struct param *p = params_at(params, i);
			bool trained = p->kind == PARAM_WEIGHT || p->kind == PARAM_BIAS || p->kind == PARAM_EMBEDDING;

			if (p->kind == PARAM_COUNTER) {
				assert_null(p->value);
				continue;
			}
			assert_true(p->value == params->values + p->at && (uintptr_t)p->value % 64 == 0);
			assert_true(trained ? p->grad == params->grads + p->at : p->grad == NULL);
			if (trained != (pass == 0))
				continue;
			assert_true(p->at >= end && p->at < end + 16); /* in order of registration, without gaps beyond padding */
			end = p->at + p->count;
		}
		if (pass == 0) {
			assert_true(params->trained_elements >= end && params->trained_elements < end + 16);
			end = params->trained_elements;
		}
	}
	assert_int_equal(params_find(params, "counter")->counter, 0);
	assert_null(params_find(params, "nothing"));
	for (size_t i = 0; i < params->trained_elements; i++) {
		assert_true(params->grads[i] == 0.0f);
		params->grads[i] = 1;
	}
	params_zero_grads(params);
	for (size_t i = 0; i < params->trained_elements; i++)
		assert_true(params->grads[i] == 0.0f);
	params_close(params);
}

static void test_limit(void **state)
{
	struct params *params;
	struct err err;
	const int64_t shape[] = { 2 };
	char name[32];
	int index, code = 0;

	(void)state;
	assert_int_equal(params_open(&params, &err), 0);
	for (int i = 0; i <= PARAMS_MAX && code == 0; i++) {
		snprintf(name, sizeof(name), "p%d", i);
		code = params_add(params, &index, name, PARAM_WEIGHT, INIT_ZERO, 0, 1, shape, &err);
	}
	assert_int_equal(code, ERR_LIMIT);
	assert_int_equal(params->count, PARAMS_MAX);
	params_close(params);
}

/* Neither other parameters nor the number of threads nor the place in the arena change a value. */
static void test_names_decide(void **state)
{
	static const char *const names[] = { "normal", "uniform", "words", "pooler" };
	struct params *a, *b;

	(void)state;
	omp_set_num_threads(1);
	a = open_some(false);
	omp_set_num_threads(3);
	b = open_some(true);
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		const struct param *x = params_find(a, names[i]), *y = params_find(b, names[i]);

		assert_memory_equal(x->value, y->value, x->count * sizeof(float));
	}
	assert_memory_not_equal(params_find(a, "normal")->value, params_find(b, "extra")->value, 64);
	params_init(b, 8);
	assert_memory_not_equal(params_find(a, "normal")->value, params_find(b, "normal")->value, 64);
	params_close(a);
	params_close(b);
}

static void test_values(void **state)
{
	struct params *params = open_some(false);
	const struct param *words = params_find(params, "words"), *one = params_find(params, "running_var");

	(void)state;
	for (int d = 0; d < 37; d++) {
		assert_true(words->value[2 * 37 + d] == 0.0f);
		assert_true(words->value[37 + d] != 0.0f && words->value[3 * 37 + d] != 0.0f);
		assert_true(one->value[d] == 1.0f);
	}
	params_close(params);
}

/* The share of values below each of 15 normal quantiles, and the moments. */
static void test_normal(void **state)
{
	enum { N = 1 << 20 };
	float *x = malloc(N * sizeof(float));
	double sum = 0, squares = 0, fourth = 0, neighbours = 0;

	(void)state;
	assert_non_null(x);
	random_fill_normal(x, N, rng_key(3, RNG_INIT), 2.0f);
	for (int i = 0; i < N; i++) {
		double v = x[i] / 2;

		assert_true(isfinite(v) && fabs(v) < 7);
		sum += v;
		squares += v * v;
		fourth += v * v * v * v;
		neighbours += i > 0 ? v * x[i - 1] / 2 : 0;
	}
	assert_true(fabs(sum / N) < 5 / sqrt(N));
	assert_true(fabs(squares / N - 1) < 5 * sqrt(2.0 / N));
	assert_true(fabs(fourth / N - 3) < 5 * sqrt(96.0 / N));
	assert_true(fabs(neighbours / N) < 5 / sqrt(N));
	for (double q = -3.5; q <= 3.5; q += 0.5) {
		double p = 0.5 * erfc(-q / sqrt(2)), below = 0;

		for (int i = 0; i < N; i++)
			below += x[i] / 2 < q;
		assert_true(fabs(below / N - p) < 5 * sqrt(p * (1 - p) / N));
	}
	free(x);
}

static void test_uniform(void **state)
{
	enum { N = 1 << 20, BINS = 64 };
	float *x = malloc(N * sizeof(float));
	int bins[BINS] = { 0 };

	(void)state;
	assert_non_null(x);
	random_fill_uniform(x, N, rng_key(3, RNG_INIT), 0.25f);
	for (int i = 0; i < N; i++) {
		assert_true(x[i] > -0.25f && x[i] < 0.25f);
		bins[(int)((x[i] + 0.25f) * 2 * BINS)]++;
	}
	for (int b = 0; b < BINS; b++)
		assert_true(fabs(bins[b] - (double)N / BINS) < 5 * sqrt((double)N / BINS));
	free(x);
}

/* A shorter array is the beginning of a longer one, whatever the run length inside. */
static void test_prefix(void **state)
{
	float a[1000], b[1000];

	(void)state;
	random_fill_normal(a, 1000, rng_key(9, RNG_INIT), 1);
	for (size_t n = 1; n < 1000; n += 111) {
		random_fill_normal(b, n, rng_key(9, RNG_INIT), 1);
		assert_memory_equal(a, b, n * sizeof(float));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layout), cmocka_unit_test(test_limit),  cmocka_unit_test(test_names_decide),
		cmocka_unit_test(test_values), cmocka_unit_test(test_normal), cmocka_unit_test(test_uniform),
		cmocka_unit_test(test_prefix),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
