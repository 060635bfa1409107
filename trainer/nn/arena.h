/*
 * arena.h - one allocation for all activations of a stage, planned before the first step.
 *
 * A planning function takes every buffer it needs with arena_take(); it is run
 * twice: first on an arena without memory, which only counts, then, after
 * arena_allocate(), to hand out the pointers. Every buffer is 64-byte aligned.
 * A smaller batch is planned anew from `used` = 0: its buffers lie close together,
 * and pages that it never touches cost no memory.
 *
 * Threads: one caller.
 */
#ifndef TRAINER_NN_ARENA_H
#define TRAINER_NN_ARENA_H

#include "shared/base/err.h"

struct arena {
	float *memory;
	size_t elements; /* of memory */
	size_t used;     /* taken so far, in elements */
};

/* NULL while the arena only counts. */
float *arena_take(struct arena *arena, size_t elements);
/* Allocates what was counted and starts over. */
MUST_USE int arena_allocate(struct arena *arena, struct err *err);
void arena_release(struct arena *arena);

#endif
