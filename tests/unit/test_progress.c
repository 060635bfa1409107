#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "shared/base/clock.h"
#include "shared/base/progress.h"

static void seconds_for_people(void **state)
{
	static const struct {
		double seconds;
		const char *text;
	} cases[] = {
		{ 0, "0:00" }, { 7.4, "0:07" }, { 754, "12:34" }, { 10921, "3:02:01" }, { 59.7, "1:00" },
		{ -3, "0:00" }, { 1e300, "999:59:59" },
	};
	char text[16];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		progress_format_seconds(text, cases[i].seconds);
		assert_string_equal(cases[i].text, text);
	}
}

/* Runs one job with standard error in a file; returns what was printed. */
static const char *captured(bool quiet, bool terminal)
{
	static char got[4096];
	struct progress progress;
	FILE *file = tmpfile();

	assert_non_null(file);
	int kept = dup(STDERR_FILENO);
	assert_true(kept >= 0 && dup2(fileno(file), STDERR_FILENO) >= 0);
	progress_begin(&progress, "adding x", 2185, quiet);
	assert_false(progress.terminal);
	progress.terminal = terminal;
	progress_update(&progress, 0, NULL);
	progress.start_s = clock_seconds() - 2;
	progress_update(&progress, 100, NULL);
	progress.last_draw_s -= 11;
	progress_update(&progress, 1021, "3 failed");
	progress_update(&progress, 1022, "3 failed");
	progress_end(&progress, 2185, NULL);
	assert_true(dup2(kept, STDERR_FILENO) >= 0);
	close(kept);
	rewind(file);
	size_t size = fread(got, 1, sizeof(got) - 1, file);
	got[size] = '\0';
	fclose(file);
	return got;
}

static void plain_lines(void **state)
{
	(void)state;
	assert_string_equal("adding x  [########----------]  1021/2185  46%  510/s  ETA 0:02  3 failed\n"
			    "adding x  [##################]  2185/2185  100%  1092/s  0:02\n",
			    captured(false, false));
	assert_string_equal("", captured(true, false));
}

static void terminal_lines(void **state)
{
	const char *got = captured(false, true);

	(void)state;
	assert_memory_equal("\r\033[Kadding x  [------------------]  0/2185  0%", got, 40);
	assert_non_null(strstr(got, "\r\033[Kadding x  [########----------]  1021/2185  46%"));
	/* Redrawn at most ten times a second. */
	assert_null(strstr(got, "1022"));
	assert_string_equal("0:02\n", got + strlen(got) - 5);
}

/* All was done before the first report: no speed was seen, in particular not 0.0/s. */
static void at_once(void **state)
{
	struct progress progress;
	char got[256];
	int pipe_fds[2], kept = dup(STDERR_FILENO);

	(void)state;
	assert_true(kept >= 0 && pipe(pipe_fds) == 0 && dup2(pipe_fds[1], STDERR_FILENO) >= 0);
	progress_begin(&progress, "gc", 327046, false);
	progress_update(&progress, 327046, NULL);
	progress.start_s = clock_seconds() - 2;
	progress_end(&progress, 327046, NULL);
	assert_true(dup2(kept, STDERR_FILENO) >= 0);
	ssize_t size = read(pipe_fds[0], got, sizeof(got) - 1);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	close(kept);
	assert_true(size > 0);
	got[size] = '\0';
	assert_string_equal("gc  [##################]  327046/327046  100%  0:02\n", got);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(seconds_for_people),
		cmocka_unit_test(plain_lines),
		cmocka_unit_test(terminal_lines),
		cmocka_unit_test(at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
