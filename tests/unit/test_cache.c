/* cache.h: what is put comes back, whatever happens to process, disk and file. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <lmdb.h>

#include "preprocessd/store/cache.h"
#include "preprocessd/store/internal.h"
#include "shared/base/mem.h"
#include "shared/base/rng.h"
#include "tests/support/flush.h"
#include "tests/support/scratch.h"

enum { PICTURE_BYTES = 150528, FIRST_MAP_BYTES = 256 << 10 };

static void key_of(struct cache_key *key, enum cache_kind kind, uint64_t number)
{
	struct hash hash;

	hash_bytes(&hash, &number, sizeof(number));
	cache_key_hashes(key, kind, &hash, NULL);
}

/* Bytes that follow from number and size alone. */
static void fill(uint8_t *out, size_t size, uint64_t number)
{
	for (size_t i = 0; i < size; i += 16) {
		struct rng_block block = rng_philox(rng_key(number, 99), (uint32_t)i, 0, 0, 0);

		memcpy(out + i, block.v, size - i < 16 ? size - i : 16);
	}
}

static struct cache *open_cache(const char *path, uint64_t max_bytes)
{
	struct cache_options options = { .path = path, .max_bytes = max_bytes, .first_map_bytes = FIRST_MAP_BYTES };
	struct cache *cache;
	struct err err;

	if (cache_open(&cache, &options, &err) != 0)
		fail_msg("%s", err.message);
	return cache;
}

static int open_fails(const char *path, struct err *err)
{
	struct cache_options options = { .path = path };
	struct cache *cache;
	int code = cache_open(&cache, &options, err);

	assert_int_not_equal(code, 0);
	assert_null(cache);
	return code;
}

static struct cache_reader *open_reader(struct cache *cache)
{
	struct cache_reader *reader;
	struct err err;

	if (cache_reader_open(&reader, cache, &err) != 0)
		fail_msg("%s", err.message);
	return reader;
}

static void put(struct cache *cache, enum cache_kind kind, uint64_t number, size_t size)
{
	uint8_t *bytes = mem_alloc(size);
	struct cache_key key;
	struct err err;

	fill(bytes, size, number);
	key_of(&key, kind, number);
	if (cache_put(cache, &key, bytes, size, note_failure, NULL, &err) != 0)
		fail_msg("%s", err.message);
	mem_free(bytes);
}

static void flush(struct cache *cache)
{
	if (try_flush(cache) != 0)
		fail_msg("%s", failure.message);
}

struct expected {
	uint64_t number;
	size_t size;
	bool right;
};

static int visit_compare(void *context, const void *payload, size_t size, uint64_t checksum, struct err *err)
{
	struct expected *expected = context;
	uint8_t *bytes = mem_alloc(size);

	(void)err;
	fill(bytes, size, expected->number);
	expected->right = size == expected->size && (uintptr_t)payload % 64 == 0 && memcmp(payload, bytes, size) == 0 &&
			  checksum == hash_checksum(bytes, size);
	mem_free(bytes);
	return 0;
}

/* 0 if the record is there, whole, aligned and right. */
static int get(struct cache_reader *reader, enum cache_kind kind, uint64_t number, size_t size, struct err *err)
{
	struct expected expected = { number, size, false };
	struct cache_key key;

	key_of(&key, kind, number);
	int code = cache_read(reader, &key, true, visit_compare, &expected, err);
	if (code == 0 && !expected.right)
		return err_set(err, ERR_MISMATCH, "record %llu is wrong", (unsigned long long)number);
	return code;
}

static void expect(struct cache_reader *reader, enum cache_kind kind, uint64_t number, size_t size)
{
	struct err err = { 0 };

	if (get(reader, kind, number, size, &err) != 0)
		fail_msg("record %llu of %zu bytes: %s (%s)", (unsigned long long)number, size, err.message, err_name(err.code));
}

/* --- the plain cases ------------------------------------------------------------ */

static void test_put_get_replace_delete(void **state)
{
	static const size_t sizes[] = { 0, 1, 2, 3, 63, 64, 65, 500, 1900, 1950, 2000, 2100, 4096, 10000, PICTURE_BYTES, 3 << 20 };
	struct cache_key key;
	struct scratch dir;
	struct err err;

	(void)state;
	scratch_open(&dir);
	struct cache *cache = open_cache(dir.path, 0);
	struct cache_reader *reader = open_reader(cache);
	assert_int_equal(get(reader, CACHE_PICTURE, 0, 0, &err), ERR_NOTFOUND);
	assert_string_equal(err.message, "");
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		put(cache, CACHE_PICTURE, i, sizes[i]);
	flush(cache);
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		expect(reader, CACHE_PICTURE, i, sizes[i]);
	/* the same key under another kind is another record */
	assert_int_equal(get(reader, CACHE_TOKENS, 1, 1, &err), ERR_NOTFOUND);
	key_of(&key, CACHE_PICTURE, 3);
	assert_true(cache_has(reader, &key));
	assert_int_equal(cache_put(cache, &key, "other", 5, note_failure, NULL, &err), 0);
	flush(cache);
	struct buf copy = BUF_INIT;
	assert_int_equal(cache_read_copy(reader, &key, &copy, &err), 0);
	assert_int_equal(copy.size, 5);
	assert_memory_equal(copy.data, "other", 5);
	buf_free(&copy);
	assert_int_equal(cache_delete(cache, &key, note_failure, NULL, &err), 0);
	assert_int_equal(cache_delete(cache, &key, note_failure, NULL, &err), 0); /* nothing there is fine */
	flush(cache);
	assert_false(cache_has(reader, &key));
	struct cache_stats stats;
	cache_stats(cache, &stats);
	assert_true(stats.records == ARRAY_LEN(sizes) - 1);
	assert_true(stats.used_bytes > 3 << 20 && stats.file_bytes >= stats.used_bytes && stats.map_bytes >= stats.file_bytes);
	cache_reader_close(reader);
	cache_close(cache);
	scratch_close(&dir);
}

static int visit_refuse(void *context, const void *payload, size_t size, uint64_t checksum, struct err *err)
{
	(void)context;
	(void)payload;
	(void)size;
	(void)checksum;
	return err_set(err, ERR_CANCELLED, "no");
}

static void test_visit_code_comes_back(void **state)
{
	struct scratch dir;
	struct cache_key key;
	struct err err;

	(void)state;
	scratch_open(&dir);
	struct cache *cache = open_cache(dir.path, 0);
	struct cache_reader *reader = open_reader(cache);
	put(cache, CACHE_TOKENS, 1, 10);
	flush(cache);
	key_of(&key, CACHE_TOKENS, 1);
	assert_int_equal(cache_read(reader, &key, true, visit_refuse, NULL, &err), ERR_CANCELLED);
	expect(reader, CACHE_TOKENS, 1, 10); /* and the gate was left */
	cache_reader_close(reader);
	cache_close(cache);
	scratch_close(&dir);
}

static void test_close_commits(void **state)
{
	struct scratch dir;

	(void)state;
	scratch_open(&dir);
	struct cache *cache = open_cache(dir.path, 0);
	for (uint64_t i = 0; i < 500; i++)
		put(cache, CACHE_TOKENS, i, 100);
	cache_close(cache);
	cache_close(NULL);
	cache_reader_close(NULL);
	cache = open_cache(dir.path, 0);
	struct cache_reader *reader = open_reader(cache);
	for (uint64_t i = 0; i < 500; i++)
		expect(reader, CACHE_TOKENS, i, 100);
	cache_reader_close(reader);
	cache_close(cache);
	scratch_close(&dir);
}

static void test_apply(void **state)
{
	struct scratch dir;
	struct err err;
	struct cache_change changes[3] = { { .payload = "one", .size = 3 }, { .payload = "two", .size = 3 }, { .payload = NULL } };
	struct buf copy = BUF_INIT;

	(void)state;
	scratch_open(&dir);
	struct cache *cache = open_cache(dir.path, 0);
	struct cache_reader *reader = open_reader(cache);
	put(cache, CACHE_TOKENS, 7, 20);
	assert_int_equal(cache_key_name(&changes[0].key, CACHE_DATASET, "a", &err), 0);
	assert_int_equal(cache_key_name(&changes[1].key, CACHE_DATASET, "b", &err), 0);
	key_of(&changes[2].key, CACHE_TOKENS, 7);
	assert_int_equal(cache_apply(cache, changes, 3, &err), 0);
	assert_int_equal(cache_read_copy(reader, &changes[1].key, &copy, &err), 0);
	assert_string_equal(copy.data, "two");
	assert_false(cache_has(reader, &changes[2].key));
	/* all or none: one record that cannot be stored keeps the other out */
	changes[0].payload = "new";
	changes[1].size = (size_t)CACHE_RECORD_BYTES_MAX;
	assert_int_equal(cache_apply(cache, changes, 2, &err), ERR_LIMIT);
	buf_clear(&copy);
	assert_int_equal(cache_read_copy(reader, &changes[0].key, &copy, &err), 0);
	assert_string_equal(copy.data, "one");
	buf_free(&copy);
	cache_reader_close(reader);
	cache_close(cache);
	scratch_close(&dir);
}

static void test_names(void **state)
{
	char longest[CACHE_NAME_BYTES_MAX + 2];
	struct cache_key key;
	struct err err;

	(void)state;
	memset(longest, 'x', sizeof(longest));
	longest[CACHE_NAME_BYTES_MAX + 1] = '\0';
	assert_int_equal(cache_key_name(&key, CACHE_DATASET, longest, &err), ERR_LIMIT);
	longest[CACHE_NAME_BYTES_MAX] = '\0';
	assert_int_equal(cache_key_name(&key, CACHE_DATASET, longest, &err), 0);
	assert_int_equal(cache_key_name(&key, CACHE_DATASET, "", &err), ERR_FORMAT);
	assert_int_equal(cache_key_name(&key, CACHE_DATASET, "a/b", &err), ERR_FORMAT);
	assert_int_equal(cache_key_name(&key, CACHE_DATASET, "a b", &err), ERR_FORMAT);
	assert_int_equal(cache_key_name(&key, CACHE_DATASET, "\xC3\xA9", &err), ERR_FORMAT);
	assert_int_equal(cache_key_name(&key, CACHE_DATASET, "COCO_2017-v1.0", &err), 0);
	assert_memory_equal(key.bytes, "DCOCO_2017-v1.0", 15);
	assert_int_equal(key.size, 15);
}

struct seen {
	int count;
	char last[32];
	bool ordered;
};

static int visit_name(void *context, const uint8_t *name, size_t name_bytes, const void *payload, size_t size, struct err *err)
{
	struct seen *seen = context;
	char text[32];

	(void)err;
	snprintf(text, sizeof(text), "%.*s", (int)name_bytes, (const char *)name);
	seen->ordered = seen->ordered && strcmp(text, seen->last) > 0 && size == name_bytes && memcmp(payload, name, size) == 0;
	memcpy(seen->last, text, sizeof(text));
	return ++seen->count == 1000 ? 5 : 0;
}

static void test_each(void **state)
{
	static const int counts[] = { 0, 1, 63, 64, 65, 128, 200 }; /* around the length of one transaction */
	struct scratch dir;
	struct err err;
	int put_so_far = 0;

	(void)state;
	scratch_open(&dir);
	struct cache *cache = open_cache(dir.path, 0);
	struct cache_reader *reader = open_reader(cache);
	put(cache, CACHE_FEATURES, 1, 30); /* a kind after 'D', and one before */
	put(cache, (enum cache_kind)'C', 1, 30);
	for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
		struct seen seen = { .ordered = true };

		for (; put_so_far < counts[i]; put_so_far++) {
			struct cache_key key;
			char name[16];

			snprintf(name, sizeof(name), "n%04d", put_so_far);
			assert_int_equal(cache_key_name(&key, CACHE_DATASET, name, &err), 0);
			assert_int_equal(cache_put(cache, &key, name, 5, note_failure, NULL, &err), 0);
		}
		flush(cache);
		assert_int_equal(cache_each(reader, CACHE_DATASET, visit_name, &seen, &err), 0);
		assert_int_equal(seen.count, counts[i]);
		assert_true(seen.ordered);
		seen = (struct seen){ .count = 999 };
		assert_int_equal(cache_each(reader, CACHE_DATASET, visit_name, &seen, &err), counts[i] > 0 ? 5 : 0);
	}
	cache_reader_close(reader);
	cache_close(cache);
	scratch_close(&dir);
}

/* --- growth and limits --------------------------------------------------------------- */

static void test_grows_beyond_first_map(void **state)
{
	struct scratch dir;
	struct cache_stats stats;

	(void)state;
	scratch_open(&dir);
	struct cache *cache = open_cache(dir.path, 0);
	struct cache_reader *reader = open_reader(cache);
	put(cache, CACHE_PICTURE, 0, 5 << 20); /* larger than the map, and than its double */
	flush(cache);
	expect(reader, CACHE_PICTURE, 0, 5 << 20);
	for (uint64_t i = 1; i <= 100; i++)
		put(cache, CACHE_PICTURE, i, PICTURE_BYTES);
	flush(cache);
	for (uint64_t i = 1; i <= 100; i++)
		expect(reader, CACHE_PICTURE, i, PICTURE_BYTES);
	cache_stats(cache, &stats);
	assert_true(stats.map_bytes > FIRST_MAP_BYTES && stats.puts == 101 && stats.commits > 0 && stats.commits < 50);
	cache_reader_close(reader);
	cache_close(cache);
	/* and opens again with a first map that is smaller than the file */
	cache = open_cache(dir.path, 0);
	reader = open_reader(cache);
	expect(reader, CACHE_PICTURE, 100, PICTURE_BYTES);
	cache_reader_close(reader);
	cache_close(cache);
	scratch_close(&dir);
}

struct results {
	pthread_mutex_t lock;
	int written, full, other;
	struct err last;
};

static void count_result(void *context, int code, const struct err *err)
{
	struct results *results = context;

	pthread_mutex_lock(&results->lock);
	results->written += code == 0;
	results->full += code == ERR_FULL;
	results->other += code != 0 && code != ERR_FULL;
	if (code != 0)
		results->last = *err;
	pthread_mutex_unlock(&results->lock);
}

static void put_counted(struct cache *cache, uint64_t number, size_t size, struct results *results)
{
	uint8_t *bytes = mem_alloc(size);
	struct cache_key key;
	struct err err;

	fill(bytes, size, number);
	key_of(&key, CACHE_PICTURE, number);
	assert_int_equal(cache_put(cache, &key, bytes, size, count_result, results, &err), 0);
	mem_free(bytes);
}

static void put_lent_counted(struct cache *cache, uint64_t number, size_t size, uint8_t *bytes, struct results *results)
{
	struct cache_key key;
	struct err err;

	fill(bytes, size, number);
	key_of(&key, CACHE_PICTURE, number);
	assert_int_equal(cache_put_lent(cache, &key, bytes, size, hash_checksum(bytes, size), count_result, results, &err), 0);
}

/* Lent payloads, among copied ones, are the records that cache_put makes, and are the caller's again after the callback. */
static void test_put_lent(void **state)
{
	enum { PUTS = 40 };
	struct results results = { .lock = PTHREAD_MUTEX_INITIALIZER };
	struct scratch dir;
	uint8_t *bytes[PUTS];

	(void)state;
	scratch_open(&dir);
	struct cache *cache = open_cache(dir.path, 0);
	struct cache_reader *reader = open_reader(cache);
	for (uint64_t i = 0; i < PUTS; i++) {
		const size_t size = 1 + 4099 * (size_t)i;

		bytes[i] = mem_alloc(size);
		if (i % 3 == 0)
			put_counted(cache, i, size, &results);
		else
			put_lent_counted(cache, i, size, bytes[i], &results);
	}
	flush(cache);
	assert_int_equal(results.written, PUTS);
	for (uint64_t i = 0; i < PUTS; i++) {
		memset(bytes[i], 0, 1 + 4099 * (size_t)i);
		mem_free(bytes[i]);
		expect(reader, CACHE_PICTURE, i, 1 + 4099 * (size_t)i);
	}
	cache_reader_close(reader);
	cache_close(cache);
	scratch_close(&dir);
}

/* Puts beyond a limit: what was acknowledged is there, the rest failed with ERR_FULL. */
static void check_full(struct cache *cache, uint64_t puts, const char *word)
{
	struct results results = { .lock = PTHREAD_MUTEX_INITIALIZER };
	struct cache_reader *reader = open_reader(cache);
	struct err err;
	uint64_t there = 0;

	for (uint64_t i = 0; i < puts; i++)
		put_counted(cache, i, PICTURE_BYTES, &results);
	cache_flush(cache);
	assert_int_equal(results.other, 0);
	assert_int_equal(results.written + results.full, puts);
	assert_true(results.written > 0 && results.full > 0);
	if (strstr(results.last.message, word) == NULL)
		fail_msg("\"%s\" should name %s", results.last.message, word);
	for (uint64_t i = 0; i < puts; i++) {
		int code = get(reader, CACHE_PICTURE, i, PICTURE_BYTES, &err);

		assert_true(code == 0 || code == ERR_NOTFOUND);
		there += code == 0;
	}
	assert_int_equal(there, results.written);
	cache_reader_close(reader);
}

/* Once there is room, writing and deleting go on. */
static void check_recovers(struct cache *cache, uint64_t puts)
{
	struct cache_reader *reader = open_reader(cache);
	struct cache_key key;
	struct err err;

	for (uint64_t i = 0; i < puts; i++) {
		key_of(&key, CACHE_PICTURE, i);
		assert_int_equal(cache_delete(cache, &key, note_failure, NULL, &err), 0);
	}
	flush(cache);
	for (uint64_t i = 0; i < 3; i++)
		put(cache, CACHE_PICTURE, 1000 + i, PICTURE_BYTES);
	flush(cache);
	for (uint64_t i = 0; i < 3; i++)
		expect(reader, CACHE_PICTURE, 1000 + i, PICTURE_BYTES);
	cache_reader_close(reader);
}

static void test_max_bytes(void **state)
{
	struct cache_options options = { .max_bytes = CACHE_LIMIT_BYTES_MIN - 1 };
	struct cache_stats stats;
	struct cache *cache;
	struct scratch dir;
	struct err err;

	(void)state;
	scratch_open(&dir);
	cache = open_cache(dir.path, 4 << 20);
	for (int round = 0; round < 3; round++) {
		check_full(cache, 60, "--max-cache");
		check_recovers(cache, 60); /* deleting is what makes room here */
	}
	cache_stats(cache, &stats);
	assert_true(stats.used_bytes <= 4 << 20);
	assert_true(stats.file_bytes <= (4 << 20) + (1 << 20));
	cache_close(cache);
	options.path = dir.path;
	assert_int_equal(cache_open(&cache, &options, &err), ERR_LIMIT);
	scratch_close(&dir);
}

/* Filled to the last page, a cache can still delete: that needs new pages before it frees any. */
static void test_deletes_when_full(void **state)
{
	enum { RECORDS_MAX = 10000 };
	struct cache_change *changes = mem_array(RECORDS_MAX, sizeof(*changes));
	struct cache_stats stats;
	struct scratch dir;
	struct err err;
	int count = 0, code;

	(void)state;
	scratch_open(&dir);
	struct cache *cache = open_cache(dir.path, CACHE_LIMIT_BYTES_MIN);
	do {
		for (int i = 0; i < 20; i++, count++) {
			key_of(&changes[count].key, CACHE_TOKENS, (uint64_t)count);
			put(cache, CACHE_TOKENS, (uint64_t)count, 100);
		}
	} while ((code = try_flush(cache)) == 0 && count + 20 < RECORDS_MAX);
	assert_int_equal(code, ERR_FULL);
	/* in one transaction, which touches every leaf of the tree */
	if (cache_apply(cache, changes, count, &err) != 0)
		fail_msg("%s", err.message);
	cache_stats(cache, &stats);
	assert_true(stats.records == 0 && stats.map_bytes > 2 * CACHE_LIMIT_BYTES_MIN);
	/* and the room beyond the limit is taken back */
	check_recovers(cache, 1);
	cache_stats(cache, &stats);
	assert_true(stats.file_bytes <= stats.map_bytes && stats.map_bytes < 2 * CACHE_LIMIT_BYTES_MIN);
	cache_close(cache);
	mem_free(changes);
	scratch_close(&dir);
}

/* A batch must not take a small record down with a large one. */
static void test_full_spares_small_neighbours(void **state)
{
	struct results results = { .lock = PTHREAD_MUTEX_INITIALIZER };
	struct scratch dir;

	(void)state;
	scratch_open(&dir);
	struct cache *cache = open_cache(dir.path, 2 << 20);
	struct cache_reader *reader = open_reader(cache);
	put(cache, CACHE_TOKENS, 1, 100);
	put_counted(cache, 2, 3 << 20, &results);
	put(cache, CACHE_TOKENS, 3, 100);
	cache_flush(cache);
	expect(reader, CACHE_TOKENS, 1, 100);
	expect(reader, CACHE_TOKENS, 3, 100);
	assert_int_equal(results.full, 1);
	cache_reader_close(reader);
	cache_close(cache);
	scratch_close(&dir);
}

/* Runs this program again with the words given: after a fork alone, a failing assertion
 * would go on with the other tests in the child. */
static pid_t start_self(const char *verb, const char *path, const char *number, int fd3)
{
	pid_t child = fork();

	assert_true(child >= 0);
	if (child == 0) {
		if (fd3 >= 0)
			dup2(fd3, 3);
		execl("/proc/self/exe", "test_cache", verb, path, number, (char *)NULL);
		_exit(127);
	}
	return child;
}

/* In a process that cannot write beyond a file size, as on a full disk (EFBIG and short writes). */
static int child_with_limit(const char *path)
{
	struct rlimit limit = { 3 << 20, RLIM_INFINITY };

	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_FSIZE, &limit);
	struct cache *cache = open_cache(path, 0);
	check_full(cache, 40, "no space left");
	limit.rlim_cur = RLIM_INFINITY;
	setrlimit(RLIMIT_FSIZE, &limit);
	check_recovers(cache, 40);
	cache_close(cache);
	return 0;
}

static void test_file_size_limit(void **state)
{
	struct scratch dir;
	int status;

	(void)state;
	scratch_open(&dir);
	pid_t child = start_self("limit", dir.path, NULL, -1);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	struct cache *cache = open_cache(dir.path, 0);
	struct cache_reader *reader = open_reader(cache);
	expect(reader, CACHE_PICTURE, 1002, PICTURE_BYTES);
	cache_reader_close(reader);
	cache_close(cache);
	scratch_close(&dir);
}

static int small_disk_setup(void **state)
{
	static struct scratch dir;

	scratch_open(&dir);
	*state = NULL;
	if (mount("tmpfs", dir.path, "tmpfs", 0, "size=4m") == 0)
		*state = &dir;
	else
		scratch_close(&dir);
	return 0;
}

static int small_disk_teardown(void **state)
{
	struct scratch *dir = *state;

	if (dir != NULL) {
		umount2(dir->path, MNT_DETACH);
		scratch_close(dir);
	}
	return 0;
}

static void test_full_disk(void **state)
{
	static char ballast[1 << 20];
	struct scratch *dir = *state;

	if (dir == NULL) {
		fprintf(stderr, "skipped: a small file system cannot be mounted here\n");
		skip();
	}
	scratch_write(dir, "ballast", ballast, sizeof(ballast));
	struct cache *cache = open_cache(dir->path, 0);
	check_full(cache, 40, "no space left");
	assert_int_equal(unlink(scratch_path(dir, "ballast")), 0);
	check_recovers(cache, 40);
	cache_close(cache);
}

/* --- damage ---------------------------------------------------------------------------- */

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

static void count_damaged(void *context, const struct cache_key *key, const struct err *reason)
{
	(void)key;
	assert_int_equal(reason->code, ERR_CORRUPT);
	++*(int *)context;
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

static void test_second_daemon(void **state)
{
	struct scratch dir;
	struct err err;
	char pid[32];

	(void)state;
	scratch_open(&dir);
	struct cache *cache = open_cache(dir.path, 0);
	assert_int_equal(open_fails(dir.path, &err), ERR_BUSY);
	snprintf(pid, sizeof(pid), "process %ld;", (long)getpid());
	assert_non_null(strstr(err.message, pid));
	cache_close(cache);
	cache_close(open_cache(dir.path, 0));
	scratch_close(&dir);
}

/* Two folders and one file: by a symbolic link, or as a backup made of hard links has it. */
static void test_second_daemon_by_a_link(void **state)
{
	struct scratch dir, links[2];
	char file[300], name[300];
	struct err err;

	(void)state;
	scratch_open(&dir);
	struct cache *cache = open_cache(dir.path, 0);
	snprintf(file, sizeof(file), "%s/data.mdb", dir.path);
	for (int i = 0; i < 2; i++) {
		scratch_open(&links[i]);
		snprintf(name, sizeof(name), "%s/data.mdb", links[i].path);
		assert_int_equal(i == 0 ? symlink(file, name) : link(file, name), 0);
		assert_int_equal(open_fails(links[i].path, &err), ERR_BUSY);
		assert_non_null(strstr(err.message, name));
	}
	/* Opening it anew gives the lock up for a moment and takes it again. */
	assert_int_equal(env_reopen(cache, cache->generation, &err), 0);
	assert_int_equal(open_fails(links[0].path, &err), ERR_BUSY);
	cache_close(cache);
	for (int i = 0; i < 2; i++) {
		cache_close(open_cache(links[i].path, 0));
		scratch_close(&links[i]);
	}
	scratch_close(&dir);
}

/* After LMDB has declared its environment broken, it is opened again under the readers' feet. */
static void test_reopen(void **state)
{
	struct scratch dir;
	struct err err;

	(void)state;
	scratch_open(&dir);
	struct cache *cache = open_cache(dir.path, 0);
	struct cache_reader *readers[3];
	for (int i = 0; i < 3; i++)
		readers[i] = open_reader(cache);
	put(cache, CACHE_TOKENS, 1, 100);
	flush(cache);
	for (int i = 0; i < 2; i++)
		expect(readers[i], CACHE_TOKENS, 1, 100);
	assert_int_equal(env_reopen(cache, cache->generation, &err), 0);
	for (int i = 0; i < 3; i++)
		expect(readers[i], CACHE_TOKENS, 1, 100);
	put(cache, CACHE_TOKENS, 2, 100);
	flush(cache);
	for (int i = 0; i < 3; i++) {
		expect(readers[i], CACHE_TOKENS, 2, 100);
		cache_reader_close(readers[i]);
	}
	cache_close(cache);
	scratch_close(&dir);
}

/* --- threads and kills --------------------------------------------------------------------- */

struct reading {
	struct cache *cache;
	_Atomic uint64_t *written;
	uint64_t total;
	int wrong;
	uint64_t reads;
};

static void *read_randomly(void *argument)
{
	struct reading *reading = argument;
	struct cache_reader *reader;
	struct err err;
	uint64_t written = 0;

	if (cache_reader_open(&reader, reading->cache, &err) != 0) {
		reading->wrong++;
		return NULL;
	}
	for (uint32_t i = 0; written < reading->total; i++) {
		written = *reading->written;
		if (written == 0)
			continue;
		struct rng_block r = rng_philox(rng_key((uintptr_t)reading, 98), i, 0, 0, 0);
		uint64_t number = rng_below(r.v[0], r.v[1], written);
		reading->wrong += get(reader, CACHE_PICTURE, number, 1000 + 10 * (size_t)number, &err) != 0;
		reading->reads++;
	}
	cache_reader_close(reader);
	return NULL;
}

static void note_written(void *context, int code, const struct err *err)
{
	(void)err;
	if (code == 0)
		++*(_Atomic uint64_t *)context;
}

static void test_readers_and_growth(void **state)
{
	enum { THREADS = 4, RECORDS = 1500 };
	_Atomic uint64_t written = 0;
	struct reading readings[THREADS];
	pthread_t threads[THREADS];
	struct scratch dir;
	struct cache_stats stats;
	struct err err;

	(void)state;
	scratch_open(&dir);
	struct cache *cache = open_cache(dir.path, 0);
	for (int t = 0; t < THREADS; t++) {
		readings[t] = (struct reading){ .cache = cache, .written = &written, .total = RECORDS };
		assert_int_equal(pthread_create(&threads[t], NULL, read_randomly, &readings[t]), 0);
	}
	for (uint64_t i = 0; i < RECORDS; i++) {
		size_t size = 1000 + 10 * (size_t)i;
		uint8_t *bytes = mem_alloc(size);
		struct cache_key key;

		fill(bytes, size, i);
		key_of(&key, CACHE_PICTURE, i);
		assert_int_equal(cache_put(cache, &key, bytes, size, note_written, &written, &err), 0);
		mem_free(bytes);
		if (i % 50 == 0) {
			flush(cache);
			cache_stats(cache, &stats);
		}
	}
	flush(cache);
	for (int t = 0; t < THREADS; t++) {
		pthread_join(threads[t], NULL);
		assert_int_equal(readings[t].wrong, 0);
		assert_true(readings[t].reads > 0);
	}
	cache_stats(cache, &stats);
	assert_true(stats.records == RECORDS && stats.map_bytes > FIRST_MAP_BYTES);
	cache_close(cache);
	scratch_close(&dir);
}

static void acknowledge(void *context, int code, const struct err *err)
{
	uint64_t number = (uint64_t)(uintptr_t)context;

	(void)err;
	if (code != 0 || write(3, &number, sizeof(number)) != sizeof(number))
		_exit(1);
}

/* Writes records until it is killed, and says through descriptor 3 which are durable. */
static void write_forever(const char *path, uint64_t from)
{
	struct cache *cache = open_cache(path, 0);

	for (uint64_t i = from;; i++) {
		uint8_t bytes[8000];
		size_t size = 100 + i % 50 * 150;
		struct cache_key key;
		struct err err;

		fill(bytes, size, i);
		key_of(&key, CACHE_PICTURE, i);
		if (cache_put(cache, &key, bytes, size, acknowledge, (void *)(uintptr_t)i, &err) != 0)
			_exit(1);
	}
}

static uint64_t kill_once(const struct scratch *dir, uint64_t from, unsigned delay_us)
{
	int ends[2];
	uint64_t number, last;
	char first[32];
	int status;

	assert_int_equal(pipe(ends), 0);
	snprintf(first, sizeof(first), "%llu", (unsigned long long)from);
	pid_t child = start_self("write", dir->path, first, ends[1]);
	close(ends[1]);
	assert_int_equal(read(ends[0], &number, sizeof(number)), sizeof(number));
	last = number + 1;
	usleep(delay_us);
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	while (read(ends[0], &number, sizeof(number)) == sizeof(number))
		last = number + 1;
	close(ends[0]);
	return last;
}

static void test_kill(void **state)
{
	const char *rounds_text = getenv("CACHE_KILLS");
	int rounds = rounds_text != NULL ? atoi(rounds_text) : 8;
	struct scratch dir;
	struct err err;
	uint64_t acknowledged = 0;

	(void)state;
	scratch_open(&dir);
	for (int round = 0; round < rounds; round++) {
		acknowledged = kill_once(&dir, acknowledged, (unsigned)round * 7919 % 60000);
		struct cache *cache = open_cache(dir.path, 0);
		struct cache_reader *reader = open_reader(cache);
		struct cache_check_counts counts;
		int damaged = 0;
		for (uint64_t i = 0; i < acknowledged; i++)
			expect(reader, CACHE_PICTURE, i, 100 + i % 50 * 150);
		assert_int_equal(cache_check(reader, count_damaged, NULL, &damaged, &counts, &err), 0);
		assert_int_equal(damaged, 0);
		cache_reader_close(reader);
		cache_close(cache);
	}
	scratch_close(&dir);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_put_get_replace_delete),
		cmocka_unit_test(test_visit_code_comes_back),
		cmocka_unit_test(test_close_commits),
		cmocka_unit_test(test_apply),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_each),
		cmocka_unit_test(test_grows_beyond_first_map),
		cmocka_unit_test(test_max_bytes),
		cmocka_unit_test(test_deletes_when_full),
		cmocka_unit_test(test_full_spares_small_neighbours),
		cmocka_unit_test(test_file_size_limit),
		cmocka_unit_test_setup_teardown(test_full_disk, small_disk_setup, small_disk_teardown),
		cmocka_unit_test(test_read_parts),
		cmocka_unit_test(test_flipped_byte),
		cmocka_unit_test(test_every_header_byte_is_guarded),
		cmocka_unit_test(test_truncated_file),
		cmocka_unit_test(test_foreign_files),
		cmocka_unit_test(test_foreign_lmdb),
		cmocka_unit_test(test_impossible_key),
		cmocka_unit_test(test_second_daemon),
		cmocka_unit_test(test_second_daemon_by_a_link),
		cmocka_unit_test(test_reopen),
		cmocka_unit_test(test_put_lent),
		cmocka_unit_test(test_readers_and_growth),
		cmocka_unit_test(test_kill),
	};

	if (argc > 2 && strcmp(argv[1], "limit") == 0)
		return child_with_limit(argv[2]);
	if (argc > 3 && strcmp(argv[1], "write") == 0)
		write_forever(argv[2], strtoull(argv[3], NULL, 10));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
