#include "tests/support/flush.h"

struct err failure;

void note_failure(void *context, int code, const struct err *err)
{
	(void)context;
	if (code != 0)
		failure = *err;
}

int try_flush(struct cache *cache)
{
	cache_flush(cache);
	int code = failure.code;
	failure.code = 0;
	return code;
}
