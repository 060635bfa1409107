/*
 * reserve.h - memory for batches, made before anybody waits for it and given back behind everybody's back.
 *
 * Finding, clearing and mapping fresh pages of shared memory takes the kernel
 * longer than filling them takes us: 16 ms for a batch of 32 float pictures
 * of 224 px on one core of a Zen 3; freeing a stream's four slots takes 19. So
 * one piece of it, as large as the first slot of the stream opened last, is
 * kept in store and made again when that stream has begun to flow. It is nobody's
 * before it is taken: no client ever sees what another one's memory held.
 *
 * Threads:   one of its own, at the lowest priority, makes; another one, at the usual priority, frees: where trainers keep all
 *            processors busy the first gets next to nothing, and streams end faster than it could free them.
 *            All else from any thread.
 * Ownership: what is taken is the caller's.
 * Limits:    RESERVE_BYTES_MAX are kept, and no less than RESERVE_FIRST_BYTES. While more than RESERVE_WAITING_BYTES_MAX wait to be
 *            freed, whoever takes memory frees first.
 */
#ifndef PREPROCESSD_PIPELINE_RESERVE_H
#define PREPROCESSD_PIPELINE_RESERVE_H

#include <stdint.h>

#include "shared/base/err.h"

enum {
	RESERVE_FIRST_BYTES = 20 << 20, /* a batch of trainer's defaults */
	RESERVE_BYTES_MAX = 64 << 20,
	RESERVE_PIECE_BYTES = 256 << 10, /* made at a time */
	RESERVE_WAITING_BYTES_MAX = 512 << 20,
};

/* Something that release() frees; in the caller's own structure. */
struct reserve_return {
	struct reserve_return *next;
	uint64_t bytes; /* that it frees, at most */
	void (*release)(struct reserve_return *item);
};

struct reserve;
MUST_USE int reserve_open(struct reserve **out, struct err *err); /* begins to fill it */
void reserve_close(struct reserve *reserve);                      /* frees what was given back first; NULL is fine */

/* A memfd of `bytes`, not sealed yet, and how many from its start the kernel need not find any more.
 * slot_bytes: what a stream of this kind fills first. */
MUST_USE int reserve_take(struct reserve *reserve, uint64_t bytes, uint64_t slot_bytes, int *fd, uint64_t *ready,
			  struct err *err);
/* Makes it again, where it was taken. */
void reserve_refill(struct reserve *reserve);
void reserve_give_back(struct reserve *reserve, struct reserve_return *item);

#endif
