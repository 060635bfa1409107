/*
 * pipeline.h - what prepares samples: cache, workers, catalog and counters together.
 *
 *     feed.h      a client's stream: batches assembled into its slots
 *     add.h       a data set is read, prepared and registered
 *     prepare.h   one picture or caption: from the cache, or made now
 *     flight.h    the same thing is made once, however many ask
 *     catalog.h   data sets and vocabularies by name
 *     pool.h      the worker threads
 *     reserve.h   memory for batches, made beforehand
 *
 * Threads:   opened and closed by one thread while no job is under way.
 * Ownership: the cache is the caller's and outlives the pipeline.
 */
#ifndef PREPROCESSD_PIPELINE_PIPELINE_H
#define PREPROCESSD_PIPELINE_PIPELINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "preprocessd/store/cache.h"
#include "shared/base/err.h"

enum { PIPELINE_WORKERS_MAX = 256 };

/* Since the pipeline was opened; see Counters in schemas/wire.proto. */
struct counters {
	_Atomic uint64_t decoded, tokenized, hits, misses, caption_hits, caption_misses, joins, remade, failures,
		source_bytes, batches, batch_bytes, feature_hits, feature_misses, features_kept;
};

static inline void counter_add(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static inline uint64_t counter_get(_Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

/* Work that a pool or add thread has finished and another thread shall take
 * note of. post() is called on any thread and hands it over; run() is then
 * called on the thread that owns the pipeline's users (the event loop). */
struct completion {
	void (*run)(struct completion *completion);
	struct completion *next;
};
typedef void (*completion_post)(void *context, struct completion *completion);

struct pipeline_options {
	struct cache *cache;
	int workers; /* 1..PIPELINE_WORKERS_MAX */
	uint64_t datasets_max; /* and as many vocabularies */
	completion_post post;
	void *post_context;
};

struct pipeline {
	struct cache *cache;
	struct pool *pool;
	struct flights *flights;
	struct catalog *catalog;
	struct reserve *reserve;
	struct counters counters;
	completion_post post;
	void *post_context;
	_Atomic int feeds;              /* open ones; zero again after the last one freed itself */
	_Atomic uint64_t put_failures;  /* records that could not be kept */
	_Atomic uint64_t put_failed_ns; /* when that was last complained about */
	uint64_t datasets_max;
	pthread_mutex_t register_lock;  /* held by the add that looks whether names are free and takes them */
	pthread_mutex_t put_lock;
	struct err put_err;             /* the last one's reason */
};

MUST_USE int pipeline_open(struct pipeline **out, const struct pipeline_options *options, struct err *err);
void pipeline_close(struct pipeline *pipeline); /* NULL is fine; every feed and add must have ended */

#endif
