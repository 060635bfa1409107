/*
 * bert_chars.h - what the oracle's normalizer and pre-tokenizer do with one
 * code point, all steps together: clean text, Chinese spacing, NFD, accents,
 * lower case, punctuation.
 *
 * Every answer comes from bert_table.c, which was made by asking the oracle
 * for every code point. No Unicode library is asked: the oracle mixes tables
 * of several Unicode versions, and a library's change with its version. See
 * docs/tokens.md.
 *
 * Threads:   immutable after bert_chars_open(); share it.
 */
#ifndef PREPROCESSD_CODEC_BERT_CHARS_H
#define PREPROCESSD_CODEC_BERT_CHARS_H

#include <stdbool.h>

#include "preprocessd/codec/bert_table.h"
#include "shared/base/err.h"

enum {
	BERT_CODE_POINTS = 0x110000,
	BERT_BLOCK = 128,
	BERT_OUTPUT_MAX = 3, /* code points that one becomes, at most */
	BERT_HANGUL_FIRST = 0xAC00,
};

/* What a mapped or ranked code point becomes. */
struct bert_output {
	uint32_t to[BERT_OUTPUT_MAX];
	uint8_t rank[BERT_OUTPUT_MAX]; /* 0: a starter */
	uint8_t count;
	bool alone; /* a word of its own */
};

struct bert_chars {
	uint16_t *cells;             /* (block, BERT_BLOCK): a bert_class, or BERT_MAPPED + index into outputs */
	struct bert_output *outputs;
	uint16_t blocks[BERT_CODE_POINTS / BERT_BLOCK]; /* code point / BERT_BLOCK to row of cells */
};

MUST_USE int bert_chars_open(struct bert_chars **out, struct err *err);
void bert_chars_close(struct bert_chars *chars); /* NULL is fine */

/* code: below BERT_CODE_POINTS. */
static inline uint16_t bert_chars_class(const struct bert_chars *chars, uint32_t code)
{
	return chars->cells[(size_t)chars->blocks[code / BERT_BLOCK] * BERT_BLOCK + code % BERT_BLOCK];
}

/* The 2 or 3 letters of a BERT_HANGUL syllable. Returns their number. */
int bert_hangul(uint32_t code, uint32_t out[BERT_OUTPUT_MAX]);

#endif
