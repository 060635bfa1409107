/* test_winograd.c - convolutions by Winograd's filtering against sums in double precision: every size of border, channels, both directions. */
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
#include "trainer/kernels/image_ops.h"
#include "trainer/kernels/kernels.h"
#include "trainer/kernels/winograd.h"

enum { GUARD = 32, THREADS_MAX = 3, GRADIENT_THREADS_MAX = 9 /* from 5 on outputs are cut into strips */ };

static bool not_here(void)
{
	if (gemm_is_chosen())
		return false;
	print_message("SKIP: this processor has no use for our own convolutions\n");
	return true;
}

struct size {
	int in, out, height, width, pictures;
};

static size_t x_floats(const struct size *s)
{
	return (size_t)s->pictures * (size_t)s->height * (size_t)s->width * (size_t)s->in;
}

static size_t y_floats(const struct size *s)
{
	return x_floats(s) / (size_t)s->in * (size_t)s->out;
}

/* Weight of (out, in, tap), as the operation without or with turning reads what is stored. */
static double weight(const struct size *s, const float *w, bool turned, int out, int in, int tap)
{
	return turned ? w[((size_t)in * (size_t)s->out + (size_t)out) * 9 + (size_t)(8 - tap)] :
			w[((size_t)out * (size_t)s->in + (size_t)in) * 9 + (size_t)tap];
}

/* Result (picture, y, x, out), and the sum of its terms' magnitudes. */
static double exact(const struct size *s, const float *x, const float *w, bool turned, size_t i, double *magnitude)
{
	int out = (int)(i % (size_t)s->out), column = (int)(i / (size_t)s->out % (size_t)s->width);
	size_t line_of_all = i / (size_t)s->out / (size_t)s->width, picture = line_of_all / (size_t)s->height;
	int line = (int)(line_of_all % (size_t)s->height);
	double sum = 0;

	*magnitude = 0;
	for (int tap = 0; tap < 9; tap++) {
		int py = line + tap / 3 - 1, px = column + tap % 3 - 1;

		if (py < 0 || px < 0 || py >= s->height || px >= s->width)
			continue;
		for (int c = 0; c < s->in; c++) {
			double term = weight(s, w, turned, out, c, tap) *
				      x[((picture * (size_t)s->height + (size_t)py) * (size_t)s->width + (size_t)px) * (size_t)s->in + (size_t)c];

			sum += term;
			*magnitude += fabs(term);
		}
	}
	return sum;
}

/* y, in memory with GUARD elements before and behind it that have kept what they were. */
static void run(const struct size *s, const float *x, const float *w, bool turned, bool add, int threads, float *y)
{
	size_t packed_floats = winograd_weight_floats(s->in, s->out), work_floats = winograd_work_floats(s->in, threads);
	float *packed = filled(packed_floats + GUARD, NAN), *work = filled(work_floats + GUARD, NAN);

	winograd_pack(w, s->in, s->out, turned, packed, threads);
	winograd_run(&(struct winograd){ .in = s->in, .out = s->out, .pictures = s->pictures, .height = s->height, .width = s->width, .x = x,
					 .packed = packed, .y = y, .add = add, .work = work, .threads = threads });
	for (size_t i = 0; i < GUARD; i++)
		assert_true(isnan(packed[packed_floats + i]) && isnan(work[work_floats + i]));
	mem_free(packed);
	mem_free(work);
}

static void check(const struct size *s, bool turned, bool add, int threads)
{
	size_t results = y_floats(s), all = results + 2 * GUARD;
	float *x = noise(x_floats(s), 1), *w = noise((size_t)s->in * (size_t)s->out * 9, 2), *before = noise(all, 3), *memory = noise(all, 3);

	if (!add)
		for (size_t i = 0; i < results; i++)
			memory[GUARD + i] = NAN; /* nothing that was there may come through */
	run(s, x, w, turned, add, threads, memory + GUARD);
	for (size_t i = 0; i < results; i++) {
		double magnitude, expected = exact(s, x, w, turned, i, &magnitude) + (add ? before[GUARD + i] : 0);
		/* The transforms add up to 16 pixels and weights of a patch before they are multiplied, so near
		 * a border more than the terms of the result itself. */
		double allowed = 1e-6 * (magnitude + s->in / 4.0);

		if (!(fabs(memory[GUARD + i] - expected) <= allowed))
			fail_msg("%d to %d channels, %d x %d pixels, %d pictures%s%s, %d threads: result %zu is %.9g, expected %.9g, allowed %.3g",
				 s->in, s->out, s->height, s->width, s->pictures, turned ? ", turned" : "", add ? ", added" : "", threads, i,
				 (double)memory[GUARD + i], expected, allowed);
	}
	for (size_t i = 0; i < GUARD; i++)
		assert_true(memory[i] == before[i] && memory[GUARD + results + i] == before[GUARD + results + i]);
	mem_free(x);
	mem_free(w);
	mem_free(before);
	mem_free(memory);
}

static void test_sizes(void **state)
{
	static const int sides[] = { 1, 2, 3, 4, 5, 7, 8, 13 };

	(void)state;
	if (not_here())
		skip();
	for (int i = 0; i < 8; i++)
		for (int j = 0; j < 8; j++)
			for (int variant = 0; variant < 4; variant++)
				check(&(struct size){ 16, 32, sides[i], sides[j], 1 + (i + j) % 3 }, variant & 1, variant & 2, 1 + (i + j) % THREADS_MAX);
}

/* Several positions in a row, one, parts of one; groups of results that are full and not. */
static void test_channels(void **state)
{
	static const int channels[][2] = { { 16, 16 },  { 48, 16 },  { 64, 64 },  { 80, 112 },	{ 96, 80 },   { 112, 48 }, { 128, 64 }, { 144, 16 },
					   { 256, 32 }, { 272, 80 }, { 320, 16 }, { 512, 64 }, { 528, 16 }, { 16, 272 }, { 48, 144 } };

	(void)state;
	if (not_here())
		skip();
	for (size_t i = 0; i < ARRAY_LEN(channels); i++)
		for (int turned = 0; turned < 2; turned++)
			check(&(struct size){ channels[i][0], channels[i][1], 5, 6, 2 }, turned, i % 2, 1 + (int)i % THREADS_MAX);
}

/* More patches than one block, in every way in which the last block can be short. */
static void test_blocks(void **state)
{
	(void)state;
	if (not_here())
		skip();
	for (int width = 9; width <= 21; width++)
		for (int threads = 1; threads <= THREADS_MAX; threads++)
			check(&(struct size){ 16, 16, 31, width, 2 }, false, false, threads);
}

/* What winograd.h promises: neither threads nor company change a bit, nor does doing it again. */
static void test_bits_do_not_depend_on_company(void **state)
{
	static const struct size several[] = { { 64, 80, 13, 14, 4 }, { 272, 32, 7, 7, 4 }, { 16, 16, 3, 2, 4 } };

	(void)state;
	if (not_here())
		skip();
	for (size_t i = 0; i < ARRAY_LEN(several); i++) {
		struct size s = several[i], one = s;
		size_t all = y_floats(&s);
		float *x = noise(x_floats(&s), 1), *w = noise((size_t)s.in * (size_t)s.out * 9, 2), *first = filled(all, 0), *other = filled(all, 0);

		run(&s, x, w, false, false, 1, first);
		for (int threads = 1; threads <= THREADS_MAX; threads++) {
			memset(other, 0, all * sizeof(*other));
			run(&s, x, w, false, false, threads, other);
			assert_memory_equal(first, other, all * sizeof(*first));
		}
		one.pictures = 1;
		run(&one, x + 2 * x_floats(&one), w, false, false, 2, other);
		assert_memory_equal(first + 2 * y_floats(&one), other, y_floats(&one) * sizeof(*first));
		mem_free(x);
		mem_free(w);
		mem_free(first);
		mem_free(other);
	}
}

/* Weight gradient (out, in, tap) in double, and the sum of its terms' magnitudes. */
static double exact_gradient(const struct size *s, const float *x, const float *dy, size_t i, double *magnitude)
{
	size_t tap = i % 9, in = i / 9 % (size_t)s->in, out = i / 9 / (size_t)s->in;
	double sum = 0;

	*magnitude = 0;
	for (int picture = 0; picture < s->pictures; picture++)
		for (int y = 0; y < s->height; y++)
			for (int column = 0; column < s->width; column++) {
				int py = y + (int)tap / 3 - 1, px = column + (int)tap % 3 - 1;
				size_t first = (size_t)picture * (size_t)s->height;

				if (py < 0 || px < 0 || py >= s->height || px >= s->width)
					continue;
				double term = (double)x[((first + (size_t)py) * (size_t)s->width + (size_t)px) * (size_t)s->in + in] *
					      dy[((first + (size_t)y) * (size_t)s->width + (size_t)column) * (size_t)s->out + out];

				sum += term;
				*magnitude += fabs(term);
			}
	return sum;
}

static void run_gradient(const struct size *s, const float *x, const float *dy, int threads, float *grad)
{
	size_t floats = winograd_gradient_floats(s->in, s->out, threads);
	float *work = filled(floats + GUARD, NAN);

	winograd_gradient_run(&(struct winograd_gradient){ .in = s->in, .out = s->out, .pictures = s->pictures, .height = s->height,
							   .width = s->width, .x = x, .dy = dy, .grad = grad, .work = work, .threads = threads });
	for (size_t i = 0; i < GUARD; i++)
		assert_true(isnan(work[floats + i]));
	mem_free(work);
}

/* Against sums in double, and the same bits by any number of threads. */
static void check_gradient(const struct size *s)
{
	size_t all = (size_t)s->in * (size_t)s->out * 9;
	float *x = noise(x_floats(s), 1), *dy = noise(y_floats(s), 2), *before = noise(all + 2 * GUARD, 3), *first = noise(all + 2 * GUARD, 3);

	run_gradient(s, x, dy, 1, first + GUARD);
	for (size_t i = 0; i < all; i++) {
		double magnitude, expected = exact_gradient(s, x, dy, i, &magnitude) + before[GUARD + i];
		double allowed = 1e-6 * (magnitude + s->pictures * s->height * s->width / 4.0 + 1);

		if (!(fabs(first[GUARD + i] - expected) <= allowed))
			fail_msg("%d to %d channels, %d x %d pixels, %d pictures: gradient %zu is %.9g, expected %.9g, allowed %.3g", s->in, s->out,
				 s->height, s->width, s->pictures, i, (double)first[GUARD + i], expected, allowed);
	}
	for (size_t i = 0; i < GUARD; i++)
		assert_true(first[i] == before[i] && first[GUARD + all + i] == before[GUARD + all + i]);
	for (int threads = 1; threads <= GRADIENT_THREADS_MAX; threads++) {
		float *again = noise(all + 2 * GUARD, 3);

		run_gradient(s, x, dy, threads, again + GUARD);
		assert_memory_equal(first, again, (all + 2 * GUARD) * sizeof(*first));
		mem_free(again);
	}
	mem_free(x);
	mem_free(dy);
	mem_free(before);
	mem_free(first);
}

/* Every kind of border; tiles of outputs that are full and not, in one strip and several; blocks of patches. */
static void test_gradients(void **state)
{
	static const struct size sizes[] = { { 16, 16, 1, 1, 1 },  { 16, 32, 1, 2, 2 },	 { 32, 16, 3, 1, 2 },  { 16, 48, 2, 2, 3 },   { 48, 16, 5, 4, 2 },
					     { 16, 64, 7, 7, 3 },  { 64, 80, 4, 5, 2 },	 { 16, 144, 6, 3, 1 }, { 16, 16, 13, 40, 2 }, { 32, 16, 31, 17, 2 },
					     { 16, 16, 32, 64, 1 }, { 272, 16, 3, 3, 1 }, { 16, 272, 3, 3, 1 } };

	(void)state;
	if (not_here())
		skip();
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		check_gradient(&sizes[i]);
}

/* Root mean square of the error, relative to that of the results. */
static double error_of(const float *y, const double *expected, size_t n)
{
	double error = 0, size = 0;

	for (size_t i = 0; i < n; i++) {
		error += (y[i] - expected[i]) * (y[i] - expected[i]);
		size += expected[i] * expected[i];
	}
	return sqrt(error / size);
}

static void open_conv(struct image_engine **engine, struct conv **conv, const struct conv_shape *shape, int pictures, bool direct)
{
	struct err err;

	if (direct)
		setenv("TRAINER_KERNELS", "direct", 1);
	assert_int_equal(image_ops_gemm()->engine_open(engine, &err), 0);
	assert_int_equal(image_ops_gemm()->conv_open(conv, *engine, shape, 0, pictures, 0, &err), 0);
	if (direct)
		unsetenv("TRAINER_KERNELS");
}

/* Forward and input gradient by the table, y and then dx. */
static float *by_table(const struct size *s, const float *x, const float *w, const float *dy, bool direct)
{
	struct conv_shape shape = { s->in, s->out, 3, 1, 1, s->height, s->width };
	struct image_engine *engine;
	struct conv *conv;
	float *results = filled(y_floats(s) + x_floats(s), NAN);

	open_conv(&engine, &conv, &shape, s->pictures, direct);
	image_ops_gemm()->conv_begin(conv, w);
	image_ops_gemm()->conv_forward(conv, x, s->pictures, results);
	image_ops_gemm()->conv_backward_data(conv, dy, s->pictures, results + y_floats(s), false);
	image_ops_gemm()->conv_close(conv);
	image_ops_gemm()->engine_close(engine);
	return results;
}

/* On what a tower sees, pixels behind a ReLU, the errors are of the direct product's size. */
static void test_errors_beside_the_direct_product(void **state)
{
	static const struct size several[] = { { 64, 32, 14, 14, 1 }, { 128, 32, 7, 7, 2 }, { 512, 32, 7, 7, 1 } };

	(void)state;
	if (not_here())
		skip();
	for (size_t i = 0; i < ARRAY_LEN(several); i++) {
		const struct size *s = &several[i];
		size_t results = y_floats(s);
		float *x = noise(x_floats(s), 1), *w = noise((size_t)s->in * (size_t)s->out * 9, 2), *winograd = filled(results, 0), *direct;
		double *expected = mem_array(results, sizeof(*expected)), magnitude, ours, theirs;

		assert_non_null(expected);
		for (size_t j = 0; j < x_floats(s); j++)
			x[j] = fmaxf(x[j], 0);
		for (size_t j = 0; j < results; j++)
			expected[j] = exact(s, x, w, false, j, &magnitude);
		run(s, x, w, false, false, 1, winograd);
		direct = by_table(s, x, w, winograd, true);
		ours = error_of(winograd, expected, results);
		theirs = error_of(direct, expected, results);
		print_message("%d channels: error %.2g, of the direct product %.2g\n", s->in, ours, theirs);
		assert_true(ours < 2 * theirs && ours > 0 && theirs > 0);
		mem_free(x);
		mem_free(w);
		mem_free(winograd);
		mem_free(direct);
		mem_free(expected);
	}
}

/* Sums over many pixels behind a ReLU; PyTorch's own error is given in winograd.h. */
static void test_errors_of_gradients(void **state)
{
	static const struct size s = { 32, 32, 28, 28, 2 };
	static const struct conv_shape shape = { 32, 32, 3, 1, 1, 28, 28 };
	enum { ALL = 32 * 32 * 9 };
	struct image_engine *engine;
	struct conv *conv;

	(void)state;
	if (not_here())
		skip();

	float *x = noise(x_floats(&s), 1), *dy = noise(y_floats(&s), 2), *winograd = filled(ALL, 0), *direct = filled(ALL, 0);
	double *expected = mem_array(ALL, sizeof(*expected)), magnitude, ours, theirs;

	assert_non_null(expected);
	for (size_t i = 0; i < x_floats(&s); i++)
		x[i] = fmaxf(x[i], 0);
	for (size_t i = 0; i < ALL; i++)
		expected[i] = exact_gradient(&s, x, dy, i, &magnitude);
	run_gradient(&s, x, dy, 2, winograd);
	open_conv(&engine, &conv, &shape, s.pictures, true);
	image_ops_gemm()->conv_begin(conv, x);
	image_ops_gemm()->conv_backward_weights(conv, x, dy, s.pictures, direct);
	image_ops_gemm()->conv_close(conv);
	image_ops_gemm()->engine_close(engine);
	ours = error_of(winograd, expected, ALL);
	theirs = error_of(direct, expected, ALL);
	print_message("gradients: error %.2g, of the direct product %.2g\n", ours, theirs);
	assert_true(ours < 2.5 * theirs && ours > 0 && theirs > 0);
	mem_free(x);
	mem_free(dy);
	mem_free(winograd);
	mem_free(direct);
	mem_free(expected);
}

/* Other kinds, and what the rule leaves out, stay direct to the bit; the environment turns it off. */
static void test_rule(void **state)
{
	static const struct conv_shape others[] = { { 64, 64, 1, 1, 0, 8, 8 }, { 64, 64, 3, 2, 1, 8, 8 }, { 64, 64, 3, 1, 0, 8, 8 },
						    { 64, 64, 5, 1, 1, 8, 8 }, { 63, 64, 3, 1, 1, 8, 8 }, { 64, 72, 3, 1, 1, 8, 8 } };
	static const struct conv_shape tower = { 64, 64, 3, 1, 1, 56, 56 };
	static const struct size sizes[] = { { 64, 64, 14, 14, 2 }, { 64, 80, 7, 7, 2 }, { 17, 64, 8, 8, 2 }, { 64, 16, 8, 8, 2 },
					     { 64, 64, 3, 3, 2 } };
	static const bool chosen[] = { true, true, false, false, false };

	(void)state;
	if (not_here())
		skip();
	for (size_t i = 0; i < ARRAY_LEN(others); i++)
		assert_false(winograd_can(&others[i]) || winograd_is_chosen(&others[i]));
	assert_true(winograd_can(&tower) && winograd_is_chosen(&tower));
	assert_true(winograd_saving(56, 56) == 2.25 && winograd_saving(1, 1) == 0.5625 && winograd_saving(7, 7) == 441.0 / 256);
	setenv("TRAINER_KERNELS", "direct", 1);
	assert_true(winograd_can(&tower) && !winograd_is_chosen(&tower) && gemm_is_chosen());
	unsetenv("TRAINER_KERNELS");
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		const struct size *s = &sizes[i];
		struct conv_shape shape = { s->in, s->out, 3, 1, 1, s->height, s->width };
		float *x = noise(x_floats(s), 1), *w = noise((size_t)s->in * (size_t)s->out * 9, 2), *dy = noise(y_floats(s), 3);
		float *usual = by_table(s, x, w, dy, false), *direct = by_table(s, x, w, dy, true);
		size_t n = y_floats(s) + x_floats(s);

		assert_int_equal(winograd_is_chosen(&shape), chosen[i]);
		for (size_t j = 0; j < n; j++)
			assert_true(fabsf(usual[j] - direct[j]) <= 1e-6 * 9 * 80);
		assert_int_equal(memcmp(usual, direct, y_floats(s) * sizeof(*usual)) != 0, chosen[i]);
		assert_int_equal(memcmp(usual + y_floats(s), direct + y_floats(s), x_floats(s) * sizeof(*usual)) != 0, chosen[i]);
		mem_free(x);
		mem_free(w);
		mem_free(dy);
		mem_free(usual);
		mem_free(direct);
	}
}

/* What a tower plans with: all that is worked in is the engine's, and counted. */
static void test_memory_is_counted(void **state)
{
	static const struct conv_shape shape = { 64, 80, 3, 1, 1, 14, 14 };
	struct image_engine *engine;
	struct conv *conv;

	(void)state;
	if (not_here())
		skip();
	open_conv(&engine, &conv, &shape, 2, false);

	size_t floats = winograd_work_floats(80, image_ops_gemm()->engine_threads(engine)) + winograd_weight_floats(64, 80) +
			winograd_gradient_floats(64, 80, image_ops_gemm()->engine_threads(engine));

	assert_true(image_ops_gemm()->engine_bytes(engine) >= floats * sizeof(float));
	image_ops_gemm()->conv_close(conv);
	image_ops_gemm()->engine_close(engine);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_channels),
		cmocka_unit_test(test_blocks),
		cmocka_unit_test(test_bits_do_not_depend_on_company),
		cmocka_unit_test(test_errors_beside_the_direct_product),
		cmocka_unit_test(test_gradients),
		cmocka_unit_test(test_errors_of_gradients),
		cmocka_unit_test(test_rule),
		cmocka_unit_test(test_memory_is_counted),
	};

	kernels_set_threads(2);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
