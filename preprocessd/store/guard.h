/*
 * guard.h - reading a mapped file that may be damaged or cut short while it is mapped.
 *
 * The cache is read through the map. Where the file lost its end, touching
 * a page of it raises SIGBUS; where a page of LMDB's tree has flipped bits, LMDB
 * follows wild offsets (SIGSEGV) or gives up with an assertion. Inside a guard all
 * three come back as an error of that one read:
 *
 *     struct guard guard;
 *     if (guard_enter(&guard) == 0)
 *             read from the map; what is allocated here and not reachable otherwise leaks
 *     else
 *             the file is damaged
 *     guard_leave();
 *
 * Outside of a guard the signals do what they always do.
 *
 * Threads:   one guard a thread at a time.
 * Ownership: the caller's stack. Locals that change between enter and leave must be volatile.
 */
#ifndef PREPROCESSD_STORE_GUARD_H
#define PREPROCESSD_STORE_GUARD_H

#include <setjmp.h>
#include <stddef.h>

struct guard {
	sigjmp_buf jump;
};

extern _Thread_local struct guard *guard_now;

/* Handlers for SIGBUS and SIGSEGV, unless they are there already; before any other thread has a guard. */
void guard_install(void);

/* A macro, as setjmp's caller must still be there when it returns the second time. */
#define guard_enter(guard) (guard_now = (guard), sigsetjmp((guard)->jump, 0))

static inline void guard_leave(void)
{
	guard_now = NULL;
}

/* From inside LMDB: back to the guard, if there is one. */
static inline void guard_escape(void)
{
	if (guard_now != NULL)
		siglongjmp(guard_now->jump, 1);
}

#endif
