#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "shared/base/fs.h"
#include "shared/base/mem.h"
#include "shared/base/paths.h"

static char scratch[64];

static int make_scratch(void **state)
{
	(void)state;
	strcpy(scratch, "/tmp/test_paths.XXXXXX");
	unsetenv("PREPROCESSD_SOCKET");
	unsetenv("PREPROCESSD_CACHE");
	unsetenv("XDG_RUNTIME_DIR");
	unsetenv("XDG_CACHE_HOME");
	return mkdtemp(scratch) == NULL ? -1 : 0;
}

static int remove_scratch(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", scratch);
	return system(command);
}

static void expect_socket(const char *option, bool make_folder, const char *expected)
{
	struct err err = { 0 };
	char *path;

	if (paths_socket(&path, option, make_folder, &err) != 0)
		fail_msg("%s", err.message);
	assert_string_equal(expected, path);
	mem_free(path);
}

static void expect_cache(const char *option, bool make_folder, const char *expected)
{
	struct err err = { 0 };
	char *path;

	if (paths_cache(&path, option, make_folder, &err) != 0)
		fail_msg("%s", err.message);
	assert_string_equal(expected, path);
	mem_free(path);
}

static unsigned mode_of(const char *path)
{
	struct stat info;

	assert_int_equal(0, stat(path, &info));
	return info.st_mode & 0777;
}

static void option_before_env_before_default(void **state)
{
	char fallback[64];

	(void)state;
	snprintf(fallback, sizeof(fallback), "/tmp/preprocessd-%u/preprocessd.sock", (unsigned)geteuid());
	expect_socket(NULL, false, fallback);
	setenv("XDG_RUNTIME_DIR", "relative", 1);
	expect_socket(NULL, false, fallback);
	setenv("XDG_RUNTIME_DIR", "/nowhere/run", 1);
	expect_socket(NULL, false, "/nowhere/run/preprocessd/preprocessd.sock");
	setenv("PREPROCESSD_SOCKET", "", 1);
	expect_socket(NULL, false, "/nowhere/run/preprocessd/preprocessd.sock");
	setenv("PREPROCESSD_SOCKET", "/env.sock", 1);
	expect_socket(NULL, false, "/env.sock");
	expect_socket("option.sock", true, "option.sock");

	setenv("HOME", scratch, 1);
	char expected[128];
	snprintf(expected, sizeof(expected), "%s/.cache/preprocessd", scratch);
	expect_cache(NULL, false, expected);
	setenv("XDG_CACHE_HOME", "/nowhere/cache", 1);
	expect_cache(NULL, false, "/nowhere/cache/preprocessd");
	setenv("PREPROCESSD_CACHE", "/env/cache", 1);
	expect_cache(NULL, false, "/env/cache");
	expect_cache("mine", false, "mine");
}

static void folders_are_private(void **state)
{
	char path[128], expected[128];

	(void)state;
	umask(0);
	setenv("XDG_RUNTIME_DIR", scratch, 1);
	snprintf(expected, sizeof(expected), "%s/preprocessd/preprocessd.sock", scratch);
	snprintf(path, sizeof(path), "%s/preprocessd", scratch);
	expect_socket(NULL, false, expected);
	assert_false(fs_exists(path));
	expect_socket(NULL, true, expected);
	assert_int_equal(0700, mode_of(path));
	snprintf(path, sizeof(path), "%s/a/cache", scratch);
	expect_cache(path, true, path);
	assert_int_equal(0700, mode_of(path));
	expect_cache(path, true, path);
}

static void home_that_is_not_there(void **state)
{
	char expected[64];

	(void)state;
	setenv("HOME", "/nonexistent", 1);
	snprintf(expected, sizeof(expected), "/tmp/preprocessd-%u/cache", (unsigned)geteuid());
	expect_cache(NULL, false, expected);
}

static void too_long_a_socket_path(void **state)
{
	char path[PATHS_SOCKET_BYTES_MAX + 2];
	struct err err = { 0 };
	char *out;

	(void)state;
	memset(path, 'x', sizeof(path));
	path[PATHS_SOCKET_BYTES_MAX + 1] = '\0';
	assert_int_equal(ERR_LIMIT, paths_socket(&out, path, false, &err));
	assert_null(out);
	assert_non_null(strstr(err.message, "108 bytes"));
	assert_non_null(strstr(err.message, "--socket"));
	path[PATHS_SOCKET_BYTES_MAX] = '\0';
	expect_socket(path, false, path);
}

static void refuses_as_private(const char *path, const char *message)
{
	struct err err = { 0 };

	assert_int_equal(ERR_IO, paths_check_private(path, &err));
	assert_non_null(strstr(err.message, path));
	assert_non_null(strstr(err.message, message));
}

static void what_is_private(void **state)
{
	char folder[128], other[128];
	struct err err = { 0 };

	(void)state;
	snprintf(folder, sizeof(folder), "%s/mine", scratch);
	snprintf(other, sizeof(other), "%s/other", scratch);
	assert_int_equal(ERR_NOTFOUND, paths_check_private(folder, &err));
	assert_int_equal(0, mkdir(folder, 0700));
	assert_int_equal(0, paths_check_private(folder, &err));
	assert_int_equal(0, symlink(folder, other));
	refuses_as_private(other, "not a folder of yours");
	assert_int_equal(0, chmod(folder, 0710));
	refuses_as_private(folder, "chmod 700");
	assert_int_equal(0, chmod(folder, 0700));
	/* Only root can give a folder away. */
	if (geteuid() == 0) {
		assert_int_equal(0, chown(folder, 65534, (gid_t)-1));
		refuses_as_private(folder, "not a folder of yours");
	}
}

/* A folder that cannot be made is named. */
static void folder_below_a_file(void **state)
{
	char path[128];
	struct err err = { 0 };
	char *out;

	(void)state;
	snprintf(path, sizeof(path), "%s/file", scratch);
	assert_int_equal(0, fs_write_atomic(path, "x", 1, &err));
	strcat(path, "/cache");
	assert_int_equal(ERR_IO, paths_cache(&out, path, true, &err));
	assert_null(out);
	assert_non_null(strstr(err.message, path));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(option_before_env_before_default, make_scratch, remove_scratch),
		cmocka_unit_test_setup_teardown(folders_are_private, make_scratch, remove_scratch),
		cmocka_unit_test_setup_teardown(home_that_is_not_there, make_scratch, remove_scratch),
		cmocka_unit_test_setup_teardown(too_long_a_socket_path, make_scratch, remove_scratch),
		cmocka_unit_test_setup_teardown(what_is_private, make_scratch, remove_scratch),
		cmocka_unit_test_setup_teardown(folder_below_a_file, make_scratch, remove_scratch),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
