/*
 * trie.h - a set of byte strings with numbers, walked one byte at a time.
 *
 * A double array: the child of node n for byte b is units[n].base + b, and it
 * exists when that unit's check is n. One dependent load a byte.
 *
 * Threads:   immutable after trie_build().
 * Source:    J. Aoe, An Efficient Digital Search Algorithm by Using a
 *            Double-Array Structure, 1989.
 */
#ifndef PREPROCESSD_CODEC_TRIE_H
#define PREPROCESSD_CODEC_TRIE_H

#include <stddef.h>
#include <stdint.h>

#include "shared/base/err.h"

enum { TRIE_ROOT = 0, TRIE_NONE = -1 };

struct trie_unit {
	int32_t base;
	int32_t check; /* the parent; TRIE_NONE: a free unit, or the root */
	int32_t id;    /* of the word that ends here, or TRIE_NONE */
};

struct trie {
	struct trie_unit *units;
	size_t capacity;
};

struct trie_word {
	const char *bytes;
	uint32_t length; /* at least 1 */
	int32_t id;
};

/* words: ascending by bytes (memcmp, shorter first), none twice. */
MUST_USE int trie_build(struct trie *out, const struct trie_word *words, size_t count, struct err *err);
void trie_free(struct trie *trie);

/* The child of node for byte, or TRIE_NONE. node is a node, not TRIE_NONE. */
static inline int32_t trie_step(const struct trie *trie, int32_t node, uint8_t byte)
{
	int32_t child = trie->units[node].base + byte;

	return trie->units[child].check == node ? child : TRIE_NONE;
}

#endif
