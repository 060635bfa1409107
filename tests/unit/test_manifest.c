/* Manifests: the bytes, the version, parts, validation pairs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "preprocessd/dataset/blob.h"
#include "shared/base/fs.h"
#include "shared/base/json.h"
#include "shared/base/mem.h"
#include "shared/base/rng.h"
#include "tests/support/scratch.h"

/* A manifest from a CSV text; pictures are made as files with their names (without folder) as content. */
static struct manifest *manifest_of(const char *csv, const char *folder)
{
	struct scratch dir;
	struct listing *listing;
	struct manifest *manifest;
	struct err err = { 0 };
	char text[64];
	const char *at = strchr(csv, '\n'); /* behind the header */

	scratch_open(&dir);
	while (at != NULL && at[1] != '\0') {
		size_t bytes = strcspn(at + 1, ",");
		char name[100];

		snprintf(text, sizeof(text), "%.*s", (int)bytes, at + 1);
		snprintf(name, sizeof(name), "%s/%s", folder, text);
		scratch_text(&dir, name, text);
		at = strchr(at + 1, '\n');
	}
	scratch_text(&dir, "c.csv", csv);
	const char *captions = scratch_path(&dir, "c.csv"), *images = scratch_path(&dir, folder);
	struct reader_options options = { .format = "csv", .captions = &captions, .caption_count = 1, .images = &images,
					  .image_count = 1 };
	assert_int_equal(listing_open(&listing, &err), 0);
	if (listing_read(listing, &options, &err) != 0)
		fail_msg("%s", err.message);
	for (uint32_t i = 0; i < listing_picture_count(listing); i++) {
		const char *name = strrchr(listing_picture_path(listing, i), '/') + 1;
		struct hash hash;

		hash_bytes(&hash, name, strlen(name));
		listing_set_hash(listing, i, &hash);
	}
	if (listing_finish(listing, &manifest, &err) != 0)
		fail_msg("%s", err.message);
	listing_free(listing);
	scratch_close(&dir);
	return manifest;
}

static const char SMALL[] = "image,caption,split,label,group\n"
			    "a,one,train,cat,g\n"
			    "b,two,val,dog,h\n"
			    "c,,train,,g\n"
			    "a,three,train,cat,g\n"
			    "d,four,test,cat,\n";

static void test_round_trip(void **state)
{
	struct manifest *m = manifest_of(SMALL, "i"), *back;
	struct buf bytes = BUF_INIT, again = BUF_INIT;
	struct err err;

	(void)state;
	assert_int_equal(manifest_encode(m, &bytes, &err), 0);
	if (manifest_decode(&back, bytes.data, bytes.size, &err) != 0)
		fail_msg("%s", err.message);
	assert_true(hash_equal(&m->version, &back->version));
	assert_int_equal(back->picture_count, 4);
	assert_int_equal(back->caption_count, 5);
	assert_int_equal(back->split_count, 3);
	assert_int_equal(back->label_count, 2);
	assert_int_equal(back->group_count, 3);
	static const int32_t labels[] = { 0, 1, -1, 0 };
	static const uint32_t groups[] = { 0, 1, 0, 2 }, of[] = { 0, 1, 2, 0, 3 };
	static const uint8_t splits[] = { 0, 1, 0, 2 };
	assert_memory_equal(back->picture_label, labels, sizeof(labels));
	assert_memory_equal(back->picture_group, groups, sizeof(groups));
	assert_memory_equal(back->caption_picture, of, sizeof(of));
	assert_memory_equal(back->picture_split, splits, sizeof(splits));
	assert_string_equal(back->label_name[1], "dog");
	assert_string_equal(back->split_name[2], "test");
	assert_int_equal(back->caption_at[3], back->caption_at[2]); /* the empty caption */
	static const uint32_t captions_of[] = { 0, 3, 1, 2, 4 };
	assert_memory_equal(back->captions_of, captions_of, sizeof(captions_of));
	assert_int_equal(manifest_encode(back, &again, &err), 0);
	assert_int_equal(again.size, bytes.size);
	assert_memory_equal(again.data, bytes.data, bytes.size);
	manifest_free(m);
	manifest_free(back);
	manifest_free(NULL);
	buf_free(&bytes);
	buf_free(&again);
}

static struct hash version_of(const char *csv, const char *folder)
{
	struct manifest *m = manifest_of(csv, folder);
	struct hash version = m->version;

	manifest_free(m);
	return version;
}

static void test_version(void **state)
{
	static const char *const others[] = {
		"image,caption,split,label\na,one,train,x\nb,two,train,x\n", /* as the first, but ... */
		"image,caption,split,label\na,one,train,x\nb,two!,train,x\n",
		"image,caption,split,label\na,onet,train,x\nb,wo,train,x\n",
		"image,caption,split,label\na,one,train,x\nc,two,train,x\n",
		"image,caption,split,label\nb,two,train,x\na,one,train,x\n",
		"image,caption,split,label\na,one,train,x\nb,two,val,x\n",
		"image,caption,split,label\na,one,train,x\nb,two,train,y\n",
		"image,caption,split,label\na,one,train,z\nb,two,train,z\n",
		"image,caption,split,label\na,one,train,\nb,two,train,\n",
		"image,caption,split,label\na,one,train,x\na,two,train,x\n",
		"image,caption,split,label,group\na,one,train,x,g\nb,two,train,x,g\n",
	};
	struct hash first = version_of(others[0], "i");

	(void)state;
	struct hash elsewhere = version_of(others[0], "another/folder");
	assert_true(hash_equal(&first, &elsewhere));
	for (size_t i = 1; i < ARRAY_LEN(others); i++)
		for (size_t j = 0; j < i; j++) {
			struct hash a = version_of(others[i], "i"), b = version_of(others[j], "i");

			assert_false(hash_equal(&a, &b));
		}
}

/* The version by hand, from the words of schemas/manifest.md. */
static void test_version_is_as_documented(void **state)
{
	struct manifest *m = manifest_of(SMALL, "i");
	struct hash_stream *s;
	struct hash want;
	struct err err;

	(void)state;
	assert_int_equal(hash_stream_open(&s, &err), 0);
	hash_stream_add_field(s, "preprocessd manifest 1", 22);
	hash_stream_add_u64(s, 3);
	hash_stream_add_u64(s, 2);
	hash_stream_add_u64(s, 3);
	hash_stream_add_field(s, "train\0val\0test\0cat\0dog", 23);
	struct hash hashes[4];
	for (int i = 0; i < 4; i++)
		hash_bytes(&hashes[i], &"abcd"[i], 1);
	hash_stream_add_field(s, hashes, sizeof(hashes));
	hash_stream_add_field(s, "\0\1\0\2", 4);
	hash_stream_add_field(s, (int32_t[]){ 0, 1, -1, 0 }, 16);
	hash_stream_add_field(s, (uint32_t[]){ 0, 1, 0, 2 }, 16);
	hash_stream_add_field(s, (uint32_t[]){ 0, 1, 2, 0, 3 }, 20);
	hash_stream_add_field(s, (uint64_t[]){ 0, 3, 6, 6, 11, 15 }, 48);
	hash_stream_add_field(s, "onetwothreefour", 15);
	hash_stream_final(s, &want);
	assert_true(hash_equal(&m->version, &want));
	manifest_free(m);
}

/* Every flipped bit and every cut is noticed, and nothing is read beyond the end. */
static void test_damage(void **state)
{
	struct manifest *m = manifest_of(SMALL, "i"), *back;
	struct buf bytes = BUF_INIT;
	struct err err;
	uint32_t paths = 0;

	(void)state;
	assert_int_equal(manifest_encode(m, &bytes, &err), 0);
	for (size_t size = 0; size < bytes.size; size++) {
		char *cut = mem_alloc(size);

		memcpy(cut, bytes.data, size);
		assert_int_equal(manifest_decode(&back, cut, size, &err), ERR_CORRUPT);
		mem_free(cut);
	}
	for (size_t bit = 0; bit < 8 * bytes.size; bit++) {
		bytes.data[bit / 8] ^= (char)(1 << bit % 8);
		int code = manifest_decode(&back, bytes.data, bytes.size, &err);
		/* paths and padding are not part of the version */
		if (code == 0) {
			paths++;
			manifest_free(back);
		} else {
			assert_int_equal(code, ERR_CORRUPT);
		}
		bytes.data[bit / 8] ^= (char)(1 << bit % 8);
	}
	uint64_t path_bytes = m->source_at[m->picture_count];
	assert_true(paths <= 8 * (path_bytes + 12 * 8 + 8));
	manifest_free(m);
	buf_free(&bytes);
}

/* --- parts ---------------------------------------------------------------------- */

static void check_part(const struct manifest *m, const char *split, const char *pictures, const char *captions)
{
	struct manifest_part *part;
	struct err err;
	char text[100];
	size_t used = 0;

	if (manifest_part_open(&part, m, split, &err) != 0)
		fail_msg("%s: %s", split, err.message);
	for (uint32_t i = 0; i < part->picture_count; i++)
		used += (size_t)snprintf(text + used, sizeof(text) - used, "%u", part->pictures[i]);
	assert_string_equal(text, pictures);
	used = 0;
	for (uint32_t i = 0; i < part->caption_count; i++)
		used += (size_t)snprintf(text + used, sizeof(text) - used, "%u", part->captions[i]);
	assert_string_equal(text, captions);
	manifest_part_free(part);
}

static void test_parts(void **state)
{
	static const char *const unknown[] = { "", "nope", "train+", "+train", "train++val", "train,val", "Train", "train+nope", "all+val" };
	struct manifest *m = manifest_of(SMALL, "i");
	struct manifest_part *part;
	struct err err;

	(void)state;
	check_part(m, "train", "02", "023");
	check_part(m, "val", "1", "1");
	check_part(m, "val+train", "012", "0123");
	check_part(m, "train+train", "02", "023");
	check_part(m, "all", "0123", "01234");
	for (size_t i = 0; i < ARRAY_LEN(unknown); i++) {
		assert_int_equal(manifest_part_open(&part, m, unknown[i], &err), ERR_NOTFOUND);
		assert_non_null(strstr(err.message, "this data set has train, val, test"));
	}
	manifest_part_free(NULL);
	manifest_free(m);
}

static void test_empty_split(void **state)
{
	struct blob_counts counts = { .pictures = 1, .captions = 1, .splits = 2, .groups = 1, .source_bytes = 2, .name_bytes = 10 };
	struct manifest_part *part;
	struct blob *blob;
	struct err err;

	(void)state;
	assert_int_equal(blob_open(&blob, &counts, &err), 0);
	memcpy(blob->name_text, "train\0val", 10);
	assert_true(blob_find_names(blob));
	blob_group_captions(blob);
	assert_int_equal(manifest_part_open(&part, &blob->view, "val", &err), ERR_MISMATCH);
	assert_non_null(strstr(err.message, "\"val\" has no pictures"));
	manifest_free(&blob->view);
}

/* --- validation pairs ------------------------------------------------------------------ */

static bool same_text(const struct manifest *m, uint32_t a, uint32_t b)
{
	uint64_t bytes = m->caption_at[a + 1] - m->caption_at[a];

	return bytes == m->caption_at[b + 1] - m->caption_at[b] &&
	       memcmp(m->caption_text + m->caption_at[a], m->caption_text + m->caption_at[b], bytes) == 0;
}

static bool picture_says(const struct manifest *m, uint32_t picture, uint32_t caption)
{
	for (uint32_t k = m->captions_of_at[picture]; k < m->captions_of_at[picture + 1]; k++)
		if (same_text(m, m->captions_of[k], caption))
			return true;
	return false;
}

static bool repeats(const struct manifest *m, uint32_t caption)
{
	uint32_t picture = m->caption_picture[caption];

	for (uint32_t k = m->captions_of_at[picture]; m->captions_of[k] < caption; k++)
		if (same_text(m, m->captions_of[k], caption))
			return true;
	return false;
}

/* The promises of manifest.h, checked the slow way. Returns how many pairs there are. */
static uint32_t check_pairs(const struct manifest *m, const char *split)
{
	struct manifest_part *part;
	struct err err;
	uint32_t pairs = 0;

	assert_int_equal(manifest_part_open(&part, m, split, &err), 0);
	uint32_t *wrong = mem_array(part->caption_count, sizeof(*wrong));
	uint32_t *again = mem_array(part->caption_count, sizeof(*again));
	assert_int_equal(manifest_eval_pairs(m, part, split, wrong, &err), 0);
	assert_int_equal(manifest_eval_pairs(m, part, split, again, &err), 0);
	assert_memory_equal(wrong, again, part->caption_count * sizeof(*wrong));
	for (uint32_t i = 0; i < part->caption_count; i++) {
		uint32_t qualifying = 0;

		for (uint32_t p = 0; p < part->picture_count; p++)
			qualifying += !picture_says(m, part->pictures[p], part->captions[i]);
		if (wrong[i] == UINT32_MAX) {
			assert_true(repeats(m, part->captions[i]) || qualifying == 0);
		} else {
			assert_false(repeats(m, part->captions[i]));
			assert_true(wrong[i] < part->picture_count);
			assert_false(picture_says(m, part->pictures[wrong[i]], part->captions[i]));
			pairs++;
		}
	}
	mem_free(wrong);
	mem_free(again);
	manifest_part_free(part);
	return pairs;
}

static struct manifest *make_pictures(uint32_t count, uint32_t texts)
{
	struct buf csv = BUF_INIT;
	struct err err;

	assert_int_equal(buf_add_text(&csv, "image,caption,split\n", &err), 0);
	for (uint32_t p = 0; p < count; p++)
		for (uint32_t c = 0; c < 5; c++) {
			struct rng_block r = rng_philox(rng_key(texts, 77), p, c, 0, 0);

			/* half of the captions are drawn from few texts, and text 0 is most pictures' */
			uint64_t text = c == 0 && p % 10 != 0 ? 0 : r.v[0] % 2 ? r.v[1] % texts : 1000 + p * 5 + c;
			assert_int_equal(buf_printf(&csv, &err, "%u,t%llu,%s\n", p, (unsigned long long)text,
						    p % 3 ? "train" : "val"), 0);
		}
	struct manifest *m = manifest_of(csv.data, "i");
	buf_free(&csv);
	return m;
}

static void test_pairs(void **state)
{
	static const uint32_t sizes[] = { 1, 2, 3, 10, 60 }, texts[] = { 1, 3, 50 };

	(void)state;
	for (size_t s = 0; s < ARRAY_LEN(sizes); s++)
		for (size_t t = 0; t < ARRAY_LEN(texts); t++) {
			struct manifest *m = make_pictures(sizes[s], texts[t]);

			check_pairs(m, "all");
			check_pairs(m, "val");
			manifest_free(m);
		}
}

static void test_pairs_where_none_qualifies(void **state)
{
	struct manifest *m = manifest_of("image,caption\na,x\nb,x\nc,x\n", "i");

	(void)state;
	assert_int_equal(check_pairs(m, "all"), 0);
	manifest_free(m);
	m = manifest_of("image,caption\na,x\na,x\na,y\n", "i");
	assert_int_equal(check_pairs(m, "all"), 0);
	manifest_free(m);
	m = manifest_of("image,caption\na,x\na,x\nb,y\n", "i");
	assert_int_equal(check_pairs(m, "all"), 2);
	manifest_free(m);
}

/* All the other pictures come up equally often, also for a text that most have. */
static void test_pairs_are_even(void **state)
{
	enum { PICTURES = 9 };
	uint32_t drawn[PICTURES] = { 0 }, total = 0;
	double chi2 = 0;

	(void)state;
	for (int round = 0; round < 300; round++) {
		struct blob_counts counts = { .pictures = PICTURES, .captions = 2 * PICTURES, .splits = 1, .groups = PICTURES,
					      .source_bytes = 2 * PICTURES, .name_bytes = 2, .caption_bytes = 2 * PICTURES };
		struct manifest_part *part;
		struct blob *b;
		struct err err;
		uint32_t wrong[2 * PICTURES];

		assert_int_equal(blob_open(&b, &counts, &err), 0);
		b->name_text[0] = 'x';
		assert_true(blob_find_names(b));
		for (uint32_t c = 0; c < 2 * PICTURES; c++) {
			b->caption_at[c + 1] = c + 1;
			b->caption_picture[c] = c % PICTURES;
			/* the second captions: '!' for the first six pictures, which the last three lack */
			b->caption_text[c] = c < PICTURES ? (char)('a' + c) : c < PICTURES + 6 ? '!' : '?';
		}
		blob_group_captions(b);
		b->picture_hash[0].bytes[0] = (uint8_t)round;
		b->picture_hash[0].bytes[1] = (uint8_t)(round >> 8);
		assert_int_equal(blob_set_version(b, &err), 0);
		assert_int_equal(manifest_part_open(&part, &b->view, "all", &err), 0);
		assert_int_equal(manifest_eval_pairs(&b->view, part, "all", wrong, &err), 0);
		for (uint32_t c = PICTURES; c < PICTURES + 6; c++) {
			assert_in_range(wrong[c], 6, 8);
			drawn[wrong[c]]++;
			total++;
		}
		for (uint32_t c = PICTURES + 6; c < 2 * PICTURES; c++) {
			assert_in_range(wrong[c], 0, 5);
			drawn[wrong[c]]++;
		}
		manifest_part_free(part);
		manifest_free(&b->view);
	}
	for (int p = 0; p < PICTURES; p++) {
		double expected = p < 6 ? 300.0 * 3 / 6 : 300.0 * 6 / 3;

		chi2 += (drawn[p] - expected) * (drawn[p] - expected) / expected;
	}
	assert_true(chi2 < 24.3); /* 7 degrees of freedom, one in a thousand */
	assert_int_equal(total, 1800);
}

/* Against tests/golden/pairs.py, written from schemas/manifest.md. */
static void test_pairs_golden(void **state)
{
	struct manifest *m = make_pictures(60, 3);
	struct buf file = BUF_INIT;
	struct json_reader r;
	struct err err;
	static const char *const splits[] = { "all", "val" };
	char hex[HASH_HEX_BYTES];

	(void)state;
	if (fs_read("tests/golden/pairs.json", 1 << 20, &file, &err) != 0)
		fail_msg("%s (run the tests from the top of the repository)", err.message);
	json_reader_init(&r, "pairs.json", file.data, file.size);
	assert_int_equal(json_expect(&r, JSON_OBJECT_BEGIN, &err), 0);
	assert_int_equal(json_expect(&r, JSON_KEY, &err), 0);
	assert_int_equal(json_expect(&r, JSON_STRING, &err), 0);
	hash_to_hex(&m->version, hex);
	assert_string_equal(r.text.data, hex);
	for (size_t s = 0; s < ARRAY_LEN(splits); s++) {
		struct manifest_part *part;
		uint32_t wrong[300];

		assert_int_equal(json_expect(&r, JSON_KEY, &err), 0);
		assert_string_equal(r.text.data, splits[s]);
		assert_int_equal(manifest_part_open(&part, m, splits[s], &err), 0);
		assert_int_equal(manifest_eval_pairs(m, part, splits[s], wrong, &err), 0);
		assert_int_equal(json_expect(&r, JSON_ARRAY_BEGIN, &err), 0);
		for (uint32_t i = 0; i < part->caption_count; i++) {
			int64_t want;

			assert_int_equal(json_expect(&r, JSON_NUMBER, &err), 0);
			assert_int_equal(json_int(&r, &want, &err), 0);
			assert_int_equal(want, wrong[i] == UINT32_MAX ? -1 : (int64_t)wrong[i]);
		}
		assert_int_equal(json_expect(&r, JSON_ARRAY_END, &err), 0);
		manifest_part_free(part);
	}
	json_reader_free(&r);
	buf_free(&file);
	manifest_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_version),
		cmocka_unit_test(test_version_is_as_documented),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_parts),
		cmocka_unit_test(test_empty_split),
		cmocka_unit_test(test_pairs),
		cmocka_unit_test(test_pairs_where_none_qualifies),
		cmocka_unit_test(test_pairs_are_even),
		cmocka_unit_test(test_pairs_golden),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
