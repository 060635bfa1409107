/*
 * image_ref.c - the plain version of every image operation: loops as in the
 * definition, sums in double precision. The oracle of the fast versions; slow.
 */
#include <math.h>
#include <string.h>

#include "shared/base/mem.h"
#include "trainer/kernels/image_engine.h"

static int ref_conv_open(struct conv **out, struct image_engine *engine, const struct conv_shape *shape, int slot,
			 int pictures_max, unsigned passes, struct err *err)
{
	(void)passes;
	return conv_create(out, engine, shape, slot, pictures_max, err);
}

static void ref_conv_close(struct conv *conv)
{
	mem_free(conv);
}

/* Element (n, y, x, c) of an NHWC tensor. */
static size_t at(int n, int y, int x, int c, int height, int width, int channels)
{
	return (((size_t)n * (size_t)height + (size_t)y) * (size_t)width + (size_t)x) * (size_t)channels + (size_t)c;
}

static size_t weight_at(const struct conv_shape *s, int o, int i, int r, int q)
{
	return (((size_t)o * (size_t)s->in_channels + (size_t)i) * (size_t)s->kernel + (size_t)r) * (size_t)s->kernel +
	       (size_t)q;
}

static double forward_element(const struct conv *conv, const float *x, int n, int oy, int ox, int o)
{
	const struct conv_shape *s = &conv->shape;
	double sum = 0;

	for (int r = 0; r < s->kernel; r++) {
		for (int q = 0; q < s->kernel; q++) {
			int iy = oy * s->stride - s->pad + r, ix = ox * s->stride - s->pad + q;

			if (iy < 0 || ix < 0 || iy >= s->in_height || ix >= s->in_width)
				continue;
			for (int i = 0; i < s->in_channels; i++)
				sum += (double)x[at(n, iy, ix, i, s->in_height, s->in_width, s->in_channels)] *
				       conv->weights[weight_at(s, o, i, r, q)];
		}
	}
	return sum;
}

static void ref_conv_forward(struct conv *conv, const void *x_at, int n, void *y_at)
{
	const float *x = x_at;
	float *y = y_at;
	for (int p = 0; p < n; p++)
		for (int oy = 0; oy < conv->out_height; oy++)
			for (int ox = 0; ox < conv->out_width; ox++)
				for (int o = 0; o < conv->shape.out_channels; o++)
					y[at(p, oy, ox, o, conv->out_height, conv->out_width, conv->shape.out_channels)] =
						(float)forward_element(conv, x, p, oy, ox, o);
}

static double data_element(const struct conv *conv, const float *dy, int n, int iy, int ix, int i)
{
	const struct conv_shape *s = &conv->shape;
	double sum = 0;

	for (int r = 0; r < s->kernel; r++) {
		for (int q = 0; q < s->kernel; q++) {
			int ty = iy + s->pad - r, tx = ix + s->pad - q; /* stride times the output's place */

			if (ty < 0 || tx < 0 || ty % s->stride != 0 || tx % s->stride != 0 ||
			    ty / s->stride >= conv->out_height || tx / s->stride >= conv->out_width)
				continue;
			for (int o = 0; o < s->out_channels; o++)
				sum += (double)dy[at(n, ty / s->stride, tx / s->stride, o, conv->out_height, conv->out_width,
						     s->out_channels)] *
				       conv->weights[weight_at(s, o, i, r, q)];
		}
	}
	return sum;
}

static void ref_conv_backward_data(struct conv *conv, const void *dy_at, int n, void *dx_at, bool add)
{
	const float *dy = dy_at;
	float *dx = dx_at;
	const struct conv_shape *s = &conv->shape;

	for (int p = 0; p < n; p++) {
		for (int iy = 0; iy < s->in_height; iy++) {
			for (int ix = 0; ix < s->in_width; ix++) {
				for (int i = 0; i < s->in_channels; i++) {
					size_t place = at(p, iy, ix, i, s->in_height, s->in_width, s->in_channels);
					double value = data_element(conv, dy, p, iy, ix, i);

					dx[place] = (float)(add ? dx[place] + value : value);
				}
			}
		}
	}
}

static double weight_element(const struct conv *conv, const float *x, const float *dy, int n, int o, int i, int r, int q)
{
	const struct conv_shape *s = &conv->shape;
	double sum = 0;

	for (int p = 0; p < n; p++) {
		for (int oy = 0; oy < conv->out_height; oy++) {
			for (int ox = 0; ox < conv->out_width; ox++) {
				int iy = oy * s->stride - s->pad + r, ix = ox * s->stride - s->pad + q;

				if (iy < 0 || ix < 0 || iy >= s->in_height || ix >= s->in_width)
					continue;
				sum += (double)x[at(p, iy, ix, i, s->in_height, s->in_width, s->in_channels)] *
				       dy[at(p, oy, ox, o, conv->out_height, conv->out_width, s->out_channels)];
			}
		}
	}
	return sum;
}

static void ref_conv_backward_weights(struct conv *conv, const void *x_at, const void *dy_at, int n, float *grad)
{
	const float *x = x_at, *dy = dy_at;
	const struct conv_shape *s = &conv->shape;

	for (int o = 0; o < s->out_channels; o++)
		for (int i = 0; i < s->in_channels; i++)
			for (int r = 0; r < s->kernel; r++)
				for (int q = 0; q < s->kernel; q++)
					grad[weight_at(s, o, i, r, q)] += (float)weight_element(conv, x, dy, n, o, i, r, q);
}

static void ref_bn_stats(struct bn *bn, const void *x_at, size_t rows)
{
	const float *x = x_at;
	size_t channels = (size_t)bn->channels;

	if (bn->rows == 0)
		memcpy(bn->pivot, x, channels * sizeof(*x));
	for (size_t r = 0; r < rows; r++) {
		for (size_t c = 0; c < channels; c++) {
			double offset = (double)x[r * channels + c] - bn->pivot[c];

			bn->sum[c] += offset;
			bn->square[c] += offset * offset;
		}
	}
	bn->rows += rows;
}

static float normalized(const struct bn *bn, float x, size_t c)
{
	return (x - bn->mean[c]) * bn->scale[c] + bn->bias[c];
}

static float relu(float x)
{
	return x < 0 ? 0 : x; /* NaN stays */
}

static void ref_bn_relu(const struct bn *bn, const void *x_at, size_t rows, void *y_at)
{
	const float *x = x_at;
	float *y = y_at;
	size_t channels = (size_t)bn->channels;

	for (size_t r = 0; r < rows; r++)
		for (size_t c = 0; c < channels; c++)
			y[r * channels + c] = relu(normalized(bn, x[r * channels + c], c));
}

static void ref_bn_add_relu(const struct bn *bn, const void *x_at, const struct bn *shortcut_bn, const void *shortcut_at,
			    size_t rows, void *y_at)
{
	const float *x = x_at, *shortcut = shortcut_at;
	float *y = y_at;
	size_t channels = (size_t)bn->channels;

	for (size_t r = 0; r < rows; r++) {
		for (size_t c = 0; c < channels; c++) {
			float other = shortcut[r * channels + c];

			if (shortcut_bn != NULL)
				other = normalized(shortcut_bn, other, c);
			y[r * channels + c] = relu(normalized(bn, x[r * channels + c], c) + other);
		}
	}
}

static void pool_element(const struct bn *bn, const float *x, int n, int oy, int ox, int c, int height, int width, float *y,
			 uint8_t *index)
{
	float best = -INFINITY;

	for (int tap = 0; tap < 9; tap++) {
		int iy = 2 * oy - 1 + tap / 3, ix = 2 * ox - 1 + tap % 3;
		float value;

		if (iy < 0 || ix < 0 || iy >= height || ix >= width)
			continue;
		value = relu(normalized(bn, x[at(n, iy, ix, c, height, width, bn->channels)], (size_t)c));
		if (value > best || isnan(value)) {
			best = value;
			*index = (uint8_t)tap;
		}
	}
	*y = best;
}

static void ref_bn_relu_pool(const struct bn *bn, const void *x_at, int n, int height, int width, void *y_at, uint8_t *index)
{
	const float *x = x_at;
	float *y = y_at;
	int out_height = conv_out_size(height, 3, 2, 1), out_width = conv_out_size(width, 3, 2, 1);

	for (int p = 0; p < n; p++) {
		for (int oy = 0; oy < out_height; oy++) {
			for (int ox = 0; ox < out_width; ox++) {
				for (int c = 0; c < bn->channels; c++) {
					size_t place = at(p, oy, ox, c, out_height, out_width, bn->channels);

					pool_element(bn, x, p, oy, ox, c, height, width, &y[place], &index[place]);
				}
			}
		}
	}
}

static void add_to_sums(struct bn *bn, float g, float x, size_t c)
{
	bn->sum[c] += g;
	bn->square[c] += (double)g * ((double)x - bn->mean[c]);
}

static void ref_bn_relu_sums(struct bn *bn, const void *dy_at, const void *x_at, size_t rows)
{
	const float *dy = dy_at, *x = x_at;
	size_t channels = (size_t)bn->channels;

	for (size_t r = 0; r < rows; r++)
		for (size_t c = 0; c < channels; c++)
			if (!(normalized(bn, x[r * channels + c], c) <= 0))
				add_to_sums(bn, dy[r * channels + c], x[r * channels + c], c);
	bn->rows += rows;
}

static void ref_bn_add_relu_sums(struct bn *bn, const void *x_at, struct bn *shortcut_bn, const void *shortcut_at,
				 const void *out_at, void *g_at, size_t rows)
{
	const float *x = x_at, *shortcut = shortcut_at, *out = out_at;
	float *g = g_at;
	size_t channels = (size_t)bn->channels;

	for (size_t r = 0; r < rows; r++) {
		for (size_t c = 0; c < channels; c++) {
			size_t place = r * channels + c;

			if (out[place] <= 0)
				g[place] = 0;
			add_to_sums(bn, bn->factor * g[place], x[place], c);
			if (shortcut_bn != NULL)
				add_to_sums(shortcut_bn, g[place], shortcut[place], c);
		}
	}
	bn->rows += rows;
	if (shortcut_bn != NULL)
		shortcut_bn->rows += rows;
}

static void ref_bn_backward(const struct bn *bn, bool with_relu, const void *dy_at, const void *x_at, size_t rows, void *dx_at)
{
	const float *dy = dy_at, *x = x_at;
	float *dx = dx_at;
	size_t channels = (size_t)bn->channels;

	for (size_t r = 0; r < rows; r++) {
		for (size_t c = 0; c < channels; c++) {
			size_t place = r * channels + c;
			float g = with_relu && normalized(bn, x[place], c) <= 0 ? 0 : dy[place];

			dx[place] = bn->scale[c] * g - bn->mean_term[c] - bn->x_term[c] * (x[place] - bn->mean[c]);
		}
	}
}

static void ref_pool_backward(struct image_engine *engine, const void *dy_at, const uint8_t *index, int n, int height,
			      int width, int channels, void *dx_at)
{
	const float *dy = dy_at;
	float *dx = dx_at;
	int out_height = conv_out_size(height, 3, 2, 1), out_width = conv_out_size(width, 3, 2, 1);

	(void)engine;
	memset(dx, 0, (size_t)n * (size_t)height * (size_t)width * (size_t)channels * sizeof(*dx));
	for (int p = 0; p < n; p++) {
		for (int oy = 0; oy < out_height; oy++) {
			for (int ox = 0; ox < out_width; ox++) {
				for (int c = 0; c < channels; c++) {
					size_t place = at(p, oy, ox, c, out_height, out_width, channels);
					int iy = 2 * oy - 1 + index[place] / 3, ix = 2 * ox - 1 + index[place] % 3;

					dx[at(p, iy, ix, c, height, width, channels)] += dy[place];
				}
			}
		}
	}
}

static void ref_average_pool(const struct image_engine *engine, const void *x_at, int n, int pixels, int channels, float *y)
{
	const float *x = x_at;

	(void)engine;
	for (int p = 0; p < n; p++) {
		for (int c = 0; c < channels; c++) {
			double sum = 0;

			for (int i = 0; i < pixels; i++)
				sum += x[at(p, 0, i, c, 1, pixels, channels)];
			y[(size_t)p * (size_t)channels + (size_t)c] = (float)(sum / pixels);
		}
	}
}

static void ref_average_pool_backward(const struct image_engine *engine, const float *dy, int n, int pixels, int channels, void *dx_at)
{
	float *dx = dx_at;

	(void)engine;
	for (int p = 0; p < n; p++)
		for (int i = 0; i < pixels; i++)
			for (int c = 0; c < channels; c++)
				dx[at(p, 0, i, c, 1, pixels, channels)] =
					dy[(size_t)p * (size_t)channels + (size_t)c] / (float)pixels;
}

static void ref_to_nhwc(const struct image_engine *engine, const float *nchw, int n, int channels, int pixels, void *nhwc_at)
{
	float *nhwc = nhwc_at;

	(void)engine;
	for (int p = 0; p < n; p++)
		for (int i = 0; i < pixels; i++)
			for (int c = 0; c < channels; c++)
				nhwc[at(p, 0, i, c, 1, pixels, channels)] = nchw[at(p, 0, c, i, 1, channels, pixels)];
}

static void ref_to_nchw(const struct image_engine *engine, const void *nhwc_at, int n, int channels, int pixels, float *nchw)
{
	const float *nhwc = nhwc_at;

	(void)engine;
	for (int p = 0; p < n; p++)
		for (int i = 0; i < pixels; i++)
			for (int c = 0; c < channels; c++)
				nchw[at(p, 0, c, i, 1, channels, pixels)] = nhwc[at(p, 0, i, c, 1, pixels, channels)];
}

static void ref_from_floats(const struct image_engine *engine, const float *floats, size_t elements, void *x)
{
	(void)engine;
	memcpy(x, floats, elements * sizeof(*floats));
}

static void ref_to_floats(const struct image_engine *engine, const void *x, size_t elements, float *floats)
{
	(void)engine;
	memcpy(floats, x, elements * sizeof(*floats));
}

const struct image_ops *image_ops_reference(void)
{
	static const struct image_ops table = {
		.name = "reference",
		.element_bytes = sizeof(float),
		.engine_open = image_engine_open,
		.engine_close = image_engine_close,
		.engine_bytes = image_engine_bytes,
		.engine_threads = image_engine_threads,
		.conv_open = ref_conv_open,
		.conv_close = ref_conv_close,
		.conv_begin = conv_begin,
		.conv_forward = ref_conv_forward,
		.conv_backward_data = ref_conv_backward_data,
		.conv_backward_weights = ref_conv_backward_weights,
		.bn_open = bn_open,
		.bn_close = bn_close,
		.bn_stats_begin = bn_stats_begin,
		.bn_stats = ref_bn_stats,
		.bn_stats_end = bn_stats_end,
		.bn_use_running = bn_use_running,
		.bn_branch = bn_branch,
		.bn_relu = ref_bn_relu,
		.bn_add_relu = ref_bn_add_relu,
		.bn_relu_pool = ref_bn_relu_pool,
		.bn_sums_begin = bn_sums_begin,
		.bn_relu_sums = ref_bn_relu_sums,
		.bn_add_relu_sums = ref_bn_add_relu_sums,
		.bn_sums_end = bn_sums_end,
		.bn_backward = ref_bn_backward,
		.pool_backward = ref_pool_backward,
		.average_pool = ref_average_pool,
		.average_pool_backward = ref_average_pool_backward,
		.to_nhwc = ref_to_nhwc,
		.to_nchw = ref_to_nchw,
		.from_floats = ref_from_floats,
		.to_floats = ref_to_floats,
	};

	return &table;
}
