/*
 * test_bf16.c - the kernels on bf16 against their plain versions: the
 * conversion itself against every value, convolutions, what surrounds them,
 * products. Both sides round the same sums, so an element may be off by one
 * place where they lie on either side of a tie, and hardly any may be.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "shared/base/mem.h"
#include "tests/support/floats.h"
#include "trainer/kernels/bf16.h"
#include "trainer/kernels/image_rows.h"
#include "trainer/kernels/kernels.h"

enum { PICTURES = 3 };

static void *memory(size_t bytes)
{
	void *p = mem_aligned(bytes + 64);

	assert_non_null(p);
	memset(p, 0, bytes + 64);
	return p;
}

static uint16_t *halves(size_t n, uint32_t name)
{
	uint16_t *p = memory(n * sizeof(*p));
	float *x = noise(n, name);

	for (size_t i = 0; i < n; i++)
		p[i] = bf16_from_float(x[i]);
	mem_free(x);
	return p;
}

/* |a - b| <= limit * (1 + |b|) everywhere, finite; prints the worst element otherwise. */
static void assert_close(const char *what, const float *a, const float *b, size_t n, double limit)
{
	for (size_t i = 0; i < n; i++)
		if (!(fabs((double)a[i] - b[i]) <= limit * (1 + fabs((double)b[i]))))
			fail_msg("%s: element %zu of %zu is %.9g, expected %.9g (allowed %.3g)", what, i, n, (double)a[i], (double)b[i],
				 limit);
}

/* At most one place (2^-7) off or `noise_of` of a cancelled sum, and at most one in 50 different at all. */
static void assert_same_rounding(const char *what, const uint16_t *a, const uint16_t *b, size_t n, double noise_of)
{
	size_t different = 0;

	for (size_t i = 0; i < n; i++) {
		double x = (double)bf16_to_float(a[i]), y = (double)bf16_to_float(b[i]);

		different += a[i] != b[i] && x != y;
		if (!(fabs(x - y) <= fabs(y) / 127 + noise_of))
			fail_msg("%s: element %zu of %zu is %.9g, expected %.9g", what, i, n, x, y);
	}
	if (different > n / 50 + 1)
		fail_msg("%s: %zu of %zu elements differ", what, different, n);
}

static bool have_bf16(void)
{
	struct err err;

	if (kernels_check_precision("bf16", &err) == 0)
		return true;
	print_message("skipped: %s\n", err.message);
	return false;
}

static void test_rounding(void **state)
{
	static const struct {
		float x;
		uint16_t half;
	} known[] = {
		{ 1.0f, 0x3f80 }, { -1.0f, 0xbf80 },
		{ 1.00390625f, 0x3f80 },  /* 1 + 2^-8: a tie, to even */
		{ 1.01171875f, 0x3f82 },  /* 1 + 3 * 2^-8: a tie, to even above */
		{ 1.00390637f, 0x3f81 },  /* just above the tie */
		{ 3.4e38f, 0x7f80 },      /* rounds up to infinity */
		{ INFINITY, 0x7f80 }, { -0.0f, 0x8000 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(known); i++)
		assert_int_equal(bf16_from_float(known[i].x), known[i].half);
	assert_true(isnan(bf16_to_float(bf16_from_float(NAN))));
	for (uint32_t h = 0; h < 0x10000; h++)
		if ((h & 0x7fff) <= 0x7f80)
			assert_int_equal(bf16_from_float(bf16_to_float((uint16_t)h)), h);
}

/* The processor's conversions: every half, the ties beside it, and what lies beyond them. */
static void test_conversions(void **state)
{
	const struct image_rows *rows = image_rows_bf16();
	enum { N = 5 * 17 };
	float x[N], back[N];
	uint16_t y[N];

	(void)state;
	if (rows == NULL)
		skip();
	for (uint32_t h = 0; h < 0x10000; h += 17) {
		size_t n = 0;

		for (uint32_t k = h; k < h + 17 && k < 0x10000; k++) {
			uint32_t bits = k << 16;

			if ((k & 0x7f80) == 0 || (k & 0x7fff) >= 0x7f80)
				continue; /* below 1.2e-38 the instruction gives zero; NaN below */
			for (uint32_t low = 0; low < 5; low++) {
				static const uint32_t ends[] = { 0, 0x7fff, 0x8000, 0x8001, 0xffff };
				uint32_t value = bits | ends[low];

				memcpy(&x[n++], &value, sizeof(value));
			}
		}
		rows->store(x, n, y);
		for (size_t i = 0; i < n; i++)
			assert_int_equal(y[i], bf16_from_float(x[i]));
		rows->load(y, n, back);
		for (size_t i = 0; i < n; i++)
			assert_true(back[i] == bf16_to_float(y[i]));
	}
	x[0] = NAN;
	rows->store(x, 1, y);
	assert_true(isnan(bf16_to_float(y[0])));
}

/* ---- convolutions ---- */

static const struct conv_shape SHAPES[] = {
	{ 3, 64, 7, 2, 3, 33, 31 },   { 64, 64, 1, 1, 0, 9, 7 },   { 64, 64, 3, 1, 1, 14, 14 }, { 16, 32, 3, 2, 1, 15, 16 },
	{ 32, 16, 1, 2, 0, 13, 14 },  { 48, 80, 1, 1, 0, 5, 5 },   { 128, 256, 1, 2, 0, 7, 7 }, { 96, 32, 3, 1, 1, 4, 4 },
	{ 16, 16, 3, 2, 1, 2, 2 },    { 256, 64, 1, 1, 0, 14, 14 }, { 3, 16, 7, 2, 3, 32, 32 },  { 5, 7, 3, 1, 1, 6, 5 },
};

struct conv_results {
	uint16_t *y, *dx, *dx_added;
	float *dw;
	size_t out, in, weights;
};

static struct conv_results conv_results(const struct image_ops *ops, const struct conv_shape *s)
{
	struct image_engine *engine;
	struct conv *conv;
	struct err err;
	struct conv_results r = { .in = PICTURES * (size_t)(s->in_height * s->in_width * s->in_channels),
				  .weights = (size_t)(s->in_channels * s->out_channels * s->kernel * s->kernel) };

	r.out = (size_t)PICTURES * (size_t)conv_out_size(s->in_height, s->kernel, s->stride, s->pad) *
		(size_t)conv_out_size(s->in_width, s->kernel, s->stride, s->pad) * (size_t)s->out_channels;
	uint16_t *x = halves(r.in, 1), *dy = halves(r.out, 2);
	float *w = noise(r.weights, 3);

	r.y = halves(r.out, 4);
	r.dx = halves(r.in, 5);
	r.dx_added = halves(r.in, 6);
	r.dw = noise(r.weights, 7);
	assert_int_equal(ops->engine_open(&engine, &err), 0);
	assert_int_equal(ops->conv_open(&conv, engine, s, 0, PICTURES, CONV_FORWARD | CONV_WEIGHTS, &err), 0);
	ops->conv_begin(conv, w);
	ops->conv_forward(conv, x, PICTURES, r.y);
	ops->conv_begin(conv, w);
	ops->conv_backward_weights(conv, x, dy, PICTURES, r.dw);
	ops->conv_backward_data(conv, dy, PICTURES, r.dx, false);
	ops->conv_backward_data(conv, dy, PICTURES, r.dx_added, true);
	ops->conv_close(conv);
	ops->engine_close(engine);
	mem_free(x);
	mem_free(dy);
	mem_free(w);
	return r;
}

static void conv_results_free(struct conv_results *r)
{
	mem_free(r->y);
	mem_free(r->dx);
	mem_free(r->dx_added);
	mem_free(r->dw);
}

static void test_convolutions(void **state)
{
	(void)state;
	if (!have_bf16())
		skip();
	for (size_t i = 0; i < ARRAY_LEN(SHAPES); i++) {
		struct conv_results expected = conv_results(image_ops_bf16_reference(), &SHAPES[i]);
		struct conv_results got = conv_results(image_ops_bf16(), &SHAPES[i]), again = conv_results(image_ops_bf16(), &SHAPES[i]);
		bool adds_twice = SHAPES[i].stride > 1; /* the sum is rounded before it is added */
		char what[64];

		snprintf(what, sizeof(what), "shape %zu", i);
		print_message("%s\n", what);
		assert_same_rounding("y", got.y, expected.y, expected.out, 1e-4);
		assert_same_rounding("dx", got.dx, expected.dx, expected.in, 1e-4);
		if (!adds_twice)
			assert_same_rounding("dx added", got.dx_added, expected.dx_added, expected.in, 1e-4);
		for (size_t k = 0; k < expected.in; k++) /* of sums up to 32 two roundings to 8 bits */
			assert_true(fabs((double)bf16_to_float(got.dx_added[k]) - (double)bf16_to_float(expected.dx_added[k])) < 0.26);
		assert_close("dw", got.dw, expected.dw, expected.weights, 1e-4);
		assert_memory_equal(got.y, again.y, expected.out * sizeof(uint16_t));
		assert_memory_equal(got.dx, again.dx, expected.in * sizeof(uint16_t));
		assert_memory_equal(got.dw, again.dw, expected.weights * sizeof(float));
		conv_results_free(&expected);
		conv_results_free(&got);
		conv_results_free(&again);
	}
}

/* ---- what surrounds them ---- */

struct norm_results {
	uint16_t *relu, *added, *pooled, *masked, *dx, *dx_plain, *unpooled, *spread;
	uint8_t *index;
	float *sums, *average;
};

enum { H = 9, W = 7, N_ROWS = PICTURES * H * W, OH = 5, OW = 4 };

static struct norm_results norm_results(const struct image_ops *ops, int C)
{
	size_t c = (size_t)C, n = N_ROWS * c, pooled = PICTURES * OH * OW * c;
	struct image_engine *engine;
	struct bn *bn, *other;
	struct err err;
	uint16_t *x = halves(n, 21), *shortcut = halves(n, 22), *dy = halves(n, 23);
	float *weight = noise(c, 24), *bias = noise(c, 25);
	struct norm_results r = { memory(2 * n), memory(2 * n), memory(2 * pooled), halves(n, 26), memory(2 * n), memory(2 * n),
				  memory(2 * n), memory(2 * n), memory(pooled), memory(4 * c * sizeof(float)),
				  memory(PICTURES * c * sizeof(float)) };

	assert_int_equal(ops->engine_open(&engine, &err), 0);
	assert_int_equal(ops->bn_open(&bn, engine, C, &err), 0);
	assert_int_equal(ops->bn_open(&other, engine, C, &err), 0);
	for (int i = 0; i < 2; i++) {
		struct bn *one = i == 0 ? bn : other;
		const uint16_t *from = i == 0 ? x : shortcut;

		ops->bn_stats_begin(one);
		ops->bn_stats(one, from, 20);
		ops->bn_stats(one, from + 20 * c, N_ROWS - 20);
		ops->bn_stats_end(one, weight, bias, NULL, NULL);
	}
	ops->bn_relu(bn, x, N_ROWS, r.relu);
	ops->bn_add_relu(bn, x, other, shortcut, N_ROWS, r.added);
	ops->bn_relu_pool(bn, x, PICTURES, H, W, r.pooled, r.index);
	ops->bn_sums_begin(bn);
	ops->bn_sums_begin(other);
	ops->bn_add_relu_sums(bn, x, other, shortcut, r.added, r.masked, N_ROWS);
	ops->bn_sums_end(bn, r.sums, r.sums + c);
	ops->bn_sums_end(other, r.sums + 2 * c, r.sums + 3 * c);
	ops->bn_backward(bn, false, r.masked, x, N_ROWS, r.dx_plain);
	ops->bn_sums_begin(bn);
	ops->bn_relu_sums(bn, dy, x, N_ROWS);
	ops->bn_sums_end(bn, r.sums, r.sums + c);
	ops->bn_backward(bn, true, dy, x, N_ROWS, r.dx);
	ops->pool_backward(engine, r.pooled, r.index, PICTURES, H, W, C, r.unpooled);
	ops->average_pool(engine, x, PICTURES, H * W, C, r.average);
	ops->average_pool_backward(engine, r.average, PICTURES, H * W, C, r.spread);
	ops->bn_close(bn);
	ops->bn_close(other);
	ops->engine_close(engine);
	mem_free(x);
	mem_free(shortcut);
	mem_free(dy);
	mem_free(weight);
	mem_free(bias);
	return r;
}

static void norm_results_free(struct norm_results *r)
{
	void *all[] = { r->relu, r->added, r->pooled, r->masked, r->dx, r->dx_plain, r->unpooled, r->spread, r->index, r->sums,
			r->average };

	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		mem_free(all[i]);
}

static void test_norms(void **state)
{
	static const int widths[] = { 64, 16, 37, 1, 100 };

	(void)state;
	if (!have_bf16())
		skip();
	for (size_t i = 0; i < ARRAY_LEN(widths); i++) {
		size_t c = (size_t)widths[i], n = N_ROWS * c, pooled = PICTURES * OH * OW * c;
		struct norm_results a = norm_results(image_ops_bf16(), widths[i]);
		struct norm_results b = norm_results(image_ops_bf16_reference(), widths[i]);

		assert_same_rounding("relu", a.relu, b.relu, n, 1e-6);
		assert_same_rounding("add relu", a.added, b.added, n, 1e-6);
		assert_same_rounding("pool", a.pooled, b.pooled, pooled, 1e-6);
		assert_memory_equal(a.index, b.index, pooled);
		assert_same_rounding("masked", a.masked, b.masked, n, 0);
		assert_close("sums", a.sums, b.sums, 4 * c, 1e-5);
		assert_same_rounding("backward", a.dx_plain, b.dx_plain, n, 1e-6);
		assert_same_rounding("backward, relu", a.dx, b.dx, n, 1e-6);
		assert_same_rounding("unpool", a.unpooled, b.unpooled, n, 1e-6);
		assert_close("average", a.average, b.average, PICTURES * c, 1e-6);
		assert_same_rounding("average backward", a.spread, b.spread, n, 1e-6);
		norm_results_free(&a);
		norm_results_free(&b);
	}
}

static void test_nan(void **state)
{
	float one[16], zero[16], values[9 * 16];
	uint16_t x[9 * 16], y[4 * 16];
	uint8_t index[4 * 16];
	const struct image_ops *ops = image_ops_bf16();
	struct image_engine *engine;
	struct bn *bn;
	struct err err;

	(void)state;
	if (!have_bf16())
		skip();
	for (int c = 0; c < 16; c++) {
		one[c] = 1;
		zero[c] = 0;
	}
	for (int i = 0; i < 9 * 16; i++)
		values[i] = 2;
	values[4 * 16 + 5] = NAN; /* the middle pixel, seen by all four windows */
	values[4 * 16 + 6] = 3;
	assert_int_equal(ops->engine_open(&engine, &err), 0);
	ops->from_floats(engine, values, 9 * 16, x);
	assert_int_equal(ops->bn_open(&bn, engine, 16, &err), 0);
	ops->bn_use_running(bn, one, zero, zero, one);
	ops->bn_relu_pool(bn, x, 1, 3, 3, y, index);
	for (int w = 0; w < 4; w++) {
		static const uint8_t middle[] = { 8, 6, 2, 0 };

		assert_true(isnan(bf16_to_float(y[w * 16 + 5])));
		assert_int_equal(index[w * 16 + 5], middle[w]);
		assert_int_equal(index[w * 16 + 6], middle[w]);
	}
	assert_int_equal(index[0], 4); /* the first among equals */
	ops->bn_relu(bn, x, 9, x);
	assert_true(isnan(bf16_to_float(x[4 * 16 + 5])));
	ops->bn_close(bn);
	ops->engine_close(engine);
}

static void test_layouts(void **state)
{
	enum { C = 5, PIXELS = 131, N = PICTURES * C * PIXELS };
	struct image_engine *engine;
	struct err err;

	(void)state;
	if (!have_bf16())
		skip();

	float *nchw = noise(N, 51), *back = memory(N * sizeof(*back));
	uint16_t *a = memory(N * 2), *b = memory(N * 2);

	assert_int_equal(image_ops_bf16()->engine_open(&engine, &err), 0);
	image_ops_bf16()->to_nhwc(engine, nchw, PICTURES, C, PIXELS, a);
	image_ops_bf16_reference()->to_nhwc(engine, nchw, PICTURES, C, PIXELS, b);
	assert_memory_equal(a, b, N * 2);
	image_ops_bf16()->to_nchw(engine, a, PICTURES, C, PIXELS, back);
	for (int i = 0; i < N; i++)
		assert_true(back[i] == bf16_to_float(bf16_from_float(nchw[i])));
	image_ops_bf16()->engine_close(engine);
	mem_free(nchw);
	mem_free(back);
	mem_free(a);
	mem_free(b);
}

/* ---- products ---- */

static void test_products(void **state)
{
	static const struct linear_shape shapes[] = {
		{ 17, 64, 192, 64, 64, 192 }, { 1, 64, 64, 64, 64, 64 }, { 221, 96, 40, 100, 96, 120 }, { 33, 256, 64, 256, 260, 64 },
	};
	const struct dense_ops *ops = dense_ops_bf16(), *plain = dense_ops_bf16_reference();
	struct err err;

	(void)state;
	if (!have_bf16())
		skip();
	for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
		struct linear_shape s = shapes[i], most = s;
		size_t nx = (size_t)(s.rows * s.ldx), ny = (size_t)(s.rows * s.ldy), nw = (size_t)(s.out * s.ldw);
		float *x = noise(nx, 61), *w = noise(nw, 62), *dy = noise(ny, 63), *bias = noise((size_t)s.out, 64);
		float *y[2], *dx[2], *dw[2];

		most.rows = 300;
		assert_int_equal(ops->encoder_reserve(most, &err), 0);
		for (int k = 0; k < 2; k++) {
			const struct dense_ops *table = k == 0 ? ops : plain;

			y[k] = noise(ny, 65);
			dx[k] = noise(nx, 66);
			dw[k] = noise(nw, 67);
			table->encoder_linear(y[k], x, w, bias, s, true);
			table->encoder_linear_input(dx[k], dy, w, s, true);
			table->encoder_linear_weights(dw[k], dy, x, s);
		}
		assert_close("y", y[0], y[1], ny, 1e-5);
		assert_close("dx", dx[0], dx[1], nx, 1e-5);
		assert_close("dw", dw[0], dw[1], nw, 1e-5);
		for (int k = 0; k < 2; k++) {
			const struct dense_ops *table = k == 0 ? ops : plain;

			table->encoder_linear(y[k], x, w, NULL, s, false);
			table->encoder_linear_input(dx[k], dy, w, s, false);
		}
		assert_close("y alone", y[0], y[1], ny, 1e-5);
		assert_close("dx alone", dx[0], dx[1], nx, 1e-5);
		float *all[] = { x, w, dy, bias, y[0], y[1], dx[0], dx[1], dw[0], dw[1] };

		for (size_t k = 0; k < ARRAY_LEN(all); k++)
			mem_free(all[k]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rounding), cmocka_unit_test(test_conversions), cmocka_unit_test(test_convolutions),
		cmocka_unit_test(test_norms),	 cmocka_unit_test(test_nan),	     cmocka_unit_test(test_layouts),
		cmocka_unit_test(test_products),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
