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

enum { LOCK_TEXT_BYTES = 64, BACKLOG = 128, WAIT_MS = 50, WAIT_S = 10, LISTENER_TRIES = 20, ANSWER_S = 1 };

struct socket_lock {
	int fd;
	bool bound;
	struct stat socket; /* as it was bound: another one at the same path is not ours */
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

static void wait_a_moment(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = WAIT_MS * 1000000L }, NULL);
}

static bool is_same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Is the file that we have locked the one of that name? */
static bool is_lock_ours(const struct socket_lock *lock)
{
	struct stat ours, there;

	return fstat(lock->fd, &ours) == 0 && lstat(lock->lock_path, &there) == 0 && is_same_file(&ours, &there);
}

/* 0: locked. 1: somebody else has it. The file may have been removed by its
 * last owner between open and lock: then a new one is made. */
static int try_lock(struct socket_lock *lock, struct err *err)
{
	for (;;) {
		lock->fd = open(lock->lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (lock->fd < 0 && errno == ENOENT)
			return err_set(err, ERR_NOTFOUND, "%s: the folder for this socket does not exist; make it, or choose another --socket",
				       lock->path);
		if (lock->fd < 0)
			return err_errno(err, errno, "cannot make the lock file %s", lock->lock_path);
		if (flock(lock->fd, LOCK_EX | LOCK_NB) != 0) {
			if (errno == EWOULDBLOCK)
				return 1;
			return err_errno(err, errno, "cannot lock %s", lock->lock_path);
		}
		if (is_lock_ours(lock))
			return 0;
		close(lock->fd);
		lock->fd = -1;
	}
}

/* One that answers has it for good. One that does not may be on its way out, or stopped: it is given some time. */
static int take_lock(struct socket_lock *lock, struct err *err)
{
	const double until_s = clock_seconds() + WAIT_S;

	for (;;) {
		int code = try_lock(lock, err);

		if (code <= 0)
			return code;
		bool stopping;
		int pid = read_lock(lock->fd, &stopping);
		close(lock->fd);
		lock->fd = -1;
		if (!stopping && answers(lock->path))
			return err_set(err, ERR_BUSY, "another preprocessd (pid %d) serves %s; stop it with prepctl shutdown --socket %s, or choose "
				       "another --socket", pid, lock->path, lock->path);
		if (clock_seconds() >= until_s)
			return err_set(err, ERR_BUSY, "another preprocessd (pid %d) has %s and does not answer: it is starting, busy, ending, or stopped "
				       "(kill -CONT %d wakes it); wait for it, or choose another --socket", pid, lock->path, pid);
		wait_a_moment();
	}
}

static void lock_free(struct socket_lock *lock)
{
	if (lock->fd >= 0)
		close(lock->fd);
	mem_free(lock->path);
	mem_free(lock->lock_path);
	mem_free(lock);
}

/* The path's length was checked. A socket of its own that is not connected yet, or an error. */
static int make_socket(const char *path, struct sockaddr_un *address, struct err *err)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	*address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(address->sun_path, path, strlen(path));
	return fd < 0 ? err_errno(err, errno, "cannot make a socket") : fd;
}

/* *listens: a process takes clients at path, *pid if the system says which one. */
static int find_listener(const char *path, bool *listens, int *pid, struct err *err)
{
	struct sockaddr_un address;
	struct ucred peer = { .pid = 0 };
	socklen_t size = sizeof(peer);
	int fd = make_socket(path, &address, err);

	if (fd < 0)
		return fd;
	int reason = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 ? 0 : errno;
	*listens = reason == 0 || reason == EAGAIN; /* that is: too many wait already */
	if (reason == 0 && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0)
		*pid = (int)peer.pid;
	close(fd);
	if (!*listens && reason != ECONNREFUSED && reason != ENOENT)
		return err_errno(err, reason, "cannot find out whether a process listens at %s; choose another --socket", path);
	return 0;
}

/* We hold the lock, but somebody may have removed the lock file of a daemon that lives, and other programs have none. One that
 * was killed may lose its lock a moment before its socket. */
static int check_listener(const char *path, struct err *err)
{
	bool listens = false;
	int pid = 0;

	for (int tries = 0; tries < LISTENER_TRIES; tries++) {
		int code = find_listener(path, &listens, &pid, err);

		if (code != 0 || !listens)
			return code;
		wait_a_moment();
	}
	return err_set(err, ERR_BUSY, "a process (pid %d) listens at %s, though nobody holds %s.lock; if it is a preprocessd, stop it with "
		       "prepctl shutdown --socket %s, else choose another --socket", pid, path, path, path);
}

/* What a killed daemon left behind makes room. */
static int remove_stale(const char *path, struct err *err)
{
	struct stat info;
	int code;

	if (lstat(path, &info) != 0)
		return errno == ENOENT ? 0 : err_errno(err, errno, "%s", path);
	if (!S_ISSOCK(info.st_mode))
		return err_set(err, ERR_EXISTS, "%s: there is a file of this name that is no socket; remove it or choose another "
			       "--socket", path);
	if ((code = check_listener(path, err)) != 0)
		return code;
	if (unlink(path) != 0 && errno != ENOENT)
		return err_errno(err, errno, "cannot remove the socket that an earlier daemon left at %s", path);
	return 0;
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
	if (strlen(path) > PATHS_SOCKET_BYTES_MAX)
		code = err_set(err, ERR_LIMIT, "%s: a socket path of %zu bytes, the system allows %d; choose a shorter --socket", path,
			       strlen(path), PATHS_SOCKET_BYTES_MAX);
	else
		code = take_lock(lock, err);
	if (code == 0 && (code = remove_stale(path, err)) != 0)
		unlink(lock->lock_path);
	if (code != 0) {
		lock_free(lock);
		return code;
	}
	write_lock(lock, "");
	*out = lock;
	return 0;
}

int socket_listen(struct socket_lock *lock, bool for_groups, int *out_fd, struct err *err)
{
	struct sockaddr_un address;
	int code = 0, fd = make_socket(lock->path, &address, err);

	if (fd < 0)
		return fd;
	/* So that it never exists with another mode. With two groups the mode cannot say who may connect: admit() does. */
	mode_t mask = umask(for_groups ? 0111 : 0177);
	int bound = bind(fd, (struct sockaddr *)&address, sizeof(address));
	int reason = errno;
	umask(mask);
	if (bound != 0) {
		code = err_errno(err, reason, "cannot make the socket %s", lock->path);
	} else {
		lock->bound = lstat(lock->path, &lock->socket) == 0;
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
	struct stat there;

	/* Ours may have been removed, and a successor's stand there. */
	if (lock->bound && lstat(lock->path, &there) == 0 && is_same_file(&lock->socket, &there))
		unlink(lock->path);
	lock->bound = false;
	write_lock(lock, " stopping");
}

void socket_lock_close(struct socket_lock *lock)
{
	if (lock == NULL)
		return;
	socket_stop(lock);
	if (is_lock_ours(lock))
		unlink(lock->lock_path);
	lock_free(lock);
}
