#include "preprocessd/codec/wordtable.h"

#include <stdbool.h>

#include "shared/base/mem.h"

const uint8_t wordtable_mask[2 * WORDTABLE_READ_BYTES] = {
	0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
};

static bool belongs(const struct trie_word *word)
{
	return word->length <= WORDTABLE_BYTES_MAX && (word->length < 2 || memcmp(word->bytes, "##", 2) != 0) &&
	       memchr(word->bytes, '\0', word->length) == NULL;
}

static void insert(struct wordtable *table, const struct trie_word *word)
{
	size_t last = ((size_t)1 << (64 - table->shift)) - 1;
	uint8_t bytes[WORDTABLE_READ_BYTES] = { 0 };
	uint64_t low;
	uint32_t high;

	memcpy(bytes, word->bytes, word->length);
	memcpy(&low, bytes, sizeof(low));
	memcpy(&high, bytes + sizeof(low), sizeof(high));
	size_t at = wordtable_place(table, low, high);
	while (table->cells[at].low != 0)
		at = (at + 1) & last;
	table->cells[at] = (struct wordtable_cell){ low, high, word->id };
}

int wordtable_build(struct wordtable *out, const struct trie_word *words, size_t count, struct err *err)
{
	size_t used = 0;
	int bits = 4;

	*out = (struct wordtable){ 0 };
	for (size_t i = 0; i < count; i++)
		used += belongs(&words[i]);
	/* At most half full: probes stay short, and a search ends. */
	while ((size_t)1 << bits < 2 * used)
		bits++;
	out->shift = 64 - bits;
	out->cells = mem_aligned(sizeof(*out->cells) << bits);
	if (out->cells == NULL)
		return err_nomem(err, sizeof(*out->cells) << bits);
	memset(out->cells, 0, sizeof(*out->cells) << bits);
	for (size_t i = 0; i < count; i++)
		if (belongs(&words[i]))
			insert(out, &words[i]);
	return 0;
}

void wordtable_free(struct wordtable *table)
{
	mem_free(table->cells);
	*table = (struct wordtable){ 0 };
}
