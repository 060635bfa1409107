/*
 * mem.h - allocation with checked sizes.
 *
 * Every function returns NULL when memory cannot be had or the size
 * overflows; nothing here ends the process. mem_free(NULL) is fine.
 */
#ifndef SHARED_BASE_MEM_H
#define SHARED_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>

#include "shared/base/check.h"

enum { MEM_ALIGN_BYTES = 64 };

/* *out = a*b or a+b; false on overflow. */
static inline bool size_mul(size_t a, size_t b, size_t *out)
{
	return !__builtin_mul_overflow(a, b, out);
}

static inline bool size_add(size_t a, size_t b, size_t *out)
{
	return !__builtin_add_overflow(a, b, out);
}

/* Rounds up to a power of two `to`; CHECKs that it does not overflow. */
static inline size_t size_round_up(size_t n, size_t to)
{
	size_t sum;

	CHECK(size_add(n, to - 1, &sum));
	return sum & ~(to - 1);
}

MUST_USE void *mem_alloc(size_t bytes);               /* not cleared */
MUST_USE void *mem_zalloc(size_t bytes);              /* cleared */
MUST_USE void *mem_array(size_t count, size_t size);  /* cleared, count*size checked */
MUST_USE void *mem_realloc_array(void *p, size_t count, size_t size); /* p stays valid on failure */
MUST_USE void *mem_aligned(size_t bytes);             /* MEM_ALIGN_BYTES aligned, not cleared; mem_free frees it */
MUST_USE char *mem_strdup(const char *text);
MUST_USE char *mem_strndup(const char *text, size_t bytes); /* copies exactly bytes and a terminator */
void mem_free(void *p);
/* Gives what was freed and is kept for later back to the system. Takes milliseconds where there is much. */
void mem_give_back(void);
/* Cleared pages straight from the system, large ones where it has them: for arrays of many megabytes. What is never
 * touched takes no memory. mem_large_free() frees it, with the same bytes; NULL is fine. */
MUST_USE void *mem_large(size_t bytes);
void mem_large_free(void *p, size_t bytes);

#endif
