/*
 * random_fill.h - initial values: arrays of random numbers, each named by its index.
 *
 * Element e is a function of (key, e) alone, and the arithmetic is plain
 * multiplications and additions of doubles in one fixed order: the same bits on
 * every machine and with every number of threads.
 *
 * Threads: one caller; uses the OpenMP team inside.
 */
#ifndef TRAINER_KERNELS_RANDOM_FILL_H
#define TRAINER_KERNELS_RANDOM_FILL_H

#include <stddef.h>

#include "shared/base/rng.h"

/* out (n) uniform in (-scale, scale), 23 bits each. */
void random_fill_uniform(float *out, size_t n, struct rng_key key, float scale);
/* out (n) normal with mean 0 and standard deviation scale (Box and Muller, 1958). */
void random_fill_normal(float *out, size_t n, struct rng_key key, float scale);

#endif
