/* test_writeback.c - the kernel is asked to begin with a file while a commit runs, and never after. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

#include "preprocessd/store/writeback.h"
#include "shared/base/clock.h"

enum { FILE_NUMBER = 12345, TURNS = 50 };

static const struct timespec MOMENT = { 0, 3000000 };

static atomic_int calls, inside, wrong;

/* In the place of libc's. Takes its time, as a disk that has much to do. */
int sync_file_range(int fd, off64_t offset, off64_t bytes, unsigned flags)
{
	(void)flags;
	atomic_store(&inside, 1);
	if (fd != FILE_NUMBER || offset != 0 || bytes != 0)
		atomic_fetch_add(&wrong, 1);
	nanosleep(&MOMENT, NULL);
	atomic_fetch_add(&calls, 1);
	atomic_store(&inside, 0);
	return -1;
}

static void wait_for_calls(int count)
{
	double until = clock_seconds() + 60;

	while (atomic_load(&calls) < count) {
		assert_true(clock_seconds() < until);
		nanosleep(&MOMENT, NULL);
	}
}

static void test_asks_while_a_commit_runs(void **state)
{
	struct writeback *w;
	struct err err;

	(void)state;
	assert_int_equal(writeback_open(&w, &err), 0);
	nanosleep(&MOMENT, NULL);
	assert_int_equal(atomic_load(&calls), 0);
	for (int turn = 0; turn < TURNS; turn++) {
		writeback_begin(w, FILE_NUMBER);
		wait_for_calls(atomic_load(&calls) + turn % 3);
		writeback_end(w);
		assert_int_equal(atomic_load(&inside), 0);

		int before = atomic_load(&calls);

		nanosleep(&MOMENT, NULL);
		assert_int_equal(atomic_load(&calls), before);
	}
	assert_true(atomic_load(&calls) >= TURNS);
	assert_int_equal(atomic_load(&wrong), 0);
	writeback_close(w);
}

static void test_ends_while_it_asks(void **state)
{
	struct writeback *w;
	struct err err;

	(void)state;
	assert_int_equal(writeback_open(&w, &err), 0);
	writeback_begin(w, FILE_NUMBER);
	writeback_close(w);
	assert_int_equal(atomic_load(&inside), 0);
	assert_int_equal(writeback_open(&w, &err), 0);
	writeback_close(w);
	writeback_close(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_asks_while_a_commit_runs),
		cmocka_unit_test(test_ends_while_it_asks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
