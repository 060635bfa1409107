/*
 * image_bf16_ref.c - the plain version of the image operations on bf16: what is
 * read is widened to floats, the plain operation on floats does the work, and
 * what it wrote is rounded. Convolutions round their weights first. Slow, and
 * every call allocates: an oracle.
 */
#include <string.h>

#include "shared/base/mem.h"
#include "trainer/kernels/bf16.h"
#include "trainer/kernels/image_engine.h"

static float *widened(const void *x, size_t n)
{
	const uint16_t *halves = x;
	float *wide = mem_array(n + 1, sizeof(*wide));

	CHECK(wide != NULL);
	for (size_t i = 0; i < n && halves != NULL; i++)
		wide[i] = bf16_to_float(halves[i]);
	return wide;
}

/* Into `to`, and frees. */
static void narrow(float *wide, size_t n, void *to)
{
	uint16_t *halves = to;

	for (size_t i = 0; i < n; i++)
		halves[i] = bf16_from_float(wide[i]);
	mem_free(wide);
}

static const struct image_ops *plain(void)
{
	return image_ops_reference();
}

static size_t in_elements(const struct conv *conv, int n)
{
	return (size_t)n * conv_in_elements(conv);
}

static size_t out_elements(const struct conv *conv, int n)
{
	return (size_t)n * conv_out_elements(conv);
}

/* The weights as a pass in bf16 sees them; puts back what was there afterwards. */
static float *round_weights(struct conv *conv, const float **kept)
{
	size_t n = conv_weight_elements(&conv->shape);
	float *rounded = mem_array(n, sizeof(*rounded));

	CHECK(rounded != NULL);
	for (size_t i = 0; i < n; i++)
		rounded[i] = bf16_to_float(bf16_from_float(conv->weights[i]));
	*kept = conv->weights;
	conv->weights = rounded;
	return rounded;
}

static void conv_forward(struct conv *conv, const void *x, int n, void *y)
{
	float *from = widened(x, in_elements(conv, n)), *to = widened(NULL, out_elements(conv, n)), *weights;
	const float *kept;

	weights = round_weights(conv, &kept);
	plain()->conv_forward(conv, from, n, to);
	conv->weights = kept;
	narrow(to, out_elements(conv, n), y);
	mem_free(from);
	mem_free(weights);
}

static void conv_backward_data(struct conv *conv, const void *dy, int n, void *dx, bool add)
{
	float *from = widened(dy, out_elements(conv, n)), *to = widened(dx, in_elements(conv, n)), *weights;
	const float *kept;

	weights = round_weights(conv, &kept);
	plain()->conv_backward_data(conv, from, n, to, add);
	conv->weights = kept;
	narrow(to, in_elements(conv, n), dx);
	mem_free(from);
	mem_free(weights);
}

static void conv_backward_weights(struct conv *conv, const void *x, const void *dy, int n, float *grad)
{
	float *from = widened(x, in_elements(conv, n)), *to = widened(dy, out_elements(conv, n));

	plain()->conv_backward_weights(conv, from, to, n, grad);
	mem_free(from);
	mem_free(to);
}

static void stats(struct bn *bn, const void *x, size_t rows)
{
	float *from = widened(x, rows * (size_t)bn->channels);

	plain()->bn_stats(bn, from, rows);
	mem_free(from);
}

static void bn_relu(const struct bn *bn, const void *x, size_t rows, void *y)
{
	size_t n = rows * (size_t)bn->channels;
	float *from = widened(x, n), *to = widened(NULL, n);

	plain()->bn_relu(bn, from, rows, to);
	narrow(to, n, y);
	mem_free(from);
}

static void bn_add_relu(const struct bn *bn, const void *x, const struct bn *shortcut_bn, const void *shortcut, size_t rows,
			void *y)
{
	size_t n = rows * (size_t)bn->channels;
	float *from = widened(x, n), *other = widened(shortcut, n), *to = widened(NULL, n);

	plain()->bn_add_relu(bn, from, shortcut_bn, other, rows, to);
	narrow(to, n, y);
	mem_free(from);
	mem_free(other);
}

static void bn_relu_pool(const struct bn *bn, const void *x, int n, int height, int width, void *y, uint8_t *index)
{
	size_t pixels = (size_t)conv_out_size(height, 3, 2, 1) * (size_t)conv_out_size(width, 3, 2, 1);
	size_t in = (size_t)n * (size_t)height * (size_t)width * (size_t)bn->channels;
	size_t out = (size_t)n * pixels * (size_t)bn->channels;
	float *from = widened(x, in), *to = widened(NULL, out);

	plain()->bn_relu_pool(bn, from, n, height, width, to, index);
	narrow(to, out, y);
	mem_free(from);
}

static void bn_relu_sums(struct bn *bn, const void *dy, const void *x, size_t rows)
{
	float *g = widened(dy, rows * (size_t)bn->channels), *from = widened(x, rows * (size_t)bn->channels);

	plain()->bn_relu_sums(bn, g, from, rows);
	mem_free(g);
	mem_free(from);
}

static void bn_add_relu_sums(struct bn *bn, const void *x, struct bn *shortcut_bn, const void *shortcut, const void *out,
			     void *g, size_t rows)
{
	size_t n = rows * (size_t)bn->channels;
	float *from = widened(x, n), *other = widened(shortcut, n), *sum = widened(out, n), *gradient = widened(g, n);

	plain()->bn_add_relu_sums(bn, from, shortcut_bn, other, sum, gradient, rows);
	narrow(gradient, n, g);
	mem_free(from);
	mem_free(other);
	mem_free(sum);
}

static void bn_backward(const struct bn *bn, bool relu, const void *dy, const void *x, size_t rows, void *dx)
{
	size_t n = rows * (size_t)bn->channels;
	float *g = widened(dy, n), *from = widened(x, n), *to = widened(NULL, n);

	plain()->bn_backward(bn, relu, g, from, rows, to);
	narrow(to, n, dx);
	mem_free(g);
	mem_free(from);
}

static void pool_backward(struct image_engine *engine, const void *dy, const uint8_t *index, int n, int height, int width,
			  int channels, void *dx)
{
	size_t pixels = (size_t)conv_out_size(height, 3, 2, 1) * (size_t)conv_out_size(width, 3, 2, 1);
	size_t in = (size_t)n * (size_t)height * (size_t)width * (size_t)channels;
	float *g = widened(dy, (size_t)n * pixels * (size_t)channels), *to = widened(NULL, in);

	plain()->pool_backward(engine, g, index, n, height, width, channels, to);
	narrow(to, in, dx);
	mem_free(g);
}

static void average_pool(const struct image_engine *engine, const void *x, int n, int pixels, int channels, float *y)
{
	float *from = widened(x, (size_t)n * (size_t)pixels * (size_t)channels);

	plain()->average_pool(engine, from, n, pixels, channels, y);
	mem_free(from);
}

static void average_pool_backward(const struct image_engine *engine, const float *dy, int n, int pixels, int channels, void *dx)
{
	size_t elements = (size_t)n * (size_t)pixels * (size_t)channels;
	float *to = widened(NULL, elements);

	plain()->average_pool_backward(engine, dy, n, pixels, channels, to);
	narrow(to, elements, dx);
}

static void to_nhwc(const struct image_engine *engine, const float *nchw, int n, int channels, int pixels, void *nhwc)
{
	size_t elements = (size_t)n * (size_t)pixels * (size_t)channels;
	float *to = widened(NULL, elements);

	plain()->to_nhwc(engine, nchw, n, channels, pixels, to);
	narrow(to, elements, nhwc);
}

static void to_nchw(const struct image_engine *engine, const void *nhwc, int n, int channels, int pixels, float *nchw)
{
	float *from = widened(nhwc, (size_t)n * (size_t)pixels * (size_t)channels);

	plain()->to_nchw(engine, from, n, channels, pixels, nchw);
	mem_free(from);
}

static void from_floats(const struct image_engine *engine, const float *floats, size_t elements, void *x)
{
	uint16_t *halves = x;

	(void)engine;
	for (size_t i = 0; i < elements; i++)
		halves[i] = bf16_from_float(floats[i]);
}

static void to_floats(const struct image_engine *engine, const void *x, size_t elements, float *floats)
{
	const uint16_t *halves = x;

	(void)engine;
	for (size_t i = 0; i < elements; i++)
		floats[i] = bf16_to_float(halves[i]);
}

const struct image_ops *image_ops_bf16_reference(void)
{
	static struct image_ops table;

	table = *plain();
	table.name = "reference-bf16";
	table.element_bytes = sizeof(uint16_t);
	table.conv_forward = conv_forward;
	table.conv_backward_data = conv_backward_data;
	table.conv_backward_weights = conv_backward_weights;
	table.bn_stats = stats;
	table.bn_relu = bn_relu;
	table.bn_add_relu = bn_add_relu;
	table.bn_relu_pool = bn_relu_pool;
	table.bn_relu_sums = bn_relu_sums;
	table.bn_add_relu_sums = bn_add_relu_sums;
	table.bn_backward = bn_backward;
	table.pool_backward = pool_backward;
	table.average_pool = average_pool;
	table.average_pool_backward = average_pool_backward;
	table.to_nhwc = to_nhwc;
	table.to_nchw = to_nchw;
	table.from_floats = from_floats;
	table.to_floats = to_floats;
	return &table;
}
