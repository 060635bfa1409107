/*
 * image_rows_body.h - the loops of image_rows.h, included once for each
 * instruction set by a file that defines ROWS_TABLE and ROWS_NAME after
 * choosing its target; activations are floats here.
 *
 * Loops run along channels, which the compiler turns into vectors. Sums over
 * rows are kept in float for ROWS_BLOCK rows at most and then added to
 * doubles, four rows at a time so that a sum is loaded and stored once for four.
 */
#include <math.h>
#include <string.h>

#include "trainer/kernels/image_rows.h"

enum { ROWS_BLOCK = 64, POOL_STRIP = 64 };

static inline float rows_relu(float x)
{
	return x < 0 ? 0 : x; /* NaN stays */
}

static void flush_sums(float *work, size_t channels, double *sum)
{
	for (size_t c = 0; c < channels; c++) {
		sum[c] += (double)work[c];
		work[c] = 0;
	}
}

static void rows_moments(const void *restrict x_at, size_t rows, size_t channels, const float *restrict pivot,
			 float *restrict work, double *restrict sum, double *restrict square)
{
	const float *restrict x = x_at;
	float *restrict s = work, *restrict q = work + channels;

	memset(work, 0, 2 * channels * sizeof(*work));
	for (size_t r = 0; r < rows;) {
		size_t end = r + ROWS_BLOCK < rows ? r + ROWS_BLOCK : rows;

		for (; r + 4 <= end; r += 4) {
			const float *x0 = x + r * channels, *x1 = x0 + channels, *x2 = x1 + channels, *x3 = x2 + channels;

			for (size_t c = 0; c < channels; c++) {
				float p = pivot[c], a = x0[c] - p, b = x1[c] - p, d = x2[c] - p, e = x3[c] - p;

				s[c] += (a + b) + (d + e);
				q[c] += (a * a + b * b) + (d * d + e * e);
			}
		}
		for (; r < end; r++) {
			for (size_t c = 0; c < channels; c++) {
				float a = x[r * channels + c] - pivot[c];

				s[c] += a;
				q[c] += a * a;
			}
		}
		flush_sums(s, channels, sum);
		flush_sums(q, channels, square);
	}
}

static void rows_bn_relu(const struct bn_terms *bn, const void *restrict x_at, size_t rows, size_t channels,
			 void *restrict y_at)
{
	const float *restrict x = x_at;
	float *restrict y = y_at;
	const float *restrict mean = bn->mean, *restrict scale = bn->scale, *restrict bias = bn->bias;

	for (size_t r = 0; r < rows; r++, x += channels, y += channels)
		for (size_t c = 0; c < channels; c++)
			y[c] = rows_relu((x[c] - mean[c]) * scale[c] + bias[c]);
}

static void rows_add_relu(const struct bn_terms *bn, const void *restrict x_at, const struct bn_terms *other,
			  const void *restrict shortcut_at, size_t rows, size_t channels, void *restrict y_at)
{
	const float *restrict x = x_at, *restrict shortcut = shortcut_at;
	float *restrict y = y_at;
	const float *restrict mean = bn->mean, *restrict scale = bn->scale, *restrict bias = bn->bias;

	if (other == NULL) {
		for (size_t r = 0; r < rows; r++, x += channels, y += channels, shortcut += channels)
			for (size_t c = 0; c < channels; c++)
				y[c] = rows_relu((x[c] - mean[c]) * scale[c] + bias[c] + shortcut[c]);
		return;
	}
	const float *restrict mean2 = other->mean, *restrict scale2 = other->scale, *restrict bias2 = other->bias;

	for (size_t r = 0; r < rows; r++, x += channels, y += channels, shortcut += channels)
		for (size_t c = 0; c < channels; c++)
			y[c] = rows_relu((x[c] - mean[c]) * scale[c] + bias[c] +
					 ((shortcut[c] - mean2[c]) * scale2[c] + bias2[c]));
}

static inline float passed(float g, float x, float mean, float scale, float bias)
{
	return (x - mean) * scale + bias <= 0 ? 0 : g;
}

static void rows_relu_sums(const struct bn_terms *bn, const void *restrict dy_at, const void *restrict x_at, size_t rows,
			   size_t channels, float *restrict work, double *restrict sum, double *restrict product)
{
	const float *restrict dy = dy_at, *restrict x = x_at;
	const float *restrict mean = bn->mean, *restrict scale = bn->scale, *restrict bias = bn->bias;
	float *restrict s = work, *restrict q = work + channels;

	memset(work, 0, 2 * channels * sizeof(*work));
	for (size_t r = 0; r < rows;) {
		size_t end = r + ROWS_BLOCK < rows ? r + ROWS_BLOCK : rows;

		for (; r + 2 <= end; r += 2) {
			const float *x0 = x + r * channels, *x1 = x0 + channels;
			const float *g0 = dy + r * channels, *g1 = g0 + channels;

			for (size_t c = 0; c < channels; c++) {
				float a = passed(g0[c], x0[c], mean[c], scale[c], bias[c]);
				float b = passed(g1[c], x1[c], mean[c], scale[c], bias[c]);

				s[c] += a + b;
				q[c] += a * (x0[c] - mean[c]) + b * (x1[c] - mean[c]);
			}
		}
		for (; r < end; r++) {
			for (size_t c = 0; c < channels; c++) {
				float v = x[r * channels + c], a = passed(dy[r * channels + c], v, mean[c], scale[c], bias[c]);

				s[c] += a;
				q[c] += a * (v - mean[c]);
			}
		}
		flush_sums(s, channels, sum);
		flush_sums(q, channels, product);
	}
}

static void masked_sums(const struct bn_terms *bn, const float *restrict x, const float *restrict out, float *restrict g,
			size_t rows, size_t channels, float *restrict s, float *restrict q)
{
	const float *restrict mean = bn->mean;
	size_t r = 0;

	for (; r + 2 <= rows; r += 2) {
		const float *restrict x0 = x + r * channels, *restrict x1 = x0 + channels;
		const float *restrict o0 = out + r * channels, *restrict o1 = o0 + channels;
		float *restrict g0 = g + r * channels, *restrict g1 = g0 + channels;

		for (size_t c = 0; c < channels; c++) {
			float a = o0[c] <= 0 ? 0 : g0[c], b = o1[c] <= 0 ? 0 : g1[c];

			g0[c] = a;
			g1[c] = b;
			s[c] += a + b;
			q[c] += a * (x0[c] - mean[c]) + b * (x1[c] - mean[c]);
		}
	}
	for (; r < rows; r++) {
		for (size_t c = 0; c < channels; c++) {
			float a = out[r * channels + c] <= 0 ? 0 : g[r * channels + c];

			g[r * channels + c] = a;
			s[c] += a;
			q[c] += a * (x[r * channels + c] - mean[c]);
		}
	}
}

/* q += g * (x - mean): the second batch norm of a block that ends in two. */
static void product_sums(const struct bn_terms *bn, const float *restrict x, const float *restrict g, size_t rows,
			 size_t channels, float *restrict q)
{
	const float *restrict mean = bn->mean;

	for (size_t r = 0; r < rows; r++, x += channels, g += channels)
		for (size_t c = 0; c < channels; c++)
			q[c] += g[c] * (x[c] - mean[c]);
}

static void rows_add_relu_sums(const struct bn_terms *bn, const void *x_at, const struct bn_terms *other,
			       const void *shortcut_at, const void *out_at, void *g_at, size_t rows, size_t channels, float *work,
			       double *sum, double *product, double *other_product)
{
	const float *x = x_at, *shortcut = shortcut_at, *out = out_at;
	float *g = g_at;
	float *s = work, *q = work + channels, *q2 = q + channels;

	memset(work, 0, 3 * channels * sizeof(*work));
	for (size_t r = 0; r < rows; r += ROWS_BLOCK) {
		size_t n = rows - r < ROWS_BLOCK ? rows - r : ROWS_BLOCK;

		masked_sums(bn, x + r * channels, out + r * channels, g + r * channels, n, channels, s, q);
		flush_sums(s, channels, sum);
		flush_sums(q, channels, product);
		if (other != NULL) {
			product_sums(other, shortcut + r * channels, g + r * channels, n, channels, q2);
			flush_sums(q2, channels, other_product);
		}
	}
}

/* dx may be dy: one pass, each element read before it is written. */
static void rows_backward(const struct bn_terms *bn, bool with_relu, const void *dy_at, const void *restrict x_at, size_t rows,
			  size_t channels, void *dx_at)
{
	const float *dy = dy_at, *restrict x = x_at;
	float *dx = dx_at;
	const float *restrict mean = bn->mean, *restrict scale = bn->scale, *restrict bias = bn->bias;
	const float *restrict mean_term = bn->mean_term, *restrict x_term = bn->x_term;

	for (size_t r = 0; r < rows; r++, x += channels, dy += channels, dx += channels) {
		if (with_relu) {
#pragma GCC ivdep
			for (size_t c = 0; c < channels; c++)
				dx[c] = scale[c] * passed(dy[c], x[c], mean[c], scale[c], bias[c]) - mean_term[c] -
					x_term[c] * (x[c] - mean[c]);
		} else {
#pragma GCC ivdep
			for (size_t c = 0; c < channels; c++)
				dx[c] = scale[c] * dy[c] - mean_term[c] - x_term[c] * (x[c] - mean[c]);
		}
	}
}

/* One tap of POOL_STRIP channels or fewer: where it beats the best so far, it is the best. */
static inline void pool_tap(const float *restrict x, const float *restrict mean, const float *restrict scale,
			    const float *restrict bias, size_t n, int tap, float *restrict best, int32_t *restrict winner)
{
	for (size_t c = 0; c < n; c++) {
		float value = rows_relu((x[c] - mean[c]) * scale[c] + bias[c]), old = best[c], now;
		int32_t who = winner[c];

		who = value > old ? tap : who;
		now = value > old ? value : old;
		who = value != value ? tap : who; /* a NaN wins, as in PyTorch */
		now = value != value ? value : now;
		best[c] = now;
		winner[c] = who;
	}
}

static void pool_strip(const struct bn_terms *bn, const float *x, int height, int width, size_t channels, int oy, int ox,
		       size_t first, size_t n, float *y, uint8_t *index)
{
	float best[POOL_STRIP];
	int32_t winner[POOL_STRIP];

	for (size_t c = 0; c < POOL_STRIP; c++) {
		best[c] = -INFINITY;
		winner[c] = 0;
	}
	for (int tap = 0; tap < 9; tap++) {
		int iy = 2 * oy - 1 + tap / 3, ix = 2 * ox - 1 + tap % 3;

		if (iy < 0 || ix < 0 || iy >= height || ix >= width)
			continue;
		pool_tap(x + ((size_t)iy * (size_t)width + (size_t)ix) * channels + first, bn->mean + first,
			 bn->scale + first, bn->bias + first, n, tap, best, winner);
	}
	for (size_t c = 0; c < n; c++) {
		y[c] = best[c];
		index[c] = (uint8_t)winner[c];
	}
}

static void rows_pool(const struct bn_terms *bn, const void *x_at, int height, int width, size_t channels, int oy,
		      int out_width, void *y_at, uint8_t *index)
{
	const float *x = x_at;
	float *y = y_at;
	for (int ox = 0; ox < out_width; ox++) {
		for (size_t first = 0; first < channels; first += POOL_STRIP) {
			size_t n = channels - first < POOL_STRIP ? channels - first : POOL_STRIP;
			size_t place = (size_t)ox * channels + first;

			pool_strip(bn, x, height, width, channels, oy, ox, first, n, y + place, index + place);
		}
	}
}

static void rows_pool_backward(const void *dy_at, const uint8_t *index, int out_height, int out_width, size_t channels, int iy,
			       int width, void *dx_at)
{
	const float *dy = dy_at;
	float *dx = dx_at;
	memset(dx, 0, (size_t)width * channels * sizeof(*dx));
	for (int r = 0; r < 3; r++) {
		int oy2 = iy + 1 - r;

		if (oy2 < 0 || oy2 % 2 != 0 || oy2 / 2 >= out_height)
			continue;
		for (int ix = 0; ix < width; ix++) {
			for (int q = 0; q < 3; q++) {
				int ox2 = ix + 1 - q;

				if (ox2 < 0 || ox2 % 2 != 0 || ox2 / 2 >= out_width)
					continue;
				size_t place = ((size_t)(oy2 / 2) * (size_t)out_width + (size_t)(ox2 / 2)) * channels;
				const float *restrict g = dy + place;
				const uint8_t *restrict won = index + place;
				float *restrict d = dx + (size_t)ix * channels;
				uint8_t tap = (uint8_t)(3 * r + q);

				for (size_t c = 0; c < channels; c++)
					d[c] += won[c] == tap ? g[c] : 0;
			}
		}
	}
}

static void rows_add(void *restrict y_at, const void *restrict x_at, size_t n)
{
	float *restrict y = y_at;
	const float *restrict x = x_at;
	for (size_t i = 0; i < n; i++)
		y[i] += x[i];
}

static void rows_load(const void *x, size_t n, float *floats)
{
	memcpy(floats, x, n * sizeof(*floats));
}

static void rows_store(const float *floats, size_t n, void *y)
{
	memcpy(y, floats, n * sizeof(*floats));
}

static void rows_accumulate(float *floats, const void *x, size_t n)
{
	rows_add(floats, x, n);
}

static const struct image_rows ROWS_TABLE = {
	.name = ROWS_NAME,
	.element_bytes = sizeof(float),
	.moments = rows_moments,
	.relu = rows_bn_relu,
	.add_relu = rows_add_relu,
	.relu_sums = rows_relu_sums,
	.add_relu_sums = rows_add_relu_sums,
	.backward = rows_backward,
	.pool = rows_pool,
	.pool_backward = rows_pool_backward,
	.add = rows_add,
	.load = rows_load,
	.store = rows_store,
	.accumulate = rows_accumulate,
};
