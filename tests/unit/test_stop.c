#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

#include "shared/base/stop.h"

static void wait_ms(int ms)
{
	nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L }, NULL);
}

static void soon_is_the_same_later_is_another(void **state)
{
	(void)state;
	assert_false(stop_is_repeated());
	assert_false(stop_is_repeated());
	wait_ms(STOP_APART_MS / 2);
	assert_false(stop_is_repeated());
	wait_ms(STOP_APART_MS / 2 + 10);
	assert_true(stop_is_repeated());
	assert_true(stop_is_repeated());
}

static void ignored_as_nohup_does(void **state)
{
	(void)state;
	signal(SIGHUP, SIG_IGN);
	assert_true(stop_is_ignored(SIGHUP));
	signal(SIGHUP, SIG_DFL);
	assert_false(stop_is_ignored(SIGHUP));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(soon_is_the_same_later_is_another),
		cmocka_unit_test(ignored_as_nohup_does),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
