/*
 * winograd_parts.h - inside winograd.c and winograd_gradient.c: patches of pictures, and the transforms for the processor.
 *
 * Private to kernels/. Positions 0 .. 15 of a transformed patch are line by line. Channels are multiples of GEMM_PANEL.
 */
#ifndef TRAINER_KERNELS_WINOGRAD_PARTS_H
#define TRAINER_KERNELS_WINOGRAD_PARTS_H

#include <stdbool.h>
#include <stddef.h>

#include "trainer/kernels/gemm_tile.h"

enum {
	WINOGRAD_POSITIONS = 16,
	WINOGRAD_PATCH = 4,              /* pixels a side */
	WINOGRAD_RESULT = 2,
	WINOGRAD_TEAM_MIN = 250000,      /* multiply-adds: fewer are done before a team is awake */
	WINOGRAD_CHANNELS_AT_ONCE = 64,  /* of a patch that is transformed: they stay in the first-level cache */
	WINOGRAD_VIEW_FLOATS = WINOGRAD_PATCH * WINOGRAD_PATCH * WINOGRAD_CHANNELS_AT_ONCE,
};

struct winograd_steps {
	size_t lanes; /* channels that gather() takes; divides GEMM_PANEL */
	/* A patch, pixel (y, x) at from + y * line + x * pixel; position p of it goes to to[p] */
	void (*input)(const float *from, size_t line, size_t pixel, size_t channels, float *const *to);
	/* Position p at from + p * apart; the four results, line by line, go or are added to to[...] */
	void (*output)(const float *from, size_t apart, size_t channels, float *const *to, bool add);
	/* Tap t of GEMM_PANEL weights at taps + t * step; position p at to + p * apart */
	void (*weights)(const float *taps, ptrdiff_t step, float *to, size_t apart);
	/* Line y (0 .. 3) of these positions alone, to[0 .. 3] */
	void (*input_line)(size_t y, const float *from, size_t line, size_t pixel, size_t channels, float *const *to);
	/* The same line of the transpose of output, of channels of four results, line by line; position (y, x) of channels
	 * GEMM_TILE_ROWS * i ... goes to to[x] + i * tile; reads and writes 2 floats beyond each tile */
	void (*spread_line)(size_t y, const float *const from[4], size_t tiles, float *const *to, size_t tile);
	/* The transpose of weights: position p of `lanes` channels at from + p * apart; tap t at to + lanes * t */
	void (*gather)(const float *from, size_t apart, float *to);
};

/* A patch among all: its upper left result is pixel (y, x). */
struct winograd_patch {
	size_t picture;
	int y, x;
};

struct winograd_pictures {
	const float *data; /* (pictures, height, width, channels) */
	int height, width, channels;
};

/* Channel 0 of a pixel, borrowed. */
static inline float *winograd_pixel(const struct winograd_pictures *p, struct winograd_patch at, int y, int x)
{
	size_t pixel = (at.picture * (size_t)p->height + (size_t)y) * (size_t)p->width + (size_t)x;

	return (float *)p->data + pixel * (size_t)p->channels;
}

size_t winograd_patches(int pictures, int height, int width);
struct winograd_patch winograd_patch_at(int height, int width, size_t i);

/* count channels from c on of side x side pixels, from `border` left of and above the patch's place on; zeros outside of the picture. */
void winograd_copy(const struct winograd_pictures *from, struct winograd_patch at, int border, int side, size_t c, size_t count,
		   size_t pitch, float *to);

/* Channels c .. c + count of a patch of 4 x 4 pixels; `copied` is used where some are outside of the picture. At most
 * WINOGRAD_CHANNELS_AT_ONCE. */
struct winograd_view {
	const float *from;  /* pixel (y, x) at from + y * line + x * pixel */
	size_t line, pixel;
};
struct winograd_view winograd_view(const struct winograd_pictures *x, struct winograd_patch at, size_t c, size_t count, float *copied);

/* NULL: not for this processor. */
const struct winograd_steps *winograd_steps_avx2(void);
const struct winograd_steps *winograd_steps_avx512(void);

/* Those that go with gemm_tiles(). */
const struct winograd_steps *winograd_steps(void);

#endif
