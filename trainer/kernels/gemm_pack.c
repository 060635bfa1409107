#include "trainer/kernels/gemm_pack.h"

#include <string.h>

enum { ROWS = GEMM_TILE_ROWS };

static void zero(float *to, size_t count)
{
	memset(to, 0, count * sizeof(*to));
}

/* Short runs, as of pictures with three channels, are copied before a call would have begun. */
static inline void copy(float *to, const float *from, size_t count)
{
	if (count > 64) {
		memcpy(to, from, count * sizeof(*to));
		return;
	}
	for (; count >= 8; count -= 8, to += 8, from += 8)
		memcpy(to, from, 8 * sizeof(*to));
	for (size_t i = 0; i < count; i++)
		to[i] = from[i];
}

/* A line of a window's taps lies without gaps in the picture. */
void gemm_copy_window(const struct gemm_windows *w, const float *pictures, struct cursor at, size_t first, size_t count, float *to)
{
	size_t line = (size_t)w->taps_x * (size_t)w->channels, width = (size_t)w->width * (size_t)w->channels;
	ptrdiff_t left = ((ptrdiff_t)at.x * w->step + w->first_x) * w->channels;
	ptrdiff_t y = (ptrdiff_t)at.y * w->step + w->first_y + (ptrdiff_t)(first / line);
	const float *picture = pictures + at.picture * (size_t)w->height * width;

	for (size_t within = first % line; count > 0; y++, within = 0) {
		size_t run = min_of(line - within, count), before = 0, inside = 0;
		ptrdiff_t x = left + (ptrdiff_t)within;

		count -= run;
		if (y >= 0 && y < w->height) {
			before = x < 0 ? min_of((size_t)-x, run) : 0;
			x += (ptrdiff_t)before;
			inside = x < (ptrdiff_t)width ? min_of(width - (size_t)x, run - before) : 0;
		}
		if (before > 0)
			zero(to, before);
		if (inside > 0)
			copy(to + before, picture + (size_t)y * width + (size_t)x, inside);
		if (before + inside < run)
			zero(to + before + inside, run - before - inside);
		to += run;
	}
}

/* Line by line of memory: widths of powers of two, and a column would meet itself in one place of the cache. */
static void pack_a_columns(const struct gemm *g, size_t m_first, size_t m_last, size_t k, size_t depth, float *block)
{
	size_t tiles_all = share_of(m_last - m_first, ROWS), apart = gemm_columns_apart(depth), whole = tiles_all;
	const float *from = (const float *)g->a + k * g->lda + m_first;

	while (whole > 0 && m_first + (whole - 1) * ROWS + 8 > g->m) /* narrow() reads eight */
		whole--;
	gemm_tiles()->narrow(from, g->lda, depth, whole, apart, block);
	for (size_t t = whole; t < tiles_all; t++)
		for (size_t i = 0; i < depth; i++)
			for (size_t r = 0; r < ROWS; r++)
				block[t * apart + i * ROWS + r] =
					m_first + t * ROWS + r < m_last ? from[i * g->lda + t * ROWS + r] : 0.0f;
}

void gemm_pack_a(const struct gemm *g, size_t m_first, size_t m_last, size_t k, size_t depth, float *block)
{
	size_t count = m_last - m_first;
	const float *from = g->a;
	float *to = block;

	if (g->bf16) {
		gemm_pack_a_pairs(g, m_first, m_last, k, depth, block);
		return;
	}
	if (g->a_form == GEMM_COLUMNS) {
		pack_a_columns(g, m_first, m_last, k, depth, block);
		return;
	}
	if (g->a_form == GEMM_WINDOWS) {
		const struct gemm_windows *w = &g->windows;
		struct cursor at = cursor_at(m_first, w->grid_height, w->grid_width);

		for (size_t i = 0; i < count; i++, to += GEMM_ROW_FLOATS) {
			gemm_copy_window(w, from, at, k, depth, to);
			cursor_next(&at, w->grid_height, w->grid_width);
		}
	} else {
		for (size_t i = 0; i < count; i++, to += GEMM_ROW_FLOATS)
			memcpy(to, from + (m_first + i) * g->lda + k, depth * sizeof(*to));
	}
	for (size_t i = count; i % ROWS != 0; i++, to += GEMM_ROW_FLOATS)
		zero(to, depth);
}

/* One row of b, n elements, into row k of panels that lie `apart`. */
static void spread_row(const float *from, size_t n, size_t k, size_t apart, float *panels)
{
	float *to = panels + k * GEMM_PANEL;

	for (; n >= GEMM_PANEL; n -= GEMM_PANEL, from += GEMM_PANEL, to += apart)
		memcpy(to, from, GEMM_PANEL * sizeof(*to));
	if (n > 0) {
		memcpy(to, from, n * sizeof(*to));
		zero(to + n, GEMM_PANEL - n);
	}
}

/* The same of a window, columns n .. n + width, without a row in between: channels fill whole lines of panels. */
static void spread_window(const struct gemm_windows *w, const float *pictures, struct cursor at, size_t n, size_t width, size_t k,
			  size_t apart, float *panels)
{
	size_t line = (size_t)w->taps_x * (size_t)w->channels, row = (size_t)w->width * (size_t)w->channels, within = n % line;
	ptrdiff_t left = ((ptrdiff_t)at.x * w->step + w->first_x) * w->channels;
	ptrdiff_t y = (ptrdiff_t)at.y * w->step + w->first_y + (ptrdiff_t)(n / line);
	const float *picture = pictures + at.picture * (size_t)w->height * row;
	float *to = panels + k * GEMM_PANEL;

	for (size_t end; width > 0; y++, within = 0) {
		const float *from = picture + y * (ptrdiff_t)row;

		end = min_of(line, within + width);
		width -= end - within;
		for (; within < end; within += GEMM_PANEL, to += apart) {
			ptrdiff_t x = left + (ptrdiff_t)within;

			if (y < 0 || y >= w->height || x < 0 || x >= (ptrdiff_t)row)
				zero(to, GEMM_PANEL);
			else
				memcpy(to, from + x, GEMM_PANEL * sizeof(*to));
		}
	}
}

/* Columns n .. n + width (at most GEMM_PANEL) of b, whose transpose lies in memory. */
static void turn_panel(const float *from, size_t ld, size_t width, size_t depth, float *panel)
{
	if (width == GEMM_PANEL) {
		gemm_tiles()->turn(from, ld, depth, panel);
		return;
	}
	for (size_t k = 0; k < depth; k++)
		for (size_t n = 0; n < GEMM_PANEL; n++)
			panel[k * GEMM_PANEL + n] = n < width ? from[n * ld + k] : 0.0f;
}

void gemm_pack_b(const struct gemm *g, size_t n, size_t width, size_t k, size_t depth, size_t apart, float *panels)
{
	const float *from = g->b;

	if (g->bf16) {
		gemm_pack_b_pairs(g, n, width, k, depth, apart, panels);
		return;
	}
	if (g->b_form == GEMM_COLUMNS) {
		for (size_t i = 0; i < width; i += GEMM_PANEL, panels += apart)
			turn_panel(from + (n + i) * g->ldb + k, g->ldb, min_of(width - i, GEMM_PANEL), depth, panels);
	} else if (g->b_form == GEMM_ROWS) {
		for (size_t i = 0; i < depth; i++)
			spread_row(from + (k + i) * g->ldb + n, width, i, apart, panels);
	} else {
		const struct gemm_windows *w = &g->windows;
		struct cursor at = cursor_at(k, w->grid_height, w->grid_width);
		bool lines = w->channels % GEMM_PANEL == 0 && n % GEMM_PANEL == 0;
		float row[GEMM_N_BLOCK];

		for (size_t i = 0; i < depth; i++) {
			if (lines) {
				spread_window(w, from, at, n, width, i, apart, panels);
			} else {
				gemm_copy_window(w, from, at, n, width, row);
				spread_row(row, width, i, apart, panels);
			}
			cursor_next(&at, w->grid_height, w->grid_width);
		}
	}
}
