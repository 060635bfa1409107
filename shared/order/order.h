/*
 * order.h - the order of samples, as a pure function with random access.
 *
 * batch = f(version, split, seed, epoch, step, global batch, world, rank).
 * Positions of an epoch are 0..n-1; position p holds picture order_at(p), a
 * keyed permutation of 0..n-1: an 8-round balanced Feistel network over the
 * smallest even number of bits that holds n, cycle-walked back into range
 * (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002),
 * with Philox as round function. No state, no table, same on every machine.
 * Eight rounds because four are visibly uneven: over 20,000 epochs the pairs
 * (first, second picture) of 4 to 64 pictures fail a chi-square test with four
 * and six, and pass with eight.
 *
 * Threads:  pure functions; a struct order is a plain value.
 * Limits:   n >= 1. A global batch is a multiple of the world.
 * Format:   schemas/order.md has the algorithm for other languages.
 */
#ifndef SHARED_ORDER_ORDER_H
#define SHARED_ORDER_ORDER_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/hash.h"
#include "shared/base/rng.h"

struct order {
	uint32_t n;          /* pictures in the part */
	uint32_t half_bits;
	uint32_t epoch;
	struct rng_key rounds;   /* of the permutation */
	struct rng_key captions; /* of the caption choice */
};

/* n > 0. split is the name as the client gave it ("train+val"): it is part of the key. */
void order_init(struct order *out, const struct hash *version, const char *split, uint64_t seed, uint32_t epoch, uint32_t n);
/* Index in 0..n-1 of the picture at a position in 0..n-1. */
uint32_t order_at(const struct order *order, uint32_t position);
/* Which of a picture's count (> 0) captions this epoch shows; depends on (seed, epoch, picture) alone.
 * picture: its index in the manifest, so that the choice is the same in every split that has it. */
uint32_t order_caption(const struct order *order, uint32_t picture, uint32_t count);

/* Steps of an epoch: training drops the last short batch unless it is the only one; evaluation keeps it. */
uint64_t order_steps(uint64_t samples, uint32_t global_batch, bool training);

struct order_range {
	uint64_t first; /* position */
	uint32_t count; /* of this rank; 0 where a short batch does not reach it */
};
/* Rank r of world w takes positions s*B + r*B/w onward; B is a multiple of w.
 * A step beyond the last is an empty range. */
struct order_range order_rank(uint64_t samples, uint32_t global_batch, uint32_t world, uint32_t rank, uint64_t step);

#endif
