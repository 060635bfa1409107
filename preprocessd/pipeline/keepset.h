/*
 * keepset.h - a set of hashes, by their first 8 bytes: what is in it is kept.
 *
 * Two hashes that begin alike count as one, which keeps something that could
 * go and never the reverse.
 *
 * Threads: one at a time. Ownership: keepset_free(). Limits: memory.
 */
#ifndef PREPROCESSD_PIPELINE_KEEPSET_H
#define PREPROCESSD_PIPELINE_KEEPSET_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/hash.h"

struct keepset {
	uint64_t *slots;  /* 0: free */
	size_t capacity;  /* a power of two, or 0 */
	size_t count;
};
#define KEEPSET_INIT ((struct keepset){ 0 })

MUST_USE int keepset_add(struct keepset *set, const uint8_t hash[HASH_BYTES], struct err *err);
bool keepset_has(const struct keepset *set, const uint8_t hash[HASH_BYTES]);
void keepset_free(struct keepset *set);

#endif
