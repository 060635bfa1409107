/* Files in and out: atomic writes, links, devices, limits. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "shared/base/fs.h"

enum { SYNCED_MAX = 16, NOBODY = 65534 };

static char folder[64];
static ino_t synced[SYNCED_MAX];
static int synced_count;

/* In place of libc's: notes what was asked for. */
int fsync(int fd)
{
	struct stat info;

	if (fstat(fd, &info) == 0 && synced_count < SYNCED_MAX)
		synced[synced_count++] = info.st_ino;
	return (int)syscall(SYS_fsync, fd);
}

static bool was_synced(const char *path)
{
	struct stat info;

	assert_int_equal(stat(path, &info), 0);
	for (int i = 0; i < synced_count; i++)
		if (synced[i] == info.st_ino)
			return true;
	return false;
}

static int set_up(void **state)
{
	(void)state;
	strcpy(folder, "/tmp/test_fs.XXXXXX");
	return mkdtemp(folder) == NULL;
}

static int tear_down(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

static const char *in_folder(const char *name, char out[128])
{
	snprintf(out, 128, "%s/%s", folder, name);
	return out;
}

static int entries(void)
{
	DIR *dir = opendir(folder);
	int count = 0;

	assert_non_null(dir);
	while (readdir(dir) != NULL)
		count++;
	closedir(dir);
	return count - 2;
}

static void assert_content(const char *path, const char *expected)
{
	struct buf content = BUF_INIT;
	struct err err;

	assert_int_equal(fs_read(path, 1000, &content, &err), 0);
	assert_string_equal(content.data, expected);
	buf_free(&content);
}

static void new_and_replaced(void **state)
{
	char path[128];
	struct stat info;

	(void)state;
	in_folder("f", path);
	umask(022);
	assert_int_equal(fs_write_atomic(path, "one", 3, NULL), 0);
	assert_content(path, "one");
	assert_int_equal(stat(path, &info), 0);
	assert_int_equal(info.st_mode & 0777, 0644);
	assert_int_equal(fs_write_atomic(path, "two2", 4, NULL), 0);
	assert_content(path, "two2");
	assert_int_equal(entries(), 1);
}

static void abandoned(void **state)
{
	char path[128];
	struct fs_writer *writer;

	(void)state;
	in_folder("f", path);
	assert_int_equal(fs_write_atomic(path, "one", 3, NULL), 0);
	assert_int_equal(fs_writer_open(&writer, path, NULL), 0);
	assert_int_equal(fs_writer_add(writer, "half", 4, NULL), 0);
	fs_writer_abort(writer);
	assert_content(path, "one");
	assert_int_equal(entries(), 1);
}

static void link_stays(void **state)
{
	char path[128], link[128];
	struct stat info;

	(void)state;
	in_folder("real", path);
	in_folder("link", link);
	assert_int_equal(fs_write_atomic(path, "one", 3, NULL), 0);
	assert_int_equal(symlink("real", link), 0);
	assert_int_equal(fs_write_atomic(link, "two", 3, NULL), 0);
	assert_int_equal(lstat(link, &info), 0);
	assert_true(S_ISLNK(info.st_mode));
	assert_content(path, "two");
}

/* As open() would: a link may lead to what is not there yet, over another link and out of another folder. */
static void link_to_nothing_stays(void **state)
{
	char link[128], path[128];
	struct stat info;

	(void)state;
	assert_int_equal(mkdir(in_folder("d", path), 0777), 0);
	assert_int_equal(symlink("../new", in_folder("d/inner", path)), 0);
	assert_int_equal(symlink("d/inner", in_folder("link", link)), 0);
	assert_int_equal(fs_write_atomic(link, "one", 3, NULL), 0);
	assert_int_equal(lstat(link, &info), 0);
	assert_true(S_ISLNK(info.st_mode));
	assert_content(in_folder("new", path), "one");
	assert_int_equal(entries(), 3);
}

static void links_in_a_circle(void **state)
{
	char one[128], two[128];
	struct err err;

	(void)state;
	assert_int_equal(symlink("two", in_folder("one", one)), 0);
	assert_int_equal(symlink("one", in_folder("two", two)), 0);
	assert_int_equal(fs_write_atomic(one, "x", 1, &err), ERR_IO);
	assert_non_null(strstr(err.message, one));
	assert_int_equal(entries(), 2);
}

/* What may read a new file is said by the folder's default access list where there is one, and not by the umask. */
static void access_list_of_the_folder(void **state)
{
	/* user::rw-, group::rw-, other::--- */
	static const uint32_t list[] = { 2, 1 | 6 << 16, UINT32_MAX, 4 | 6 << 16, UINT32_MAX, 0x20, UINT32_MAX };
	char path[128];
	struct stat info;

	(void)state;
	if (setxattr(folder, "system.posix_acl_default", list, sizeof(list), 0) != 0)
		skip();
	umask(022);
	assert_int_equal(fs_write_atomic(in_folder("f", path), "one", 3, NULL), 0);
	assert_int_equal(stat(path, &info), 0);
	assert_int_equal(info.st_mode & 0777, 0660);
}

static void pipe_is_written_to(void **state)
{
	char path[128], got[8] = "";
	struct stat info;

	(void)state;
	in_folder("pipe", path);
	assert_int_equal(mkfifo(path, 0600), 0);
	int fd = open(path, O_RDONLY | O_NONBLOCK);

	assert_true(fd >= 0);
	assert_int_equal(fs_write_atomic(path, "bytes", 5, NULL), 0);
	assert_int_equal(read(fd, got, sizeof(got)), 5);
	close(fd);
	assert_string_equal(got, "bytes");
	assert_int_equal(stat(path, &info), 0);
	assert_true(S_ISFIFO(info.st_mode));
	assert_int_equal(entries(), 1);
}

/* A device is still one afterwards. Through a link to it in our own folder, so
 * that a fault of ours cannot replace the system's. */
static void device_stays(void **state)
{
	char path[128];
	struct stat info;

	(void)state;
	in_folder("null", path);
	assert_int_equal(symlink("/dev/zero", path), 0);
	assert_int_equal(fs_write_atomic(path, "bytes", 5, NULL), 0);
	assert_int_equal(stat(path, &info), 0);
	assert_true(S_ISCHR(info.st_mode));
	assert_int_equal(lstat(path, &info), 0);
	assert_true(S_ISLNK(info.st_mode));
	assert_int_equal(entries(), 1);
}

static void errors_name_the_path(void **state)
{
	char path[128];
	struct err err;
	struct buf content = BUF_INIT;

	(void)state;
	in_folder("no/such/folder", path);
	assert_int_equal(fs_write_atomic(path, "x", 1, &err), ERR_NOTFOUND);
	assert_non_null(strstr(err.message, "no/such/folder"));
	assert_true(fs_write_atomic(folder, "x", 1, &err) < 0);
	assert_non_null(strstr(err.message, folder));
	in_folder("f", path);
	assert_int_equal(fs_write_atomic(path, "0123456789", 10, NULL), 0);
	assert_int_equal(fs_read(path, 9, &content, &err), ERR_LIMIT);
	assert_int_equal(fs_read(folder, 9, &content, &err), ERR_FORMAT);
	assert_int_equal(fs_read(path, 10, &content, &err), 0);
	assert_int_equal(content.size, 10);
	buf_free(&content);
	assert_int_equal(entries(), 1);
}

static void long_names_are_cut_and_stay_apart(void **state)
{
	char one[400], other[400], text[32] = "just short enough.";

	(void)state;
	fs_shorten_name(text, 18);
	assert_string_equal(text, "just short enough.");
	memset(one, 'a', sizeof(one) - 1);
	one[sizeof(one) - 1] = '\0';
	strcpy(other, one);
	other[sizeof(other) - 2] = 'b';
	fs_shorten_name(one, 100);
	fs_shorten_name(other, 100);
	assert_int_equal(strlen(one), 100);
	assert_int_equal(strspn(one, "a") >= 83 && one[83] == '-', 1);
	assert_memory_equal(one, other, 84);
	assert_string_not_equal(one, other);
	/* The same in every run and on every machine: XXH3 of the bytes. */
	strcpy(one, "\xc3\xbc" "ber" "\xc3\xbc" "ber und weiter als das");
	fs_shorten_name(one, 17 + 6); /* in the middle of the second one of two bytes */
	assert_memory_equal(one, "\xc3\xbc" "ber-", 6);
	assert_int_equal(strlen(one), 5 + 17);
}

/* A new folder's name is in the one above it, and lost with the power unless that one is synced. */
static void made_folders_are_durable(void **state)
{
	char path[128];
	struct err err;

	(void)state;
	synced_count = 0;
	assert_int_equal(fs_mkdirs(in_folder("a//b/c/", path), 0700, &err), 0);
	assert_true(was_synced(folder) && was_synced(in_folder("a", path)) && was_synced(in_folder("a/b", path)));
	assert_false(was_synced(in_folder("a/b/c", path)));
	synced_count = 0;
	assert_int_equal(fs_mkdirs(in_folder("a/b/c", path), 0700, &err), 0);
	assert_int_equal(synced_count, 0);
}

static void folder_whose_name_is_taken(void **state)
{
	char link[128], below[128];
	struct err err;

	(void)state;
	assert_int_equal(symlink("nothing", in_folder("link", link)), 0);
	assert_int_equal(fs_mkdirs(in_folder("link/a", below), 0700, &err), ERR_IO);
	assert_non_null(strstr(err.message, link));
	assert_non_null(strstr(err.message, "File exists"));
}

/* As a drop box is: what was written there is whole, and no error. */
static void folder_that_may_not_be_read(void **state)
{
	const bool root = geteuid() == 0;
	char path[128];
	struct err err;

	(void)state;
	assert_int_equal(chmod(folder, 0300), 0);
	if (root) {
		assert_int_equal(chown(folder, NOBODY, NOBODY), 0);
		assert_int_equal(seteuid(NOBODY), 0);
	}
	int wrote = fs_write_atomic(in_folder("file", path), "x", 1, &err);
	int made = fs_mkdirs(in_folder("a/b", path), 0700, &err);
	if (root)
		assert_int_equal(seteuid(0), 0);
	assert_int_equal(chmod(folder, 0700), 0);
	assert_int_equal(wrote, 0);
	assert_int_equal(made, 0);
	assert_content(in_folder("file", path), "x");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(new_and_replaced, set_up, tear_down),
		cmocka_unit_test_setup_teardown(abandoned, set_up, tear_down),
		cmocka_unit_test_setup_teardown(link_stays, set_up, tear_down),
		cmocka_unit_test_setup_teardown(link_to_nothing_stays, set_up, tear_down),
		cmocka_unit_test_setup_teardown(links_in_a_circle, set_up, tear_down),
		cmocka_unit_test_setup_teardown(access_list_of_the_folder, set_up, tear_down),
		cmocka_unit_test_setup_teardown(pipe_is_written_to, set_up, tear_down),
		cmocka_unit_test_setup_teardown(device_stays, set_up, tear_down),
		cmocka_unit_test_setup_teardown(errors_name_the_path, set_up, tear_down),
		cmocka_unit_test_setup_teardown(made_folders_are_durable, set_up, tear_down),
		cmocka_unit_test_setup_teardown(folder_whose_name_is_taken, set_up, tear_down),
		cmocka_unit_test_setup_teardown(folder_that_may_not_be_read, set_up, tear_down),
		cmocka_unit_test(long_names_are_cut_and_stay_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
