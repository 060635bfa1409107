/*
 * server.h - the daemon: one event loop, its clients, and the pipeline behind it.
 *
 * Threads:   server_run() is the loop thread. Nothing on it waits for a disk,
 *            a decoder or a client; that is the workers' (pipeline.h).
 * Limits:    SERVER_CLIENTS_MAX connections; shared/wire/frame.h.
 * Format:    schemas/wire.proto.
 */
#ifndef PREPROCESSD_SERVE_SERVER_H
#define PREPROCESSD_SERVE_SERVER_H

#include <stdint.h>

#include "shared/base/err.h"
#include "shared/base/version.h"

/* A list of all data sets must fit into one reply. */
enum { SERVER_CLIENTS_MAX = 256, SERVER_DATASETS_DEFAULT = 4096, SERVER_DATASETS_MAX = 32768, SERVER_NO_GROUP = -1 };

#define SERVER_PROGRAM "preprocessd " PRODUCT_VERSION

struct server_options {
	const char *socket;
	const char *cache; /* folder, made where it is missing; NULL: the usual one (paths.h) */
	uint64_t max_cache_bytes; /* 0: no limit but the disk */
	int workers;
	uint64_t datasets_max; /* and as many vocabularies */
	/* Groups whose members may connect, beside the daemon's own user; SERVER_NO_GROUP: none. */
	int64_t readers; /* read batches, list, show */
	int64_t adders;  /* and add data sets, of files that they could read themselves */
};

/* Serves until SIGTERM, SIGINT or a Shutdown request; then finishes what
 * clients wait for, commits and returns 0. A second signal, STOP_APART_MS (stop.h) or
 * more after the first, ends the process at once (nothing acknowledged is lost); others
 * are without effect from then on until the process ends. ERR_BUSY: a live daemon has the socket or the cache. */
MUST_USE int server_run(const struct server_options *options, struct err *err);

#endif
