/* The pace of a study: what is left, shared by the runs at work. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <string.h>
#include <unistd.h>

#include "shared/base/log.h"
#include "trainer/study/work.h"

enum { RUNS = 10 };

static struct study_run_options options;

static struct work work_with(struct run_entry *runs, int done, int active, int job_count)
{
	struct work work = { .options = &options, .runs = runs, .run_count = RUNS, .done = done, .job_count = job_count };

	for (int i = 0; i < RUNS; i++)
		runs[i] = (struct run_entry){ .state = i < done ? RUN_DONE : i < done + active ? RUN_ACTIVE : RUN_PENDING, .seconds = 6 };
	for (int j = 0; j < active; j++)
		work.jobs[j] = (struct job){ .active = true, .run = done + j };
	return work;
}

static double eta(int done, int active, int job_count)
{
	struct run_entry runs[RUNS];
	struct work work = work_with(runs, done, active, job_count);

	return view_eta(&work);
}

static void test_nothing_known(void **state)
{
	(void)state;
	assert_true(eta(0, 2, 2) < 0);
}

static void test_both_at_work(void **state)
{
	(void)state;
	assert_true(eta(2, 2, 2) == 8 * 6 / 2);
}

/* Between the end of one run and the start of the next. */
static void test_one_has_just_ended(void **state)
{
	(void)state;
	assert_true(eta(3, 1, 2) == 7.0 * 6 / 2);
	assert_true(eta(4, 0, 2) == 6.0 * 6 / 2);
}

static void test_the_last_works_alone(void **state)
{
	(void)state;
	assert_true(eta(9, 1, 2) == 6);
	assert_true(eta(10, 0, 2) == 0);
}

/* An error's message may be as long as one can be, with paths in it; what is done about it stands behind. */
static void test_notes_are_whole(void **state)
{
	struct work work = { .options = &options };
	char reason[ERR_MESSAGE_BYTES], said[4 * ERR_MESSAGE_BYTES];
	int ends[2], kept = dup(STDERR_FILENO);
	ssize_t got;

	(void)state;
	memset(reason, 'x', sizeof(reason) - 1);
	reason[sizeof(reason) - 1] = '\0';
	assert_int_equal(pipe(ends), 0);
	log_setup("test", LOG_INFO, 0);
	dup2(ends[1], STDERR_FILENO);
	view_note(&work, LOG_WARN, "%s; the run is trained again", reason);
	dup2(kept, STDERR_FILENO);
	got = read(ends[0], said, sizeof(said) - 1);
	close(ends[0]);
	close(ends[1]);
	close(kept);
	assert_true(got > 0);
	said[got] = '\0';
	assert_non_null(strstr(said, reason));
	assert_non_null(strstr(said, "x; the run is trained again\n"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_known),
		cmocka_unit_test(test_both_at_work),
		cmocka_unit_test(test_one_has_just_ended),
		cmocka_unit_test(test_the_last_works_alone),
		cmocka_unit_test(test_notes_are_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
