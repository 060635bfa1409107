/*
 * How the cache's index grows: synthetic records through the store's own code, and what one more
 * put, one lookup and one miss take at ever larger counts. Started by bench_growth.py:
 *
 *     bench_index --cache DIR [--records N]
 *
 * A record is what a caption of COCO leaves: 14 ids under a key of two hashes, in an order that has nothing to do with
 * the keys', which is the hardest for a tree. Prints one JSON object a line: the count reached, microseconds a put
 * (durable: the commits are in it), of a lookup that finds and checks a record (the median), of one that finds nothing,
 * the file, and the process's own memory (without the map's pages).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "preprocessd/store/cache.h"
#include "shared/base/args.h"
#include "shared/base/clock.h"
#include "shared/base/fs.h"
#include "shared/base/mem.h"
#include "shared/base/rng.h"

enum { IDS = 14, LOOKUPS = 20000, FIRST_COUNT = 10000, LOOKUP_STREAM = 78 };

static void key_of(struct cache_key *key, uint64_t number)
{
	static const struct hash vocab = { { 7 } };
	struct hash hash;

	hash_bytes(&hash, &number, sizeof(number));
	cache_key_hashes(key, CACHE_TOKENS, &hash, &vocab);
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* RssAnon + RssShmem of this process, in bytes: what is resident but the pages of mapped files. */
static double own_memory(void)
{
	double kib = 0, value;
	char line[128];
	FILE *file = fopen("/proc/self/status", "r");

	while (file != NULL && fgets(line, sizeof(line), file) != NULL)
		if (sscanf(line, "RssAnon: %lf", &value) == 1 || sscanf(line, "RssShmem: %lf", &value) == 1)
			kib += value;
	if (file != NULL)
		fclose(file);
	return kib * 1024;
}

static void put_done(void *context, int code, const struct err *err)
{
	struct err *failure = context;

	if (code != 0)
		*failure = *err;
}

static int put_range(struct cache *cache, uint64_t first, uint64_t end, struct err *err)
{
	struct err failure = { .code = 0 };
	int32_t ids[IDS];
	struct cache_key key;
	int code = 0;

	for (uint64_t i = first; i < end; i++) {
		for (int k = 0; k < IDS; k++)
			ids[k] = (int32_t)(i + (uint64_t)k);
		key_of(&key, i);
		code = cache_put(cache, &key, ids, sizeof(ids), put_done, &failure, err);
		if (code != 0)
			break;
	}
	cache_flush(cache); /* put_done() writes here */
	if (code == 0 && (code = failure.code) != 0)
		*err = failure;
	return code;
}

/* The median of looking up records among the first count, or beyond them all. */
static int look_up(struct cache_reader *reader, uint64_t count, bool there, double *median, struct err *err)
{
	double *seconds = mem_array(LOOKUPS, sizeof(*seconds));
	struct buf found = BUF_INIT;
	struct cache_key key;
	int code = seconds == NULL ? err_nomem(err, LOOKUPS * sizeof(*seconds)) : 0;

	for (uint32_t i = 0; i < LOOKUPS && code == 0; i++) {
		struct rng_block block = rng_philox(rng_key(count, LOOKUP_STREAM), i, there, 0, 0);
		uint64_t number = (((uint64_t)block.v[0] << 32) | block.v[1]) % count;

		key_of(&key, there ? number : ~number);
		buf_clear(&found);
		double started = clock_seconds();
		code = cache_read_copy(reader, &key, &found, err);
		seconds[i] = clock_seconds() - started;
		if (code == ERR_NOTFOUND && !there)
			code = 0;
		else if (code == 0 && (!there || ((const int32_t *)(const void *)found.data)[0] != (int32_t)number))
			code = err_set(err, ERR_CORRUPT, "record %llu is not what was put", (unsigned long long)number);
	}
	if (code == 0) {
		qsort(seconds, LOOKUPS, sizeof(*seconds), by_size);
		*median = seconds[LOOKUPS / 2];
	}
	mem_free(seconds);
	buf_free(&found);
	return code;
}

static int measure(struct cache *cache, uint64_t records, struct err *err)
{
	struct cache_reader *reader;
	struct cache_stats stats;
	uint64_t before = 0, count = records < FIRST_COUNT ? records : FIRST_COUNT;
	double found = 0, missed = 0;
	int code = cache_reader_open(&reader, cache, err);

	while (code == 0) {
		double started = clock_seconds();

		code = put_range(cache, before, count, err);
		double put = (clock_seconds() - started) / (double)(count - before);
		if (code == 0)
			code = look_up(reader, count, true, &found, err);
		if (code == 0)
			code = look_up(reader, count, false, &missed, err);
		if (code != 0)
			break;
		cache_stats(cache, &stats);
		printf("{\"records\": %llu, \"put_us\": %.3f, \"found_us\": %.3f, \"missed_us\": %.3f, \"file_bytes\": %llu, "
		       "\"memory_bytes\": %.0f, \"commits\": %llu}\n", (unsigned long long)stats.records, put * 1e6, found * 1e6,
		       missed * 1e6, (unsigned long long)stats.file_bytes, own_memory(), (unsigned long long)stats.commits);
		fflush(stdout);
		if (count == records)
			break;
		before = count;
		count = count * 10 < records ? count * 10 : records;
	}
	cache_reader_close(reader);
	return code;
}

int main(int argc, char *argv[])
{
	const char *path = NULL;
	int64_t records = 10000000;
	const struct args_option options[] = {
		{ .name = "cache", .kind = ARGS_TEXT, .value = &path, .metavar = "DIR", .help = "An empty folder for the cache." },
		{ .name = "records", .kind = ARGS_INT, .value = &records, .metavar = "N", .min = 1, .max = INT64_C(1000000000),
		  .help = "How many in the end (default 10,000,000)." },
	};
	const struct args_spec spec = {
		.usage = "bench_index --cache DIR [--records N]", .description = "Puts synthetic records into a cache and looks them up.",
		.options = options, .option_count = ARRAY_LEN(options),
	};
	struct args_result result;
	struct cache *cache = NULL;
	struct err err = { 0 };
	int code = args_parse(&spec, argc - 1, argv + 1, &result, &err);

	if (code == 0 && result.help) {
		args_print_help(&spec);
		return 0;
	}
	if (code == 0 && path == NULL)
		code = err_set(&err, ERR_USAGE, "--cache is missing: an empty folder");
	struct cache_options cache_options = { .path = path };
	if (code == 0)
		code = cache_open(&cache, &cache_options, &err);
	if (code == 0)
		code = measure(cache, (uint64_t)records, &err);
	cache_close(cache);
	if (code != 0)
		fprintf(stderr, "bench_index: %s\n", err.message);
	return err_exit_code(code);
}
