/* reg/objective.h, reg/adv.h: what the stage-factored pass leaves in the gradients is what two
 * whole passes through the model leave there, with the perturbation worked out
 * here from its definition. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shared/base/mem.h"
#include "shared/base/rng.h"
#include "trainer/kernels/kernels.h"
#include "trainer/reg/objective.h"
#include "trainer/reg/work.h"

enum { PICTURES = 4, CAPTIONS = 5, TOKENS = 24, PAIRS = 9, WORDS = 40, SIDE = 32 };

static const uint32_t offsets[CAPTIONS + 1] = { 0, 6, 8, 13, 20, 24 }; /* the second has no words at all */
static const uint32_t pair_picture[PAIRS] = { 0, 1, 2, 3, 0, 1, 2, 3, 3 };
static const uint32_t pair_caption[PAIRS] = { 0, 1, 2, 3, 4, 4, 0, 1, 2 };
static const int32_t pair_label[PAIRS] = { 1, 1, 1, 1, 0, 0, 0, 0, 0 };
static const float pair_weight[PAIRS] = { .125f, .125f, .125f, .125f, .1f, .1f, .1f, .1f, .1f };
static const struct model_pairs pairs = { PAIRS, pair_picture, pair_caption, pair_label, pair_weight, NULL, NULL };
static const struct model_limits limits = { PICTURES, CAPTIONS, TOKENS, 8, PAIRS, true, PAIRS, false };
static const uint32_t picture_positions[PICTURES] = { 0, 1, 2, 3 }, caption_positions[CAPTIONS] = { 0, 1, 2, 3, 4 };

/* What two whole passes give. */
struct adv_report {
	double loss, text_ratio, feat_ratio;
};

struct rig {
	struct model *model;
	struct stages stages;
	struct objective *objective;
	struct reg_spec spec;
	float *pixels;
	int32_t *ids; /* (TOKENS) */
	size_t features, width;
};

static struct rig rig_open(const char *text, bool dropout)
{
	struct rig rig = { NULL };
	struct model_config config;
	struct err err = { 0 };
	struct rng_key key = rng_key(5, 1);

	if (model_preset(&config, "tiny", SIDE, &err) != 0)
		fail_msg("%s", err.message);
	config.task = TASK_MATCH;
	config.classes = 2;
	config.text.vocab_size = WORDS;
	config.text.dropout = dropout ? 0.1 : 0;
	if (reg_spec_parse(&rig.spec, text, &err) != 0)
		fail_msg("%s", err.message);
	if (model_open(&rig.model, &config, &limits, &err) != 0 ||
	    stages_open(&rig.stages, rig.model, &limits, kernels_fast()->vector, &err) != 0)
		fail_msg("%s", err.message);
	params_init(model_params(rig.model), 3);
	rig.features = (size_t)config.features;
	rig.width = (size_t)config.text.width;
	rig.pixels = model_alloc((size_t)PICTURES * 3 * SIDE * SIDE);
	rig.ids = mem_array(TOKENS, sizeof(*rig.ids));
	assert_true(rig.pixels != NULL && rig.ids != NULL);
	for (uint32_t i = 0; i < PICTURES * 3 * SIDE * SIDE; i++)
		rig.pixels[i] = rng_unit(rng_philox(key, i, 0, 0, 0).v[0]) * 4 - 2;
	for (uint32_t i = 0; i < TOKENS; i++)
		rig.ids[i] = (int32_t)(rng_philox(key, i, 1, 0, 0).v[0] % WORDS);
	rig.stages.pixels = rig.pixels;
	rig.stages.nhwc = true;
	rig.stages.pictures = PICTURES;
	rig.stages.ids = rig.ids;
	rig.stages.offsets = offsets;
	rig.stages.captions = CAPTIONS;
	rig.stages.tokens = TOKENS;
	rig.stages.picture_positions = picture_positions;
	rig.stages.caption_positions = caption_positions;
	rig.stages.pairs = &pairs;
	rig.stages.seed = 7;
	rig.stages.step = 3;
	rig.stages.dropout = dropout;
	rig.stages.scale = 0.5f;
	return rig;
}

static void rig_close(struct rig *rig)
{
	objective_close(rig->objective);
	stages_close(&rig->stages);
	model_close(rig->model);
	model_release(rig->pixels);
	mem_free(rig->ids);
}

/* x += r for `rows` rows that are perturbed together. Returns ||r|| / ||x||. */
static double perturb_by_definition(const struct reg_adv *spec, float *x, const float *g, size_t n)
{
	double xx = 0, gg = 0, rr = 0;

	for (size_t i = 0; i < n; i++) {
		xx += (double)x[i] * (double)x[i];
		gg += (double)g[i] * (double)g[i];
	}
	if (n == 0 || gg == 0)
		return 0;
	for (size_t i = 0; i < n; i++) {
		double eps = spec->eps, r;

		if (spec->relative)
			eps *= spec->norm == ADV_L2 ? sqrt(xx) : sqrt(xx / (double)n);
		r = spec->norm == ADV_L2 ? eps * (double)g[i] / sqrt(gg) : eps * (g[i] > 0 ? 1 : g[i] < 0 ? -1 : 0);
		x[i] = (float)((double)x[i] + r);
		rr += r * r;
	}
	return sqrt(rr / xx);
}

static void text_backward(struct rig *rig)
{
	struct stages *s = &rig->stages;

	model_text_backward(rig->model, s->dt, s->dword);
	model_embed_backward(rig->model, s->ids, TOKENS, s->dword);
}

/* Two whole passes; the gradients stay in the model. */
static struct adv_report naive(struct rig *rig, const struct reg_adv *spec)
{
	struct stages *s = &rig->stages;
	struct model_call text = stages_text_call(s), image = text;
	struct model_result result;
	struct adv_report report = { 0 };
	int counted = 0;

	image.mode = MODEL_TRAIN_KEEP;
	image.positions = picture_positions;
	model_image_forward(rig->model, &image, s->pixels, s->nhwc, PICTURES, s->v);
	model_embed_forward(rig->model, s->ids, TOKENS, s->word);
	model_text_forward(rig->model, &text, s->word, offsets, CAPTIONS, s->t);
	model_fusion_forward(rig->model, &text, s->v, PICTURES, s->t, CAPTIONS, &pairs, picture_positions, caption_positions, s->logits,
			     &result);
	model_fusion_backward(rig->model, s->scale, s->dv, s->dt);
	text_backward(rig);
	model_image_backward(rig->model, s->dv, NULL);

	model_image_forward(rig->model, &image, s->pixels, s->nhwc, PICTURES, s->v);
	for (int b = 0; (spec->targets & ADV_FEAT) && b < PICTURES; b++)
		report.feat_ratio += perturb_by_definition(spec, s->v + (size_t)b * rig->features,
							   s->dv + (size_t)b * rig->features, rig->features) / PICTURES;
	for (int c = 0; (spec->targets & ADV_TEXT) && c < CAPTIONS; c++) {
		size_t from = (offsets[c] + 1) * rig->width, to = (offsets[c + 1] - 1) * rig->width;

		report.text_ratio += perturb_by_definition(spec, s->word + from, s->dword + from, to - from);
		counted += to > from;
	}
	report.text_ratio /= counted > 0 ? counted : 1;
	model_text_forward(rig->model, &text, s->word, offsets, CAPTIONS, s->t);
	model_fusion_forward(rig->model, &text, s->v, PICTURES, s->t, CAPTIONS, &pairs, picture_positions, caption_positions, NULL,
			     &result);
	model_fusion_backward(rig->model, s->scale * (float)spec->weight, s->dv, s->dt);
	text_backward(rig);
	model_image_backward(rig->model, s->dv, NULL);
	report.loss = result.loss;
	return report;
}

/* Behind rig_open(), since the objective borrows the specification. */
static void begin(struct rig *rig)
{
	const struct reg_moment moment = { 3, 1, 2 };
	struct err err = { 0 };

	if (objective_open(&rig->objective, &rig->spec, model_config(rig->model), &limits, &err) != 0)
		fail_msg("%s", err.message);
	objective_begin(rig->objective, rig->model, &moment);
}

static void compare(const char *text, bool dropout)
{
	struct rig rig = rig_open(text, dropout);
	struct params *params = model_params(rig.model);
	float *expected = model_alloc(params->trained_elements);
	struct adv_report by_naive;
	struct objective_report report;
	double changed = 0;

	assert_non_null(expected);
	begin(&rig);
	params_zero_grads(params);
	by_naive = naive(&rig, &rig.spec.adv);
	memcpy(expected, params->grads, params->trained_elements * sizeof(float));

	params_zero_grads(params);
	objective_run(rig.objective, &rig.stages, MODEL_TRAIN_KEEP, &report);

	assert_true(fabs(report.adv_loss - by_naive.loss) <= 1e-6);
	assert_true(report.adv_loss > report.clean.loss); /* it is an attack */
	assert_true(fabs(report.objective - report.clean.loss - rig.spec.adv.weight * report.adv_loss) <= 1e-9);
	assert_true(fabs(report.ratio[0] - by_naive.text_ratio) <= 1e-5);
	assert_true(fabs(report.ratio[1] - by_naive.feat_ratio) <= 1e-5);
	for (int i = 0; i < params->count; i++) {
		const struct param *p = &params->all[i];
		double difference = 0, norm = 0;

		for (size_t e = 0; p->grad != NULL && e < p->count; e++) {
			double d = (double)p->grad[e] - (double)expected[p->at + e];

			difference += d * d;
			norm += (double)expected[p->at + e] * (double)expected[p->at + e];
			changed += p->grad[e] != 0;
		}
		/* Gradients that are zero in exact arithmetic (the key's bias) hold noise alone. */
		if (p->grad != NULL && !(sqrt(difference) <= 2e-4 * sqrt(norm) + 1e-7))
			fail_msg("%s: %s: differs by %.3g of %.3g", text, p->name, sqrt(difference), sqrt(norm));
	}
	assert_true(changed > 1000);
	model_release(expected);
	rig_close(&rig);
}

static void test_equals_naive(void **state)
{
	(void)state;
	compare("adv:target=text,rel=0.3", false);
	compare("adv:target=feat,rel=0.3", false);
	compare("adv:target=text+feat,rel=0.3,weight=0.7", false);
	compare("adv:target=text,eps=0.5", false);
	compare("adv:target=text+feat,eps=0.01,norm=linf", false);
	compare("adv:target=text+feat,rel=0.1,norm=linf", false);
}

static void test_equals_naive_with_dropout(void **state)
{
	(void)state;
	compare("dropout+adv:target=text,rel=0.3", true);
	compare("dropout+adv:target=text+feat,rel=0.3", true);
}

static double row_norm(const float *row, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += (double)row[i] * (double)row[i];
	return sqrt(sum);
}

/* [CLS] and [SEP] stay, and so does a caption without words; what is perturbed has the norm that was asked for. */
static void test_ends_are_never_perturbed(void **state)
{
	static const char *const texts[] = {
		"adv:target=text,eps=0.5", "noise:target=text,eps=0.5", "adv:method=pgd,k=4,init=random,target=text,eps=0.5",
		"adv:method=freelb,k=3,init=random,target=text,eps=0.5", "adv:method=villa,target=text+feat,eps=0.5",
		"adv:method=smart,k=4,target=text,eps=0.5,step=2", "noise:target=text,eps=0.5,norm=linf",
		"adv:method=pgd,init=random,target=text,eps=0.5,norm=linf", "adv:method=free,target=text,eps=0.5",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		struct rig rig = rig_open(texts[i], false);
		struct objective_report report;
		const float *delta;

		begin(&rig);
		params_zero_grads(model_params(rig.model));
		objective_run(rig.objective, &rig.stages, MODEL_TRAIN_KEEP, &report);
		delta = rig.objective->of[0].delta;
		for (int c = 0; c < CAPTIONS; c++) {
			size_t words = (offsets[c + 1] - offsets[c] - 2) * rig.width;
			double norm = row_norm(delta + (offsets[c] + 1) * rig.width, words);

			assert_true(row_norm(delta + offsets[c] * rig.width, rig.width) == 0);
			assert_true(row_norm(delta + (offsets[c + 1] - 1) * rig.width, rig.width) == 0);
			if (words == 0)
				continue;
			if (rig.spec.adv.norm == ADV_LINF)
				norm /= sqrt((double)words);
			/* A corner of the linf ball, a point of the l2 sphere. */
			if (!(norm <= 0.5001 && norm > 0.1 && (strstr(texts[i], "noise") == NULL || norm > 0.4999)))
				fail_msg("%s: caption %d is perturbed by %g", texts[i], c, norm);
		}
		rig_close(&rig);
	}
}

static void test_zero_gradient(void **state)
{
	struct rig rig = rig_open("adv", false);
	struct objective_report report;

	(void)state;
	begin(&rig);
	params_zero_grads(model_params(rig.model));
	rig.stages.scale = 0.0f;
	objective_run(rig.objective, &rig.stages, MODEL_TRAIN_KEEP, &report);
	assert_true(report.adv_loss == report.clean.loss && report.ratio[0] == 0);
	assert_true(rig.stages.ops->all_finite(model_params(rig.model)->grads, model_params(rig.model)->trained_elements));
	rig_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_equals_naive),
		cmocka_unit_test(test_equals_naive_with_dropout),
		cmocka_unit_test(test_ends_are_never_perturbed),
		cmocka_unit_test(test_zero_gradient),
	};

	return cmocka_run_group_tests_name("adv", tests, NULL, NULL);
}
