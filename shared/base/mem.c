#include "shared/base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

void *mem_alloc(size_t bytes)
{
	return malloc(bytes == 0 ? 1 : bytes);
}

void *mem_zalloc(size_t bytes)
{
	return calloc(1, bytes == 0 ? 1 : bytes);
}

void *mem_array(size_t count, size_t size)
{
	size_t bytes;

	return size_mul(count, size, &bytes) ? mem_zalloc(bytes) : NULL;
}

void *mem_realloc_array(void *p, size_t count, size_t size)
{
	size_t bytes;

	if (!size_mul(count, size, &bytes))
		return NULL;
	return realloc(p, bytes == 0 ? 1 : bytes);
}

void *mem_aligned(size_t bytes)
{
	void *p = NULL;

	if (bytes > (size_t)-1 - MEM_ALIGN_BYTES)
		return NULL;
	return posix_memalign(&p, MEM_ALIGN_BYTES, bytes == 0 ? 1 : bytes) == 0 ? p : NULL;
}

char *mem_strndup(const char *text, size_t bytes)
{
	size_t total;
	char *copy;

	if (!size_add(bytes, 1, &total) || (copy = mem_alloc(total)) == NULL)
		return NULL;
	memcpy(copy, text, bytes);
	copy[bytes] = '\0';
	return copy;
}

char *mem_strdup(const char *text)
{
	return mem_strndup(text, strlen(text));
}

void mem_free(void *p)
{
	free(p);
}

void mem_give_back(void)
{
#ifdef __GLIBC__
	(void)malloc_trim(0);
#endif
}

enum { LARGE_PAGE_BYTES = 1 << 21 };

/* One more large page than needed, so that a start on a page's border is among them; the rest goes back. */
void *mem_large(size_t bytes)
{
	size_t whole = size_round_up(bytes == 0 ? 1 : bytes, LARGE_PAGE_BYTES), mapped;
	char *p, *start;

	if (!size_add(whole, LARGE_PAGE_BYTES, &mapped))
		return NULL;
	p = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	start = (char *)size_round_up((size_t)p, LARGE_PAGE_BYTES);
	if (start > p)
		munmap(p, (size_t)(start - p));
	if (p + mapped > start + whole)
		munmap(start + whole, (size_t)(p + mapped - (start + whole)));
#ifdef MADV_HUGEPAGE
	(void)!madvise(start, whole, MADV_HUGEPAGE); /* advice: refusal changes nothing */
#endif
	return start;
}

void mem_large_free(void *p, size_t bytes)
{
	if (p != NULL)
		munmap(p, size_round_up(bytes == 0 ? 1 : bytes, LARGE_PAGE_BYTES));
}
