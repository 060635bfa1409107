/* Folds: the names, and what fold.h promises about who is in which. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "preprocessd/dataset/blob.h"
#include "shared/base/mem.h"
#include "shared/base/rng.h"
#include "shared/order/fold.h"

enum { PICTURES = 240, LABELS = 7, GROUP = 6 };

static void test_names(void **state)
{
	static const char *const wrong[] = {
		"all~", "all~fold", "all~fold=", "all~fold=1", "all~fold=1/", "all~fold=/5", "all~fold=0/5", "all~fold=6/5",
		"all~fold=1/1", "all~fold=1/1001", "all~fold=-1/5", "all~fold=1/5,", "all~fold=1/5,seed", "all~fold=1/5,seed=",
		"all~fold=1/5,seed=-1", "all~fold=1/5,seed=9223372036854775808", "all~fold=1/5 ", "all~FOLD=1/5", "all~fold=1/5~", "all~fold=1/5~~rest=1/5",
		"all~fold=1/5~rest=6/5", "all~fold=1/5~rest=1/5~fold=1/2~fold=1/2",
		"all~rest=99999999999999999999/5", "all~fold= 1/5",
	};
	struct fold_chain spec;
	struct err err;
	size_t base;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		if (fold_parse(wrong[i], &spec, &base, &err) != ERR_USAGE)
			fail_msg("%s is taken", wrong[i]);
		assert_non_null(strstr(err.message, wrong[i]));
	}
	assert_int_equal(fold_parse("train+val", &spec, &base, &err), 0);
	assert_int_equal(spec.count, 0);
	assert_int_equal(base, 9);
	assert_int_equal(fold_parse("train+val~rest=2/5,seed=77", &spec, &base, &err), 0);
	assert_true(base == 9 && spec.count == 1 && spec.cut[0].index == 2 && spec.cut[0].count == 5 && spec.cut[0].rest && spec.cut[0].seed == 77);
	assert_int_equal(fold_parse("all~fold=1000/1000", &spec, &base, &err), 0);
	assert_true(base == 3 && spec.cut[0].index == 1000 && spec.cut[0].count == 1000 && !spec.cut[0].rest && spec.cut[0].seed == 0);
	assert_int_equal(fold_parse("a~rest=1/5,seed=3~fold=2/4~rest=1/2", &spec, &base, &err), 0);
	assert_true(base == 1 && spec.count == 3 && spec.cut[0].seed == 3 && spec.cut[1].index == 2 && !spec.cut[1].rest && spec.cut[2].rest);
}

static bool overlap(const char *a, const char *b)
{
	struct fold_chain x, y;
	size_t bytes;

	assert_int_equal(fold_parse(a, &x, &bytes, NULL), 0);
	assert_int_equal(fold_parse(b, &y, &bytes, NULL), 0);
	assert_int_equal(fold_overlap(&x, &y), fold_overlap(&y, &x));
	return fold_overlap(&x, &y);
}

static void test_overlap(void **state)
{
	(void)state;
	assert_true(overlap("a", "a~fold=1/2"));
	assert_true(overlap("a~fold=1/2", "a~fold=1/2"));
	assert_true(overlap("a~fold=1/2", "a~fold=2/3"));
	assert_true(overlap("a~fold=1/2,seed=1", "a~fold=2/2"));
	assert_true(overlap("a~rest=1/3", "a~rest=2/3"));
	assert_true(overlap("a~rest=1/3", "a~fold=2/3"));
	assert_true(overlap("a~rest=1/3", "a~rest=1/3~fold=1/2"));
	assert_true(overlap("a~rest=1/3~rest=1/4", "a~rest=1/3~fold=2/4"));
	assert_false(overlap("a~fold=1/2", "a~fold=2/2"));
	assert_false(overlap("a~fold=1/3", "a~rest=1/3"));
	assert_false(overlap("a~rest=1/3~rest=1/4", "a~rest=1/3~fold=1/4"));
	assert_false(overlap("a~rest=1/3~rest=1/4", "a~fold=1/3~fold=1/4"));
	assert_false(overlap("a~rest=1/3~rest=1/4", "a~fold=1/3"));
}

/* Two captions each; picture p has label p % LABELS; with groups, GROUP neighbours of the first half are one. Pictures 100 and 200 share a
 * caption but for its spelling, and all share the second one. */
static struct manifest *many(bool groups)
{
	struct blob_counts counts = { .pictures = PICTURES, .captions = 2 * PICTURES, .splits = 1, .labels = LABELS, .groups = PICTURES,
				      .source_bytes = PICTURES, .name_bytes = 4 + 2 * LABELS, .caption_bytes = 2 * PICTURES * 16 };
	struct blob *blob;
	struct err err;
	uint64_t at = 0;

	assert_int_equal(blob_open(&blob, &counts, &err), 0);
	memcpy(blob->name_text, "all", 4);
	for (int l = 0; l < LABELS; l++)
		blob->name_text[4 + 2 * l] = (char)('a' + l);
	assert_true(blob_find_names(blob));
	for (uint32_t p = 0; p < PICTURES; p++) {
		char text[32];

		hash_bytes(&blob->picture_hash[p], &p, sizeof(p));
		blob->picture_label[p] = (int32_t)(p % LABELS);
		blob->picture_group[p] = groups && p < PICTURES / 2 ? p / GROUP : p;
		blob->caption_picture[2 * p] = blob->caption_picture[2 * p + 1] = p;
		snprintf(text, sizeof(text), p == 200 ? " A Dog; 100 " : "a dog %u", p);
		blob->caption_at[2 * p] = at;
		memcpy(blob->caption_text + at, text, strlen(text));
		at += strlen(text);
		blob->caption_at[2 * p + 1] = at;
		memcpy(blob->caption_text + at, "a photo", 7);
		at += 7;
	}
	blob->caption_at[2 * PICTURES] = at;
	blob_group_captions(blob);
	return &blob->view;
}

static void folds_of(const struct manifest *m, const char *pattern, int count, int *fold)
{
	memset(fold, 0, PICTURES * sizeof(*fold));
	for (int k = 1; k <= count; k++) {
		struct manifest_part *part, *rest;
		char name[64];
		struct err err;

		snprintf(name, sizeof(name), pattern, "fold", k, count);
		if (manifest_part_open(&part, m, name, &err) != 0)
			fail_msg("%s: %s", name, err.message);
		snprintf(name, sizeof(name), pattern, "rest", k, count);
		assert_int_equal(manifest_part_open(&rest, m, name, &err), 0);
		assert_int_equal(part->picture_count + rest->picture_count, PICTURES);
		assert_int_equal(part->caption_count, 2 * part->picture_count);
		for (uint32_t i = 0; i < part->picture_count; i++) {
			assert_int_equal(fold[part->pictures[i]], 0);
			fold[part->pictures[i]] = k;
		}
		for (uint32_t i = 0; i < rest->picture_count; i++)
			assert_int_not_equal(fold[rest->pictures[i]], k);
		for (uint32_t i = 0; i < part->caption_count; i++)
			assert_int_equal(fold[m->caption_picture[part->captions[i]]], k);
		manifest_part_free(part);
		manifest_part_free(rest);
	}
	for (int p = 0; p < PICTURES; p++)
		assert_int_not_equal(fold[p], 0);
}

static void test_equal_shares(void **state)
{
	struct manifest *m = many(false);
	int fold[PICTURES];

	(void)state;
	for (int k = 2; k <= 30; k += 7) {
		int all[31] = { 0 }, labelled[31][LABELS] = { { 0 } };

		folds_of(m, "all~%s=%d/%d", k, fold);
		for (int p = 0; p < PICTURES; p++) {
			all[fold[p]]++;
			labelled[fold[p]][p % LABELS]++;
		}
		for (int i = 1; i <= k; i++) {
			/* 100 and 200 are one unit, so a fold may be off by two. */
			assert_true(all[i] >= PICTURES / k - 1 && all[i] <= PICTURES / k + 2);
			for (int l = 0; l < LABELS; l++)
				assert_true(labelled[i][l] >= PICTURES / LABELS / k - 1 && labelled[i][l] <= PICTURES / LABELS / k + 2);
		}
		assert_int_equal(fold[100], fold[200]);
	}
	manifest_free(m);
}

static void test_groups_stay_together(void **state)
{
	struct manifest *m = many(true);
	int fold[PICTURES], other[PICTURES], differ = 0;

	(void)state;
	folds_of(m, "all~%s=%d/%d", 5, fold);
	for (int p = 0; p < PICTURES / 2; p++)
		assert_int_equal(fold[p], fold[p / GROUP * GROUP]);
	/* The seed decides, and nothing else: the same again, another one otherwise. */
	folds_of(m, "all~%s=%d/%d,seed=0", 5, other);
	assert_memory_equal(fold, other, sizeof(fold));
	folds_of(m, "all~%s=%d/%d,seed=1", 5, other);
	for (int p = 0; p < PICTURES; p++)
		differ += fold[p] != other[p];
	assert_true(differ > PICTURES / 2);
	manifest_free(m);
}

static void test_too_many_folds(void **state)
{
	struct manifest *m = many(false);
	struct manifest_part *part;
	struct err err;

	(void)state;
	assert_int_equal(manifest_part_open(&part, m, "all~fold=1/241", &err), ERR_MISMATCH);
	assert_non_null(strstr(err.message, "fewer folds"));
	assert_null(part);
	assert_int_equal(manifest_part_open(&part, m, "nope~fold=1/5", &err), ERR_NOTFOUND);
	assert_non_null(strstr(err.message, "\"nope\""));
	assert_int_equal(manifest_part_open(&part, m, "all~fold=7/5", &err), ERR_USAGE);
	manifest_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_overlap),
		cmocka_unit_test(test_equal_shares),
		cmocka_unit_test(test_groups_stay_together),
		cmocka_unit_test(test_too_many_folds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
