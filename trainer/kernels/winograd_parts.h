/*
 * winograd_parts.h - inside winograd.c: the three transforms, for the processor.
 *
 * Private to kernels/. Positions 0 .. 15 of a transformed patch are line by line. Channels are multiples of 8.
 */
#ifndef TRAINER_KERNELS_WINOGRAD_PARTS_H
#define TRAINER_KERNELS_WINOGRAD_PARTS_H

#include <stdbool.h>
#include <stddef.h>

#include "trainer/kernels/gemm_tile.h"

enum { WINOGRAD_POSITIONS = 16, WINOGRAD_PATCH = 4 };

struct winograd_steps {
	/* A patch, pixel (y, x) at from + y * line + x * pixel; position p of it goes to to[p] */
	void (*input)(const float *from, size_t line, size_t pixel, size_t channels, float *const *to);
	/* Position p at from + p * apart; the four results, line by line, go or are added to to[...] */
	void (*output)(const float *from, size_t apart, size_t channels, float *const *to, bool add);
	/* Tap t of GEMM_PANEL weights at taps + t * step; position p at to + p * apart */
	void (*weights)(const float *taps, ptrdiff_t step, float *to, size_t apart);
};

/* NULL: not for this processor. */
const struct winograd_steps *winograd_steps_avx2(void);

#endif
