/*
 * image_rows_bf16.c - the loops of image_rows.h on bf16, for AVX-512 with its
 * bf16 instructions.
 *
 * Sixteen channels at a time are widened to floats, worked on, and rounded once
 * when they are stored. Four rows share one load of what belongs to the
 * channels. As with floats, sums over rows stay in float for ROWS_BLOCK rows
 * and are then added to doubles.
 */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,fma,prefer-vector-width=512")
#include <immintrin.h>
#include <string.h>

#include "trainer/kernels/image_rows.h"

enum { LANES = 16, ALL = 0xffff, ROWS_BLOCK = 64 };

#define INLINE static inline __attribute__((always_inline))

/* With mask ALL these are plain loads and stores. */
INLINE __m512 up(const uint16_t *p, __mmask16 mask)
{
	__m256i half = mask == ALL ? _mm256_loadu_si256((const __m256i *)p) : _mm256_maskz_loadu_epi16(mask, p);

	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

INLINE void down(uint16_t *p, __m512 x, __mmask16 mask)
{
	__m256i half = (__m256i)_mm512_cvtneps_pbh(x);

	if (mask == ALL)
		_mm256_storeu_si256((__m256i *)p, half);
	else
		_mm256_mask_storeu_epi16(p, mask, half);
}

INLINE __m512 get(const float *p, __mmask16 mask)
{
	return mask == ALL ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(mask, p);
}

INLINE void put(float *p, __m512 x, __mmask16 mask)
{
	if (mask == ALL)
		_mm512_storeu_ps(p, x);
	else
		_mm512_mask_storeu_ps(p, mask, x);
}

/* A batch norm's numbers for sixteen channels. */
struct terms {
	__m512 mean, scale, bias;
};

INLINE struct terms terms_at(const struct bn_terms *bn, size_t c, __mmask16 mask)
{
	return (struct terms){ get(bn->mean + c, mask), get(bn->scale + c, mask), get(bn->bias + c, mask) };
}

INLINE __m512 normalized(struct terms t, __m512 x)
{
	return _mm512_fmadd_ps(_mm512_sub_ps(x, t.mean), t.scale, t.bias);
}

INLINE __m512 relu(__m512 x)
{
	return _mm512_max_ps(_mm512_setzero_ps(), x); /* of a NaN and a number the second operand comes out: NaN stays */
}

/* g where x is not <= 0, else 0 */
INLINE __m512 where_positive(__m512 g, __m512 x)
{
	return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NLE_UQ), g);
}

/* Runs STRIP(rows, mask) at every (r, c) of rows r to `end`, four rows at a time. */
#define WALK_ROWS(STRIP, count) \
	for (; r + (count) <= end; r += (count)) { \
		size_t c = 0; \
		for (; c + LANES <= channels; c += LANES) \
			STRIP(count, ALL); \
		if (c < channels) \
			STRIP(count, tail); \
	}
#define WALK(STRIP) \
	WALK_ROWS(STRIP, 4) \
	WALK_ROWS(STRIP, 1)

INLINE __mmask16 tail_of(size_t channels)
{
	return (__mmask16)((1u << channels % LANES) - 1);
}

static void flush_sums(float *work, size_t channels, double *sum)
{
	for (size_t c = 0; c < channels; c++) {
		sum[c] += (double)work[c];
		work[c] = 0;
	}
}

INLINE void moments_strip(const uint16_t *x, size_t stride, int rows, const float *pivot, float *s, float *q, __mmask16 mask)
{
	__m512 p = get(pivot, mask), sum = get(s, mask), square = get(q, mask);

	for (int i = 0; i < rows; i++) {
		__m512 d = _mm512_sub_ps(up(x + (size_t)i * stride, mask), p);

		sum = _mm512_add_ps(sum, d);
		square = _mm512_fmadd_ps(d, d, square);
	}
	put(s, sum, mask);
	put(q, square, mask);
}

static void moments(const void *x_at, size_t rows, size_t channels, const float *pivot, float *work, double *sum,
		    double *square)
{
	const uint16_t *x = x_at;
	float *s = work, *q = work + channels;
	__mmask16 tail = tail_of(channels);

	memset(work, 0, 2 * channels * sizeof(*work));
	for (size_t r = 0, end; r < rows;) {
		end = r + ROWS_BLOCK < rows ? r + ROWS_BLOCK : rows;
#define STRIP(count, mask) moments_strip(x + r * channels + c, channels, count, pivot + c, s + c, q + c, mask)
		WALK(STRIP)
#undef STRIP
		flush_sums(s, channels, sum);
		flush_sums(q, channels, square);
	}
}

INLINE void relu_strip(const struct bn_terms *bn, const uint16_t *x, size_t stride, int rows, size_t c, uint16_t *y,
		       __mmask16 mask)
{
	struct terms t = terms_at(bn, c, mask);

	for (size_t i = 0; i < (size_t)rows; i++)
		down(y + i * stride, relu(normalized(t, up(x + i * stride, mask))), mask);
}

static void bn_relu(const struct bn_terms *bn, const void *x_at, size_t rows, size_t channels, void *y_at)
{
	const uint16_t *x = x_at;
	uint16_t *y = y_at;
	__mmask16 tail = tail_of(channels);
	size_t r = 0, end = rows;

#define STRIP(count, mask) relu_strip(bn, x + r * channels + c, channels, count, c, y + r * channels + c, mask)
	WALK(STRIP)
#undef STRIP
}

INLINE void add_relu_strip(const struct bn_terms *bn, const uint16_t *x, const struct bn_terms *other,
			   const uint16_t *shortcut, size_t stride, int rows, size_t c, uint16_t *y, __mmask16 mask)
{
	struct terms t = terms_at(bn, c, mask), o = t;

	if (other != NULL)
		o = terms_at(other, c, mask);
	for (size_t i = 0; i < (size_t)rows; i++) {
		__m512 added = up(shortcut + i * stride, mask);

		if (other != NULL)
			added = normalized(o, added);
		down(y + i * stride, relu(_mm512_add_ps(normalized(t, up(x + i * stride, mask)), added)), mask);
	}
}

static void add_relu(const struct bn_terms *bn, const void *x_at, const struct bn_terms *other, const void *shortcut_at,
		     size_t rows, size_t channels, void *y_at)
{
	const uint16_t *x = x_at, *shortcut = shortcut_at;
	uint16_t *y = y_at;
	__mmask16 tail = tail_of(channels);
	size_t r = 0, end = rows;

#define STRIP(count, mask) \
	add_relu_strip(bn, x + r * channels + c, other, shortcut + r * channels + c, channels, count, c, y + r * channels + c, mask)
	WALK(STRIP)
#undef STRIP
}

INLINE void relu_sums_strip(const struct bn_terms *bn, const uint16_t *dy, const uint16_t *x, size_t stride, int rows,
			    size_t c, float *s, float *q, __mmask16 mask)
{
	struct terms t = terms_at(bn, c, mask);
	__m512 sum = get(s, mask), product = get(q, mask);

	for (size_t i = 0; i < (size_t)rows; i++) {
		__m512 value = up(x + i * stride, mask), offset = _mm512_sub_ps(value, t.mean);
		__m512 g = where_positive(up(dy + i * stride, mask), normalized(t, value));

		sum = _mm512_add_ps(sum, g);
		product = _mm512_fmadd_ps(g, offset, product);
	}
	put(s, sum, mask);
	put(q, product, mask);
}

static void relu_sums(const struct bn_terms *bn, const void *dy_at, const void *x_at, size_t rows, size_t channels, float *work,
		      double *sum, double *product)
{
	const uint16_t *dy = dy_at, *x = x_at;
	float *s = work, *q = work + channels;
	__mmask16 tail = tail_of(channels);

	memset(work, 0, 2 * channels * sizeof(*work));
	for (size_t r = 0, end; r < rows;) {
		end = r + ROWS_BLOCK < rows ? r + ROWS_BLOCK : rows;
#define STRIP(count, mask) \
	relu_sums_strip(bn, dy + r * channels + c, x + r * channels + c, channels, count, c, s + c, q + c, mask)
		WALK(STRIP)
#undef STRIP
		flush_sums(s, channels, sum);
		flush_sums(q, channels, product);
	}
}

/* Where the sums of one strip go: of g, of g * (x - mean), and the same with the other norm. */
struct sums_at {
	float *sum, *product, *other_product;
};

INLINE void add_relu_sums_strip(const struct bn_terms *bn, const uint16_t *x, const struct bn_terms *other,
				const uint16_t *shortcut, const uint16_t *out, uint16_t *g, size_t stride, int rows, size_t c,
				struct sums_at to, __mmask16 mask)
{
	__m512 mean = get(bn->mean + c, mask), mean2 = other != NULL ? get(other->mean + c, mask) : mean;
	__m512 sum = get(to.sum, mask), product = get(to.product, mask), product2 = product;

	if (other != NULL)
		product2 = get(to.other_product, mask);
	for (size_t i = 0; i < (size_t)rows; i++) {
		__m512 value = where_positive(up(g + i * stride, mask), up(out + i * stride, mask));

		down(g + i * stride, value, mask);
		sum = _mm512_add_ps(sum, value);
		product = _mm512_fmadd_ps(value, _mm512_sub_ps(up(x + i * stride, mask), mean), product);
		if (other != NULL)
			product2 = _mm512_fmadd_ps(value, _mm512_sub_ps(up(shortcut + i * stride, mask), mean2), product2);
	}
	put(to.sum, sum, mask);
	put(to.product, product, mask);
	if (other != NULL)
		put(to.other_product, product2, mask);
}

static void add_relu_sums(const struct bn_terms *bn, const void *x_at, const struct bn_terms *other, const void *shortcut_at,
			  const void *out_at, void *g_at, size_t rows, size_t channels, float *work, double *sum,
			  double *product, double *other_product)
{
	const uint16_t *x = x_at, *shortcut = shortcut_at, *out = out_at;
	uint16_t *g = g_at;
	__mmask16 tail = tail_of(channels);

	memset(work, 0, 3 * channels * sizeof(*work));
	for (size_t r = 0, end; r < rows;) {
		end = r + ROWS_BLOCK < rows ? r + ROWS_BLOCK : rows;
#define STRIP(count, mask) \
	add_relu_sums_strip(bn, x + r * channels + c, other, other == NULL ? NULL : shortcut + r * channels + c, \
			    out + r * channels + c, g + r * channels + c, channels, count, c, \
			    (struct sums_at){ work + c, work + channels + c, work + 2 * channels + c }, mask)
		WALK(STRIP)
#undef STRIP
		flush_sums(work, channels, sum);
		flush_sums(work + channels, channels, product);
		if (other != NULL)
			flush_sums(work + 2 * channels, channels, other_product);
	}
}

INLINE void backward_strip(const struct bn_terms *bn, bool with_relu, const uint16_t *dy, const uint16_t *x, size_t stride,
			   int rows, size_t c, uint16_t *dx, __mmask16 mask)
{
	struct terms t = terms_at(bn, c, mask);
	__m512 mean_term = get(bn->mean_term + c, mask), x_term = get(bn->x_term + c, mask);

	for (size_t i = 0; i < (size_t)rows; i++) {
		__m512 g = up(dy + i * stride, mask), value = up(x + i * stride, mask);

		if (with_relu)
			g = where_positive(g, normalized(t, value));
		g = _mm512_fmsub_ps(t.scale, g, mean_term);
		down(dx + i * stride, _mm512_fnmadd_ps(x_term, _mm512_sub_ps(value, t.mean), g), mask);
	}
}

static void backward(const struct bn_terms *bn, bool with_relu, const void *dy_at, const void *x_at, size_t rows,
		     size_t channels, void *dx_at)
{
	const uint16_t *dy = dy_at, *x = x_at;
	uint16_t *dx = dx_at;
	__mmask16 tail = tail_of(channels);
	size_t r = 0, end = rows;

#define STRIP(count, mask) \
	backward_strip(bn, with_relu, dy + r * channels + c, x + r * channels + c, channels, count, c, dx + r * channels + c, mask)
	WALK(STRIP)
#undef STRIP
}

/* One output pixel, sixteen channels; iy, ix: its window's first pixel. */
static void pool_strip(struct terms t, const uint16_t *x, int height, int width, size_t channels, int iy, int ix, uint16_t *y,
		       uint8_t *index, __mmask16 mask)
{
	__m512 best = _mm512_set1_ps(-__builtin_inff());
	__m512i winner = _mm512_setzero_si512();

	for (int tap = 0; tap < 9; tap++) {
		int ty = iy + tap / 3, tx = ix + tap % 3;
		__m512 value;
		__mmask16 wins;

		if (ty < 0 || tx < 0 || ty >= height || tx >= width)
			continue;
		value = relu(normalized(t, up(x + ((size_t)ty * (size_t)width + (size_t)tx) * channels, mask)));
		wins = _mm512_cmp_ps_mask(value, best, _CMP_GT_OQ) |
		       _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q); /* a NaN wins, as in PyTorch */
		best = _mm512_mask_mov_ps(best, wins, value);
		winner = _mm512_mask_mov_epi32(winner, wins, _mm512_set1_epi32(tap));
	}
	down(y, best, mask);
	_mm_mask_storeu_epi8(index, mask, _mm512_cvtepi32_epi8(winner));
}

static void pool(const struct bn_terms *bn, const void *x_at, int height, int width, size_t channels, int oy, int out_width,
		 void *y_at, uint8_t *index)
{
	const uint16_t *x = x_at;
	uint16_t *y = y_at;
	__mmask16 tail = tail_of(channels);

	for (size_t c = 0; c < channels; c += LANES) {
		__mmask16 mask = c + LANES <= channels ? ALL : tail;
		struct terms t = terms_at(bn, c, mask);

		for (int ox = 0; ox < out_width; ox++) {
			size_t place = (size_t)ox * channels + c;

			pool_strip(t, x + c, height, width, channels, 2 * oy - 1, 2 * ox - 1, y + place, index + place, mask);
		}
	}
}

/* The sum over the windows that see pixel (iy, ix), sixteen channels. */
INLINE __m512 unpooled(const uint16_t *dy, const uint8_t *index, int out_height, int out_width, size_t channels, int iy, int ix,
		       __mmask16 mask)
{
	__m512 sum = _mm512_setzero_ps();

	for (int r = 0; r < 3; r++) {
		int oy2 = iy + 1 - r;

		if (oy2 < 0 || oy2 % 2 != 0 || oy2 / 2 >= out_height)
			continue;
		for (int q = 0; q < 3; q++) {
			int ox2 = ix + 1 - q;
			size_t place;
			__mmask16 won;

			if (ox2 < 0 || ox2 % 2 != 0 || ox2 / 2 >= out_width)
				continue;
			place = ((size_t)(oy2 / 2) * (size_t)out_width + (size_t)(ox2 / 2)) * channels;
			won = _mm_cmpeq_epi8_mask(_mm_maskz_loadu_epi8(mask, index + place), _mm_set1_epi8((char)(3 * r + q)));
			sum = _mm512_mask_add_ps(sum, won, sum, up(dy + place, mask));
		}
	}
	return sum;
}

static void pool_backward(const void *dy_at, const uint8_t *index, int out_height, int out_width, size_t channels, int iy,
			  int width, void *dx_at)
{
	const uint16_t *dy = dy_at;
	uint16_t *dx = dx_at;
	__mmask16 tail = tail_of(channels);

	for (int ix = 0; ix < width; ix++, dx += channels) {
		size_t c = 0;

		for (; c + LANES <= channels; c += LANES)
			down(dx + c, unpooled(dy + c, index + c, out_height, out_width, channels, iy, ix, ALL), ALL);
		if (c < channels)
			down(dx + c, unpooled(dy + c, index + c, out_height, out_width, channels, iy, ix, tail), tail);
	}
}

static void add(void *y_at, const void *x_at, size_t n)
{
	const uint16_t *x = x_at;
	uint16_t *y = y_at;
	size_t i = 0;

	for (; i + LANES <= n; i += LANES)
		down(y + i, _mm512_add_ps(up(y + i, ALL), up(x + i, ALL)), ALL);
	if (i < n)
		down(y + i, _mm512_add_ps(up(y + i, tail_of(n)), up(x + i, tail_of(n))), tail_of(n));
}

static void load(const void *x_at, size_t n, float *floats)
{
	const uint16_t *x = x_at;
	size_t i = 0;

	for (; i + LANES <= n; i += LANES)
		put(floats + i, up(x + i, ALL), ALL);
	if (i < n)
		put(floats + i, up(x + i, tail_of(n)), tail_of(n));
}

static void store(const float *floats, size_t n, void *y_at)
{
	uint16_t *y = y_at;
	size_t i = 0;

	for (; i + LANES <= n; i += LANES)
		down(y + i, get(floats + i, ALL), ALL);
	if (i < n)
		down(y + i, get(floats + i, tail_of(n)), tail_of(n));
}

static void accumulate(float *floats, const void *x_at, size_t n)
{
	const uint16_t *x = x_at;
	size_t i = 0;

	for (; i + LANES <= n; i += LANES)
		put(floats + i, _mm512_add_ps(get(floats + i, ALL), up(x + i, ALL)), ALL);
	if (i < n)
		put(floats + i, _mm512_add_ps(get(floats + i, tail_of(n)), up(x + i, tail_of(n))), tail_of(n));
}

static const struct image_rows table = {
	.name = "avx512-bf16",
	.element_bytes = sizeof(uint16_t),
	.moments = moments,
	.relu = bn_relu,
	.add_relu = add_relu,
	.relu_sums = relu_sums,
	.add_relu_sums = add_relu_sums,
	.backward = backward,
	.pool = pool,
	.pool_backward = pool_backward,
	.add = add,
	.load = load,
	.store = store,
	.accumulate = accumulate,
};

const struct image_rows *image_rows_bf16(void)
{
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
			       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
			       __builtin_cpu_supports("avx512bf16")
		       ? &table
		       : NULL;
}
#else
#include <stddef.h>

#include "trainer/kernels/image_rows.h"

const struct image_rows *image_rows_bf16(void)
{
	return NULL;
}
#endif
