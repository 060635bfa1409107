/*
 * conn.h - one connection to preprocessd: connect, send a request, receive a reply.
 *
 * Threads:   one connection, one thread.
 * Ownership: a reply lies in the connection until the next conn_receive().
 * Limits:    frame.h. Waiting looks at `cancelled` every CONN_POLL_MS.
 * Format:    schemas/wire.proto.
 */
#ifndef SHARED_CLIENT_CONN_H
#define SHARED_CLIENT_CONN_H

#include <stdbool.h>

#include "shared/base/err.h"
#include "shared/wire/frame.h"
#include "wire.pb-c.h"

enum { CONN_POLL_MS = 100, CONN_START_MS = 300 };

struct conn {
	int fd;          /* -1: closed */
	bool broken;     /* the last one ended without our doing: the daemon died */
	int start_ms;    /* see conn_open(): CONN_START_MS, before it is called another one; 0: not at all */
	int received_fd; /* -1, or what came with SCM_RIGHTS and was not taken yet */
	struct frame_reader in;
	struct buf out;
	struct arena arena;
	bool (*cancelled)(void *context);
	void *context;
	void (*progress)(void *context, const Wire__Progress *progress); /* for conn_call(); may be NULL */
	void *progress_context;
};

/* A closed connection; conn_free() releases it. */
void conn_init(struct conn *conn, bool (*cancelled)(void *context), void *context);
/* Connects, checks the other side's user, says Hello. Closes an open one first. Where nobody listens, somebody may have typed
 * `preprocessd &` a moment ago: start_ms are waited for a sign of it, and for a daemon that starts, until it listens (30 s at most).
 * ERR_UNAVAILABLE: nobody there. ERR_MISMATCH: another protocol version. */
MUST_USE int conn_open(struct conn *conn, const char *socket, const char *client_name, struct err *err);
void conn_close(struct conn *conn);
void conn_free(struct conn *conn);

/* Several requests may be queued, and go out at once. ERR_UNAVAILABLE: the connection broke (it is closed then). */
MUST_USE int conn_queue(struct conn *conn, const Wire__Request *request, struct err *err);
MUST_USE int conn_flush(struct conn *conn, struct err *err);
/* Waits up to timeout_s (< 0: for ever) for a reply; *out is NULL when none came. An
 * Error reply is given as a reply: see conn_error(). ERR_UNAVAILABLE, ERR_PROTOCOL: the
 * connection broke and is closed. ERR_CANCELLED. */
MUST_USE int conn_receive(struct conn *conn, double timeout_s, Wire__Reply **out, struct err *err);
/* Sends, and waits for the final reply of this kind; an Error reply becomes the error. */
MUST_USE int conn_call(struct conn *conn, const Wire__Request *request, Wire__Reply__BodyCase expected,
		       Wire__Reply **out, struct err *err);
/* What an Error reply says, as an error of our own. */
int conn_error(const Wire__Reply *reply, struct err *err);

/* Whether a daemon that listened there is on its way out, and may still be writing to its cache. */
bool conn_daemon_ends(const char *socket);

#endif
