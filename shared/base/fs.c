#include "shared/base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/base/mem.h"

struct fs_writer {
	int fd;
	char *path;
	char *temporary;
};

int fs_read(const char *path, size_t limit_bytes, struct buf *out, struct err *err)
{
	struct stat info;
	size_t before = out->size;
	int code = 0;
	/* O_NONBLOCK: opening a FIFO must not wait for a writer. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return err_errno(err, errno, "%s", path);
	if (fstat(fd, &info) != 0) {
		code = err_errno(err, errno, "%s", path);
		goto out;
	}
	if (!S_ISREG(info.st_mode)) {
		code = err_set(err, ERR_FORMAT, "%s: not a regular file", path);
		goto out;
	}
	if ((uint64_t)info.st_size > limit_bytes) {
		code = err_set(err, ERR_LIMIT, "%s: %lld bytes, the limit is %zu", path, (long long)info.st_size, limit_bytes);
		goto out;
	}
	if ((code = buf_reserve(out, (size_t)info.st_size, err)) != 0)
		goto out;
	for (;;) {
		size_t room = out->capacity - out->size - 1;

		if (room == 0) {
			if ((code = buf_reserve(out, 4096, err)) != 0)
				goto out;
			continue;
		}
		ssize_t got = read(fd, out->data + out->size, room);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0) {
			code = err_errno(err, errno, "%s", path);
			goto out;
		}
		if (got == 0)
			break;
		out->size += (size_t)got;
		if (out->size - before > limit_bytes) {
			code = err_set(err, ERR_LIMIT, "%s: grew beyond the limit of %zu bytes while it was read", path, limit_bytes);
			goto out;
		}
	}
out:
	if (code != 0)
		out->size = before;
	if (out->data != NULL)
		out->data[out->size] = '\0';
	close(fd);
	return code;
}

/* Where a write to path ends up: the target of a symbolic link, which a rename
 * over the link would not be. */
static char *final_path(const char *path)
{
	char *real = realpath(path, NULL);
	char *copy = mem_strdup(real != NULL ? real : path);

	free(real);
	return copy;
}

/* A device, pipe or socket takes bytes as they come: /dev/null is no place for a rename. */
static bool is_special(const char *path)
{
	struct stat info;

	return stat(path, &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode);
}

static int open_temporary(struct fs_writer *writer, size_t bytes, struct err *err)
{
	snprintf(writer->temporary, bytes, "%s.XXXXXX.tmp", writer->path);
	writer->fd = mkostemps(writer->temporary, 4, O_CLOEXEC);
	if (writer->fd < 0) {
		writer->temporary[0] = '\0';
		return err_errno(err, errno, "%s", writer->path);
	}
	mode_t mask = umask(0);

	umask(mask);
	if (fchmod(writer->fd, 0666 & ~mask) != 0)
		return err_errno(err, errno, "%s", writer->path);
	return 0;
}

int fs_writer_open(struct fs_writer **out, const char *path, struct err *err)
{
	int code = 0;
	size_t bytes = 0;
	struct fs_writer *writer = mem_zalloc(sizeof(*writer));

	*out = NULL;
	if (writer == NULL)
		return err_nomem(err, sizeof(*writer));
	writer->fd = -1;
	/* Where realpath() fails (/dev/stdout to a pipe), the path as given still names the thing. */
	writer->path = is_special(path) ? mem_strdup(path) : final_path(path);
	if (writer->path != NULL)
		bytes = strlen(writer->path) + sizeof(".XXXXXX.tmp");
	writer->temporary = mem_zalloc(bytes);
	if (writer->path == NULL || writer->temporary == NULL) {
		code = err_nomem(err, bytes);
	} else if (is_special(path)) {
		writer->fd = open(path, O_WRONLY | O_CLOEXEC);
		if (writer->fd < 0)
			code = err_errno(err, errno, "%s", path);
	} else {
		code = open_temporary(writer, bytes, err);
	}
	if (code != 0)
		fs_writer_abort(writer);
	else
		*out = writer;
	return code;
}

int fs_writer_add(struct fs_writer *writer, const void *data, size_t size, struct err *err)
{
	const char *next = data;

	while (size > 0) {
		ssize_t put = write(writer->fd, next, size);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return err_errno(err, errno, "%s", writer->path);
		next += put;
		size -= (size_t)put;
	}
	return 0;
}

/* A rename survives power loss only once the folder itself is on disk. */
static int sync_folder_of(const char *path, struct err *err)
{
	int code = 0;
	const char *slash = strrchr(path, '/');
	char *folder = slash == NULL ? mem_strdup(".") : mem_strndup(path, slash == path ? 1 : (size_t)(slash - path));

	if (folder == NULL)
		return err_nomem(err, strlen(path));
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL))
		code = err_errno(err, errno, "%s", folder);
	if (fd >= 0)
		close(fd);
	mem_free(folder);
	return code;
}

int fs_writer_commit(struct fs_writer *writer, struct err *err)
{
	int code;
	int fd = writer->fd;

	if (writer->temporary[0] == '\0') {
		writer->fd = -1;
		code = close(fd) == 0 ? 0 : err_errno(err, errno, "%s", writer->path);
		goto out;
	}
	if (fsync(fd) != 0) {
		code = err_errno(err, errno, "%s", writer->path);
		goto out;
	}
	writer->fd = -1;
	if (close(fd) != 0 || rename(writer->temporary, writer->path) != 0) {
		code = err_errno(err, errno, "%s", writer->path);
		goto out;
	}
	writer->temporary[0] = '\0';
	code = sync_folder_of(writer->path, err);
out:
	fs_writer_abort(writer);
	return code;
}

void fs_writer_abort(struct fs_writer *writer)
{
	if (writer == NULL)
		return;
	if (writer->fd >= 0)
		close(writer->fd);
	if (writer->temporary != NULL && writer->temporary[0] != '\0')
		unlink(writer->temporary);
	mem_free(writer->temporary);
	mem_free(writer->path);
	mem_free(writer);
}

int fs_write_atomic(const char *path, const void *data, size_t size, struct err *err)
{
	struct fs_writer *writer;
	int code = fs_writer_open(&writer, path, err);

	if (code != 0)
		return code;
	if ((code = fs_writer_add(writer, data, size, err)) != 0) {
		fs_writer_abort(writer);
		return code;
	}
	return fs_writer_commit(writer, err);
}

int fs_mkdirs(const char *path, unsigned mode, struct err *err)
{
	int code = 0;
	char *copy = mem_strdup(path);

	if (copy == NULL)
		return err_nomem(err, strlen(path));
	for (char *p = copy + 1; code == 0 && copy[0] != '\0'; p++) {
		char kept = *p;

		if (kept != '/' && kept != '\0')
			continue;
		*p = '\0';
		if (mkdir(copy, (mode_t)mode) != 0 && (errno != EEXIST || !fs_is_dir(copy)))
			code = err_errno(err, errno, "cannot make the folder %s", copy);
		*p = kept;
		if (kept == '\0')
			break;
	}
	mem_free(copy);
	return code;
}

bool fs_exists(const char *path)
{
	struct stat info;

	return stat(path, &info) == 0;
}

bool fs_is_dir(const char *path)
{
	struct stat info;

	return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

int fs_join(char **out, const char *a, const char *b, struct err *err)
{
	size_t bytes = strlen(a) + strlen(b) + 2;
	bool alone = b[0] == '/' || a[0] == '\0';

	*out = mem_alloc(bytes);
	if (*out == NULL)
		return err_nomem(err, bytes);
	snprintf(*out, bytes, "%s%s%s", alone ? "" : a, alone || a[strlen(a) - 1] == '/' ? "" : "/", b);
	return 0;
}
