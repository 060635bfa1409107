/*
 * bench_winograd.c - convolutions 3x3 by Winograd's filtering beside the direct product, at this model's shapes.
 *
 *     bench_winograd [THREADS [BATCH]]      prints a table, milliseconds of a layer and the ratio of both
 *
 * Both take turns, the median of ROUNDS counts, and so does that of the ratios of turns. A layer is what a step does of it: weights
 * are packed once, then pictures go through in chunks of the tower's size. BATCH instead of each shape's usual one shows how shapes behave
 * for few pictures.
 */
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/clock.h"
#include "shared/base/mem.h"
#include "tools/bench/bench.h"
#include "trainer/kernels/gemm.h"
#include "trainer/kernels/image_ops.h"
#include "trainer/kernels/kernels.h"
#include "trainer/kernels/winograd.h"

enum { ROUNDS = 7, CHUNK_BYTES = 8 << 20, WAYS = 2 };

static const double ROUND_SECONDS = 0.04;

static const struct shape {
	int channels, side, batch;
} SHAPES[] = {
	{ 64, 56, 16 }, { 128, 28, 16 }, { 256, 14, 16 }, { 512, 7, 16 }, /* ResNet-50 at 224 px */
	{ 64, 28, 32 }, { 128, 14, 32 }, { 256, 7, 32 },  { 512, 4, 32 }, /* ResNet-18 at 112 px */
	{ 64, 16, 32 }, { 128, 8, 32 },	 { 256, 4, 32 },  { 512, 2, 32 }, /* and at 64 px */
	{ 16, 8, 8 },   { 32, 4, 8 },                                     /* the preset `tiny` has such ones */
};

enum pass { FORWARD, DATA, WEIGHTS };

struct run {
	const struct image_ops *ops;
	struct image_engine *engine[WAYS];
	struct conv *conv[WAYS]; /* direct, Winograd */
	float *x, *y, *weights, *gradient;
	size_t picture;
	int batch, chunk, count;
};

static void layer(const struct run *r, int way, enum pass pass)
{
	r->ops->conv_begin(r->conv[way], r->weights);
	for (int first = 0, n; first < r->batch; first += n) {
		float *x = r->x + (size_t)first * r->picture, *y = r->y + (size_t)first * r->picture;

		n = r->batch - first < r->chunk ? r->batch - first : r->chunk;
		if (pass == FORWARD)
			r->ops->conv_forward(r->conv[way], x, n, y);
		else if (pass == DATA)
			r->ops->conv_backward_data(r->conv[way], y, n, x, false);
		else
			r->ops->conv_backward_weights(r->conv[way], x, y, n, r->gradient);
	}
}

static double seconds(const struct run *r, int way, enum pass pass)
{
	double began = clock_seconds();

	for (int i = 0; i < r->count; i++)
		layer(r, way, pass);
	return (clock_seconds() - began) / r->count;
}

static void compare(struct run *r, enum pass pass)
{
	double direct[ROUNDS], winograd[ROUNDS], ratio[ROUNDS];

	r->count = 1;
	layer(r, 1, pass);
	r->count = 1 + (int)(ROUND_SECONDS / seconds(r, 0, pass));
	for (int i = 0; i < ROUNDS; i++) {
		direct[i] = seconds(r, 0, pass);
		winograd[i] = seconds(r, 1, pass);
		ratio[i] = direct[i] / winograd[i];
	}
	printf(" %7.2f | %7.2f | %4.2f |", bench_median(direct, ROUNDS) * 1e3, bench_median(winograd, ROUNDS) * 1e3, bench_median(ratio, ROUNDS));
	fflush(stdout);
}

static void measure(const struct shape *s, int batch)
{
	struct conv_shape shape = { s->channels, s->channels, 3, 1, 1, s->side, s->side };
	struct run r = { .ops = image_ops_gemm(), .batch = batch, .chunk = 1 };
	size_t weights = (size_t)s->channels * (size_t)s->channels * 9;
	struct err err;

	r.picture = (size_t)s->side * (size_t)s->side * (size_t)s->channels;
	while (2 * r.chunk <= batch && 2 * r.chunk <= CONV_PICTURES_MAX && 2 * (size_t)r.chunk * 2 * r.picture * sizeof(float) <= CHUNK_BYTES)
		r.chunk *= 2;
	r.x = bench_numbers((size_t)batch * r.picture);
	r.y = bench_numbers((size_t)batch * r.picture);
	r.weights = bench_numbers(weights);
	r.gradient = bench_numbers(weights);
	for (size_t i = 0; i < weights; i++)
		r.weights[i] /= 3 * (float)s->channels;
	for (int way = 0; way < WAYS; way++) {
		setenv("TRAINER_KERNELS", way == 0 ? "direct" : "winograd", 1);
		if (r.ops->engine_open(&r.engine[way], &err) < 0 || r.ops->conv_open(&r.conv[way], r.engine[way], &shape, 0, r.chunk, 15, &err) < 0)
			exit(1);
	}
	printf("| %3d x %3d x %3d x %3d | %s |", batch, s->side, s->side, s->channels, winograd_is_chosen(&shape) ? "yes" : "no ");
	compare(&r, FORWARD);
	compare(&r, DATA);
	compare(&r, WEIGHTS);
	printf("\n");
	for (int way = 0; way < WAYS; way++) {
		r.ops->conv_close(r.conv[way]);
		r.ops->engine_close(r.engine[way]);
	}
	mem_free(r.x);
	mem_free(r.y);
	mem_free(r.weights);
	mem_free(r.gradient);
}

int main(int argc, char *argv[])
{
	int threads = kernels_set_threads(argc > 1 ? (int)strtol(argv[1], NULL, 10) : 0);

	if (!gemm_is_chosen()) {
		printf("This processor has OpenBLAS and oneDNN at full speed; our own convolutions are not for it.\n");
		return 0;
	}
	printf("%d threads\n\n| pictures, pixels, channels | chosen | forward direct, ms | Winograd | ratio | input gradient direct, ms | Winograd | ratio "
	       "| weight gradient direct, ms | Winograd | ratio |\n"
	       "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n", threads);
	for (size_t i = 0; i < sizeof(SHAPES) / sizeof(SHAPES[0]); i++)
		measure(&SHAPES[i], argc > 2 ? (int)strtol(argv[2], NULL, 10) : SHAPES[i].batch);
	return 0;
}
