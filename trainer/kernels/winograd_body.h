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
INLINE void input_line(const float *a, const float *b, bool plus, size_t pixel, size_t channels, float *const *to)
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

static void input(const float *from, size_t line, size_t pixel, size_t channels, float *const *to)
{
	const float *line1 = from + line, *line2 = line1 + line, *line3 = line2 + line;

	input_line(from, line2, false, pixel, channels, to);
	input_line(line1, line2, true, pixel, channels, to + SIDE);
	input_line(line2, line1, false, pixel, channels, to + 2 * SIDE);
	input_line(line1, line3, false, pixel, channels, to + 3 * SIDE);
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

/* A of two. */
INLINE void spread_two(tile_line first, tile_line second, tile_line out[SIDE])
{
	out[0] = first;
	out[1] = first + second;
	out[2] = first - second;
	out[3] = (tile_line){ 0 } - second;
}

static void spread_results(const float *from, size_t apart, size_t count, float *const *to, size_t tile)
{
	for (size_t i = 0; i < count; i++, from += GEMM_TILE_ROWS) {
		tile_line left[SIDE], right[SIDE];

		spread_two(load_tile(from), load_tile(from + 2 * apart), left);
		spread_two(load_tile(from + apart), load_tile(from + 3 * apart), right);
#pragma GCC unroll 4
		for (int y = 0; y < SIDE; y++) {
			tile_line out[SIDE];

			spread_two(left[y], right[y], out);
#pragma GCC unroll 4
			for (int x = 0; x < SIDE; x++)
				store_tile(to[y * SIDE + x] + i * tile, out[x]);
		}
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

static const struct winograd_steps WINOGRAD_STEPS = { LANES, input, output, weights, spread_results, gather };
