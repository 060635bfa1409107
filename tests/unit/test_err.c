#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <string.h>

#include <cmocka.h>

#include "shared/base/err.h"

enum { PATH_BYTES = 4096 };

/* A path as long as the system allows, of characters of two bytes from an odd place on. */
static const char *long_path(void)
{
	static char path[PATH_BYTES];

	path[0] = '/';
	for (size_t i = 1; i + 1 < sizeof(path); i += 2)
		memcpy(path + i, "\xC3\xA9", 2);
	path[sizeof(path) - 1] = '\0';
	return path;
}

static void assert_ends(const struct err *err, const char *start, const char *end)
{
	const size_t bytes = strlen(err->message);

	assert_true(bytes < sizeof(err->message) && bytes > sizeof(err->message) - 8);
	assert_memory_equal(err->message, start, strlen(start));
	assert_string_equal(err->message + bytes - strlen(end), end);
	/* The gap stands between whole characters. */
	const char *gap = strstr(err->message, "[...]");
	assert_non_null(gap);
	assert_int_equal((unsigned char)gap[-1], 0xA9);
	assert_int_equal((unsigned char)gap[5], 0xC3);
}

static void the_reason_stays(void **state)
{
	struct err err;

	(void)state;
	assert_int_equal(err_set(&err, ERR_FORMAT, "%s: not a regular file", long_path()), ERR_FORMAT);
	assert_ends(&err, "/\xC3\xA9", "\xC3\xA9: not a regular file");
	assert_int_equal(err_errno(&err, EACCES, "a%s", long_path()), ERR_IO);
	assert_ends(&err, "a/\xC3\xA9", "\xC3\xA9: Permission denied");
	assert_int_equal(err_set(&err, ERR_LIMIT, "a file of 7 bytes; the limit is 6"), ERR_LIMIT);
	assert_int_equal(err_prefix(&err, "ab%s", long_path()), ERR_LIMIT);
	assert_ends(&err, "ab/\xC3\xA9", "\xC3\xA9: a file of 7 bytes; the limit is 6");
}

static void what_fits_is_whole(void **state)
{
	char text[ERR_MESSAGE_BYTES];
	struct err err;

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	err_set(&err, ERR_IO, "%s", text);
	assert_string_equal(err.message, text);
	err_set(&err, ERR_IO, "%sy", text);
	assert_int_equal(strlen(err.message), ERR_MESSAGE_BYTES - 1);
	assert_int_equal(err.message[ERR_MESSAGE_BYTES - 2], 'y');
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_reason_stays),
		cmocka_unit_test(what_fits_is_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
