/* Which pictures a --limit draws, and which split --split deals each to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/reading.h"

enum { DRAWN_FROM = 200 };

/* Which pictures are there, by the numbers in their names; each with its own captions and no others, in the files' order. */
static uint32_t drawn(const struct manifest *m, bool there[DRAWN_FROM])
{
	long before = -1;

	memset(there, 0, DRAWN_FROM * sizeof(*there));
	assert_int_equal(m->caption_count, 2 * m->picture_count);
	for (uint32_t p = 0; p < m->picture_count; p++) {
		long number = strtol(strrchr(m->source_text + m->source_at[p], '/') + 1, NULL, 10);

		assert_in_range(number, before + 1, DRAWN_FROM - 1);
		before = number;
		there[number] = true;
		for (uint32_t k = m->captions_of_at[p]; k < m->captions_of_at[p + 1]; k++) {
			uint32_t c = m->captions_of[k];
			char want[32];

			snprintf(want, sizeof(want), "%s %ld", k == m->captions_of_at[p] ? "first" : "and the second", number);
			assert_int_equal(m->caption_at[c + 1] - m->caption_at[c], strlen(want));
			assert_memory_equal(m->caption_text + m->caption_at[c], want, strlen(want));
		}
	}
	return m->picture_count;
}

static void captions_apart(const char *folder)
{
	struct buf csv = BUF_INIT;
	struct err err;

	for (int k = 0; k < 2; k++)
		for (int i = 0; i < DRAWN_FROM; i++)
			assert_int_equal(buf_printf(&csv, &err, "%s%d.jpg,%s %d\n", folder, i, k == 0 ? "first" : "and the second", i), 0);
	scratch_write(&scratch, "c.csv", csv.data, csv.size);
	buf_free(&csv);
}

static void test_limit(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" }, .limit = 50 };
	bool few[DRAWN_FROM], many[DRAWN_FROM], other[DRAWN_FROM];
	int halves[2] = { 0 }, same = 0;

	(void)state;
	many_pictures(DRAWN_FROM);
	captions_apart("");
	struct manifest *m = read_manifest(&request);
	assert_int_equal(drawn(m, few), 50);
	assert_true(note_says("50 of 200 pictures"));
	assert_int_equal(listing_picture_count(last_listing), 50); /* no other one is opened */
	manifest_free(m);

	/* from other folders and with a split: the same ones */
	captions_apart("../i/./");
	request.ratio = "train=0.8,val=0.2";
	m = read_manifest(&request);
	assert_int_equal(drawn(m, many), 50);
	assert_memory_equal(few, many, sizeof(few));
	assert_int_equal(count_split(m, "val"), 10);
	manifest_free(m);

	request.limit = 120;
	m = read_manifest(&request);
	assert_int_equal(drawn(m, many), 120);
	manifest_free(m);
	request.limit = 50;
	request.limit_seed = 1;
	m = read_manifest(&request);
	assert_int_equal(drawn(m, other), 50);
	manifest_free(m);
	for (int i = 0; i < DRAWN_FROM; i++) {
		assert_true(!few[i] || many[i]);
		halves[i / (DRAWN_FROM / 2)] += many[i];
		same += few[i] && other[i];
	}
	assert_in_range(halves[0], 40, 80);
	assert_in_range(same, 1, 30);
}

static int next_drawn(const bool there[DRAWN_FROM], int i, bool wanted)
{
	while (there[i] != wanted)
		i++;
	return i;
}

static void remove_picture(int number)
{
	char name[40];

	snprintf(name, sizeof(name), "i/%d.jpg", number);
	assert_int_equal(remove(in_scratch(name)), 0);
}

/* A picture that is not there has its place in the draw, and matters only where it is drawn. */
static void test_limit_where_pictures_are_missing(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" }, .limit = 50 };
	bool all[DRAWN_FROM], left[DRAWN_FROM];
	char says[80];
	int gone;

	(void)state;
	many_pictures(DRAWN_FROM);
	captions_apart("");
	struct manifest *m = read_manifest(&request);
	assert_int_equal(drawn(m, all), 50);
	manifest_free(m);

	remove_picture(next_drawn(all, 1, false)); /* 0.jpg would be taken for a header */
	remove_picture(next_drawn(all, 100, false));
	m = read_manifest(&request);
	assert_int_equal(drawn(m, left), 50);
	assert_memory_equal(left, all, sizeof(all));
	assert_int_equal(listing_failure_count(last_listing), 0);
	manifest_free(m);

	gone = next_drawn(all, 1, true);
	remove_picture(gone);
	snprintf(says, sizeof(says), "1 of 50 pictures drawn is missing: %d.jpg; looked in ", gone);
	refuses(&request, ERR_NOTFOUND, says);
	request.skip = true;
	m = read_manifest(&request);
	assert_int_equal(drawn(m, left), 49);
	assert_int_equal(listing_failure_count(last_listing), 1);
	left[gone] = true;
	assert_memory_equal(left, all, sizeof(all));
	manifest_free(m);
}

static void test_limit_beyond_all(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" }, .limit = DRAWN_FROM };
	bool there[DRAWN_FROM];

	(void)state;
	many_pictures(DRAWN_FROM);
	captions_apart("");
	struct manifest *m = read_manifest(&request);
	assert_int_equal(drawn(m, there), DRAWN_FROM);
	assert_true(note_says("leaves out none"));
	manifest_free(m);
	request.limit = UINT64_MAX;
	m = read_manifest(&request);
	assert_int_equal(drawn(m, there), DRAWN_FROM);
	manifest_free(m);
}

static void test_ratio(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" }, .ratio = "train=0.7,val=0.2,test=0.1" };

	(void)state;
	many_pictures(101);
	struct manifest *a = read_manifest(&request), *b = read_manifest(&request);
	assert_true(hash_equal(&a->version, &b->version));
	/* 70.7, 20.2, 10.1: the largest remainder gets the one that is left */
	assert_int_equal(count_split(a, "train"), 71);
	assert_int_equal(count_split(a, "val"), 20);
	assert_int_equal(count_split(a, "test"), 10);
	manifest_free(b);
	request.seed = 1;
	b = read_manifest(&request);
	assert_false(hash_equal(&a->version, &b->version));
	assert_int_equal(count_split(b, "train"), 71);
	manifest_free(a);
	manifest_free(b);
	/* the order of the file does not matter to which picture goes where */
	request.ratio = "train=1";
	a = read_manifest(&request);
	assert_int_equal(count_split(a, "train"), 101);
	manifest_free(a);
}

static void test_ratio_ignores_order_and_path(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" }, .ratio = "train=0.5,val=0.5" };
	struct buf csv = BUF_INIT;
	struct err err;

	(void)state;
	many_pictures(40);
	struct manifest *a = read_manifest(&request);
	for (int i = 39; i >= 0; i--)
		assert_int_equal(buf_printf(&csv, &err, "../i/./%d.jpg,a\n", i), 0);
	scratch_write(&scratch, "c.csv", csv.data, csv.size);
	struct manifest *b = read_manifest(&request);
	assert_int_equal(b->picture_count, 40);
	for (uint32_t p = 0; p < 40; p++) {
		assert_true(hash_equal(&a->picture_hash[p], &b->picture_hash[39 - p]));
		assert_int_equal(a->picture_split[p], b->picture_split[39 - p]);
	}
	manifest_free(a);
	manifest_free(b);
	buf_free(&csv);
}

static void test_ratio_keeps_groups(void **state)
{
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" }, .ratio = "train=0.6,val=0.4" };
	struct buf csv = BUF_INIT;
	struct err err;
	int split_of[12];

	(void)state;
	many_pictures(60);
	assert_int_equal(buf_add_text(&csv, "image,caption,group\n", &err), 0);
	for (int i = 0; i < 60; i++)
		assert_int_equal(buf_printf(&csv, &err, "%d.jpg,a,g%d\n", i, i % 12), 0);
	scratch_write(&scratch, "c.csv", csv.data, csv.size);
	struct manifest *m = read_manifest(&request);
	assert_int_equal(m->group_count, 12);
	memset(split_of, 0xFF, sizeof(split_of));
	for (uint32_t p = 0; p < 60; p++) {
		uint32_t group = m->picture_group[p];

		assert_true(split_of[group] < 0 || split_of[group] == m->picture_split[p]);
		split_of[group] = m->picture_split[p];
	}
	assert_in_range(count_split(m, "train"), 34, 38); /* 36 within half a group */
	manifest_free(m);
	buf_free(&csv);
}

static void test_ratio_faults(void **state)
{
	static const char *const bad[] = { "", "train", "train=", "train=x", "train=0.5", "train=0.5,val=0.6", "train=0.5,train=0.5",
					   "train=1.5,val=-0.5", "train=0,val=1", "all=1", "a b=1", "train=nan", "train=0.5,,val=0.5" };
	struct request request = { .format = "csv", .captions = { "c.csv" }, .images = { "i" } };

	(void)state;
	many_pictures(3);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		request.ratio = bad[i];
		refuses(&request, ERR_USAGE, "for example --split train=0.8,val=0.2");
	}
	request.ratio = "train=0.5,val=0.5";
	scratch_text(&scratch, "c.csv", "file,caption,split\n0.jpg,a,train\n");
	refuses(&request, ERR_FORMAT, "c.csv:2: this says split \"train\", so --split cannot be given");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		READING_TEST(test_limit),
		READING_TEST(test_limit_where_pictures_are_missing),
		READING_TEST(test_limit_beyond_all),
		READING_TEST(test_ratio),
		READING_TEST(test_ratio_ignores_order_and_path),
		READING_TEST(test_ratio_keeps_groups),
		READING_TEST(test_ratio_faults),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
