/*
 * resize_plan.h - which source pixels make an output pixel, and how much of each.
 *
 * One axis of Pillow's resampling with the bilinear (triangle) filter, whose
 * support grows with the reduction: output i covers source pixels first[i] ..
 * first[i] + count[i] - 1 with weights in 22-bit fixed point. Weights are
 * computed in double precision in Pillow's order of operations, so that they
 * are the same bits (needs -ffp-contract=off), then rounded half away from zero.
 *
 * A flipped axis is the plan of the mirrored source: entry i stays the output
 * position i, and its window is counted from the far end, weights reversed.
 *
 * Threads:   a plan is built by one thread and then only read.
 * Ownership: a plan keeps its memory and grows it; build again to reuse it.
 */
#ifndef PREPROCESSD_CODEC_RESIZE_PLAN_H
#define PREPROCESSD_CODEC_RESIZE_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/err.h"

enum {
	RESIZE_PRECISION_BITS = 22, /* 32 bits less 8 of the sample less 2 of headroom */
	RESIZE_SOURCE_MAX = 65535,  /* a JPEG's largest side */
	RESIZE_TARGET_MAX = 4096,
};

struct resize_plan {
	uint32_t source, target;
	bool flip;
	bool identity;   /* source == target and no flip: Pillow skips this pass */
	int taps_max;    /* largest count, and the stride of weights */
	int32_t *first;  /* (target) */
	int32_t *count;  /* (target) */
	int32_t *weight; /* (target, taps_max); zero behind count */

	/* What the plan's memory can hold. */
	size_t targets_capacity, weights_capacity;
};

/* source == target gives one tap of weight 1 each: a copy, bit by bit. */
MUST_USE int resize_plan_build(struct resize_plan *plan, uint32_t source, uint32_t target, bool flip, struct err *err);
void resize_plan_free(struct resize_plan *plan);

#endif
