/*
 * shim.c - makes one chosen system call that changes a folder fail, tear or kill the process.
 *
 * Preloaded into a program under test (LD_PRELOAD). Calls are counted from 1 as
 * long as they touch something below FAULT_DIR:
 *
 *     FAULT_DIR    absolute path of the folder
 *     FAULT_LOG    file to which every counted call is appended: number, call, path (and what it became)
 *     FAULT_AT     number of the call that is hit
 *     FAULT_MODE   kill: SIGKILL instead of the call; tear: a write puts half of its bytes, then SIGKILL;
 *                  int: SIGINT before the call, which is then made; a number: the call fails with this errno
 *     FAULT_ON     1: every later call fails too, not only this one (a full or read-only disk)
 *     FAULT_CALL   only calls of this name are hit, counted among themselves (renameat2). `read` (read and pread) and
 *                  `madvise` (that asks for pages; the log has how many bytes) are counted only if they are named here: they change nothing
 *
 * Threads: the counter is atomic. A trainer writes from one thread; of a daemon
 * only the order of calls below its cache folder is the same from run to run.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int counter;

/* Straight to the kernel: the functions of these names are ours. */
static void put(int fd, const char *text, size_t size)
{
	long ignored = syscall(SYS_write, fd, text, size);

	(void)ignored;
}

static void note(int number, const char *call, const char *path, const char *to)
{
	const char *log = getenv("FAULT_LOG");
	char line[2 * PATH_MAX + 64];

	if (log == NULL)
		return;
	long fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	int size = snprintf(line, sizeof(line), "%d %s %s %s\n", number, call, path, to == NULL ? "" : to);

	if (fd >= 0) {
		put((int)fd, line, (size_t)size);
		syscall(SYS_close, fd);
	}
}

static int inside(const char *path)
{
	const char *dir = getenv("FAULT_DIR");
	char absolute[PATH_MAX];

	if (dir == NULL || path == NULL)
		return 0;
	if (path[0] != '/') {
		char here[PATH_MAX];

		if (getcwd(here, sizeof(here)) == NULL || snprintf(absolute, sizeof(absolute), "%s/%s", here, path) >= PATH_MAX)
			return 0;
		path = absolute;
	}
	return strncmp(path, dir, strlen(dir)) == 0;
}

static int fd_path(int fd, char out[PATH_MAX])
{
	char link[64];
	ssize_t size;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	size = readlink(link, out, PATH_MAX - 1);
	if (size < 0)
		return 0;
	out[size] = '\0';
	return inside(out);
}

/* Returns 0 (go on), or the errno to fail with, or -1: tear. */
static int hit(const char *call, const char *path, const char *to)
{
	const char *at = getenv("FAULT_AT"), *mode = getenv("FAULT_MODE"), *on = getenv("FAULT_ON"), *only = getenv("FAULT_CALL");
	int number;

	if (only != NULL && strcmp(only, call) != 0)
		return 0;
	number = __atomic_add_fetch(&counter, 1, __ATOMIC_SEQ_CST);
	note(number, call, path, to);
	if (at == NULL || mode == NULL || number < atoi(at) || (number > atoi(at) && on == NULL))
		return 0;
	if (strcmp(mode, "tear") == 0 && (strcmp(call, "write") == 0 || strcmp(call, "pwrite") == 0 || strcmp(call, "writev") == 0))
		return -1;
	if (strcmp(mode, "int") == 0) {
		kill(getpid(), SIGINT);
		return 0;
	}
	if (strcmp(mode, "kill") == 0 || strcmp(mode, "tear") == 0)
		kill(getpid(), SIGKILL);
	return atoi(mode);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
/* In front of a call that gives -1 and errno. */
#define GATE(call, path, to)                              \
	do {                                              \
		int fault_ = hit((call), (path), (to));   \
		if (fault_ > 0) {                         \
			errno = fault_;                   \
			return -1;                        \
		}                                         \
	} while (0)

ssize_t write(int fd, const void *data, size_t size)
{
	char path[PATH_MAX];

	if (fd_path(fd, path)) {
		int fault = hit("write", path, NULL);

		if (fault < 0) {
			put(fd, data, size / 2);
			kill(getpid(), SIGKILL);
		}
		if (fault > 0) {
			/* A disk that runs full takes what still fits. */
			if (fault == ENOSPC && size > 1)
				put(fd, data, size / 2);
			errno = fault;
			return -1;
		}
	}
	return REAL(write)(fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
	char path[PATH_MAX];

	if (fd_path(fd, path)) {
		int fault = hit("pwrite", path, NULL);

		if (fault != 0) {
			/* A disk that runs full takes what still fits, one that loses power a part. */
			long ignored = syscall(SYS_pwrite64, fd, data, size / 2, at);

			(void)ignored;
		}
		if (fault < 0)
			kill(getpid(), SIGKILL);
		if (fault > 0) {
			errno = fault;
			return -1;
		}
	}
	return REAL(pwrite)(fd, data, size, at);
}

ssize_t writev(int fd, const struct iovec *pieces, int count)
{
	char path[PATH_MAX];

	if (fd_path(fd, path)) {
		int fault = hit("writev", path, NULL);

		if (fault != 0)
			put(fd, pieces[0].iov_base, pieces[0].iov_len / 2);
		if (fault < 0)
			kill(getpid(), SIGKILL);
		if (fault > 0) {
			errno = fault;
			return -1;
		}
	}
	return REAL(writev)(fd, pieces, count);
}

static int is_asked_for(const char *call)
{
	const char *only = getenv("FAULT_CALL");

	return only != NULL && strcmp(only, call) == 0;
}

ssize_t read(int fd, void *data, size_t size)
{
	char path[PATH_MAX];

	if (is_asked_for("read") && fd_path(fd, path))
		GATE("read", path, NULL);
	return REAL(read)(fd, data, size);
}

ssize_t pread(int fd, void *data, size_t size, off_t at)
{
	char path[PATH_MAX];

	if (is_asked_for("read") && fd_path(fd, path))
		GATE("read", path, NULL);
	return REAL(pread)(fd, data, size, at);
}

int madvise(void *at, size_t size, int advice)
{
	enum { POPULATE_WRITE = 23 }; /* not in older headers */

	if (advice == POPULATE_WRITE && is_asked_for("madvise")) {
		char bytes[24];

		snprintf(bytes, sizeof(bytes), "%zu", size);
		GATE("madvise", bytes, NULL);
	}
	return REAL(madvise)(at, size, advice);
}

int fdatasync(int fd)
{
	char path[PATH_MAX];

	if (fd_path(fd, path))
		GATE("fdatasync", path, NULL);
	return REAL(fdatasync)(fd);
}

int ftruncate(int fd, off_t size)
{
	char path[PATH_MAX];

	if (fd_path(fd, path))
		GATE("ftruncate", path, NULL);
	return REAL(ftruncate)(fd, size);
}

int fsync(int fd)
{
	char path[PATH_MAX];

	if (fd_path(fd, path))
		GATE("fsync", path, NULL);
	return REAL(fsync)(fd);
}

int open(const char *path, int flags, ...)
{
	va_list args;
	mode_t mode;

	va_start(args, flags);
	mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
	va_end(args);
	if ((flags & (O_CREAT | O_TRUNC)) != 0 && inside(path))
		GATE("open", path, NULL);
	return REAL(open)(path, flags, mode);
}

int mkdir(const char *path, mode_t mode)
{
	if (inside(path))
		GATE("mkdir", path, NULL);
	return REAL(mkdir)(path, mode);
}

int rename(const char *from, const char *to)
{
	if (inside(to))
		GATE("rename", from, to);
	return REAL(rename)(from, to);
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
	if (inside(to))
		GATE("renameat2", from, to);
	return REAL(renameat2)(from_fd, from, to_fd, to, flags);
}

int link(const char *from, const char *to)
{
	if (inside(to))
		GATE("link", from, to);
	return REAL(link)(from, to);
}

int unlink(const char *path)
{
	if (inside(path))
		GATE("unlink", path, NULL);
	return REAL(unlink)(path);
}

int rmdir(const char *path)
{
	if (inside(path))
		GATE("rmdir", path, NULL);
	return REAL(rmdir)(path);
}

int truncate(const char *path, off_t size)
{
	if (inside(path))
		GATE("truncate", path, NULL);
	return REAL(truncate)(path, size);
}
