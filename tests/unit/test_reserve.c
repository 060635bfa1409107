/* reserve.h: memory for batches that is there beforehand, whoever takes it and whenever. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "preprocessd/pipeline/reserve.h"

enum { POOL_BYTES = 80 << 20, SLOT_BYTES = 24 << 20, WAIT_MS = 10000, NAP_MS = 10, BLOCK_BYTES = 512 };

static struct reserve *open_reserve(void)
{
	struct reserve *reserve;
	struct err err;

	if (reserve_open(&reserve, &err) != 0)
		fail_msg("%s", err.message);
	return reserve;
}

/* Takes memory, checks that it is as large as asked for and no fewer pages are there than promised. */
static int take(struct reserve *reserve, uint64_t bytes, uint64_t slot_bytes, uint64_t *ready)
{
	struct err err;
	struct stat info;
	int fd;

	if (reserve_take(reserve, bytes, slot_bytes, &fd, ready, &err) != 0)
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
static void expect_filled(struct reserve *reserve, uint64_t slot_bytes, uint64_t expected)
{
	uint64_t ready = 0;

	for (int ms = NAP_MS; ms < WAIT_MS && ready < expected; ms *= 2) {
		reserve_refill(reserve);
		nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L }, NULL);
		int fd = take(reserve, POOL_BYTES, slot_bytes, &ready);
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
	struct reserve *reserve = open_reserve();
	uint64_t ready;

	(void)state;
	expect_filled(reserve, 1, RESERVE_FIRST_BYTES);
	/* Taken, and not made again before somebody says so. */
	close(take(reserve, POOL_BYTES, SLOT_BYTES, &ready));
	assert_int_equal(ready, 0);
	/* As much as the last stream's slot, but not without end, and not less than a usual one. */
	expect_filled(reserve, SLOT_BYTES, SLOT_BYTES);
	close(take(reserve, POOL_BYTES, (uint64_t)RESERVE_BYTES_MAX * 4, &ready));
	expect_filled(reserve, RESERVE_BYTES_MAX, RESERVE_BYTES_MAX);
	close(take(reserve, POOL_BYTES, 1, &ready));
	expect_filled(reserve, 1, RESERVE_FIRST_BYTES);
	reserve_close(reserve);
}

/* Less is asked for than is there; and the end comes while it is being filled. */
static void test_small_pools_and_a_sudden_end(void **state)
{
	struct reserve *reserve = open_reserve();
	uint64_t ready;

	(void)state;
	nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
	for (int i = 0; i < 50; i++) {
		int fd = take(reserve, 8192, 4096, &ready);

		expect_zeros(fd, 8192);
		close(fd);
		reserve_refill(reserve);
	}
	reserve_close(reserve);
}

struct item {
	struct reserve_return back;
	int *count;
};

static void release(struct reserve_return *item)
{
	++*((struct item *)(void *)item)->count;
}

/* All that was given back is freed before the end, once. */
static void test_given_back(void **state)
{
	enum { ITEMS = 100 };
	struct reserve *reserve = open_reserve();
	struct item items[ITEMS];
	int count = 0;

	(void)state;
	for (int i = 0; i < ITEMS; i++) {
		items[i] = (struct item){ .back = { .release = release }, .count = &count };
		reserve_give_back(reserve, &items[i].back);
	}
	reserve_close(reserve);
	assert_int_equal(count, ITEMS);
}

static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER;
static _Atomic bool in_hands;

static void release_when_not_busy(struct reserve_return *item)
{
	in_hands = true;
	pthread_mutex_lock(&busy);
	pthread_mutex_unlock(&busy);
	release(item);
}

static void release_at_priority(struct reserve_return *item)
{
	*((struct item *)(void *)item)->count = getpriority(PRIO_PROCESS, 0);
}

/* The thread that frees gets its share of a busy processor; while it comes to nothing all the same, whoever takes memory frees it. */
static void test_given_back_faster_than_freed(void **state)
{
	enum { ITEMS = 20, ITEM_BYTES = RESERVE_WAITING_BYTES_MAX / 8 };
	struct reserve *reserve = open_reserve();
	int stuck = 0, count = 0, priority = -1;
	struct item first = { .back = { .release = release_when_not_busy, .bytes = ITEM_BYTES }, .count = &stuck };
	struct item last = { .back = { .release = release_at_priority }, .count = &priority };
	struct item items[ITEMS];
	uint64_t ready;

	(void)state;
	pthread_mutex_lock(&busy);
	reserve_give_back(reserve, &first.back);
	while (!in_hands)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	for (int i = 0; i < ITEMS; i++) {
		items[i] = (struct item){ .back = { .release = release, .bytes = ITEM_BYTES }, .count = &count };
		reserve_give_back(reserve, &items[i].back);
	}
	assert_int_equal(count, 0);
	close(take(reserve, 8192, 4096, &ready));
	assert_int_equal(count, ITEMS - 8);
	close(take(reserve, 8192, 4096, &ready));
	assert_int_equal(count, ITEMS - 8);
	reserve_give_back(reserve, &last.back);
	pthread_mutex_unlock(&busy);
	reserve_close(reserve);
	assert_int_equal(count, ITEMS);
	assert_int_equal(stuck, 1);
	assert_int_equal(priority, getpriority(PRIO_PROCESS, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_filled_beforehand),
		cmocka_unit_test(test_small_pools_and_a_sudden_end),
		cmocka_unit_test(test_given_back),
		cmocka_unit_test(test_given_back_faster_than_freed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
