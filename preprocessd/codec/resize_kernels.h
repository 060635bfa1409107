/*
 * resize_kernels.h - the inner loops of the resizer: one portable version,
 * kept as the oracle of the others, and versions for x86-64 chosen at run time.
 *
 * All compute   out = min(255, (2^21 + sum(weight * sample)) >> 22)   in
 * integers, so every version gives the same bits.
 *
 * A kernel may read up to RESIZE_SLACK_BYTES beyond the last sample of a
 * source row (never before the first). The horizontal one may write as many
 * beyond the last sample of an output row, the vertical one writes no more
 * than the row.
 * Rows are interleaved samples of 1 or 3 channels.
 */
#ifndef PREPROCESSD_CODEC_RESIZE_KERNELS_H
#define PREPROCESSD_CODEC_RESIZE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "preprocessd/codec/resize_plan.h"

enum {
	RESIZE_SLACK_BYTES = 128,
	RESIZE_ROUNDING = 1 << (RESIZE_PRECISION_BITS - 1),
};

struct resize_packed; /* a plan rearranged for one kernel */

struct resize_kernels {
	const char *name; /* "portable", "avx2", "avx512" */

	/* Rearranges a plan for one of the two functions below. channels: 1 or 3 for
	 * the horizontal one, 0 for the vertical one. packed grows as needed. */
	int (*pack)(struct resize_packed *packed, const struct resize_plan *plan, int channels, struct err *err);
	/* rows source rows, each (plan->source, channels), to (plan->target, channels). */
	void (*horizontal)(const struct resize_plan *plan, const struct resize_packed *packed, int channels,
			   const uint8_t *source, size_t source_stride, int rows, uint8_t *out, size_t out_stride);
	/* Output row `at` from its plan->count[at] source rows of `bytes` samples. */
	void (*vertical)(const struct resize_plan *plan, const struct resize_packed *packed, uint32_t at,
			 const uint8_t *const *rows, size_t bytes, uint8_t *out);
};

struct resize_packed {
	uint8_t *bytes; /* MEM_ALIGN_BYTES aligned */
	size_t capacity;
	int kind;     /* each version's own: which inner loop */
	int steps;    /* records for each output, or group of outputs */
	size_t table; /* where records begin in bytes */
};

extern const struct resize_kernels RESIZE_PORTABLE;
/* NULL where this processor can't run them. */
const struct resize_kernels *resize_kernels_avx2(void);
const struct resize_kernels *resize_kernels_avx512(void);
/* The fastest of the above here. */
const struct resize_kernels *resize_kernels_best(void);

/* Makes room for bytes in packed; the content is undefined afterwards. */
MUST_USE int resize_packed_reserve(struct resize_packed *packed, size_t bytes, struct err *err);
void resize_packed_free(struct resize_packed *packed);

static inline uint8_t resize_round(uint32_t sum)
{
	uint32_t value = sum >> RESIZE_PRECISION_BITS;

	return value > 255 ? 255 : (uint8_t)value;
}

#endif
