#include "trainer/train/checkpoint_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/base/fs.h"
#include "shared/base/mem.h"

enum { COPY_BYTES = 1 << 20 };

static const char new_prefix[] = ".new-", old_prefix[] = ".old-";

/* ---- names ---- */

int checkpoint_join(char out[CHECKPOINT_PATH_BYTES], const char *dir, const char *name, struct err *err)
{
	if (snprintf(out, CHECKPOINT_PATH_BYTES, "%s/%s", dir, name) >= CHECKPOINT_PATH_BYTES)
		return err_set(err, ERR_LIMIT, "%.100s...: the path is too long", dir);
	return 0;
}

void checkpoint_step_name(uint64_t step, char out[CHECKPOINT_NAME_BYTES])
{
	snprintf(out, CHECKPOINT_NAME_BYTES, "step-%010" PRIu64, step);
}

static int newest_first(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? 1 : x > y ? -1 : 0;
}

void checkpoint_list(const char *folder_path, struct checkpoint_found *found)
{
	DIR *folder = opendir(folder_path);
	struct dirent *entry;

	found->count = 0;
	while (folder != NULL && (entry = readdir(folder)) != NULL) {
		char name[CHECKPOINT_NAME_BYTES];
		uint64_t step;

		if (sscanf(entry->d_name, "step-%" SCNu64, &step) != 1)
			continue;
		checkpoint_step_name(step, name);
		if (strcmp(name, entry->d_name) == 0 && found->count < CHECKPOINT_FOUND_MAX)
			found->steps[found->count++] = step;
	}
	if (folder != NULL)
		closedir(folder);
	qsort(found->steps, (size_t)found->count, sizeof(found->steps[0]), newest_first);
}

/* ---- removing ---- */

void checkpoint_remove(const char *path)
{
	DIR *folder = opendir(path);
	struct dirent *entry;
	char file[CHECKPOINT_PATH_BYTES];

	while (folder != NULL && (entry = readdir(folder)) != NULL)
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
		    checkpoint_join(file, path, entry->d_name, NULL) == 0)
			unlink(file);
	if (folder != NULL)
		closedir(folder);
	rmdir(path);
}

void checkpoint_tidy(const char *folder_path)
{
	DIR *folder = opendir(folder_path);
	struct dirent *entry;

	while (folder != NULL && (entry = readdir(folder)) != NULL) {
		char path[CHECKPOINT_PATH_BYTES], final[CHECKPOINT_PATH_BYTES];
		bool is_old = strncmp(entry->d_name, old_prefix, sizeof(old_prefix) - 1) == 0;

		if (!is_old && strncmp(entry->d_name, new_prefix, sizeof(new_prefix) - 1) != 0)
			continue;
		if (checkpoint_join(path, folder_path, entry->d_name, NULL) != 0 ||
		    checkpoint_join(final, folder_path, entry->d_name + sizeof(old_prefix) - 1, NULL) != 0)
			continue;
		if (!is_old || fs_exists(final) || rename(path, final) != 0)
			checkpoint_remove(path);
	}
	if (folder != NULL)
		closedir(folder);
}

void checkpoint_drop_old(const char *folder, uint64_t step)
{
	struct checkpoint_found *found = mem_zalloc(sizeof(*found));
	char name[CHECKPOINT_NAME_BYTES], path[CHECKPOINT_PATH_BYTES];
	int kept = 0;

	if (found == NULL)
		return;
	checkpoint_tidy(folder);
	checkpoint_list(folder, found);
	for (int i = 0; i < found->count; i++) {
		if (found->steps[i] <= step && kept++ < CHECKPOINT_KEPT)
			continue;
		checkpoint_step_name(found->steps[i], name);
		if (checkpoint_join(path, folder, name, NULL) == 0)
			checkpoint_remove(path);
	}
	mem_free(found);
}

/* ---- putting in place ---- */

/* Where two names cannot be exchanged: the one before steps aside, and checkpoint_tidy() brings it back after a crash. */
static int replace_in_two_steps(const char *folder, const char *hidden, const char *final, struct err *err)
{
	char aside[CHECKPOINT_PATH_BYTES];
	const char *name = strrchr(final, '/') + 1;
	int code;

	if (snprintf(aside, sizeof(aside), "%s/%s%s", folder, old_prefix, name) >= (int)sizeof(aside))
		return err_set(err, ERR_LIMIT, "%.100s...: the path is too long", folder);
	checkpoint_remove(aside);
	if (rename(final, aside) != 0)
		return err_errno(err, errno, "%s", final);
	if (rename(hidden, final) != 0) {
		code = err_errno(err, errno, "%s", final);
		/* If that fails too, it is brought back when the run goes on. */
		int ignored = rename(aside, final);
		(void)ignored;
		return code;
	}
	if ((code = fs_sync_folder(folder, err)) == 0)
		checkpoint_remove(aside);
	return code;
}

int checkpoint_place(const char *folder, const char *hidden, const char *final, struct err *err)
{
	int code;

	if (!fs_exists(final)) {
		if (rename(hidden, final) != 0)
			return err_errno(err, errno, "%s", final);
		return fs_sync_folder(folder, err);
	}
	if (renameat2(AT_FDCWD, hidden, AT_FDCWD, final, RENAME_EXCHANGE) != 0)
		return replace_in_two_steps(folder, hidden, final, err);
	/* What was replaced, now under the hidden name, goes only when the exchange is on disk. */
	if ((code = fs_sync_folder(folder, err)) == 0)
		checkpoint_remove(hidden);
	return code;
}

/* ---- links ---- */

static int copy_file(const char *from, const char *to, struct err *err)
{
	struct fs_writer *writer = NULL;
	char *block = mem_alloc(COPY_BYTES);
	int fd = open(from, O_RDONLY | O_CLOEXEC);
	int code = 0;

	if (block == NULL || fd < 0) {
		code = block == NULL ? err_nomem(err, COPY_BYTES) : err_errno(err, errno, "%s", from);
		goto out;
	}
	code = fs_writer_open(&writer, to, err);
	while (code == 0) {
		ssize_t got = read(fd, block, COPY_BYTES);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			code = err_errno(err, errno, "%s", from);
		if (got <= 0)
			break;
		code = fs_writer_add(writer, block, (size_t)got, err);
	}
	if (code == 0)
		code = fs_writer_commit(writer, err);
	else
		fs_writer_abort(writer);
out:
	if (fd >= 0)
		close(fd);
	mem_free(block);
	return code;
}

int checkpoint_point(const char *dir, const char *name, const char *model_path, struct err *err)
{
	char target[CHECKPOINT_PATH_BYTES], temporary[CHECKPOINT_PATH_BYTES], hidden[CHECKPOINT_NAME_BYTES];
	struct stat a, b;
	int code;

	snprintf(hidden, sizeof(hidden), ".%s.new", name);
	if ((code = checkpoint_join(target, dir, name, err)) != 0 || (code = checkpoint_join(temporary, dir, hidden, err)) != 0)
		return code;
	unlink(temporary);
	/* lstat: a symbolic link that stands there is replaced by the real thing. */
	if (lstat(target, &a) == 0 && stat(model_path, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev)
		return 0;
	if (link(model_path, temporary) != 0)
		return copy_file(model_path, target, err);
	if (rename(temporary, target) != 0) {
		code = err_errno(err, errno, "%s", target);
		unlink(temporary);
		return code;
	}
	return fs_sync_folder(dir, err);
}
