#include "shared/client/conn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
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

enum { CONN_ARENA_BYTES_MAX = 64 << 20, CONN_BACKLOG_TRIES = 50, USER_BYTES = 4096 };
enum { START_WAIT_MS = 30000, START_POLL_MS = 20 };

void conn_init(struct conn *conn, bool (*cancelled)(void *context), void *context)
{
	*conn = (struct conn){ .fd = -1, .start_ms = CONN_START_MS, .received_fd = -1, .cancelled = cancelled, .context = context };
	frame_reader_init(&conn->in, FRAME_REPLY_BYTES_MAX);
}

void conn_close(struct conn *conn)
{
	if (conn->fd >= 0)
		close(conn->fd);
	if (conn->received_fd >= 0)
		close(conn->received_fd);
	conn->fd = -1;
	conn->received_fd = -1;
	frame_reader_free(&conn->in);
	buf_clear(&conn->out);
}

void conn_free(struct conn *conn)
{
	conn_close(conn);
	buf_free(&conn->out);
	arena_free(&conn->arena);
}

static bool is_cancelled(const struct conn *conn)
{
	return conn->cancelled != NULL && conn->cancelled(conn->context);
}

/* An ERR_UNAVAILABLE that says how to start a daemon at this socket. */
static int no_daemon(const char *socket, const char *reason, struct err *err)
{
	char *usual = NULL;
	const char *set = getenv("PREPROCESSD_SOCKET"); /* by the user, or by prepctl for a --socket in front of its verb */
	bool is_usual = (set == NULL || set[0] == '\0') && paths_socket(&usual, NULL, false, NULL) == 0 && strcmp(usual, socket) == 0;

	mem_free(usual);
	return err_set(err, ERR_UNAVAILABLE, "no preprocessd at %s (%s); start one with: preprocessd%s%s &", socket, reason,
		       is_usual ? "" : " --socket ", is_usual ? "" : socket);
}

/* There is a socket, or a folder, that is not for us. */
static int not_allowed(const char *path, struct err *err)
{
	struct stat info;

	if (stat(path, &info) != 0)
		return err_set(err, ERR_UNAVAILABLE, "%s: you may not enter its folder; a daemon for several users needs a --socket in a folder that "
			       "they can enter, or start your own with another --socket", path);
	return err_set(err, ERR_UNAVAILABLE, "%s: the socket there is user %u's and not open to you (%u); that user can let you in with "
		       "preprocessd --readers GROUP or --adders GROUP, or start your own with another --socket", path, (unsigned)info.st_uid,
		       (unsigned)geteuid());
}

/* PREPROCESSD_USER, a name or a number, says whose daemon else is to be trusted. */
static bool is_trusted(uid_t uid)
{
	const char *name = getenv("PREPROCESSD_USER");
	struct passwd entry, *found = NULL;
	char text[USER_BYTES], *end;

	if (uid == geteuid())
		return true;
	if (name == NULL || name[0] == '\0')
		return false;
	if (getpwnam_r(name, &entry, text, sizeof(text), &found) == 0 && found != NULL)
		return found->pw_uid == uid;
	unsigned long number = strtoul(name, &end, 10);
	return name[0] >= '0' && name[0] <= '9' && *end == '\0' && number == uid;
}

/* Our requests and our trust go only to a daemon of the same user, or of one that is named. */
static int check_peer(int fd, const char *path, struct err *err)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
		return err_errno(err, errno, "%s: whose socket it is", path);
	if (!is_trusted(peer.uid))
		return err_set(err, ERR_UNAVAILABLE, "%s: the daemon there runs as user %u, not as yours (%u); to trust its data set "
			       "PREPROCESSD_USER=%u, or start your own with another --socket", path, (unsigned)peer.uid,
			       (unsigned)geteuid(), (unsigned)peer.uid);
	return 0;
}

/* The lock beside the socket is taken before the daemon listens; a word in it says when it is on its way out. A process id says
 * nothing: that of a daemon that was killed may be another's by now. */
static bool has_lock(const char *path, bool *ending)
{
	char lock[PATHS_SOCKET_BYTES_MAX + sizeof(".lock")], text[64] = "";
	int fd;

	snprintf(lock, sizeof(lock), "%s.lock", path);
	fd = open(lock, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return false;
	bool held = flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
	*ending = read(fd, text, sizeof(text) - 1) > 0 && strstr(text, "stopping") != NULL;
	close(fd);
	return held;
}

static bool is_starting(const char *path)
{
	bool ending;

	return has_lock(path, &ending) && !ending;
}

bool conn_daemon_ends(const char *socket)
{
	bool ending;

	return has_lock(socket, &ending) && ending;
}

/* *absent: nobody listens there. */
static int connect_to(struct conn *conn, const char *path, bool *absent, struct err *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	size_t bytes = strlen(path);

	if (bytes > PATHS_SOCKET_BYTES_MAX)
		return err_set(err, ERR_LIMIT, "%s: a socket path of %zu bytes, the system allows %d; choose a shorter --socket",
			       path, bytes, PATHS_SOCKET_BYTES_MAX);
	memcpy(address.sun_path, path, bytes);
	conn->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (conn->fd < 0)
		return err_errno(err, errno, "cannot make a socket");
	for (int tries = 0; connect(conn->fd, (struct sockaddr *)&address, sizeof(address)) != 0; tries++) {
		int reason = errno;

		*absent = reason == ENOENT || reason == ECONNREFUSED;
		if (reason == EACCES)
			return not_allowed(path, err);
		if (reason != EAGAIN && reason != EINTR)
			return no_daemon(path, strerror(reason), err);
		/* The daemon's queue of new clients is full: it lives, but is behind. */
		if (tries == CONN_BACKLOG_TRIES)
			return err_set(err, ERR_UNAVAILABLE, "%s: the daemon there takes no new clients", path);
		if (is_cancelled(conn))
			return err_set(err, ERR_CANCELLED, "cancelled");
		nanosleep(&(struct timespec){ .tv_nsec = CONN_POLL_MS * 1000000L }, NULL);
	}
	return check_peer(conn->fd, path, err);
}

static int connect_soon(struct conn *conn, const char *path, struct err *err)
{
	bool absent = false;
	int code = connect_to(conn, path, &absent, err);

	for (int waited = 0; code != 0 && absent && conn->start_ms > 0; waited += START_POLL_MS) {
		if (waited >= START_WAIT_MS || (waited >= conn->start_ms && !is_starting(path)))
			break;
		if (is_cancelled(conn))
			return err_set(err, ERR_CANCELLED, "cancelled");
		nanosleep(&(struct timespec){ .tv_nsec = START_POLL_MS * 1000000L }, NULL);
		close(conn->fd);
		conn->fd = -1;
		absent = false;
		code = connect_to(conn, path, &absent, err);
	}
	return code;
}

int conn_open(struct conn *conn, const char *socket, const char *client_name, struct err *err)
{
	Wire__Hello hello = WIRE__HELLO__INIT;
	Wire__Request request = WIRE__REQUEST__INIT;
	Wire__Reply *reply;
	char name[WIRE_CLIENT_NAME_BYTES_MAX + 1];
	int code = 0;

	conn_close(conn);
	conn->broken = false;
	if (conn->arena.first == NULL)
		code = arena_init(&conn->arena, CONN_ARENA_BYTES_MAX, err);
	if (code == 0)
		code = connect_soon(conn, socket, err);
	if (code != 0)
		goto out;
	hello.version = WIRE_VERSION;
	hello.client_name = wire_text(name, sizeof(name), client_name, strlen(client_name));
	request.verb_case = WIRE__REQUEST__VERB_HELLO;
	request.hello = &hello;
	code = conn_call(conn, &request, WIRE__REPLY__BODY_HELLO, &reply, err);
	if (code == 0 && reply->hello->version != WIRE_VERSION)
		code = err_set(err, ERR_MISMATCH, "%s: the daemon there speaks protocol version %u, this program %d; "
			       "restart it with the preprocessd that belongs to this program", socket, reply->hello->version,
			       WIRE_VERSION);
out:
	if (code != 0)
		conn_close(conn);
	return code;
}

static int broken(struct conn *conn, struct err *err, const char *what)
{
	conn_close(conn);
	conn->broken = true;
	return err_set(err, ERR_UNAVAILABLE, "the connection to preprocessd broke (%s)", what);
}

/* Waits for an event. *ready: it came. */
static int wait_for(struct conn *conn, short events, double deadline_s, bool *ready, struct err *err)
{
	*ready = false;
	for (;;) {
		struct pollfd poller = { .fd = conn->fd, .events = events };
		int ms = CONN_POLL_MS;

		if (is_cancelled(conn))
			return err_set(err, ERR_CANCELLED, "cancelled");
		if (deadline_s >= 0) {
			double left_s = deadline_s - clock_seconds();

			if (left_s <= 0)
				ms = 0;
			else if (left_s * 1000 < ms)
				ms = (int)(left_s * 1000) + 1;
		}
		int got = poll(&poller, 1, ms);
		if (got < 0 && errno != EINTR)
			return err_errno(err, errno, "waiting for preprocessd");
		if (got > 0) {
			*ready = true;
			return 0;
		}
		if (deadline_s >= 0 && clock_seconds() >= deadline_s)
			return 0;
	}
}

int conn_queue(struct conn *conn, const Wire__Request *request, struct err *err)
{
	size_t before = conn->out.size;

	if (conn->fd < 0)
		return err_set(err, ERR_UNAVAILABLE, "not connected to preprocessd");
	int code = frame_append(&conn->out, &request->base, err);
	if (code == 0 && conn->out.size - before > FRAME_REQUEST_BYTES_MAX) {
		code = err_set(err, ERR_LIMIT, "a request of %zu bytes, the limit is %d", conn->out.size - before,
			       FRAME_REQUEST_BYTES_MAX);
		conn->out.size = before;
	}
	return code;
}

int conn_flush(struct conn *conn, struct err *err)
{
	size_t sent = 0;
	bool ready;

	while (sent < conn->out.size) {
		ssize_t put = send(conn->fd, conn->out.data + sent, conn->out.size - sent, MSG_NOSIGNAL);

		if (put >= 0) {
			sent += (size_t)put;
			continue;
		}
		if (errno == EINTR)
			continue;
		/* The other side closed, perhaps with a word why that is still there to be read:
		 * conn_receive() finds it, or the end. */
		if (errno == EPIPE || errno == ECONNRESET)
			break;
		if (errno != EAGAIN)
			return broken(conn, err, strerror(errno));
		int code = wait_for(conn, POLLOUT, -1, &ready, err);
		if (code != 0) {
			conn_close(conn); /* in the middle of a frame: no use any more */
			return code;
		}
	}
	buf_clear(&conn->out);
	return 0;
}

static void keep_descriptor(struct conn *conn, struct msghdr *message)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
		int fd;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(fd)))
			continue;
		memcpy(&fd, CMSG_DATA(c), sizeof(fd));
		if (conn->received_fd >= 0)
			close(conn->received_fd);
		conn->received_fd = fd;
	}
}

/* Takes what has arrived; nothing is fine. */
static int receive_some(struct conn *conn, struct err *err)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	char *at;
	size_t room;
	int code = frame_reader_room(&conn->in, &at, &room, err);

	if (code != 0)
		return code;
	struct iovec piece = { .iov_base = at, .iov_len = room };
	struct msghdr message = {
		.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)
	};
	ssize_t got = recvmsg(conn->fd, &message, MSG_CMSG_CLOEXEC);
	if (got < 0)
		return errno == EINTR || errno == EAGAIN ? 0 : broken(conn, err, strerror(errno));
	if (got == 0)
		return broken(conn, err, "it was closed from the other side");
	keep_descriptor(conn, &message);
	frame_reader_received(&conn->in, (size_t)got);
	return 0;
}

int conn_receive(struct conn *conn, double timeout_s, Wire__Reply **out, struct err *err)
{
	double deadline_s = timeout_s < 0 ? -1 : clock_seconds() + timeout_s;
	const uint8_t *bytes;
	size_t size;
	bool got, ready;
	int code;

	*out = NULL;
	if (conn->fd < 0)
		return err_set(err, ERR_UNAVAILABLE, "not connected to preprocessd");
	for (;;) {
		code = frame_reader_next(&conn->in, &bytes, &size, &got, err);
		if (code != 0)
			break;
		if (got) {
			arena_reset(&conn->arena);
			code = wire_decode(&wire__reply__descriptor, &conn->arena, bytes, size, (ProtobufCMessage **)out, err);
			break;
		}
		code = wait_for(conn, POLLIN, deadline_s, &ready, err);
		if (code != 0 || !ready)
			return code;
		code = receive_some(conn, err);
		if (code != 0)
			return code;
	}
	if (code != 0) {
		err_prefix(err, "preprocessd sent");
		conn_close(conn);
	}
	return code;
}

int conn_error(const Wire__Reply *reply, struct err *err)
{
	int code = (int)reply->error->code;

	return err_set(err, code > 0 && code <= -ERR_FULL ? -code : ERR_PROTOCOL, "%s", reply->error->message);
}

int conn_call(struct conn *conn, const Wire__Request *request, Wire__Reply__BodyCase expected, Wire__Reply **out,
	      struct err *err)
{
	int code = conn_queue(conn, request, err);

	if (code == 0)
		code = conn_flush(conn, err);
	for (;;) {
		if (code == 0)
			code = conn_receive(conn, -1, out, err);
		if (code != 0)
			return code;
		if ((*out)->body_case != WIRE__REPLY__BODY_PROGRESS)
			break;
		if (conn->progress != NULL)
			conn->progress(conn->progress_context, (*out)->progress);
	}
	if ((*out)->body_case == WIRE__REPLY__BODY_ERROR)
		return conn_error(*out, err);
	if ((*out)->body_case != expected) {
		conn_close(conn);
		return err_set(err, ERR_PROTOCOL, "preprocessd sent a reply of kind %d where %d was due",
			       (int)(*out)->body_case, (int)expected);
	}
	return 0;
}
