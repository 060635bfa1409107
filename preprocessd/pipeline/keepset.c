#include "preprocessd/pipeline/keepset.h"

#include <string.h>

#include "shared/base/mem.h"

enum { FIRST_CAPACITY = 1024 };

static uint64_t head_of(const uint8_t hash[HASH_BYTES])
{
	uint64_t head;

	memcpy(&head, hash, sizeof(head));
	return head != 0 ? head : 1;
}

/* SHA-256 spreads by itself. */
static size_t find(const struct keepset *set, uint64_t head)
{
	size_t at = (size_t)head & (set->capacity - 1);

	while (set->slots[at] != 0 && set->slots[at] != head)
		at = (at + 1) & (set->capacity - 1);
	return at;
}

static int grow(struct keepset *set, struct err *err)
{
	struct keepset larger = { .capacity = set->capacity == 0 ? FIRST_CAPACITY : 2 * set->capacity, .count = set->count };

	larger.slots = mem_array(larger.capacity, sizeof(*larger.slots));
	if (larger.slots == NULL)
		return err_nomem(err, larger.capacity * sizeof(*larger.slots));
	for (size_t i = 0; i < set->capacity; i++)
		if (set->slots[i] != 0)
			larger.slots[find(&larger, set->slots[i])] = set->slots[i];
	keepset_free(set);
	*set = larger;
	return 0;
}

int keepset_add(struct keepset *set, const uint8_t hash[HASH_BYTES], struct err *err)
{
	uint64_t head = head_of(hash);
	int code;

	if (2 * (set->count + 1) > set->capacity && (code = grow(set, err)) != 0)
		return code;
	size_t at = find(set, head);
	set->count += set->slots[at] == 0;
	set->slots[at] = head;
	return 0;
}

bool keepset_has(const struct keepset *set, const uint8_t hash[HASH_BYTES])
{
	return set->capacity > 0 && set->slots[find(set, head_of(hash))] != 0;
}

void keepset_free(struct keepset *set)
{
	mem_free(set->slots);
	*set = KEEPSET_INIT;
}
