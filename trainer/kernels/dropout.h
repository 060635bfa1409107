/*
 * dropout.h - which elements a dropout drops, by name.
 *
 * Element `channel` of `token` of the group at `position` in the global batch
 * is one word of the Philox block with key (seed, RNG_DROPOUT + layer) and
 * counter (b, position, token, step); it is dropped when the word is below
 * probability * 2^32. Every 64 channels take 16 blocks: channel 64g + 16w + i is
 * word w of block b = 16g + i, which lets a vector of blocks be stored as it is.
 * So a mask is the same however a batch is packed, split over threads or
 * accumulated.
 */
#ifndef TRAINER_KERNELS_DROPOUT_H
#define TRAINER_KERNELS_DROPOUT_H

#include "shared/base/rng.h"
#include "trainer/kernels/dense_ops.h"

/* Attention names its elements by head and key: a head's keys lie in channels head << 16 onward. */
enum { DROPOUT_HEAD_SHIFT = 16 };

/* Channels that share 16 blocks: vectors of factors begin at multiples of it. */
enum { DROPOUT_GROUP = 64 };

static inline uint32_t dropout_block(uint32_t channel)
{
	return channel / DROPOUT_GROUP * 16 + channel % 16;
}

static inline uint32_t dropout_word(uint32_t channel)
{
	return channel / 16 % 4;
}

static inline bool dropout_is_on(const struct dropout_spec *spec)
{
	return spec != NULL && spec->probability > 0.0f;
}

static inline struct rng_key dropout_key(const struct dropout_spec *spec)
{
	struct rng_key key = rng_key(spec->seed, RNG_DROPOUT + spec->layer);

	key.k1 ^= (uint32_t)(spec->step >> 32);
	return key;
}

/* Words below it are dropped; 2^32 drops all. */
static inline uint64_t dropout_threshold(const struct dropout_spec *spec)
{
	return (uint64_t)((double)spec->probability * 4294967296.0);
}

static inline float dropout_scale(const struct dropout_spec *spec)
{
	return spec->probability < 1.0f ? 1.0f / (1.0f - spec->probability) : 0.0f;
}

/* The image tower's blocks are numbered from here on, behind the text tower's sites. */
enum { DEPTH_SITE_IMAGE = 0xE00 };

/* Stochastic depth: what the branch of the group at `position` is multiplied by. */
static inline float branch_factor(float probability, uint32_t layer, uint64_t seed, uint64_t step, uint32_t position)
{
	struct rng_key key = rng_key(seed, RNG_DEPTH + layer);

	key.k1 ^= (uint32_t)(step >> 32);
	return rng_unit(rng_philox(key, 0, position, 0, (uint32_t)step).v[0]) < probability ? 0.0f : 1.0f / (1.0f - probability);
}

static inline bool branch_is_on(const struct dropout_spec *spec)
{
	return spec != NULL && spec->branch > 0.0f;
}

static inline uint32_t dropout_position(const struct dropout_spec *spec, int group)
{
	return spec->positions == NULL ? (uint32_t)group : spec->positions[group];
}

static inline float dropout_branch(const struct dropout_spec *spec, int group)
{
	return branch_is_on(spec) ? branch_factor(spec->branch, spec->layer, spec->seed, spec->step, dropout_position(spec, group)) :
				    1.0f;
}

#endif
