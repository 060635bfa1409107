/* The transforms of winograd_parts.h for AVX2: eight channels at a time, additions only. */
#include "trainer/kernels/winograd_parts.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#pragma GCC target("avx2,fma")

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 8, SIDE = WINOGRAD_PATCH };

/* A line of B' x: lines a and b of the patch, one plus or minus the other; then the four columns. */
INLINE void input_line(const float *a, const float *b, bool plus, size_t pixel, size_t channels, float *const *to)
{
	float *to0 = to[0], *to1 = to[1], *to2 = to[2], *to3 = to[3];

	for (size_t c = 0; c < channels; c += LANES) {
		__m256 t[SIDE];

#pragma GCC unroll 4
		for (int x = 0; x < SIDE; x++) {
			__m256 first = _mm256_loadu_ps(a + (size_t)x * pixel + c), second = _mm256_loadu_ps(b + (size_t)x * pixel + c);

			t[x] = plus ? _mm256_add_ps(first, second) : _mm256_sub_ps(first, second);
		}
		_mm256_storeu_ps(to0 + c, _mm256_sub_ps(t[0], t[2]));
		_mm256_storeu_ps(to1 + c, _mm256_add_ps(t[1], t[2]));
		_mm256_storeu_ps(to2 + c, _mm256_sub_ps(t[2], t[1]));
		_mm256_storeu_ps(to3 + c, _mm256_sub_ps(t[1], t[3]));
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
INLINE __m256 sum_even(const __m256 m[SIDE])
{
	return _mm256_add_ps(_mm256_add_ps(m[1], m[2]), m[0]);
}

INLINE __m256 sum_odd(const __m256 m[SIDE])
{
	return _mm256_sub_ps(_mm256_sub_ps(m[1], m[2]), m[3]);
}

INLINE void put(float *to, __m256 value, bool add)
{
	_mm256_storeu_ps(to, add ? _mm256_add_ps(_mm256_loadu_ps(to), value) : value);
}

INLINE void output_of(const float *from, size_t apart, size_t channels, float *const *to, bool add)
{
	for (size_t c = 0; c < channels; c += LANES) {
		__m256 even[SIDE], odd[SIDE];

#pragma GCC unroll 4
		for (int x = 0; x < SIDE; x++) {
			__m256 m[SIDE];

#pragma GCC unroll 4
			for (int y = 0; y < SIDE; y++)
				m[y] = _mm256_loadu_ps(from + (size_t)(y * SIDE + x) * apart + c);
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
INLINE void spread(const __m256 g[3], __m256 out[SIDE])
{
	__m256 half = _mm256_set1_ps(0.5f), outer = _mm256_add_ps(g[0], g[2]);

	out[0] = g[0];
	out[1] = _mm256_mul_ps(half, _mm256_add_ps(outer, g[1]));
	out[2] = _mm256_mul_ps(half, _mm256_sub_ps(outer, g[1]));
	out[3] = g[2];
}

/* A of two. */
INLINE void spread_two(__m256 first, __m256 second, __m256 out[SIDE])
{
	out[0] = first;
	out[1] = _mm256_add_ps(first, second);
	out[2] = _mm256_sub_ps(first, second);
	out[3] = _mm256_sub_ps(_mm256_setzero_ps(), second);
}

static void spread_results(const float *from, size_t apart, size_t count, float *const *to, size_t tile)
{
	for (size_t i = 0; i < count; i++, from += GEMM_TILE_ROWS) {
		__m256 left[SIDE], right[SIDE];

		spread_two(_mm256_loadu_ps(from), _mm256_loadu_ps(from + 2 * apart), left);
		spread_two(_mm256_loadu_ps(from + apart), _mm256_loadu_ps(from + 3 * apart), right);
#pragma GCC unroll 4
		for (int y = 0; y < SIDE; y++) {
			__m256 out[SIDE];

			spread_two(left[y], right[y], out);
#pragma GCC unroll 4
			for (int x = 0; x < SIDE; x++)
				_mm256_storeu_ps(to[y * SIDE + x] + i * tile, out[x]);
		}
	}
}

/* G' of four. */
INLINE void gather_four(const __m256 s[SIDE], __m256 out[3])
{
	__m256 half = _mm256_set1_ps(0.5f), inner = _mm256_mul_ps(half, _mm256_add_ps(s[1], s[2]));

	out[0] = _mm256_add_ps(s[0], inner);
	out[1] = _mm256_mul_ps(half, _mm256_sub_ps(s[1], s[2]));
	out[2] = _mm256_add_ps(inner, s[3]);
}

static void gather(const float *from, size_t apart, float *to)
{
	__m256 columns[SIDE][3];

#pragma GCC unroll 4
	for (int x = 0; x < SIDE; x++) {
		__m256 s[SIDE];

#pragma GCC unroll 4
		for (int y = 0; y < SIDE; y++)
			s[y] = _mm256_loadu_ps(from + (size_t)(y * SIDE + x) * apart);
		gather_four(s, columns[x]);
	}
#pragma GCC unroll 3
	for (int y = 0; y < 3; y++) {
		__m256 line[SIDE] = { columns[0][y], columns[1][y], columns[2][y], columns[3][y] }, out[3];

		gather_four(line, out);
#pragma GCC unroll 3
		for (int x = 0; x < 3; x++)
			_mm256_storeu_ps(to + (y * 3 + x) * LANES, out[x]);
	}
}

static void weights(const float *taps, ptrdiff_t step, float *to, size_t apart)
{
	for (size_t c = 0; c < GEMM_PANEL; c += LANES) {
		__m256 columns[3][SIDE];

#pragma GCC unroll 3
		for (int x = 0; x < 3; x++) {
			__m256 g[3];

#pragma GCC unroll 3
			for (int y = 0; y < 3; y++)
				g[y] = _mm256_loadu_ps(taps + (y * 3 + x) * step + (ptrdiff_t)c);
			spread(g, columns[x]);
		}
#pragma GCC unroll 4
		for (int y = 0; y < SIDE; y++) {
			__m256 line[3] = { columns[0][y], columns[1][y], columns[2][y] }, out[SIDE];

			spread(line, out);
#pragma GCC unroll 4
			for (int x = 0; x < SIDE; x++)
				_mm256_storeu_ps(to + (size_t)(y * SIDE + x) * apart + c, out[x]);
		}
	}
}

const struct winograd_steps *winograd_steps_avx2(void)
{
	static const struct winograd_steps steps = { input, output, weights, spread_results, gather };

	return gemm_tiles_avx2() != NULL ? &steps : NULL;
}

#else

const struct winograd_steps *winograd_steps_avx2(void)
{
	return NULL;
}

#endif
