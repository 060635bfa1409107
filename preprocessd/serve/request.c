/*
 * request.c - what may be asked when, and who does it.
 *
 * ReadBatch goes to the feed at once. Everything else is a control: it runs on
 * a worker (or a thread of its own) with its own copy of the request, packs
 * its reply there, and comes back to the loop, which sends it.
 */
#include <stdio.h>
#include <string.h>

#include "preprocessd/serve/request_parts.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"

void control_free(struct control *control)
{
	wire__request__free_unpacked(control->request, NULL);
	buf_free(&control->reply);
	mem_free(control);
}

/* The control's work has ended: its reply goes out, and the connection is free for the next. */
static void control_done(struct completion *completion)
{
	struct control *control = (struct control *)(void *)((char *)completion - offsetof(struct control, completion));
	struct connection *connection = control->connection;

	connection->control = NULL;
	connection->doing[0] = '\0';
	if (control->code != 0)
		connection_reply_error(connection, control->request->id, &control->err);
	else if (control->reply.size > 0 && control->then == NULL)
		connection_send_frame(connection, &control->reply);
	else
		control->then(control);
	control_free(control);
	connection_settle(connection);
}

static void control_run(struct worker *worker, struct pool_job *job)
{
	struct control *control = (struct control *)(void *)job;
	struct pipeline *pipeline = worker->pipeline;

	control->code = control->work(worker, control, &control->err);
	pipeline->post(pipeline->post_context, &control->completion);
}

int request_pack(struct control *control, Wire__Reply__BodyCase kind, void *body, struct err *err)
{
	Wire__Reply reply = WIRE__REPLY__INIT;

	reply.id = control->request->id;
	reply.body_case = kind;
	reply.done = body; /* the members of the oneof are pointers in one place */
	return frame_append(&control->reply, &reply.base, err);
}

void request_reply_with(struct control *control, int fd)
{
	struct connection *connection = control->connection;
	struct buf swap = connection->opened;

	connection->opened = control->reply;
	control->reply = swap;
	connection->opened_fd = fd;
	connection_send_opened(connection);
}

static void fail_protocol(struct connection *connection, uint64_t id, const char *what)
{
	struct err err;

	err_set(&err, ERR_PROTOCOL, "%s", what);
	log_warn("client %s (pid %u) broke the protocol: %s; closing", connection->name, connection->pid, what);
	connection_reply_error(connection, id, &err);
	connection_end(connection);
}

static void read_batch(struct connection *connection, uint64_t id, const Wire__ReadBatch *request)
{
	struct err err;
	int code = feed_read(connection->feed, id, request->epoch, request->step, request->slot, request->generation, &err);

	if (code == ERR_PROTOCOL)
		fail_protocol(connection, id, err.message);
	else if (code != 0)
		connection_reply_error(connection, id, &err);
}

static void greet(struct connection *connection, const Wire__Request *request)
{
	Wire__HelloReply hello = WIRE__HELLO_REPLY__INIT;
	Wire__Reply reply = WIRE__REPLY__INIT;
	struct err err;

	if (request->hello->version != WIRE_VERSION) {
		err_set(&err, ERR_MISMATCH, "the client speaks protocol version %u, this preprocessd %d; use programs of the same "
			"release", request->hello->version, WIRE_VERSION);
		connection_reply_error(connection, request->id, &err);
		connection_end(connection);
		return;
	}
	connection->greeted = true;
	uv_timer_stop(&connection->timer);
	wire_text(connection->name, sizeof(connection->name), request->hello->client_name, strlen(request->hello->client_name));
	log_clean(connection->name, strlen(connection->name)); /* it will be printed on terminals */
	hello.version = WIRE_VERSION;
	hello.program = (char *)(uintptr_t)SERVER_PROGRAM;
	hello.pid = (uint32_t)uv_os_getpid();
	hello.cache_path = wire_string(connection->server->cache_path);
	reply.id = request->id;
	reply.body_case = WIRE__REPLY__BODY_HELLO;
	reply.hello = &hello;
	connection_reply(connection, &reply);
}

/* What only the daemon's own user may ask for, and what adders may as well. */
static int check_rights(const struct connection *connection, Wire__Request__VerbCase verb, struct err *err)
{
	bool add = verb == WIRE__REQUEST__VERB_ADD_DATASET || verb == WIRE__REQUEST__VERB_PUT_FEATURES;
	bool owner = verb == WIRE__REQUEST__VERB_REMOVE_DATASET || verb == WIRE__REQUEST__VERB_SHUTDOWN ||
		     verb == WIRE__REQUEST__VERB_VERIFY_CACHE || verb == WIRE__REQUEST__VERB_COLLECT_GARBAGE;

	if ((owner && !connection->rights.all) || (add && !connection->may_add))
		return err_set(err, ERR_UNAVAILABLE, "user %u may not do this here: %s", (unsigned)connection->rights.uid,
			       add ? "adding takes membership in the group of preprocessd --adders" :
				     "it is for the user who runs this preprocessd");
	return 0;
}

static void start_control(struct connection *connection, const Wire__Request *request, const uint8_t *bytes, size_t size)
{
	struct control *control = mem_zalloc(sizeof(*control));
	struct err err;
	int code = 0;

	/* The arena is for the next request; this one may take long. */
	if (control == NULL || (control->request = wire__request__unpack(NULL, size, bytes)) == NULL) {
		code = err_nomem(&err, size);
		goto out;
	}
	control->connection = connection;
	control->job.run = control_run;
	control->completion.run = control_done;
	switch (request->verb_case) {
	case WIRE__REQUEST__VERB_ADD_DATASET:
		code = task_start_add(connection, control, &err);
		goto out;
	case WIRE__REQUEST__VERB_VERIFY_CACHE:
	case WIRE__REQUEST__VERB_COLLECT_GARBAGE:
		code = task_start_upkeep(connection, control, &err);
		goto out;
	case WIRE__REQUEST__VERB_LIST_DATASETS:
		control->work = request_list;
		break;
	case WIRE__REQUEST__VERB_SHOW_DATASET:
		control->work = request_show;
		break;
	case WIRE__REQUEST__VERB_LIST_FAILURES:
		control->work = request_failures;
		break;
	case WIRE__REQUEST__VERB_STATUS:
		control->work = request_status;
		control->then = request_status_then;
		break;
	case WIRE__REQUEST__VERB_REMOVE_DATASET:
		control->work = request_remove;
		break;
	case WIRE__REQUEST__VERB_OPEN_STREAM:
		control->work = request_open;
		control->then = request_open_then;
		break;
	case WIRE__REQUEST__VERB_GET_FEATURES:
		control->work = request_get_features;
		control->then = request_get_features_then;
		break;
	case WIRE__REQUEST__VERB_PUT_FEATURES:
		control->work = request_put_features;
		break;
	case WIRE__REQUEST__VERB_EXPLAIN_PICTURE:
		control->work = request_explain;
		break;
	case WIRE__REQUEST__VERB_DESCRIBE_SAMPLES:
		control->work = request_samples;
		break;
	default:
		code = err_set(&err, ERR_UNSUPPORTED, "a request of kind %d, which this preprocessd does not know",
			       (int)request->verb_case);
		goto out;
	}
	connection->control = control;
	pool_submit(connection->server->pipeline->pool, &control->job, POOL_CONTROL);
out:
	if (code == 0)
		return;
	connection_reply_error(connection, request->id, &err);
	if (control != NULL)
		control_free(control);
}

static void shut_down(struct connection *connection, const Wire__Request *request)
{
	Wire__Done done = WIRE__DONE__INIT;
	Wire__Reply reply = WIRE__REPLY__INIT;
	char why[WIRE_CLIENT_NAME_BYTES_MAX + 32];

	reply.id = request->id;
	reply.body_case = WIRE__REPLY__BODY_DONE;
	reply.done = &done;
	connection_reply(connection, &reply);
	snprintf(why, sizeof(why), "asked by pid %u", connection->pid);
	server_drain(connection->server, why);
}

void request_handle(struct connection *connection, const Wire__Request *request, const uint8_t *bytes, size_t size)
{
	struct err err;

	if (!connection->greeted) {
		if (request->verb_case == WIRE__REQUEST__VERB_HELLO)
			greet(connection, request);
		else
			fail_protocol(connection, request->id, "the first request was not Hello");
	} else if (connection->control != NULL || connection->opened_fd >= 0) {
		fail_protocol(connection, request->id, "a request while another was under way");
	} else if (connection->server->draining) {
		err_set(&err, ERR_UNAVAILABLE, "preprocessd is shutting down");
		connection_reply_error(connection, request->id, &err);
		connection_settle(connection);
	} else if (connection->feed != NULL) {
		if (request->verb_case == WIRE__REQUEST__VERB_READ_BATCH)
			read_batch(connection, request->id, request->read_batch);
		else
			fail_protocol(connection, request->id, "a stream takes nothing but ReadBatch");
	} else if (request->verb_case == WIRE__REQUEST__VERB_READ_BATCH) {
		fail_protocol(connection, request->id, "ReadBatch before OpenStream");
	} else if (request->verb_case == WIRE__REQUEST__VERB_HELLO) {
		fail_protocol(connection, request->id, "Hello twice");
	} else if (check_rights(connection, request->verb_case, &err) != 0) {
		connection_reply_error(connection, request->id, &err);
	} else if (request->verb_case == WIRE__REQUEST__VERB_SHUTDOWN) {
		shut_down(connection, request);
	} else {
		start_control(connection, request, bytes, size);
	}
}
