#include "trainer/kernels/winograd.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/check.h"
#include "trainer/kernels/gemm.h"
#include "trainer/kernels/shares.h"
#include "trainer/kernels/winograd_parts.h"

enum {
	POSITIONS = WINOGRAD_POSITIONS,
	SIDE = WINOGRAD_PATCH,
	ROWS = GEMM_TILE_ROWS,
	BLOCK_MAX = 16 * ROWS,         /* patches that go through the steps together */
	GROUP = 4 * GEMM_PANEL,        /* results' channels that are summed before they are transformed */
	SUMS = POSITIONS * GROUP + 16, /* floats from one patch's sums to the next one's: not a power of two */
	INPUTS_AT_ONCE = 16,           /* of weights */
	BLOCKS_PER_THREAD = 2,
	BLOCK_MIN = 8 * ROWS,
};

const struct winograd_steps *winograd_steps(void)
{
	return gemm_tiles() != NULL && gemm_tiles() == gemm_tiles_avx512() ? winograd_steps_avx512() : winograd_steps_avx2();
}

static size_t round_up(size_t a, size_t step)
{
	return share_of(a, step) * step;
}

bool winograd_can(const struct conv_shape *s)
{
	return winograd_steps() != NULL && s->kernel == 3 && s->stride == 1 && s->pad == 1 && s->in_channels % GEMM_PANEL == 0 &&
	       s->out_channels % GEMM_PANEL == 0;
}

bool winograd_is_allowed(void)
{
	const char *wish = getenv("TRAINER_KERNELS");

	return wish == NULL || strcmp(wish, "direct") != 0;
}

static int patches_along(int size)
{
	return (size + 1) / 2;
}

double winograd_saving(int height, int width)
{
	return 9.0 * height * width / (16.0 * patches_along(height) * patches_along(width));
}

bool winograd_is_chosen(const struct conv_shape *s)
{
	return winograd_can(s) && winograd_is_allowed() && s->in_channels >= WINOGRAD_CHANNELS_MIN && s->out_channels >= WINOGRAD_CHANNELS_MIN &&
	       winograd_saving(s->in_height, s->in_width) >= WINOGRAD_SAVING_MIN;
}

/*
 * How transformed patches lie, and what transforms them: rows of GEMM_ROW_FLOATS, as a tile reads them. A row holds as many positions
 * as fit where there are few channels, or one of several parts of a position where there are many.
 */
struct layout {
	size_t depth;         /* channels of a part */
	size_t parts;         /* of a position */
	size_t in_row;        /* positions of a row; 1 if there are parts */
	size_t rows;          /* of a patch */
	const struct winograd_steps *steps;
};

static struct layout layout_of(int in)
{
	struct layout l = { .steps = winograd_steps() };

	l.parts = share_of((size_t)in, GEMM_K_BLOCK);
	l.depth = round_up(share_of((size_t)in, l.parts), GEMM_PANEL);
	l.in_row = min_of(GEMM_K_BLOCK / l.depth, POSITIONS);
	l.rows = l.parts > 1 ? POSITIONS * l.parts : share_of(POSITIONS, l.in_row);
	return l;
}

/* Part `part` of position p of the first patch of a block. */
static float *place_of(const struct layout *l, float *patches, size_t p, size_t part)
{
	size_t row = l->parts > 1 ? p * l->parts + part : p / l->in_row, within = l->parts > 1 ? 0 : p % l->in_row * l->depth;

	return patches + row * BLOCK_MAX * GEMM_ROW_FLOATS + within;
}

static size_t work_of_thread(int in)
{
	return layout_of(in).rows * BLOCK_MAX * GEMM_ROW_FLOATS + (size_t)BLOCK_MAX * SUMS;
}

size_t winograd_work_floats(int in, int threads)
{
	return work_of_thread(in) * (size_t)threads;
}

/* Panels of a group of results lie together, position by position: in the order in which they are read. */
static float *panel_at(float *packed, int in, int out, size_t p, size_t panel)
{
	size_t panels_group = GROUP / GEMM_PANEL, group = panel / panels_group;
	size_t here = min_of(panels_group, (size_t)out / GEMM_PANEL - group * panels_group);

	return packed + (group * panels_group * POSITIONS + p * here + panel % panels_group) * gemm_panel_floats((size_t)in);
}

size_t winograd_weight_floats(int in, int out)
{
	return (size_t)POSITIONS * gemm_panels_floats((size_t)in, (size_t)out);
}

/* A panel of results `out` ...: inputs a few at a time, turned to (input, tap, result). */
static void pack_panel(const float *weights, int in, float *to, size_t apart)
{
	enum { TAPS = 9 };
	_Alignas(64) float turned[INPUTS_AT_ONCE * TAPS * GEMM_PANEL];

	for (int i = 0; i < in; i += INPUTS_AT_ONCE) {
		gemm_tiles()->turn(weights + (size_t)i * TAPS, (size_t)in * TAPS, INPUTS_AT_ONCE * TAPS, turned);
		for (size_t j = 0; j < INPUTS_AT_ONCE; j++, to += GEMM_PANEL)
			winograd_steps()->weights(turned + j * TAPS * GEMM_PANEL, GEMM_PANEL, to, apart);
	}
}

/* The same of weights (in, out, taps), taps from the last to the first. */
static void pack_panel_turned(const float *weights, int in, int out, float *to, size_t apart)
{
	enum { TAPS = 9 };
	_Alignas(64) float turned[TAPS * GEMM_PANEL];

	for (int i = 0; i < in; i++, to += GEMM_PANEL) {
		gemm_tiles()->turn(weights + (size_t)i * (size_t)out * TAPS, TAPS, TAPS, turned);
		winograd_steps()->weights(turned + (TAPS - 1) * GEMM_PANEL, -GEMM_PANEL, to, apart);
	}
}

void winograd_pack(const float *weights, int in, int out, bool turned, float *packed, int threads)
{
	size_t panels = (size_t)out / GEMM_PANEL;

	CHECK(in % GEMM_PANEL == 0 && out % GEMM_PANEL == 0);
#pragma omp parallel for schedule(static) num_threads(threads)
	for (size_t panel = 0; panel < panels; panel++) {
		float *to = panel_at(packed, in, out, 0, panel);
		size_t apart = (size_t)(panel_at(packed, in, out, 1, panel) - to);

		if (turned)
			pack_panel_turned(weights + panel * GEMM_PANEL * 9, in, out, to, apart);
		else
			pack_panel(weights + panel * GEMM_PANEL * (size_t)in * 9, in, to, apart);
	}
}

static size_t patches_of(const struct winograd *w)
{
	return winograd_patches(w->pictures, w->height, w->width);
}

size_t winograd_patches(int pictures, int height, int width)
{
	return (size_t)pictures * (size_t)patches_along(height) * (size_t)patches_along(width);
}

struct winograd_patch winograd_patch_at(int height, int width, size_t i)
{
	size_t across = (size_t)patches_along(width), down = (size_t)patches_along(height);

	return (struct winograd_patch){ i / across / down, (int)(i / across % down) * 2, (int)(i % across) * 2 };
}

void winograd_copy(const struct winograd_pictures *from, struct winograd_patch at, int border, int side, size_t c, size_t count,
		   size_t pitch, float *to)
{
	for (int y = at.y - border; y < at.y - border + side; y++)
		for (int x = at.x - border; x < at.x - border + side; x++, to += pitch) {
			if (y < 0 || x < 0 || y >= from->height || x >= from->width)
				memset(to, 0, count * sizeof(*to));
			else
				memcpy(to, winograd_pixel(from, at, y, x) + c, count * sizeof(*to));
		}
}

static bool is_inside(const struct winograd_pictures *x, struct winograd_patch at)
{
	return at.y > 0 && at.x > 0 && at.y + SIDE - 1 <= x->height && at.x + SIDE - 1 <= x->width;
}

struct winograd_view winograd_view(const struct winograd_pictures *x, struct winograd_patch at, size_t c, size_t count, float *copied)
{
	size_t channels = (size_t)x->channels;

	if (is_inside(x, at))
		return (struct winograd_view){ winograd_pixel(x, at, at.y - 1, at.x - 1) + c, (size_t)x->width * channels, channels };
	winograd_copy(x, at, 1, SIDE, c, count, count, copied);
	return (struct winograd_view){ copied, SIDE * count, count };
}

/* Patch number t of the block. */
static void input_patch(const struct winograd *w, const struct layout *l, struct winograd_patch at, size_t t, float *patches)
{
	struct winograd_pictures x = { w->x, w->height, w->width, w->in };
	_Alignas(64) float copied[WINOGRAD_VIEW_FLOATS];

	for (size_t part = 0, count; part < l->parts; part++)
		for (size_t c = 0, depth = min_of(l->depth, (size_t)w->in - part * l->depth); c < depth; c += count) {
			float *to[POSITIONS];

			count = min_of(depth - c, WINOGRAD_CHANNELS_AT_ONCE);
			for (size_t p = 0; p < POSITIONS; p++)
				to[p] = place_of(l, patches, p, part) + t * GEMM_ROW_FLOATS + c;
			struct winograd_view v = winograd_view(&x, at, part * l->depth + c, count, copied);

			l->steps->input(v.from, v.line, v.pixel, count, to);
		}
}

static void output_patch(const struct winograd *w, const struct winograd_steps *steps, struct winograd_patch at, size_t n, size_t width, const float *sums)
{
	_Alignas(64) float nowhere[GROUP] = { 0 };
	float *to[4];

	for (int i = 0; i < 4; i++) {
		struct winograd_pictures results = { w->y, w->height, w->width, w->out };
		int y = at.y + i / 2, x = at.x + i % 2;

		to[i] = y < w->height && x < w->width ? winograd_pixel(&results, at, y, x) + n : nowhere;
	}
	steps->output(sums, GROUP, width, to, w->add);
}

/* The 16 products of one group of results; rows: a patch's sums, position after position. */
static void multiply_group(const struct winograd *w, const struct layout *l, float *patches, size_t count, size_t n, size_t width,
			   float *const *rows)
{
	const struct gemm_tiles *tiles = gemm_tiles();
	size_t in = (size_t)w->in, apart = gemm_panel_floats(in), ahead = share_of(l->depth, share_of(count, tiles->tall * ROWS));
	const float *panels = w->packed + n / GEMM_PANEL * POSITIONS * apart;

	for (size_t p = 0; p < POSITIONS; p++, panels += width / GEMM_PANEL * apart)
		for (size_t part = 0; part < l->parts; part++) {
			const float *a = place_of(l, patches, p, part), *b = panels + part * l->depth * GEMM_PANEL;
			struct gemm_block block = { .b_apart = apart, .b_step = GEMM_PANEL, .depth = min_of(l->depth, in - part * l->depth),
						    .add = part > 0 };
			size_t ask_step = share_of(ahead * GEMM_PANEL, block.depth);

			for (size_t j = 0; j < width; j += block.wide * GEMM_PANEL, b += block.wide * apart) {
				block.wide = min_of((width - j) / GEMM_PANEL, tiles->wide);
				const float *next = b + block.wide * apart; /* asked for while these are at work */

				for (size_t i = 0; i < count; i += block.tall * ROWS) {
					block.tall = min_of(share_of(count - i, ROWS), tiles->tall);
					for (int panel = 0; panel < GEMM_ASKS; panel++)
						block.ask[panel] = (struct gemm_ask){ next + (size_t)panel * apart, ask_step };
					next += ahead * GEMM_PANEL;
					tiles->by_rows(&block, a + i * GEMM_ROW_FLOATS, b, rows + i, p * GROUP + j);
				}
			}
		}
}

/* Rows that only fill the last tile: their sums go nowhere, but should be no slow numbers. */
static void clear_rows(const struct layout *l, size_t first, size_t last, float *patches)
{
	for (size_t row = 0; row < l->rows; row++)
		memset(patches + (row * BLOCK_MAX + first) * GEMM_ROW_FLOATS, 0, (last - first) * GEMM_ROW_FLOATS * sizeof(*patches));
}

static void run_block(const struct winograd *w, size_t first, size_t count)
{
	struct layout l = layout_of(w->in);
	float *patches = w->work + (size_t)omp_get_thread_num() * work_of_thread(w->in);
	float *sums = patches + l.rows * BLOCK_MAX * GEMM_ROW_FLOATS, *rows[BLOCK_MAX];
	size_t whole = round_up(count, ROWS);

	for (size_t t = 0; t < count; t++)
		input_patch(w, &l, winograd_patch_at(w->height, w->width, first + t), t, patches);
	clear_rows(&l, count, whole, patches);
	for (size_t t = 0; t < whole; t++)
		rows[t] = sums + t * SUMS;
	for (size_t n = 0, width; n < (size_t)w->out; n += width) {
		width = min_of((size_t)w->out - n, GROUP);
		multiply_group(w, &l, patches, count, n, width, rows);
		for (size_t t = 0; t < count; t++)
			output_patch(w, l.steps, winograd_patch_at(w->height, w->width, first + t), n, width, rows[t]);
	}
}

static int team_of(const struct winograd *w)
{
	double multiplications = (double)patches_of(w) * POSITIONS * w->in * w->out;

	return multiplications < WINOGRAD_TEAM_MIN || w->threads < 1 ? 1 : w->threads;
}

/* Even blocks, and two or more for each thread unless they become small. */
static size_t block_of(size_t patches, size_t team)
{
	size_t least = share_of(patches, BLOCK_MAX), wanted = round_up(least, team);

	if (team > 1 && wanted < BLOCKS_PER_THREAD * team && patches >= BLOCKS_PER_THREAD * team * BLOCK_MIN)
		wanted = BLOCKS_PER_THREAD * team;
	return min_of(round_up(share_of(patches, wanted), ROWS), BLOCK_MAX);
}

void winograd_run(const struct winograd *w)
{
	int team = team_of(w);
	size_t patches = patches_of(w), block = block_of(patches, (size_t)team);

	CHECK(winograd_steps() != NULL && w->in % GEMM_PANEL == 0 && w->out % GEMM_PANEL == 0);
#pragma omp parallel for schedule(dynamic, 1) num_threads(team) if (patches > block)
	for (size_t first = 0; first < patches; first += block)
		run_block(w, first, min_of(block, patches - first));
}
