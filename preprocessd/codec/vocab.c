#include "preprocessd/codec/vocab.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/mem.h"
#include "shared/base/utf8.h"

enum { LONGEST_ENTRY_BYTES = WORD_BYTES_MAX + 2 }; /* with "##" */

/* White_Space of Unicode, which trailing blanks are judged by. */
static bool is_white_space(uint32_t code)
{
	return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
	       (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F ||
	       code == 0x3000;
}

/* Checks that the line is UTF-8 and finds its length without trailing white
 * space. Returns false if it is not UTF-8. */
static bool trim_line(const char *line, size_t bytes, size_t *length)
{
	const uint8_t *p = (const uint8_t *)line, *end = p + bytes;

	*length = 0;
	while (p < end) {
		uint32_t code;

		p += utf8_decode(p, end, &code);
		if (code == UTF8_INVALID)
			return false;
		if (!is_white_space(code))
			*length = (size_t)(p - (const uint8_t *)line);
	}
	return true;
}

/* Reads the lines into words, without empty ones and those too long to match
 * any word. The id of a word is the number of its line, from 0. */
static int read_lines(struct trie_word *words, size_t *count, int32_t *lines, const char *name, const char *bytes,
		      size_t size, struct err *err)
{
	const char *end = bytes + size;

	*count = 0;
	*lines = 0;
	for (const char *line = bytes; line < end; ) {
		const char *newline = memchr(line, '\n', (size_t)(end - line));
		const char *stop = newline == NULL ? end : newline;
		size_t length;

		if (*lines == VOCAB_WORDS_MAX)
			return err_set(err, ERR_LIMIT, "%s: more than %d lines; a vocabulary has one word a line", name, VOCAB_WORDS_MAX);
		if (!trim_line(line, (size_t)(stop - line), &length))
			return err_set(err, ERR_FORMAT, "%s: line %d is not valid UTF-8; a vocabulary is a text file with one word a line",
				       name, *lines + 1);
		if (length > 0 && length <= LONGEST_ENTRY_BYTES)
			words[(*count)++] = (struct trie_word){ line, (uint32_t)length, *lines };
		(*lines)++;
		line = newline == NULL ? end : newline + 1;
	}
	return 0;
}

static int compare_bytes(const struct trie_word *a, const struct trie_word *b)
{
	int order = memcmp(a->bytes, b->bytes, a->length < b->length ? a->length : b->length);

	return order != 0 ? order : (a->length > b->length) - (a->length < b->length);
}

/* By bytes; of equal words the last line first. */
static int compare_words(const void *pa, const void *pb)
{
	const struct trie_word *a = pa, *b = pb;
	int order = compare_bytes(a, b);

	return order != 0 ? order : (a->id < b->id) - (a->id > b->id);
}

/* A word that stands on several lines has the number of the last one. */
static size_t sort_and_keep_last(struct trie_word *words, size_t count)
{
	size_t kept = 0;

	qsort(words, count, sizeof(*words), compare_words);
	for (size_t i = 0; i < count; i++)
		if (kept == 0 || compare_bytes(&words[kept - 1], &words[i]) != 0)
			words[kept++] = words[i];
	return kept;
}

/* ASCII's capitals alone: others are rare, and a model for lower-cased texts may have some. Names in brackets are no words of texts. */
static bool is_cased(const struct trie_word *word)
{
	if (word->bytes[0] == '[' && word->bytes[word->length - 1] == ']')
		return false;
	for (uint32_t i = 0; i < word->length; i++)
		if (word->bytes[i] >= 'A' && word->bytes[i] <= 'Z')
			return true;
	return false;
}

static int32_t count_cased(const struct trie_word *words, size_t count)
{
	int32_t cased = 0;

	for (size_t i = 0; i < count; i++)
		cased += is_cased(&words[i]);
	return cased;
}

bool vocab_warning(const struct vocab *vocab, const char *name, char *out, size_t out_bytes)
{
	if (vocab->cased == 0)
		return false;
	snprintf(out, out_bytes, "%s: %d of its words have capital letters and are never found: texts are lower-cased, as for uncased models "
		 "of BERT; a cased model would get other ids than it was trained with", name, vocab->cased);
	return true;
}

static int32_t find_node(const struct trie *trie, const char *text)
{
	int32_t node = TRIE_ROOT;

	for (const char *p = text; *p != '\0' && node != TRIE_NONE; p++)
		node = trie_step(trie, node, (uint8_t)*p);
	return node;
}

static int32_t find_word(const struct trie *trie, const char *text)
{
	int32_t node = find_node(trie, text);

	return node == TRIE_NONE ? TRIE_NONE : trie->units[node].id;
}

static int find_special(int32_t *id, const struct vocab *vocab, const char *name, bool mark, const char *word, struct err *err)
{
	*id = find_word(&vocab->trie, word);
	if (*id != TRIE_NONE)
		return 0;
	if (mark)
		return err_set(err, ERR_FORMAT, "%s: no line says %s: the file begins with a byte order mark, which is part of its first line; write it "
			       "without (sed -i '1s/^\\xEF\\xBB\\xBF//' FILE)", name, word);
	return err_set(err, ERR_FORMAT, "%s: no line says %s; a BERT vocabulary has [PAD], [UNK], [CLS] and [SEP], each on a line of its own "
		       "(use the vocab.txt that came with the model)", name, word);
}

/* mark: a byte order mark stands in front of the file. */
static int find_specials(struct vocab *vocab, const char *name, bool mark, struct err *err)
{
	int code;

	if ((code = find_special(&vocab->unk, vocab, name, mark, "[UNK]", err)) != 0 ||
	    (code = find_special(&vocab->cls, vocab, name, mark, "[CLS]", err)) != 0 ||
	    (code = find_special(&vocab->sep, vocab, name, mark, "[SEP]", err)) != 0 ||
	    (code = find_special(&vocab->pad, vocab, name, mark, "[PAD]", err)) != 0)
		return code;
	vocab->continuing = find_node(&vocab->trie, "##");
	for (int c = 0; c < 128; c++) {
		int32_t id = c == 0 ? TRIE_NONE : find_word(&vocab->trie, (const char[]){ (char)c, '\0' });

		vocab->ascii_alone[c] = id == TRIE_NONE ? vocab->unk : id;
	}
	return 0;
}

static void make_fingerprint(struct vocab *vocab, const void *bytes, size_t size)
{
	static const char rules[] = "bert wordpiece, lower case, accents stripped, version ";
	uint8_t all[HASH_BYTES + sizeof(rules) + 1];
	struct hash content;

	hash_bytes(&content, bytes, size);
	memcpy(all, content.bytes, HASH_BYTES);
	memcpy(all + HASH_BYTES, rules, sizeof(rules));
	all[sizeof(all) - 1] = WORDPIECE_RULES_VERSION;
	hash_bytes(&vocab->fingerprint, all, sizeof(all));
}

static size_t count_lines(const char *bytes, size_t size)
{
	const char *end = bytes + size;
	size_t lines = 1;

	for (const char *p = bytes; p < end && (p = memchr(p, '\n', (size_t)(end - p))) != NULL; p++)
		lines++;
	return lines < VOCAB_WORDS_MAX ? lines : VOCAB_WORDS_MAX;
}

int vocab_parse(struct vocab **out, const char *name, const void *bytes, size_t size, struct err *err)
{
	struct vocab *vocab = NULL;
	struct trie_word *words = NULL;
	size_t count;
	int code;

	*out = NULL;
	if (size > VOCAB_FILE_BYTES_MAX)
		return err_set(err, ERR_LIMIT, "%s: %zu bytes, a vocabulary has at most %d", name, size, VOCAB_FILE_BYTES_MAX);
	vocab = mem_zalloc(sizeof(*vocab));
	words = mem_array(count_lines(bytes, size), sizeof(*words));
	if (vocab == NULL || words == NULL) {
		code = err_nomem(err, size);
		goto out;
	}
	if ((code = read_lines(words, &count, &vocab->size, name, bytes, size, err)) != 0)
		goto out;
	count = sort_and_keep_last(words, count);
	if ((code = trie_build(&vocab->trie, words, count, err)) != 0 ||
	    (code = wordtable_build(&vocab->whole, words, count, err)) != 0 ||
	    (code = find_specials(vocab, name, size >= 3 && memcmp(bytes, "\xEF\xBB\xBF", 3) == 0, err)) != 0 ||
	    (code = bert_chars_open(&vocab->chars, err)) != 0)
		goto out;
	vocab->cased = count_cased(words, count);
	make_fingerprint(vocab, bytes, size);
	*out = vocab;
	vocab = NULL;
out:
	vocab_free(vocab);
	mem_free(words);
	return code;
}

void vocab_free(struct vocab *vocab)
{
	if (vocab == NULL)
		return;
	trie_free(&vocab->trie);
	wordtable_free(&vocab->whole);
	bert_chars_close(vocab->chars);
	mem_free(vocab);
}

int32_t vocab_size(const struct vocab *vocab)
{
	return vocab->size;
}

int32_t vocab_id_cls(const struct vocab *vocab)
{
	return vocab->cls;
}

int32_t vocab_id_sep(const struct vocab *vocab)
{
	return vocab->sep;
}

int32_t vocab_id_pad(const struct vocab *vocab)
{
	return vocab->pad;
}

int32_t vocab_id_unk(const struct vocab *vocab)
{
	return vocab->unk;
}

void vocab_fingerprint(const struct vocab *vocab, struct hash *out)
{
	*out = vocab->fingerprint;
}
