#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "preprocessd/codec/bert_chars.h"
#include "preprocessd/codec/wordpiece.h"
#include "shared/base/utf8.h"
#include "tests/support/wordpiece_ref.h"

/* Ids are line numbers from 0. */
static const char words[] =
	"[PAD]\n[UNK]\n[CLS]\n[SEP]\n"            /* 0 to 3 */
	"a\nab\nabc\n##c\n##cd\n##d\n"            /* 4 to 9 */
	"cafe\n!\n[\n]\ncls\n\xE4\xB8\xAD\n"      /* 10 to 15: ! [ ] cls U+4E2D */
	"\xE1\x84\x80\n##\xE1\x85\xA1\n##\xE1\x86\xA8\n" /* 16 to 18: the letters of U+AC01 */
	"##\xF0\x9D\x85\xA5\n##\xE3\x80\xAE\n"    /* 19, 20: U+1D165 (class 216), U+302E (224) */
	"\xCF\x83\n##\xCF\x83\n;\ni\n"             /* 21 to 24: sigma, a Greek question mark, i */
	"##\xE3\x80\xAF\n";                       /* 25: U+302F (224) */

struct fixture {
	struct vocab *vocab;
	struct wordpiece *wordpiece;
};

static int open_fixture(void **state)
{
	static struct fixture fixture;
	struct err err;

	if (vocab_parse(&fixture.vocab, "words", words, sizeof(words) - 1, &err) != 0 ||
	    wordpiece_open(&fixture.wordpiece, fixture.vocab, &err) != 0)
		return -1;
	*state = &fixture;
	return 0;
}

static int close_fixture(void **state)
{
	struct fixture *fixture = *state;

	wordpiece_close(fixture->wordpiece);
	vocab_free(fixture->vocab);
	return 0;
}

static void expect_bytes(void **state, const char *text, size_t bytes, const char *expected)
{
	struct fixture *fixture = *state;
	const int32_t *ids;
	size_t count;
	struct err err;
	char got[1024] = "";

	assert_int_equal(0, wordpiece_encode(fixture->wordpiece, text, bytes, &ids, &count, &err));
	assert_true(count >= 2);
	assert_int_equal(vocab_id_cls(fixture->vocab), ids[0]);
	assert_int_equal(vocab_id_sep(fixture->vocab), ids[count - 1]);
	for (size_t i = 1; i + 1 < count; i++)
		snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s%d", i == 1 ? "" : " ", (int)ids[i]);
	assert_string_equal(expected, got);
}

static void expect(void **state, const char *text, const char *expected)
{
	expect_bytes(state, text, strlen(text), expected);
}

static void longest_piece_first(void **state)
{
	expect(state, "", "");
	expect(state, "a", "4");
	expect(state, "abcd", "6 9");
	expect(state, "abccd", "6 8");
	expect(state, "abccdd", "6 8 9");
	expect(state, "ABC aB\tA", "6 5 4");
	/* One piece that nothing fits makes the whole word unknown. */
	expect(state, "abcx abc", "1 6");
	expect(state, "x", "1");
	expect(state, "##c", "1 1 1");
}

static void spaces_and_punctuation(void **state)
{
	expect(state, "  a \r\n a\xC2\xA0""a\xE3\x80\x80""a ", "4 4 4 4");
	expect(state, "a!a!!", "4 11 4 11 11");
	expect(state, "[CLS][cls]", "12 14 13 12 14 13");
	expect(state, "a\xE4\xB8\xAD""a", "4 15 4");
	/* U+037E turns into a semicolon, and is punctuation. */
	expect(state, "a\xCD\xBE""a", "4 23 4");
}

static void what_is_dropped(void **state)
{
	expect_bytes(state, "a\0b", 3, "5");
	expect(state, "a\x01\x7F" "b\xE2\x80\x8B" "c", "6");
	expect(state, "\xEF\xBB\xBF" "a", "4");
	/* Controls that look like white space are controls first. */
	expect(state, "a\x0B\x0C" "b\xC2\x85" "c", "6");
	/* U+FFFD, and with it ill-formed bytes. */
	expect(state, "a\xEF\xBF\xBD" "b\xFF" "c", "6");
	expect(state, "a\xE2\x82" "b\xF0\x9F\x98" "c\xC3", "6");
	expect(state, "\xED\xA0\x80" "a\xC0\x80" "b", "5");
	expect(state, "a\xE2\x82 b", "4 1");
}

static void accents_and_case(void **state)
{
	expect(state, "caf\xC3\xA9 CAFE\xCC\x81 Caf\xC3\x89", "10 10 10");
	/* Sigma is lowered letter by letter, also at the end; U+0130 is i. */
	expect(state, "\xCE\xA3\xCE\xA3", "21 22");
	expect(state, "\xC4\xB0", "24");
	expect(state, "\xEA\xB0\x81", "16 17 18");
	expect(state, "\xEA\xB0\x80", "16 17");
}

/* NFD puts marks in the order of their classes, also across accents that are
 * stripped, but not across a starter. */
static void marks_are_reordered(void **state)
{
	expect(state, "a\xF0\x9D\x85\xA5\xE3\x80\xAE", "4 19 20");
	expect(state, "a\xE3\x80\xAE\xF0\x9D\x85\xA5", "4 19 20");
	expect(state, "a\xE3\x80\xAE\xCC\x81\xF0\x9D\x85\xA5", "4 19 20");
	expect(state, "a\xE3\x80\xAE\xE2\x80\x8B\xF0\x9D\x85\xA5", "4 19 20");
	/* Equal classes keep their order. */
	expect(state, "a\xE3\x80\xAF\xE3\x80\xAE\xF0\x9D\x85\xA5\xE3\x80\xAE", "4 19 25 20 20");
	/* U+034F is stripped and a starter. */
	expect(state, "a\xE3\x80\xAE\xCD\x8F\xF0\x9D\x85\xA5", "4 20 19");
	expect(state, "a\xE3\x80\xAE\xF0\x9D\x85\xA5\xE3\x80\xAE\xF0\x9D\x85\xA5", "4 19 19 20 20");
}

static void long_words(void **state)
{
	char text[1024];

	memset(text, 'c', sizeof(text));
	text[0] = 'a';
	char expected[512] = "4";
	for (int i = 1; i < 100; i++)
		strcat(expected, " 7");
	/* "ac" is no word, so a takes ##c 99 times: 100 characters. */
	expect_bytes(state, text, 100, expected);
	expect_bytes(state, text, 101, "1");
	expect_bytes(state, text, 1000, "1");
	text[1000] = ' ';
	text[1001] = 'a';
	expect_bytes(state, text, 1002, "1 4");
	text[500] = '!';
	expect_bytes(state, text, 1000, "1 11 1");

	/* Marks that wait for their order count as well. */
	char marks[1 + 3 * 120];
	marks[0] = 'a';
	for (int i = 0; i < 120; i++)
		memcpy(marks + 1 + 3 * i, "\xE3\x80\xAE", 3);
	strcpy(expected, "4");
	for (int i = 1; i < 100; i++)
		strcat(expected, " 20");
	expect_bytes(state, marks, 1 + 3 * 99, expected);
	expect_bytes(state, marks, 1 + 3 * 100, "1");
	expect_bytes(state, marks, 1 + 3 * 120, "1");
}

static void text_beyond_the_limit(void **state)
{
	struct fixture *fixture = *state;
	char *text = malloc(WORDPIECE_TEXT_BYTES_MAX + 1);
	const int32_t *ids;
	size_t count;
	struct err err;

	assert_non_null(text);
	memset(text, '!', WORDPIECE_TEXT_BYTES_MAX + 1);
	assert_int_equal(0, wordpiece_encode(fixture->wordpiece, text, WORDPIECE_TEXT_BYTES_MAX, &ids, &count, &err));
	assert_int_equal(WORDPIECE_TEXT_BYTES_MAX + 2, count);
	assert_int_equal(ERR_LIMIT, wordpiece_encode(fixture->wordpiece, text, WORDPIECE_TEXT_BYTES_MAX + 1, &ids, &count, &err));
	assert_non_null(strstr(err.message, "1048577 bytes"));
	expect(state, "a", "4");
	free(text);
}

/* ---- vocabularies ---- */

static void refuses_vocab(const char *bytes, size_t size, int code, const char *message)
{
	struct vocab *vocab;
	struct err err;

	assert_int_equal(code, vocab_parse(&vocab, "my/vocab.txt", bytes, size, &err));
	assert_null(vocab);
	if (strstr(err.message, "my/vocab.txt") == NULL || strstr(err.message, message) == NULL)
		fail_msg("message is: %s", err.message);
}

static void vocab_errors(void **state)
{
	static const char *const specials[] = { "[PAD]", "[UNK]", "[CLS]", "[SEP]" };

	(void)state;
	for (int missing = 0; missing < 4; missing++) {
		char text[128] = "a\nb\n", expected[64];

		for (int i = 0; i < 4; i++)
			if (i != missing)
				strcat(strcat(text, specials[i]), "\n");
		snprintf(expected, sizeof(expected), "no line says %s", specials[missing]);
		refuses_vocab(text, strlen(text), ERR_FORMAT, expected);
	}
	refuses_vocab("", 0, ERR_FORMAT, "no line says [UNK]");
	refuses_vocab("[PAD]\nok\n\xFFx\n", 12, ERR_FORMAT, "line 3 is not valid UTF-8");
	refuses_vocab("x", (size_t)VOCAB_FILE_BYTES_MAX + 1, ERR_LIMIT, "at most");
}

static int32_t id_of(const char *text_of_vocab, const char *word, int32_t *size)
{
	struct vocab *vocab;
	struct wordpiece *wordpiece;
	const int32_t *ids;
	size_t count;
	struct err err;

	if (vocab_parse(&vocab, "v", text_of_vocab, strlen(text_of_vocab), &err) != 0)
		fail_msg("%s", err.message);
	assert_int_equal(0, wordpiece_open(&wordpiece, vocab, &err));
	assert_int_equal(0, wordpiece_encode(wordpiece, word, strlen(word), &ids, &count, &err));
	assert_int_equal(3, count);
	int32_t id = ids[1];
	*size = vocab_size(vocab);
	wordpiece_close(wordpiece);
	vocab_free(vocab);
	return id;
}

static void vocab_lines(void **state)
{
	int32_t size;

	(void)state;
	/* CRLF, white space at the end, no newline at the end. */
	assert_int_equal(4, id_of("[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\nab\r\n", "ab", &size));
	assert_int_equal(5, size);
	assert_int_equal(4, id_of("[PAD]\n[UNK] \n[CLS]\t\n[SEP]\nab\xE3\x80\x80 \xC2\xA0", "ab", &size));
	assert_int_equal(5, size);
	/* Empty lines count; of equal words the last one wins. */
	assert_int_equal(7, id_of("[PAD]\n[UNK]\n[CLS]\n[SEP]\nab\n\n\nab\n", "ab", &size));
	assert_int_equal(8, size);
	assert_int_equal(0, id_of("[UNK]\n[PAD]\n[CLS]\n[SEP]\n##\n##a\n", "ba", &size));
}

static void fingerprint_is_of_the_bytes(void **state)
{
	static const char other[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n";
	struct fixture *fixture = *state;
	struct vocab *same, *different;
	struct hash a, b, c;
	struct err err;

	assert_int_equal(0, vocab_parse(&same, "another name", words, sizeof(words) - 1, &err));
	assert_int_equal(0, vocab_parse(&different, "words", other, sizeof(other) - 1, &err));
	vocab_fingerprint(fixture->vocab, &a);
	vocab_fingerprint(same, &b);
	vocab_fingerprint(different, &c);
	assert_true(hash_equal(&a, &b));
	assert_false(hash_equal(&a, &c));
	vocab_free(same);
	vocab_free(different);
}

/* ---- tables ---- */

/* wordpiece.c sizes its output by this. */
static void nothing_grows(void **state)
{
	struct bert_chars *chars;
	uint8_t bytes[UTF8_BYTES_MAX];
	struct err err;

	(void)state;
	assert_int_equal(0, bert_chars_open(&chars, &err));
	for (uint32_t code = 0x80; code < BERT_CODE_POINTS; code++) {
		uint16_t class = bert_chars_class(chars, code);

		assert_true(class != BERT_HANGUL || utf8_encode(bytes, code) == BERT_OUTPUT_MAX);
		if (class >= BERT_MAPPED) {
			const struct bert_output *output = &chars->outputs[class - BERT_MAPPED];

			assert_in_range(output->count, 1, utf8_encode(bytes, code));
			assert_true(!output->alone || output->count == 1);
		}
	}
	bert_chars_close(chars);
}

static void utf8_parts(void **state)
{
	/* The examples of the Unicode standard, tables 3-8 to 3-11. */
	static const struct {
		const char *bytes;
		size_t lengths[10];
	} cases[] = {
		{ "\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", { 1, 1, 1, 1, 1, 1, 1, 1, 1 } },
		{ "\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", { 1, 1, 1, 1, 1, 1, 1, 1, 1 } },
		{ "\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", { 1, 1, 1, 1, 1, 1, 1, 1, 1 } },
		{ "\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", { 2, 1, 3, 2, 1 } },
		{ "\xF4\x8F\xBF\xBF\xEF\xBF\xBF\xC2\x80", { 4, 3, 2 } },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const uint8_t *p = (const uint8_t *)cases[i].bytes, *end = p + 9;

		for (int k = 0; p < end; k++) {
			uint32_t code;
			size_t length = utf8_decode(p, end, &code);

			assert_int_equal(cases[i].lengths[k], length);
			p += length;
		}
	}
	for (uint32_t code = 0; code < BERT_CODE_POINTS; code++) {
		uint8_t bytes[UTF8_BYTES_MAX];
		uint32_t back;
		size_t length = utf8_encode(bytes, code);

		if (code < 0xD800 || code > 0xDFFF) {
			assert_int_equal(length, utf8_decode(bytes, bytes + length, &back));
			assert_int_equal(code, back);
		}
	}
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Words and texts over a small alphabet, so that pieces share long beginnings
 * and every way of cutting a word occurs. */
static void agrees_with_a_large_vocabulary(void **state)
{
	static const char *const letters[] = { "a", "b", "c", "d", "e", "\xCE\xB1", "\xE1\x84\x80", "0" };
	enum { WORDS = 20000, TEXTS = 4000 };
	uint64_t random = 2463534242u;
	char *text_of_vocab = calloc(WORDS, 64);
	struct wordpiece *wordpiece;
	struct wordpiece_ref ref;
	struct vocab *vocab;
	struct err err;
	size_t size = 0;

	(void)state;
	assert_non_null(text_of_vocab);
	size += (size_t)sprintf(text_of_vocab, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n");
	for (int i = 0; i < WORDS; i++) {
		size += (size_t)sprintf(text_of_vocab + size, "%s", next_random(&random) % 3 == 0 ? "##" : "");
		for (uint64_t n = 1 + next_random(&random) % 15; n > 0; n--)
			size += (size_t)sprintf(text_of_vocab + size, "%s", letters[next_random(&random) % ARRAY_LEN(letters)]);
		text_of_vocab[size++] = '\n';
	}
	assert_int_equal(0, vocab_parse(&vocab, "large", text_of_vocab, size, &err));
	assert_int_equal(WORDS + 4, vocab_size(vocab));
	assert_int_equal(0, wordpiece_open(&wordpiece, vocab, &err));
	assert_int_equal(0, wordpiece_ref_open(&ref, text_of_vocab, size));
	for (int i = 0; i < TEXTS; i++) {
		char text[512] = "";
		int32_t expected[512];
		const int32_t *ids;
		size_t count;

		for (uint64_t n = next_random(&random) % 60; n > 0; n--)
			strcat(text, next_random(&random) % 8 == 0 ? " " : letters[next_random(&random) % ARRAY_LEN(letters)]);
		assert_int_equal(0, wordpiece_encode(wordpiece, text, strlen(text), &ids, &count, &err));
		assert_int_equal(count, wordpiece_ref_encode(&ref, text, strlen(text), expected));
		assert_memory_equal(expected, ids, count * sizeof(*ids));
	}
	wordpiece_ref_close(&ref);
	wordpiece_close(wordpiece);
	vocab_free(vocab);
	free(text_of_vocab);
}

/* The fast tokenizer and the plain one on texts made of awkward parts. */
static void agrees_with_the_plain_one(void **state)
{
	static const char *const parts[] = {
		"a", "b", "c", "abc", "d", "A", "0", "_", " ", "\t", "!", "[CLS]", "\x01",
		"cccccccccccccccccccccccccccccccccccccccccccccccc", "\xC3\xA9", "\xCC\x81", "\xCD\x8F", "\xE3\x80\xAE",
		"\xF0\x9D\x85\xA5", "\xF0\x9D\x85\x9E", "\xEA\xB0\x81", "\xE4\xB8\xAD", "\xEF\xA4\x80", "\xCE\xA3",
		"\xC4\xB0", "\xCD\xBE", "\xE2\x80\x8B", "\xC2\x85", "\xC2\xA0", "\xF4\x8F\xBF\xBF", "\xFF", "\xE2\x82",
		"\xF0\x9F\x98", "\x80",
	};
	struct fixture *fixture = *state;
	struct wordpiece_ref ref;
	struct err err;
	uint64_t random = 88172645463325252u;

	assert_int_equal(0, wordpiece_ref_open(&ref, words, sizeof(words) - 1));
	for (int round = 0; round < 3000; round++) {
		char text[2048] = "";
		int32_t expected[2048];
		const int32_t *ids;
		size_t count;

		for (int i = 0, n = round % 24; i < n; i++)
			strcat(text, parts[next_random(&random) % ARRAY_LEN(parts)]);
		assert_int_equal(0, wordpiece_encode(fixture->wordpiece, text, strlen(text), &ids, &count, &err));
		assert_int_equal(count, wordpiece_ref_encode(&ref, text, strlen(text), expected));
		assert_memory_equal(expected, ids, count * sizeof(*ids));
	}
	wordpiece_ref_close(&ref);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(longest_piece_first),
		cmocka_unit_test(spaces_and_punctuation),
		cmocka_unit_test(what_is_dropped),
		cmocka_unit_test(accents_and_case),
		cmocka_unit_test(marks_are_reordered),
		cmocka_unit_test(long_words),
		cmocka_unit_test(text_beyond_the_limit),
		cmocka_unit_test(vocab_errors),
		cmocka_unit_test(vocab_lines),
		cmocka_unit_test(fingerprint_is_of_the_bytes),
		cmocka_unit_test(nothing_grows),
		cmocka_unit_test(utf8_parts),
		cmocka_unit_test(agrees_with_the_plain_one),
		cmocka_unit_test(agrees_with_a_large_vocabulary),
	};

	return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
