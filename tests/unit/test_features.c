/* pipeline/features.h: a request takes what it needs of the catalog and gives all of it back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "preprocessd/dataset/manifest.h"
#include "preprocessd/pipeline/features.h"
#include "preprocessd/pipeline/records.h"
#include "tests/support/scratch.h"

enum { PICTURES = 8, SPLITS = 3 * CATALOG_IDLE_PARTS_MAX, SPLIT_BYTES = 64 };

static struct scratch scratch;

/* A worker's surroundings, as far as features need them, and a data set "d" in their cache. */
struct fixture {
	struct pipeline pipeline;
	struct worker worker;
};

#define assert_ok(call) \
	do { \
		struct err err; \
		if ((call) != 0) \
			fail_msg("%s", err.message); \
	} while (0)

static struct manifest *make_manifest(void)
{
	struct reader_options options = { .format = "csv", .caption_count = 1, .image_count = 1 };
	char csv[PICTURES * 32] = "", name[16];
	struct manifest *manifest;
	struct listing *listing;
	struct hash hash;

	for (int i = 0; i < PICTURES; i++) {
		snprintf(name, sizeof(name), "p/%d.jpg", i);
		scratch_text(&scratch, name, "");
		snprintf(csv + strlen(csv), sizeof(csv) - strlen(csv), "%d.jpg,caption %d\n", i, i);
	}
	scratch_text(&scratch, "c.csv", csv);
	options.captions = (const char *[]){ scratch_path(&scratch, "c.csv") };
	options.images = (const char *[]){ scratch_path(&scratch, "p") };
	assert_ok(listing_open(&listing, &err));
	assert_ok(listing_read(listing, &options, &err));
	for (uint32_t i = 0; i < listing_picture_count(listing); i++) {
		hash_bytes(&hash, &i, sizeof(i));
		listing_set_hash(listing, i, &hash);
	}
	assert_ok(listing_finish(listing, &manifest, &err));
	listing_free(listing);
	return manifest;
}

static void put_dataset(struct cache *cache)
{
	Records__DatasetRecord record = RECORDS__DATASET_RECORD__INIT;
	struct buf bytes = BUF_INIT, record_bytes = BUF_INIT;
	struct manifest *manifest = make_manifest();
	struct cache_change changes[2];

	assert_ok(manifest_encode(manifest, &bytes, &err));
	record.layout = RECORDS_LAYOUT;
	record.version = (ProtobufCBinaryData){ HASH_BYTES, manifest->version.bytes };
	assert_ok(records_dataset_encode(&record, &record_bytes, &err));
	changes[0] = (struct cache_change){ .payload = bytes.data, .size = bytes.size };
	cache_key_hashes(&changes[0].key, CACHE_MANIFEST, &manifest->version, NULL);
	changes[1] = (struct cache_change){ .payload = record_bytes.data, .size = record_bytes.size };
	assert_ok(cache_key_name(&changes[1].key, CACHE_DATASET, "d", &err));
	assert_ok(cache_apply(cache, changes, 2, &err));
	manifest_free(manifest);
	buf_free(&bytes);
	buf_free(&record_bytes);
}

static void open_all(struct fixture *f)
{
	memset(f, 0, sizeof(*f));
	scratch_open(&scratch);
	assert_ok(cache_open(&f->pipeline.cache, &(struct cache_options){ .path = scratch.path }, &err));
	assert_ok(catalog_open(&f->pipeline.catalog, &err));
	assert_ok(cache_reader_open(&f->worker.reader, f->pipeline.cache, &err));
	f->worker.pipeline = &f->pipeline;
	put_dataset(f->pipeline.cache);
}

static void close_all(struct fixture *f)
{
	cache_reader_close(f->worker.reader);
	catalog_close(f->pipeline.catalog);
	cache_close(f->pipeline.cache);
	scratch_close(&scratch);
}

/* How many splits of "d" are in memory, and how many uses of them are not over. */
static void count_parts(struct fixture *f, int *parts, int *refs)
{
	Records__DatasetRecord *record;
	struct dataset_ref *dataset;

	assert_ok(catalog_record(f->worker.reader, "d", &record, &err));
	assert_ok(catalog_dataset(f->pipeline.catalog, f->worker.reader, "d", record, &dataset, &err));
	*parts = *refs = 0;
	for (const struct part_ref *part = dataset->parts; part != NULL; part = part->next) {
		++*parts;
		*refs += part->refs;
	}
	catalog_dataset_unref(f->pipeline.catalog, dataset);
	records__dataset_record__free_unpacked(record, NULL);
}

static struct features_of of_split(const char *split)
{
	return (struct features_of){ .dataset = "d", .split = split, .image_size = 32, .width = 4 };
}

static void test_splits_are_given_back(void **state)
{
	static const float values[4] = { 1, 2, 3, 4 };
	struct fixture f;
	int parts, refs;

	(void)state;
	open_all(&f);
	for (int seed = 0; seed < SPLITS; seed++) {
		char split[SPLIT_BYTES];
		struct features_found found;
		uint32_t kept;

		snprintf(split, sizeof(split), "all~fold=1/2,seed=%d", seed);
		struct features_of of = of_split(split);
		assert_ok(features_get(&f.worker, &of, 0, 1, &found, &err));
		assert_int_equal(found.rows, PICTURES / 2);
		close(found.fd);
		assert_ok(features_put(&f.worker, &of, (const uint32_t[]){ 0 }, 1, values, &kept, &err));
	}
	count_parts(&f, &parts, &refs);
	assert_int_equal(refs, 0);
	assert_in_range(parts, 1, CATALOG_IDLE_PARTS_MAX + 1);
	close_all(&f);
}

/* What cannot be done ends with the same. */
static void test_failures_give_back(void **state)
{
	struct features_of of = of_split("train");
	struct features_found found;
	struct fixture f;
	struct err err;
	int parts, refs;

	(void)state;
	open_all(&f);
	assert_int_equal(features_get(&f.worker, &of, PICTURES, 1, &found, &err), ERR_USAGE);
	assert_int_equal(features_get(&f.worker, &of, 0, 0, &found, &err), ERR_LIMIT);
	of.image_size = 0;
	assert_int_equal(features_get(&f.worker, &of, 0, 1, &found, &err), ERR_LIMIT);
	assert_int_equal(found.fd, -1);
	count_parts(&f, &parts, &refs);
	assert_int_equal(parts, 1);
	assert_int_equal(refs, 0);
	close_all(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_splits_are_given_back),
		cmocka_unit_test(test_failures_give_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
