#include "trainer/probe/draws.h"

#include <stdio.h>
#include <string.h>

#include "shared/base/mem.h"
#include "trainer/kernels/dropout.h"
#include "trainer/model/bert.h"
#include "trainer/model/fusion.h"

/* Room for a tensor of up to four dimensions (0: there is no such one). NULL: out of memory or places. */
static void *add(struct draws *d, const char *name, enum tensor_dtype dtype, int64_t a, int64_t b, int64_t c, int64_t e)
{
	const int64_t shape[4] = { a, b, c, e };
	size_t elements = 1;
	int rank = 0;

	for (; rank < 4 && shape[rank] > 0; rank++)
		elements *= (size_t)shape[rank];
	void *memory = d->count < DRAWS_MAX ? mem_array(elements + 1, tensor_dtype_bytes(dtype)) : NULL;
	if (memory == NULL)
		return NULL;
	struct tensor_view *view = &d->views[d->count];
	snprintf(d->names[d->count], DRAW_NAME_BYTES, "%s", name);
	*view = (struct tensor_view){ .name = d->names[d->count], .dtype = dtype, .rank = rank, .data = memory,
				      .bytes = elements * tensor_dtype_bytes(dtype) };
	memcpy(view->shape, shape, (size_t)rank * sizeof(*shape));
	d->memory[d->count++] = memory;
	return memory;
}

void draws_free(struct draws *d)
{
	for (int i = 0; i < d->count; i++)
		mem_free(d->memory[i]);
	d->count = 0;
}

/* ---- perturbations ---- */

static int longest(const struct stages *s)
{
	int most = 1;

	for (int c = 0; c < s->captions; c++)
		most = (int)(s->offsets[c + 1] - s->offsets[c]) > most ? (int)(s->offsets[c + 1] - s->offsets[c]) : most;
	return most;
}

static void add_words(struct draws *d, const char *name, const struct stages *s, const float *delta, int width)
{
	int T = longest(s);
	float *out = add(d, name, TENSOR_F32, s->captions, T, width, 0);

	for (int c = 0; out != NULL && c < s->captions; c++)
		memcpy(out + (size_t)c * T * width, delta + (size_t)s->offsets[c] * width,
		       (size_t)(s->offsets[c + 1] - s->offsets[c]) * width * sizeof(*out));
}

static void add_perturbations(struct draws *d, const char *prefix, const struct objective *objective, const struct stages *s)
{
	static const char *const names[ADV_TARGETS] = { "text", "feat", "fused", "pixel" };
	struct objective_draws drawn;
	char name[DRAW_NAME_BYTES];

	objective_draws(objective, &drawn);
	for (int t = 0; t < ADV_TARGETS; t++) {
		float *out;

		if (drawn.delta[t] == NULL)
			continue;
		snprintf(name, sizeof(name), "%s.%s", prefix, names[t]);
		if (t == 0) {
			add_words(d, name, s, drawn.delta[t], drawn.width[t]);
			continue;
		}
		int side = model_config(s->model)->image.image_size;
		out = t == 3 ? add(d, name, TENSOR_F32, drawn.rows[t], 3, side, side) :
			       add(d, name, TENSOR_F32, drawn.rows[t], drawn.width[t], 0, 0);
		if (out != NULL)
			memcpy(out, drawn.delta[t], (size_t)drawn.rows[t] * (size_t)drawn.width[t] * sizeof(*out));
	}
}

/* ---- masks ---- */

static float factor(const struct dropout_spec *spec, uint32_t position, uint32_t token, uint32_t channel)
{
	struct rng_block block = rng_philox(dropout_key(spec), dropout_block(channel), position, token, (uint32_t)spec->step);

	return block.v[dropout_word(channel)] < dropout_threshold(spec) ? 0.0f : dropout_scale(spec);
}

static struct dropout_spec site(const struct stages *s, double probability, uint32_t layer, bool second)
{
	return (struct dropout_spec){ .probability = (float)probability, .layer = layer, .seed = s->seed,
				      .step = second ? s->step | OBJECTIVE_SECOND : s->step };
}

/* Rows are captions or pictures by number, or pairs by both. */
static void add_rows(struct draws *d, const char *name, struct dropout_spec spec, int rows, int width, const struct model_pairs *pairs)
{
	float *out = add(d, name, TENSOR_F32, rows, width, 0, 0);

	for (int r = 0; out != NULL && r < rows; r++)
		for (int i = 0; i < width; i++)
			out[(size_t)r * width + i] = factor(&spec, pairs == NULL ? (uint32_t)r : pairs->picture[r],
							    pairs == NULL ? 0 : pairs->caption[r], (uint32_t)i);
}

static void add_tokens(struct draws *d, const char *name, struct dropout_spec spec, const struct stages *s, int width)
{
	int T = longest(s);
	float *out = add(d, name, TENSOR_F32, s->captions, T, width, 0);

	for (int c = 0; out != NULL && c < s->captions; c++)
		for (int t = 0; t < T; t++)
			for (int i = 0; i < width; i++)
				out[((size_t)c * T + t) * width + i] = factor(&spec, (uint32_t)c, (uint32_t)t, (uint32_t)i);
}

static void add_probs(struct draws *d, const char *name, struct dropout_spec spec, const struct stages *s, int heads)
{
	int T = longest(s);
	float *out = add(d, name, TENSOR_F32, s->captions, heads, T, T);

	for (int c = 0; out != NULL && c < s->captions; c++)
		for (int h = 0; h < heads; h++)
			for (int q = 0; q < T; q++)
				for (int k = 0; k < T; k++)
					out[(((size_t)c * heads + h) * T + q) * T + k] =
						factor(&spec, (uint32_t)c, (uint32_t)q, ((uint32_t)h << DROPOUT_HEAD_SHIFT) + (uint32_t)k);
}

static void add_branches(struct draws *d, const char *name, const struct stages *s, double probability, int layers, uint32_t first,
			 uint32_t apart, int rows, bool second)
{
	float *out = add(d, name, TENSOR_F32, layers, rows, 0, 0);

	for (int l = 0; out != NULL && l < layers; l++)
		for (int r = 0; r < rows; r++)
			out[(size_t)l * rows + r] = branch_factor((float)probability * (float)(l + 1) / (float)layers,
								  first + (uint32_t)l * apart, s->seed,
								  second ? s->step | OBJECTIVE_SECOND : s->step, (uint32_t)r);
}

static int block_count(const struct model_config *config)
{
	return config->image.blocks[0] + config->image.blocks[1] + config->image.blocks[2] + config->image.blocks[3];
}

static void add_depth(struct draws *d, const char *pass, const struct reg_depth *depth, const struct stages *s, bool second)
{
	const struct model_config *config = model_config(s->model);
	char name[DRAW_NAME_BYTES];

	snprintf(name, sizeof(name), "%sdepth.image", pass);
	if (depth->places & DEPTH_IMAGE)
		add_branches(d, name, s, depth->probability, block_count(config), DEPTH_SITE_IMAGE, 1, s->pictures, second);
	for (int which = SITE_ATTENTION; depth->places & DEPTH_TEXT && which <= SITE_OUTPUT; which++) {
		snprintf(name, sizeof(name), "%sdepth.text.%s", pass, which == SITE_ATTENTION ? "attention" : "output");
		add_branches(d, name, s, depth->probability, config->text.layers, SITE_FIRST + (uint32_t)which, SITES_PER_LAYER,
			     s->captions, second);
	}
}

static void add_bert(struct draws *d, const char *pass, const struct reg_spec *spec, const struct stages *s, bool second)
{
	const struct bert_config *config = &model_config(s->model)->text;
	const struct reg_dropout *hidden = &spec->dropout[DROP_BERT_HIDDEN], *attention = &spec->dropout[DROP_BERT_ATTENTION];
	char name[DRAW_NAME_BYTES];

	snprintf(name, sizeof(name), "%smask.bert.embeddings", pass);
	if (hidden->on)
		add_tokens(d, name, site(s, hidden->probability, SITE_EMBEDDINGS, second), s, config->width);
	for (int l = 0; l < config->layers; l++) {
		uint32_t first = SITE_FIRST + (uint32_t)l * SITES_PER_LAYER;

		snprintf(name, sizeof(name), "%smask.bert.%d.probs", pass, l);
		if (attention->on)
			add_probs(d, name, site(s, attention->probability, first + SITE_PROBS, second), s, config->heads);
		snprintf(name, sizeof(name), "%smask.bert.%d.attention", pass, l);
		if (hidden->on)
			add_tokens(d, name, site(s, hidden->probability, first + SITE_ATTENTION, second), s, config->width);
		snprintf(name, sizeof(name), "%smask.bert.%d.output", pass, l);
		if (hidden->on)
			add_tokens(d, name, site(s, hidden->probability, first + SITE_OUTPUT, second), s, config->width);
	}
}

static void add_masks(struct draws *d, const struct reg_spec *spec, const struct stages *s, bool second)
{
	static const struct {
		enum reg_site at;
		const char *name;
		uint32_t layer;
	} features[] = { { DROP_FUSION, "fusion", SITE_FUSION }, { DROP_HEAD, "head", SITE_HEAD }, { DROP_IMAGE, "image", SITE_IMAGE },
			 { DROP_TEXT, "text", SITE_TEXT } };
	const char *pass = second ? "second." : "";
	int F = model_config(s->model)->features;
	char name[DRAW_NAME_BYTES];

	for (size_t i = 0; i < ARRAY_LEN(features); i++) {
		const struct reg_dropout *drop = &spec->dropout[features[i].at];
		bool pairs = i < 2;

		if (!drop->on)
			continue;
		snprintf(name, sizeof(name), "%smask.%s", pass, features[i].name);
		add_rows(d, name, site(s, drop->probability, features[i].layer, second), pairs ? s->pairs->count : s->pictures,
			 features[i].at == DROP_FUSION ? 2 * F : F, pairs ? s->pairs : NULL);
	}
	add_bert(d, pass, spec, s, second);
	if (spec->depth.on)
		add_depth(d, pass, &spec->depth, s, second);
}

void draws_fill(struct draws *d, const struct reg_spec *spec, struct objective *objective, const struct stages *s)
{
	struct objective_draws drawn;
	int64_t *partner;
	float *share;

	objective_draws(objective, &drawn);
	if (drawn.partner != NULL) {
		partner = add(d, "mixup.partner", TENSOR_I64, s->pairs->count, 0, 0, 0);
		share = add(d, "mixup.share", TENSOR_F32, s->pairs->count, 0, 0, 0);
		for (int n = 0; partner != NULL && share != NULL && n < s->pairs->count; n++) {
			partner[n] = drawn.partner[n];
			share[n] = drawn.share[n];
		}
	}
	add_perturbations(d, "delta", objective, s);
	objective_start_again(objective);
	add_perturbations(d, "start", objective, s);
	add_masks(d, spec, s, false);
	if (spec->rdrop.on)
		add_masks(d, spec, s, true);
}
