/*
 * features.h - the layout of a piece of a table of features in shared memory.
 *
 *     sample ids (rows) u64 | found (rows) u8 | values (rows, width) f32, at a multiple of 64 bytes
 *
 * Threads: pure functions. Format: schemas/features.md.
 */
#ifndef SHARED_WIRE_FEATURES_H
#define SHARED_WIRE_FEATURES_H

#include <stdint.h>

#include "shared/base/err.h"

enum {
	FEATURES_WIDTH_MAX = 65536,
	FEATURES_ROWS_MAX = 1 << 20,        /* of one piece */
	FEATURES_BYTES_MAX = 64 << 20,      /* of one piece */
	FEATURES_PUT_BYTES_MAX = 768 << 10, /* of values in one request */
};

struct features_layout {
	uint64_t found_at, values_at, bytes;
};

/* The rows that one piece may have at most, at least 1. */
uint32_t features_rows_max(uint32_t width);
/* ERR_LIMIT: width or rows are none, or beyond the limits. */
MUST_USE int features_layout_init(struct features_layout *out, uint32_t rows, uint32_t width, struct err *err);

#endif
