/*
 * test_tiles.c - the loops of gemm_tile.h and winograd_parts.h for AVX-512 give the bits of those for AVX2.
 *
 * test_gemm.c and test_winograd.c hold the widest that the processor has against plain loops; this says that the others are as right. Built once
 * more with AVX-512's instructions in plain C (tests/emulated), it runs where there is no AVX-512.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shared/base/mem.h"
#include "tests/support/floats.h"
#include "trainer/kernels/gemm_tile.h"
#include "trainer/kernels/kernels.h"
#include "trainer/kernels/winograd.h"
#include "trainer/kernels/winograd_parts.h"

enum { ROWS = GEMM_TILE_ROWS, TALL = GEMM_BLOCK_TALL * ROWS, WIDE = GEMM_BLOCK_WIDE * GEMM_PANEL, GUARD = 5 };

static const float UNTOUCHED = 1e30f;

static const struct gemm_tiles *tables[2];
static const struct winograd_steps *steps[2];

static bool not_here(void)
{
	if (tables[0] != NULL && tables[1] != NULL)
		return false;
	print_message("SKIP: this processor has no AVX-512\n");
	return true;
}

/* A block by the wide table, the same tile by tile by the other one. */
static void check_block(size_t tall, size_t wide, size_t depth, bool columns, bool add, bool in_place)
{
	size_t a_apart = depth * ROWS + 16, b_apart = in_place ? GEMM_PANEL : (depth + 1) * GEMM_PANEL, line = WIDE + GUARD;
	size_t b_step = in_place ? WIDE + GUARD : GEMM_PANEL, b_floats = in_place ? depth * b_step : b_apart * GEMM_BLOCK_WIDE;
	float *a = noise(columns ? a_apart * TALL : (size_t)TALL * GEMM_ROW_FLOATS, 1), *b = noise(b_floats, 2);
	float *c[2] = { filled(TALL * line, UNTOUCHED), filled(TALL * line, UNTOUCHED) }, *rows[2][TALL];
	struct gemm_block block = { .tall = tall, .wide = wide, .a_apart = a_apart, .a_step = ROWS, .b_apart = b_apart, .b_step = b_step, .depth = depth,
				    .add = add, .ask = { { a, 1 }, { b, GEMM_ASK_STEP_MAX } } };
	struct gemm_block one = block;

	one.tall = one.wide = 1;
	for (size_t r = 0; r < TALL; r++)
		for (int which = 0; which < 2; which++) {
			rows[which][r] = c[which] + r * line;
			for (size_t n = 0; add && n < WIDE; n++)
				rows[which][r][n] = 0.25f * (float)(r + n);
		}
	for (size_t i = 0; i < tall; i++)
		for (size_t j = 0; j < wide; j++) {
			const float *panel = b + j * b_apart;

			if (columns)
				tables[0]->by_columns(&one, a + i * a_apart, panel, rows[0] + i * ROWS, j * GEMM_PANEL);
			else
				tables[0]->by_rows(&one, a + i * (size_t)ROWS * GEMM_ROW_FLOATS, panel, rows[0] + i * ROWS, j * GEMM_PANEL);
		}
	if (columns)
		tables[1]->by_columns(&block, a, b, rows[1], 0);
	else
		tables[1]->by_rows(&block, a, b, rows[1], 0);
	assert_memory_equal(c[0], c[1], TALL * line * sizeof(float));
	assert_true(c[1][0] != UNTOUCHED);
	mem_free(a);
	mem_free(b);
	mem_free(c[0]);
	mem_free(c[1]);
}

static void test_blocks(void **state)
{
	static const size_t depths[] = { 1, 2, 31, 64, GEMM_K_BLOCK };

	(void)state;
	if (not_here())
		skip();
	for (size_t tall = 1; tall <= tables[1]->tall; tall++)
		for (size_t wide = 1; wide <= tables[1]->wide; wide++)
			for (unsigned i = 0; i < 8 * sizeof(depths) / sizeof(*depths); i++)
				check_block(tall, wide, depths[i / 8], i & 1, i & 2, i & 4);
}

static void same(const float *a, const float *b, size_t n)
{
	assert_memory_equal(a, b, n * sizeof(float));
}

/* Every transform of both tables on the same numbers, for a patch in the middle of others. */
static void test_transforms(void **state)
{
	enum { CHANNELS = 2 * GEMM_PANEL, PITCH = CHANNELS + 3, POSITIONS = WINOGRAD_POSITIONS, TILES = 3, PLACES = 4096 };
	float *in, *out[2];

	(void)state;
	if (not_here())
		skip();
	in = noise(PLACES, 5);
	for (int which = 0; which < 2; which++) {
		float line[4 * CHANNELS], *lines[4] = { line, line + CHANNELS, line + 2 * CHANNELS, line + 3 * CHANNELS }, *to[POSITIONS];

		out[which] = filled(6 * PLACES, UNTOUCHED);
		for (int p = 0; p < POSITIONS; p++)
			to[p] = out[which] + p * (CHANNELS + GUARD);
		steps[which]->input(in, (size_t)5 * PITCH, PITCH, CHANNELS, to);
		for (int p = 0; p < 4; p++)
			to[p] = out[which] + PLACES + p * (CHANNELS + GUARD);
		steps[which]->output(in, PITCH, CHANNELS, to, false);
		for (int p = 0; p < 4; p++)
			memcpy(to[p] + PLACES, in + 7 * p, CHANNELS * sizeof(float));
		for (int p = 0; p < 4; p++)
			to[p] += PLACES;
		steps[which]->output(in, PITCH, CHANNELS, to, true);
		steps[which]->weights(in, GEMM_PANEL + 2, out[which] + 3 * PLACES, GEMM_PANEL + GUARD);
		steps[which]->weights(in + 9 * GEMM_PANEL, -GEMM_PANEL, out[which] + 3 * PLACES + 2048, GEMM_PANEL + GUARD);
		for (int p = 0; p < POSITIONS; p++)
			to[p] = out[which] + 4 * PLACES + p * (TILES * (ROWS + 4) + GUARD);
		for (size_t y = 0; y < 4; y++) {
			const float *from[4] = { in, in + PITCH, in + 2 * PITCH, in + 3 * PITCH };

			steps[which]->spread_line(y, from, TILES, to + 4 * y, ROWS + 4);
			steps[which]->input_line(y, in, (size_t)5 * PITCH, PITCH, CHANNELS, lines);
			for (int x = 0; x < 4; x++)
				assert_memory_equal(lines[x], out[which] + (4 * y + (size_t)x) * (CHANNELS + GUARD), CHANNELS * sizeof(float));
		}
		for (size_t c = 0; c < GEMM_PANEL; c += steps[which]->lanes) {
			float taps[9 * GEMM_PANEL];

			steps[which]->gather(in + c, PITCH, taps);
			for (size_t t = 0; t < 9; t++)
				memcpy(out[which] + 5 * PLACES + t * GEMM_PANEL + c, taps + t * steps[which]->lanes, steps[which]->lanes * sizeof(float));
		}
	}
	same(out[0], out[1], 6 * PLACES);
	mem_free(in);
	mem_free(out[0]);
	mem_free(out[1]);
}

static void check_product(size_t m, size_t n, size_t k, enum gemm_form a_form, enum gemm_form b_form, int threads)
{
	size_t lda = a_form == GEMM_ROWS ? k : m, ldb = b_form == GEMM_ROWS ? n : k;
	float *a = noise(m * k, 1), *b = noise(n * k, 2), *c[2];

	for (int which = 0; which < 2; which++) {
		c[which] = noise(m * n, 3);
		gemm_use_tiles(tables[which]);
		gemm_run(&(struct gemm){ .m = m, .n = n, .k = k, .a_form = a_form, .a = a, .lda = lda, .b_form = b_form, .b = b, .ldb = ldb,
					 .c = c[which], .ldc = n, .add = true },
			 threads);
	}
	same(c[0], c[1], m * n);
	mem_free(a);
	mem_free(b);
	mem_free(c[0]);
	mem_free(c[1]);
}

static void test_products(void **state)
{
	static const size_t ms[] = { 1, 11, 12, 13, 61, 251 }, ns[] = { 5, 16, 31, 33, 90, 130 }, ks[] = { 3, 64, 257 };

	(void)state;
	if (not_here())
		skip();
	for (unsigned i = 0; i < 6; i++)
		for (unsigned j = 0; j < 6; j++)
			check_product(ms[i], ns[j], ks[(i + j) % 3], i & 1 ? GEMM_COLUMNS : GEMM_ROWS, j & 1 ? GEMM_COLUMNS : GEMM_ROWS,
				      1 + (int)(i + j) % 3);
}

/* Both passes of a layer, forward and weight gradient, whole. */
static void check_convolutions(void)
{
	enum { IN = 80, OUT = 48, SIDE = 7, PICTURES = 3, PIXELS = PICTURES * SIDE * SIDE, THREADS = 2 };
	float *x = noise(PIXELS * IN, 1), *dy = noise(PIXELS * OUT, 2), *w = noise(IN * OUT * 9, 3), *y[2], *grad[2];
	float *packed = filled(winograd_weight_floats(IN, OUT), 0), *work = filled(winograd_work_floats(IN, THREADS), 0);
	float *sums = filled(winograd_gradient_floats(IN, OUT, THREADS), 0);

	for (int which = 0; which < 2; which++) {
		y[which] = filled(PIXELS * OUT, 0);
		grad[which] = filled(IN * OUT * 9, 0);
		gemm_use_tiles(tables[which]);
		winograd_pack(w, IN, OUT, false, packed, THREADS);
		winograd_run(&(struct winograd){ .in = IN, .out = OUT, .pictures = PICTURES, .height = SIDE, .width = SIDE, .x = x,
						 .packed = packed, .y = y[which], .work = work, .threads = THREADS });
		winograd_gradient_run(&(struct winograd_gradient){ .in = IN, .out = OUT, .pictures = PICTURES, .height = SIDE, .width = SIDE,
								   .x = x, .dy = dy, .grad = grad[which], .work = sums,
								   .threads = THREADS });
	}
	same(y[0], y[1], PIXELS * OUT);
	same(grad[0], grad[1], IN * OUT * 9);
	for (int which = 0; which < 2; which++) {
		mem_free(y[which]);
		mem_free(grad[which]);
	}
	mem_free(x);
	mem_free(dy);
	mem_free(w);
	mem_free(packed);
	mem_free(work);
	mem_free(sums);
}

static void test_convolutions(void **state)
{
	(void)state;
	if (not_here())
		skip();
	check_convolutions();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_blocks),
		cmocka_unit_test(test_transforms),
		cmocka_unit_test(test_products),
		cmocka_unit_test(test_convolutions),
	};

	tables[0] = gemm_tiles_avx2();
	tables[1] = gemm_tiles_avx512();
	steps[0] = winograd_steps_avx2();
	steps[1] = winograd_steps_avx512();
	kernels_set_threads(2);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
