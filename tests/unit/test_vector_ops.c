/* vector_ops.h: the fast table against the reference, and the reference
 * against numbers worked out in double by the published formulas. */
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shared/base/mem.h"
#include "shared/base/rng.h"
#include "trainer/kernels/vector_ops.h"

/* Around vector widths, around a chunk, and beyond one. */
static const size_t sizes[] = { 0, 1, 2, 7, 15, 16, 17, 31, 33, 1000, 16383, 16384, 16385, 100003 };
enum { SIZE_MAX_TESTED = 100003 };

static float *random_array(size_t n, uint32_t domain)
{
	float *x = mem_aligned((n + 1) * sizeof(*x));
	struct rng_key key = rng_key(11, domain);

	assert_non_null(x);
	for (size_t i = 0; i < n; i++)
		x[i] = rng_unit(rng_philox(key, (uint32_t)i, 0, 0, 0).v[0]) * 2.0f - 1.0f;
	x[n] = 12345.0f; /* one behind the end: must stay */
	return x;
}

static void same_bits(const float *a, const float *b, size_t n, const char *what)
{
	for (size_t i = 0; i < n; i++)
		if (memcmp(a + i, b + i, sizeof(*a)) != 0)
			fail_msg("%s: element %zu of %zu: %.9g, reference %.9g", what, i, n, (double)a[i], (double)b[i]);
}

static void test_elementwise(void **state)
{
	const struct vector_ops *fast = vector_ops_fast(), *ref = vector_ops_reference();

	(void)state;
	for (size_t s = 0; s < ARRAY_LEN(sizes); s++) {
		size_t n = sizes[s];
		float *a = random_array(n, 1), *b = random_array(n, 1), *x = random_array(n, 2), *y = random_array(n, 3);

		fast->axpy(a, x, n, 0.37f);
		ref->axpy(b, x, n, 0.37f);
		same_bits(a, b, n, "axpy");
		fast->scale(a, n, -1.7f);
		ref->scale(b, n, -1.7f);
		same_bits(a, b, n, "scale");
		fast->add(a, x, y, n);
		ref->add(b, x, y, n);
		same_bits(a, b, n, "add");
		fast->add(a, a, y, n); /* in place */
		ref->add(b, b, y, n);
		same_bits(a, b, n, "add in place");
		fast->fill(a, n, 0.25f);
		ref->fill(b, n, 0.25f);
		same_bits(a, b, n, "fill");
		fast->fill(a, n, 0);
		ref->fill(b, n, 0);
		same_bits(a, b, n, "fill with zero");
		fast->copy(a, y, n);
		same_bits(a, y, n, "copy");
		assert_true(a[n] == 12345.0f && b[n] == 12345.0f);
		mem_free(a);
		mem_free(b);
		mem_free(x);
		mem_free(y);
	}
}

static void test_sums(void **state)
{
	const struct vector_ops *fast = vector_ops_fast(), *ref = vector_ops_reference();

	(void)state;
	for (size_t s = 0; s < ARRAY_LEN(sizes); s++) {
		size_t n = sizes[s];
		float *a = random_array(n, 1), *b = random_array(n, 2);
		double f = fast->dot(a, b, n), r = ref->dot(a, b, n);

		if (!(fabs(f - r) <= 1e-11 * (double)(n + 1)))
			fail_msg("dot of %zu: %.17g, reference %.17g", n, f, r);
		f = fast->sum_squares(a, n);
		r = ref->sum_squares(a, n);
		if (!(fabs(f - r) <= 1e-12 * r))
			fail_msg("sum of squares of %zu: %.17g, reference %.17g", n, f, r);
		mem_free(a);
		mem_free(b);
	}
}

static void test_sums_do_not_depend_on_threads(void **state)
{
	const struct vector_ops *fast = vector_ops_fast();
	size_t n = SIZE_MAX_TESTED;
	float *a = random_array(n, 1);
	double one, many;

	(void)state;
	omp_set_num_threads(1);
	one = fast->sum_squares(a, n);
	omp_set_num_threads(5);
	many = fast->sum_squares(a, n);
	omp_set_num_threads(2);
	assert_memory_equal(&one, &many, sizeof(one));
	mem_free(a);
}

static void test_finite(void **state)
{
	const float bad[] = { NAN, INFINITY, -INFINITY };

	(void)state;
	for (size_t s = 0; s < ARRAY_LEN(sizes); s++) {
		size_t n = sizes[s];
		float *x = random_array(n, 4);
		size_t places[] = { 0, n / 2, n - 1 };

		if (n > 0)
			x[0] = 3.4028235e38f; /* the largest is finite */
		assert_true(vector_ops_fast()->all_finite(x, n));
		assert_true(vector_ops_reference()->all_finite(x, n));
		for (size_t b = 0; n > 0 && b < ARRAY_LEN(bad); b++)
			for (size_t p = 0; p < ARRAY_LEN(places); p++) {
				float kept = x[places[p]];

				x[places[p]] = bad[b];
				assert_false(vector_ops_fast()->all_finite(x, n));
				assert_false(vector_ops_reference()->all_finite(x, n));
				x[places[p]] = kept;
			}
		mem_free(x);
	}
}

static void test_groups(void **state)
{
	/* An empty group, one row, many rows; the width is no multiple of a vector. */
	const uint32_t offsets[] = { 0, 3, 3, 4, 21, 64 };
	const float scale[] = { 0.5f, 9.0f, 0.0f, -2.0f, 0.001f };
	enum { GROUPS = 5, WIDTH = 37, ROWS = 64 };
	const struct vector_ops *fast = vector_ops_fast(), *ref = vector_ops_reference();
	size_t n = ROWS * WIDTH;
	float *x = random_array(n, 5), *d = random_array(n, 6), *a = random_array(n, 7), *b = random_array(n, 8);
	double f[GROUPS], r[GROUPS];

	(void)state;
	d[100] = 0.0f;
	fast->group_sum_squares(x, offsets, GROUPS, WIDTH, f);
	ref->group_sum_squares(x, offsets, GROUPS, WIDTH, r);
	for (int g = 0; g < GROUPS; g++) {
		double by_hand = 0;

		for (size_t i = offsets[g] * WIDTH; i < offsets[g + 1] * WIDTH; i++)
			by_hand += (double)x[i] * (double)x[i];
		assert_true(fabs(f[g] - by_hand) <= 1e-13 * by_hand);
		assert_true(fabs(r[g] - by_hand) <= 1e-13 * by_hand);
	}
	fast->group_axpy(a, x, d, offsets, GROUPS, WIDTH, scale);
	ref->group_axpy(b, x, d, offsets, GROUPS, WIDTH, scale);
	same_bits(a, b, n, "group_axpy");
	assert_true(b[0] == x[0] + 0.5f * d[0] && b[3 * WIDTH] == x[3 * WIDTH]);
	assert_true(b[n - 1] == x[n - 1] + 0.001f * d[n - 1]);
	fast->group_axpy_sign(a, x, d, offsets, GROUPS, WIDTH, scale);
	ref->group_axpy_sign(b, x, d, offsets, GROUPS, WIDTH, scale);
	same_bits(a, b, n, "group_axpy_sign");
	assert_true(b[100] == x[100]);
	assert_true(b[1] == x[1] + (d[1] > 0 ? 0.5f : -0.5f));
	mem_free(x);
	mem_free(d);
	mem_free(a);
	mem_free(b);
}

static void test_row_correct(void **state)
{
	const float logits[] = { 1, 2, 3, 3, 2, 1, 5, 5, 5, 0, NAN, 9 };
	const int32_t label[] = { 2, 1, 0, 2 };
	uint8_t correct[4];

	(void)state;
	vector_ops_fast()->row_correct(logits, label, 4, 3, correct);
	assert_int_equal(correct[0], 1);
	assert_int_equal(correct[1], 0);
	assert_int_equal(correct[2], 1); /* a tie is the first class */
	assert_int_equal(correct[3], 0); /* a NaN is never right */
}

static void check_adamw(size_t n, double decay, float grad_scale)
{
	const struct vector_ops *fast = vector_ops_fast(), *ref = vector_ops_reference();
	float *value[2], *m[2], *v[2], *grad = random_array(n, 9), *cleared[2] = { random_array(n, 9), random_array(n, 9) };
	double *exact = mem_array(3 * (n + 1), sizeof(*exact));

	assert_non_null(exact);
	for (int k = 0; k < 2; k++) {
		value[k] = random_array(n, 10);
		m[k] = mem_array(n + 1, sizeof(float));
		v[k] = mem_array(n + 1, sizeof(float));
		assert_true(m[k] != NULL && v[k] != NULL);
	}
	for (size_t i = 0; i < n; i++)
		exact[3 * i] = (double)value[0][i];
	for (int t = 1; t <= 3; t++) {
		struct adamw_step step = { .lr = 1e-2, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .decay = decay,
					   .correction1 = 1 - pow(0.9, t), .correction2 = 1 - pow(0.999, t),
					   .grad_scale = grad_scale };

		if (t < 3) {
			fast->adamw(value[0], grad, m[0], v[0], n, &step);
			ref->adamw(value[1], grad, m[1], v[1], n, &step);
		} else { /* the last time the gradient goes */
			step.clear = 1;
			fast->adamw(value[0], cleared[0], m[0], v[0], n, &step);
			ref->adamw(value[1], cleared[1], m[1], v[1], n, &step);
		}
		same_bits(value[0], value[1], n, "adamw: value");
		same_bits(m[0], m[1], n, "adamw: m");
		same_bits(v[0], v[1], n, "adamw: v");
		for (size_t i = 0; i < n; i++) {
			double g = (double)grad[i] * (double)grad_scale, *e = exact + 3 * i;

			e[0] *= 1 - step.lr * decay;
			e[1] = 0.9 * e[1] + 0.1 * g;
			e[2] = 0.999 * e[2] + 0.001 * g * g;
			e[0] -= step.lr / step.correction1 * e[1] / (sqrt(e[2]) / sqrt(step.correction2) + 1e-8);
			if (!(fabs(e[0] - (double)value[1][i]) <= 1e-6))
				fail_msg("adamw step %d: %.9g, by the formula %.9g", t, (double)value[1][i], e[0]);
		}
	}
	for (int k = 0; k < 2; k++) {
		assert_true(value[k][n] == 12345.0f && cleared[k][n] == 12345.0f);
		for (size_t i = 0; i < n; i++)
			assert_true(cleared[k][i] == 0.0f);
		mem_free(cleared[k]);
		mem_free(value[k]);
		mem_free(m[k]);
		mem_free(v[k]);
	}
	mem_free(grad);
	mem_free(exact);
}

static void test_adamw(void **state)
{
	(void)state;
	for (size_t s = 0; s < ARRAY_LEN(sizes); s++)
		check_adamw(sizes[s], s % 2 ? 0.3 : 0.0, s % 3 ? 0.25f : 1.0f);
}

/* Arenas have zeros between parameters; they must stay zeros. */
static void test_adamw_keeps_padding_zero(void **state)
{
	float value[4] = { 0 }, grad[4] = { 0 }, m[4] = { 0 }, v[4] = { 0 };
	struct adamw_step step = { .lr = 1, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .decay = 0.1,
				   .correction1 = 0.1, .correction2 = 0.001, .grad_scale = 1 };

	(void)state;
	vector_ops_fast()->adamw(value, grad, m, v, 4, &step);
	for (int i = 0; i < 4; i++)
		assert_true(value[i] == 0.0f && m[i] == 0.0f && v[i] == 0.0f);
}

static void test_sgd(void **state)
{
	const struct vector_ops *fast = vector_ops_fast(), *ref = vector_ops_reference();

	(void)state;
	for (size_t s = 0; s < ARRAY_LEN(sizes); s++) {
		size_t n = sizes[s];
		float *a = random_array(n, 1), *b = random_array(n, 1), *g = random_array(n, 2);
		float *ma = random_array(n, 3), *mb = random_array(n, 3); /* garbage: `first` must overwrite it */
		double *exact = mem_array(2 * (n + 1), sizeof(*exact));

		assert_non_null(exact);
		for (size_t i = 0; i < n; i++)
			exact[2 * i] = (double)a[i];
		for (int t = 0; t < 3; t++) {
			struct sgd_step step = { .lr = 0.1, .momentum = 0.9, .decay = 0.01, .grad_scale = 0.5f, .first = t == 0 };

			fast->sgd(a, g, ma, n, &step);
			ref->sgd(b, g, mb, n, &step);
			same_bits(a, b, n, "sgd: value");
			same_bits(ma, mb, n, "sgd: momentum");
			for (size_t i = 0; i < n; i++) {
				double *e = exact + 2 * i;

				e[1] = (t == 0 ? 0 : 0.9 * e[1]) + 0.5 * (double)g[i];
				e[0] = e[0] * (1 - 0.1 * 0.01) - 0.1 * e[1];
				if (!(fabs(e[0] - (double)b[i]) <= 1e-6))
					fail_msg("sgd step %d: %.9g, by the formula %.9g", t, (double)b[i], e[0]);
			}
		}
		struct sgd_step last = { .lr = 0.1, .momentum = 0.9, .grad_scale = 1.0f, .clear = 1 };
		float *other = random_array(n, 2);

		fast->sgd(a, g, ma, n, &last);
		ref->sgd(b, other, mb, n, &last);
		same_bits(a, b, n, "sgd: value");
		for (size_t i = 0; i < n; i++)
			assert_true(g[i] == 0.0f && other[i] == 0.0f);
		assert_true(a[n] == 12345.0f && g[n] == 12345.0f);
		mem_free(other);
		mem_free(a);
		mem_free(b);
		mem_free(g);
		mem_free(ma);
		mem_free(mb);
		mem_free(exact);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_elementwise),
		cmocka_unit_test(test_sums),
		cmocka_unit_test(test_sums_do_not_depend_on_threads),
		cmocka_unit_test(test_finite),
		cmocka_unit_test(test_groups),
		cmocka_unit_test(test_row_correct),
		cmocka_unit_test(test_adamw),
		cmocka_unit_test(test_adamw_keeps_padding_zero),
		cmocka_unit_test(test_sgd),
	};

	return cmocka_run_group_tests_name("vector_ops", tests, NULL, NULL);
}
