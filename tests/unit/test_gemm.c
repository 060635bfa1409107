/* test_gemm.c - our own matrix products against plain loops: every form of both operands, every edge, windows, pixels, parts. */
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
#include "trainer/kernels/gemm.h"
#include "trainer/kernels/kernels.h"

enum { GUARD = 24 }; /* elements around a result that nobody may touch */

static const float UNTOUCHED = 1e30f;

static float at(enum gemm_form form, const float *data, size_t ld, size_t i, size_t j)
{
	return form == GEMM_ROWS ? data[i * ld + j] : data[j * ld + i];
}

/* An operand that ends where its memory ends, so that a sanitizer sees every read behind it. */
static float *matrix(enum gemm_form form, size_t rows, size_t columns, size_t gap, size_t *ld, uint32_t name)
{
	size_t lines = form == GEMM_ROWS ? rows : columns, width = form == GEMM_ROWS ? columns : rows;
	float *p = mem_array((lines - 1) * (width + gap) + width, sizeof(*p)), *all = noise(lines * (width + gap), name);

	assert_non_null(p);
	*ld = width + gap;
	memcpy(p, all, ((lines - 1) * *ld + width) * sizeof(*p));
	mem_free(all);
	return p;
}

static void assert_near(const char *what, size_t i, size_t j, float got, double expected, double magnitude)
{
	/* Chains of GEMM_K_BLOCK roundings, and one for each block. */
	double allowed = 1e-6 * (magnitude + 1e-3);

	if (!(fabs(got - expected) <= allowed))
		fail_msg("%s: (%zu, %zu) is %.9g, expected %.9g, allowed %.3g", what, i, j, (double)got, expected, allowed);
}

static void check_product(size_t m, size_t n, size_t k, enum gemm_form a_form, enum gemm_form b_form, bool panels, bool add, int threads)
{
	size_t lda, ldb, ldc = n + 5, all = m * ldc + 2 * GUARD;
	float *a = matrix(a_form, m, k, 3, &lda, 1), *b = matrix(b_form, k, n, 2, &ldb, 2), *memory = noise(all, 3), *packed = NULL;
	float *c = memory + GUARD, *before = noise(all, 3);
	char what[120];

	snprintf(what, sizeof(what), "%zu x %zu x %zu, forms %d %d%s%s, %d threads", m, n, k, a_form, b_form, panels ? ", panels" : "",
		 add ? ", added" : "", threads);
	if (panels) {
		packed = noise(gemm_panels_floats(k, n), 4);
		gemm_pack_panels(b_form, b, ldb, k, n, packed, threads);
	}
	if (!add)
		for (size_t i = 0; i < all; i++)
			memory[i] = NAN; /* nothing that was there may come through */
	gemm_run(&(struct gemm){ .m = m, .n = n, .k = k, .a_form = a_form, .a = a, .lda = lda, .b_form = panels ? GEMM_PANELS : b_form,
				 .b = panels ? packed : b, .ldb = ldb, .c = c, .ldc = ldc, .add = add },
		 threads);
	for (size_t i = 0; i < m; i++)
		for (size_t j = 0; j < n; j++) {
			double sum = add ? before[GUARD + i * ldc + j] : 0, magnitude = fabs(sum);

			for (size_t t = 0; t < k; t++) {
				double term = (double)at(a_form, a, lda, i, t) * at(b_form, b, ldb, t, j);

				sum += term;
				magnitude += fabs(term);
			}
			assert_near(what, i, j, c[i * ldc + j], sum, magnitude);
		}
	for (size_t i = 0; i < all; i++) {
		size_t place = i < GUARD ? ldc - 1 : (i - GUARD) % ldc;

		if (place < n && i >= GUARD && i < GUARD + m * ldc)
			continue;
		if (add ? memory[i] != before[i] : !isnan(memory[i]))
			fail_msg("%s: element %zu outside of the result was written", what, i);
	}
	mem_free(a);
	mem_free(b);
	mem_free(memory);
	mem_free(before);
	mem_free(packed);
}

static bool not_here(void)
{
	if (gemm_is_chosen())
		return false;
	print_message("SKIP: this processor has no use for our own products\n");
	return true;
}

static void test_forms_and_edges(void **state)
{
	static const size_t ms[] = { 1, 5, 6, 7, 13, 121, 250 }, ns[] = { 1, 2, 15, 16, 17, 40, 401 }, ks[] = { 1, 7, 8, 255, 256, 257, 600 };

	(void)state;
	if (not_here())
		skip();
	for (unsigned i = 0; i < 7; i++)
		for (unsigned j = 0; j < 7; j++)
			for (unsigned forms = 0; forms < 8; forms++) {
				size_t k = ks[(i + j + forms) % 7];

				check_product(ms[i], ns[j], k, forms & 1 ? GEMM_COLUMNS : GEMM_ROWS, forms & 2 ? GEMM_COLUMNS : GEMM_ROWS,
					      (forms & 4) != 0, (i + j) % 2 != 0, 1 + (int)((i + forms) % 3));
			}
}

static void test_nothing_to_add(void **state)
{
	float c[6] = { 1, 2, 3, 4, 5, 6 }, a[1] = { 0 };

	(void)state;
	if (not_here())
		skip();
	gemm_run(&(struct gemm){ .m = 2, .n = 2, .k = 0, .a = a, .b = a, .c = c, .ldc = 3, .add = true }, 1);
	assert_true(c[0] == 1 && c[1] == 2 && c[3] == 4 && c[4] == 5);
	gemm_run(&(struct gemm){ .m = 2, .n = 2, .k = 0, .a = a, .b = a, .c = c, .ldc = 3 }, 1);
	assert_true(c[0] == 0 && c[1] == 0 && c[2] == 3 && c[3] == 0 && c[4] == 0 && c[5] == 6);
	gemm_run(&(struct gemm){ .m = 0, .n = 2, .k = 2, .a = a, .b = a, .c = c, .ldc = 3 }, 1);
	assert_true(c[2] == 3);
}

/* Element j of window i, from the definition. */
static float window_at(const struct gemm_windows *w, const float *pictures, size_t i, size_t j)
{
	int channel = (int)(j % (size_t)w->channels), tap = (int)(j / (size_t)w->channels);
	int x = (int)(i % (size_t)w->grid_width), y = (int)(i / (size_t)w->grid_width % (size_t)w->grid_height);
	size_t picture = i / (size_t)w->grid_width / (size_t)w->grid_height;
	int px = x * w->step + w->first_x + tap % w->taps_x, py = y * w->step + w->first_y + tap / w->taps_x;

	if (px < 0 || py < 0 || px >= w->width || py >= w->height)
		return 0;
	return pictures[((picture * (size_t)w->height + (size_t)py) * (size_t)w->width + (size_t)px) * (size_t)w->channels + (size_t)channel];
}

static const struct gemm_windows WINDOWS[] = {
	/* channels, height, width, taps_y, taps_x, step, first_y, first_x, grid_height, grid_width */
	{ 3, 9, 11, 7, 7, 2, -3, -3, 5, 6 },    { 16, 6, 5, 3, 3, 1, -1, -1, 6, 5 }, { 32, 7, 7, 3, 3, 2, -1, -1, 4, 4 },
	{ 5, 4, 4, 2, 3, 1, 0, -1, 3, 4 },      { 48, 3, 3, 1, 2, 1, 1, -1, 3, 4 },  { 16, 2, 2, 5, 5, 1, -2, -2, 2, 2 },
	{ 200, 5, 5, 3, 3, 1, -1, -1, 5, 5 },   { 1, 1, 1, 1, 1, 1, 0, 0, 1, 1 },    { 64, 8, 8, 1, 1, 2, 0, 0, 4, 4 },
	{ 16, 4, 4, 3, 3, 1, -5, -5, 3, 3 } /* every window outside */,
};
enum { PICTURES = 3 };

static void test_windows(void **state)
{
	(void)state;
	if (not_here())
		skip();
	for (size_t i = 0; i < ARRAY_LEN(WINDOWS); i++)
		for (int side = 0; side < 2; side++) {
			const struct gemm_windows *w = &WINDOWS[i];
			size_t rows = PICTURES * (size_t)w->grid_height * (size_t)w->grid_width, other = 37;
			size_t width = (size_t)w->taps_y * (size_t)w->taps_x * (size_t)w->channels;
			float *pictures = noise(PICTURES * (size_t)w->height * (size_t)w->width * (size_t)w->channels, 5);
			size_t m = side ? other : rows, n = side ? width : other, k = side ? rows : width;
			float *a = noise(m * k, 6), *b = noise(k * n, 7), *c = noise(m * n, 8);
			struct gemm g = { .m = m, .n = n, .k = k, .windows = *w, .a_form = side ? GEMM_COLUMNS : GEMM_WINDOWS,
					  .a = side ? a : pictures, .lda = m, .b_form = side ? GEMM_WINDOWS : GEMM_ROWS,
					  .b = side ? pictures : b, .ldb = n, .c = c, .ldc = n };

			gemm_run(&g, 2);
			for (size_t r = 0; r < m; r++)
				for (size_t s = 0; s < n; s++) {
					double sum = 0, magnitude = 0;
					char what[40];

					for (size_t t = 0; t < k; t++) {
						double term = side ? (double)a[t * m + r] * window_at(w, pictures, t, s) :
								     (double)window_at(w, pictures, r, t) * b[t * n + s];

						sum += term;
						magnitude += fabs(term);
					}
					snprintf(what, sizeof(what), "windows %zu, side %d", i, side);
					assert_near(what, r, s, c[r * n + s], sum, magnitude);
				}
			mem_free(pictures);
			mem_free(a);
			mem_free(b);
			mem_free(c);
		}
}

/* Rows of the result are every second pixel; the others stay. */
static void test_pixels(void **state)
{
	enum { HEIGHT = 7, WIDTH = 6, CHANNELS = 5, TERMS = 9 };
	struct gemm_pixels pixels = { HEIGHT, WIDTH, 2, 1, 0 };
	size_t rows = PICTURES * 3 * 3, all = PICTURES * HEIGHT * WIDTH * CHANNELS;

	(void)state;
	if (not_here())
		skip();

	float *a = noise(rows * TERMS, 1), *b = noise(TERMS * CHANNELS, 2), *c = mem_array(all, sizeof(*c));

	for (size_t i = 0; i < all; i++)
		c[i] = UNTOUCHED;
	gemm_run(&(struct gemm){ .m = rows, .n = CHANNELS, .k = TERMS, .a_form = GEMM_ROWS, .a = a, .lda = TERMS, .b_form = GEMM_ROWS, .b = b,
				 .ldb = CHANNELS, .windows = { .grid_height = 3, .grid_width = 3 }, .c = c, .ldc = CHANNELS, .pixels = &pixels },
		 1);
	for (size_t i = 0; i < all; i++) {
		size_t j = i % CHANNELS, x = i / CHANNELS % WIDTH, y = i / CHANNELS / WIDTH % HEIGHT, picture = i / CHANNELS / WIDTH / HEIGHT;
		double sum = 0;

		if (y % 2 != 1 || x % 2 != 0) {
			assert_true(c[i] == UNTOUCHED);
			continue;
		}
		for (size_t t = 0; t < TERMS; t++)
			sum += (double)a[(picture * 9 + y / 2 * 3 + x / 2) * TERMS + t] * b[t * CHANNELS + j];
		assert_near("pixels", i, j, c[i], sum, 5);
	}
	mem_free(a);
	mem_free(b);
	mem_free(c);
}

static void test_parts(void **state)
{
	enum { M = 10, N = 35, K = 20000 };
	int parts = gemm_parts(M, N, K);

	(void)state;
	if (not_here())
		skip();

	float *a = noise((size_t)K * M, 1), *b = noise((size_t)K * N, 2), *c = noise((size_t)GEMM_PARTS_MAX * M * N, 3);

	assert_true(parts > 1 && parts <= GEMM_PARTS_MAX);
	assert_int_equal(gemm_parts(M, N, 100), 1);
	assert_int_equal(gemm_parts(4000, 4000, K), 1);
	gemm_run_parts(&(struct gemm){ .m = M, .n = N, .k = K, .a_form = GEMM_COLUMNS, .a = a, .lda = M, .b_form = GEMM_ROWS, .b = b, .ldb = N },
		       parts, c, 2);
	for (size_t i = 0; i < M; i++)
		for (size_t j = 0; j < N; j++) {
			double sum = 0, got = 0;

			for (size_t t = 0; t < K; t++)
				sum += (double)a[t * M + i] * b[t * N + j];
			for (int part = 0; part < parts; part++)
				got += c[(size_t)part * M * N + i * N + j];
			assert_near("parts", i, j, (float)got, sum, K / 4.0);
		}
	mem_free(a);
	mem_free(b);
	mem_free(c);
}

/* More threads than parts share a part's rows or columns; every bit stays, and nothing is written beside the results. */
static void test_parts_by_many_threads(void **state)
{
	enum { SHORT = 70, LONG = 211, K = 2 * 3072 + 300, BESIDE = 64, FLOATS = GEMM_PARTS_MAX * SHORT * LONG + BESIDE };

	(void)state;
	if (not_here())
		skip();

	float *a = noise((size_t)K * LONG, 1), *b = noise((size_t)K * LONG, 2), *first = noise(FLOATS, 3), *other = noise(FLOATS, 3);

	for (int tall = 0; tall < 2; tall++) {
		struct gemm g = { .m = tall ? LONG : SHORT, .n = tall ? SHORT : LONG, .k = K, .a_form = GEMM_COLUMNS, .a = a, .lda = LONG,
				  .b_form = GEMM_ROWS, .b = b, .ldb = LONG };
		int parts = gemm_parts(g.m, g.n, K);

		assert_true(parts > 1);
		gemm_run_parts(&g, parts, first, 1);
		for (int threads = 2; threads <= 17; threads += 3) {
			memset(other, 0xFF, (size_t)parts * SHORT * LONG * sizeof(float));
			gemm_run_parts(&g, parts, other, threads);
			assert_memory_equal(first, other, FLOATS * sizeof(float));
		}
	}
	mem_free(a);
	mem_free(b);
	mem_free(first);
	mem_free(other);
}

/* What gemm.h promises: neither threads nor neighbours nor the place of a row change a bit of it. */
static void test_bits_do_not_depend_on_company(void **state)
{
	enum { M = 300, N = 500, K = 700, FEW = 11 };

	(void)state;
	if (not_here())
		skip();

	float *a = noise((size_t)M * K, 1), *b = noise((size_t)K * N, 2), *first = noise((size_t)M * N, 3), *other = noise((size_t)M * N, 4);
	struct gemm g = { .m = M, .n = N, .k = K, .a_form = GEMM_ROWS, .a = a, .lda = K, .b_form = GEMM_ROWS, .b = b, .ldb = N, .c = first,
			  .ldc = N };

	gemm_run(&g, 1);
	g.c = other;
	for (int threads = 2; threads <= 5; threads++) {
		gemm_run(&g, threads);
		assert_memory_equal(first, other, (size_t)M * N * sizeof(float));
	}
	g.m = FEW;
	g.a = a + 7 * K;
	gemm_run(&g, 1);
	assert_memory_equal(first + 7 * N, other, (size_t)FEW * N * sizeof(float));
	mem_free(a);
	mem_free(b);
	mem_free(first);
	mem_free(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_forms_and_edges),
		cmocka_unit_test(test_nothing_to_add),
		cmocka_unit_test(test_windows),
		cmocka_unit_test(test_pixels),
		cmocka_unit_test(test_parts),
		cmocka_unit_test(test_parts_by_many_threads),
		cmocka_unit_test(test_bits_do_not_depend_on_company),
	};

	kernels_set_threads(2);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
