/*
 * lifetimes.h - one block of memory for buffers that are not all needed at the same time.
 *
 * Moments are numbered in the order in which things happen; a buffer lives
 * from a first to a last moment, both included, and may live once more later on
 * (with other contents in the same place). Buffers whose lives do not touch may
 * share memory. Placement is greedy, the largest first, each at the lowest
 * place that is free during its life: within a few percent of the most that lives at
 * one moment, for the chains of layers that this is made for.
 *
 * A planning function adds the buffers in some order, and after placing
 * asks for their places in the same order.
 *
 * Threads: one caller.
 * Limits:  LIFETIMES_MAX buffers; MEM_ALIGN_BYTES alignment.
 */
#ifndef TRAINER_NN_LIFETIMES_H
#define TRAINER_NN_LIFETIMES_H

#include <stddef.h>

#include "shared/base/err.h"

enum { LIFETIMES_MAX = 8192 };

struct lifetime {
	int first, last;
};

/* An empty life. */
#define LIFETIME_NONE ((struct lifetime){ 0, -1 })

struct lifetimes;
MUST_USE int lifetimes_open(struct lifetimes **out, struct err *err);
void lifetimes_close(struct lifetimes *lifetimes); /* NULL is fine */
/* again: LIFETIME_NONE, or a second life. */
void lifetimes_add(struct lifetimes *lifetimes, size_t bytes, struct lifetime life, struct lifetime again);
/* Gives every buffer a place; the bytes of the whole. */
size_t lifetimes_place(struct lifetimes *lifetimes);
/* Offset of the next buffer, in order of addition; from the first one again after lifetimes_place(). */
size_t lifetimes_next(struct lifetimes *lifetimes);
/* Forgets all buffers. */
void lifetimes_clear(struct lifetimes *lifetimes);

#endif
