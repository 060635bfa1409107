/*
 * wordpiece.h - text to BERT token ids.
 *
 * Oracle: Hugging Face's Rust tokenizer for bert-base-uncased (BertNormalizer,
 * BertPreTokenizer, WordPiece), without added tokens: special tokens written
 * in a text are ordinary text. Identical ids on every input; invalid UTF-8
 * becomes U+FFFD (one for each maximal ill-formed part, as the Unicode
 * standard's practice and Rust's from_utf8_lossy do) and goes on from there.
 *
 * Threads:   a vocab is immutable and shared; one wordpiece scratch per thread.
 * Limits:    a caption of at most WORDPIECE_TEXT_BYTES_MAX bytes.
 * Format:    docs/tokens.md has the rules and what a vocabulary file is.
 */
#ifndef PREPROCESSD_CODEC_WORDPIECE_H
#define PREPROCESSD_CODEC_WORDPIECE_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/err.h"
#include "shared/base/hash.h"

enum { WORDPIECE_TEXT_BYTES_MAX = 1 << 20, VOCAB_WORDS_MAX = 1 << 20, VOCAB_FILE_BYTES_MAX = 64 << 20 };

struct vocab;
/* bytes: one word a line, as vocab.txt; name is for messages. ERR_FORMAT names
 * the line, or the missing [UNK], [CLS], [SEP] or [PAD] and the remedy. */
MUST_USE int vocab_parse(struct vocab **out, const char *name, const void *bytes, size_t size, struct err *err);
void vocab_free(struct vocab *vocab); /* NULL is fine */
int32_t vocab_size(const struct vocab *vocab);
int32_t vocab_id_cls(const struct vocab *vocab);
int32_t vocab_id_sep(const struct vocab *vocab);
int32_t vocab_id_pad(const struct vocab *vocab);
int32_t vocab_id_unk(const struct vocab *vocab);
/* What to say of a vocabulary whose words have capital letters, into out; false: nothing. Such words are never found. */
bool vocab_warning(const struct vocab *vocab, const char *name, char *out, size_t out_bytes);
/* SHA-256 of the vocabulary's bytes and of the tokenizer's rules (version constant). */
void vocab_fingerprint(const struct vocab *vocab, struct hash *out);

struct wordpiece;
MUST_USE int wordpiece_open(struct wordpiece **out, const struct vocab *vocab, struct err *err);
void wordpiece_close(struct wordpiece *wordpiece); /* NULL is fine */

/* Ids of [CLS] text [SEP], untruncated. *ids is valid until the next call on
 * this scratch. ERR_LIMIT: longer than WORDPIECE_TEXT_BYTES_MAX. */
MUST_USE int wordpiece_encode(struct wordpiece *wordpiece, const char *text, size_t bytes, const int32_t **ids,
			      size_t *count, struct err *err);

#endif
