/*
 * alloc.c - makes one chosen allocation of a program fail.
 *
 * Preloaded (LD_PRELOAD) into a program under test. Allocations are counted from
 * 1, those that the program's own code asks for, not those of libraries:
 *
 *     ALLOC_AT     number of the allocation that fails
 *     ALLOC_ON     1: every later one fails too
 *     ALLOC_COUNT  file that gets the number of allocations at exit
 *
 * Threads: the counter is atomic.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uintptr_t code_begin, code_end;
static long counter, fail_at;
static int fail_on;

/* The first object is the program itself. */
static int find_code(struct dl_phdr_info *info, size_t size, void *context)
{
	(void)size;
	(void)context;
	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_LOAD && (info->dlpi_phdr[i].p_flags & PF_X)) {
			code_begin = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
			code_end = code_begin + info->dlpi_phdr[i].p_memsz;
		}
	return 1;
}

__attribute__((constructor)) static void start(void)
{
	const char *at = getenv("ALLOC_AT"), *on = getenv("ALLOC_ON");

	fail_at = at == NULL ? 0 : atol(at);
	fail_on = on != NULL;
	dl_iterate_phdr(find_code, NULL);
}

__attribute__((destructor)) static void stop(void)
{
	const char *path = getenv("ALLOC_COUNT");
	char text[32];
	int fd, size;

	if (path == NULL || (fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) < 0)
		return;
	size = snprintf(text, sizeof(text), "%ld\n", counter);
	if (write(fd, text, (size_t)size) != size)
		abort();
	close(fd);
}

static int fails(void *caller)
{
	uintptr_t at = (uintptr_t)caller;
	long number;

	if (at < code_begin || at >= code_end)
		return 0;
	number = __atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	return fail_at > 0 && (number == fail_at || (fail_on && number > fail_at));
}

#define CALLER __builtin_return_address(0)

/* glibc's own, by the names that it keeps for such as us. */
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *p, size_t bytes);
extern void *__libc_memalign(size_t align, size_t bytes);

void *malloc(size_t bytes)
{
	if (fails(CALLER)) {
		errno = ENOMEM;
		return NULL;
	}
	return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
	if (fails(CALLER)) {
		errno = ENOMEM;
		return NULL;
	}
	return __libc_calloc(count, bytes);
}

void *realloc(void *p, size_t bytes)
{
	if (fails(CALLER)) {
		errno = ENOMEM;
		return NULL;
	}
	return __libc_realloc(p, bytes);
}

int posix_memalign(void **out, size_t align, size_t bytes)
{
	void *p;

	if (fails(CALLER) || (p = __libc_memalign(align, bytes)) == NULL)
		return ENOMEM;
	*out = p;
	return 0;
}
