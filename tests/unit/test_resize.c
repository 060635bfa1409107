/* The resizer against a plain two-pass one on whole pictures, its fast kernels
 * against the portable ones, and the tables of normalization. That weights and
 * results are Pillow's is tested in tests/parity/test_pixels.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "preprocessd/codec/normalize.h"
#include "preprocessd/codec/normalize_x86.h"
#include "preprocessd/codec/resize.h"
#include "shared/base/rng.h"

enum { GUARD = 64, GUARD_BYTE = 0xA5 };

static uint32_t draws;

static uint32_t draw(uint32_t below)
{
	struct rng_block block = rng_philox(rng_key(7, RNG_NOISE), draws++, 0, 0, 0);

	return (uint32_t)rng_below(block.v[0], block.v[1], below);
}

/* Random samples with runs of 0 and 255, which are what overflows. */
static uint8_t *random_picture(const struct resize_spec *spec, size_t stride)
{
	uint8_t *rows = malloc(stride * spec->height + RESIZE_SLACK_BYTES);
	size_t bytes = stride * spec->height + RESIZE_SLACK_BYTES;

	for (size_t i = 0; i < bytes;) {
		size_t run = 1 + draw(40);
		uint32_t kind = draw(4);

		for (; run > 0 && i < bytes; run--, i++)
			rows[i] = kind == 0 ? 0 : kind == 1 ? 255 : (uint8_t)draw(256);
	}
	return rows;
}

/* (height, width, 3): gray copied, then mirrored, then transposed. */
static uint8_t *oriented(const struct resize_spec *spec, const uint8_t *rows, size_t stride)
{
	const uint32_t width = spec->transpose ? spec->height : spec->width;
	uint8_t *out = malloc((size_t)spec->width * spec->height * 3);

	for (uint32_t y = 0; y < spec->height; y++) {
		for (uint32_t x = 0; x < spec->width; x++) {
			uint32_t to_x = spec->flip_x ? spec->width - 1 - x : x, to_y = spec->flip_y ? spec->height - 1 - y : y;
			size_t at = spec->transpose ? (size_t)to_x * width + to_y : (size_t)to_y * width + to_x;

			for (int c = 0; c < 3; c++)
				out[at * 3 + (size_t)c] = rows[y * stride + x * (size_t)spec->channels + (spec->channels == 3 ? (size_t)c : 0)];
		}
	}
	return out;
}

/* One pass along pixels that are `step` bytes apart, for `lines` lines that are `line` bytes apart. */
static uint8_t *pass(const uint8_t *in, uint32_t source, uint32_t target, uint32_t lines, size_t step, size_t line,
		     size_t out_step, size_t out_line)
{
	struct resize_plan plan = { 0 };
	uint8_t *out = malloc((size_t)target * lines * 3);
	struct err err;

	assert_int_equal(resize_plan_build(&plan, source, target, false, &err), 0);
	for (uint32_t l = 0; l < lines; l++) {
		for (uint32_t i = 0; i < target; i++) {
			for (size_t c = 0; c < 3; c++) {
				int64_t sum = RESIZE_ROUNDING;

				for (int32_t t = 0; t < plan.count[i]; t++)
					sum += (int64_t)plan.weight[i * (uint32_t)plan.taps_max + (uint32_t)t] *
					       in[l * line + (size_t)(plan.first[i] + t) * step + c];
				sum >>= RESIZE_PRECISION_BITS;
				out[l * out_line + i * out_step + c] = sum > 255 ? 255 : (uint8_t)sum;
			}
		}
	}
	resize_plan_free(&plan);
	return out;
}

/* What the resizer should do, without any of its tricks. */
static uint8_t *expected(const struct resize_spec *spec, const uint8_t *rows, size_t stride)
{
	uint32_t width = spec->transpose ? spec->height : spec->width, height = spec->transpose ? spec->width : spec->height;
	uint8_t *whole = oriented(spec, rows, stride);
	uint8_t *wide = pass(whole, width, spec->size, height, 3, (size_t)width * 3, 3, (size_t)spec->size * 3);
	uint8_t *out = pass(wide, height, spec->size, spec->size, (size_t)spec->size * 3, 3, (size_t)spec->size * 3, 3);

	free(whole);
	free(wide);
	return out;
}

static void check_picture(struct resize *resize, const struct resize_spec *spec, const char *kernels)
{
	const size_t stride = (size_t)spec->width * (size_t)spec->channels + draw(70);
	const size_t bytes = (size_t)spec->size * spec->size * 3;
	uint8_t *rows = random_picture(spec, stride), *want = expected(spec, rows, stride);
	uint8_t *out = malloc(bytes + 2 * GUARD);
	struct err err;

	memset(out, GUARD_BYTE, bytes + 2 * GUARD);
	assert_int_equal(resize_begin(resize, spec, out + GUARD, &err), 0);
	for (uint32_t y = 0; y < spec->height;) {
		uint32_t count = 1 + draw(12);

		if (count > spec->height - y)
			count = spec->height - y;
		resize_rows(resize, rows + y * stride, stride, (int)count);
		y += count;
	}
	for (size_t i = 0; i < bytes; i++) {
		if (out[GUARD + i] != want[i])
			fail_msg("%s: %u x %u x %d to %u, flip %d %d, transpose %d: byte %zu is %d, not %d", kernels, spec->width,
				 spec->height, spec->channels, spec->size, spec->flip_x, spec->flip_y, spec->transpose, i,
				 out[GUARD + i], want[i]);
	}
	for (size_t i = 0; i < GUARD; i++) {
		assert_int_equal(out[i], GUARD_BYTE);
		assert_int_equal(out[GUARD + bytes + i], GUARD_BYTE);
	}
	free(rows);
	free(want);
	free(out);
}

static void check_kernels(const struct resize_kernels *kernels)
{
	static const uint32_t sides[][3] = {
		{ 1, 1, 1 }, { 1, 1, 9 }, { 1, 300, 7 }, { 300, 1, 7 }, { 224, 224, 224 }, { 224, 100, 224 }, { 100, 224, 224 },
		{ 3000, 2, 5 }, { 2, 3000, 5 }, { 65535, 1, 1 }, { 1, 65535, 1 }, { 20000, 3, 2 }, { 3, 20000, 3 },
		{ 640, 480, 224 }, { 500, 333, 224 }, { 33, 21, 97 }, { 1100, 40, 33 }, { 700, 9, 1 }, { 5, 4, 300 },
	};
	struct resize *resize;
	struct err err;

	draws = 0;
	assert_int_equal(resize_open(&resize, kernels, &err), 0);
	for (size_t i = 0; i < ARRAY_LEN(sides) + 150; i++) {
		struct resize_spec spec = {
			.width = 1 + draw(draw(3) == 0 ? 900 : 90), .height = 1 + draw(draw(3) == 0 ? 900 : 90),
			.channels = draw(4) == 0 ? 1 : 3, .size = 1 + draw(120), .flip_x = draw(2) != 0, .flip_y = draw(2) != 0,
			.transpose = draw(2) != 0,
		};

		if (i < ARRAY_LEN(sides)) {
			spec.width = sides[i][0], spec.height = sides[i][1], spec.size = sides[i][2];
			spec.flip_x = spec.flip_y = spec.transpose = false;
		}
		check_picture(resize, &spec, kernels->name);
	}
	resize_close(resize);
}

static void test_portable(void **state)
{
	(void)state;
	check_kernels(&RESIZE_PORTABLE);
}

static void test_avx2(void **state)
{
	(void)state;
	if (resize_kernels_avx2() == NULL)
		skip();
	check_kernels(resize_kernels_avx2());
}

static void test_avx512(void **state)
{
	(void)state;
	if (resize_kernels_avx512() == NULL)
		skip();
	check_kernels(resize_kernels_avx512());
}

/* Every kind of inner loop of the horizontal pass, against the portable one:
 * reductions from none to extreme, both numbers of channels, few and many rows. */
static void test_horizontal_reductions(void **state)
{
	const struct resize_kernels *fast[2] = { resize_kernels_avx2(), resize_kernels_avx512() };
	enum { TARGET = 61, ROWS_MAX = 7, OUT_STRIDE = TARGET * 3 + RESIZE_SLACK_BYTES };
	uint8_t want[ROWS_MAX * OUT_STRIDE], got[ROWS_MAX * OUT_STRIDE];

	(void)state;
	draws = 1000000;
	for (uint32_t source = 1; source < 60 * TARGET; source += 1 + source / 9) {
		struct resize_spec shape = { .width = source, .height = ROWS_MAX, .channels = source % 2 ? 3 : 1 };
		const size_t stride = (size_t)source * (size_t)shape.channels + 3;
		uint8_t *rows = random_picture(&shape, stride);
		struct resize_plan plan = { 0 };
		struct err err;

		assert_int_equal(resize_plan_build(&plan, source, TARGET, source % 3 == 0, &err), 0);
		RESIZE_PORTABLE.horizontal(&plan, NULL, shape.channels, rows, stride, ROWS_MAX, want, OUT_STRIDE);
		for (size_t k = 0; k < ARRAY_LEN(fast); k++) {
			struct resize_packed packed = { 0 };

			if (fast[k] == NULL)
				continue;
			assert_int_equal(fast[k]->pack(&packed, &plan, shape.channels, &err), 0);
			fast[k]->horizontal(&plan, &packed, shape.channels, rows, stride, ROWS_MAX, got, OUT_STRIDE);
			for (size_t y = 0; y < ROWS_MAX; y++)
				assert_memory_equal(got + y * OUT_STRIDE, want + y * OUT_STRIDE, TARGET * (size_t)shape.channels);
			resize_packed_free(&packed);
		}
		resize_plan_free(&plan);
		free(rows);
	}
}

static void test_plan_invariants(void **state)
{
	struct resize_plan plan = { 0 };
	struct err err;

	(void)state;
	for (uint32_t source = 1; source < 3000; source = source * 5 / 4 + 1) {
		for (uint32_t target = 1; target < 600; target = target * 4 / 3 + 1) {
			const bool flip = (source + target) % 2 != 0;

			assert_int_equal(resize_plan_build(&plan, source, target, flip, &err), 0);
			assert_int_equal(plan.identity, source == target && !flip);
			for (uint32_t i = 0; i < target; i++) {
				int64_t sum = 0;

				assert_in_range(plan.count[i], 1, plan.taps_max);
				assert_true(plan.first[i] >= 0 && plan.first[i] + plan.count[i] <= (int32_t)source);
				for (int32_t t = 0; t < plan.taps_max; t++) {
					int32_t weight = plan.weight[(size_t)i * (size_t)plan.taps_max + (size_t)t];

					assert_true(weight >= 0 && weight <= 1 << RESIZE_PRECISION_BITS);
					assert_true(t < plan.count[i] || weight == 0);
					sum += weight;
				}
				/* Each weight is off by half a unit at most. */
				assert_true(2 * llabs(sum - (1 << RESIZE_PRECISION_BITS)) <= plan.count[i]);
			}
		}
	}
	resize_plan_free(&plan);
}

/* Many different sizes in turn: kept plans are replaced and found again. */
static void test_plans_are_kept_apart(void **state)
{
	struct resize *resize;
	struct err err;

	(void)state;
	draws = 2000000;
	assert_int_equal(resize_open(&resize, NULL, &err), 0);
	for (int i = 0; i < 300; i++) {
		struct resize_spec spec = {
			.width = 10 + draw(9), .height = 10 + draw(9), .channels = draw(2) ? 3 : 1, .size = 11 + draw(3),
			.flip_x = draw(2) != 0, .flip_y = draw(2) != 0, .transpose = draw(2) != 0,
		};

		check_picture(resize, &spec, "best");
	}
	resize_close(resize);
}

static void test_normalize(void **state)
{
	enum { N_MAX = 2500 };
	static uint8_t pixels[3 * N_MAX + 1], u8_want[3 * N_MAX], u8_got[3 * N_MAX + GUARD];
	static float want[3 * N_MAX], got[3 * N_MAX + GUARD], interleaved[3 * N_MAX];
	struct normalize_table table;

	(void)state;
	normalize_table_init(&table, NORMALIZE_IMAGENET_MEAN, NORMALIZE_IMAGENET_STD);
	assert_true(table.value[0][0] == (0.0f - 0.485f) / 0.229f);
	assert_true(table.value[2][255] == (1.0f - 0.406f) / 0.225f);
	for (size_t i = 0; i < sizeof(pixels); i++)
		pixels[i] = (uint8_t)(i < 768 ? i / 3 : draw(256));
	for (size_t n = 0; n <= N_MAX; n += n < 200 ? 1 : 61) {
		memset(got, GUARD_BYTE, sizeof(got));
		memset(u8_got, GUARD_BYTE, sizeof(u8_got));
		normalize_f32_chw_portable(&table, pixels, 0, n, n, want);
		normalize_f32_chw(&table, pixels, 0, n, n, got);
		normalize_f32_hwc(&table, pixels, 0, n, n, interleaved);
		normalize_u8_chw_portable(pixels, 0, n, n, u8_want);
		normalize_u8_chw(&table, pixels, 0, n, n, u8_got);
		assert_memory_equal(got, want, 3 * n * sizeof(float));
		assert_memory_equal(u8_got, u8_want, 3 * n);
		assert_int_equal(((uint8_t *)got)[3 * n * sizeof(float)], GUARD_BYTE);
		assert_int_equal(u8_got[3 * n], GUARD_BYTE);
		for (size_t i = 0; i < n; i++) {
			for (size_t c = 0; c < 3; c++) {
				assert_true(want[c * n + i] == table.value[c][pixels[3 * i + c]]);
				assert_true(interleaved[3 * i + c] == want[c * n + i]);
				assert_int_equal(u8_want[c * n + i], pixels[3 * i + c]);
			}
		}
	}
}

/* A picture's worth, aligned: large outputs are written another way. */
static void test_normalize_whole_picture(void **state)
{
	enum { N = 224 * 224 };
	_Alignas(64) static uint8_t pixels[3 * N], u8_want[3 * N], u8_got[3 * N];
	_Alignas(64) static float want[3 * N], got[3 * N + 1];
	struct normalize_table table;

	(void)state;
	for (size_t i = 0; i < sizeof(pixels); i++)
		pixels[i] = (uint8_t)(i * 2654435761u >> 13);
	normalize_table_init(&table, NORMALIZE_IMAGENET_MEAN, NORMALIZE_IMAGENET_STD);
	normalize_f32_chw_portable(&table, pixels, 0, N, N, want);
	normalize_u8_chw_portable(pixels, 0, N, N, u8_want);
	for (size_t offset = 0; offset < 2; offset++) {
		normalize_f32_chw(&table, pixels, 0, N, N, got + offset);
		assert_memory_equal(got + offset, want, sizeof(want));
		normalize_u8_chw(&table, pixels, 0, N - offset, N - offset, u8_got);
		assert_memory_equal(u8_got, u8_want, N - 3);
	}
	normalize_u8_chw(&table, pixels, 0, N, N, u8_got);
	assert_memory_equal(u8_got, u8_want, sizeof(u8_want));
}

/* Part by part, of lengths that vectors fit into and others: each writes its own and nothing else. */
static void test_normalize_parts(void **state)
{
	enum { N = 224 * 224 };
	static const size_t parts[] = { 512, 64, 1000, 77, 48 };
	_Alignas(64) static uint8_t pixels[3 * N], u8_want[3 * N], u8_got[3 * N];
	_Alignas(64) static float want[3 * N], got[3 * N], interleaved[3 * N], interleaved_want[3 * N];
	struct normalize_table table;

	(void)state;
	for (size_t i = 0; i < sizeof(pixels); i++)
		pixels[i] = (uint8_t)(i * 2654435761u >> 11);
	normalize_table_init(&table, NORMALIZE_IMAGENET_MEAN, NORMALIZE_IMAGENET_STD);
	normalize_f32_chw_portable(&table, pixels, 0, N, N, want);
	normalize_u8_chw_portable(pixels, 0, N, N, u8_want);
	normalize_f32_hwc_portable(&table, pixels, 0, N, interleaved_want);
	for (size_t k = 0; k < ARRAY_LEN(parts); k++) {
		memset(got, GUARD_BYTE, sizeof(got));
		memset(u8_got, GUARD_BYTE, sizeof(u8_got));
		memset(interleaved, GUARD_BYTE, sizeof(interleaved));
		for (size_t from = 0, to; from < N; from = to) {
			to = N - from < parts[k] ? N : from + parts[k];
			normalize_f32_chw(&table, pixels, from, to, N, got);
			normalize_u8_chw(&table, pixels, from, to, N, u8_got);
			normalize_f32_hwc(&table, pixels, from, to, N, interleaved);
			for (size_t c = 0; c < 3 && to < N; c++) { /* the neighbour behind is as it was */
				const uint8_t *behind = (const uint8_t *)&got[c * N + to], *next = (const uint8_t *)&interleaved[3 * to + c];

				assert_int_equal(behind[0], GUARD_BYTE);
				assert_int_equal(next[0], GUARD_BYTE);
				assert_int_equal(u8_got[c * N + to], GUARD_BYTE);
			}
		}
		assert_memory_equal(got, want, sizeof(want));
		assert_memory_equal(u8_got, u8_want, sizeof(u8_want));
		assert_memory_equal(interleaved, interleaved_want, sizeof(interleaved));
	}
}

/* The version for AVX2 by name: where there is AVX-512 nothing else comes to it. */
static void test_normalize_avx2(void **state)
{
	enum { N_MAX = 1000 };
	static const float mean[][3] = { { 0.485f, 0.456f, 0.406f }, { 0, 0, 0 }, { 0.5f, 0.1f, 1.0f }, { -3.7f, 1e-8f, 123.0f } };
	static const float std[][3] = { { 0.229f, 0.224f, 0.225f }, { 1, 1, 1 }, { -0.5f, 0.3f, 7.0f }, { 1e-3f, 1e20f, 255.0f } };
	static uint8_t pixels[3 * N_MAX], u8_want[3 * N_MAX], u8_got[3 * N_MAX + GUARD];
	static float want[3 * N_MAX], got[3 * N_MAX + 1], interleaved[3 * N_MAX], interleaved_want[3 * N_MAX];
	struct normalize_table table;

	(void)state;
	if (!normalize_have_avx2())
		skip();
	for (size_t i = 0; i < sizeof(pixels); i++)
		pixels[i] = (uint8_t)(i < 768 ? i / 3 : draw(256));
	for (size_t k = 0; k < ARRAY_LEN(mean); k++) {
		normalize_table_init(&table, mean[k], std[k]);
		assert_true(table.computes);
		for (size_t n = 0; n <= N_MAX; n += n < 200 ? 1 : 61) {
			memset(u8_got, GUARD_BYTE, sizeof(u8_got));
			got[3 * n] = 77.0f;
			normalize_f32_chw_portable(&table, pixels, 0, n, n, want);
			normalize_f32_chw_avx2(&table, pixels, 0, n, n, got);
			normalize_f32_hwc_portable(&table, pixels, 0, n, interleaved_want);
			normalize_f32_hwc_avx2(&table, pixels, 0, n, n, interleaved);
			assert_memory_equal(interleaved, interleaved_want, 3 * n * sizeof(float));
			normalize_u8_chw_portable(pixels, 0, n, n, u8_want);
			normalize_u8_chw_avx2(&table, pixels, 0, n, n, u8_got);
			assert_memory_equal(got, want, 3 * n * sizeof(float));
			assert_memory_equal(u8_got, u8_want, 3 * n);
			assert_true(got[3 * n] == 77.0f);
			assert_int_equal(u8_got[3 * n], GUARD_BYTE);
		}
	}
	/* A divisor whose reciprocal is no number: the table alone knows. */
	normalize_table_init(&table, mean[0], (float[3]){ 1e-40f, 1, 1 });
	assert_false(table.computes);
	normalize_f32_chw_portable(&table, pixels, 0, N_MAX, N_MAX, want);
	normalize_f32_chw(&table, pixels, 0, N_MAX, N_MAX, got);
	assert_memory_equal(got, want, sizeof(want));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plan_invariants), cmocka_unit_test(test_portable),
		cmocka_unit_test(test_avx2),		cmocka_unit_test(test_avx512),
		cmocka_unit_test(test_horizontal_reductions), cmocka_unit_test(test_plans_are_kept_apart),
		cmocka_unit_test(test_normalize),
		cmocka_unit_test(test_normalize_whole_picture),
		cmocka_unit_test(test_normalize_parts),
		cmocka_unit_test(test_normalize_avx2),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
