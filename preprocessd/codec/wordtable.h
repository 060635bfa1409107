/*
 * wordtable.h - whole short words to ids, in one probe.
 *
 * Most words of a caption stand in the vocabulary as they are. A trie meets
 * each byte in another cache line; here a word of up to WORDTABLE_BYTES_MAX
 * bytes and its id share one cell.
 *
 * Threads:   immutable after wordtable_build().
 */
#ifndef PREPROCESSD_CODEC_WORDTABLE_H
#define PREPROCESSD_CODEC_WORDTABLE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "preprocessd/codec/trie.h"

enum {
	WORDTABLE_BYTES_MAX = 12,
	WORDTABLE_READ_BYTES = 16, /* readable bytes that wordtable_find() needs */
};

/* The bytes of a word, filled up with zeros: no word holds a zero. */
struct wordtable_cell {
	uint64_t low; /* 0: a free cell */
	uint32_t high;
	int32_t id;
};

struct wordtable {
	struct wordtable_cell *cells;
	int shift; /* 64 - log2(number of cells) */
};

/* Takes the words that are short enough and do not begin with "##". */
MUST_USE int wordtable_build(struct wordtable *out, const struct trie_word *words, size_t count, struct err *err);
void wordtable_free(struct wordtable *table);

static inline size_t wordtable_place(const struct wordtable *table, uint64_t low, uint32_t high)
{
	uint64_t mixed = (low ^ (uint64_t)high * UINT64_C(0x9E3779B97F4A7C15)) * UINT64_C(0xD6E8FEB86659FD93);

	return (size_t)((mixed ^ mixed << 29) >> table->shift);
}

/* 16 bytes of 0xFF, then 16 of 0: what begins at 16 - n is a mask for n bytes in
 * either byte order. */
extern const uint8_t wordtable_mask[2 * WORDTABLE_READ_BYTES];

/* Id of the word of `bytes` bytes, 1 to WORDTABLE_BYTES_MAX, or TRIE_NONE.
 * Reads WORDTABLE_READ_BYTES bytes at word. */
static inline int32_t wordtable_find(const struct wordtable *table, const uint8_t *word, size_t bytes)
{
	const uint8_t *mask = wordtable_mask + WORDTABLE_READ_BYTES - bytes;
	uint64_t low, low_mask;
	uint32_t high, high_mask;

	memcpy(&low, word, sizeof(low));
	memcpy(&high, word + sizeof(low), sizeof(high));
	memcpy(&low_mask, mask, sizeof(low));
	memcpy(&high_mask, mask + sizeof(low), sizeof(high));
	low &= low_mask;
	high &= high_mask;
	size_t at = wordtable_place(table, low, high), last = ((size_t)1 << (64 - table->shift)) - 1;
	for (;; at = (at + 1) & last) {
		const struct wordtable_cell *cell = &table->cells[at];

		if (cell->low == low && cell->high == high)
			return cell->id;
		if (cell->low == 0)
			return TRIE_NONE;
	}
}

#endif
