/* Any text with any vocabulary: the fast tokenizer says what the plain one
 * says. A NUL byte in the input ends the vocabulary and begins the text; an
 * input without one is text for a small vocabulary. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "preprocessd/codec/wordpiece.h"
#include "shared/base/buf.h"
/* Fuzz programs are linked with the libraries only. */
#include "tests/support/wordpiece_ref.c"

static const char specials[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n";
static const char small_vocab[] = "a\nb\nc\nab\nabc\n##a\n##b\n##bc\n##d\n\xCE\xB1\n##\xCE\xB1\n!\n\xE4\xB8\xAD\n"
				  "##\xF0\x9D\x85\xA5\n##\xE3\x80\xAE\n\xE3\x80\xAE\n\xE1\x84\x80\n##\xE1\x85\xA1\n";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The plain one trims ASCII blanks only, and does not check UTF-8. */
static bool is_ascii(const uint8_t *bytes, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (bytes[i] >= 0x80)
			return false;
	return true;
}

/* Longer texts find no more and take the plain one long. */
enum { TEXT_BYTES_MAX = 400 };

static void compare(const struct vocab *vocab, const struct buf *words, const uint8_t *text, size_t bytes)
{
	int32_t expected[TEXT_BYTES_MAX + 2];
	struct wordpiece_ref ref;
	struct wordpiece *fast;
	struct err err;
	const int32_t *ids;
	size_t count;

	if (bytes > TEXT_BYTES_MAX)
		bytes = TEXT_BYTES_MAX;
	CHECK(wordpiece_ref_open(&ref, words->data, words->size) == 0);
	CHECK(wordpiece_open(&fast, vocab, &err) == 0);
	CHECK(wordpiece_encode(fast, (const char *)text, bytes, &ids, &count, &err) == 0);
	CHECK(wordpiece_ref_encode(&ref, (const char *)text, bytes, expected) == count);
	CHECK(memcmp(ids, expected, count * sizeof(*ids)) == 0);
	wordpiece_close(fast);
	wordpiece_ref_close(&ref);
}

static void with_small_vocab(const uint8_t *text, size_t bytes)
{
	static struct buf words = BUF_INIT;
	static struct vocab *vocab;
	struct err err;

	if (vocab == NULL) {
		CHECK(buf_add_text(&words, specials, &err) == 0 && buf_add_text(&words, small_vocab, &err) == 0);
		CHECK(vocab_parse(&vocab, "small", words.data, words.size, &err) == 0);
	}
	compare(vocab, &words, text, bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *zero = size == 0 ? NULL : memchr(data, 0, size);
	struct buf words = BUF_INIT;
	struct vocab *vocab;
	struct err err;

	if (zero == NULL) {
		with_small_vocab(data, size);
		return 0;
	}
	CHECK(buf_add_text(&words, specials, &err) == 0 && buf_add(&words, data, (size_t)(zero - data), &err) == 0);
	if (vocab_parse(&vocab, "fuzz", words.data, words.size, &err) == 0) {
		if (is_ascii(data, (size_t)(zero - data)))
			compare(vocab, &words, zero + 1, (size_t)(data + size - zero - 1));
		vocab_free(vocab);
	}
	buf_free(&words);
	return 0;
}
