/*
 * winograd_body.h - the transforms of winograd_parts.h, additions and halvings only.
 *
 * A file that includes it has chosen the compiler's target and defines WINOGRAD_LANES, channels that go
 * through together, and WINOGRAD_STEPS, the table's name. Order and kind of the operations do not depend on the lanes, nor do bits.
 */
#include "trainer/kernels/winograd_parts.h"

#define INLINE static inline __attribute__((always_inline))

enum { LANES = WINOGRAD_LANES, SIDE = WINOGRAD_PATCH };

typedef float vector __attribute__((vector_size(4 * WINOGRAD_LANES)));
typedef float vector_anywhere __attribute__((vector_size(4 * WINOGRAD_LANES), aligned(4)));
/* GEMM_TILE_ROWS and two more */
typedef float tile_line __attribute__((vector_size(32)));
typedef float tile_line_anywhere __attribute__((vector_size(32), aligned(4)));

INLINE vector load(const float *from)
{
	return *(const vector_anywhere *)from;
}

INLINE void store(float *to, vector value)
{
	*(vector_anywhere *)to = value;
}

INLINE tile_line load_tile(const float *from)
{
	return *(const tile_line_anywhere *)from;
}

INLINE void store_tile(float *to, tile_line value)
{
	*(tile_line_anywhere *)to = value;
}

/* A line of B' x: lines a and b of the patch, one plus or minus the other; then the four columns. */
INLINE void line_of(const float *a, const float *b, bool plus, size_t pixel, size_t channels, float *const *to)
{
	float *to0 = to[0], *to1 = to[1], *to2 = to[2], *to3 = to[3];

	for (size_t c = 0; c < channels; c += LANES) {
		vector t[SIDE];

#pragma GCC unroll 4
		for (int x = 0; x < SIDE; x++) {
			vector first = load(a + (size_t)x * pixel + c), second = load(b + (size_t)x * pixel + c);

			t[x] = plus ? first + second : first - second;
		}
		store(to0 + c, t[0] - t[2]);
		store(to1 + c, t[1] + t[2]);
		store(to2 + c, t[2] - t[1]);
		store(to3 + c, t[1] - t[3]);
	}
}

static void sum_line(const float *a, const float *b, size_t pixel, size_t channels, float *const *to)
{
	line_of(a, b, true, pixel, channels, to);
}

static void difference_line(const float *a, const float *b, size_t pixel, size_t channels, float *const *to)
{
	line_of(a, b, false, pixel, channels, to);
}

static void input_line(size_t y, const float *from, size_t line, size_t pixel, size_t channels, float *const *to)
{
	const float *line1 = from + line, *line2 = line1 + line;

	switch (y) {
	case 0: difference_line(from, line2, pixel, channels, to); break;
	case 1: sum_line(line1, line2, pixel, channels, to); break;
	case 2: difference_line(line2, line1, pixel, channels, to); break;
	default: difference_line(line1, line2 + line, pixel, channels, to); break;
	}
}

static void input(const float *from, size_t line, size_t pixel, size_t channels, float *const *to)
{
	for (size_t y = 0; y < SIDE; y++)
		input_line(y, from, line, pixel, channels, to + y * SIDE);
}

/* A' of four, in a fixed order. */
INLINE vector sum_even(const vector m[SIDE])
{
	return m[1] + m[2] + m[0];
}

INLINE vector sum_odd(const vector m[SIDE])
{
	return m[1] - m[2] - m[3];
}

INLINE void put(float *to, vector value, bool add)
{
	store(to, add ? load(to) + value : value);
}

INLINE void output_of(const float *from, size_t apart, size_t channels, float *const *to, bool add)
{
	for (size_t c = 0; c < channels; c += LANES) {
		vector even[SIDE], odd[SIDE];

#pragma GCC unroll 4
		for (int x = 0; x < SIDE; x++) {
			vector m[SIDE];

#pragma GCC unroll 4
			for (int y = 0; y < SIDE; y++)
				m[y] = load(from + (size_t)(y * SIDE + x) * apart + c);
			even[x] = sum_even(m);
			odd[x] = sum_odd(m);
		}
		put(to[0] + c, sum_even(even), add);
		put(to[1] + c, sum_odd(even), add);
		put(to[2] + c, sum_even(odd), add);
		put(to[3] + c, sum_odd(odd), add);
	}
}

static void output(const float *from, size_t apart, size_t channels, float *const *to, bool add)
{
	if (add)
		output_of(from, apart, channels, to, true);
	else
		output_of(from, apart, channels, to, false);
}

/* G of three. */
INLINE void spread(const vector g[3], vector out[SIDE])
{
	vector outer = g[0] + g[2];

	out[0] = g[0];
	out[1] = 0.5f * (outer + g[1]);
	out[2] = 0.5f * (outer - g[1]);
	out[3] = g[2];
}

/* Line y of A of two. */
INLINE tile_line spread_to(size_t y, tile_line first, tile_line second)
{
	return y == 0 ? first : y == 1 ? first + second : y == 2 ? first - second : (tile_line){ 0 } - second;
}

INLINE void spread_tiles(size_t y, const float *const from[4], size_t tiles, float *const *to, size_t tile)
{
	for (size_t i = 0; i < tiles; i++) {
		size_t c = i * GEMM_TILE_ROWS;
		tile_line left = spread_to(y, load_tile(from[0] + c), load_tile(from[2] + c));
		tile_line right = spread_to(y, load_tile(from[1] + c), load_tile(from[3] + c));

#pragma GCC unroll 4
		for (size_t x = 0; x < SIDE; x++)
			store_tile(to[x] + i * tile, spread_to(x, left, right));
	}
}

static void spread_line(size_t y, const float *const from[4], size_t tiles, float *const *to, size_t tile)
{
	switch (y) {
	case 0: spread_tiles(0, from, tiles, to, tile); break;
	case 1: spread_tiles(1, from, tiles, to, tile); break;
	case 2: spread_tiles(2, from, tiles, to, tile); break;
	default: spread_tiles(3, from, tiles, to, tile); break;
	}
}

/* G' of four. */
INLINE void gather_four(const vector s[SIDE], vector out[3])
{
	vector inner = 0.5f * (s[1] + s[2]);

	out[0] = s[0] + inner;
	out[1] = 0.5f * (s[1] - s[2]);
	out[2] = inner + s[3];
}

static void gather(const float *from, size_t apart, float *to)
{
	vector columns[SIDE][3];

#pragma GCC unroll 4
	for (int x = 0; x < SIDE; x++) {
		vector s[SIDE];

#pragma GCC unroll 4
		for (int y = 0; y < SIDE; y++)
			s[y] = load(from + (size_t)(y * SIDE + x) * apart);
		gather_four(s, columns[x]);
	}
#pragma GCC unroll 3
	for (int y = 0; y < 3; y++) {
		vector line[SIDE] = { columns[0][y], columns[1][y], columns[2][y], columns[3][y] }, out[3];

		gather_four(line, out);
#pragma GCC unroll 3
		for (int x = 0; x < 3; x++)
			store(to + (y * 3 + x) * LANES, out[x]);
	}
}

static void weights(const float *taps, ptrdiff_t step, float *to, size_t apart)
{
	for (size_t c = 0; c < GEMM_PANEL; c += LANES) {
		vector columns[3][SIDE];

#pragma GCC unroll 3
		for (int x = 0; x < 3; x++) {
			vector g[3];

#pragma GCC unroll 3
			for (int y = 0; y < 3; y++)
				g[y] = load(taps + (y * 3 + x) * step + (ptrdiff_t)c);
			spread(g, columns[x]);
		}
#pragma GCC unroll 4
		for (int y = 0; y < SIDE; y++) {
			vector line[3] = { columns[0][y], columns[1][y], columns[2][y] }, out[SIDE];

			spread(line, out);
#pragma GCC unroll 4
			for (int x = 0; x < SIDE; x++)
				store(to + (size_t)(y * SIDE + x) * apart + c, out[x]);
		}
	}
}

static const struct winograd_steps WINOGRAD_STEPS = { LANES, input, output, weights, input_line, spread_line, gather };
