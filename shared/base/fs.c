#include "shared/base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/base/clock.h"
#include "shared/base/hash.h"
#include "shared/base/mem.h"

#define TEMPORARY_TAIL ".XXXXXX.tmp"

enum { LINKS_MAX = 40, TARGET_BYTES_MAX = 4096, NAMES_TRIED = 100 };

struct fs_writer {
	int fd;
	char *path;
	char *temporary; /* NULL: written to as it is, or renamed already */
};

void fs_take_standard(void)
{
	/* open() gives the lowest number that is free. */
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0)
			return;
}

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

/* The name that a link at `at` stands for: target is relative to the link's folder. */
static int link_target(char **out, const char *at, const char *target, struct err *err)
{
	const char *slash = strrchr(at, '/');
	char *folder = mem_strndup(at, slash == NULL ? 0 : (size_t)(slash + 1 - at));
	int code = folder == NULL ? err_nomem(err, strlen(at)) : fs_join(out, folder, target, err);

	mem_free(folder);
	return code;
}

/* Where a write to path ends up: a symbolic link's target, there or not yet, which a rename over the link would not be. */
static int follow_links(char **out, const char *path, struct err *err)
{
	char target[TARGET_BYTES_MAX];
	ssize_t bytes;
	int code = 0;

	*out = mem_strdup(path);
	if (*out == NULL)
		return err_nomem(err, strlen(path));
	for (int links = 0; code == 0 && (bytes = readlink(*out, target, sizeof(target) - 1)) >= 0; links++) {
		char *link = *out;

		target[bytes] = '\0';
		*out = NULL;
		if (links == LINKS_MAX)
			code = err_errno(err, ELOOP, "%s", path);
		else
			code = link_target(out, link, target, err);
		mem_free(link);
	}
	return code;
}

bool fs_is_temporary(const char *name, const char *of)
{
	size_t length = strlen(of);

	return strncmp(name, of, length) == 0 && name[length] == '.' && strlen(name + length) == strlen(TEMPORARY_TAIL) &&
	       strcmp(name + length + strlen(".XXXXXX"), ".tmp") == 0;
}

void fs_shorten_name(char *name, size_t limit)
{
	enum { TAIL_BYTES = 1 + 16 };
	size_t bytes = strlen(name), kept;

	CHECK(limit > TAIL_BYTES);
	if (bytes <= limit)
		return;
	kept = limit - TAIL_BYTES;
	while (kept > 0 && ((unsigned char)name[kept] & 0xC0) == 0x80)
		kept--;
	uint64_t sum = hash_checksum(name, bytes);
	snprintf(name + kept, TAIL_BYTES + 1, "-%016" PRIx64, sum);
}

/* A device, pipe or socket takes bytes as they come: /dev/null is no place for a rename. */
static bool is_special(const char *path)
{
	struct stat info;

	return stat(path, &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode);
}

/* Not mkstemp(), whose files are for their owner alone: who else may read a new file is for the umask to say, or for the
 * folder's default access list. */
static int open_temporary(struct fs_writer *writer, struct err *err)
{
	size_t bytes = strlen(writer->path) + sizeof(TEMPORARY_TAIL);

	if ((writer->temporary = mem_alloc(bytes)) == NULL)
		return err_nomem(err, bytes);
	for (int tries = 0; tries < NAMES_TRIED; tries++) {
		snprintf(writer->temporary, bytes, "%s.%06x.tmp", writer->path, ((unsigned)clock_ns() ^ (unsigned)getpid() << 8) & 0xFFFFFF);
		writer->fd = open(writer->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
		if (writer->fd >= 0)
			return 0;
		if (errno != EEXIST)
			break;
	}
	mem_free(writer->temporary);
	writer->temporary = NULL;
	return err_errno(err, errno, "%s", writer->path);
}

static int open_special(struct fs_writer *writer, const char *path, struct err *err)
{
	if ((writer->path = mem_strdup(path)) == NULL)
		return err_nomem(err, strlen(path));
	writer->fd = open(path, O_WRONLY | O_CLOEXEC);
	return writer->fd < 0 ? err_errno(err, errno, "%s", path) : 0;
}

int fs_writer_open(struct fs_writer **out, const char *path, struct err *err)
{
	struct fs_writer *writer = mem_zalloc(sizeof(*writer));
	int code;

	*out = NULL;
	if (writer == NULL)
		return err_nomem(err, sizeof(*writer));
	writer->fd = -1;
	if (is_special(path))
		code = open_special(writer, path, err);
	else if ((code = follow_links(&writer->path, path, err)) == 0)
		code = open_temporary(writer, err);
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

int fs_sync_folder(const char *path, struct err *err)
{
	int code = 0;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	/* One may write into a folder that one may not read, but not ask for it to be made durable. */
	if (fd < 0 && errno == EACCES)
		return 0;
	/* EINVAL: a file system that has no such thing. */
	if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL))
		code = err_errno(err, errno, "%s", path);
	if (fd >= 0)
		close(fd);
	return code;
}

static int sync_folder_of(const char *path, struct err *err)
{
	const char *slash = strrchr(path, '/');
	char *folder = slash == NULL ? mem_strdup(".") : mem_strndup(path, slash == path ? 1 : (size_t)(slash - path));
	int code = folder == NULL ? err_nomem(err, strlen(path)) : fs_sync_folder(folder, err);

	mem_free(folder);
	return code;
}

int fs_writer_commit(struct fs_writer *writer, struct err *err)
{
	int code = 0, fd = writer->fd;

	if (writer->temporary != NULL && fsync(fd) != 0) {
		code = err_errno(err, errno, "%s", writer->path);
		goto out;
	}
	writer->fd = -1;
	if (close(fd) != 0 || (writer->temporary != NULL && rename(writer->temporary, writer->path) != 0)) {
		code = err_errno(err, errno, "%s", writer->path);
		goto out;
	}
	if (writer->temporary == NULL)
		goto out;
	mem_free(writer->temporary);
	writer->temporary = NULL;
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
	if (writer->temporary != NULL)
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
		int reason = mkdir(copy, (mode_t)mode) == 0 ? 0 : errno;
		if (reason == 0)
			code = sync_folder_of(copy, err);
		else if (!fs_is_dir(copy))
			code = err_errno(err, reason, "cannot make the folder %s", copy);
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
