/*
 * bench_text PRESET CAPTIONS [STEPS] [THREADS] - the text tower and the fusion stage alone.
 *
 * Captions are as long as COCO's: 13.8 tokens on average. Prints one line:
 * milliseconds forward and backward, and GFLOP/s over the multiplications
 * needed (the last layer for [CLS] alone, attention included).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "shared/base/clock.h"
#include "shared/base/mem.h"
#include "trainer/kernels/kernels.h"
#include "trainer/kernels/random_fill.h"
#include "trainer/model/bert.h"
#include "trainer/model/fusion.h"

enum { CAPTIONS_MAX = 4096, WORDS = 30522 };

/* Lengths 9 to 19 in turn around 13.8. */
static int fill_offsets(uint32_t *offsets, int C)
{
	static const int lengths[] = { 13, 12, 15, 11, 14, 19, 13, 12, 16, 13 };

	for (int c = 0; c < C; c++)
		offsets[c + 1] = offsets[c] + (uint32_t)lengths[c % 10];
	return (int)offsets[C];
}

static double flops_forward(const struct bert_config *config, int T, int C, const uint32_t *offsets, int F)
{
	double W = config->width, I = config->inner, scores = 0, full, last;

	for (int c = 0; c < C; c++)
		scores += (double)(offsets[c + 1] - offsets[c]) * (offsets[c + 1] - offsets[c]);
	full = T * (8 * W * W + 4 * W * I) + 4 * scores * W;
	last = T * 4 * W * W + C * (4 * W * W + 4 * W * I) + 4.0 * T * W;
	return full * (config->layers - 1) + last + 2.0 * C * W * F;
}

/* With one thread the processor's time, so that other load on the machine does not count. */
static double seconds(int threads)
{
	struct timespec now;

	if (threads > 1)
		return clock_seconds();
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void check(int code, const struct err *err)
{
	if (code == 0)
		return;
	fprintf(stderr, "bench_text: %s\n", err->message);
	exit(err_exit_code(code));
}

int main(int argc, char *argv[])
{
	struct err err = { 0 };
	struct model_config config;
	struct params *params;
	struct bert *bert;
	struct fusion *fusion;
	static uint32_t offsets[CAPTIONS_MAX + 1];
	int C = argc > 2 ? atoi(argv[2]) : 16, steps = argc > 3 ? atoi(argv[3]) : 10, threads;

	if (argc < 2 || C < 1 || C > CAPTIONS_MAX || steps < 1) {
		fprintf(stderr, "bench_text PRESET CAPTIONS [STEPS] [THREADS]\n");
		return 2;
	}
	threads = kernels_set_threads(argc > 4 ? atoi(argv[4]) : 0);
	check(model_preset(&config, argv[1], 0, &err), &err);
	int T = fill_offsets(offsets, C), W = config.text.width, F = config.features, N = C * C;
	struct model_limits limits = { C, C, T, 19, N, true, 0, false };
	struct model_call call = { .mode = MODEL_TRAIN, .dropout = true, .seed = 1 };

	check(params_open(&params, &err), &err);
	check(bert_open(&bert, &config.text, F, kernels_fast(), params, &err), &err);
	check(fusion_open(&fusion, F, 2, kernels_fast(), params, &err), &err);
	double begin = clock_seconds();
	check(params_allocate(params, &err), &err);
	double allocated = clock_seconds();
	params_init(params, 1);
	double ready = clock_seconds();
	check(bert_plan(bert, &limits, &err), &err);
	check(fusion_plan(fusion, &limits, true, &err), &err);
	fprintf(stderr, "allocate %.3f s, initial values %.3f s, activations %.1f + %.1f MB\n", allocated - begin, ready - allocated,
		(double)bert_activation_bytes(bert, &limits, false) * 1e-6, (double)fusion_activation_bytes(fusion, &limits) * 1e-6);

	int32_t *ids = mem_array((size_t)T, sizeof(*ids));
	uint32_t *picture = mem_array((size_t)N, sizeof(*picture)), *caption = mem_array((size_t)N, sizeof(*caption));
	int32_t *label = mem_array((size_t)N, sizeof(*label));
	float *word = model_alloc((size_t)T * (size_t)W), *dword = model_alloc((size_t)T * (size_t)W);
	float *t = model_alloc((size_t)C * (size_t)F), *dt = model_alloc((size_t)C * (size_t)F);
	float *v = model_alloc((size_t)C * (size_t)F), *dv = model_alloc((size_t)C * (size_t)F);
	if (ids == NULL || picture == NULL || caption == NULL || label == NULL || word == NULL || dword == NULL || t == NULL ||
	    dt == NULL || v == NULL || dv == NULL)
		check(err_nomem(&err, 0), &err);
	random_fill_normal(v, (size_t)C * (size_t)F, rng_key(1, RNG_NOISE), 1);
	for (int i = 0; i < T; i++)
		ids[i] = (i * 7919) % WORDS;
	for (int i = 0; i < N; i++) {
		picture[i] = (uint32_t)(i / C);
		caption[i] = (uint32_t)(i % C);
		label[i] = picture[i] == caption[i];
	}
	struct model_pairs pairs = { N, picture, caption, label, NULL, NULL, NULL };
	struct model_result result;
	double best[4] = { 1e9, 1e9, 1e9, 1e9 };
	for (int i = 0; i < steps + 1; i++) { /* the first one warms up */
		double at[5];

		call.step = (uint64_t)i;
		at[0] = seconds(threads);
		bert_embed_forward(bert, ids, T, word);
		bert_forward(bert, &call, word, offsets, C, t);
		at[1] = seconds(threads);
		fusion_forward(fusion, &call, i % 2 == 0 ? 0.3f : 0.0f, v, C, t, C, &pairs, NULL, NULL, NULL, &result);
		fusion_backward(fusion, 1, dv, dt);
		at[2] = seconds(threads);
		bert_backward(bert, dt, dword);
		bert_embed_backward(bert, ids, T, dword);
		at[3] = seconds(threads);
		double spent[4] = { at[1] - at[0], at[3] - at[2], i % 2 == 1 ? at[2] - at[1] : 1e9, i % 2 == 0 ? at[2] - at[1] : 1e9 };
		for (int k = 0; k < 4 && i > 0; k++)
			best[k] = spent[k] < best[k] ? spent[k] : best[k];
	}
	double flops = flops_forward(&config.text, T, C, offsets, F);
	printf("%s, %d captions, %d tokens, %d threads: text forward %.2f ms, backward %.2f ms (%.0f and %.0f GFLOP/s); fusion of %d "
	       "pairs %.2f ms, with dropout %.2f ms\n", argv[1], C, T, threads, best[0] * 1e3, best[1] * 1e3, flops / best[0] * 1e-9,
	       2 * flops / best[1] * 1e-9, N, best[2] * 1e3, best[3] * 1e3);
	bert_close(bert);
	fusion_close(fusion);
	params_close(params);
	mem_free(ids);
	mem_free(picture);
	mem_free(caption);
	mem_free(label);
	float *const memory[] = { word, dword, t, dt, v, dv };
	for (size_t i = 0; i < ARRAY_LEN(memory); i++)
		model_release(memory[i]);
	return 0;
}
