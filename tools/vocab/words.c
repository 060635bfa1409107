#include "tools/vocab/words.h"

#include <string.h>

#include "preprocessd/codec/bert_chars.h"
#include "shared/base/hash.h"
#include "shared/base/mem.h"
#include "shared/base/utf8.h"

enum { FIRST_SLOTS = 1 << 12 };

/* The word that is being read. */
struct current {
	char text[WORDS_BYTES_MAX];
	size_t bytes, chars;
};

int words_open(struct words *words, struct err *err)
{
	*words = (struct words){ .slot_count = FIRST_SLOTS };
	words->slots = mem_array(FIRST_SLOTS, sizeof(*words->slots));
	if (words->slots == NULL)
		return err_nomem(err, FIRST_SLOTS * sizeof(*words->slots));
	return bert_chars_open(&words->chars, err);
}

void words_close(struct words *words)
{
	for (size_t i = 0; i < words->count; i++)
		mem_free(words->all[i].text);
	mem_free(words->all);
	mem_free(words->slots);
	bert_chars_close(words->chars);
	*words = (struct words){ 0 };
}

/* Where a word is, or the free slot where it would go. */
static uint32_t *slot_of(const struct words *words, const char *word, size_t size)
{
	size_t at = (size_t)hash_checksum(word, size) & (words->slot_count - 1);

	for (;; at = (at + 1) & (words->slot_count - 1)) {
		uint32_t *slot = &words->slots[at];

		if (*slot == 0)
			return slot;
		const char *text = words->all[*slot - 1].text;

		if (strncmp(text, word, size) == 0 && text[size] == '\0')
			return slot;
	}
}

size_t words_find(const struct words *words, const char *word, size_t size)
{
	uint32_t slot = *slot_of(words, word, size);

	return slot == 0 ? words->count : slot - 1;
}

static int grow(struct words *words, struct err *err)
{
	size_t capacity = words->capacity == 0 ? FIRST_SLOTS / 2 : 2 * words->capacity;
	struct word *all = mem_realloc_array(words->all, capacity, sizeof(*all));
	uint32_t *slots;

	if (all == NULL)
		return err_nomem(err, capacity * sizeof(*all));
	words->all = all;
	words->capacity = capacity;
	slots = mem_array(2 * capacity, sizeof(*slots));
	if (slots == NULL)
		return err_nomem(err, 2 * capacity * sizeof(*slots));
	mem_free(words->slots);
	words->slots = slots;
	words->slot_count = 2 * capacity;
	for (size_t i = 0; i < words->count; i++)
		*slot_of(words, words->all[i].text, strlen(words->all[i].text)) = (uint32_t)(i + 1);
	return 0;
}

int words_add(struct words *words, const char *word, size_t size, uint64_t times, struct err *err)
{
	uint32_t *slot;
	int rc;

	if (words->count == words->capacity) {
		rc = grow(words, err);
		if (rc != 0)
			return rc;
	}
	slot = slot_of(words, word, size);
	if (*slot == 0) {
		char *copy = mem_strndup(word, size);

		if (copy == NULL)
			return err_nomem(err, size + 1);
		words->all[words->count++] = (struct word){ copy, 0 };
		*slot = (uint32_t)words->count;
	}
	words->all[*slot - 1].count += times;
	return 0;
}

static int end_word(struct words *words, struct current *current, struct err *err)
{
	int rc = 0;

	if (current->chars > 0 && current->chars <= WORDS_CHARS_MAX)
		rc = words_add(words, current->text, current->bytes, 1, err);
	current->bytes = 0;
	current->chars = 0;
	return rc;
}

static void add_letter(struct current *current, uint32_t point)
{
	if (current->chars++ < WORDS_CHARS_MAX)
		current->bytes += utf8_put(current->text + current->bytes, point);
}

static int add_alone(struct words *words, struct current *current, uint32_t point, struct err *err)
{
	int rc = end_word(words, current, err);

	if (rc != 0)
		return rc;
	add_letter(current, point);
	return end_word(words, current, err);
}

static int add_point(struct words *words, struct current *current, uint32_t point, struct err *err)
{
	uint16_t class = bert_chars_class(words->chars, point);
	uint32_t jamo[BERT_OUTPUT_MAX];
	const struct bert_output *output;

	switch (class) {
	case BERT_KEEP:
		add_letter(current, point);
		return 0;
	case BERT_DROP:
	case BERT_MARK:
	case BERT_MARK_STARTER:
		return 0;
	case BERT_SPACE:
		return end_word(words, current, err);
	case BERT_ALONE:
		return add_alone(words, current, point, err);
	case BERT_HANGUL:
		for (int i = 0, count = bert_hangul(point, jamo); i < count; i++)
			add_letter(current, jamo[i]);
		return 0;
	default:
		output = &words->chars->outputs[class - BERT_MAPPED];
		if (output->alone)
			return add_alone(words, current, output->to[0], err);
		for (int i = 0; i < output->count; i++)
			add_letter(current, output->to[i]);
		return 0;
	}
}

static uint32_t decode(const char *text, size_t bytes)
{
	static const uint8_t FIRST_MASK[5] = { 0, 0x7F, 0x1F, 0x0F, 0x07 };
	uint32_t point = (uint8_t)text[0] & FIRST_MASK[bytes];

	for (size_t i = 1; i < bytes; i++)
		point = point << 6 | ((uint8_t)text[i] & 0x3F);
	return point;
}

int words_add_text(struct words *words, const char *text, size_t size, struct err *err)
{
	struct current current = { .bytes = 0 };
	int rc = 0;

	for (size_t at = 0; at < size && rc == 0;) {
		size_t bytes = utf8_char_bytes(text + at, size - at);

		if (bytes == 0) {
			rc = add_point(words, &current, 0xFFFD, err);
			at += utf8_bad_bytes(text + at, size - at);
		} else {
			rc = add_point(words, &current, decode(text + at, bytes), err);
			at += bytes;
		}
	}
	return rc != 0 ? rc : end_word(words, &current, err);
}
