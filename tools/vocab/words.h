/*
 * words.h - counting the words of a text, split as the tokenizer splits them.
 *
 * Uses the tokenizer's own tables (codec/bert_chars.h): lower case, accents
 * gone, punctuation and Chinese characters words of their own. Only the order
 * of stacked marks that stay (in a few scripts) is not normalized: such words
 * are counted as written.
 *
 * Threads:   one.
 * Limits:    words of more than WORDS_CHARS_MAX characters are left out (the tokenizer makes them [UNK]).
 */
#ifndef TOOLS_VOCAB_WORDS_H
#define TOOLS_VOCAB_WORDS_H

#include <stdint.h>

#include "shared/base/err.h"

enum { WORDS_CHARS_MAX = 100, WORDS_BYTES_MAX = 4 * WORDS_CHARS_MAX };

struct word {
	char *text;      /* UTF-8, terminated */
	uint64_t count;
};

struct words {
	struct word *all;   /* (count) in order of first appearance */
	size_t count;
	size_t capacity;
	uint32_t *slots;    /* (slot_count) index + 1 into all, 0: free */
	size_t slot_count;  /* a power of two */
	struct bert_chars *chars;
};

MUST_USE int words_open(struct words *words, struct err *err);
void words_close(struct words *words);
MUST_USE int words_add_text(struct words *words, const char *text, size_t size, struct err *err);
/* Counts one word, as it is. */
MUST_USE int words_add(struct words *words, const char *word, size_t size, uint64_t times, struct err *err);
/* Its index in all, or words->count where it is not there. */
size_t words_find(const struct words *words, const char *word, size_t size);

#endif
