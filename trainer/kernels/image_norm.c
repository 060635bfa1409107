/*
 * image_norm.c - batch norm, ReLU, pooling and additions of the fast tables:
 * rows are shared out among the threads, the loops are those of image_rows.h.
 *
 * Every thread sums into doubles of its own, which are then added in the order
 * of threads: the same number of threads gives the same bits.
 */
#include <omp.h>
#include <string.h>

#include "trainer/kernels/image_engine.h"
#include "trainer/kernels/image_rows.h"

enum {
	SUMS = 3,
	PARALLEL_MIN = 16384, /* elements; fewer are done before another thread has woken up */
};

/* Rows of one thread: a contiguous share. */
struct share {
	size_t first, count;
};

static struct share share_of(size_t rows, int thread, int threads)
{
	size_t first = rows * (size_t)thread / (size_t)threads;

	return (struct share){ first, rows * (size_t)(thread + 1) / (size_t)threads - first };
}

static struct bn_terms terms_of(const struct bn *bn)
{
	return (struct bn_terms){ bn->mean, bn->scale, bn->bias, bn->mean_term, bn->x_term };
}

static double *thread_sums(const struct image_engine *engine, int thread, int channels)
{
	return (double *)engine->sums.data + (size_t)thread * SUMS * (size_t)channels;
}

static float *thread_work(const struct image_engine *engine, int thread, int channels)
{
	double *end = thread_sums(engine, engine->threads, engine->channels_max);

	return (float *)end + (size_t)thread * SUMS * (size_t)channels;
}

static void add_partials(const struct image_engine *engine, int which, int channels, double *total)
{
	for (int thread = 0; thread < engine->threads; thread++) {
		const double *part = thread_sums(engine, thread, channels) + (size_t)which * (size_t)channels;

		for (int c = 0; c < channels; c++)
			total[c] += part[c];
	}
}

void fast_bn_stats(struct bn *bn, const float *x, size_t rows)
{
	const struct image_engine *engine = bn->engine;
	const struct image_rows *kernels = image_rows();
	size_t channels = (size_t)bn->channels;

	if (bn->rows == 0)
		memcpy(bn->pivot, x, channels * sizeof(*x));
	bn->rows += rows;
#pragma omp parallel for schedule(static) num_threads(engine->threads) if (rows * channels >= PARALLEL_MIN)
	for (int thread = 0; thread < engine->threads; thread++) {
		struct share share = share_of(rows, thread, engine->threads);
		double *sums = thread_sums(engine, thread, bn->channels);

		memset(sums, 0, 2 * channels * sizeof(*sums));
		kernels->moments(x + share.first * channels, share.count, channels, bn->pivot,
				 thread_work(engine, thread, bn->channels), sums, sums + channels);
	}
	add_partials(engine, 0, bn->channels, bn->sum);
	add_partials(engine, 1, bn->channels, bn->square);
}

void fast_bn_relu(const struct bn *bn, const float *x, size_t rows, float *y)
{
	int threads = bn->engine->threads;
	const struct image_rows *kernels = image_rows();
	struct bn_terms terms = terms_of(bn);
	size_t channels = (size_t)bn->channels;

#pragma omp parallel for schedule(static) num_threads(threads) if (rows * channels >= PARALLEL_MIN)
	for (int thread = 0; thread < threads; thread++) {
		struct share share = share_of(rows, thread, threads);
		size_t start = share.first * channels;

		kernels->relu(&terms, x + start, share.count, channels, y + start);
	}
}

void fast_bn_add_relu(const struct bn *bn, const float *x, const struct bn *shortcut_bn, const float *shortcut, size_t rows,
		      float *y)
{
	int threads = bn->engine->threads;
	const struct image_rows *kernels = image_rows();
	struct bn_terms terms = terms_of(bn), other = shortcut_bn != NULL ? terms_of(shortcut_bn) : terms;
	size_t channels = (size_t)bn->channels;

#pragma omp parallel for schedule(static) num_threads(threads) if (rows * channels >= PARALLEL_MIN)
	for (int thread = 0; thread < threads; thread++) {
		struct share share = share_of(rows, thread, threads);
		size_t start = share.first * channels;

		kernels->add_relu(&terms, x + start, shortcut_bn != NULL ? &other : NULL, shortcut + start, share.count,
				  channels, y + start);
	}
}

void fast_bn_relu_pool(const struct bn *bn, const float *x, int n, int height, int width, float *y, uint8_t *index)
{
	int threads = bn->engine->threads;
	const struct image_rows *kernels = image_rows();
	struct bn_terms terms = terms_of(bn);
	size_t channels = (size_t)bn->channels;
	int out_height = conv_out_size(height, 3, 2, 1), out_width = conv_out_size(width, 3, 2, 1);
	size_t in_picture = (size_t)height * (size_t)width * channels, out_row = (size_t)out_width * channels;

#pragma omp parallel for schedule(static) num_threads(threads)
	for (int row = 0; row < n * out_height; row++)
		kernels->pool(&terms, x + (size_t)(row / out_height) * in_picture, height, width, channels, row % out_height,
			      out_width, y + (size_t)row * out_row, index + (size_t)row * out_row);
}

void fast_bn_relu_sums(struct bn *bn, const float *dy, const float *x, size_t rows)
{
	const struct image_engine *engine = bn->engine;
	const struct image_rows *kernels = image_rows();
	struct bn_terms terms = terms_of(bn);
	size_t channels = (size_t)bn->channels;

	bn->rows += rows;
#pragma omp parallel for schedule(static) num_threads(engine->threads) if (rows * channels >= PARALLEL_MIN)
	for (int thread = 0; thread < engine->threads; thread++) {
		struct share share = share_of(rows, thread, engine->threads);
		double *sums = thread_sums(engine, thread, bn->channels);
		size_t start = share.first * channels;

		memset(sums, 0, 2 * channels * sizeof(*sums));
		kernels->relu_sums(&terms, dy + start, x + start, share.count, channels,
				   thread_work(engine, thread, bn->channels), sums, sums + channels);
	}
	add_partials(engine, 0, bn->channels, bn->sum);
	add_partials(engine, 1, bn->channels, bn->square);
}

void fast_bn_add_relu_sums(struct bn *bn, const float *x, struct bn *shortcut_bn, const float *shortcut, const float *out,
			   float *g, size_t rows)
{
	const struct image_engine *engine = bn->engine;
	const struct image_rows *kernels = image_rows();
	struct bn_terms terms = terms_of(bn), other = shortcut_bn != NULL ? terms_of(shortcut_bn) : terms;
	size_t channels = (size_t)bn->channels;

	bn->rows += rows;
#pragma omp parallel for schedule(static) num_threads(engine->threads) if (rows * channels >= PARALLEL_MIN)
	for (int thread = 0; thread < engine->threads; thread++) {
		struct share share = share_of(rows, thread, engine->threads);
		double *sums = thread_sums(engine, thread, bn->channels);
		size_t start = share.first * channels;

		memset(sums, 0, SUMS * channels * sizeof(*sums));
		kernels->add_relu_sums(&terms, x + start, shortcut_bn != NULL ? &other : NULL,
				       shortcut_bn != NULL ? shortcut + start : NULL, out + start, g + start, share.count,
				       channels, thread_work(engine, thread, bn->channels), sums, sums + channels,
				       sums + 2 * channels);
	}
	add_partials(engine, 0, bn->channels, bn->sum);
	add_partials(engine, 1, bn->channels, bn->square);
	if (shortcut_bn != NULL) {
		shortcut_bn->rows += rows;
		add_partials(engine, 0, bn->channels, shortcut_bn->sum);
		add_partials(engine, 2, bn->channels, shortcut_bn->square);
	}
}

void fast_bn_backward(const struct bn *bn, bool relu, const float *dy, const float *x, size_t rows, float *dx)
{
	int threads = bn->engine->threads;
	const struct image_rows *kernels = image_rows();
	struct bn_terms terms = terms_of(bn);
	size_t channels = (size_t)bn->channels;

#pragma omp parallel for schedule(static) num_threads(threads) if (rows * channels >= PARALLEL_MIN)
	for (int thread = 0; thread < threads; thread++) {
		struct share share = share_of(rows, thread, threads);
		size_t start = share.first * channels;

		kernels->backward(&terms, relu, dy + start, x + start, share.count, channels, dx + start);
	}
}

void fast_pool_backward(struct image_engine *engine, const float *dy, const uint8_t *index, int n, int height, int width,
			int channels, float *dx)
{
	const struct image_rows *kernels = image_rows();
	int out_height = conv_out_size(height, 3, 2, 1), out_width = conv_out_size(width, 3, 2, 1);
	size_t in_row = (size_t)width * (size_t)channels;
	size_t out_picture = (size_t)out_height * (size_t)out_width * (size_t)channels;

#pragma omp parallel for schedule(static) num_threads(engine->threads)
	for (int row = 0; row < n * height; row++) {
		size_t picture = (size_t)(row / height) * out_picture;

		kernels->pool_backward(dy + picture, index + picture, out_height, out_width, (size_t)channels, row % height,
				       width, dx + (size_t)row * in_row);
	}
}

void fast_average_pool(const float *x, int n, int pixels, int channels, float *y)
{
	const struct image_rows *kernels = image_rows();

#pragma omp parallel for schedule(static)
	for (int p = 0; p < n; p++) {
		const float *picture = x + (size_t)p * (size_t)pixels * (size_t)channels;
		float *mean = y + (size_t)p * (size_t)channels;

		memcpy(mean, picture, (size_t)channels * sizeof(*mean));
		for (int i = 1; i < pixels; i++)
			kernels->add(mean, picture + (size_t)i * (size_t)channels, (size_t)channels);
		for (int c = 0; c < channels; c++)
			mean[c] /= (float)pixels;
	}
}

void fast_average_pool_backward(const float *dy, int n, int pixels, int channels, float *dx)
{
#pragma omp parallel for schedule(static)
	for (int p = 0; p < n; p++) {
		const float *g = dy + (size_t)p * (size_t)channels;
		float *first = dx + (size_t)p * (size_t)pixels * (size_t)channels;

		for (int c = 0; c < channels; c++)
			first[c] = g[c] / (float)pixels;
		for (int i = 1; i < pixels; i++)
			memcpy(first + (size_t)i * (size_t)channels, first, (size_t)channels * sizeof(*first));
	}
}

void fast_to_nhwc(const float *nchw, int n, int channels, int pixels, float *nhwc)
{
	size_t plane = (size_t)pixels, width = (size_t)channels;

#pragma omp parallel for schedule(static)
	for (int p = 0; p < n; p++) {
		const float *in = nchw + (size_t)p * plane * width;
		float *out = nhwc + (size_t)p * plane * width;

		for (size_t i = 0; i < plane; i++)
			for (size_t c = 0; c < width; c++)
				out[i * width + c] = in[c * plane + i];
	}
}

void fast_to_nchw(const float *nhwc, int n, int channels, int pixels, float *nchw)
{
	size_t plane = (size_t)pixels, width = (size_t)channels;

#pragma omp parallel for schedule(static)
	for (int p = 0; p < n; p++) {
		const float *in = nhwc + (size_t)p * plane * width;
		float *out = nchw + (size_t)p * plane * width;

		for (size_t i = 0; i < plane; i++)
			for (size_t c = 0; c < width; c++)
				out[c * plane + i] = in[i * width + c];
	}
}

void fast_add(float *dx, const float *x, size_t elements)
{
	const struct image_rows *kernels = image_rows();
	enum { BLOCK = 4096 };
	long blocks = (long)((elements + BLOCK - 1) / BLOCK);

#pragma omp parallel for schedule(static)
	for (long b = 0; b < blocks; b++) {
		size_t start = (size_t)b * BLOCK, n = elements - start < BLOCK ? elements - start : BLOCK;

		kernels->add(dx + start, x + start, n);
	}
}

void fast_add_strided(float *dx, const float *x, int n, const struct conv_shape *shape, int out_height, int out_width)
{
	const struct image_rows *kernels = image_rows();
	size_t channels = (size_t)shape->in_channels;
	size_t step = (size_t)shape->stride * channels, in_row = (size_t)shape->in_width * channels;

#pragma omp parallel for schedule(static)
	for (int row = 0; row < n * out_height; row++) {
		int p = row / out_height, oy = row % out_height;
		float *to = dx + ((size_t)p * (size_t)shape->in_height + (size_t)(oy * shape->stride)) * in_row;
		const float *from = x + (size_t)row * (size_t)out_width * channels;

		for (int ox = 0; ox < out_width; ox++)
			kernels->add(to + (size_t)ox * step, from + (size_t)ox * channels, channels);
	}
}
