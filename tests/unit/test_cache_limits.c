/* cache.h: files that grow, that may grow no further, and disks that are full. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "shared/base/mem.h"
#include "tests/support/cache_records.h"
#include "tests/support/flush.h"
#include "tests/support/scratch.h"

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

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_grows_beyond_first_map),
		cmocka_unit_test(test_max_bytes),
		cmocka_unit_test(test_deletes_when_full),
		cmocka_unit_test(test_full_spares_small_neighbours),
		cmocka_unit_test(test_file_size_limit),
		cmocka_unit_test_setup_teardown(test_full_disk, small_disk_setup, small_disk_teardown),
		cmocka_unit_test(test_put_lent),
	};

	if (argc > 2 && strcmp(argv[1], "limit") == 0)
		return child_with_limit(argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
