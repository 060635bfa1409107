/* cache.h: what is put comes back, to many readers at a time, and after a process that was killed. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "preprocessd/store/internal.h"
#include "shared/base/mem.h"
#include "shared/base/rng.h"
#include "tests/support/cache_records.h"
#include "tests/support/flush.h"
#include "tests/support/scratch.h"

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
		cmocka_unit_test(test_second_daemon),
		cmocka_unit_test(test_second_daemon_by_a_link),
		cmocka_unit_test(test_reopen),
		cmocka_unit_test(test_readers_and_growth),
		cmocka_unit_test(test_kill),
	};

	if (argc > 3 && strcmp(argv[1], "write") == 0)
		write_forever(argv[2], strtoull(argv[3], NULL, 10));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
