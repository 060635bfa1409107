/* internal.h - the server's structures, for serve/ alone. Everything here belongs to the loop thread. */
#ifndef PREPROCESSD_SERVE_INTERNAL_H
#define PREPROCESSD_SERVE_INTERNAL_H

#include <stdbool.h>
#include <uv.h>

#include "preprocessd/pipeline/add.h"
#include "preprocessd/pipeline/feed.h"
#include "preprocessd/pipeline/pipeline.h"
#include "preprocessd/pipeline/pool.h"
#include "preprocessd/pipeline/upkeep.h"
#include "preprocessd/serve/server.h"
#include "preprocessd/serve/socket.h"
#include "shared/wire/frame.h"
#include "wire.pb-c.h"

enum {
	HELLO_MS = 10000,       /* that a client has to say Hello */
	PROGRESS_MS = 100,
	FD_RETRY_MS = 5,
	DRAIN_MS = 5000,        /* that clients have to take their last replies */
	ARENA_BYTES_MAX = 4 << 20,
	UNSENT_BYTES_MAX = 1 << 20, /* beyond it nothing more is read from a client */
	ADD_PATHS_MAX = 128,
	STRANGER_NOTE_S = 10,   /* between lines about them in the log */
	CLIENT_DESCRIPTORS = 4, /* that a client may need beside its connection: pictures, slots */
};

struct server {
	const struct server_options *options;
	uv_loop_t loop;
	uv_pipe_t listener;
	uv_async_t wakeup;
	uv_signal_t sigterm, sigint, sighup;
	uv_timer_t drain_timer;
	struct socket_lock *lock;
	struct cache *cache;
	char *cache_path;
	struct pipeline *pipeline;
	struct connection *connections; /* list */
	int connection_count;           /* of those that were admitted */
	uint64_t strangers;             /* who were not */
	double stranger_noted_s;        /* when the log last said so */
	uv_pipe_t spare;     /* takes a client for whom there is no memory, to be closed at once */
	bool spare_closing, spare_wanted;
	bool draining, drained;
	double start_s;
	/* what other threads have finished */
	uv_mutex_t completions_lock;
	struct completion *completions, **completions_last;
};

/* A request that takes a worker or a thread of its own. */
struct control {
	struct pool_job job;
	struct completion completion;
	struct connection *connection;
	Wire__Request *request; /* decoded with malloc */
	int (*work)(struct worker *worker, struct control *control, struct err *err); /* fills reply; on a worker */
	void (*then)(struct control *control); /* on the loop, after work; may be NULL */
	struct buf reply;    /* one frame; empty: then() makes it */
	struct feed *feed;   /* OpenStream */
	struct add *add;     /* AddDataset */
	struct upkeep *upkeep; /* VerifyCache, CollectGarbage */
	int fd;              /* GetFeatures: after work, the reply's */
	uint64_t datasets;   /* Status */
	int code;
	struct err err;
};

struct connection {
	struct server *server;
	struct connection *next, **link;
	uv_pipe_t pipe;
	uv_timer_t timer; /* Hello, progress, or another try with a descriptor */
	uv_write_t write;
	struct frame_reader in;
	struct arena arena;
	struct buf unsent, sending; /* sending belongs to uv_write() while write_active */
	bool write_active;
	bool admitted; /* its user may be here, so it counts as a client */
	bool greeted;
	bool reading;
	bool ending;  /* nothing more is read; closed when all is sent */
	bool closing; /* uv_close() was called */
	int handles;  /* not closed yet */
	struct control *control; /* under way, or NULL */
	struct feed *feed;
	struct buf opened;       /* StreamOpened, to be sent with opened_fd */
	int opened_fd;           /* -1: none */
	char name[WIRE_CLIENT_NAME_BYTES_MAX + 1];
	char doing[2 * MANIFEST_NAME_BYTES_MAX + 64];
	uint32_t pid;
	struct rights rights;   /* of its user; all: the daemon's own user */
	bool may_add;
	uint64_t batches;
	uint64_t put_failures; /* the pipeline's, as of the last flush of features */
	double since_s;
};

/* connection.c */
void connection_accept(struct server *server);
void connection_close(struct connection *connection);
/* Closes it when all is sent. */
void connection_end(struct connection *connection);
/* Appends a reply; the connection closes itself if it cannot. */
void connection_reply(struct connection *connection, Wire__Reply *reply);
void connection_reply_error(struct connection *connection, uint64_t id, const struct err *err);
void connection_send_frame(struct connection *connection, const struct buf *frame);
/* Sends the StreamOpened frame in connection->opened with its descriptor. */
void connection_send_opened(struct connection *connection);
/* After something has ended: a draining server's idle connections go. */
void connection_settle(struct connection *connection);
bool connection_busy(const struct connection *connection);

/* task.c */
MUST_USE int task_start_add(struct connection *connection, struct control *control, struct err *err);
MUST_USE int task_start_upkeep(struct connection *connection, struct control *control, struct err *err);
void control_cancel(struct control *control); /* NULL is fine */

/* request.c */
void request_handle(struct connection *connection, const Wire__Request *request, const uint8_t *bytes, size_t size);
void control_free(struct control *control);

/* server.c */
void server_drain(struct server *server, const char *why);
/* Whether so many descriptors are left. */
MUST_USE int server_check_descriptors(int wanted, struct err *err);
void server_check_drained(struct server *server);

#endif
