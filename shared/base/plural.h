/*
 * plural.h - "1 run", "2 runs": the ending of a regular noun behind a number.
 */
#ifndef SHARED_BASE_PLURAL_H
#define SHARED_BASE_PLURAL_H

#include <stdint.h>

static inline const char *plural(uint64_t count)
{
	return count == 1 ? "" : "s";
}

#endif
