/* cache.h: files with flipped bytes, cut short or of somebody else are found out, record by record. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <lmdb.h>

#include "preprocessd/store/internal.h"
#include "shared/base/mem.h"
#include "tests/support/cache_records.h"
#include "tests/support/scratch.h"

/* XORs one byte wherever the needle lies in data.mdb (old pages may hold copies). */
static void flip_in_file(const struct scratch *dir, const uint8_t *needle, size_t size, size_t offset)
{
	FILE *file = fopen(scratch_path(dir, "data.mdb"), "r+b");
	struct stat info;

	assert_non_null(file);
	assert_int_equal(fstat(fileno(file), &info), 0);
	uint8_t *all = mem_alloc((size_t)info.st_size);
	assert_int_equal(fread(all, 1, (size_t)info.st_size, file), info.st_size);
	uint8_t *at = all, *end = all + info.st_size;
	int found = 0;
	for (; (at = memmem(at, (size_t)(end - at), needle, size)) != NULL; at += size, found++) {
		uint8_t byte = at[offset] ^ 0x10;

		fseek(file, at - all + (long)offset, SEEK_SET);
		assert_int_equal(fwrite(&byte, 1, 1, file), 1);
	}
	assert_true(found > 0);
	fclose(file);
	mem_free(all);
}

/* What cache_read_parts() showed, part by part: in order, without gaps. */
struct in_parts {
	size_t end;
	uint8_t bytes[PICTURE_BYTES];
};

static void note_part(void *context, const uint8_t *payload, size_t from, size_t to)
{
	struct in_parts *seen = context;

	assert_int_equal(from, seen->end);
	assert_int_equal(from % CACHE_PART_BYTES, 0);
	assert_true(to > from && to <= PICTURE_BYTES);
	memcpy(seen->bytes + from, payload + from, to - from);
	seen->end = to;
}

static void test_read_parts(void **state)
{
	static const size_t sizes[] = { 1, 240, CACHE_PART_BYTES - 1, CACHE_PART_BYTES, CACHE_PART_BYTES + 1, 10000, PICTURE_BYTES };
	static struct in_parts seen;
	uint8_t bytes[PICTURE_BYTES];
	struct cache_key key;
	struct scratch dir;
	struct err err;
	uint64_t checksum;

	(void)state;
	scratch_open(&dir);
	struct cache *cache = open_cache(dir.path, 0);
	struct cache_reader *reader = open_reader(cache);
	key_of(&key, CACHE_PICTURE, 0);
	assert_int_equal(cache_read_parts(reader, &key, 1, note_part, &seen, &checksum, &err), ERR_NOTFOUND);
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		put(cache, CACHE_PICTURE, i, sizes[i]);
	flush(cache);
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		seen.end = 0;
		key_of(&key, CACHE_PICTURE, i);
		assert_int_equal(cache_read_parts(reader, &key, sizes[i], note_part, &seen, &checksum, &err), 0);
		fill(bytes, sizes[i], i);
		assert_int_equal(seen.end, sizes[i]);
		assert_memory_equal(seen.bytes, bytes, sizes[i]);
		assert_true(checksum == hash_checksum(bytes, sizes[i]));
		/* of another size: not shown at all */
		seen.end = 0;
		assert_int_equal(cache_read_parts(reader, &key, sizes[i] + 1, note_part, &seen, &checksum, &err), ERR_CORRUPT);
		assert_int_equal(seen.end, 0);
	}
	cache_reader_close(reader);
	cache_close(cache);
	/* A byte near the end: everything was shown by then, and is said to be wrong. */
	fill(bytes, PICTURE_BYTES, ARRAY_LEN(sizes) - 1);
	flip_in_file(&dir, bytes + PICTURE_BYTES - 64, 64, 60);
	cache = open_cache(dir.path, 0);
	reader = open_reader(cache);
	seen.end = 0;
	assert_int_equal(cache_read_parts(reader, &key, PICTURE_BYTES, note_part, &seen, &checksum, &err), ERR_CORRUPT);
	assert_non_null(strstr(err.message, "its checksum differs"));
	assert_int_equal(seen.end, PICTURE_BYTES);
	cache_reader_close(reader);
	cache_close(cache);
	scratch_close(&dir);
}

static void test_flipped_byte(void **state)
{
	uint8_t bytes[PICTURE_BYTES];
	struct cache_check_counts counts;
	struct expected expected = { 2, PICTURE_BYTES, true };
	struct cache_key key;
	struct scratch dir;
	struct err err;
	int damaged = 0;

	(void)state;
	scratch_open(&dir);
	struct cache *cache = open_cache(dir.path, 0);
	for (uint64_t i = 0; i < 100; i++)
		put(cache, CACHE_PICTURE, i, i == 2 ? PICTURE_BYTES : 3000);
	put(cache, CACHE_TOKENS, 1001, 100);
	cache_close(cache);
	fill(bytes, PICTURE_BYTES, 2);
	flip_in_file(&dir, bytes, 64, 40);
	fill(bytes, 100, 1001);
	flip_in_file(&dir, bytes, 100, 99);

	cache = open_cache(dir.path, 0);
	struct cache_reader *reader = open_reader(cache);
	assert_int_equal(get(reader, CACHE_PICTURE, 2, PICTURE_BYTES, &err), ERR_CORRUPT);
	assert_non_null(strstr(err.message, "picture"));
	assert_int_equal(get(reader, CACHE_TOKENS, 1001, 100, &err), ERR_CORRUPT);
	key_of(&key, CACHE_PICTURE, 2); /* without the checksum the visit sees the wrong byte */
	assert_int_equal(cache_read(reader, &key, false, visit_compare, &expected, &err), 0);
	assert_false(expected.right);
	assert_int_equal(cache_check(reader, count_damaged, NULL, &damaged, &counts, &err), 0);
	assert_int_equal(damaged, 2);
	assert_true(counts.damaged == 2 && counts.records == 101);
	/* writing it again mends it */
	put(cache, CACHE_PICTURE, 2, PICTURE_BYTES);
	flush(cache);
	expect(reader, CACHE_PICTURE, 2, PICTURE_BYTES);
	cache_reader_close(reader);
	cache_close(cache);
	scratch_close(&dir);
}

static void test_every_header_byte_is_guarded(void **state)
{
	uint8_t record[RECORD_HEADER_BYTES + 8];
	struct record_header header;
	const uint8_t *payload;
	struct cache_key key, other;
	struct err err;

	(void)state;
	key_of(&key, CACHE_PICTURE, 1);
	key_of(&other, CACHE_PICTURE, 2);
	record_seal(record, &key, "12345678", 8);
	assert_int_equal(record_open(&key, record, sizeof(record), true, &header, &payload, &err), 0);
	assert_int_equal(record_open(&other, record, sizeof(record), true, &header, &payload, &err), ERR_CORRUPT);
	assert_int_equal(record_open(&key, record, sizeof(record) - 1, true, &header, &payload, &err), ERR_CORRUPT);
	assert_int_equal(record_open(&key, record, RECORD_HEADER_BYTES - 1, true, &header, &payload, &err), ERR_CORRUPT);
	for (size_t i = 0; i < sizeof(record); i++) {
		record[i] ^= 1;
		assert_int_equal(record_open(&key, record, sizeof(record), true, &header, &payload, &err), ERR_CORRUPT);
		/* verify=false skips the payload's checksum only */
		assert_int_equal(record_open(&key, record, sizeof(record), false, &header, &payload, &err),
				 i < RECORD_HEADER_BYTES ? ERR_CORRUPT : 0);
		record[i] ^= 1;
	}
}

static void test_truncated_file(void **state)
{
	struct cache_check_counts counts;
	struct scratch dir;
	struct stat info;
	struct err err;
	int refused = 0, damaged = 0;

	(void)state;
	scratch_open(&dir);
	struct cache *cache = open_cache(dir.path, 0);
	for (uint64_t i = 0; i < 50; i++)
		put(cache, CACHE_PICTURE, i, PICTURE_BYTES);
	flush(cache);
	for (uint64_t i = 0; i < 20000; i++)
		put(cache, CACHE_TOKENS, i, 100);
	flush(cache);
	/* small commits bring the root of the tree to the front of the file, its leaves stay behind */
	for (uint64_t i = 0; i < 20; i++) {
		put(cache, CACHE_FEATURES, i, 10);
		flush(cache);
	}
	cache_close(cache);
	assert_int_equal(stat(scratch_path(&dir, "data.mdb"), &info), 0);
	for (off_t keep = info.st_size - 4096; keep > 100000; keep -= info.st_size / 12) {
		struct cache_options options = { .path = dir.path };

		assert_int_equal(truncate(scratch_path(&dir, "data.mdb"), keep), 0);
		int code = cache_open(&cache, &options, &err);
		if (code != 0) {
			assert_int_equal(code, ERR_CORRUPT);
			refused++;
			continue;
		}
		/* the tree survived: every record is whole or found out */
		struct cache_reader *reader = open_reader(cache);
		for (uint64_t i = 0; i < 50; i++) {
			code = get(reader, CACHE_PICTURE, i, PICTURE_BYTES, &err);
			if (code != 0 && code != ERR_CORRUPT)
				fail_msg("%lld bytes, record %llu: %s", (long long)keep, (unsigned long long)i, err_name(code));
		}
		assert_int_equal(cache_check(reader, count_damaged, NULL, &damaged, &counts, &err), 0);
		cache_reader_close(reader);
		cache_close(cache);
	}
	assert_true(refused > 0);
	scratch_close(&dir);
}

static void test_foreign_files(void **state)
{
	struct scratch dir;
	struct err err;
	char text[20000];

	(void)state;
	scratch_open(&dir);
	memset(text, 'x', sizeof(text));
	scratch_write(&dir, "data.mdb", text, sizeof(text));
	assert_int_equal(open_fails(dir.path, &err), ERR_CORRUPT);
	assert_non_null(strstr(err.message, "not an LMDB file"));
	assert_int_equal(open_fails(scratch_path(&dir, "nowhere"), &err), ERR_NOTFOUND);
	scratch_close(&dir);
}

/* An LMDB file with one record under a key of the caller's. */
static void make_lmdb(const char *path, const void *key_bytes, size_t key_size, const void *bytes, size_t size)
{
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi dbi;
	MDB_val key = { key_size, (void *)key_bytes }, value = { size, (void *)bytes };

	assert_int_equal(mdb_env_create(&env), 0);
	assert_int_equal(mdb_env_open(env, path, 0, 0600), 0);
	assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
	assert_int_equal(mdb_dbi_open(txn, NULL, 0, &dbi), 0);
	assert_int_equal(mdb_put(txn, dbi, &key, &value, 0), 0);
	assert_int_equal(mdb_txn_commit(txn), 0);
	mdb_env_close(env);
}

/* A key that is none of ours, as flipped bits in a page's sizes make them: a walk says so, and does not end as if all were seen. */
static void test_impossible_key(void **state)
{
	uint8_t key[CACHE_KEY_BYTES_MAX + 1];
	struct cache_check_counts counts;
	struct cache_key last = { .size = 0 };
	struct cache_listed listed[8];
	struct cache_reader *reader;
	struct cache *cache;
	struct scratch dir;
	struct err err;
	int damaged = 0, count;

	(void)state;
	scratch_open(&dir);
	cache = open_cache(dir.path, 0);
	for (uint64_t i = 0; i < 3; i++)
		put(cache, CACHE_TOKENS, i, 100);
	flush(cache);
	cache_close(cache);
	memset(key, CACHE_PICTURE, sizeof(key)); /* in front of the others */
	make_lmdb(dir.path, key, sizeof(key), "", 1);
	cache = open_cache(dir.path, 0);
	reader = open_reader(cache);
	assert_int_equal(cache_check(reader, count_damaged, NULL, &damaged, &counts, &err), ERR_CORRUPT);
	assert_int_equal(cache_list(reader, &last, listed, 8, &count, &err), ERR_CORRUPT);
	cache_reader_close(reader);
	cache_close(cache);
	scratch_close(&dir);
}

static void test_foreign_lmdb(void **state)
{
	static const struct {
		uint32_t version;
		const char *word;
	} cases[] = { { CACHE_LAYOUT_VERSION + 1, "newer" }, { CACHE_LAYOUT_VERSION - 1, "older" } };
	struct scratch dir;
	struct err err;

	(void)state;
	scratch_open(&dir);
	make_lmdb(dir.path, "hello", 5, "world", 5);
	assert_int_equal(open_fails(dir.path, &err), ERR_CORRUPT);
	assert_non_null(strstr(err.message, "not a cache of preprocessd"));
	scratch_close(&dir);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct cache_meta meta = { .magic = CACHE_META_MAGIC, .layout_version = cases[i].version };

		scratch_open(&dir);
		make_lmdb(dir.path, CACHE_META_KEY, sizeof(CACHE_META_KEY) - 1, &meta, sizeof(meta));
		assert_int_equal(open_fails(dir.path, &err), ERR_CORRUPT);
		assert_non_null(strstr(err.message, cases[i].word));
		scratch_close(&dir);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_read_parts),
		cmocka_unit_test(test_flipped_byte),
		cmocka_unit_test(test_every_header_byte_is_guarded),
		cmocka_unit_test(test_truncated_file),
		cmocka_unit_test(test_foreign_files),
		cmocka_unit_test(test_foreign_lmdb),
		cmocka_unit_test(test_impossible_key),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
