/*
 * gemm_pairs.c - operands of products in bf16, packed as pairs of elements that are neighbours in k.
 *
 * AVX512_BF16 multiplies pairs: a word of a, (k, k + 1), times the word of b below. So words are packed as floats are, and a product of
 * pairs is one of floats with half of k. Neighbours in k lie in two lines of memory, which are zipped on the way. Behind an odd
 * k stands a line of zeros.
 */
#include <stdint.h>

#include "shared/base/check.h"
#include "trainer/kernels/gemm_pack.h"

static const uint16_t zeros[GEMM_N_BLOCK];

static const uint16_t *element(const void *matrix, size_t ld, size_t line, size_t i)
{
	return (const uint16_t *)matrix + line * ld + i;
}

/*
 * Rows behind m_last that only fill the last tiles are not cleared: zip() fills up to a whole panel, and beyond it the block holds what was
 * packed there before. Nothing of that gets out: a row of c is a sum of that row of a alone, so such rows, even with a NaN in them,
 * touch no other, and edge_block() of gemm.c copies those before m_last alone.
 */
void gemm_pack_a_pairs(const struct gemm *g, size_t m_first, size_t m_last, size_t k, size_t depth, float *block)
{
	const struct gemm_tiles *tiles = gemm_tiles_bf16();

	CHECK(g->a_form == GEMM_COLUMNS);
	for (size_t i = 0, line = 2 * k; i < depth; i++, line += 2, block += GEMM_PAIRS_STEP)
		tiles->zip(element(g->a, g->lda, line, m_first), line + 1 < g->k ? element(g->a, g->lda, line + 1, m_first) : zeros,
			   m_last - m_first, GEMM_PANEL, block);
}

/* Elements first .. first + count of the window at a place: where they lie, or copied. */
static const uint16_t *part_of_window(const struct gemm_windows *w, const void *pictures, struct cursor at, size_t first, size_t count,
				      uint16_t *copy)
{
	size_t line = (size_t)w->taps_x * (size_t)w->channels, within = first % line;
	ptrdiff_t width = (ptrdiff_t)w->width * w->channels, y = (ptrdiff_t)at.y * w->step + w->first_y + (ptrdiff_t)(first / line);
	ptrdiff_t x = ((ptrdiff_t)at.x * w->step + w->first_x) * w->channels + (ptrdiff_t)within;
	struct gemm_windows words = *w;

	if (within + count <= line && y >= 0 && y < w->height && x >= 0 && x + (ptrdiff_t)count <= width)
		return (const uint16_t *)pictures + ((ptrdiff_t)at.picture * w->height + y) * width + x;
	words.channels /= 2; /* even: two elements at a time are moved as a float */
	gemm_copy_window(&words, pictures, at, first / 2, count / 2, (float *)(void *)copy);
	return copy;
}

/* Columns n .. n + width of the windows at two places, a line of taps at a time where lines fill whole panels. */
static void zip_windows(const struct gemm *g, const struct cursor at[2], bool both, size_t n, size_t width, size_t apart, float *to)
{
	size_t line = (size_t)g->windows.taps_x * (size_t)g->windows.channels;
	_Alignas(64) uint16_t copies[2][GEMM_N_BLOCK];

	for (size_t first = n, count; first < n + width; first += count) {
		const uint16_t *odd = zeros;

		count = line % GEMM_PANEL == 0 ? min_of(line - first % line, n + width - first) : width;
		if (both)
			odd = part_of_window(&g->windows, g->b, at[1], first, count, copies[1]);
		gemm_tiles_bf16()->zip(part_of_window(&g->windows, g->b, at[0], first, count, copies[0]), odd, count, apart,
					      to + (first - n) / GEMM_PANEL * apart);
	}
}

void gemm_pack_b_pairs(const struct gemm *g, size_t n, size_t width, size_t k, size_t depth, size_t apart, float *panels)
{
	const struct gemm_windows *w = &g->windows;
	bool windows = g->b_form == GEMM_WINDOWS;
	struct cursor at[2] = { { 0 } };

	CHECK(windows ? w->channels % 2 == 0 : g->b_form == GEMM_ROWS);
	if (windows)
		at[0] = cursor_at(2 * k, w->grid_height, w->grid_width);
	for (size_t i = 0, line = 2 * k; i < depth; i++, line += 2, panels += GEMM_PANEL) {
		bool both = line + 1 < g->k;

		if (!windows) {
			gemm_tiles_bf16()->zip(element(g->b, g->ldb, line, n), both ? element(g->b, g->ldb, line + 1, n) : zeros, width, apart,
						      panels);
			continue;
		}
		at[1] = at[0];
		cursor_next(&at[1], w->grid_height, w->grid_width);
		zip_windows(g, at, both, n, width, apart, panels);
		at[0] = at[1];
		cursor_next(&at[0], w->grid_height, w->grid_width);
	}
}
