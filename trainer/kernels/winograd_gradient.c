/* Weight gradients by the transpose of winograd.c's filtering. */
#include <omp.h>
#include <string.h>

#include "shared/base/check.h"
#include "trainer/kernels/shares.h"
#include "trainer/kernels/winograd.h"
#include "trainer/kernels/winograd_parts.h"

enum {
	POSITIONS = WINOGRAD_POSITIONS,
	SIDE = WINOGRAD_PATCH,         /* lines of positions, and positions of a line */
	ROWS = GEMM_TILE_ROWS,
	BLOCK = GEMM_K_BLOCK,          /* patches that are summed in a chain */
	RESULTS = WINOGRAD_RESULT * WINOGRAD_RESULT,
	TILE = BLOCK * ROWS + 16,      /* floats from one tile's packed results to the next one's: not a power of two */
	PANEL = (BLOCK + 1) * GEMM_PANEL,
	STRIP = 20,                    /* tiles that stay in the second-level cache while panels pass */
	TAPS = 9,
	LANES_MAX = 16,
	RESULT_TILES = 10,             /* of outputs that are transformed together */
	RESULT_PITCH = RESULT_TILES * ROWS + 8,
};

/* How the work is cut, and where the parts of the work memory begin. */
struct places {
	size_t tiles, panels;   /* of a position */
	size_t strips, strip;   /* of outputs, where there are more threads than lines of positions; tiles of one */
	size_t line, position;  /* of the sums: floats from one output to the next, from one position to the next */
	const struct winograd_steps *steps;
	float *sums;            /* lines for the outputs that only fill the last tile, too */
	float *own;             /* of the first thread */
	size_t own_floats;
};

static struct places places_of(int in, int out, int threads, float *work)
{
	struct places p = { .tiles = share_of((size_t)out, ROWS), .panels = (size_t)in / GEMM_PANEL, .line = (size_t)in + GEMM_PANEL };

	p.strip = share_of(p.tiles, share_of((size_t)threads, SIDE));
	p.strips = share_of(p.tiles, p.strip);
	p.position = p.line * p.tiles * ROWS;
	p.own_floats = SIDE * (p.strip * TILE + p.panels * PANEL);
	p.steps = winograd_steps();
	p.sums = work;
	p.own = work != NULL ? work + POSITIONS * p.position : NULL;
	return p;
}

static int team_of(int threads)
{
	return threads < 1 ? 1 : threads;
}

size_t winograd_gradient_floats(int in, int out, int threads)
{
	struct places p = places_of(in, out, team_of(threads), NULL);

	return POSITIONS * p.position + (size_t)team_of(threads) * p.own_floats;
}

/* What one thread does: line y of the positions, some tiles of outputs. */
struct piece {
	const struct winograd_gradient *w;
	const struct places *p;
	size_t y, tile, tiles;
	float *results, *patches; /* (4, tiles, TILE) and (4, panels, PANEL) */
};

/* Gradients of patch t of a block, where they lie; copied where a result is outside of the picture, or reading goes beyond the last one. */
static void results_of(const struct piece *s, struct winograd_patch at, size_t t)
{
	const struct winograd_gradient *w = s->w;
	struct winograd_pictures dy = { w->dy, w->height, w->width, w->out };
	const float *end = w->dy + (size_t)w->pictures * (size_t)w->height * (size_t)w->width * (size_t)w->out;
	bool inside = at.y + 1 < w->height && at.x + 1 < w->width;
	_Alignas(64) float copied[RESULTS * RESULT_PITCH];

	for (size_t done = 0, tiles; done < s->tiles; done += tiles) {
		size_t first = (s->tile + done) * ROWS, width, count;
		const float *from[RESULTS];
		float *to[SIDE];

		tiles = min_of(s->tiles - done, RESULT_TILES);
		width = tiles * ROWS + 2;
		count = min_of((size_t)w->out - first, width);
		for (int i = 0; i < RESULTS; i++)
			from[i] = inside ? winograd_pixel(&dy, at, at.y + i / 2, at.x + i % 2) + first : copied + i * RESULT_PITCH;
		if (inside && (size_t)(end - from[RESULTS - 1]) < width)
			for (int i = 0; i < RESULTS; i++)
				from[i] = copied + i * RESULT_PITCH;
		if (from[0] == copied) {
			memset(copied, 0, sizeof(copied));
			winograd_copy(&dy, at, 0, WINOGRAD_RESULT, first, count, RESULT_PITCH, copied);
		}
		for (size_t x = 0; x < SIDE; x++)
			to[x] = s->results + (x * s->tiles + done) * TILE + t * ROWS;
		s->p->steps->spread_line(s->y, from, tiles, to, TILE);
	}
}

static void patch_of(const struct piece *s, struct winograd_patch at, size_t t)
{
	struct winograd_pictures x = { s->w->x, s->w->height, s->w->width, s->w->in };
	_Alignas(64) float copied[WINOGRAD_VIEW_FLOATS];

	for (size_t c = 0, count; c < (size_t)s->w->in; c += count) {
		struct winograd_view v;

		count = min_of((size_t)s->w->in - c, WINOGRAD_CHANNELS_AT_ONCE);
		v = winograd_view(&x, at, c, count, copied);
		for (size_t n = 0; n < count; n += GEMM_PANEL) {
			float *to[SIDE];

			for (size_t i = 0; i < SIDE; i++)
				to[i] = s->patches + (i * s->p->panels + (c + n) / GEMM_PANEL) * PANEL + t * GEMM_PANEL;
			s->p->steps->input_line(s->y, v.from + n, v.line, v.pixel, GEMM_PANEL, to);
		}
	}
}

/* Sums of position x of the line, outputs of some tiles, += a block of patches. */
static void multiply(const struct piece *s, size_t x, size_t tile, size_t tiles, size_t depth, bool add)
{
	const struct gemm_tiles *best = gemm_tiles();
	const struct places *p = s->p;
	struct gemm_block block = { .a_apart = TILE, .a_step = GEMM_TILE_ROWS, .b_apart = PANEL, .b_step = GEMM_PANEL, .depth = depth, .add = add };
	size_t ask_step = share_of(GEMM_PANEL, share_of(tiles, best->tall));
	const float *panel = s->patches + x * p->panels * PANEL;
	float *sums = p->sums + (s->y * SIDE + x) * p->position, *rows[STRIP * ROWS];

	for (size_t r = 0; r < tiles * ROWS; r++)
		rows[r] = sums + ((s->tile + tile) * ROWS + r) * p->line;
	for (size_t j = 0; j < p->panels; j += block.wide, panel += block.wide * PANEL) {
		const float *a = s->results + (x * s->tiles + tile) * TILE;

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

static void run_piece(const struct piece *s)
{
	const struct winograd_gradient *w = s->w;
	size_t patches = winograd_patches(w->pictures, w->height, w->width), strip = share_of(s->tiles, share_of(s->tiles, STRIP));

	for (size_t first = 0, depth; first < patches; first += depth) {
		depth = min_of(BLOCK, patches - first);
		for (size_t t = 0; t < depth; t++) {
			struct winograd_patch at = winograd_patch_at(w->height, w->width, first + t);

			results_of(s, at, t);
			patch_of(s, at, t);
		}
		for (size_t x = 0; x < SIDE; x++)
			for (size_t tile = 0; tile < s->tiles; tile += strip)
				multiply(s, x, tile, min_of(strip, s->tiles - tile), depth, first > 0);
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

void winograd_gradient_run(const struct winograd_gradient *w)
{
	int team = team_of(w->threads);
	struct places p = places_of(w->in, w->out, team, w->work);
	size_t patches = winograd_patches(w->pictures, w->height, w->width);

	CHECK(p.steps != NULL && w->in % GEMM_PANEL == 0 && w->out % GEMM_PANEL == 0);
	team = (double)patches * POSITIONS * w->in * w->out < WINOGRAD_TEAM_MIN ? 1 : team;
#pragma omp parallel num_threads(team)
	{
#pragma omp for schedule(dynamic, 1)
		for (size_t i = 0; i < SIDE * p.strips; i++) {
			struct piece s = { .w = w, .p = &p, .y = i % SIDE, .tile = i / SIDE * p.strip };

			s.tiles = min_of(p.strip, p.tiles - s.tile);
			s.results = p.own + (size_t)omp_get_thread_num() * p.own_floats;
			s.patches = s.results + SIDE * p.strip * TILE;
			run_piece(&s);
		}
#pragma omp for schedule(static)
		for (size_t o = 0; o < (size_t)w->out; o++)
			gather(w, &p, o);
	}
}
