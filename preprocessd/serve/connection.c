#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "preprocessd/serve/internal.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "shared/base/plural.h"

/* --- the end of a connection ---------------------------------------------------------- */

static void connection_free(struct connection *connection)
{
	struct server *server = connection->server;

	*connection->link = connection->next;
	if (connection->next != NULL)
		connection->next->link = connection->link;
	server->connection_count -= connection->admitted;
	frame_reader_free(&connection->in);
	arena_free(&connection->arena);
	buf_free(&connection->unsent);
	buf_free(&connection->sending);
	buf_free(&connection->opened);
	if (connection->opened_fd >= 0)
		close(connection->opened_fd);
	mem_free(connection);
	server_check_drained(server);
}

/* Freed when both handles are closed and no control request points at it any more. */
static void free_if_done(struct connection *connection)
{
	if (connection->closing && connection->handles == 0 && connection->control == NULL)
		connection_free(connection);
}

static void handle_closed(uv_handle_t *handle)
{
	struct connection *connection = handle->data;

	connection->handles--;
	free_if_done(connection);
}

void connection_close(struct connection *connection)
{
	if (connection->closing)
		return;
	connection->closing = true;
	log_debug("client %s (pid %u) gone", connection->name, connection->pid);
	feed_close(connection->feed);
	connection->feed = NULL;
	control_cancel(connection->control);
	uv_close((uv_handle_t *)&connection->pipe, handle_closed);
	uv_close((uv_handle_t *)&connection->timer, handle_closed);
}

static void stop_reading(struct connection *connection)
{
	if (connection->reading)
		uv_read_stop((uv_stream_t *)&connection->pipe);
	connection->reading = false;
}

/* The kernel has everything. libuv says so a turn of the loop later, in which many who are turned away would hold a descriptor each. */
static bool is_written(const struct connection *connection)
{
	return !connection->write_active || uv_stream_get_write_queue_size((const uv_stream_t *)&connection->pipe) == 0;
}

void connection_end(struct connection *connection)
{
	if (connection->closing)
		return;
	connection->ending = true;
	stop_reading(connection);
	if (is_written(connection) && connection->unsent.size == 0 && connection->opened_fd < 0)
		connection_close(connection);
}

bool connection_busy(const struct connection *connection)
{
	return connection->control != NULL || (connection->feed != NULL && feed_busy(connection->feed)) ||
	       connection->opened_fd >= 0;
}

void connection_settle(struct connection *connection)
{
	if (connection->closing)
		free_if_done(connection);
	else if (connection->server->draining && !connection_busy(connection))
		connection_end(connection);
}

/* --- sending ------------------------------------------------------------------------------ */

static void start_reading(struct connection *connection);
static void flush(struct connection *connection);

static void write_done(uv_write_t *write, int status)
{
	struct connection *connection = write->data;

	connection->write_active = false;
	buf_clear(&connection->sending);
	if (connection->closing)
		return;
	if (status < 0) {
		connection_close(connection);
		return;
	}
	if (connection->opened_fd >= 0)
		connection_send_opened(connection);
	flush(connection);
}

static void flush(struct connection *connection)
{
	if (connection->closing || connection->write_active)
		return;
	if (connection->unsent.size == 0) {
		if (connection->ending && connection->opened_fd < 0)
			connection_close(connection);
		else if (!connection->ending)
			start_reading(connection);
		return;
	}
	struct buf swap = connection->sending;
	connection->sending = connection->unsent;
	connection->unsent = swap;
	uv_buf_t piece = uv_buf_init(connection->sending.data, (unsigned)connection->sending.size);
	connection->write.data = connection;
	connection->write_active = true;
	if (uv_write(&connection->write, (uv_stream_t *)&connection->pipe, &piece, 1, write_done) != 0) {
		connection->write_active = false;
		connection_close(connection);
	}
}

static void queued(struct connection *connection, int code, const struct err *err)
{
	if (code != 0) {
		log_warn("client %s (pid %u): cannot answer (%s); closing", connection->name, connection->pid, err->message);
		connection_close(connection);
		return;
	}
	if (connection->unsent.size > UNSENT_BYTES_MAX)
		stop_reading(connection);
	flush(connection);
}

void connection_reply(struct connection *connection, Wire__Reply *reply)
{
	struct err err;

	if (!connection->closing)
		queued(connection, frame_append(&connection->unsent, &reply->base, &err), &err);
}

void connection_send_frame(struct connection *connection, const struct buf *frame)
{
	struct err err;

	if (!connection->closing)
		queued(connection, buf_add(&connection->unsent, frame->data, frame->size, &err), &err);
}

void connection_reply_error(struct connection *connection, uint64_t id, const struct err *err)
{
	char message[ERR_MESSAGE_BYTES];
	Wire__Error error = WIRE__ERROR__INIT;
	Wire__Reply reply = WIRE__REPLY__INIT;

	error.code = (Wire__ErrorCode)-err->code;
	error.message = wire_text(message, sizeof(message), err->message, strlen(err->message));
	reply.id = id;
	reply.body_case = WIRE__REPLY__BODY_ERROR;
	reply.error = &error;
	connection_reply(connection, &reply);
}

static void retry_opened(uv_timer_t *timer)
{
	connection_send_opened(timer->data);
}

/* libuv passes no descriptors of this kind, so the frame goes out by sendmsg()
 * on the pipe's own descriptor. That is in order only while nothing is being written. */
void connection_send_opened(struct connection *connection)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { .bytes = { 0 } };
	struct iovec piece = { .iov_base = connection->opened.data, .iov_len = connection->opened.size };
	struct msghdr message = {
		.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	uv_os_fd_t fd;
	struct err err;

	if (connection->closing || connection->write_active || connection->unsent.size > 0)
		return; /* write_done() comes back to it */
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &connection->opened_fd, sizeof(int));
	if (uv_fileno((uv_handle_t *)&connection->pipe, &fd) != 0) {
		connection_close(connection);
		return;
	}
	ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (sent < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOBUFS || errno == ETOOMANYREFS)) {
		uv_timer_start(&connection->timer, retry_opened, FD_RETRY_MS, 0);
		return;
	}
	close(connection->opened_fd);
	connection->opened_fd = -1;
	if (sent < 0) {
		connection_close(connection);
		return;
	}
	int code = buf_add(&connection->unsent, connection->opened.data + sent, connection->opened.size - (size_t)sent, &err);
	buf_free(&connection->opened);
	queued(connection, code, &err);
	connection_settle(connection);
}

/* --- receiving ---------------------------------------------------------------------------------- */

/* What a client sent is no request of ours: it hears why, and is cut off. */
static void refuse(struct connection *connection, const struct err *err)
{
	log_warn("client %s (pid %u) broke the protocol: %s; closing", connection->name, connection->pid, err->message);
	connection_reply_error(connection, 0, err);
	connection_end(connection);
}

static void take_frames(struct connection *connection)
{
	ProtobufCMessage *request;
	const uint8_t *bytes;
	struct err err;
	size_t size;
	bool got;

	while (!connection->closing && !connection->ending) {
		int code = frame_reader_next(&connection->in, &bytes, &size, &got, &err);

		if (code == 0 && !got)
			return;
		arena_reset(&connection->arena);
		if (code == 0)
			code = wire_decode(&wire__request__descriptor, &connection->arena, bytes, size, &request, &err);
		if (code == 0)
			request_handle(connection, (const Wire__Request *)request, bytes, size);
		else
			refuse(connection, &err);
	}
}

static void alloc_room(uv_handle_t *handle, size_t suggested, uv_buf_t *out)
{
	struct connection *connection = handle->data;
	struct err err;
	char *at;
	size_t room;

	(void)suggested;
	*out = uv_buf_init(NULL, 0); /* without memory libuv reports ENOBUFS, and the client is closed */
	if (frame_reader_room(&connection->in, &at, &room, &err) == 0)
		*out = uv_buf_init(at, (unsigned)(room < UINT32_MAX ? room : UINT32_MAX));
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf)
{
	struct connection *connection = stream->data;

	(void)buf;
	if (got == 0)
		return;
	if (got < 0) {
		if (got != UV_EOF && got != UV_ECONNRESET)
			log_debug("client %s: %s", connection->name, uv_strerror((int)got));
		connection_close(connection);
		return;
	}
	frame_reader_received(&connection->in, (size_t)got);
	take_frames(connection);
}

static void start_reading(struct connection *connection)
{
	if (connection->reading || connection->closing)
		return;
	connection->reading = uv_read_start((uv_stream_t *)&connection->pipe, alloc_room, on_read) == 0;
	if (!connection->reading)
		connection_close(connection);
}

/* --- accepting ------------------------------------------------------------------------------------- */

static void no_hello(uv_timer_t *timer)
{
	struct connection *connection = timer->data;

	if (!connection->greeted) {
		log_debug("a client said nothing for %d s; closing", HELLO_MS / 1000);
		connection_close(connection);
	}
}

/* The groups that the system recorded when the peer connected, its primary one among them. */
static bool peer_groups(int fd, const struct ucred *peer, struct rights *rights)
{
	gid_t groups[RIGHTS_GROUPS_MAX];
	socklen_t size = sizeof(groups);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) != 0)
		return false; /* more than we keep, among other reasons */
	*rights = (struct rights){ .uid = peer->uid };
	for (socklen_t i = 0; i < size / sizeof(groups[0]); i++)
		rights->gids[rights->gid_count++] = groups[i];
	if (rights_in_group(rights, peer->gid))
		return true;
	if (rights->gid_count == RIGHTS_GROUPS_MAX)
		return false;
	rights->gids[rights->gid_count++] = peer->gid;
	return true;
}

static bool is_member(const struct rights *rights, int64_t group)
{
	return group != SERVER_NO_GROUP && rights_in_group(rights, (uint32_t)group);
}

/* Anybody may knock, as often as they like: that must fill no disk. */
static void note_stranger(struct server *server, const struct ucred *peer)
{
	const double now = clock_seconds();

	server->strangers++;
	if (server->strangers > 1 && now - server->stranger_noted_s < STRANGER_NOTE_S)
		return;
	server->stranger_noted_s = now;
	log_warn("pid %d of user %u tried to connect and may not (%llu such attempt%s so far)", (int)peer->pid, (unsigned)peer->uid,
		 (unsigned long long)server->strangers, plural(server->strangers));
}

/* Who may come in, and with which rights. */
static bool admit(struct connection *connection)
{
	const struct server_options *options = connection->server->options;
	struct ucred peer;
	socklen_t size = sizeof(peer);
	uv_os_fd_t fd;

	if (uv_fileno((uv_handle_t *)&connection->pipe, &fd) != 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
		return false;
	connection->pid = (uint32_t)peer.pid;
	if (peer.uid == geteuid()) {
		connection->rights.all = connection->may_add = true;
		return true;
	}
	if (peer_groups(fd, &peer, &connection->rights)) {
		connection->may_add = is_member(&connection->rights, options->adders);
		if (connection->may_add || is_member(&connection->rights, options->readers))
			return true;
	}
	note_stranger(connection->server, &peer);
	return false;
}

static void turn_away(struct connection *connection)
{
	struct err err;

	err_set(&err, ERR_UNAVAILABLE, "this preprocessd serves user %u%s; ask for membership, or start your own with another --socket",
		(unsigned)geteuid(), connection->server->options->readers != SERVER_NO_GROUP ||
		connection->server->options->adders != SERVER_NO_GROUP ? " and members of its groups (--readers, --adders)" : " alone");
	connection_reply_error(connection, 0, &err);
	connection_end(connection);
}

static struct connection *connection_new(struct server *server)
{
	struct connection *connection = mem_zalloc(sizeof(*connection));

	if (connection == NULL)
		return NULL;
	connection->server = server;
	connection->opened_fd = -1;
	memcpy(connection->name, "?", 2);
	connection->since_s = clock_seconds();
	connection->put_failures = counter_get(&server->pipeline->put_failures);
	frame_reader_init(&connection->in, FRAME_REQUEST_BYTES_MAX);
	if (arena_init(&connection->arena, ARENA_BYTES_MAX, NULL) != 0) {
		mem_free(connection);
		return NULL;
	}
	CHECK(uv_pipe_init(&server->loop, &connection->pipe, 0) == 0);
	CHECK(uv_timer_init(&server->loop, &connection->timer) == 0);
	connection->pipe.data = connection;
	connection->timer.data = connection;
	connection->handles = 2;
	connection->next = server->connections;
	connection->link = &server->connections;
	if (connection->next != NULL)
		connection->next->link = &connection->next;
	server->connections = connection;
	return connection;
}

static void spare_closed(uv_handle_t *handle)
{
	struct server *server = handle->data;

	server->spare_closing = false;
	if (server->spare_wanted && !server->draining)
		connection_accept(server);
}

/* libuv announces no further client until the last one was accepted. */
static void accept_and_close(struct server *server)
{
	server->spare_wanted = server->spare_closing;
	if (server->spare_closing)
		return;
	CHECK(uv_pipe_init(&server->loop, &server->spare, 0) == 0);
	server->spare.data = server;
	server->spare_closing = true;
	if (uv_accept((uv_stream_t *)&server->listener, (uv_stream_t *)&server->spare) == 0)
		log_warn("no memory for a new client; closing it");
	uv_close((uv_handle_t *)&server->spare, spare_closed);
}

void connection_accept(struct server *server)
{
	struct connection *connection = connection_new(server);
	struct err err;

	if (connection == NULL) {
		accept_and_close(server);
		return;
	}
	if (uv_accept((uv_stream_t *)&server->listener, (uv_stream_t *)&connection->pipe) != 0) {
		connection_close(connection);
		return;
	}
	if (!admit(connection)) {
		turn_away(connection);
		return;
	}
	connection->admitted = true;
	server->connection_count++;
	if (server->connection_count > SERVER_CLIENTS_MAX || server->draining) {
		err_set(&err, ERR_UNAVAILABLE, server->draining ? "preprocessd is shutting down" :
				"preprocessd has %d clients, its limit; close one", SERVER_CLIENTS_MAX);
		connection_reply_error(connection, 0, &err);
		connection_end(connection);
		return;
	}
	/* With the last ones libuv would take clients and cut them off, without a word to anybody. */
	if (server_check_descriptors(CLIENT_DESCRIPTORS, &err) != 0) {
		log_warn("turning a client away: %s", err.message);
		err.code = ERR_UNAVAILABLE;
		err_prefix(&err, "preprocessd takes no more clients");
		connection_reply_error(connection, 0, &err);
		connection_end(connection);
		return;
	}
	uv_timer_start(&connection->timer, no_hello, HELLO_MS, 0);
	start_reading(connection);
}
