#include "preprocessd/codec/trie.h"

#include <stdbool.h>

#include "shared/base/mem.h"

enum { BYTES = 256 };

/* The words [first, end) share the `depth` bytes that lead to node. */
struct branch {
	int32_t node;
	uint32_t depth;
	size_t first, end;
};

struct builder {
	struct trie trie;
	const struct trie_word *words;
	struct branch *stack;
	size_t stack_count, stack_capacity;
	size_t search_from; /* hardly a unit below this is free */
};

static int grow_units(struct trie *trie, size_t needed, struct err *err)
{
	size_t capacity = trie->capacity < BYTES ? 4 * BYTES : trie->capacity;

	if (needed <= trie->capacity)
		return 0;
	while (capacity < needed)
		capacity *= 2;
	if (capacity > INT32_MAX)
		return err_set(err, ERR_LIMIT, "the words need a table of more than %d entries", INT32_MAX);
	struct trie_unit *units = mem_realloc_array(trie->units, capacity, sizeof(*units));
	if (units == NULL)
		return err_nomem(err, capacity * sizeof(*units));
	for (size_t i = trie->capacity; i < capacity; i++)
		units[i] = (struct trie_unit){ .base = 0, .check = TRIE_NONE, .id = TRIE_NONE };
	trie->units = units;
	trie->capacity = capacity;
	return 0;
}

static bool fits(const struct trie *trie, size_t base, const uint8_t *labels, int count)
{
	for (int i = 0; i < count; i++)
		if (trie->units[base + labels[i]].check != TRIE_NONE)
			return false;
	return true;
}

/* Finds a base at which all children fall on free units. */
static int find_base(struct builder *builder, const uint8_t *labels, int count, int32_t *out, struct err *err)
{
	struct trie *trie = &builder->trie;
	size_t at = builder->search_from, used = 0;
	int code;

	if (at <= labels[0])
		at = (size_t)labels[0] + 1;
	for (size_t from = at;; at++) {
		size_t base = at - labels[0];

		if ((code = grow_units(trie, base + BYTES, err)) != 0)
			return code;
		if (trie->units[at].check != TRIE_NONE) {
			used++;
			continue;
		}
		if (!fits(trie, base, labels, count))
			continue;
		/* Searches stay short: leave a stretch that is nearly full behind. */
		if (used >= (at - from + 1) * 19 / 20 && at > builder->search_from)
			builder->search_from = at;
		*out = (int32_t)base;
		return 0;
	}
}

static int push(struct builder *builder, struct branch branch, struct err *err)
{
	if (builder->stack_count == builder->stack_capacity) {
		size_t capacity = builder->stack_capacity == 0 ? BYTES : 2 * builder->stack_capacity;
		struct branch *stack = mem_realloc_array(builder->stack, capacity, sizeof(*stack));

		if (stack == NULL)
			return err_nomem(err, capacity * sizeof(*stack));
		builder->stack = stack;
		builder->stack_capacity = capacity;
	}
	builder->stack[builder->stack_count++] = branch;
	return 0;
}

static uint8_t byte_at(const struct trie_word *word, uint32_t depth)
{
	return (uint8_t)word->bytes[depth];
}

/* Places the children of one node and puts them on the stack. */
static int grow_branch(struct builder *builder, struct branch branch, struct err *err)
{
	const struct trie_word *words = builder->words;
	uint8_t labels[BYTES];
	size_t starts[BYTES + 1];
	int count = 0, code;
	int32_t base;

	if (words[branch.first].length == branch.depth)
		builder->trie.units[branch.node].id = words[branch.first++].id;
	for (size_t i = branch.first; i < branch.end; i++) {
		uint8_t label = byte_at(&words[i], branch.depth);

		if (count == 0 || labels[count - 1] != label) {
			labels[count] = label;
			starts[count++] = i;
		}
	}
	if (count == 0)
		return 0;
	starts[count] = branch.end;
	if ((code = find_base(builder, labels, count, &base, err)) != 0)
		return code;
	builder->trie.units[branch.node].base = base;
	for (int i = 0; i < count; i++)
		builder->trie.units[base + labels[i]].check = branch.node;
	for (int i = 0; i < count && code == 0; i++)
		code = push(builder, (struct branch){ base + labels[i], branch.depth + 1, starts[i], starts[i + 1] }, err);
	return code;
}

int trie_build(struct trie *out, const struct trie_word *words, size_t count, struct err *err)
{
	struct builder builder = { .words = words, .search_from = 1 };
	int code = grow_units(&builder.trie, BYTES, err);

	*out = (struct trie){ 0 };
	if (code == 0 && count > 0)
		code = push(&builder, (struct branch){ TRIE_ROOT, 0, 0, count }, err);
	while (code == 0 && builder.stack_count > 0)
		code = grow_branch(&builder, builder.stack[--builder.stack_count], err);
	mem_free(builder.stack);
	if (code != 0)
		trie_free(&builder.trie);
	else
		*out = builder.trie;
	return code;
}

void trie_free(struct trie *trie)
{
	mem_free(trie->units);
	*trie = (struct trie){ 0 };
}
