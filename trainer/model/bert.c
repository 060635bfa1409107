#include "trainer/model/bert.h"

#include <stdio.h>
#include <string.h>

#include "shared/base/mem.h"
#include "trainer/kernels/kernels.h"
#include "trainer/nn/arena.h"
#include "trainer/nn/layers.h"

#define INIT_DEVIATION 0.02f

/* A layer's parameters. query, key and value are registered one behind the
 * other and joined, weights first, so that they are one matrix (3W, W) as well. */
struct encoder_layer {
	struct layer query, key, value;
	struct layer attention_output, attention_norm;
	struct layer intermediate, output, output_norm;
};

/* A layer's activations. R = T, or C in the last layer. */
struct encoder_state {
	float *in;          /* (T, W) */
	float *first;       /* (C, W) first rows of in; last layer only */
	float *q;           /* (R, ldq): within qkv, or (C, W) */
	float *kv;          /* (T, ldkv): k at column 0, v at column W */
	float *probs;       /* (R, heads, ldprobs) */
	float *ctx;         /* (R, W) */
	float *sum1, *y1;   /* (R, W) */
	float *mean1, *rstd1; /* (R) */
	float *pre;         /* (R, I) */
	float *sum2, *y2;   /* (R, W); y2 is the next layer's in */
	float *mean2, *rstd2;
};

struct bert {
	struct bert_config config;
	int features;
	const struct kernels *kernels;
	struct params *params;
	int word, position, type;
	struct layer embed_norm, projector;
	struct encoder_layer layers[BERT_LAYERS_MAX];

	struct model_limits limits;
	struct arena arena;
	float *embed_sum, *embed_mean, *embed_rstd; /* (T, W), (T), (T) */
	struct encoder_state states[BERT_LAYERS_MAX];
	float *act;               /* (T, I) GELU's result; computed again in backward */
	float *d, *e, *f;         /* (T, W) gradients */
	float *wide;              /* (T, max(I, 3W)) gradients */
	float *d_first, *e_first; /* (C, W) gradients of the last layer */

	/* the last forward call, for backward */
	uint32_t *offsets;   /* (C + 1) */
	uint32_t *positions; /* (C) */
	int C, T, ldprobs;
	struct model_call call;

	float hidden, attention, depth; /* probabilities; see bert_set_dropout() */
	bool inputs_only;               /* backward leaves the parameters' gradients alone */
};

static int add_encoder_layer(struct bert *bert, int number, struct err *err)
{
	struct encoder_layer *layer = &bert->layers[number];
	int W = bert->config.width, I = bert->config.inner, code;
	const int64_t square[2] = { W, W };
	static const char *const parts[] = { "query", "key", "value" };
	struct layer *qkv[] = { &layer->query, &layer->key, &layer->value };
	char name[PARAM_NAME_BYTES];

	for (int bias = 0; bias < 2; bias++) {
		for (int i = 0; i < 3; i++) {
			snprintf(name, sizeof(name), "text_encoder.encoder.layer.%d.attention.self.%s.%s", number, parts[i],
				 bias ? "bias" : "weight");
			code = bias ? params_add(bert->params, &qkv[i]->bias, name, PARAM_BIAS, INIT_ZERO, 0, 1, square, err)
				    : params_add(bert->params, &qkv[i]->weight, name, PARAM_WEIGHT, INIT_NORMAL,
						 INIT_DEVIATION, 2, square, err);
			if (code != 0)
				return code;
			params_at(bert->params, bias ? qkv[i]->bias : qkv[i]->weight)->joined = i > 0;
		}
	}
	const struct {
		const char *name;
		struct layer *layer;
		int out, in; /* in 0: LayerNorm */
	} rest[] = {
		{ "attention.output.dense", &layer->attention_output, W, W },
		{ "attention.output.LayerNorm", &layer->attention_norm, W, 0 },
		{ "intermediate.dense", &layer->intermediate, I, W },
		{ "output.dense", &layer->output, W, I },
		{ "output.LayerNorm", &layer->output_norm, W, 0 },
	};
	for (size_t i = 0; i < ARRAY_LEN(rest); i++) {
		snprintf(name, sizeof(name), "text_encoder.encoder.layer.%d.%s", number, rest[i].name);
		code = rest[i].in == 0 ? layer_add_norm(bert->params, rest[i].layer, name, rest[i].out, err)
				       : layer_add_linear(bert->params, rest[i].layer, name, rest[i].out, rest[i].in,
							  INIT_DEVIATION, err);
		if (code != 0)
			return code;
	}
	return 0;
}

static int add_embeddings(struct bert *bert, struct err *err)
{
	const struct bert_config *config = &bert->config;
	const struct {
		const char *name;
		int *index, rows;
	} tables[] = {
		{ "text_encoder.embeddings.word_embeddings.weight", &bert->word, config->vocab_size },
		{ "text_encoder.embeddings.position_embeddings.weight", &bert->position, config->max_positions },
		{ "text_encoder.embeddings.token_type_embeddings.weight", &bert->type, config->token_types },
	};

	for (size_t i = 0; i < ARRAY_LEN(tables); i++) {
		const int64_t shape[2] = { tables[i].rows, config->width };
		int code = params_add(bert->params, tables[i].index, tables[i].name, PARAM_EMBEDDING,
				      i == 0 ? INIT_NORMAL_PAD_ZERO : INIT_NORMAL, INIT_DEVIATION, 2, shape, err);

		if (code != 0)
			return code;
	}
	params_at(bert->params, bert->word)->pad = config->pad_id;
	return layer_add_norm(bert->params, &bert->embed_norm, "text_encoder.embeddings.LayerNorm", config->width, err);
}

static int add_pooler(struct bert *bert, struct err *err)
{
	const int64_t square[2] = { bert->config.width, bert->config.width };
	int index, code;

	code = params_add(bert->params, &index, "text_encoder.pooler.dense.weight", PARAM_UNUSED, INIT_NORMAL, INIT_DEVIATION, 2,
			  square, err);
	return code != 0 ? code
			 : params_add(bert->params, &index, "text_encoder.pooler.dense.bias", PARAM_UNUSED, INIT_ZERO, 0, 1,
				      square, err);
}

static int check_config(const struct bert_config *config, struct err *err)
{
	if (config->layers < 1 || config->layers > BERT_LAYERS_MAX)
		return err_set(err, ERR_LIMIT, "text tower: %d layers; it takes 1 to %d", config->layers, BERT_LAYERS_MAX);
	if (config->heads < 1 || config->width < 1 || config->width % config->heads != 0)
		return err_set(err, ERR_USAGE, "text tower: width %d must be a multiple of its %d heads", config->width, config->heads);
	if (config->width / config->heads > DENSE_HEAD_MAX)
		return err_set(err, ERR_LIMIT, "text tower: heads of width %d; at most %d", config->width / config->heads,
			       DENSE_HEAD_MAX);
	if (!(config->norm_eps > 0 && config->norm_eps < 1))
		return err_set(err, ERR_USAGE, "text tower: LayerNorm's eps is above 0 and below 1, so not %g", config->norm_eps);
	if (config->inner < 1 || config->token_types < 1 || config->max_positions < 1 || config->pad_id < 0 ||
	    config->vocab_size <= config->pad_id)
		return err_set(err, ERR_USAGE, "text tower: vocabulary of %d, %d positions, %d types, inner width %d: all "
			       "must be positive, the padding id %d within the vocabulary", config->vocab_size,
			       config->max_positions, config->token_types, config->inner, config->pad_id);
	return 0;
}

int bert_open(struct bert **out, const struct bert_config *config, int out_features, const struct kernels *kernels,
	      struct params *params, struct err *err)
{
	struct bert *bert;
	int code = check_config(config, err);

	*out = NULL;
	if (code != 0)
		return code;
	bert = mem_array(1, sizeof(*bert));
	if (bert == NULL)
		return err_nomem(err, sizeof(*bert));
	bert->config = *config;
	bert->features = out_features;
	bert->kernels = kernels;
	bert->params = params;
	bert_set_dropout(bert, config->dropout, config->attention_dropout < 0 ? config->dropout : config->attention_dropout, 0);
	if ((code = add_embeddings(bert, err)) != 0)
		goto failed;
	for (int i = 0; i < config->layers; i++) {
		if ((code = add_encoder_layer(bert, i, err)) != 0)
			goto failed;
	}
	if ((code = add_pooler(bert, err)) != 0 ||
	    (code = layer_add_linear(params, &bert->projector, "text_projector", out_features, config->width, 0, err)) != 0)
		goto failed;
	*out = bert;
	return 0;
failed:
	bert_close(bert);
	return code;
}

void bert_close(struct bert *bert)
{
	if (bert == NULL)
		return;
	arena_release(&bert->arena);
	mem_free(bert->offsets);
	mem_free(bert->positions);
	mem_free(bert);
}

static size_t ldprobs_of(int longest)
{
	return size_round_up((size_t)longest, DENSE_SCORE_ALIGN);
}

/* What decides how much memory a call needs. */
struct batch_size {
	size_t tokens, captions, longest;
	bool recompute;
};

/* The buffers of one layer, but for its output. */
static void plan_layer(struct bert *bert, int number, const struct batch_size *size)
{
	struct encoder_state *s = &bert->states[number];
	struct arena *arena = &bert->arena;
	bool last = number == bert->config.layers - 1;
	size_t T = size->tokens, C = size->captions, R = last ? C : T;
	size_t W = (size_t)bert->config.width;

	s->q = arena_take(arena, last ? C * W : T * 3 * W);
	s->kv = last ? arena_take(arena, T * 2 * W) : s->q == NULL ? NULL : s->q + W;
	if (last)
		s->first = arena_take(arena, C * W);
	s->probs = arena_take(arena, R * (size_t)bert->config.heads * ldprobs_of((int)size->longest));
	s->ctx = arena_take(arena, R * W);
	s->sum1 = arena_take(arena, R * W);
	s->y1 = arena_take(arena, R * W);
	s->pre = arena_take(arena, R * (size_t)bert->config.inner);
	s->sum2 = arena_take(arena, R * W);
	s->mean1 = arena_take(arena, R);
	s->rstd1 = arena_take(arena, R);
	s->mean2 = arena_take(arena, R);
	s->rstd2 = arena_take(arena, R);
}

/*
 * Without training, all layers but the last share one set of buffers, the
 * output, which is written when the input is no longer needed, included. With
 * recompute they share all but the output; backward makes the rest again.
 */
static void plan(struct bert *bert, const struct batch_size *size)
{
	struct arena *arena = &bert->arena;
	size_t T = size->tokens, C = size->captions, W = (size_t)bert->config.width, I = (size_t)bert->config.inner;
	int last = bert->config.layers - 1;
	bool share = !bert->limits.training || size->recompute;

	arena->used = 0;
	bert->embed_sum = arena_take(arena, T * W);
	bert->embed_mean = arena_take(arena, T);
	bert->embed_rstd = arena_take(arena, T);
	bert->states[0].in = arena_take(arena, T * W);
	for (int i = 0; i <= last; i++) {
		float *in = i == 0 ? bert->states[0].in : bert->states[i - 1].y2;
		bool like_first = i > 0 && i < last && share;

		if (like_first)
			bert->states[i] = bert->states[0];
		else
			plan_layer(bert, i, size);
		if (!like_first || bert->limits.training)
			bert->states[i].y2 = arena_take(arena, (i == last ? C : T) * W);
		bert->states[i].in = in;
	}
	bert->act = arena_take(arena, T * I);
	if (!bert->limits.training)
		return;
	bert->d = arena_take(arena, T * W);
	bert->e = arena_take(arena, T * W);
	bert->f = arena_take(arena, T * W);
	bert->wide = arena_take(arena, T * (I > 3 * W ? I : 3 * W));
	bert->d_first = arena_take(arena, C * W);
	bert->e_first = arena_take(arena, C * W);
}

/* Every shape of an encoder layer's products. */
static int reserve_products(const struct bert *bert, struct err *err)
{
	int T = bert->limits.tokens, W = bert->config.width, I = bert->config.inner, code = 0;
	const struct linear_shape shapes[] = { linear_packed(T, W, W), linear_packed(T, W, 2 * W), linear_packed(T, W, 3 * W),
					       linear_packed(T, W, I), linear_packed(T, I, W) };

	for (size_t i = 0; i < ARRAY_LEN(shapes) && code == 0; i++)
		code = bert->kernels->dense->encoder_reserve(shapes[i], err);
	return code;
}

size_t bert_activation_bytes(const struct bert *bert, const struct model_limits *batch, bool recompute)
{
	struct bert counting = *bert;
	struct batch_size size = { (size_t)batch->tokens, (size_t)batch->captions, (size_t)batch->tokens_per_caption, recompute };

	counting.arena = (struct arena){ NULL, 0, 0 };
	plan(&counting, &size);
	if (counting.arena.used > bert->arena.elements) /* frozen: captions come in groups */
		return bert->arena.elements * sizeof(float);
	return counting.arena.used * sizeof(float);
}

int bert_plan(struct bert *bert, const struct model_limits *limits, struct err *err)
{
	struct batch_size size;
	int code;

	CHECK(bert->arena.memory == NULL && limits->captions > 0 && limits->tokens > 0);
	if (limits->tokens_per_caption < 1 || limits->tokens_per_caption > bert->config.max_positions)
		return err_set(err, ERR_LIMIT, "captions of %d tokens, but the text tower has %d positions; shorten them with "
			       "--max-len %d", limits->tokens_per_caption, bert->config.max_positions,
			       bert->config.max_positions);
	bert->limits = *limits;
	if ((code = reserve_products(bert, err)) != 0)
		return code;
	bert->offsets = mem_array((size_t)limits->captions + 1, sizeof(*bert->offsets));
	bert->positions = mem_array((size_t)limits->captions, sizeof(*bert->positions));
	if (bert->offsets == NULL || bert->positions == NULL)
		return err_nomem(err, ((size_t)limits->captions + 1) * sizeof(*bert->offsets));
	size = (struct batch_size){ (size_t)limits->tokens, (size_t)limits->captions, (size_t)limits->tokens_per_caption,
				    limits->recompute };
	plan(bert, &size);
	return arena_allocate(&bert->arena, err);
}

static struct norm_weights norm_of(const struct bert *bert, struct layer layer)
{
	return (struct norm_weights){ layer_weight(bert->params, layer), layer_bias(bert->params, layer),
				      (float)bert->config.norm_eps };
}

static struct dropout_spec dropout_named(const struct bert *bert, int site, float probability, float branch)
{
	return (struct dropout_spec){
		.probability = bert->call.dropout ? probability : 0.0f,
		.branch = bert->call.dropout ? branch : 0.0f,
		.layer = (uint32_t)site,
		.seed = bert->call.seed,
		.step = bert->call.step,
		.positions = bert->positions,
	};
}

static int site_of(int layer, int which)
{
	return SITE_FIRST + layer * SITES_PER_LAYER + which;
}

/* A site of a layer. Branches are dropped with a probability that grows linearly up to the last layer's. */
static struct dropout_spec dropout_at(const struct bert *bert, int layer, int which)
{
	float branch = bert->depth * (float)(layer + 1) / (float)bert->config.layers;
	bool probs = which == SITE_PROBS;

	return dropout_named(bert, site_of(layer, which), probs ? bert->attention : bert->hidden, probs ? 0.0f : branch);
}

static float *weight_grad(const struct bert *bert, struct layer layer)
{
	return bert->inputs_only ? NULL : layer_weight_grad(bert->params, layer);
}

static float *bias_grad(const struct bert *bert, struct layer layer)
{
	return bert->inputs_only ? NULL : layer_bias_grad(bert->params, layer);
}

static float *table_grad(const struct bert *bert, int index)
{
	return bert->inputs_only ? NULL : params_at(bert->params, index)->grad;
}

void bert_set_dropout(struct bert *bert, double hidden, double attention, double depth)
{
	bert->hidden = (float)hidden;
	bert->attention = (float)attention;
	bert->depth = (float)depth;
}

void bert_inputs_only(struct bert *bert, bool inputs_only)
{
	bert->inputs_only = inputs_only;
}

static struct attention_shape attention_of(const struct bert *bert, bool last)
{
	int W = bert->config.width;

	return (struct attention_shape){
		.offsets = bert->offsets,
		.captions = bert->C,
		.heads = bert->config.heads,
		.head_width = W / bert->config.heads,
		.ldq = last ? W : 3 * W,
		.ldkv = last ? 2 * W : 3 * W,
		.ldctx = W,
		.ldprobs = bert->ldprobs,
		.first_only = last,
	};
}

static struct packed_rows rows_of(const struct bert *bert, bool last)
{
	return (struct packed_rows){ bert->offsets, bert->C, last };
}

void bert_embed_forward(struct bert *bert, const int32_t *ids, int T, float *word)
{
	bert->kernels->dense->gather_rows(word, params_at(bert->params, bert->word)->value, ids, T, bert->config.width);
}

void bert_embed_backward(struct bert *bert, const int32_t *ids, int T, const float *dword)
{
	if (bert->inputs_only)
		return;
	bert->kernels->dense->scatter_rows(params_at(bert->params, bert->word)->grad, dword, ids, T, bert->config.width,
					   bert->config.pad_id);
}

/* Queries, keys and values of a layer, and the attention on them. */
static void forward_attention(struct bert *bert, int number)
{
	const struct dense_ops *ops = bert->kernels->dense;
	const struct encoder_layer *layer = &bert->layers[number];
	struct encoder_state *s = &bert->states[number];
	struct dropout_spec drop = dropout_at(bert, number, SITE_PROBS);
	bool last = number == bert->config.layers - 1;
	int W = bert->config.width;
	const float *weight = layer_weight(bert->params, layer->query), *bias = layer_bias(bert->params, layer->query);

	if (last) {
		ops->gather_first(s->first, s->in, rows_of(bert, true), W);
		ops->encoder_linear(s->q, s->first, weight, bias, linear_packed(bert->C, W, W), false);
		ops->encoder_linear(s->kv, s->in, weight + (size_t)W * W, bias + W, linear_packed(bert->T, W, 2 * W), false);
	} else {
		ops->encoder_linear(s->q, s->in, weight, bias, linear_packed(bert->T, W, 3 * W), false);
	}
	ops->attention(s->ctx, s->probs, s->q, s->kv, s->kv + W, attention_of(bert, last), &drop);
}

static void forward_layer(struct bert *bert, int number)
{
	const struct dense_ops *ops = bert->kernels->dense;
	const struct encoder_layer *layer = &bert->layers[number];
	struct encoder_state *s = &bert->states[number];
	bool last = number == bert->config.layers - 1;
	int W = bert->config.width, I = bert->config.inner, R = last ? bert->C : bert->T;
	struct packed_rows rows = rows_of(bert, last);
	struct dropout_spec drop = dropout_at(bert, number, SITE_ATTENTION);

	forward_attention(bert, number);
	ops->encoder_linear(s->sum1, s->ctx, layer_weight(bert->params, layer->attention_output), NULL, linear_packed(R, W, W), false);
	ops->residual_norm(s->y1, s->sum1, s->mean1, s->rstd1, layer_bias(bert->params, layer->attention_output),
			   last ? s->first : s->in, norm_of(bert, layer->attention_norm), W, rows, &drop);
	ops->encoder_linear(s->pre, s->y1, layer_weight(bert->params, layer->intermediate), NULL, linear_packed(R, W, I), false);
	ops->bias_gelu(bert->act, s->pre, layer_bias(bert->params, layer->intermediate), R, I);
	ops->encoder_linear(s->sum2, bert->act, layer_weight(bert->params, layer->output), NULL, linear_packed(R, I, W), false);
	drop = dropout_at(bert, number, SITE_OUTPUT);
	ops->residual_norm(s->y2, s->sum2, s->mean2, s->rstd2, layer_bias(bert->params, layer->output), s->y1,
			   norm_of(bert, layer->output_norm), W, rows, &drop);
}

/* Keeps what backward needs of a call. */
static void remember(struct bert *bert, const struct model_call *call, const uint32_t *offsets, int C)
{
	struct batch_size size;
	int longest = 1;

	CHECK(C > 0 && C <= bert->limits.captions && offsets[0] == 0 && offsets[C] <= (uint32_t)bert->limits.tokens);
	for (int c = 0; c < C; c++) {
		int length = (int)(offsets[c + 1] - offsets[c]);

		CHECK(offsets[c + 1] > offsets[c] && length <= bert->limits.tokens_per_caption);
		longest = length > longest ? length : longest;
		bert->positions[c] = call->positions == NULL ? (uint32_t)c : call->positions[c];
	}
	memcpy(bert->offsets, offsets, ((size_t)C + 1) * sizeof(*offsets));
	bert->call = *call;
	bert->C = C;
	bert->T = (int)offsets[C];
	bert->ldprobs = (int)ldprobs_of(longest);
	/* Side by side as this batch needs them, so that memory of longer ones is not touched. */
	size = (struct batch_size){ (size_t)bert->T, (size_t)C, (size_t)longest, bert->limits.recompute };
	plan(bert, &size);
}

void bert_forward(struct bert *bert, const struct model_call *call, const float *word, const uint32_t *offsets, int C,
		  float *t)
{
	const struct dense_ops *ops = bert->kernels->dense;
	int W = bert->config.width;

	remember(bert, call, offsets, C);
	struct dropout_spec drop = dropout_named(bert, SITE_EMBEDDINGS, bert->hidden, 0.0f);
	ops->embed_norm(bert->states[0].in, bert->embed_sum, bert->embed_mean, bert->embed_rstd, word,
			params_at(bert->params, bert->position)->value, params_at(bert->params, bert->type)->value,
			norm_of(bert, bert->embed_norm), W, rows_of(bert, false), &drop);
	for (int i = 0; i < bert->config.layers; i++)
		forward_layer(bert, i);
	ops->linear(t, bert->states[bert->config.layers - 1].y2, layer_weight(bert->params, bert->projector),
		    layer_bias(bert->params, bert->projector), linear_packed(C, W, bert->features), false);
}

/* Gradients of an encoder layer's parameters. bias false: done elsewhere. */
static void add_weight_gradients(const struct bert *bert, struct layer layer, const float *dy, const float *x,
				 struct linear_shape shape, bool bias)
{
	const struct dense_ops *ops = bert->kernels->dense;

	if (bert->inputs_only)
		return;
	ops->encoder_linear_weights(layer_weight_grad(bert->params, layer), dy, x, shape);
	if (bias)
		ops->sum_rows(layer_bias_grad(bert->params, layer), dy, shape.rows, shape.out, shape.ldy);
}

/* Through dropout, residual and LayerNorm: d (R, W) becomes the gradient of
 * the sum. Returns the gradient of the linear layer's output, which is d or e. */
static float *backward_norm(struct bert *bert, int number, int which, float *d, float *e)
{
	const struct encoder_layer *layer = &bert->layers[number];
	const struct encoder_state *s = &bert->states[number];
	bool attention = which == SITE_ATTENTION, last = number == bert->config.layers - 1;
	struct layer norm = attention ? layer->attention_norm : layer->output_norm;
	struct layer dense = attention ? layer->attention_output : layer->output;
	struct dropout_spec drop = dropout_at(bert, number, which);
	bool dropping = drop.probability > 0.0f || drop.branch > 0.0f;

	bert->kernels->dense->residual_norm_backward(
		d, dropping ? e : NULL, weight_grad(bert, norm), bias_grad(bert, norm), bias_grad(bert, dense), d,
		attention ? s->sum1 : s->sum2, attention ? s->mean1 : s->mean2, attention ? s->rstd1 : s->rstd2,
		norm_of(bert, norm), bert->config.width, rows_of(bert, last), &drop);
	return dropping ? e : d;
}

/* d (R, W): gradient of y2 -> of y1. */
static void backward_feed_forward(struct bert *bert, int number, float *d, float *e)
{
	const struct dense_ops *ops = bert->kernels->dense;
	const struct encoder_layer *layer = &bert->layers[number];
	const struct encoder_state *s = &bert->states[number];
	int W = bert->config.width, I = bert->config.inner, R = number == bert->config.layers - 1 ? bert->C : bert->T;
	const float *dout = backward_norm(bert, number, SITE_OUTPUT, d, e);

	ops->encoder_linear_input(bert->wide, dout, layer_weight(bert->params, layer->output), linear_packed(R, I, W), false);
	ops->gelu_backward(bert->wide, bert->act, s->pre, R, I);
	add_weight_gradients(bert, layer->output, dout, bert->act, linear_packed(R, I, W), false);
	add_weight_gradients(bert, layer->intermediate, bert->wide, s->y1, linear_packed(R, W, I), true);
	ops->encoder_linear_input(d, bert->wide, layer_weight(bert->params, layer->intermediate), linear_packed(R, W, I), true);
}

/* d (T, W): gradient of y1 -> of in. */
static void backward_attention(struct bert *bert, int number)
{
	const struct dense_ops *ops = bert->kernels->dense;
	const struct encoder_layer *layer = &bert->layers[number];
	const struct encoder_state *s = &bert->states[number];
	struct dropout_spec drop = dropout_at(bert, number, SITE_PROBS);
	int W = bert->config.width, T = bert->T;
	float *dqkv = bert->wide;
	const float *dout = backward_norm(bert, number, SITE_ATTENTION, bert->d, bert->e);

	add_weight_gradients(bert, layer->attention_output, dout, s->ctx, linear_packed(T, W, W), false);
	ops->encoder_linear_input(bert->f, dout, layer_weight(bert->params, layer->attention_output), linear_packed(T, W, W), false);
	ops->attention_backward(dqkv, dqkv + W, dqkv + 2 * W, bert->f, s->ctx, s->probs, s->q, s->kv, s->kv + W,
				attention_of(bert, false), &drop);
	add_weight_gradients(bert, layer->query, dqkv, s->in, linear_packed(T, W, 3 * W), true);
	ops->encoder_linear_input(bert->d, dqkv, layer_weight(bert->params, layer->query), linear_packed(T, W, 3 * W), true);
}

/* The last layer: d_first (C, W), gradient of y1 -> d (T, W), of in. */
static void backward_last_attention(struct bert *bert)
{
	const struct dense_ops *ops = bert->kernels->dense;
	int number = bert->config.layers - 1, W = bert->config.width, T = bert->T, C = bert->C;
	const struct encoder_layer *layer = &bert->layers[number];
	const struct encoder_state *s = &bert->states[number];
	struct dropout_spec drop = dropout_at(bert, number, SITE_PROBS);
	const float *weight = layer_weight(bert->params, layer->query);
	float *dq = bert->e_first, *dctx = bert->f, *dkv = bert->wide;
	const float *dout = backward_norm(bert, number, SITE_ATTENTION, bert->d_first, bert->e_first);

	add_weight_gradients(bert, layer->attention_output, dout, s->ctx, linear_packed(C, W, W), false);
	ops->encoder_linear_input(dctx, dout, layer_weight(bert->params, layer->attention_output), linear_packed(C, W, W), false);
	ops->attention_backward(dq, dkv, dkv + W, dctx, s->ctx, s->probs, s->q, s->kv, s->kv + W, attention_of(bert, true), &drop);
	add_weight_gradients(bert, layer->query, dq, s->first, linear_packed(C, W, W), true);
	add_weight_gradients(bert, layer->key, dkv, s->in, linear_packed(T, W, 2 * W), true);
	ops->encoder_linear_input(bert->d_first, dq, weight, linear_packed(C, W, W), true);
	ops->encoder_linear_input(bert->d, dkv, weight + (size_t)W * W, linear_packed(T, W, 2 * W), false);
	ops->scatter_first(bert->d, bert->d_first, rows_of(bert, true), W);
}

void bert_backward(struct bert *bert, const float *dt, float *dword)
{
	const struct dense_ops *ops = bert->kernels->dense;
	struct params *params = bert->params;
	int W = bert->config.width, F = bert->features, last = bert->config.layers - 1;
	struct dropout_spec drop = dropout_named(bert, SITE_EMBEDDINGS, bert->hidden, 0.0f);

	CHECK(bert->limits.training && bert->C > 0);
	if (!bert->inputs_only) {
		ops->linear_weights(layer_weight_grad(params, bert->projector), dt, bert->states[last].y2, linear_packed(bert->C, W, F));
		ops->sum_rows(layer_bias_grad(params, bert->projector), dt, bert->C, F, F);
	}
	ops->linear_input(bert->d_first, dt, layer_weight(params, bert->projector), linear_packed(bert->C, W, F), false);
	backward_feed_forward(bert, last, bert->d_first, bert->e_first);
	backward_last_attention(bert);
	for (int i = last - 1; i >= 0; i--) {
		if (bert->limits.recompute && i < last - 1) /* its buffers hold those of layer i + 1 */
			forward_layer(bert, i);
		backward_feed_forward(bert, i, bert->d, bert->e);
		backward_attention(bert, i);
	}
	ops->embed_norm_backward(dword == NULL ? bert->e : dword, table_grad(bert, bert->position), table_grad(bert, bert->type),
				 weight_grad(bert, bert->embed_norm), bias_grad(bert, bert->embed_norm), bert->d, bert->embed_sum, bert->embed_mean,
				 bert->embed_rstd, norm_of(bert, bert->embed_norm), W, rows_of(bert, false), &drop);
}
