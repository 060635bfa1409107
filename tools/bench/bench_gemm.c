/*
 * bench_gemm.c - our own matrix products beside OpenBLAS's and the multiply-add peak, at this model's shapes.
 *
 *     bench_gemm [THREADS]      prints a table, GFLOP/s and shares of the peak measured in between
 *
 * Both take turns, the median of ROUNDS counts. The encoder's weights and their gradients come from and go to memory, as in training: there are
 * too many layers of them for the cache. Products by packed panels are those of convolutions;
 * OpenBLAS has no such form and gets the matrix as it is, and for windows (3x3 convolutions) one that
 * somebody else has unfolded, for nothing.
 */
#include <cblas.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/clock.h"
#include "shared/base/mem.h"
#include "tools/bench/bench.h"
#include "trainer/kernels/gemm.h"
#include "trainer/kernels/kernels.h"
#include "trainer/kernels/peak.h"

enum { ROUNDS = 9, LAYERS = 24 };

static const double ROUND_SECONDS = 0.02, PEAK_SECONDS = 0.05;

struct shape {
	const char *what;
	size_t m, n, k;
	enum gemm_form a, b;
	int pixels; /* windows 3x3 on so many pixels a side; channels are k / 9 */
	int layers; /* matrices of weights that take turns, as in an encoder: they come from memory; 0: one, in cache */
};

static const struct shape SHAPES[] = {
	{ "encoder, forward", 221, 768, 768, GEMM_ROWS, GEMM_COLUMNS, 0, LAYERS },
	{ "encoder, inner forward", 221, 3072, 768, GEMM_ROWS, GEMM_COLUMNS, 0, LAYERS },
	{ "encoder, inner back", 221, 768, 3072, GEMM_ROWS, GEMM_COLUMNS, 0, LAYERS },
	{ "encoder, input gradient", 221, 768, 3072, GEMM_ROWS, GEMM_ROWS, 0, LAYERS },
	{ "encoder, weight gradient", 768, 768, 221, GEMM_COLUMNS, GEMM_ROWS, 0, LAYERS },
	{ "encoder, inner weight gradient", 3072, 768, 221, GEMM_COLUMNS, GEMM_ROWS, 0, LAYERS },
	{ "1x1, 56 px, 64 to 256", 12544, 256, 64, GEMM_ROWS, GEMM_PANELS, 0, 0 },
	{ "1x1, 56 px, 256 to 64", 12544, 64, 256, GEMM_ROWS, GEMM_PANELS, 0, 0 },
	{ "1x1, 28 px, 512 to 128", 6272, 128, 512, GEMM_ROWS, GEMM_PANELS, 0, 0 },
	{ "1x1, 14 px, 256 to 1024", 3136, 1024, 256, GEMM_ROWS, GEMM_PANELS, 0, 0 },
	{ "1x1, 7 px, 512 to 2048", 784, 2048, 512, GEMM_ROWS, GEMM_PANELS, 0, 0 },
	{ "3x3, 56 px, 64 to 64", 12544, 64, 576, GEMM_WINDOWS, GEMM_PANELS, 56, 0 },
	{ "3x3, 14 px, 256 to 256", 3136, 256, 2304, GEMM_WINDOWS, GEMM_PANELS, 14, 0 },
	{ "3x3, 7 px, 512 to 512", 784, 512, 4608, GEMM_WINDOWS, GEMM_PANELS, 7, 0 },
	{ "1x1, 56 px, weight gradient", 64, 256, 12544, GEMM_COLUMNS, GEMM_ROWS, 0, 0 },
	{ "1x1, 14 px, weight gradient", 1024, 256, 3136, GEMM_COLUMNS, GEMM_ROWS, 0, 0 },
	{ "3x3, 56 px, weight gradient", 64, 576, 12544, GEMM_COLUMNS, GEMM_WINDOWS, 56, 0 },
	{ "3x3, 14 px, weight gradient", 256, 2304, 3136, GEMM_COLUMNS, GEMM_WINDOWS, 14, 0 },
	{ "3x3, 7 px, weight gradient", 512, 4608, 784, GEMM_COLUMNS, GEMM_WINDOWS, 7, 0 },
};

struct run {
	struct gemm gemm;
	const float *a, *b; /* as OpenBLAS gets them */
	float *c, *parts;
	size_t b_next, c_next; /* floats from one layer's matrix to the next one's */
	int layers, count, threads;
};

static void own(const struct run *r, size_t layer)
{
	int parts = r->gemm.a_form == GEMM_COLUMNS ? gemm_parts(r->gemm.m, r->gemm.n, r->gemm.k) : 1;
	struct gemm g = r->gemm;

	g.b = (const float *)g.b + layer * r->b_next;
	g.c += layer * r->c_next;
	if (parts > 1)
		gemm_run_parts(&g, parts, r->parts, r->threads);
	else
		gemm_run(&g, r->threads);
}

static void theirs(const struct run *r, size_t layer)
{
	bool turned_a = r->gemm.a_form == GEMM_COLUMNS, turned_b = r->gemm.b_form == GEMM_COLUMNS;
	int m = (int)r->gemm.m, n = (int)r->gemm.n, k = (int)r->gemm.k;

	cblas_sgemm(CblasRowMajor, turned_a ? CblasTrans : CblasNoTrans, turned_b ? CblasTrans : CblasNoTrans, m, n, k, 1.0f, r->a,
		    turned_a ? m : k, r->b + layer * r->b_next, turned_b ? k : n, 0.0f, r->c + layer * r->c_next, n);
}

static double seconds(const struct run *r, void (*one)(const struct run *, size_t))
{
	double began = clock_seconds();

	for (int i = 0; i < r->count; i++)
		one(r, (size_t)(i % r->layers));
	return (clock_seconds() - began) / r->count;
}

static void measure(const struct shape *s, int threads)
{
	double flops = 2.0 * (double)s->m * (double)s->n * (double)s->k, ours[ROUNDS], peer[ROUNDS], peak[ROUNDS];
	bool windows_a = s->a == GEMM_WINDOWS, windows_b = s->b == GEMM_WINDOWS;
	size_t channels = (windows_b ? s->n : s->k) / 9;
	bool gradient = s->a == GEMM_COLUMNS; /* c is a layer's own, and b is not */
	int layers = s->layers > 0 ? s->layers : 1, bs = gradient ? 1 : layers, cs = gradient ? layers : 1;
	float *a = bench_numbers(s->m * s->k), *b = bench_numbers(s->k * s->n * (size_t)bs), *c = bench_numbers(s->m * s->n * (size_t)cs);
	float *panels = bench_numbers(gemm_panels_floats(s->k, s->n));
	float *parts = bench_numbers(GEMM_PARTS_MAX * s->m * s->n);
	struct run r = { .a = a, .b = b, .c = c, .parts = parts, .threads = threads, .count = 1, .layers = layers,
			 .b_next = bs > 1 ? s->k * s->n : 0, .c_next = cs > 1 ? s->m * s->n : 0 };

	gemm_pack_panels(GEMM_ROWS, b, s->n, s->k, s->n, panels, threads);
	r.gemm = (struct gemm){ .m = s->m, .n = s->n, .k = s->k, .a_form = s->a, .a = a, .lda = s->a == GEMM_COLUMNS ? s->m : s->k,
				.b_form = s->b, .b = s->b == GEMM_PANELS ? panels : b, .ldb = s->b == GEMM_COLUMNS ? s->k : s->n,
				.c = c, .ldc = s->n };
	if (windows_a || windows_b)
		r.gemm.windows = (struct gemm_windows){ (int)channels, s->pixels, s->pixels, 3, 3, 1, -1, -1, s->pixels, s->pixels };
	own(&r, 0);
	r.count = 1 + (int)(ROUND_SECONDS / seconds(&r, own));
	r.count = (r.count + layers - 1) / layers * layers;
	for (int i = 0; i < ROUNDS; i++) {
		ours[i] = flops / seconds(&r, own) / 1e9;
		peer[i] = flops / seconds(&r, theirs) / 1e9;
		peak[i] = peak_fma_flops(PEAK_SECONDS / 10) / 1e9;
	}
	double g = bench_median(ours, ROUNDS), h = bench_median(peer, ROUNDS), p = bench_median(peak, ROUNDS);

	printf("| %-30s | %5zu x %4zu x %5zu | %6.1f | %4.2f | %6.1f | %4.2f |\n", s->what, s->m, s->n, s->k, g, g / p, h, h / p);
	fflush(stdout);
	mem_free(a);
	mem_free(b);
	mem_free(c);
	mem_free(panels);
	mem_free(parts);
}

int main(int argc, char *argv[])
{
	int threads = kernels_set_threads(argc > 1 ? (int)strtol(argv[1], NULL, 10) : 0);

	if (!gemm_is_chosen()) {
		printf("This processor has OpenBLAS and oneDNN at full speed; our own products are not for it.\n");
		return 0;
	}
	printf("%d threads, OpenBLAS %s\n\n| product | m x n x k | own, GFLOP/s | of peak | OpenBLAS | of peak |\n|---|---|---:|---:|---:|---:|\n", threads,
	       openblas_get_corename());
	for (size_t i = 0; i < sizeof(SHAPES) / sizeof(SHAPES[0]); i++)
		measure(&SHAPES[i], threads);
	return 0;
}
