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
	BLOCK = 4096,         /* elements of what is worked on flat */
	STRIP = 512,          /* floats on the stack on their way to or from another type */
	PARALLEL_MIN = 16384, /* elements; fewer are done before another thread has woken up */
};

/* Rows of one thread: a contiguous share. */
struct share {
	size_t first, count;
};

static void *at(const struct image_engine *engine, const void *activations, size_t element)
{
	return (char *)(uintptr_t)activations + element * engine->rows->element_bytes;
}

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

static void add_partials(const struct image_engine *engine, int which, int channels, double factor, double *total)
{
	for (int thread = 0; thread < engine->threads; thread++) {
		const double *part = thread_sums(engine, thread, channels) + (size_t)which * (size_t)channels;

		for (int c = 0; c < channels; c++)
			total[c] += factor * part[c];
	}
}

void fast_bn_stats(struct bn *bn, const void *x, size_t rows)
{
	const struct image_engine *engine = bn->engine;
	const struct image_rows *kernels = engine->rows;
	size_t channels = (size_t)bn->channels;

	if (bn->rows == 0)
		kernels->load(x, channels, bn->pivot);
	bn->rows += rows;
#pragma omp parallel for schedule(static) num_threads(engine->threads) if (rows * channels >= PARALLEL_MIN)
	for (int thread = 0; thread < engine->threads; thread++) {
		struct share share = share_of(rows, thread, engine->threads);
		double *sums = thread_sums(engine, thread, bn->channels);

		memset(sums, 0, 2 * channels * sizeof(*sums));
		kernels->moments(at(engine, x, share.first * channels), share.count, channels, bn->pivot,
				 thread_work(engine, thread, bn->channels), sums, sums + channels);
	}
	add_partials(engine, 0, bn->channels, 1.0, bn->sum);
	add_partials(engine, 1, bn->channels, 1.0, bn->square);
}

void fast_bn_relu(const struct bn *bn, const void *x, size_t rows, void *y)
{
	const struct image_engine *engine = bn->engine;
	const struct image_rows *kernels = engine->rows;
	int threads = engine->threads;
	struct bn_terms terms = terms_of(bn);
	size_t channels = (size_t)bn->channels;

#pragma omp parallel for schedule(static) num_threads(threads) if (rows * channels >= PARALLEL_MIN)
	for (int thread = 0; thread < threads; thread++) {
		struct share share = share_of(rows, thread, threads);
		size_t start = share.first * channels;

		kernels->relu(&terms, at(engine, x, start), share.count, channels, at(engine, y, start));
	}
}

void fast_bn_add_relu(const struct bn *bn, const void *x, const struct bn *shortcut_bn, const void *shortcut, size_t rows,
		      void *y)
{
	const struct image_engine *engine = bn->engine;
	const struct image_rows *kernels = engine->rows;
	int threads = engine->threads;
	struct bn_terms terms = terms_of(bn), other = shortcut_bn != NULL ? terms_of(shortcut_bn) : terms;
	size_t channels = (size_t)bn->channels;

#pragma omp parallel for schedule(static) num_threads(threads) if (rows * channels >= PARALLEL_MIN)
	for (int thread = 0; thread < threads; thread++) {
		struct share share = share_of(rows, thread, threads);
		size_t start = share.first * channels;

		kernels->add_relu(&terms, at(engine, x, start), shortcut_bn != NULL ? &other : NULL,
				  at(engine, shortcut, start), share.count, channels, at(engine, y, start));
	}
}

void fast_bn_relu_pool(const struct bn *bn, const void *x, int n, int height, int width, void *y, uint8_t *index)
{
	const struct image_engine *engine = bn->engine;
	const struct image_rows *kernels = engine->rows;
	int threads = engine->threads;
	struct bn_terms terms = terms_of(bn);
	size_t channels = (size_t)bn->channels;
	int out_height = conv_out_size(height, 3, 2, 1), out_width = conv_out_size(width, 3, 2, 1);
	size_t in_picture = (size_t)height * (size_t)width * channels, out_row = (size_t)out_width * channels;

#pragma omp parallel for schedule(static) num_threads(threads)
	for (int row = 0; row < n * out_height; row++)
		kernels->pool(&terms, at(engine, x, (size_t)(row / out_height) * in_picture), height, width, channels,
			      row % out_height, out_width, at(engine, y, (size_t)row * out_row), index + (size_t)row * out_row);
}

void fast_bn_relu_sums(struct bn *bn, const void *dy, const void *x, size_t rows)
{
	const struct image_engine *engine = bn->engine;
	const struct image_rows *kernels = engine->rows;
	struct bn_terms terms = terms_of(bn);
	size_t channels = (size_t)bn->channels;

	bn->rows += rows;
#pragma omp parallel for schedule(static) num_threads(engine->threads) if (rows * channels >= PARALLEL_MIN)
	for (int thread = 0; thread < engine->threads; thread++) {
		struct share share = share_of(rows, thread, engine->threads);
		double *sums = thread_sums(engine, thread, bn->channels);
		size_t start = share.first * channels;

		memset(sums, 0, 2 * channels * sizeof(*sums));
		kernels->relu_sums(&terms, at(engine, dy, start), at(engine, x, start), share.count, channels,
				   thread_work(engine, thread, bn->channels), sums, sums + channels);
	}
	add_partials(engine, 0, bn->channels, 1.0, bn->sum);
	add_partials(engine, 1, bn->channels, 1.0, bn->square);
}

void fast_bn_add_relu_sums(struct bn *bn, const void *x, struct bn *shortcut_bn, const void *shortcut, const void *out,
			   void *g, size_t rows)
{
	const struct image_engine *engine = bn->engine;
	const struct image_rows *kernels = engine->rows;
	struct bn_terms terms = terms_of(bn), other = shortcut_bn != NULL ? terms_of(shortcut_bn) : terms;
	size_t channels = (size_t)bn->channels;

	bn->rows += rows;
#pragma omp parallel for schedule(static) num_threads(engine->threads) if (rows * channels >= PARALLEL_MIN)
	for (int thread = 0; thread < engine->threads; thread++) {
		struct share share = share_of(rows, thread, engine->threads);
		double *sums = thread_sums(engine, thread, bn->channels);
		size_t start = share.first * channels;

		memset(sums, 0, SUMS * channels * sizeof(*sums));
		kernels->add_relu_sums(&terms, at(engine, x, start), shortcut_bn != NULL ? &other : NULL,
				       shortcut_bn != NULL ? at(engine, shortcut, start) : NULL, at(engine, out, start),
				       at(engine, g, start), share.count, channels, thread_work(engine, thread, bn->channels), sums, sums + channels,
				       sums + 2 * channels);
	}
	add_partials(engine, 0, bn->channels, bn->factor, bn->sum);
	add_partials(engine, 1, bn->channels, bn->factor, bn->square);
	if (shortcut_bn != NULL) {
		shortcut_bn->rows += rows;
		add_partials(engine, 0, bn->channels, 1.0, shortcut_bn->sum);
		add_partials(engine, 2, bn->channels, 1.0, shortcut_bn->square);
	}
}

void fast_bn_backward(const struct bn *bn, bool relu, const void *dy, const void *x, size_t rows, void *dx)
{
	const struct image_engine *engine = bn->engine;
	const struct image_rows *kernels = engine->rows;
	int threads = engine->threads;
	struct bn_terms terms = terms_of(bn);
	size_t channels = (size_t)bn->channels;

#pragma omp parallel for schedule(static) num_threads(threads) if (rows * channels >= PARALLEL_MIN)
	for (int thread = 0; thread < threads; thread++) {
		struct share share = share_of(rows, thread, threads);
		size_t start = share.first * channels;

		kernels->backward(&terms, relu, at(engine, dy, start), at(engine, x, start), share.count, channels,
				  at(engine, dx, start));
	}
}

void fast_pool_backward(struct image_engine *engine, const void *dy, const uint8_t *index, int n, int height, int width,
			int channels, void *dx)
{
	const struct image_rows *kernels = engine->rows;
	int out_height = conv_out_size(height, 3, 2, 1), out_width = conv_out_size(width, 3, 2, 1);
	size_t in_row = (size_t)width * (size_t)channels;
	size_t out_picture = (size_t)out_height * (size_t)out_width * (size_t)channels;

#pragma omp parallel for schedule(static) num_threads(engine->threads)
	for (int row = 0; row < n * height; row++) {
		size_t picture = (size_t)(row / height) * out_picture;

		kernels->pool_backward(at(engine, dy, picture), index + picture, out_height, out_width, (size_t)channels,
				       row % height, width, at(engine, dx, (size_t)row * in_row));
	}
}

void fast_average_pool(const struct image_engine *engine, const void *x, int n, int pixels, int channels, float *y)
{
	const struct image_rows *kernels = engine->rows;
	size_t width = (size_t)channels, plane = (size_t)pixels;

#pragma omp parallel for schedule(static)
	for (int p = 0; p < n; p++) {
		size_t start = (size_t)p * plane * width;
		float *mean = y + (size_t)p * width;

		kernels->load(at(engine, x, start), width, mean);
		for (size_t i = 1; i < plane; i++)
			kernels->accumulate(mean, at(engine, x, start + i * width), width);
		for (size_t c = 0; c < width; c++)
			mean[c] /= (float)pixels;
	}
}

void fast_average_pool_backward(const struct image_engine *engine, const float *dy, int n, int pixels, int channels, void *dx)
{
	const struct image_rows *kernels = engine->rows;
	size_t width = (size_t)channels, plane = (size_t)pixels;

#pragma omp parallel for schedule(static)
	for (int p = 0; p < n; p++) {
		const float *g = dy + (size_t)p * width;
		size_t start = (size_t)p * plane * width;

		for (size_t first = 0; first < width; first += STRIP) {
			size_t count = width - first < STRIP ? width - first : STRIP;
			float share[STRIP];

			for (size_t c = 0; c < count; c++)
				share[c] = g[first + c] / (float)pixels;
			kernels->store(share, count, at(engine, dx, start + first));
		}
		for (size_t i = 1; i < plane; i++)
			memcpy(at(engine, dx, start + i * width), at(engine, dx, start), width * kernels->element_bytes);
	}
}

void fast_to_nhwc(const struct image_engine *engine, const float *nchw, int n, int channels, int pixels, void *nhwc)
{
	size_t plane = (size_t)pixels, width = (size_t)channels, picture = plane * width;

#pragma omp parallel for schedule(static)
	for (int p = 0; p < n; p++) {
		const float *in = nchw + (size_t)p * picture;
		size_t pixel = 0, c = 0;

		for (size_t first = 0; first < picture; first += STRIP) {
			size_t count = picture - first < STRIP ? picture - first : STRIP;
			float strip[STRIP];

			for (size_t k = 0; k < count; k++) {
				strip[k] = in[c * plane + pixel];
				pixel += ++c == width;
				c = c == width ? 0 : c;
			}
			engine->rows->store(strip, count, at(engine, nhwc, (size_t)p * picture + first));
		}
	}
}

void fast_to_nchw(const struct image_engine *engine, const void *nhwc, int n, int channels, int pixels, float *nchw)
{
	size_t plane = (size_t)pixels, width = (size_t)channels, picture = plane * width;

#pragma omp parallel for schedule(static)
	for (int p = 0; p < n; p++) {
		float *out = nchw + (size_t)p * picture;
		size_t pixel = 0, c = 0;

		for (size_t first = 0; first < picture; first += STRIP) {
			size_t count = picture - first < STRIP ? picture - first : STRIP;
			float strip[STRIP];

			engine->rows->load(at(engine, nhwc, (size_t)p * picture + first), count, strip);
			for (size_t k = 0; k < count; k++) {
				out[c * plane + pixel] = strip[k];
				pixel += ++c == width;
				c = c == width ? 0 : c;
			}
		}
	}
}

/* Blocks of elements, shared out among the threads. */
static long blocks_of(size_t elements)
{
	return (long)((elements + BLOCK - 1) / BLOCK);
}

static size_t block_size(size_t elements, size_t start)
{
	return elements - start < BLOCK ? elements - start : BLOCK;
}

void fast_from_floats(const struct image_engine *engine, const float *floats, size_t elements, void *x)
{
#pragma omp parallel for schedule(static)
	for (long b = 0; b < blocks_of(elements); b++) {
		size_t start = (size_t)b * BLOCK;

		engine->rows->store(floats + start, block_size(elements, start), at(engine, x, start));
	}
}

void fast_to_floats(const struct image_engine *engine, const void *x, size_t elements, float *floats)
{
#pragma omp parallel for schedule(static)
	for (long b = 0; b < blocks_of(elements); b++) {
		size_t start = (size_t)b * BLOCK;

		engine->rows->load(at(engine, x, start), block_size(elements, start), floats + start);
	}
}

void fast_add(const struct image_engine *engine, void *dx, const void *x, size_t elements)
{
#pragma omp parallel for schedule(static)
	for (long b = 0; b < blocks_of(elements); b++) {
		size_t start = (size_t)b * BLOCK;

		engine->rows->add(at(engine, dx, start), at(engine, x, start), block_size(elements, start));
	}
}

void fast_add_strided(const struct image_engine *engine, void *dx, const void *x, int n, const struct conv_shape *shape,
		      int out_height, int out_width)
{
	size_t channels = (size_t)shape->in_channels;
	size_t step = (size_t)shape->stride * channels, in_row = (size_t)shape->in_width * channels;

#pragma omp parallel for schedule(static)
	for (int row = 0; row < n * out_height; row++) {
		int p = row / out_height, oy = row % out_height;
		size_t to = ((size_t)p * (size_t)shape->in_height + (size_t)(oy * shape->stride)) * in_row;
		size_t from = (size_t)row * (size_t)out_width * channels;

		for (int ox = 0; ox < out_width; ox++)
			engine->rows->add(at(engine, dx, to + (size_t)ox * step), at(engine, x, from + (size_t)ox * channels),
					  channels);
	}
}
