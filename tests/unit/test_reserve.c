/* reserve.h: memory for batches that is there beforehand, whoever takes it and whenever. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "preprocessd/pipeline/pipeline.h"
#include "preprocessd/pipeline/reserve.h"
#include "tests/support/scratch.h"

enum { POOL_BYTES = 80 << 20, SLOT_BYTES = 24 << 20, WAIT_MS = 10000, NAP_MS = 10, BLOCK_BYTES = 512 };

struct fixture {
	struct scratch scratch;
	struct cache *cache;
	struct pipeline *pipeline;
};

static void post(void *context, struct completion *completion)
{
	(void)context;
	(void)completion;
}

static void fixture_open(struct fixture *fixture)
{
	struct cache_options cache = { 0 };
	struct pipeline_options options = { .workers = 2, .post = post };
	struct err err;

	scratch_open(&fixture->scratch);
	cache.path = fixture->scratch.path;
	if (cache_open(&fixture->cache, &cache, &err) != 0)
		fail_msg("%s", err.message);
	options.cache = fixture->cache;
	if (pipeline_open(&fixture->pipeline, &options, &err) != 0)
		fail_msg("%s", err.message);
}

static void fixture_close(struct fixture *fixture)
{
	pipeline_close(fixture->pipeline);
	cache_close(fixture->cache);
	scratch_close(&fixture->scratch);
}

/* Takes memory, checks that it is as large as asked for and no fewer pages are there than promised. */
static int take(struct fixture *fixture, uint64_t bytes, uint64_t slot_bytes, uint64_t *ready)
{
	struct err err;
	struct stat info;
	int fd;

	if (reserve_take(fixture->pipeline->reserve, bytes, slot_bytes, &fd, ready, &err) != 0)
		fail_msg("%s", err.message);
	assert_int_equal(fstat(fd, &info), 0);
	assert_int_equal(info.st_size, bytes);
	assert_true(*ready <= bytes);
	assert_true((uint64_t)info.st_blocks * BLOCK_BYTES >= *ready);
	return fd;
}

static void expect_zeros(int fd, uint64_t bytes)
{
	static const uint8_t zeros[1 << 16];
	static uint8_t got[1 << 16];

	for (uint64_t at = 0; at < bytes; at += sizeof(got)) {
		size_t size = bytes - at < sizeof(got) ? (size_t)(bytes - at) : sizeof(got);

		assert_int_equal(pread(fd, got, size, (off_t)at), size);
		assert_memory_equal(got, zeros, size);
	}
}

/* Until all that the last stream asked for is in store: the one after finds it. */
static void expect_filled(struct fixture *fixture, uint64_t slot_bytes, uint64_t expected)
{
	uint64_t ready = 0;

	for (int ms = NAP_MS; ms < WAIT_MS && ready < expected; ms *= 2) {
		reserve_refill(fixture->pipeline->reserve);
		nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L }, NULL);
		int fd = take(fixture, POOL_BYTES, slot_bytes, &ready);
		if (ready >= expected) {
			static const char mark[] = "what a client sees is in its own memory alone";

			expect_zeros(fd, POOL_BYTES);
			assert_int_equal(pwrite(fd, mark, sizeof(mark), 0), sizeof(mark));
		}
		close(fd);
	}
	assert_int_equal(ready, expected);
}

static void test_filled_beforehand(void **state)
{
	struct fixture fixture;
	uint64_t ready;

	(void)state;
	fixture_open(&fixture);
	expect_filled(&fixture, SLOT_BYTES, RESERVE_FIRST_BYTES);
	/* Taken, and not made again before somebody says so. */
	close(take(&fixture, POOL_BYTES, SLOT_BYTES, &ready));
	assert_int_equal(ready, 0);
	/* As much as the last stream's slot, but not without end, and not less than a usual one. */
	expect_filled(&fixture, SLOT_BYTES, SLOT_BYTES);
	close(take(&fixture, POOL_BYTES, (uint64_t)RESERVE_BYTES_MAX * 4, &ready));
	expect_filled(&fixture, RESERVE_BYTES_MAX, RESERVE_BYTES_MAX);
	close(take(&fixture, POOL_BYTES, 1, &ready));
	expect_filled(&fixture, 1, RESERVE_FIRST_BYTES);
	fixture_close(&fixture);
}

/* Less is asked for than is there; and the pipeline ends while workers fill. */
static void test_small_pools_and_a_sudden_end(void **state)
{
	struct fixture fixture;
	uint64_t ready;

	(void)state;
	fixture_open(&fixture);
	nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
	for (int i = 0; i < 50; i++) {
		int fd = take(&fixture, 8192, 4096, &ready);

		expect_zeros(fd, 8192);
		close(fd);
		reserve_refill(fixture.pipeline->reserve);
	}
	fixture_close(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_filled_beforehand),
		cmocka_unit_test(test_small_pools_and_a_sudden_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
