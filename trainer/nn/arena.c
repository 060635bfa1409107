#include "trainer/nn/arena.h"

#include "shared/base/mem.h"

enum { ALIGN_ELEMENTS = MEM_ALIGN_BYTES / sizeof(float) };

float *arena_take(struct arena *arena, size_t elements)
{
	size_t at = arena->used;

	CHECK(size_add(at, size_round_up(elements, ALIGN_ELEMENTS), &arena->used));
	CHECK(arena->memory == NULL || arena->used <= arena->elements);
	return arena->memory == NULL ? NULL : arena->memory + at;
}

int arena_allocate(struct arena *arena, struct err *err)
{
	size_t bytes;

	CHECK(arena->memory == NULL && size_mul(arena->used, sizeof(float), &bytes));
	arena->memory = mem_large(bytes);
	if (arena->memory == NULL)
		return err_nomem(err, bytes);
	arena->elements = arena->used;
	arena->used = 0;
	return 0;
}

void arena_release(struct arena *arena)
{
	mem_large_free(arena->memory, arena->elements * sizeof(float));
	*arena = (struct arena){ NULL, 0, 0 };
}
