/*
 * vocab.h - what a vocabulary is made of, for the tokenizer (wordpiece.c).
 * Everybody else uses wordpiece.h.
 */
#ifndef PREPROCESSD_CODEC_VOCAB_H
#define PREPROCESSD_CODEC_VOCAB_H

#include "preprocessd/codec/bert_chars.h"
#include "preprocessd/codec/trie.h"
#include "preprocessd/codec/wordpiece.h"
#include "preprocessd/codec/wordtable.h"

enum {
	/* Raised whenever the same text could give other ids than before: it is
	 * part of the fingerprint, and so of the cache's keys. */
	WORDPIECE_RULES_VERSION = 1,
	WORD_CHARS_MAX = 100, /* a longer word is [UNK] */
	WORD_BYTES_MAX = 4 * WORD_CHARS_MAX,
};

struct vocab {
	struct trie trie;       /* every word */
	struct wordtable whole; /* the short ones again */
	int32_t continuing; /* the node that "##" leads to, or TRIE_NONE */
	int32_t size;
	int32_t unk, cls, sep, pad;
	int32_t ascii_alone[128]; /* id of a punctuation character as a word, else unk */
	struct bert_chars *chars;
	int32_t cased; /* words that are never found: they have capital letters, and texts are lower-cased */
	struct hash fingerprint;
};

#endif
