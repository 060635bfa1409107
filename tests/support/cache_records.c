#include "tests/support/cache_records.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "shared/base/mem.h"
#include "shared/base/rng.h"
#include "tests/support/flush.h"

void key_of(struct cache_key *key, enum cache_kind kind, uint64_t number)
{
	struct hash hash;

	hash_bytes(&hash, &number, sizeof(number));
	cache_key_hashes(key, kind, &hash, NULL);
}

void fill(uint8_t *out, size_t size, uint64_t number)
{
	for (size_t i = 0; i < size; i += 16) {
		struct rng_block block = rng_philox(rng_key(number, 99), (uint32_t)i, 0, 0, 0);

		memcpy(out + i, block.v, size - i < 16 ? size - i : 16);
	}
}

struct cache *open_cache(const char *path, uint64_t max_bytes)
{
	struct cache_options options = { .path = path, .max_bytes = max_bytes, .first_map_bytes = FIRST_MAP_BYTES };
	struct cache *cache;
	struct err err;

	if (cache_open(&cache, &options, &err) != 0)
		fail_msg("%s", err.message);
	return cache;
}

int open_fails(const char *path, struct err *err)
{
	struct cache_options options = { .path = path };
	struct cache *cache;
	int code = cache_open(&cache, &options, err);

	assert_int_not_equal(code, 0);
	assert_null(cache);
	return code;
}

struct cache_reader *open_reader(struct cache *cache)
{
	struct cache_reader *reader;
	struct err err;

	if (cache_reader_open(&reader, cache, &err) != 0)
		fail_msg("%s", err.message);
	return reader;
}

void put(struct cache *cache, enum cache_kind kind, uint64_t number, size_t size)
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

void flush(struct cache *cache)
{
	if (try_flush(cache) != 0)
		fail_msg("%s", failure.message);
}

int visit_compare(void *context, const void *payload, size_t size, uint64_t checksum, struct err *err)
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

int get(struct cache_reader *reader, enum cache_kind kind, uint64_t number, size_t size, struct err *err)
{
	struct expected expected = { number, size, false };
	struct cache_key key;

	key_of(&key, kind, number);
	int code = cache_read(reader, &key, true, visit_compare, &expected, err);
	if (code == 0 && !expected.right)
		return err_set(err, ERR_MISMATCH, "record %llu is wrong", (unsigned long long)number);
	return code;
}

void expect(struct cache_reader *reader, enum cache_kind kind, uint64_t number, size_t size)
{
	struct err err = { 0 };

	if (get(reader, kind, number, size, &err) != 0)
		fail_msg("record %llu of %zu bytes: %s (%s)", (unsigned long long)number, size, err.message, err_name(err.code));
}

void count_damaged(void *context, const struct cache_key *key, const struct err *reason)
{
	(void)key;
	assert_int_equal(reason->code, ERR_CORRUPT);
	++*(int *)context;
}

pid_t start_self(const char *verb, const char *path, const char *number, int fd3)
{
	pid_t child = fork();

	assert_true(child >= 0);
	if (child == 0) {
		if (fd3 >= 0)
			dup2(fd3, 3);
		execl("/proc/self/exe", program_invocation_short_name, verb, path, number, (char *)NULL);
		_exit(127);
	}
	return child;
}
