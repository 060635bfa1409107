/* test_gemm_bf16.c - products in bf16 of gemm.h against plain loops: edges, odd lengths, windows, parts. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shared/base/mem.h"
#include "tests/support/floats.h"
#include "trainer/kernels/bf16.h"
#include "trainer/kernels/gemm.h"
#include "trainer/kernels/kernels.h"

enum { GAP = 3, GUARD = 5, THREADS = 2 };

static const float UNTOUCHED = 1e30f;

static bool not_here(void)
{
	if (gemm_bf16_is_chosen())
		return false;
	print_message("SKIP: this processor has no AVX512_BF16, or AMX\n");
	return true;
}

/* An operand of `lines` lines in memory that ends where its memory ends, so that a sanitizer sees every read behind it. */
struct operand {
	uint16_t *data;
	float *floats; /* the same numbers */
	size_t ld;
};

static struct operand operand_of(size_t lines, size_t width, size_t gap, uint32_t name)
{
	size_t ld = width + gap, count = (lines - 1) * ld + width;
	struct operand o = { mem_array(count, sizeof(uint16_t)), noise(count, name), ld };

	assert_non_null(o.data);
	for (size_t i = 0; i < count; i++) {
		o.data[i] = bf16_from_float(o.floats[i]);
		o.floats[i] = bf16_to_float(o.data[i]);
	}
	return o;
}

static void operand_free(struct operand *o)
{
	mem_free(o->data);
	mem_free(o->floats);
}

static void assert_near(const char *what, size_t i, size_t j, float got, double expected, double magnitude)
{
	double allowed = 1e-6 * (magnitude + 1e-3);

	if (!(fabs(got - expected) <= allowed))
		fail_msg("%s: (%zu, %zu) is %.9g, expected %.9g, allowed %.3g", what, i, j, (double)got, expected, allowed);
}

static void check_product(size_t m, size_t n, size_t k, bool add, int threads)
{
	struct operand a = operand_of(k, m, GAP, 1), b = operand_of(k, n, GAP, 2);
	size_t ldc = n + GUARD;
	float *c = add ? noise(m * ldc, 3) : filled(m * ldc, UNTOUCHED), *before = noise(m * ldc, 3);
	char what[120];

	snprintf(what, sizeof(what), "%zu x %zu x %zu%s, %d threads", m, n, k, add ? ", added" : "", threads);
	gemm_run(&(struct gemm){ .m = m, .n = n, .k = k, .bf16 = true, .a_form = GEMM_COLUMNS, .a = a.data, .lda = a.ld, .b_form = GEMM_ROWS,
				 .b = b.data, .ldb = b.ld, .c = c, .ldc = ldc, .add = add },
		 threads);
	for (size_t i = 0; i < m; i++) {
		for (size_t j = 0; j < n; j++) {
			double sum = add ? before[i * ldc + j] : 0, magnitude = fabs(sum);

			for (size_t t = 0; t < k; t++) {
				double term = (double)a.floats[t * a.ld + i] * b.floats[t * b.ld + j];

				sum += term;
				magnitude += fabs(term);
			}
			assert_near(what, i, j, c[i * ldc + j], sum, magnitude);
		}
		for (size_t j = n; j < ldc; j++)
			assert_true(c[i * ldc + j] == (add ? before[i * ldc + j] : UNTOUCHED));
	}
	operand_free(&a);
	operand_free(&b);
	mem_free(c);
	mem_free(before);
}

static void test_sizes_and_edges(void **state)
{
	static const size_t ms[] = { 1, 5, 6, 12, 13, 121, 250 }, ns[] = { 1, 2, 15, 16, 17, 40, 401 }, ks[] = { 1, 2, 7, 63, 512, 513, 1100 };

	(void)state;
	if (not_here())
		skip();
	for (unsigned i = 0; i < 7; i++)
		for (unsigned j = 0; j < 7; j++)
			for (unsigned l = 0; l < 7; l++)
				check_product(ms[i], ns[j], ks[l], (i + j + l) % 2 != 0, 1 + (int)((i + l) % 3));
}

/* Element j of window i, from the definition. */
static double window_at(const struct gemm_windows *w, const float *pictures, size_t i, size_t j)
{
	int channel = (int)(j % (size_t)w->channels), tap = (int)(j / (size_t)w->channels);
	int x = (int)(i % (size_t)w->grid_width), y = (int)(i / (size_t)w->grid_width % (size_t)w->grid_height);
	size_t picture = i / (size_t)w->grid_width / (size_t)w->grid_height;
	int px = x * w->step + w->first_x + tap % w->taps_x, py = y * w->step + w->first_y + tap / w->taps_x;

	if (px < 0 || py < 0 || px >= w->width || py >= w->height)
		return 0;
	return pictures[((picture * (size_t)w->height + (size_t)py) * (size_t)w->width + (size_t)px) * (size_t)w->channels + (size_t)channel];
}

static void check_windows(const struct gemm_windows *w, size_t count)
{
	enum { OUT = 19 };
	size_t k = count * (size_t)w->grid_height * (size_t)w->grid_width, n = (size_t)w->taps_y * (size_t)w->taps_x * (size_t)w->channels;
	struct operand a = operand_of(k, OUT, GAP, 1);
	struct operand pictures = operand_of(count * (size_t)w->height * (size_t)w->width, (size_t)w->channels, 0, 2);
	float *c = filled(OUT * n, UNTOUCHED);

	gemm_run(&(struct gemm){ .m = OUT, .n = n, .k = k, .a_form = GEMM_COLUMNS, .a = a.data, .lda = a.ld, .b_form = GEMM_WINDOWS,
				 .b = pictures.data, .windows = *w, .bf16 = true, .c = c, .ldc = n },
		 THREADS);
	for (size_t i = 0; i < OUT; i++)
		for (size_t j = 0; j < n; j++) {
			double sum = 0, magnitude = 0;

			for (size_t t = 0; t < k; t++) {
				double term = a.floats[t * a.ld + i] * window_at(w, pictures.floats, t, j);

				sum += term;
				magnitude += fabs(term);
			}
			assert_near("windows", i, j, c[i * n + j], sum, magnitude);
		}
	operand_free(&a);
	operand_free(&pictures);
	mem_free(c);
}

static void test_windows(void **state)
{
	static const struct gemm_windows all[] = {
		{ 16, 6, 5, 3, 3, 1, -1, -1, 6, 5 }, { 32, 7, 7, 3, 3, 2, -1, -1, 4, 4 }, { 2, 9, 11, 7, 7, 2, -3, -3, 5, 6 },
		{ 46, 3, 3, 1, 2, 1, 1, -1, 3, 4 },  { 200, 5, 5, 3, 3, 1, -1, -1, 5, 5 }, { 64, 8, 8, 1, 1, 2, 0, 0, 4, 4 },
	};

	(void)state;
	if (not_here())
		skip();
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		check_windows(&all[i], 1 + i % 3);
}

static void test_parts(void **state)
{
	enum { M = 10, N = 35, K = 20001 };
	int parts = gemm_parts(M, N, K);

	(void)state;
	if (not_here())
		skip();

	struct operand a = operand_of(K, M, GAP, 1), b = operand_of(K, N, GAP, 2);
	float *c = filled((size_t)GEMM_PARTS_MAX * M * N, UNTOUCHED);

	assert_true(parts > 1);
	gemm_run_parts(&(struct gemm){ .m = M, .n = N, .k = K, .a_form = GEMM_COLUMNS, .a = a.data, .lda = a.ld, .b_form = GEMM_ROWS, .b = b.data,
				       .ldb = b.ld, .bf16 = true },
		       parts, c, THREADS);
	for (size_t i = 0; i < M; i++)
		for (size_t j = 0; j < N; j++) {
			double sum = 0, got = 0;

			for (size_t t = 0; t < K; t++)
				sum += (double)a.floats[t * a.ld + i] * b.floats[t * b.ld + j];
			for (int part = 0; part < parts; part++)
				got += c[(size_t)part * M * N + i * N + j];
			assert_near("parts", i, j, (float)got, sum, K / 4.0);
		}
	operand_free(&a);
	operand_free(&b);
	mem_free(c);
}

/* What gemm.h promises: neither threads nor neighbours nor the place of a row change a bit of it. */
static void test_bits_do_not_depend_on_company(void **state)
{
	enum { M = 300, N = 500, K = 1401, FEW = 11 };

	(void)state;
	if (not_here())
		skip();

	struct operand a = operand_of(K, M, GAP, 1), b = operand_of(K, N, GAP, 2);
	float *first = filled((size_t)M * N, UNTOUCHED), *other = filled((size_t)M * N, UNTOUCHED);
	struct gemm g = { .m = M, .n = N, .k = K, .bf16 = true, .a_form = GEMM_COLUMNS, .a = a.data, .lda = a.ld, .b_form = GEMM_ROWS, .b = b.data,
			  .ldb = b.ld, .c = first, .ldc = N };

	gemm_run(&g, 1);
	g.c = other;
	for (int threads = 2; threads <= 5; threads++) {
		gemm_run(&g, threads);
		assert_memory_equal(first, other, (size_t)M * N * sizeof(float));
	}
	g.m = FEW;
	g.a = a.data + 7;
	gemm_run(&g, 1);
	assert_memory_equal(first + 7 * N, other, (size_t)FEW * N * sizeof(float));
	operand_free(&a);
	operand_free(&b);
	mem_free(first);
	mem_free(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes_and_edges), cmocka_unit_test(test_windows), cmocka_unit_test(test_parts),
		cmocka_unit_test(test_bits_do_not_depend_on_company),
	};

	kernels_set_threads(THREADS);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
