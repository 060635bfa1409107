#include "trainer/study/attack.h"

#include <math.h>
#include <string.h>

#include "shared/base/mem.h"
#include "trainer/train/predictions.h"

static const double step_share = 2.5; /* of eps / steps, as in the PGD paper's experiments */

struct attack {
	struct model *model;
	const struct attack_data *data;
	struct rng_key key;
	size_t width, features, classes;
	/* of one chunk of pairs */
	int first, count, tokens;
	int32_t *ids;
	uint32_t *offsets;       /* (ATTACK_CHUNK + 1) */
	size_t *words_at;        /* (pairs + 1) tokens before each pair's, over all pairs */
	float *clean, *x, *dx;   /* (chunk, picture_elements) */
	float *word0, *word, *dword; /* (tokens, width) */
	float *v, *dv, *t, *dt, *logits;
	uint32_t row[ATTACK_CHUNK];
	double loss[ATTACK_CHUNK], worst[ATTACK_CHUNK];
	bool right[ATTACK_CHUNK], lost[ATTACK_CHUNK];
};

void attack_limits(struct model_limits *limits, uint32_t max_len)
{
	*limits = (struct model_limits){ .pictures = ATTACK_CHUNK, .captions = ATTACK_CHUNK, .tokens = ATTACK_CHUNK * (int)max_len,
					 .tokens_per_caption = (int)max_len, .pairs = ATTACK_CHUNK, .training = true };
}

int attack_open(struct attack **out, struct model *model, const struct attack_data *data, uint32_t max_len, struct err *err)
{
	const struct model_config *config = model_config(model);
	struct attack *a = mem_zalloc(sizeof(*a));
	size_t pictures = ATTACK_CHUNK * data->picture_elements, tokens = (size_t)ATTACK_CHUNK * max_len;

	*out = NULL;
	if (a == NULL)
		return err_nomem(err, sizeof(*a));
	a->model = model;
	a->data = data;
	a->key = rng_key(ATTACK_SEED, RNG_ATTACK);
	a->width = (size_t)config->text.width;
	a->features = (size_t)config->features;
	a->classes = (size_t)config->classes;
	a->ids = mem_array(tokens, sizeof(*a->ids));
	a->offsets = mem_array(ATTACK_CHUNK + 1, sizeof(*a->offsets));
	a->words_at = mem_array((size_t)data->pairs + 1, sizeof(*a->words_at));
	a->clean = model_alloc(pictures);
	a->x = model_alloc(pictures);
	a->dx = model_alloc(pictures);
	a->word0 = model_alloc(tokens * a->width);
	a->word = model_alloc(tokens * a->width);
	a->dword = model_alloc(tokens * a->width);
	a->v = model_alloc(ATTACK_CHUNK * a->features);
	a->dv = model_alloc(ATTACK_CHUNK * a->features);
	a->t = model_alloc(ATTACK_CHUNK * a->features);
	a->dt = model_alloc(ATTACK_CHUNK * a->features);
	a->logits = model_alloc(ATTACK_CHUNK * a->classes);
	if (a->ids == NULL || a->offsets == NULL || a->words_at == NULL || a->clean == NULL || a->x == NULL || a->dx == NULL || a->word0 == NULL ||
	    a->word == NULL || a->dword == NULL || a->v == NULL || a->dv == NULL || a->t == NULL || a->dt == NULL || a->logits == NULL) {
		attack_close(a);
		return err_nomem(err, 3 * pictures * sizeof(float));
	}
	for (int i = 0; i < data->pairs; i++)
		a->words_at[i + 1] = a->words_at[i] + data->offsets[data->caption[i] + 1] - data->offsets[data->caption[i]];
	for (uint32_t i = 0; i < ATTACK_CHUNK; i++)
		a->row[i] = i;
	*out = a;
	return 0;
}

void attack_close(struct attack *a)
{
	if (a == NULL)
		return;
	mem_free(a->ids);
	mem_free(a->offsets);
	mem_free(a->words_at);
	model_release(a->clean);
	model_release(a->x);
	model_release(a->dx);
	model_release(a->word0);
	model_release(a->word);
	model_release(a->dword);
	model_release(a->v);
	model_release(a->dv);
	model_release(a->t);
	model_release(a->dt);
	model_release(a->logits);
	mem_free(a);
}

int attack_examples_open(struct attack_examples *out, const struct attack_data *data, unsigned targets, int width, struct err *err)
{
	size_t tokens = 0;

	*out = (struct attack_examples){ NULL, NULL };
	for (int i = 0; i < data->pairs; i++)
		tokens += data->offsets[data->caption[i] + 1] - data->offsets[data->caption[i]];
	if ((targets & ATTACK_PIXEL) != 0)
		out->pixels = model_alloc((size_t)data->pairs * data->picture_elements);
	if ((targets & ATTACK_TEXT) != 0)
		out->words = model_alloc(tokens * (size_t)width);
	if (((targets & ATTACK_PIXEL) != 0 && out->pixels == NULL) || ((targets & ATTACK_TEXT) != 0 && out->words == NULL)) {
		attack_examples_close(out);
		return err_nomem(err, (size_t)data->pairs * data->picture_elements * sizeof(float));
	}
	return 0;
}

void attack_examples_close(struct attack_examples *examples)
{
	model_release(examples->pixels);
	model_release(examples->words);
	*examples = (struct attack_examples){ NULL, NULL };
}

/* ---- one chunk ---- */

static const struct model_call evaluation = { .mode = MODEL_EVAL, .dropout = false };

static void load_chunk(struct attack *a, int first)
{
	const struct attack_data *d = a->data;

	a->first = first;
	a->count = d->pairs - first < ATTACK_CHUNK ? d->pairs - first : ATTACK_CHUNK;
	a->tokens = 0;
	a->offsets[0] = 0;
	for (int i = 0; i < a->count; i++) {
		const uint32_t *at = d->offsets + d->caption[first + i];
		uint32_t length = at[1] - at[0];

		memcpy(a->ids + a->tokens, d->ids + at[0], length * sizeof(*a->ids));
		a->tokens += (int)length;
		a->offsets[i + 1] = (uint32_t)a->tokens;
		memcpy(a->clean + (size_t)i * d->picture_elements, d->pixels + d->picture[first + i] * d->picture_elements,
		       d->picture_elements * sizeof(float));
		a->lost[i] = false;
		a->worst[i] = -INFINITY;
	}
	model_embed_forward(a->model, a->ids, a->tokens, a->word0);
	memcpy(a->x, a->clean, (size_t)a->count * d->picture_elements * sizeof(float));
	memcpy(a->word, a->word0, (size_t)a->tokens * a->width * sizeof(float));
}

/* Forward, for the towers that are named; fills loss and right. */
static void look(struct attack *a, unsigned towers)
{
	struct model_pairs pairs = { .count = a->count, .picture = a->row, .caption = a->row, .label = a->data->label + a->first };
	struct model_result result;

	if ((towers & ATTACK_PIXEL) != 0)
		model_image_forward(a->model, &evaluation, a->x, true, a->count, a->v);
	if ((towers & ATTACK_TEXT) != 0)
		model_text_forward(a->model, &evaluation, a->word, a->offsets, a->count, a->t);
	model_fusion_forward(a->model, &evaluation, a->v, a->count, a->t, a->count, &pairs, NULL, NULL, a->logits, &result);
	for (int i = 0; i < a->count; i++) {
		int32_t label = pairs.label[i];
		struct choice choice = choice_of(a->logits + (size_t)i * a->classes, (int)a->classes, label);

		a->loss[i] = -log(choice.p > 1e-300 ? choice.p : 1e-300);
		a->right[i] = choice.chosen == label;
	}
}

/* Gradient of the sum of the pairs' losses at what look() saw. */
static void slope(struct attack *a, unsigned targets)
{
	model_fusion_backward(a->model, (float)a->count, a->dv, a->dt);
	if ((targets & ATTACK_PIXEL) != 0)
		model_image_backward(a->model, a->dv, a->dx);
	if ((targets & ATTACK_TEXT) != 0)
		model_text_backward(a->model, a->dt, a->dword);
}

static void keep_example(struct attack *a, int i, struct attack_examples *keep)
{
	size_t e = a->data->picture_elements, words = (a->offsets[i + 1] - a->offsets[i]) * a->width, from = a->offsets[i] * a->width;

	if (keep->pixels != NULL)
		memcpy(keep->pixels + (size_t)(a->first + i) * e, a->x + (size_t)i * e, e * sizeof(float));
	for (size_t k = 0; keep->words != NULL && k < words; k++)
		keep->words[a->words_at[a->first + i] * a->width + k] = a->word[from + k] - a->word0[from + k];
}

/* What look() saw becomes the worst point of the pairs for which it is. */
static void take_worst(struct attack *a, struct attack_examples *keep)
{
	for (int i = 0; i < a->count; i++) {
		a->lost[i] |= !a->right[i];
		if (!(a->loss[i] > a->worst[i]))
			continue;
		a->worst[i] = a->loss[i];
		if (keep != NULL)
			keep_example(a, i, keep);
	}
}

static void move(struct attack *a, const struct attack_spec *spec, double share)
{
	size_t e = a->data->picture_elements;

	for (int i = 0; i < a->count; i++) {
		size_t at = (size_t)i * e, word = a->offsets[i] * a->width;

		if ((spec->targets & ATTACK_PIXEL) != 0)
			attack_pixels_step(a->x + at, a->clean + at, a->dx + at, e, &a->data->box, share * spec->pixel_eps, spec->pixel_eps);
		if ((spec->targets & ATTACK_TEXT) != 0)
			attack_words_step(a->word + word, a->word0 + word, a->dword + word, a->offsets[i + 1] - a->offsets[i], (int)a->width,
					  share * spec->text_eps, spec->text_eps);
	}
}

/* A random point: within the bounds for a start, on their rim for noise. */
static void scatter(struct attack *a, const struct attack_spec *spec, uint32_t draw)
{
	size_t e = a->data->picture_elements;
	bool noise = spec->kind == ATTACK_NOISE;

	for (int i = 0; i < a->count; i++) {
		size_t at = (size_t)i * e, word = a->offsets[i] * a->width;
		uint32_t pair = (uint32_t)(a->first + i);
		double share = noise ? 1 : (double)rng_unit(rng_philox(a->key, 0, UINT32_MAX, pair, draw).v[0]);

		if ((spec->targets & ATTACK_PIXEL) != 0)
			(noise ? attack_pixels_noise : attack_pixels_start)(a->x + at, a->clean + at, e, &a->data->box, spec->pixel_eps, a->key, pair,
									    draw);
		if ((spec->targets & ATTACK_TEXT) != 0)
			attack_words_random(a->word + word, a->word0 + word, a->offsets[i + 1] - a->offsets[i], (int)a->width, spec->text_eps, share,
					    a->key, pair, draw);
	}
}

/* Nothing is left to lose: what follows could only find worse points of pairs that are lost already. */
static bool all_lost(const struct attack *a)
{
	for (int i = 0; i < a->count; i++)
		if (!a->lost[i])
			return false;
	return true;
}

static void attack_chunk(struct attack *a, const struct attack_spec *spec, struct attack_examples *keep)
{
	unsigned both = ATTACK_PIXEL | ATTACK_TEXT;
	int restarts = spec->kind == ATTACK_PGD ? spec->restarts : 1, steps = spec->kind == ATTACK_PGD ? spec->steps : 1;

	/* What is not attacked is encoded once. */
	look(a, both);
	if (spec->pixel_eps <= 0 && spec->text_eps <= 0) {
		take_worst(a, keep);
		return;
	}
	for (int r = 0; r < restarts && (r == 0 || keep != NULL || !all_lost(a)); r++) {
		if (spec->kind != ATTACK_FGSM) {
			scatter(a, spec, (uint32_t)r);
			look(a, spec->targets);
			take_worst(a, keep);
		}
		for (int k = 0; k < steps && spec->kind != ATTACK_NOISE; k++) {
			slope(a, spec->targets);
			move(a, spec, spec->kind == ATTACK_FGSM ? 1 : step_share / steps);
			look(a, spec->targets);
			take_worst(a, keep);
		}
	}
}

static void add_chunk(const struct attack *a, struct attack_outcome *out)
{
	for (int i = 0; i < a->count; i++) {
		out->accuracy += !a->lost[i];
		out->loss += a->worst[i];
	}
}

static void finish(const struct attack *a, struct attack_outcome *out)
{
	out->accuracy /= a->data->pairs;
	out->loss /= a->data->pairs;
}

void attack_run(struct attack *a, const struct attack_spec *spec, struct attack_examples *keep, struct attack_outcome *out)
{
	*out = (struct attack_outcome){ 0, 0 };
	params_zero_grads(model_params(a->model)); /* they only ever grow here */
	for (int first = 0; first < a->data->pairs; first += a->count) {
		load_chunk(a, first);
		attack_chunk(a, spec, keep);
		add_chunk(a, out);
	}
	finish(a, out);
}

void attack_transfer(struct attack *a, const struct attack_examples *examples, unsigned targets, struct attack_outcome *out)
{
	size_t e = a->data->picture_elements;

	*out = (struct attack_outcome){ 0, 0 };
	for (int first = 0; first < a->data->pairs; first += a->count) {
		load_chunk(a, first);
		if ((targets & ATTACK_PIXEL) != 0)
			memcpy(a->x, examples->pixels + (size_t)first * e, (size_t)a->count * e * sizeof(float));
		for (size_t k = 0; (targets & ATTACK_TEXT) != 0 && k < (size_t)a->tokens * a->width; k++)
			a->word[k] += examples->words[a->words_at[first] * a->width + k];
		look(a, ATTACK_PIXEL | ATTACK_TEXT);
		take_worst(a, NULL);
		add_chunk(a, out);
	}
	finish(a, out);
}
