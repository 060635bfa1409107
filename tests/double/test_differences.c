/*
 * The whole model in double: the gradient of every parameter, of the pixels and of the word embeddings against central
 * differences of the loss along a random direction.
 *
 * This program is compiled from the model's own sources and the reference kernels with `float` meaning double
 * (as_double.h), so formulas are checked to many places and not to what float32 leaves of them. The fast kernels are held to
 * the reference ones, and both to PyTorch, elsewhere.
 */
#include "trainer/kernels/image_rows.h"
#include "trainer/kernels/kernels.h"
#include "trainer/kernels/profile.h"
#include "trainer/kernels/random_fill.h"
#include "trainer/model/model.h"

enum { B = 3, VOCAB = 40, LENGTH_MAX = 9, TOKENS = 18, SIZE = 32, PAIRS_MAX = B * B };
static const uint32_t OFFSETS[B + 1] = { 0, 9, 11, 18 };
static const uint32_t POSITIONS[B] = { 5, 0, 90 };
static const double STEPS[] = { 1e-6, 1e-7, 3e-6, 1e-5 };
/* Of a derivative; and what rounding of the loss leaves, 1e-16 over the step. */
static const double RELATIVE = 5e-7, ABSOLUTE = 5e-10;

/* ---- what the sources expect of files that are not compiled this way ---- */

const struct kernels *kernels_fast(void)
{
	static struct kernels table;

	table = (struct kernels){ "reference", image_ops_reference(), dense_ops_reference(), vector_ops_reference(),
				  contrast_ops_reference(), reg_ops_reference() };
	return &table;
}

void kernels_describe(char out[KERNELS_TEXT_BYTES])
{
	snprintf(out, KERNELS_TEXT_BYTES, "double");
}

const struct image_rows *image_rows(void)
{
	return NULL; /* only the fast kernels use these */
}

enum profile_part profile_enter(enum profile_part part)
{
	return part;
}

void profile_leave(enum profile_part before)
{
	(void)before;
}

/* ---- one batch through one model ---- */

struct rig {
	struct model *model;
	struct params *params;
	struct model_call call;
	struct model_pairs pairs;
	uint32_t picture[PAIRS_MAX], caption[PAIRS_MAX];
	int32_t label[PAIRS_MAX], ids[TOKENS];
	float weight[PAIRS_MAX];
	float *pixels, *v, *t, *word, *dv, *dt, *dword, *dpixels;
	bool classify;
};

static float *numbers(size_t n, uint32_t name, double scale)
{
	float *out = model_alloc(n + 8);

	assert_non_null(out);
	random_fill_normal(out, n, rng_key(77, name), scale);
	return out;
}

static void fill_batch(struct rig *rig)
{
	int F = model_config(rig->model)->features, W = model_config(rig->model)->text.width;

	for (int i = 0; i < TOKENS; i++)
		rig->ids[i] = 1 + (i * 7) % (VOCAB - 1);
	rig->pixels = numbers(B * 3 * SIZE * SIZE, 1, 1.0);
	rig->dpixels = numbers(B * 3 * SIZE * SIZE, 2, 0);
	rig->v = numbers((size_t)(B * F), 3, 0);
	rig->t = numbers((size_t)(B * F), 4, 0);
	rig->dv = numbers((size_t)(B * F), 5, 0);
	rig->dt = numbers((size_t)(B * F), 6, 0);
	rig->word = numbers((size_t)(TOKENS * W), 7, 0);
	rig->dword = numbers((size_t)(TOKENS * W), 8, 0);
	for (int i = 0; i < B; i++)
		for (int j = 0; j < (rig->classify ? 1 : B); j++) {
			int n = rig->pairs.count++;

			rig->picture[n] = (uint32_t)i;
			rig->caption[n] = (uint32_t)(rig->classify ? i : j);
			rig->label[n] = rig->classify ? (i * 2) % 5 : i == j;
			rig->weight[n] = rig->classify ? 1.0 / B : i == j ? 0.5 / B : 0.5 / (B * (B - 1));
		}
	rig->pairs.picture = rig->picture;
	rig->pairs.caption = rig->caption;
	rig->pairs.label = rig->label;
	rig->pairs.weight = rig->weight;
}

/* Into the caller's rig: its pairs point at arrays within it. */
static void rig_open(struct rig *rig, bool classify, bool train, bool dropout)
{
	struct model_limits limits = { .pictures = B, .captions = B, .tokens = TOKENS, .tokens_per_caption = LENGTH_MAX, .pairs = PAIRS_MAX,
				       .training = true };
	struct model_config config;
	struct err err;

	*rig = (struct rig){ .classify = classify };
	assert_int_equal(model_preset(&config, "tiny", SIZE, &err), 0);
	config.task = classify ? TASK_CLASSIFY : TASK_MATCH;
	config.classes = classify ? 5 : 2;
	config.text.vocab_size = VOCAB;
	config.text.dropout = dropout ? 0.2 : 0;
	config.fusion_dropout = dropout ? 0.3 : 0;
	if (model_open(&rig->model, &config, &limits, &err) != 0)
		fail_msg("%s", err.message);
	rig->params = model_params(rig->model);
	params_init(rig->params, 3);
	for (int i = 0; i < rig->params->count; i++) { /* off their constants, so that every path matters */
		struct param *p = &rig->params->all[i];
		float *more = numbers(p->count, 100 + (uint32_t)i, p->rank > 1 ? 0.05 : 0.1);

		for (size_t e = 0; p->value != NULL && e < p->count; e++)
			p->value[e] += p->kind == PARAM_BUFFER ? fabs(more[e]) : more[e];
		model_release(more);
	}
	rig->call = (struct model_call){ .mode = train ? MODEL_TRAIN_KEEP : MODEL_EVAL, .dropout = dropout, .seed = 9, .step = 4 };
	fill_batch(rig);
}

static void rig_close(struct rig *rig)
{
	float *const memory[] = { rig->pixels, rig->v, rig->t, rig->word, rig->dv, rig->dt, rig->dword, rig->dpixels };

	for (size_t i = 0; i < ARRAY_LEN(memory); i++)
		model_release(memory[i]);
	model_close(rig->model);
}

static void image(struct rig *rig)
{
	struct model_call call = rig->call;

	call.positions = POSITIONS;
	model_image_forward(rig->model, &call, rig->pixels, false, B, rig->v);
}

static void text(struct rig *rig, bool embed)
{
	struct model_call call = rig->call;

	call.positions = POSITIONS;
	if (embed)
		model_embed_forward(rig->model, rig->ids, TOKENS, rig->word);
	model_text_forward(rig->model, &call, rig->word, OFFSETS, B, rig->t);
}

static double fusion(struct rig *rig)
{
	struct model_result result;

	model_fusion_forward(rig->model, &rig->call, rig->v, B, rig->t, B, &rig->pairs, POSITIONS, POSITIONS, NULL, &result);
	return result.loss;
}

enum stage { IMAGE, EMBED, TEXT, FUSION };

/* The loss after the stage behind which something was moved is run again; features of the other tower stay. */
static double loss_from(struct rig *rig, enum stage stage)
{
	if (stage == IMAGE)
		image(rig);
	if (stage == EMBED || stage == TEXT)
		text(rig, stage == EMBED);
	return fusion(rig);
}

static double inner(const float *a, const float *b, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += a[i] * b[i];
	return sum;
}

static double difference(struct rig *rig, enum stage stage, float *x, const float *direction, size_t n, double step)
{
	double loss[2];

	for (int side = 0; side < 2; side++) {
		double by = side == 0 ? step : -step;

		for (size_t i = 0; i < n; i++)
			x[i] += by * direction[i];
		loss[side] = loss_from(rig, stage);
		for (size_t i = 0; i < n; i++)
			x[i] -= by * direction[i];
	}
	return (loss[0] - loss[1]) / (2 * step);
}

/*
 * The gradient at x along a random direction. A ReLU or a maximum that changes sides within a step spoils that step; the
 * next one is tried, also while one is only just good enough, so that other rounding does not decide.
 */
static void check(struct rig *rig, enum stage stage, const char *name, float *x, const float *gradient, size_t n, double *worst)
{
	float *direction = numbers(n, 5000 + (uint32_t)(n % 997), 1.0 / sqrt((double)n));
	double expected = inner(gradient, direction, n), allowed = ABSOLUTE + RELATIVE * fabs(expected), off = INFINITY;

	for (size_t i = 0; i < ARRAY_LEN(STEPS) && off > allowed / 4; i++)
		off = fmin(off, fabs(difference(rig, stage, x, direction, n, STEPS[i]) - expected));
	loss_from(rig, stage);
	model_release(direction);
	if (!(off <= allowed))
		fail_msg("%s: gradient along a direction %.12g, off by %g", name, expected, off);
	*worst = fmax(*worst, off / allowed);
}

static enum stage stage_of(const char *name)
{
	if (strncmp(name, "image_encoder.", strlen("image_encoder.")) == 0)
		return IMAGE;
	if (strstr(name, "word_embeddings") != NULL)
		return EMBED;
	return strncmp(name, "text_", strlen("text_")) == 0 ? TEXT : FUSION;
}

static void all_gradients(bool classify, bool train, bool dropout)
{
	struct rig rig;
	struct params *params;
	double worst = 0;
	int checked = 0;

	rig_open(&rig, classify, train, dropout);
	params = rig.params;
	image(&rig);
	text(&rig, true);
	assert_true(isfinite(fusion(&rig)));
	params_zero_grads(params);
	model_fusion_backward(rig.model, 1.0, rig.dv, rig.dt);
	model_text_backward(rig.model, rig.dt, rig.dword);
	model_embed_backward(rig.model, rig.ids, TOKENS, rig.dword);
	model_image_backward(rig.model, rig.dv, rig.dpixels);
	for (int i = 0; i < params->count; i++) {
		struct param *p = &params->all[i];

		if (p->grad == NULL)
			continue;
		check(&rig, stage_of(p->name), p->name, p->value, p->grad, p->count, &worst);
		checked++;
	}
	check(&rig, IMAGE, "pixels", rig.pixels, rig.dpixels, B * 3 * SIZE * SIZE, &worst);
	check(&rig, TEXT, "word embeddings", rig.word, rig.dword, (size_t)(TOKENS * model_config(rig.model)->text.width), &worst);
	check(&rig, FUSION, "v", rig.v, rig.dv, (size_t)(B * model_config(rig.model)->features), &worst);
	check(&rig, FUSION, "t", rig.t, rig.dt, (size_t)(B * model_config(rig.model)->features), &worst);
	assert_true(checked > 60);
	print_message("%d gradients, the worst at %.2f of what is allowed\n", checked + 4, worst);
	rig_close(&rig);
}

static void test_match_train(void **state)
{
	(void)state;
	assert_int_equal(sizeof(float), 8);
	all_gradients(false, true, true);
}

static void test_match_eval(void **state)
{
	(void)state;
	all_gradients(false, false, false);
}

static void test_classify_train(void **state)
{
	(void)state;
	all_gradients(true, true, false);
}

static void test_classify_eval(void **state)
{
	(void)state;
	all_gradients(true, false, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_match_train),
		cmocka_unit_test(test_match_eval),
		cmocka_unit_test(test_classify_train),
		cmocka_unit_test(test_classify_eval),
	};

	return cmocka_run_group_tests_name("differences", tests, NULL, NULL);
}
