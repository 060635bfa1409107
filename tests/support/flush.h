/* flush.h - a test's puts, and which of them failed: give note_failure() with each put, then ask try_flush(). */
#ifndef TESTS_SUPPORT_FLUSH_H
#define TESTS_SUPPORT_FLUSH_H

#include "preprocessd/store/cache.h"

extern struct err failure; /* of a put; the writer thread's until a flush */

void note_failure(void *context, int code, const struct err *err);
/* The code of a put that failed since the last one, or 0. */
int try_flush(struct cache *cache);

#endif
