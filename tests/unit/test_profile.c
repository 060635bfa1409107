/* profile.h: every operation of the kernel tables that a step calls has clocks around it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "trainer/kernels/kernels.h"
#include "trainer/kernels/profile.h"

enum { EXEMPT_MAX = 24 };

/* Operations that take no time, or that no step calls: planning, opening, validation. */
struct exempt {
	const char *why;
	size_t offset[EXEMPT_MAX]; /* ends with SIZE_MAX */
};

#define AT(table, member) offsetof(struct table, member)

static const struct exempt image_exempt = {
	"opened before the first step, or a few numbers a channel",
	{ AT(image_ops, name), AT(image_ops, element_bytes), AT(image_ops, engine_open), AT(image_ops, engine_close),
	  AT(image_ops, engine_bytes), AT(image_ops, engine_threads), AT(image_ops, conv_open), AT(image_ops, conv_close),
	  AT(image_ops, conv_begin), AT(image_ops, bn_open), AT(image_ops, bn_close), AT(image_ops, bn_stats_begin),
	  AT(image_ops, bn_stats_end), AT(image_ops, bn_use_running), AT(image_ops, bn_branch), AT(image_ops, bn_sums_begin),
	  AT(image_ops, bn_sums_end), SIZE_MAX },
};

static const struct exempt contrast_exempt = {
	"ranks are of validations",
	{ AT(contrast_ops, rank_mask), AT(contrast_ops, rank_rows), AT(contrast_ops, rank_columns), SIZE_MAX },
};

static const struct exempt vector_exempt = { "looks at weights of files", { AT(vector_ops, all_finite), SIZE_MAX } };
static const struct exempt dense_exempt = { "plans before the first step", { AT(dense_ops, encoder_reserve), SIZE_MAX } };
static const struct exempt none = { "", { SIZE_MAX } };

static bool is_exempt(const struct exempt *exempt, size_t offset)
{
	for (int i = 0; exempt->offset[i] != SIZE_MAX; i++)
		if (exempt->offset[i] == offset)
			return true;
	return false;
}

static void check_table(const char *name, const void *plain, const void *timed, size_t bytes, const struct exempt *exempt)
{
	for (size_t at = 0; at < bytes; at += sizeof(void *)) {
		bool same = memcmp((const char *)plain + at, (const char *)timed + at, sizeof(void *)) == 0;

		if (same != is_exempt(exempt, at))
			print_error("%s: operation %zu is %s\n", name, at / sizeof(void *), same ? "not timed" : "timed, but exempt");
		assert_int_equal(same, is_exempt(exempt, at));
	}
}

static void test_every_operation_is_timed(void **state)
{
	const struct kernels *plain = kernels_fast();
	const struct kernels *timed = profile_wrap(plain);

	(void)state;
	check_table("image", plain->image, timed->image, sizeof(struct image_ops), &image_exempt);
	check_table("dense", plain->dense, timed->dense, sizeof(struct dense_ops), &dense_exempt);
	check_table("vector", plain->vector, timed->vector, sizeof(struct vector_ops), &vector_exempt);
	check_table("contrast", plain->contrast, timed->contrast, sizeof(struct contrast_ops), &contrast_exempt);
	check_table("reg", plain->reg, timed->reg, sizeof(struct reg_ops), &none);
}

static struct profile_cell cell(enum profile_part part, enum profile_kind kind)
{
	return profile_result()->cell[part][kind];
}

/* What runs between two steps is nobody's time; what a wrapper counts lands in the part that is entered. */
static void test_counts(void **state)
{
	const struct kernels *timed = profile_wrap(kernels_fast());
	float a[64] = { 0 }, b[64] = { 0 }, c[128];

	(void)state;
	profile_turn_on();
	timed->reg->join(c, a, b, 8, 8);
	for (int step = 0; step < 3; step++) { /* the first one is left out */
		profile_step_begin();
		enum profile_part before = profile_enter(PART_REGULARIZER);
		timed->reg->join(c, a, b, 8, 8);
		profile_leave(before);
		profile_step_end(true);
	}
	profile_step_begin();
	timed->reg->join(c, a, b, 8, 8);
	profile_step_end(false); /* given up */
	assert_int_equal(profile_result()->steps, 2);
	assert_int_equal(cell(PART_REGULARIZER, KIND_COPY).calls, 2);
	assert_true(cell(PART_REGULARIZER, KIND_COPY).bytes == 2 * 4 * 64 * 4.0);
	assert_int_equal(cell(PART_OTHER, KIND_COPY).calls, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_operation_is_timed),
		cmocka_unit_test(test_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
