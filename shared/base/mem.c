#include "shared/base/mem.h"

#include <stdlib.h>
#include <string.h>

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
