/*
 * The text tower and the fusion stage: fast kernels against the reference,
 * gradients against finite differences, and what the contract of a stage
 * promises: packing, positions, repeated passes, evaluation plans.
 */
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "trainer/kernels/kernels.h"
#include "trainer/kernels/random_fill.h"
#include "trainer/model/bert.h"
#include "trainer/model/fusion.h"

enum { F = 48, C = 5, T = 36, VOCAB = 50 };
static const uint32_t OFFSETS[C + 1] = { 0, 7, 8, 20, 33, 36 };
static const uint32_t POSITIONS[C] = { 3, 11, 0, 8, 70 };
static const struct bert_config CONFIG = { 3, 32, 2, 80, VOCAB, 20, 2, 0, 0.2, -1, 1e-12 };
static const struct model_limits LIMITS = { 6, C, T, 13, 40, true, 0, false };

static void assert_near(const char *what, const float *a, const float *b, size_t n, double tolerance)
{
	double off = 0, size = 0;

	for (size_t i = 0; i < n; i++) {
		off += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
		size += (double)b[i] * b[i];
	}
	off = sqrt(off / (size + 1e-30));
	if (!(off <= tolerance))
		fail_msg("%s: off by %g of its norm, allowed %g", what, off, tolerance);
}

static const struct kernels *kernels_named(bool reference)
{
	return reference ? kernels_reference() : kernels_fast();
}

struct tower {
	struct params *params;
	struct bert *bert;
};

static struct tower open_tower(bool reference, const struct model_limits *limits)
{
	struct tower tower;
	struct err err;

	assert_int_equal(params_open(&tower.params, &err), 0);
	assert_int_equal(bert_open(&tower.bert, &CONFIG, F, kernels_named(reference), tower.params, &err), 0);
	assert_int_equal(params_allocate(tower.params, &err), 0);
	params_init(tower.params, 5);
	for (int i = 0; i < tower.params->count; i++) { /* larger weights: every path matters */
		struct param *p = params_at(tower.params, i);

		if (p->kind != PARAM_UNUSED && p->rank == 2)
			random_fill_normal(p->value, p->count, rng_key((uint64_t)i, RNG_NOISE), 0.2f);
	}
	assert_int_equal(bert_plan(tower.bert, limits, &err), 0);
	return tower;
}

static void close_tower(struct tower *tower)
{
	bert_close(tower->bert);
	params_close(tower->params);
}

static const struct model_call DROPPING = { .mode = MODEL_TRAIN, .dropout = true, .seed = 4, .step = 9, .positions = POSITIONS };

struct pass {
	float word[T * 32], dword[T * 32], t[C * F], dt[C * F];
};

static void random_pass(struct pass *pass)
{
	random_fill_normal(pass->word, T * 32, rng_key(1, RNG_NOISE), 1);
	random_fill_normal(pass->dt, C * F, rng_key(2, RNG_NOISE), 1);
}

static void run_pass(struct tower *tower, const struct model_call *call, struct pass *pass)
{
	bert_forward(tower->bert, call, pass->word, OFFSETS, C, pass->t);
	bert_backward(tower->bert, pass->dt, pass->dword);
}

static void test_text_reference(void **state)
{
	struct tower a = open_tower(false, &LIMITS), b = open_tower(true, &LIMITS);
	static struct pass x, y;

	(void)state;
	for (int dropout = 0; dropout < 2; dropout++) {
		struct model_call call = DROPPING;

		call.dropout = dropout;
		random_pass(&x);
		random_pass(&y);
		params_zero_grads(a.params);
		params_zero_grads(b.params);
		run_pass(&a, &call, &x);
		run_pass(&b, &call, &y);
		assert_near("t", x.t, y.t, C * F, 2e-6);
		assert_near("dword", x.dword, y.dword, T * 32, 1e-5);
		for (int i = 0; i < a.params->count; i++) {
			const struct param *p = params_at(a.params, i), *q = params_at(b.params, i);

			if (p->grad != NULL && strstr(p->name, "key.bias") == NULL) /* zero but for rounding */
				assert_near(p->name, p->grad, q->grad, p->count, 2e-5);
		}
	}
	close_tower(&a);
	close_tower(&b);
}

static double dot(const float *a, const float *b, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += (double)a[i] * b[i];
	return sum;
}

/* The change of <dt, t> along a random direction of x (n). */
static double slope(struct tower *tower, const struct model_call *call, struct pass *pass, float *x, size_t n, const float *direction,
		    float step)
{
	double ends[2];

	for (int end = 0; end < 2; end++) {
		for (size_t i = 0; i < n; i++)
			x[i] += (end == 0 ? 1 : -2) * step * direction[i];
		bert_forward(tower->bert, call, pass->word, OFFSETS, C, pass->t);
		ends[end] = dot(pass->dt, pass->t, C * F);
	}
	for (size_t i = 0; i < n; i++)
		x[i] += step * direction[i];
	return (ends[0] - ends[1]) / (2 * step);
}

static void test_text_differences(void **state)
{
	struct tower tower = open_tower(false, &LIMITS);
	static struct pass pass;
	static float direction[VOCAB * 80];

	(void)state;
	random_pass(&pass);
	params_zero_grads(tower.params);
	run_pass(&tower, &DROPPING, &pass);
	random_fill_normal(direction, T * 32, rng_key(77, RNG_NOISE), 1);
	double expected = slope(&tower, &DROPPING, &pass, pass.word, T * 32, direction, 1e-3f);
	double found = dot(pass.dword, direction, T * 32);
	assert_true(fabs(found - expected) <= 5e-3 * fabs(expected));
	for (int i = 0; i < tower.params->count; i++) {
		struct param *p = params_at(tower.params, i);
		double norm;

		if (p->grad == NULL || strstr(p->name, "word_embeddings") != NULL || strstr(p->name, "key.bias") != NULL)
			continue;
		/* along the gradient itself, where the slope is its norm */
		norm = sqrt(dot(p->grad, p->grad, p->count));
		for (size_t k = 0; k < p->count; k++)
			direction[k] = (float)(p->grad[k] / norm);
		expected = slope(&tower, &DROPPING, &pass, p->value, p->count, direction, 4e-3f);
		if (!(fabs(norm - expected) <= 3e-2 * norm))
			fail_msg("%s: gradient %g, by differences %g", p->name, norm, expected);
	}
	close_tower(&tower);
}

/* A caption alone gives what it gives in a batch, also with dropout: its masks go by its position. */
static void test_packing(void **state)
{
	struct tower tower = open_tower(false, &LIMITS);
	static struct pass pass;
	float alone[F], dword[13 * 32];

	(void)state;
	random_pass(&pass);
	run_pass(&tower, &DROPPING, &pass);
	for (int c = 0; c < C; c++) {
		struct model_call call = DROPPING;
		uint32_t length = OFFSETS[c + 1] - OFFSETS[c], offsets[2] = { 0, length };

		call.positions = &POSITIONS[c];
		bert_forward(tower.bert, &call, pass.word + OFFSETS[c] * 32, offsets, 1, alone);
		bert_backward(tower.bert, pass.dt + c * F, dword);
		assert_near("a caption alone", alone, pass.t + c * F, F, 1e-5);
		assert_near("its gradient", dword, pass.dword + OFFSETS[c] * 32, length * 32, 1e-5);
		call.positions = NULL; /* position 0 instead of its own */
		bert_forward(tower.bert, &call, pass.word + OFFSETS[c] * 32, offsets, 1, alone);
		if (POSITIONS[c] != 0)
			assert_true(fabs(alone[0] - pass.t[c * F]) > 1e-4f);
	}
	close_tower(&tower);
}

/* Same names, same bits; gradients add up; another step draws other masks. */
static void test_repeat(void **state)
{
	struct tower tower = open_tower(false, &LIMITS);
	static struct pass x, y;
	float *first;
	struct model_call call = DROPPING;

	(void)state;
	random_pass(&x);
	random_pass(&y);
	params_zero_grads(tower.params);
	run_pass(&tower, &call, &x);
	first = malloc(tower.params->trained_elements * sizeof(float));
	assert_non_null(first);
	memcpy(first, tower.params->grads, tower.params->trained_elements * sizeof(float));
	run_pass(&tower, &call, &y);
	assert_memory_equal(x.t, y.t, sizeof(x.t));
	assert_memory_equal(x.dword, y.dword, sizeof(x.dword));
	for (size_t i = 0; i < tower.params->trained_elements; i++)
		assert_true(fabsf(tower.params->grads[i] - 2 * first[i]) <= 1e-5f * (1 + fabsf(first[i])));
	call.step++;
	run_pass(&tower, &call, &y);
	assert_memory_not_equal(x.t, y.t, sizeof(x.t));
	free(first);
	close_tower(&tower);
}

/* The plan without training shares buffers between layers, and computes the same. */
static void test_evaluation_plan(void **state)
{
	struct model_limits limits = LIMITS;
	struct tower a = open_tower(false, &LIMITS), b;
	static struct pass pass;
	float t[C * F];
	struct model_call call = { .mode = MODEL_EVAL };

	(void)state;
	limits.training = false;
	b = open_tower(false, &limits);
	assert_true(bert_activation_bytes(b.bert, &limits, false) < bert_activation_bytes(a.bert, &limits, false));
	random_pass(&pass);
	bert_forward(a.bert, &call, pass.word, OFFSETS, C, pass.t);
	bert_forward(b.bert, &call, pass.word, OFFSETS, C, t);
	assert_memory_equal(t, pass.t, sizeof(t));
	close_tower(&a);
	close_tower(&b);
}

/* Sites that the last forward call drew masks for. */
static uint32_t sites[64];
static int site_count;

static void note_site(const struct dropout_spec *drop)
{
	assert_true(drop->probability > 0 && drop->seed == DROPPING.seed && drop->step == DROPPING.step);
	sites[site_count++] = drop->layer;
}

static void noting_norm(float *y, float *sum, float *mean, float *rstd, const float *bias, const float *residual,
			struct norm_weights norm, int width, struct packed_rows rows, const struct dropout_spec *drop)
{
	note_site(drop);
	dense_ops_fast()->residual_norm(y, sum, mean, rstd, bias, residual, norm, width, rows, drop);
}

static void noting_embed(float *y, float *sum, float *mean, float *rstd, const float *word, const float *position,
			 const float *type, struct norm_weights norm, int width, struct packed_rows rows,
			 const struct dropout_spec *drop)
{
	note_site(drop);
	dense_ops_fast()->embed_norm(y, sum, mean, rstd, word, position, type, norm, width, rows, drop);
}

static void noting_attention(float *ctx, float *probs, const float *q, const float *k, const float *v, struct attention_shape s,
			     const struct dropout_spec *drop)
{
	note_site(drop);
	dense_ops_fast()->attention(ctx, probs, q, k, v, s, drop);
}

/* No two of the tower's dropouts share a mask: embeddings, and three of each layer. */
static void test_sites(void **state)
{
	struct dense_ops noting = *dense_ops_fast();
	struct kernels kernels = *kernels_fast();
	struct params *params;
	struct bert *bert;
	struct err err;
	static struct pass pass;

	(void)state;
	noting.residual_norm = noting_norm;
	noting.embed_norm = noting_embed;
	noting.attention = noting_attention;
	kernels.dense = &noting;
	assert_int_equal(params_open(&params, &err), 0);
	assert_int_equal(bert_open(&bert, &CONFIG, F, &kernels, params, &err), 0);
	assert_int_equal(params_allocate(params, &err), 0);
	params_init(params, 5);
	assert_int_equal(bert_plan(bert, &LIMITS, &err), 0);
	random_pass(&pass);
	site_count = 0;
	bert_forward(bert, &DROPPING, pass.word, OFFSETS, C, pass.t);
	assert_int_equal(site_count, 1 + 3 * CONFIG.layers);
	for (int i = 0; i < site_count; i++) {
		for (int j = 0; j < i; j++)
			assert_true(sites[i] != sites[j]);
	}
	bert_close(bert);
	params_close(params);
}

static void test_text_errors(void **state)
{
	struct bert_config config = CONFIG;
	struct model_limits limits = LIMITS;
	struct params *params;
	struct bert *bert;
	struct err err;

	(void)state;
	assert_int_equal(params_open(&params, &err), 0);
	config.heads = 3;
	assert_int_equal(bert_open(&bert, &config, F, kernels_fast(), params, &err), ERR_USAGE);
	assert_null(bert);
	config = CONFIG;
	config.layers = BERT_LAYERS_MAX + 1;
	assert_int_equal(bert_open(&bert, &config, F, kernels_fast(), params, &err), ERR_LIMIT);
	assert_int_equal(bert_open(&bert, &CONFIG, F, kernels_fast(), params, &err), 0);
	limits.tokens_per_caption = CONFIG.max_positions + 1;
	assert_int_equal(bert_plan(bert, &limits, &err), ERR_LIMIT);
	assert_non_null(strstr(err.message, "--max-len 20"));
	bert_close(bert);
	params_close(params);
}

/* ---- fusion ---- */

enum { B = 6, N = 30, K = 3, SCALE = 3 };

struct stage {
	struct params *params;
	struct fusion *fusion;
	float v[B * F], t[C * F], dv[B * F], dt[C * F], logits[N * K], weight[N];
	uint32_t picture[N], caption[N], far[B];
	int32_t label[N];
	struct model_pairs pairs;
	struct model_result result;
};

static struct stage *open_stage(bool reference)
{
	struct stage *s = calloc(1, sizeof(*s));
	struct err err;

	assert_non_null(s);
	assert_int_equal(params_open(&s->params, &err), 0);
	assert_int_equal(fusion_open(&s->fusion, F, K, kernels_named(reference), s->params, &err), 0);
	assert_int_equal(params_allocate(s->params, &err), 0);
	params_init(s->params, 3);
	assert_int_equal(fusion_plan(s->fusion, &LIMITS, true, &err), 0);
	random_fill_normal(s->v, B * F, rng_key(4, RNG_NOISE), 1);
	random_fill_normal(s->t, C * F, rng_key(5, RNG_NOISE), 1);
	for (int i = 0; i < N; i++) {
		s->picture[i] = (uint32_t)(i * 5) % B;
		s->caption[i] = (uint32_t)i % C;
		s->label[i] = i % K;
		s->weight[i] = 0.01f * (float)(i + 1);
	}
	for (int i = 0; i < B; i++)
		s->far[i] = (uint32_t)(100 - i);
	s->pairs = (struct model_pairs){ N, s->picture, s->caption, s->label, s->weight, NULL, NULL };
	return s;
}

static void close_stage(struct stage *s)
{
	fusion_close(s->fusion);
	params_close(s->params);
	free(s);
}

static double stage_loss(struct stage *s, float dropout)
{
	fusion_forward(s->fusion, &DROPPING, dropout, s->v, B, s->t, C, &s->pairs, s->far, POSITIONS, s->logits, &s->result);
	return s->result.loss;
}

static void stage_pass(struct stage *s, float dropout, float scale)
{
	params_zero_grads(s->params);
	stage_loss(s, dropout);
	fusion_backward(s->fusion, scale, s->dv, s->dt);
}

static void test_fusion_reference(void **state)
{
	struct stage *a = open_stage(false), *b = open_stage(true);

	(void)state;
	for (int dropout = 0; dropout < 2; dropout++) {
		stage_pass(a, 0.3f * (float)dropout, 2);
		stage_pass(b, 0.3f * (float)dropout, 2);
		assert_true(fabs(a->result.loss - b->result.loss) <= 1e-6 * b->result.loss);
		assert_int_equal(a->result.correct, b->result.correct);
		assert_near("logits", a->logits, b->logits, N * K, 2e-6);
		assert_near("dv", a->dv, b->dv, B * F, 5e-6);
		assert_near("dt", a->dt, b->dt, C * F, 5e-6);
		for (int i = 0; i < a->params->count; i++)
			assert_near(params_at(a->params, i)->name, params_at(a->params, i)->grad, params_at(b->params, i)->grad,
				    params_at(a->params, i)->count, 5e-6);
	}
	close_stage(a);
	close_stage(b);
}

/* The split product and the one per pair are the same function: at a
 * probability that drops nothing they agree. */
static void test_fusion_split(void **state)
{
	struct stage *a = open_stage(false), *b = open_stage(false);

	(void)state;
	stage_pass(a, 0.0f, 1);
	stage_pass(b, 1e-9f, 1);
	assert_near("logits", a->logits, b->logits, N * K, 2e-6);
	assert_near("dv", a->dv, b->dv, B * F, 1e-5);
	assert_near("dt", a->dt, b->dt, C * F, 1e-5);
	assert_near("weights", params_find(a->params, "fusion_layer.1.weight")->grad,
		    params_find(b->params, "fusion_layer.1.weight")->grad, 2 * F * F, 1e-5);
	close_stage(a);
	close_stage(b);
}

/* grad is that of SCALE times the loss. */
static void check_slope(struct stage *s, float dropout, const char *what, float *x, const float *grad, size_t n)
{
	float *direction = malloc(n * sizeof(float)), *kept = malloc(n * sizeof(float));
	double norm = sqrt(dot(grad, grad, n)) / SCALE, ends[2];
	const double step = 2e-3;

	assert_true(direction != NULL && kept != NULL);
	memcpy(kept, x, n * sizeof(float));
	for (size_t i = 0; i < n; i++)
		direction[i] = (float)(grad[i] / SCALE / norm);
	for (int end = 0; end < 2; end++) {
		for (size_t i = 0; i < n; i++)
			x[i] = (float)(kept[i] + (end == 0 ? step : -step) * direction[i]);
		ends[end] = stage_loss(s, dropout);
	}
	memcpy(x, kept, n * sizeof(float));
	if (!(fabs((ends[0] - ends[1]) / (2 * step) - norm) <= 1e-2 * norm))
		fail_msg("%s: gradient %g, by differences %g", what, norm, (ends[0] - ends[1]) / (2 * step));
	free(direction);
	free(kept);
}

static void test_fusion_differences(void **state)
{
	struct stage *s = open_stage(false);

	(void)state;
	for (int dropout = 0; dropout < 2; dropout++) {
		float p = 0.3f * (float)dropout;

		stage_pass(s, p, SCALE);
		check_slope(s, p, "v", s->v, s->dv, B * F);
		check_slope(s, p, "t", s->t, s->dt, C * F);
		for (int i = 0; i < s->params->count; i++) {
			struct param *param = params_at(s->params, i);

			check_slope(s, p, param->name, param->value, param->grad, param->count);
		}
	}
	close_stage(s);
}

/* A pair's mask goes by the positions of its picture and caption, not by its place in the list. */
static void test_pair_names(void **state)
{
	struct stage *s = open_stage(false);
	float all[N * K];

	(void)state;
	stage_loss(s, 0.3f);
	memcpy(all, s->logits, sizeof(all));
	for (int i = 0; i < N; i += 7) {
		struct model_pairs one = { 1, &s->picture[i], &s->caption[i], &s->label[i], NULL, NULL, NULL };

		fusion_forward(s->fusion, &DROPPING, 0.3f, s->v, B, s->t, C, &one, s->far, POSITIONS, s->logits, &s->result);
		assert_near("one pair", s->logits, all + i * K, K, 1e-5);
		for (int other = 0; other < 2; other++) {
			fusion_forward(s->fusion, &DROPPING, 0.3f, s->v, B, s->t, C, &one, other ? NULL : s->far,
				       other ? POSITIONS : NULL, s->logits, &s->result);
			assert_true(fabs(s->logits[0] - all[i * K]) > 1e-5f);
		}
	}
	close_stage(s);
}

static int setup(void **state)
{
	(void)state;
	kernels_set_threads(2);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_text_reference),	 cmocka_unit_test(test_text_differences), cmocka_unit_test(test_packing),
		cmocka_unit_test(test_repeat),		 cmocka_unit_test(test_evaluation_plan),  cmocka_unit_test(test_text_errors),
		cmocka_unit_test(test_sites),
		cmocka_unit_test(test_fusion_reference), cmocka_unit_test(test_fusion_split),	  cmocka_unit_test(test_fusion_differences),
		cmocka_unit_test(test_pair_names),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
