/*
 * cache_records.h - records that follow from a number, put into a cache and held against what comes back.
 *
 * What cannot be done fails the running cmocka test. Put failures are those of flush.h.
 */
#ifndef TESTS_SUPPORT_CACHE_RECORDS_H
#define TESTS_SUPPORT_CACHE_RECORDS_H

#include <stdint.h>
#include <sys/types.h>

#include "preprocessd/store/cache.h"

enum { PICTURE_BYTES = 150528, FIRST_MAP_BYTES = 256 << 10 };

void key_of(struct cache_key *key, enum cache_kind kind, uint64_t number);
/* Bytes that follow from number and size alone. */
void fill(uint8_t *out, size_t size, uint64_t number);

struct cache *open_cache(const char *path, uint64_t max_bytes);
/* The code with which it does. */
int open_fails(const char *path, struct err *err);
struct cache_reader *open_reader(struct cache *cache);

void put(struct cache *cache, enum cache_kind kind, uint64_t number, size_t size);
void flush(struct cache *cache);
/* For cache_read(): whether it is that record, aligned. */
struct expected {
	uint64_t number;
	size_t size;
	bool right;
};
int visit_compare(void *context, const void *payload, size_t size, uint64_t checksum, struct err *err);
/* 0 if the record is there, whole, aligned and right. */
int get(struct cache_reader *reader, enum cache_kind kind, uint64_t number, size_t size, struct err *err);
void expect(struct cache_reader *reader, enum cache_kind kind, uint64_t number, size_t size);
/* For cache_check(); context: an int. */
void count_damaged(void *context, const struct cache_key *key, const struct err *reason);

/* Runs this program again with the words given: after a fork alone, a failing assertion
 * would go on with the other tests in the child. fd3 is its descriptor 3; -1: none. */
pid_t start_self(const char *verb, const char *path, const char *number, int fd3);

#endif
