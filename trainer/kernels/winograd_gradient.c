/* Weight gradients by the transpose of winograd.c's filtering. */
#include <stdlib.h>
#include <string.h>

#include "shared/base/check.h"
#include "trainer/kernels/winograd.h"
#include "trainer/kernels/winograd_parts.h"

enum {
	POSITIONS = WINOGRAD_POSITIONS,
	ROWS = GEMM_TILE_ROWS,
	BLOCK = GEMM_K_BLOCK,          /* patches that are summed in a chain */
	RESULTS = WINOGRAD_RESULT * WINOGRAD_RESULT,
	TILE = BLOCK * ROWS + 16,      /* floats from one tile's packed results to the next one's: not a power of two */
	PANEL = (BLOCK + 1) * GEMM_PANEL,
	STRIP = 20,                    /* tiles that stay in the second-level cache while panels pass */
	AT_ONCE = 16,                  /* patches that one thread transforms */
	TAPS = 9,
	LANES_MAX = 16,
	WIDE = 8,                      /* GEMM_TILE_ROWS and two more */
	RESULT_TILES = 10,             /* of outputs that are transformed together */
	RESULT_PITCH = RESULT_TILES * ROWS + WIDE,
};

static size_t min_of(size_t a, size_t b)
{
	return a < b ? a : b;
}

static size_t share_of(size_t all, size_t shares)
{
	return (all + shares - 1) / shares;
}

/* Where the parts of the work memory begin, how large they are, and what fills them. */
struct places {
	size_t tiles, panels;   /* of a position */
	size_t line, position;  /* of the sums: floats from one output to the next, from one position to the next */
	const struct winograd_steps *steps;
	float *results, *patches, *sums; /* sums have lines for the outputs that only fill the last tile, too */
};

static struct places places_of(int in, int out, float *work)
{
	struct places p = { .tiles = share_of((size_t)out, ROWS), .panels = (size_t)in / GEMM_PANEL, .line = (size_t)in + GEMM_PANEL };

	p.position = p.line * p.tiles * ROWS;
	p.steps = winograd_steps();
	if (work != NULL) {
		p.results = work;
		p.patches = p.results + POSITIONS * p.tiles * TILE;
		p.sums = p.patches + POSITIONS * p.panels * PANEL;
	}
	return p;
}

size_t winograd_gradient_floats(int in, int out)
{
	struct places p = places_of(in, out, NULL);

	return POSITIONS * (p.tiles * TILE + p.panels * PANEL + p.position);
}

/* Some tiles of line t. The last line of a piece of work may not touch the next line, which is somebody else's. */
static void spread(const struct places *p, const float *from, size_t tile, size_t tiles, size_t t, bool last)
{
	_Alignas(64) float aside[POSITIONS * RESULT_TILES * WIDE];
	float *to[POSITIONS];

	for (size_t i = 0; i < POSITIONS; i++)
		to[i] = last ? aside + i * RESULT_TILES * WIDE : p->results + (i * p->tiles + tile) * TILE + t * ROWS;
	p->steps->spread(from, RESULT_PITCH, tiles, to, last ? (size_t)WIDE : (size_t)TILE);
	for (size_t i = 0; last && i < POSITIONS; i++)
		for (size_t j = 0; j < tiles; j++)
			memcpy(p->results + (i * p->tiles + tile + j) * TILE + t * ROWS, to[i] + j * WIDE, ROWS * sizeof(**to));
}

/* Gradients of patch t of a block, some tiles of outputs at a time, with zeros behind the last output. */
static void results_of(const struct winograd_gradient *w, const struct places *p, struct winograd_patch at, size_t t, bool last)
{
	struct winograd_pictures dy = { w->dy, w->height, w->width, w->out };
	_Alignas(64) float copied[RESULTS * RESULT_PITCH];

	for (size_t tile = 0; tile < p->tiles; tile += RESULT_TILES) {
		size_t first = tile * ROWS, count = min_of((size_t)w->out - first, RESULT_TILES * ROWS + 2);

		if (count < RESULT_TILES * ROWS + 2)
			memset(copied, 0, sizeof(copied));
		winograd_copy(&dy, at, 0, WINOGRAD_RESULT, first, count, RESULT_PITCH, copied);
		spread(p, copied, tile, min_of(p->tiles - tile, RESULT_TILES), t, last);
	}
}

static void patch_of(const struct winograd_gradient *w, const struct places *p, struct winograd_patch at, size_t t)
{
	struct winograd_pictures x = { w->x, w->height, w->width, w->in };

	for (size_t panel = 0; panel < p->panels; panel++) {
		float *to[POSITIONS];

		for (size_t i = 0; i < POSITIONS; i++)
			to[i] = p->patches + (i * p->panels + panel) * PANEL + t * GEMM_PANEL;
		winograd_input(p->steps, &x, at, panel * GEMM_PANEL, GEMM_PANEL, to);
	}
}

/* Sums of one position, outputs of some tiles, += a block of patches. */
static void multiply(const struct places *p, size_t position, size_t tile, size_t tiles, size_t depth, bool add)
{
	const struct gemm_tiles *best = gemm_tiles();
	struct gemm_block block = { .a_apart = TILE, .a_step = GEMM_TILE_ROWS, .b_apart = PANEL, .b_step = GEMM_PANEL, .depth = depth, .add = add };
	size_t ask_step = share_of(GEMM_PANEL, share_of(tiles, best->tall));
	const float *panel = p->patches + position * p->panels * PANEL;
	float *sums = p->sums + position * p->position, *rows[STRIP * ROWS];

	for (size_t r = 0; r < tiles * ROWS; r++)
		rows[r] = sums + (tile * ROWS + r) * p->line;
	for (size_t j = 0; j < p->panels; j += block.wide, panel += block.wide * PANEL) {
		const float *a = p->results + (position * p->tiles + tile) * TILE;

		block.wide = min_of(p->panels - j, best->wide);
		const float *next = panel + block.wide * PANEL; /* asked for while these are at work */

		for (size_t i = 0; i < tiles; i += block.tall, a += block.tall * TILE) {
			block.tall = min_of(tiles - i, best->tall);
			for (int ask = 0; ask < GEMM_ASKS; ask++)
				block.ask[ask] = (struct gemm_ask){ next + (size_t)ask * PANEL, ask_step };
			next += ask_step * depth;
			best->by_columns(&block, a, panel, rows + i * ROWS, j * GEMM_PANEL);
		}
	}
}

/* grad of output o += its sums, gathered to taps. */
static void gather(const struct winograd_gradient *w, const struct places *p, size_t o)
{
	float *grad = w->grad + o * (size_t)w->in * TAPS;
	size_t lanes = p->steps->lanes;

	for (size_t i = 0; i < (size_t)w->in; i += lanes, grad += lanes * TAPS) {
		_Alignas(64) float taps[TAPS * LANES_MAX];

		p->steps->gather(p->sums + o * p->line + i, p->position, taps);
		for (size_t c = 0; c < lanes; c++)
			for (size_t t = 0; t < TAPS; t++)
				grad[c * TAPS + t] += taps[t * lanes + c];
	}
}

static void transform(const struct winograd_gradient *w, const struct places *p, size_t first, size_t t, size_t end)
{
	for (; t < end; t++) {
		struct winograd_patch at = winograd_patch_at(w->height, w->width, first + t);

		results_of(w, p, at, t, t + 1 == end);
		patch_of(w, p, at, t);
	}
}

void winograd_gradient_run(const struct winograd_gradient *w)
{
	struct places p = places_of(w->in, w->out, w->work);
	size_t patches = winograd_patches(w->pictures, w->height, w->width), strips = share_of(p.tiles, STRIP), strip = share_of(p.tiles, strips);
	int team = w->threads < 1 ? 1 : w->threads;

	CHECK(p.steps != NULL && w->in % GEMM_PANEL == 0 && w->out % GEMM_PANEL == 0);
	strips = share_of(p.tiles, strip);
	team = (double)patches * POSITIONS * w->in * w->out < WINOGRAD_TEAM_MIN ? 1 : team;
#pragma omp parallel num_threads(team)
	{
		for (size_t first = 0; first < patches; first += BLOCK) {
			size_t depth = min_of(BLOCK, patches - first);

#pragma omp for schedule(static)
			for (size_t t = 0; t < depth; t += AT_ONCE)
				transform(w, &p, first, t, min_of(t + AT_ONCE, depth));
#pragma omp for schedule(dynamic, 1)
			for (size_t piece = 0; piece < POSITIONS * strips; piece++) {
				size_t tile = piece % strips * strip;

				multiply(&p, piece / strips, tile, min_of(strip, p.tiles - tile), depth, first > 0);
			}
		}
#pragma omp for schedule(static)
		for (size_t o = 0; o < (size_t)w->out; o++)
			gather(w, &p, o);
	}
}
