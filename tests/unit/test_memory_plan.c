/*
 * Memory by lifetime: buffers that live at the same time never overlap, others
 * share; and the towers give the same bits whether they keep what
 * backward needs or make it again.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shared/base/mem.h"
#include "trainer/kernels/kernels.h"
#include "trainer/kernels/random_fill.h"
#include "trainer/model/model.h"
#include "trainer/nn/lifetimes.h"

static void ok(int code, const struct err *err)
{
	if (code != 0)
		fail_msg("%s", err->message);
}

/* ---- lifetimes ---- */

struct wanted {
	size_t bytes, at;
	struct lifetime life[2];
};

static bool within(struct lifetime life, int moment)
{
	return life.first <= moment && moment <= life.last;
}

static bool lives_at(const struct wanted *w, int moment)
{
	return within(w->life[0], moment) || within(w->life[1], moment);
}

enum { MOMENTS = 60, BUFFERS = 150 };

static void test_lives_never_overlap(void **state)
{
	struct lifetimes *lifetimes;
	struct err err;
	static struct wanted all[BUFFERS];
	uint64_t random = 1;

	(void)state;
	ok(lifetimes_open(&lifetimes, &err), &err);
	for (int round = 0; round < 40; round++) {
		size_t whole, most = 0, sum = 0;

		lifetimes_clear(lifetimes);
		for (int i = 0; i < BUFFERS; i++) {
			struct wanted *w = &all[i];
			int length, again;

			random = random * 6364136223846793005u + 1442695040888963407u;
			length = (int)(random >> 40) % 12;
			w->life[0].first = (int)(random >> 20) % (MOMENTS - 12);
			w->life[0].last = w->life[0].first + length;
			w->bytes = 1 + (size_t)(random >> 33) % 5000;
			again = w->life[0].last + 2 + (int)(random >> 45) % 20;
			w->life[1] = random >> 63 && again < MOMENTS ? (struct lifetime){ again, again + 1 } : LIFETIME_NONE;
			lifetimes_add(lifetimes, w->bytes, w->life[0], w->life[1]);
			sum += size_round_up(w->bytes, MEM_ALIGN_BYTES);
		}
		whole = lifetimes_place(lifetimes);
		for (int i = 0; i < BUFFERS; i++) {
			all[i].at = lifetimes_next(lifetimes);
			assert_int_equal(all[i].at % MEM_ALIGN_BYTES, 0);
			assert_true(all[i].at + all[i].bytes <= whole);
		}
		for (int m = 0; m < MOMENTS; m++) {
			size_t living = 0;

			for (int i = 0; i < BUFFERS; i++) {
				if (!lives_at(&all[i], m))
					continue;
				living += size_round_up(all[i].bytes, MEM_ALIGN_BYTES);
				for (int k = 0; k < i; k++)
					if (lives_at(&all[k], m))
						assert_true(all[i].at >= all[k].at + all[k].bytes ||
							    all[k].at >= all[i].at + all[i].bytes);
			}
			most = living > most ? living : most;
		}
		assert_true(whole >= most && (double)whole < 1.5 * (double)most && whole < sum * 2 / 3);
	}
	lifetimes_close(lifetimes);
}

static void test_large_memory_is_clear_and_aligned(void **state)
{
	const size_t bytes = (5u << 20) + 3;
	char *p = mem_large(bytes);

	(void)state;
	assert_non_null(p);
	assert_int_equal((uintptr_t)p % MEM_ALIGN_BYTES, 0);
	for (size_t i = 0; i < bytes; i++)
		assert_int_equal(p[i], 0);
	memset(p, 1, bytes);
	mem_large_free(p, bytes);
	mem_large_free(NULL, bytes);
	assert_null(mem_large(SIZE_MAX / 2));
}

/* ---- the same bits ---- */

enum { B = 3, T = 20, F = 32, WORDS = 40, PIXELS = 48 };
static const uint32_t OFFSETS[B + 1] = { 0, 7, 9, 20 };
static const int32_t IDS[T] = { 2, 5, 9, 30, 11, 12, 3, 2, 3, 2, 7, 7, 7, 21, 22, 23, 24, 25, 39, 3 };

struct outcome {
	float v[B * F], t[B * F], dword[T * 32], *grads, *values, dpixels[B * PIXELS * PIXELS * 3], dpixels_again[B * PIXELS * PIXELS * 3];
	size_t trained, all, bytes;
	int64_t counters;
};

static void run(struct outcome *out, bool bottleneck, bool recompute, bool nhwc, enum model_mode mode, double depth)
{
	const struct model_config config = {
		.task = TASK_MATCH, .image = { bottleneck, { 3, 4, 6, 3 }, 8, PIXELS, F }, .text = { 5, 32, 2, 64, WORDS, 20, 2, 0, 0.2, -1, 1e-12 },
		.features = F, .classes = 2, .fusion_dropout = 0,
	};
	const struct model_limits limits = { .pictures = B + 1, .captions = B + 2, .tokens = T + 9, .tokens_per_caption = 14, .pairs = 9,
					     .training = true, .recompute = recompute };
	const struct model_drops drops = { .bert_hidden = -1, .bert_attention = -1, .image_depth = depth, .text_depth = depth };
	const struct model_call call = { .mode = mode, .dropout = true, .seed = 3, .step = 4 };
	float *pixels = model_alloc(B * PIXELS * PIXELS * 3), *word = model_alloc(T * 32), *dv = model_alloc(B * F), *dt = model_alloc(B * F);
	struct model *model;
	struct params *params;
	struct err err;

	ok(model_open(&model, &config, &limits, &err), &err);
	params = model_params(model);
	params_init(params, 7);
	model_set_drops(model, &drops);
	random_fill_normal(pixels, B * PIXELS * PIXELS * 3, rng_key(1, RNG_NOISE), 1);
	random_fill_normal(dv, B * F, rng_key(2, RNG_NOISE), 1);
	random_fill_normal(dt, B * F, rng_key(3, RNG_NOISE), 1);
	for (int pass = 0; pass < 2; pass++) { /* the second one finds what the first one left */
		model_image_forward(model, &call, pixels, nhwc, B, out->v);
		model_embed_forward(model, IDS, T, word);
		model_text_forward(model, &call, word, OFFSETS, B, out->t);
		model_text_backward(model, dt, out->dword);
		model_embed_backward(model, IDS, T, out->dword);
		model_image_backward(model, dv, out->dpixels);
	}
	model_inputs_only(model, true); /* leaves the parameters' gradients as they are */
	model_image_forward(model, &call, pixels, nhwc, B, out->v);
	model_image_backward(model, dv, out->dpixels_again);
	model_inputs_only(model, false);
	if (mode == MODEL_EVAL)
		assert_memory_equal(out->dpixels, out->dpixels_again, sizeof(out->dpixels));
	out->trained = params->trained_elements;
	out->all = params->value_elements;
	out->grads = malloc(out->trained * sizeof(float));
	out->values = malloc(out->all * sizeof(float));
	memcpy(out->grads, params->grads, out->trained * sizeof(float));
	memcpy(out->values, params->values, out->all * sizeof(float));
	out->counters = 0;
	for (int i = 0; i < params->count; i++)
		out->counters += params->all[i].counter;
	out->bytes = model_activation_bytes(model, &limits, recompute);
	assert_true((model_activation_bytes(model, &limits, !recompute) < out->bytes) == !recompute);
	model_close(model);
	model_release(pixels);
	model_release(word);
	model_release(dv);
	model_release(dt);
}

static void assert_same(struct outcome *a, struct outcome *b)
{
	assert_memory_equal(a->v, b->v, sizeof(a->v));
	assert_memory_equal(a->t, b->t, sizeof(a->t));
	assert_memory_equal(a->dword, b->dword, sizeof(a->dword));
	assert_memory_equal(a->dpixels, b->dpixels, sizeof(a->dpixels));
	assert_memory_equal(a->dpixels_again, b->dpixels_again, sizeof(a->dpixels_again));
	assert_memory_equal(a->grads, b->grads, a->trained * sizeof(float));
	assert_memory_equal(a->values, b->values, a->all * sizeof(float)); /* running statistics moved once a pass */
	assert_int_equal(a->counters, b->counters);
	free(a->grads);
	free(a->values);
	free(b->grads);
	free(b->values);
}

static void test_recompute_gives_the_same_bits(void **state)
{
	static struct outcome kept, again;

	(void)state;
	kernels_set_threads(1);
	for (int bottleneck = 0; bottleneck < 2; bottleneck++)
		for (int nhwc = 0; nhwc < 2; nhwc++) {
			enum model_mode mode = nhwc ? MODEL_TRAIN : MODEL_EVAL;

			for (int depth = 0; depth < 2; depth++) {
				run(&kept, bottleneck, false, nhwc, mode, 0.5 * depth);
				run(&again, bottleneck, true, nhwc, mode, 0.5 * depth);
				assert_true(again.bytes < kept.bytes);
				assert_same(&kept, &again);
			}
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lives_never_overlap),
		cmocka_unit_test(test_large_memory_is_clear_and_aligned),
		cmocka_unit_test(test_recompute_gives_the_same_bits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
