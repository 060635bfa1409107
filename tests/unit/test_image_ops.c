/*
 * test_image_ops.c - the image kernels: the plain version against finite
 * differences, the fast ones (oneDNN, OpenBLAS; AVX-512, AVX2, plain loops) against the plain version.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shared/base/mem.h"
#include "tests/support/floats.h"
#include "trainer/kernels/image_ops.h"
#include "trainer/kernels/image_rows.h"
#include "trainer/kernels/process.h"

static float *floats(size_t n)
{
	float *p = mem_aligned(n * sizeof(float));

	assert_non_null(p);
	memset(p, 0, n * sizeof(float));
	return p;
}

static float *copy_of(const float *from, size_t n)
{
	float *p = floats(n);

	memcpy(p, from, n * sizeof(*p));
	return p;
}

/* |a - b| <= limit * (1 + |b|) everywhere, finite; prints the worst element otherwise. */
static void assert_close(const char *what, const float *a, const float *b, size_t n, double limit)
{
	double worst = -1;
	size_t place = 0;

	for (size_t i = 0; i < n; i++) {
		double off = fabs((double)a[i] - b[i]) / (1 + fabs((double)b[i]));

		if (!(off <= worst)) {
			worst = off;
			place = i;
		}
		if (!isfinite(off))
			break;
	}
	if (!(worst <= limit))
		fail_msg("%s: element %zu of %zu is %.9g, expected %.9g (off by %.3g, allowed %.3g)", what, place, n,
			 (double)a[place], (double)b[place], worst, limit);
}

static const struct image_ops *const *fast_tables(int *count)
{
	static const struct image_ops *tables[3];

	*count = 0;
	tables[(*count)++] = image_ops_blas();
	if (image_ops_onednn() != NULL)
		tables[(*count)++] = image_ops_onednn();
	if (image_ops_gemm() != NULL)
		tables[(*count)++] = image_ops_gemm();
	return tables;
}

/* Channels in, out; kernel, stride, pad; height, width. */
static const struct conv_shape SHAPES[] = {
	{ 1, 1, 1, 1, 0, 1, 1 },    { 3, 64, 7, 2, 3, 33, 31 },  { 3, 16, 7, 2, 3, 64, 64 },   { 64, 64, 1, 1, 0, 9, 7 },
	{ 64, 64, 3, 1, 1, 14, 14 }, { 16, 32, 3, 2, 1, 15, 16 }, { 32, 16, 1, 2, 0, 13, 14 },  { 5, 7, 3, 1, 1, 6, 5 },
	{ 17, 33, 3, 2, 1, 8, 9 },  { 48, 80, 1, 1, 0, 5, 5 },   { 128, 256, 1, 2, 0, 7, 7 },  { 96, 32, 3, 1, 1, 4, 4 },
	{ 16, 16, 3, 2, 1, 2, 2 },  { 16, 16, 5, 1, 2, 9, 9 },   { 8, 24, 3, 1, 0, 7, 7 },     { 16, 16, 3, 1, 1, 1, 1 },
	{ 256, 64, 1, 1, 0, 28, 28 }, { 20, 40, 2, 2, 0, 6, 6 },  { 512, 16, 3, 1, 1, 3, 3 },   { 16, 16, 3, 3, 1, 10, 11 },
};
enum { PICTURES = 3 };

struct conv_data {
	struct conv_shape shape;
	size_t in, out, weights; /* elements: of one picture twice, of all weights */
	float *x, *w, *dy;
};

static struct conv_data conv_data(const struct conv_shape *s)
{
	int oh = conv_out_size(s->in_height, s->kernel, s->stride, s->pad);
	int ow = conv_out_size(s->in_width, s->kernel, s->stride, s->pad);
	struct conv_data d = { .shape = *s };

	d.in = (size_t)s->in_height * (size_t)s->in_width * (size_t)s->in_channels;
	d.out = (size_t)oh * (size_t)ow * (size_t)s->out_channels;
	d.weights = (size_t)s->in_channels * (size_t)s->out_channels * (size_t)s->kernel * (size_t)s->kernel;
	d.x = noise(PICTURES * d.in, 1);
	d.w = noise(d.weights, 2);
	d.dy = noise(PICTURES * d.out, 3);
	return d;
}

static void conv_data_free(struct conv_data *d)
{
	mem_free(d->x);
	mem_free(d->w);
	mem_free(d->dy);
}

struct conv_results {
	float *y, *dx, *dx_added, *dw;
};

static struct conv_results conv_results(const struct image_ops *ops, const struct conv_data *d, int n, unsigned passes)
{
	struct image_engine *engine;
	struct conv *conv, *other;
	struct err err;
	struct conv_results r = { floats(PICTURES * d->out), noise(PICTURES * d->in, 4), noise(PICTURES * d->in, 5),
				  noise(d->weights, 6) };

	assert_int_equal(ops->engine_open(&engine, &err), 0);
	assert_int_equal(ops->conv_open(&conv, engine, &d->shape, 0, PICTURES, passes, &err), 0);
	/* One of the other slot must not disturb it. */
	assert_int_equal(ops->conv_open(&other, engine, &d->shape, 1, PICTURES, 0, &err), 0);
	ops->conv_begin(conv, d->w);
	ops->conv_begin(other, d->dy);
	ops->conv_forward(conv, d->x, n, r.y);
	ops->conv_begin(conv, d->w);
	ops->conv_backward_data(conv, d->dy, n, r.dx, false);
	ops->conv_backward_weights(conv, d->x, d->dy, n, r.dw);
	ops->conv_backward_data(conv, d->dy, n, r.dx_added, true);
	ops->conv_close(other);
	ops->conv_close(conv);
	ops->engine_close(engine);
	return r;
}

static void conv_results_free(struct conv_results *r)
{
	mem_free(r->y);
	mem_free(r->dx);
	mem_free(r->dx_added);
	mem_free(r->dw);
}

static void test_conv_against_reference(void **state)
{
	int tables;
	const struct image_ops *const *fast = fast_tables(&tables);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(SHAPES); i++) {
		struct conv_data d = conv_data(&SHAPES[i]);
		double depth = sqrt((double)d.weights / d.shape.out_channels), pixels = sqrt((double)d.out);

		for (int n = 1; n <= PICTURES; n++) {
			struct conv_results expected = conv_results(image_ops_reference(), &d, n, 0);

			for (int t = 0; t < tables; t++) {
				struct conv_results got = conv_results(fast[t], &d, n, n == 2 ? 15 : 0);
				char what[96];

				snprintf(what, sizeof(what), "%s, shape %zu, %d pictures", fast[t]->name, i, n);
				assert_close("y", got.y, expected.y, (size_t)n * d.out, 1e-6 * depth);
				assert_close("dx", got.dx, expected.dx, PICTURES * d.in, 1e-5 * depth);
				assert_close("dx added", got.dx_added, expected.dx_added, PICTURES * d.in, 1e-5 * depth);
				assert_close("dw", got.dw, expected.dw, d.weights, 2e-6 * pixels);
				conv_results_free(&got);
			}
			conv_results_free(&expected);
		}
		conv_data_free(&d);
	}
}

/* The reference is bilinear, so a difference quotient of any width is exact but for rounding. */
static double conv_loss(struct conv *conv, const struct conv_data *d, const float *x, const float *w, float *y)
{
	const struct image_ops *ops = image_ops_reference();
	double loss = 0;

	ops->conv_begin(conv, w);
	ops->conv_forward(conv, x, PICTURES, y);
	for (size_t i = 0; i < PICTURES * d->out; i++)
		loss += (double)y[i] * d->dy[i];
	return loss;
}

static void test_reference_conv_gradients(void **state)
{
	static const int chosen[] = { 1, 5, 7, 12, 14, 19 };
	const struct image_ops *ops = image_ops_reference();

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(chosen); i++) {
		struct conv_data d = conv_data(&SHAPES[chosen[i]]);
		float *dx = floats(PICTURES * d.in), *dw = floats(d.weights), *y = floats(PICTURES * d.out);
		struct image_engine *engine;
		struct conv *conv;
		struct err err;

		assert_int_equal(ops->engine_open(&engine, &err), 0);
		assert_int_equal(ops->conv_open(&conv, engine, &d.shape, 0, PICTURES, 0, &err), 0);
		ops->conv_begin(conv, d.w);
		ops->conv_backward_data(conv, d.dy, PICTURES, dx, false);
		ops->conv_backward_weights(conv, d.x, d.dy, PICTURES, dw);
		for (size_t k = 0; k < 40; k++) {
			size_t at_x = k * 7919 % (PICTURES * d.in), at_w = k * 104729 % d.weights;
			float *x = copy_of(d.x, PICTURES * d.in), *w = copy_of(d.w, d.weights);
			double low, high;

			x[at_x] = d.x[at_x] - 1;
			low = conv_loss(conv, &d, x, d.w, y);
			x[at_x] = d.x[at_x] + 1;
			high = conv_loss(conv, &d, x, d.w, y);
			assert_true(fabs((high - low) / 2 - dx[at_x]) < 1e-4);
			w[at_w] = d.w[at_w] - 1;
			low = conv_loss(conv, &d, d.x, w, y);
			w[at_w] = d.w[at_w] + 1;
			high = conv_loss(conv, &d, d.x, w, y);
			assert_true(fabs((high - low) / 2 - dw[at_w]) < 1e-3);
			mem_free(x);
			mem_free(w);
		}
		ops->conv_close(conv);
		ops->engine_close(engine);
		mem_free(dx);
		mem_free(dw);
		mem_free(y);
		conv_data_free(&d);
	}
}

static void test_conv_repeats_its_bits(void **state)
{
	static const struct conv_shape shape = { 64, 96, 3, 1, 1, 28, 28 };
	struct conv_data d = conv_data(&shape);
	struct conv_results first = conv_results(image_ops_fast(), &d, PICTURES, 15);

	(void)state;
	for (int run = 0; run < 5; run++) {
		struct conv_results again = conv_results(image_ops_fast(), &d, PICTURES, 15);

		assert_memory_equal(first.y, again.y, PICTURES * d.out * sizeof(float));
		assert_memory_equal(first.dx, again.dx, PICTURES * d.in * sizeof(float));
		assert_memory_equal(first.dw, again.dw, d.weights * sizeof(float));
		conv_results_free(&again);
	}
	conv_results_free(&first);
	conv_data_free(&d);
}

static void test_conv_limits(void **state)
{
	static const struct conv_shape wrong[] = { { 0, 1, 1, 1, 0, 4, 4 },     { 1, 1 << 20, 1, 1, 0, 4, 4 },
						   { 1, 1, 12, 1, 0, 40, 40 },  { 1, 1, 5, 1, 0, 4, 4 },
						   { 1, 1, 3, 0, 1, 4, 4 },     { 1, 1, 3, 1, 3, 4, 4 },
						   { 1, 1, 3, 1, 1, 5000, 4 } };
	const struct image_ops *tables[] = { image_ops_reference(), image_ops_fast(), image_ops_blas() };

	(void)state;
	for (size_t t = 0; t < ARRAY_LEN(tables); t++) {
		struct image_engine *engine;
		struct conv *conv;
		struct bn *bn;
		struct err err;

		assert_int_equal(tables[t]->engine_open(&engine, &err), 0);
		for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
			assert_int_equal(tables[t]->conv_open(&conv, engine, &wrong[i], 0, 1, 0, &err), ERR_LIMIT);
			assert_null(conv);
		}
		assert_int_equal(tables[t]->conv_open(&conv, engine, &SHAPES[0], 0, CONV_PICTURES_MAX + 1, 0, &err), ERR_LIMIT);
		assert_int_equal(tables[t]->bn_open(&bn, engine, IMAGE_CHANNELS_MAX + 1, &err), ERR_LIMIT);
		tables[t]->engine_close(engine);
	}
}

/* Everything a batch norm with its ReLU does, in two chunks. */
struct bn_results {
	float *y, *sum_y, *pool_y, *dx, *dw, *db, *g, *dsum, *ddown, *mean, *var, *dw2, *db2;
	uint8_t *index;
};
enum { SIDE_H = 9, SIDE_W = 8, BN_PICTURES = 3, POOLED = 5 * 4 };

static void bn_fill(const struct image_ops *ops, struct bn *bn, bool batch, const float *x, size_t rows, size_t split,
		    const float *w, const float *b, float *mean, float *var, int channels)
{
	if (!batch) {
		ops->bn_use_running(bn, w, b, mean, var);
		return;
	}
	ops->bn_stats_begin(bn);
	ops->bn_stats(bn, x, split);
	if (rows > split)
		ops->bn_stats(bn, x + split * (size_t)channels, rows - split);
	ops->bn_stats_end(bn, w, b, mean, var);
}

static struct bn_results bn_results(const struct image_ops *ops, int channels, size_t rows, bool batch)
{
	size_t n = rows * (size_t)channels, split = rows / 3 + 1, at = split * (size_t)channels, c = (size_t)channels;
	float *x = noise(n, 11), *down = noise(n, 12), *dy = noise(n, 13), *w = noise(c, 14), *b = noise(c, 15);
	struct bn_results r = { floats(n), floats(n), NULL, floats(n), noise(c, 16), noise(c, 17), copy_of(dy, n), floats(n),
				floats(n), noise(c, 18), noise(c, 19), floats(c), floats(c), NULL };
	struct image_engine *engine;
	struct bn *bn, *bn2;
	struct err err;

	for (size_t i = 0; i < n; i++)
		x[i] = 3 * x[i] + 40 * w[i % c]; /* means far from zero, as sums of squares must bear */
	for (size_t i = 0; i < c; i++)
		r.var[i] += 2;
	assert_int_equal(ops->engine_open(&engine, &err), 0);
	assert_int_equal(ops->bn_open(&bn, engine, channels, &err), 0);
	assert_int_equal(ops->bn_open(&bn2, engine, channels, &err), 0);
	bn_fill(ops, bn, batch, x, rows, split, w, b, r.mean, r.var, channels);
	bn_fill(ops, bn2, batch, down, rows, split, b, w, r.mean, r.var, channels);
	ops->bn_relu(bn, x, rows, r.y);
	ops->bn_sums_begin(bn);
	ops->bn_relu_sums(bn, dy, x, split);
	if (rows > split)
		ops->bn_relu_sums(bn, dy + at, x + at, rows - split);
	ops->bn_sums_end(bn, r.dw, r.db);
	memcpy(r.dx, dy, n * sizeof(*dy));
	ops->bn_backward(bn, true, r.dx, x, rows, r.dx);
	ops->bn_add_relu(bn, x, bn2, down, rows, r.sum_y);
	ops->bn_sums_begin(bn);
	ops->bn_sums_begin(bn2);
	ops->bn_add_relu_sums(bn, x, bn2, down, r.sum_y, r.g, split);
	if (rows > split)
		ops->bn_add_relu_sums(bn, x + at, bn2, down + at, r.sum_y + at, r.g + at, rows - split);
	ops->bn_sums_end(bn, r.dw, r.db);
	ops->bn_sums_end(bn2, r.dw2, r.db2);
	ops->bn_backward(bn, false, r.g, x, rows, r.dsum);
	ops->bn_backward(bn2, false, r.g, down, rows, r.ddown);
	ops->bn_add_relu(bn, x, NULL, down, rows, r.sum_y);
	ops->bn_sums_begin(bn);
	ops->bn_add_relu_sums(bn, x, NULL, NULL, r.sum_y, r.g, rows);
	ops->bn_sums_end(bn, r.dw2, r.db2);
	if (rows == BN_PICTURES * SIDE_H * SIDE_W) {
		size_t pooled = (size_t)BN_PICTURES * POOLED * c;

		r.pool_y = floats(pooled);
		r.index = mem_zalloc(pooled);
		ops->bn_relu_pool(bn, x, BN_PICTURES, SIDE_H, SIDE_W, r.pool_y, r.index);
	}
	ops->bn_close(bn);
	ops->bn_close(bn2);
	ops->engine_close(engine);
	mem_free(x);
	mem_free(down);
	mem_free(dy);
	mem_free(w);
	mem_free(b);
	return r;
}

static void bn_results_free(struct bn_results *r)
{
	float *all[] = { r->y, r->sum_y, r->pool_y, r->dx, r->dw, r->db, r->g, r->dsum, r->ddown, r->mean, r->var, r->dw2, r->db2 };

	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		mem_free(all[i]);
	mem_free(r->index);
}

static void test_bn_against_reference(void **state)
{
	static const int channels[] = { 1, 3, 16, 17, 64, 130, 512 };
	static const size_t rows[] = { 1, 2, 7, 64, 131, BN_PICTURES * SIDE_H * SIDE_W };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(channels); i++) {
		for (size_t k = 0; k < ARRAY_LEN(rows) * 2; k++) {
			size_t r = rows[k / 2], c = (size_t)channels[i], n = r * c;
			bool batch = k % 2 == 0;
			struct bn_results a = bn_results(image_ops_fast(), channels[i], r, batch);
			struct bn_results e = bn_results(image_ops_reference(), channels[i], r, batch);
			/* A single row has variance 0: everything is then multiplied by 1 / sqrt(eps). */
			double limit = r < 3 ? 1e-2 : 2e-4;

			assert_close("relu", a.y, e.y, n, limit);
			assert_close("add relu", a.sum_y, e.sum_y, n, limit);
			assert_close("dx", a.dx, e.dx, n, limit);
			assert_close("dweight", a.dw, e.dw, c, limit);
			assert_close("dbias", a.db, e.db, c, limit);
			assert_close("masked", a.g, e.g, n, 0);
			assert_close("d of the sum", a.dsum, e.dsum, n, limit);
			assert_close("d of the shortcut", a.ddown, e.ddown, n, limit);
			assert_close("second dweight", a.dw2, e.dw2, c, limit);
			assert_close("second dbias", a.db2, e.db2, c, limit);
			assert_close("running mean", a.mean, e.mean, c, 1e-6);
			assert_close("running variance", a.var, e.var, c, 1e-5);
			if (a.pool_y != NULL) {
				assert_close("pool", a.pool_y, e.pool_y, (size_t)BN_PICTURES * POOLED * c, limit);
				assert_memory_equal(a.index, e.index, (size_t)BN_PICTURES * POOLED * c);
			}
			bn_results_free(&a);
			bn_results_free(&e);
		}
	}
}

enum { FD_ROWS = 11, FD_CHANNELS = 3 };

/* Sum of dy * relu(bn(x) + shortcut) in double, everything by the definition. */
static double bn_loss(const double *x, const double *w, const double *b, const double *shortcut, const double *dy)
{
	double loss = 0;

	for (int c = 0; c < FD_CHANNELS; c++) {
		double mean = 0, var = 0;

		for (int r = 0; r < FD_ROWS; r++)
			mean += x[r * FD_CHANNELS + c] / FD_ROWS;
		for (int r = 0; r < FD_ROWS; r++)
			var += (x[r * FD_CHANNELS + c] - mean) * (x[r * FD_CHANNELS + c] - mean) / FD_ROWS;
		for (int r = 0; r < FD_ROWS; r++) {
			int i = r * FD_CHANNELS + c;
			double y = (x[i] - mean) / sqrt(var + BN_EPSILON) * w[c] + b[c] + shortcut[i];

			loss += y > 0 ? dy[i] * y : 0;
		}
	}
	return loss;
}

/* Central difference with respect to *v. */
static double slope(double *v, const double *x, const double *w, const double *b, const double *shortcut, const double *dy)
{
	const double h = 1e-6, at = *v;
	double low, high;

	*v = at - h;
	low = bn_loss(x, w, b, shortcut, dy);
	*v = at + h;
	high = bn_loss(x, w, b, shortcut, dy);
	*v = at;
	return (high - low) / (2 * h);
}

static void to_double(double *out, const float *in, size_t n)
{
	for (size_t i = 0; i < n; i++)
		out[i] = in[i];
}

static void test_reference_bn_gradients(void **state)
{
	enum { N = FD_ROWS * FD_CHANNELS };
	const struct image_ops *ops = image_ops_reference();
	float *x = noise(N, 21), *w = noise(FD_CHANNELS, 22), *b = noise(FD_CHANNELS, 23), *s = noise(N, 24), *dy = noise(N, 25);
	float *y = floats(N), *g = copy_of(dy, N), *dx = floats(N), *dw = floats(FD_CHANNELS), *db = floats(FD_CHANNELS);
	double xd[N], wd[FD_CHANNELS], bd[FD_CHANNELS], sd[N], dyd[N];
	struct image_engine *engine;
	struct bn *bn;
	struct err err;

	(void)state;
	assert_int_equal(ops->engine_open(&engine, &err), 0);
	assert_int_equal(ops->bn_open(&bn, engine, FD_CHANNELS, &err), 0);
	for (int with_shortcut = 0; with_shortcut < 2; with_shortcut++) {
		memset(dw, 0, FD_CHANNELS * sizeof(*dw));
		memset(db, 0, FD_CHANNELS * sizeof(*db));
		if (!with_shortcut)
			memset(s, 0, N * sizeof(*s));
		else
			memcpy(s, dy, N * sizeof(*s));
		to_double(xd, x, N);
		to_double(wd, w, FD_CHANNELS);
		to_double(bd, b, FD_CHANNELS);
		to_double(sd, s, N);
		to_double(dyd, dy, N);
		ops->bn_stats_begin(bn);
		ops->bn_stats(bn, x, FD_ROWS);
		ops->bn_stats_end(bn, w, b, NULL, NULL);
		ops->bn_sums_begin(bn);
		if (with_shortcut) {
			memcpy(g, dy, N * sizeof(*g));
			ops->bn_add_relu(bn, x, NULL, s, FD_ROWS, y);
			ops->bn_add_relu_sums(bn, x, NULL, NULL, y, g, FD_ROWS);
		} else {
			ops->bn_relu_sums(bn, dy, x, FD_ROWS);
		}
		ops->bn_sums_end(bn, dw, db);
		ops->bn_backward(bn, !with_shortcut, with_shortcut ? g : dy, x, FD_ROWS, dx);
		for (int i = 0; i < N; i++)
			assert_true(fabs(slope(&xd[i], xd, wd, bd, sd, dyd) - dx[i]) < 1e-4);
		for (int c = 0; c < FD_CHANNELS; c++) {
			assert_true(fabs(slope(&wd[c], xd, wd, bd, sd, dyd) - dw[c]) < 1e-4);
			assert_true(fabs(slope(&bd[c], xd, wd, bd, sd, dyd) - db[c]) < 1e-4);
		}
	}
	float mean[FD_CHANNELS] = { 1, 1, 1 }, var[FD_CHANNELS] = { 2, 2, 2 };
	ops->bn_stats_begin(bn);
	ops->bn_stats(bn, x, FD_ROWS);
	ops->bn_stats_end(bn, w, b, mean, var);
	for (int c = 0; c < FD_CHANNELS; c++) {
		double m = 0, v = 0;

		for (int r = 0; r < FD_ROWS; r++)
			m += xd[r * FD_CHANNELS + c] / FD_ROWS;
		for (int r = 0; r < FD_ROWS; r++) /* the unbiased variance, as PyTorch keeps it */
			v += (xd[r * FD_CHANNELS + c] - m) * (xd[r * FD_CHANNELS + c] - m) / (FD_ROWS - 1);
		assert_true(fabs(mean[c] - (0.9 + 0.1 * m)) < 1e-6);
		assert_true(fabs(var[c] - (1.8 + 0.1 * v)) < 1e-6);
	}
	ops->bn_close(bn);
	ops->engine_close(engine);
	float *all[] = { x, w, b, s, dy, y, g, dx, dw, db };
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		mem_free(all[i]);
}

static void test_pooling(void **state)
{
	enum { C = 37, N = 2, H = 7, W = 10, OUT = 4 * 5 };
	const struct image_ops *tables[] = { image_ops_fast(), image_ops_reference() };
	float *g = noise(N * OUT * C, 31), *x = noise(N * H * W * C, 32), *dx[2], *y[2], *back[2], *nchw[2], *nhwc[2];
	uint8_t *index = mem_zalloc(N * OUT * C);

	(void)state;
	for (int i = 0; i < N * OUT * C; i++) { /* a tap inside the picture */
		int oy = i / C / 5 % 4, ox = i / C % 5, r = oy == 0 ? 1 : 1 - i % 2, q = ox == 0 ? 1 + i % 2 : i % 3;

		index[i] = (uint8_t)(3 * (2 * oy - 1 + r >= H ? 0 : r) + (2 * ox - 1 + q >= W ? 0 : q));
	}
	for (int t = 0; t < 2; t++) {
		struct image_engine *engine;
		struct err err;

		dx[t] = noise(N * H * W * C, 33);
		y[t] = floats(N * C);
		back[t] = floats(N * H * W * C);
		nchw[t] = floats(N * H * W * C);
		nhwc[t] = floats(N * H * W * C);
		assert_int_equal(tables[t]->engine_open(&engine, &err), 0);
		tables[t]->pool_backward(engine, g, index, N, H, W, C, dx[t]);
		tables[t]->average_pool(engine, x, N, H * W, C, y[t]);
		tables[t]->average_pool_backward(engine, y[t], N, H * W, C, back[t]);
		tables[t]->to_nchw(engine, x, N, C, H * W, nchw[t]);
		tables[t]->to_nhwc(engine, nchw[t], N, C, H * W, nhwc[t]);
		assert_memory_equal(nhwc[t], x, N * H * W * C * sizeof(float));
		assert_true(nchw[t][H * W] == x[1]);
		tables[t]->engine_close(engine);
	}
	assert_close("pool backward", dx[0], dx[1], N * H * W * C, 1e-6);
	assert_close("average", y[0], y[1], N * C, 1e-6);
	assert_close("average backward", back[0], back[1], N * H * W * C, 1e-7);
	for (int t = 0; t < 2; t++) {
		float *all[] = { dx[t], y[t], back[t], nchw[t], nhwc[t] };

		for (size_t i = 0; i < ARRAY_LEN(all); i++)
			mem_free(all[i]);
	}
	mem_free(g);
	mem_free(x);
	mem_free(index);
}

/* Equal maxima: the first wins. A NaN is passed on by ReLU and wins a window. */
static void test_ties_and_nan(void **state)
{
	const struct image_ops *tables[] = { image_ops_fast(), image_ops_reference() };
	float one[16], zero[16], x[3 * 3 * 16], y[4 * 16];
	uint8_t index[4 * 16];

	(void)state;
	for (int c = 0; c < 16; c++) {
		one[c] = 1;
		zero[c] = 0;
	}
	for (int t = 0; t < 2; t++) {
		struct image_engine *engine;
		struct bn *bn;
		struct err err;

		for (int i = 0; i < 3 * 3 * 16; i++)
			x[i] = 2;
		x[4 * 16 + 5] = NAN; /* the middle pixel, seen by all four windows */
		x[4 * 16 + 6] = 3;
		assert_int_equal(tables[t]->engine_open(&engine, &err), 0);
		assert_int_equal(tables[t]->bn_open(&bn, engine, 16, &err), 0);
		tables[t]->bn_use_running(bn, one, zero, zero, one);
		tables[t]->bn_relu_pool(bn, x, 1, 3, 3, y, index);
		assert_int_equal(index[0], 4); /* tap 0 to 3 lie outside the picture */
		assert_int_equal(index[3 * 16], 0);
		for (int w = 0; w < 4; w++) {
			static const uint8_t middle[] = { 8, 6, 2, 0 };

			assert_true(isnan(y[w * 16 + 5]));
			assert_int_equal(index[w * 16 + 5], middle[w]);
			assert_int_equal(index[w * 16 + 6], middle[w]);
		}
		tables[t]->bn_relu(bn, x, 9, x);
		assert_true(isnan(x[4 * 16 + 5]));
		tables[t]->bn_close(bn);
		tables[t]->engine_close(engine);
	}
}

/* The loops for other processors than this one's best. */
static void test_instruction_sets(void **state)
{
	enum { C = 53, ROWS = 70, N = C * ROWS };
	const struct image_rows *sets[] = { image_rows_plain(), image_rows_avx2(), image_rows_avx512() };
	float *x = noise(N, 41), *dy = noise(N, 42), *out = noise(N, 43), *terms = noise(5 * C, 44);
	struct bn_terms bn = { terms, terms + C, terms + 2 * C, terms + 3 * C, terms + 4 * C };

	(void)state;
	float *result[3];
	for (int s = 0; s < 3; s++) {
		float work[3 * C], *r = floats(3 * N);
		double sums[8][C];

		result[s] = r;
		if (sets[s] == NULL)
			continue;
		print_message("%s\n", sets[s]->name);
		memset(sums, 0, sizeof(sums));
		sets[s]->moments(x, ROWS, C, terms, work, sums[0], sums[1]);
		sets[s]->relu(&bn, x, ROWS, C, r);
		sets[s]->add_relu(&bn, x, &bn, dy, ROWS, C, r + N);
		sets[s]->relu_sums(&bn, dy, x, ROWS, C, work, sums[2], sums[3]);
		memcpy(r + 2 * N, dy, N * sizeof(*r));
		sets[s]->add_relu_sums(&bn, x, &bn, out, r + N, r + 2 * N, ROWS, C, work, sums[4], sums[5], sums[6]);
		sets[s]->backward(&bn, true, r + 2 * N, x, ROWS, C, r + 2 * N);
		assert_close("relu", r, result[0], N, 1e-6);
		assert_close("add relu", r + N, result[0] + N, N, 1e-6);
		assert_close("backward", r + 2 * N, result[0] + 2 * N, N, 1e-5);
		for (int i = 0; i < 7; i++) {
			static double expected[8][C];

			for (int c = 0; c < C; c++) {
				if (s == 0)
					expected[i][c] = sums[i][c];
				assert_true(fabs(sums[i][c] - expected[i][c]) < 1e-4);
			}
		}
	}
	for (int s = 0; s < 3; s++)
		mem_free(result[s]);
	mem_free(x);
	mem_free(dy);
	mem_free(out);
	mem_free(terms);
}

int main(int argc, char **argv)
{
	(void)argc;
	kernels_settle_process(argv);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reference_conv_gradients), cmocka_unit_test(test_conv_against_reference),
		cmocka_unit_test(test_conv_repeats_its_bits),    cmocka_unit_test(test_conv_limits),
		cmocka_unit_test(test_reference_bn_gradients),   cmocka_unit_test(test_bn_against_reference),
		cmocka_unit_test(test_pooling),                  cmocka_unit_test(test_ties_and_nan),
		cmocka_unit_test(test_instruction_sets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
