#include "tests/support/wordpiece_ref.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "preprocessd/codec/bert_table.h"

enum { WORD_CHARS = 100, ENTRY_BYTES = 512, GROWTH = 3 };

/* ---- the vocabulary ---- */

static int compare_entries(const void *pa, const void *pb)
{
	const struct wordpiece_ref_entry *a = pa, *b = pb;
	int order = memcmp(a->bytes, b->bytes, a->length < b->length ? a->length : b->length);

	if (order == 0)
		order = (a->length > b->length) - (a->length < b->length);
	return order != 0 ? order : (a->id < b->id) - (a->id > b->id);
}

static void fill_tables(void);

int wordpiece_ref_open(struct wordpiece_ref *ref, const char *vocab, size_t bytes)
{
	static bool filled;
	size_t lines = 1;

	if (!filled)
		fill_tables();
	filled = true;
	for (size_t i = 0; i < bytes; i++)
		lines += vocab[i] == '\n';
	*ref = (struct wordpiece_ref){ .entries = calloc(lines, sizeof(*ref->entries)) };
	if (ref->entries == NULL)
		return -1;
	for (size_t i = 0; i < bytes; ref->count++) {
		size_t start = i, end;

		while (i < bytes && vocab[i] != '\n')
			i++;
		for (end = i++; end > start && strchr(" \t\v\f\r", vocab[end - 1]) != NULL && vocab[end - 1] != '\0'; end--)
			;
		ref->entries[ref->count] = (struct wordpiece_ref_entry){ vocab + start, end - start, (int32_t)ref->count };
	}
	qsort(ref->entries, ref->count, sizeof(*ref->entries), compare_entries);
	return 0;
}

void wordpiece_ref_close(struct wordpiece_ref *ref)
{
	free(ref->entries);
	*ref = (struct wordpiece_ref){ 0 };
}

static int32_t find(const struct wordpiece_ref *ref, const char *bytes, size_t length)
{
	struct wordpiece_ref_entry key = { bytes, length, INT32_MAX };
	size_t low = 0, high = ref->count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (compare_entries(&ref->entries[middle], &key) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == ref->count || ref->entries[low].length != length || memcmp(ref->entries[low].bytes, bytes, length) != 0)
		return -1;
	return ref->entries[low].id;
}

/* ---- UTF-8, by trying the lengths ---- */

/* The shortest form of a scalar value, checked after the fact. */
static bool decode_exactly(const uint8_t *p, size_t length, uint32_t *code)
{
	static const uint32_t smallest[] = { 0, 0, 0x80, 0x800, 0x10000 };
	static const uint8_t lead_bits[] = { 0, 0x7F, 0x1F, 0x0F, 0x07 }, lead_mark[] = { 0, 0x00, 0xC0, 0xE0, 0xF0 };

	if ((p[0] & (uint8_t)~lead_bits[length]) != lead_mark[length])
		return false;
	*code = p[0] & lead_bits[length];
	for (size_t i = 1; i < length; i++) {
		if ((p[i] & 0xC0) != 0x80)
			return false;
		*code = *code << 6 | (p[i] & 0x3Fu);
	}
	return *code >= smallest[length] && *code < 0x110000 && (*code < 0xD800 || *code > 0xDFFF);
}

/* Ill-formed bytes are skipped one by one: they stand for U+FFFD, which the
 * clean-text step removes, however many there are. */
static size_t decode(const char *text, size_t bytes, uint32_t *out)
{
	size_t count = 0;

	for (size_t i = 0; i < bytes;) {
		size_t length = 1;

		while (length <= 4 && (i + length > bytes || !decode_exactly((const uint8_t *)text + i, length, &out[count])))
			length++;
		if (length <= 4) {
			count++;
			i += length;
		} else {
			i++;
		}
	}
	return count;
}

static size_t encode(char *out, uint32_t code)
{
	size_t length = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
	static const uint8_t lead_mark[] = { 0, 0x00, 0xC0, 0xE0, 0xF0 };

	for (size_t i = length - 1; i > 0; i--, code >>= 6)
		out[i] = (char)(0x80 | (code & 0x3F));
	out[0] = (char)(lead_mark[length] | code);
	return length;
}

/* ---- the steps ---- */

enum { CODE_POINTS = 0x110000 };

/* One cell for each code point; most pages stay untouched. */
static uint8_t class_of[CODE_POINTS], rank_of[CODE_POINTS];
static uint32_t maps[CODE_POINTS][GROWTH]; /* first 0: itself */

static void fill_tables(void)
{
	for (int i = 0; i < bert_ranges_count; i++)
		for (uint32_t code = bert_ranges[i].first; code <= bert_ranges[i].last; code++)
			class_of[code] = bert_ranges[i].class;
	for (int i = 0; i < bert_ranks_count; i++)
		for (uint32_t code = bert_ranks[i].first; code <= bert_ranks[i].last; code++)
			rank_of[code] = bert_ranks[i].rank;
	for (int i = 0; i < bert_runs_count; i++)
		for (uint32_t code = bert_runs[i].first; code <= bert_runs[i].last; code += bert_runs[i].step)
			maps[code][0] = bert_runs[i].to + bert_runs[i].slope * (code - bert_runs[i].first);
	for (int i = 0; i < bert_pairs_count; i++)
		maps[bert_pairs[i].from][0] = bert_pairs[i].to;
	for (int i = 0; i < bert_sequences_count; i++)
		memcpy(maps[bert_sequences[i].from], bert_sequences[i].to, sizeof(maps[0]));
}

/* NFD and lower case of one code point that is neither mark nor space. */
static size_t map(uint32_t code, uint32_t out[GROWTH])
{
	uint32_t syllable = code - 0xAC00;
	size_t count = 0;

	if (class_of[code] == BERT_HANGUL) {
		out[0] = 0x1100 + syllable / 28 / 21;
		out[1] = 0x1161 + syllable / 28 % 21;
		out[2] = 0x11A7 + syllable % 28;
		return syllable % 28 == 0 ? 2 : 3;
	}
	out[0] = code;
	for (; count < GROWTH && maps[code][count] != 0; count++)
		out[count] = maps[code][count];
	return count == 0 ? 1 : count;
}

static size_t clean_text(uint32_t *text, size_t count)
{
	size_t kept = 0;

	for (size_t i = 0; i < count; i++) {
		uint8_t class = class_of[text[i]];

		if (class != BERT_DROP)
			text[kept++] = class == BERT_SPACE ? ' ' : text[i];
	}
	return kept;
}

static size_t decompose(const uint32_t *text, size_t count, uint32_t *out)
{
	size_t made = 0;

	for (size_t i = 0; i < count; i++)
		if (class_of[text[i]] == BERT_MARK || class_of[text[i]] == BERT_MARK_STARTER)
			out[made++] = text[i];
		else
			made += map(text[i], out + made);
	return made;
}

/* Bubble sort of each run of ranked letters. Accents take no part; a vanishing
 * starter and everything else ends the run. */
static size_t strip_and_reorder(uint32_t *text, size_t count)
{
	size_t kept = 0, run = 0;

	for (size_t i = 0; i < count; i++) {
		if (class_of[text[i]] == BERT_MARK)
			continue;
		if (class_of[text[i]] == BERT_MARK_STARTER) {
			run = kept;
			continue;
		}
		text[kept++] = text[i];
		if (rank_of[text[i]] == 0) {
			run = kept;
			continue;
		}
		for (size_t k = kept - 1; k > run && rank_of[text[k - 1]] > rank_of[text[k]]; k--) {
			uint32_t swap = text[k];

			text[k] = text[k - 1];
			text[k - 1] = swap;
		}
	}
	return kept;
}

static size_t encode_word(const struct wordpiece_ref *ref, const uint32_t *word, size_t chars, int32_t *ids)
{
	char piece[ENTRY_BYTES];
	size_t made = 0, start = 0;

	if (chars > WORD_CHARS)
		goto unknown;
	while (start < chars) {
		size_t end;
		int32_t id = -1;

		for (end = chars; end > start; end--) {
			size_t bytes = start > 0 ? 2 : 0;

			memcpy(piece, "##", 2);
			for (size_t i = start; i < end; i++)
				bytes += encode(piece + bytes, word[i]);
			if ((id = find(ref, piece, bytes)) >= 0)
				break;
		}
		if (id < 0)
			goto unknown;
		ids[made++] = id;
		start = end;
	}
	return made;
unknown:
	ids[0] = find(ref, "[UNK]", 5);
	return 1;
}

static size_t encode_words(const struct wordpiece_ref *ref, const uint32_t *text, size_t count, int32_t *ids)
{
	size_t made = 0;

	for (size_t i = 0; i < count;) {
		size_t end = i;

		if (text[i] == ' ') {
			i++;
			continue;
		}
		if (class_of[text[i]] == BERT_ALONE)
			end = i + 1;
		while (end < count && text[end] != ' ' && class_of[text[end]] != BERT_ALONE && class_of[text[i]] != BERT_ALONE)
			end++;
		made += encode_word(ref, text + i, end - i, ids + made);
		i = end;
	}
	return made;
}

size_t wordpiece_ref_encode(const struct wordpiece_ref *ref, const char *text, size_t bytes, int32_t *ids)
{
	uint32_t *codes = calloc(bytes + 1, sizeof(*codes)), *mapped = calloc(GROWTH * bytes + 1, sizeof(*mapped));
	size_t count, made = 0;

	if (codes != NULL && mapped != NULL) {
		count = clean_text(codes, decode(text, bytes, codes));
		count = strip_and_reorder(mapped, decompose(codes, count, mapped));
		ids[made++] = find(ref, "[CLS]", 5);
		made += encode_words(ref, mapped, count, ids + made);
		ids[made++] = find(ref, "[SEP]", 5);
	}
	free(codes);
	free(mapped);
	return made;
}
