#include "preprocessd/serve/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "shared/base/clock.h"
#include "shared/base/mem.h"
#include "shared/base/paths.h"
#include "shared/client/conn.h"

enum { LOCK_TEXT_BYTES = 64, BACKLOG = 128, WAIT_MS = 50, WAIT_TRIES = 100, ANSWER_S = 1 };

struct socket_lock {
	int fd;
	bool bound;
	char *path;
	char *lock_path;
};

/* "PID" or "PID stopping". */
static void write_lock(struct socket_lock *lock, const char *state)
{
	char text[LOCK_TEXT_BYTES];
	int bytes = snprintf(text, sizeof(text), "%d%s\n", (int)getpid(), state);

	/* It is only for messages: a full disk must not keep a daemon from starting. */
	if (ftruncate(lock->fd, 0) != 0 || pwrite(lock->fd, text, (size_t)bytes, 0) != bytes)
		return;
}

static int read_lock(int fd, bool *stopping)
{
	char text[LOCK_TEXT_BYTES] = "";
	ssize_t got = pread(fd, text, sizeof(text) - 1, 0);

	text[got > 0 ? got : 0] = '\0';
	*stopping = strstr(text, "stopping") != NULL;
	return (int)strtol(text, NULL, 10);
}

static bool is_late(void *context)
{
	return clock_seconds() > *(double *)context;
}

/* Does somebody answer? A killed process may hold lock and socket for a while
 * after its death, as long as the system needs to take its memory down. */
static bool answers(const char *path)
{
	double deadline_s = clock_seconds() + ANSWER_S;
	struct conn conn;
	struct err err;

	conn_init(&conn, is_late, &deadline_s);
	conn.start_ms = 0;
	int code = conn_open(&conn, path, "preprocessd starting", &err);
	conn_free(&conn);
	/* One that refuses us for a reason of its own is alive too. */
	return code == 0 || code == ERR_MISMATCH;
}

/* 0: locked. 1: somebody else has it. The file may have been removed by its
 * last owner between open and lock: then a new one is made. */
static int try_lock(struct socket_lock *lock, struct err *err)
{
	struct stat ours, there;

	for (;;) {
		lock->fd = open(lock->lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (lock->fd < 0)
			return err_errno(err, errno, "cannot make the lock file %s", lock->lock_path);
		if (flock(lock->fd, LOCK_EX | LOCK_NB) != 0) {
			if (errno == EWOULDBLOCK)
				return 1;
			return err_errno(err, errno, "cannot lock %s", lock->lock_path);
		}
		if (fstat(lock->fd, &ours) == 0 && stat(lock->lock_path, &there) == 0 && ours.st_ino == there.st_ino &&
		    ours.st_dev == there.st_dev)
			return 0;
		close(lock->fd);
		lock->fd = -1;
	}
}

static int take_lock(struct socket_lock *lock, struct err *err)
{
	bool stopping = false;
	int pid = 0;

	for (int tries = 0; tries < WAIT_TRIES; tries++) {
		int code = try_lock(lock, err);

		if (code <= 0)
			return code;
		pid = read_lock(lock->fd, &stopping);
		close(lock->fd);
		lock->fd = -1;
		if (!stopping && answers(lock->path))
			break;
		nanosleep(&(struct timespec){ .tv_nsec = WAIT_MS * 1000000L }, NULL);
	}
	return err_set(err, ERR_BUSY, "another preprocessd (pid %d) serves %s; stop it with prepctl shutdown --socket %s, or choose "
		       "another --socket", pid, lock->path, lock->path);
}

static void lock_free(struct socket_lock *lock)
{
	if (lock->fd >= 0)
		close(lock->fd);
	mem_free(lock->path);
	mem_free(lock->lock_path);
	mem_free(lock);
}

int socket_lock_open(struct socket_lock **out, const char *path, struct err *err)
{
	struct socket_lock *lock = mem_zalloc(sizeof(*lock));
	size_t bytes = strlen(path) + sizeof(".lock");
	int code;

	*out = NULL;
	if (lock == NULL)
		return err_nomem(err, sizeof(*lock));
	lock->fd = -1;
	lock->path = mem_strdup(path);
	lock->lock_path = mem_alloc(bytes);
	if (lock->path == NULL || lock->lock_path == NULL) {
		lock_free(lock);
		return err_nomem(err, bytes);
	}
	snprintf(lock->lock_path, bytes, "%s.lock", path);
	if ((code = take_lock(lock, err)) != 0) {
		lock_free(lock);
		return code;
	}
	write_lock(lock, "");
	*out = lock;
	return 0;
}

/* We hold the lock, so a socket that lies there is nobody's. */
static int remove_stale(const char *path, struct err *err)
{
	struct stat info;

	if (lstat(path, &info) != 0)
		return errno == ENOENT ? 0 : err_errno(err, errno, "%s", path);
	if (!S_ISSOCK(info.st_mode))
		return err_set(err, ERR_EXISTS, "%s: there is a file of this name that is no socket; remove it or choose another "
			       "--socket", path);
	if (unlink(path) != 0)
		return err_errno(err, errno, "cannot remove the socket that an earlier daemon left at %s", path);
	return 0;
}

int socket_listen(struct socket_lock *lock, bool for_groups, int *out_fd, struct err *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	size_t bytes = strlen(lock->path);
	int code, fd;

	if (bytes > PATHS_SOCKET_BYTES_MAX)
		return err_set(err, ERR_LIMIT, "%s: a socket path of %zu bytes, the system allows %d; choose a shorter --socket",
			       lock->path, bytes, PATHS_SOCKET_BYTES_MAX);
	if ((code = remove_stale(lock->path, err)) != 0)
		return code;
	memcpy(address.sun_path, lock->path, bytes);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_errno(err, errno, "cannot make a socket");
	/* So that it never exists with another mode. With two groups the mode cannot say who may connect: admit() does. */
	mode_t mask = umask(for_groups ? 0111 : 0177);
	int bound = bind(fd, (struct sockaddr *)&address, sizeof(address));
	int reason = errno;
	umask(mask);
	if (bound != 0) {
		code = err_errno(err, reason, "cannot make the socket %s", lock->path);
	} else {
		lock->bound = true;
		if (listen(fd, BACKLOG) != 0)
			code = err_errno(err, errno, "cannot listen on %s", lock->path);
	}
	if (code != 0) {
		close(fd);
		return code;
	}
	*out_fd = fd;
	return 0;
}

void socket_stop(struct socket_lock *lock)
{
	if (lock->bound)
		unlink(lock->path);
	lock->bound = false;
	write_lock(lock, " stopping");
}

void socket_lock_close(struct socket_lock *lock)
{
	if (lock == NULL)
		return;
	socket_stop(lock);
	unlink(lock->lock_path);
	lock_free(lock);
}
