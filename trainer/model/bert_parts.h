/*
 * bert_parts.h - inside the text tower: its layers, what is kept of a forward pass, and what both directions ask about a layer.
 *
 * Private to model/. T is tokens, C captions, W the width, I the inner width of a call.
 */
#ifndef TRAINER_MODEL_BERT_PARTS_H
#define TRAINER_MODEL_BERT_PARTS_H

#include "shared/base/mem.h"
#include "trainer/kernels/kernels.h"
#include "trainer/model/bert.h"
#include "trainer/nn/arena.h"
#include "trainer/nn/layers.h"

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

/* What decides how much memory a call needs. */
struct bert_size {
	size_t tokens, captions, longest;
	bool recompute;
};

/* bert_memory.c: gives every buffer its place, side by side as a call of this size needs them. */
void bert_lay_out(struct bert *bert, const struct bert_size *size);
/* bert_forward.c; backward makes a layer again with it. */
void bert_forward_layer(struct bert *bert, int number);

static inline size_t bert_ldprobs(int longest)
{
	return size_round_up((size_t)longest, DENSE_SCORE_ALIGN);
}

static inline struct norm_weights bert_norm(const struct bert *bert, struct layer layer)
{
	return (struct norm_weights){ layer_weight(bert->params, layer), layer_bias(bert->params, layer),
				      (float)bert->config.norm_eps };
}

static inline struct dropout_spec bert_dropout(const struct bert *bert, int site, float probability, float branch)
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

/* A site of a layer. Branches are dropped with a probability that grows linearly up to the last layer's. */
static inline struct dropout_spec bert_layer_dropout(const struct bert *bert, int layer, int which)
{
	float branch = bert->depth * (float)(layer + 1) / (float)bert->config.layers;
	bool probs = which == SITE_PROBS;

	return bert_dropout(bert, SITE_FIRST + layer * SITES_PER_LAYER + which, probs ? bert->attention : bert->hidden, probs ? 0.0f : branch);
}

static inline struct attention_shape bert_attention(const struct bert *bert, bool last)
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

static inline struct packed_rows bert_rows(const struct bert *bert, bool last)
{
	return (struct packed_rows){ bert->offsets, bert->C, last };
}

#endif
