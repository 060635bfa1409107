/*
 * strings.h - byte strings numbered from 0 in the order in which they were first added.
 *
 * Threads: one at a time. Ownership: strings_at() is valid until the next strings_add().
 * Limits: STRINGS_MAX of them.
 */
#ifndef PREPROCESSD_DATASET_STRINGS_H
#define PREPROCESSD_DATASET_STRINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/buf.h"

enum { STRINGS_MAX = 1 << 30 };
#define STRINGS_NONE UINT32_MAX

struct strings { /* all zero: empty */
	struct buf text;     /* each with a terminator behind it */
	uint64_t *at;        /* (count + 1) */
	uint32_t count, capacity;
	uint32_t *slots;     /* open addressing: index + 1, 0 is free */
	uint32_t slot_count; /* power of two */
};

void strings_free(struct strings *strings);
/* The number of this string, new or not. *added may be NULL. */
MUST_USE int strings_add(struct strings *strings, const char *text, size_t bytes, uint32_t *index, bool *added, struct err *err);
/* STRINGS_NONE where it is not there. */
uint32_t strings_find(const struct strings *strings, const char *text, size_t bytes);
const char *strings_at(const struct strings *strings, uint32_t index); /* terminated */
size_t strings_bytes(const struct strings *strings, uint32_t index);

#endif
