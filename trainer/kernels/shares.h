/*
 * shares.h - sizes cut into shares.
 *
 * Private to kernels/.
 */
#ifndef TRAINER_KERNELS_SHARES_H
#define TRAINER_KERNELS_SHARES_H

#include <stddef.h>

static inline size_t min_of(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* One of so many shares that hold all: the quotient, rounded up. */
static inline size_t share_of(size_t all, size_t shares)
{
	return (all + shares - 1) / shares;
}

#endif
