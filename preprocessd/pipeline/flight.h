/*
 * flight.h - single flight: what several ask for at the same moment is made once.
 *
 * The first to join a key leads and makes the record; the others wait for it
 * and use the leader's bytes. They stay until the record is durable in the
 * cache, so there is no moment in which it is neither here nor there. A leader
 * looks into the cache once more before it makes anything: the record may
 * have become durable after its own first look.
 *
 * Threads:   any. A leader is always running, never queued, so waiting ends.
 * Ownership: the payload belongs to the flight and is valid until flights_leave().
 * Limits:    as many flights as records wait to be written (cache.h bounds them) or are in the making.
 */
#ifndef PREPROCESSD_PIPELINE_FLIGHT_H
#define PREPROCESSD_PIPELINE_FLIGHT_H

#include "preprocessd/store/cache.h"

enum flight_state {
	FLIGHT_RUNNING,
	FLIGHT_LANDED, /* payload is there */
	FLIGHT_FAILED, /* see flight_error() */
	FLIGHT_VOID,   /* it was in the cache after all, or the leader could not read its source: look there again */
};

struct flight {
	struct cache_key key;
	enum flight_state state;
	void *payload;
	size_t size;
	uint64_t checksum;
	struct err *err;            /* NULL: memory for the reason could not be had */
	struct pipeline *pipeline;  /* whoever settles it; set by the leader */
	int refs;                   /* the rest is flight.c's */
	bool listed;
	struct flight *next;
};

struct flights;
MUST_USE int flights_open(struct flights **out, struct err *err);
void flights_close(struct flights *flights); /* NULL is fine */

/* *leads: the caller must call exactly one of land, fail, void. Otherwise the
 * state is final when this returns. Leave in both cases. */
MUST_USE int flights_join(struct flights *flights, const struct cache_key *key, struct flight **out, bool *leads,
			  struct err *err);
/* Takes payload (mem_alloc). The flight stays known until flights_settle(). */
void flights_land(struct flights *flights, struct flight *flight, void *payload, size_t size, uint64_t checksum);
void flights_fail(struct flights *flights, struct flight *flight, const struct err *reason);
void flights_void(struct flights *flights, struct flight *flight);
/* The landed record is durable, or will never be: from now on the cache answers. */
void flights_settle(struct flights *flights, struct flight *flight);
void flights_leave(struct flights *flights, struct flight *flight);
/* Of FLIGHT_FAILED: the leader's error. */
int flight_error(const struct flight *flight, struct err *err);

#endif
