/* Any bytes as a vocabulary file: refused for a reason that a plain reading of the lines finds, too, or every word is
 * found under the number of its last line, and its own words are tokenized as the plain tokenizer does. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "preprocessd/codec/vocab.h"
#include "shared/base/buf.h"
#include "shared/base/mem.h"
/* Fuzz programs are linked with the libraries only. */
#include "tests/support/wordpiece_ref.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Longer files find no more, and the plain search is quadratic. */
enum { FILE_BYTES_MAX = 4096, LINES_MAX = FILE_BYTES_MAX + 1, TEXT_BYTES_MAX = 300 };

/* White_Space, as the bytes that a line may end in. */
static const char *const blanks[] = {
	"\t", "\v", "\f", "\r", " ", "\xC2\x85", "\xC2\xA0", "\xE1\x9A\x80", "\xE2\x80\x80", "\xE2\x80\x81", "\xE2\x80\x82",
	"\xE2\x80\x83", "\xE2\x80\x84", "\xE2\x80\x85", "\xE2\x80\x86", "\xE2\x80\x87", "\xE2\x80\x88", "\xE2\x80\x89",
	"\xE2\x80\x8A", "\xE2\x80\xA8", "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F", "\xE3\x80\x80",
};

struct plain {
	struct line {
		const char *bytes;
		size_t length, untrimmed;
	} lines[LINES_MAX];
	int32_t count;
	bool ascii, utf8;
};

/* One character by wordpiece_ref.c's decoder, which knows nothing of the one that is tested. */
static size_t character(const char *p, size_t left)
{
	uint32_t code;

	for (size_t length = 1; length <= 4 && length <= left; length++)
		if (decode_exactly((const uint8_t *)p, length, &code))
			return length;
	return 0;
}

static bool is_utf8(const char *p, size_t bytes)
{
	for (size_t length; bytes > 0; p += length, bytes -= length)
		if ((length = character(p, bytes)) == 0)
			return false;
	return true;
}

static size_t trimmed(const char *line, size_t length)
{
	for (size_t i = 0; i < sizeof(blanks) / sizeof(blanks[0]); i++) {
		size_t blank = strlen(blanks[i]);

		if (length >= blank && memcmp(line + length - blank, blanks[i], blank) == 0) {
			length -= blank;
			i = (size_t)-1; /* from the start */
		}
	}
	return length;
}

static void read_plainly(struct plain *plain, const char *bytes, size_t size)
{
	plain->count = 0;
	plain->ascii = plain->utf8 = true;
	for (size_t at = 0; at < size;) {
		size_t start = at;

		while (at < size && bytes[at] != '\n')
			at++;
		plain->utf8 = plain->utf8 && is_utf8(bytes + start, at - start);
		for (size_t i = start; i < at; i++)
			plain->ascii = plain->ascii && (uint8_t)bytes[i] < 0x80;
		plain->lines[plain->count++] = (struct line){ bytes + start, trimmed(bytes + start, at - start), at - start };
		at++;
	}
}

static int32_t find_plainly(const struct plain *plain, const char *bytes, size_t length)
{
	for (int32_t i = plain->count - 1; i >= 0; i--)
		if (plain->lines[i].length == length && memcmp(plain->lines[i].bytes, bytes, length) == 0)
			return i;
	return TRIE_NONE;
}

static int32_t find_in_trie(const struct trie *trie, const char *bytes, size_t length)
{
	int32_t node = TRIE_ROOT;

	for (size_t i = 0; i < length && node != TRIE_NONE; i++)
		node = trie_step(trie, node, (uint8_t)bytes[i]);
	return node == TRIE_NONE ? TRIE_NONE : trie->units[node].id;
}

static void check_word(const struct vocab *vocab, const struct plain *plain, const struct line *line)
{
	uint8_t padded[WORDTABLE_READ_BYTES] = { 0 };
	int32_t id = find_plainly(plain, line->bytes, line->length);

	if (line->untrimmed > line->length)
		CHECK(find_in_trie(&vocab->trie, line->bytes, line->untrimmed) == TRIE_NONE);
	if (line->length == 0 || line->length > WORD_BYTES_MAX + 2)
		return;
	CHECK(find_in_trie(&vocab->trie, line->bytes, line->length) == id);
	if (line->length > WORDTABLE_BYTES_MAX || memchr(line->bytes, 0, line->length) != NULL)
		return;
	memcpy(padded, line->bytes, line->length);
	bool inside = line->length >= 2 && memcmp(line->bytes, "##", 2) == 0;
	CHECK(wordtable_find(&vocab->whole, padded, line->length) == (inside ? TRIE_NONE : id));
}

/* The file itself is a text in which all of its words stand. */
static void check_tokens(const struct vocab *vocab, const char *bytes, size_t size)
{
	static int32_t expected[TEXT_BYTES_MAX + 2];
	size_t text = size < TEXT_BYTES_MAX ? size : TEXT_BYTES_MAX;
	struct wordpiece_ref ref;
	struct wordpiece *fast;
	struct err err;
	const int32_t *ids;
	size_t count;

	CHECK(wordpiece_ref_open(&ref, bytes, size) == 0);
	CHECK(wordpiece_open(&fast, vocab, &err) == 0);
	CHECK(wordpiece_encode(fast, bytes + size - text, text, &ids, &count, &err) == 0);
	CHECK(wordpiece_ref_encode(&ref, bytes + size - text, text, expected) == count);
	CHECK(memcmp(ids, expected, count * sizeof(*ids)) == 0);
	wordpiece_close(fast);
	wordpiece_ref_close(&ref);
}

static bool has_specials(const struct plain *plain)
{
	return find_plainly(plain, "[UNK]", 5) != TRIE_NONE && find_plainly(plain, "[CLS]", 5) != TRIE_NONE &&
	       find_plainly(plain, "[SEP]", 5) != TRIE_NONE && find_plainly(plain, "[PAD]", 5) != TRIE_NONE;
}

static void check_file(const char *bytes, size_t size)
{
	static struct plain plain;
	struct vocab *vocab;
	struct err err = { .code = 0 };

	read_plainly(&plain, bytes, size);
	int code = vocab_parse(&vocab, "fuzz", bytes, size, &err);
	CHECK((code == 0) == (plain.utf8 && has_specials(&plain)));
	if (code != 0) {
		CHECK(code == ERR_FORMAT && err.code == code);
		return;
	}
	CHECK(vocab_size(vocab) == plain.count);
	CHECK(vocab_id_unk(vocab) == find_plainly(&plain, "[UNK]", 5) && vocab_id_pad(vocab) == find_plainly(&plain, "[PAD]", 5));
	for (int32_t i = 0; i < plain.count; i++)
		check_word(vocab, &plain, &plain.lines[i]);
	if (plain.ascii) /* the plain tokenizer trims ASCII blanks only */
		check_tokens(vocab, bytes, size);
	vocab_free(vocab);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char specials[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n";
	size_t before = sizeof(specials) - 1;

	if (size > FILE_BYTES_MAX - before)
		return 0;
	char *copy = mem_alloc(before + size); /* of its own, so that reading beyond it is seen */
	CHECK(copy != NULL);
	/* Without help few inputs have the four words that a vocabulary needs. */
	memcpy(copy, specials, before);
	memcpy(copy + before, data, size);
	check_file(copy, before + size);
	memmove(copy, data, size);
	check_file(copy, size);
	mem_free(copy);
	return 0;
}
