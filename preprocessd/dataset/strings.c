#include "preprocessd/dataset/strings.h"

#include <string.h>

#include "shared/base/hash.h"
#include "shared/base/mem.h"

enum { STRINGS_FIRST = 16 };

void strings_free(struct strings *strings)
{
	buf_free(&strings->text);
	mem_free(strings->at);
	mem_free(strings->slots);
	*strings = (struct strings){ 0 };
}

const char *strings_at(const struct strings *strings, uint32_t index)
{
	CHECK(index < strings->count);
	return strings->text.data + strings->at[index];
}

size_t strings_bytes(const struct strings *strings, uint32_t index)
{
	CHECK(index < strings->count);
	return strings->at[index + 1] - strings->at[index] - 1;
}

/* The slot that holds the string, or the free one where it belongs. */
static uint32_t *slot_of(const struct strings *strings, const char *text, size_t bytes)
{
	uint32_t mask = strings->slot_count - 1;
	uint32_t slot = (uint32_t)hash_checksum(text, bytes) & mask;

	for (;; slot = (slot + 1) & mask) {
		uint32_t found = strings->slots[slot];

		if (found == 0)
			return &strings->slots[slot];
		if (strings_bytes(strings, found - 1) == bytes && memcmp(strings_at(strings, found - 1), text, bytes) == 0)
			return &strings->slots[slot];
	}
}

/* Room for one more. */
static int grow(struct strings *strings, struct err *err)
{
	uint32_t capacity = strings->capacity == 0 ? STRINGS_FIRST : 2 * strings->capacity;

	if (strings->count < strings->capacity)
		return 0;
	if (capacity > STRINGS_MAX)
		return err_set(err, ERR_LIMIT, "more than %d different names", STRINGS_MAX);
	uint64_t *at = mem_realloc_array(strings->at, (size_t)capacity + 1, sizeof(*at));
	if (at == NULL)
		return err_nomem(err, (size_t)capacity * sizeof(*at));
	if (strings->count == 0)
		at[0] = 0;
	strings->at = at;
	uint32_t *slots = mem_array(2 * (size_t)capacity, sizeof(*slots));
	if (slots == NULL)
		return err_nomem(err, 2 * (size_t)capacity * sizeof(*slots));
	mem_free(strings->slots);
	strings->slots = slots;
	strings->slot_count = 2 * capacity;
	strings->capacity = capacity;
	for (uint32_t i = 0; i < strings->count; i++)
		*slot_of(strings, strings_at(strings, i), strings_bytes(strings, i)) = i + 1;
	return 0;
}

int strings_add(struct strings *strings, const char *text, size_t bytes, uint32_t *index, bool *added, struct err *err)
{
	int code = grow(strings, err);

	if (code != 0)
		return code;
	uint32_t *slot = slot_of(strings, text, bytes);
	if (added != NULL)
		*added = *slot == 0;
	if (*slot != 0) {
		*index = *slot - 1;
		return 0;
	}
	if ((code = buf_reserve(&strings->text, bytes + 1, err)) != 0 || (code = buf_add(&strings->text, text, bytes, err)) != 0 ||
	    (code = buf_add_byte(&strings->text, '\0', err)) != 0)
		return code;
	*index = strings->count++;
	strings->at[strings->count] = strings->text.size;
	*slot = strings->count;
	return 0;
}

uint32_t strings_find(const struct strings *strings, const char *text, size_t bytes)
{
	if (strings->slot_count == 0)
		return STRINGS_NONE;
	uint32_t found = *slot_of(strings, text, bytes);
	return found == 0 ? STRINGS_NONE : found - 1;
}
