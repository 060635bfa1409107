/*
 * content_key.h - a picture's random key, from a seed and its content: neither paths nor the order of files decide where it goes.
 *
 * Pure functions. split.c and fold.c deal pictures out in the order of their keys.
 */
#ifndef PREPROCESSD_DATASET_CONTENT_KEY_H
#define PREPROCESSD_DATASET_CONTENT_KEY_H

#include <string.h>

#include "shared/base/hash.h"
#include "shared/base/rng.h"

static inline struct rng_block content_key(struct rng_key key, const struct hash *content)
{
	uint32_t c[4];

	memcpy(c, content->bytes, sizeof(c));
	return rng_philox(key, c[0], c[1], c[2], c[3]);
}

/* As memcmp. */
static inline int content_key_compare(const struct rng_block *a, const struct rng_block *b)
{
	for (int i = 0; i < 4; i++)
		if (a->v[i] != b->v[i])
			return a->v[i] < b->v[i] ? -1 : 1;
	return 0;
}

#endif
