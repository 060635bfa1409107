/*
 * bert.h - the text tower: BERT's encoder on packed captions, and the projection of [CLS].
 *
 * Names under `text_encoder.` are those of Hugging Face's BertModel, and so
 * are semantics and initial values (word, position and type embeddings,
 * LayerNorm, GELU in the erf form, dropout on embeddings,
 * attention probabilities and both outputs of a layer). Its pooler is carried
 * along unused. `text_projector` maps the state of a caption's first token to
 * the features.
 *
 * Tokens lie packed, without padding; a caption attends to itself. The last
 * layer computes queries, outputs and everything behind them for first tokens
 * alone, since nothing else of it is used.
 *
 * Threads, ownership, limits: as model.h.
 */
#ifndef TRAINER_MODEL_BERT_H
#define TRAINER_MODEL_BERT_H

#include "trainer/model/model.h"

enum { BERT_LAYERS_MAX = 48 };

/* Dropout sites: the embeddings, then three of each layer, layer * SITES_PER_LAYER + SITE_FIRST + which. */
enum { SITE_EMBEDDINGS, SITE_FIRST, SITE_PROBS = 0, SITE_ATTENTION = 1, SITE_OUTPUT = 2, SITES_PER_LAYER = 3 };

struct kernels;
struct bert;
/* ERR_LIMIT or ERR_USAGE when the sizes cannot be had. Registers its
 * parameters; params_allocate() follows, then bert_plan(). */
MUST_USE int bert_open(struct bert **out, const struct bert_config *config, int out_features,
		       const struct kernels *kernels, struct params *params, struct err *err);
MUST_USE int bert_plan(struct bert *bert, const struct model_limits *limits, struct err *err);
void bert_close(struct bert *bert); /* NULL is fine */
size_t bert_activation_bytes(const struct bert *bert, const struct model_limits *batch, bool recompute);

/* Probabilities from now on: of hidden states and of attention (until then those of the configuration),
 * and of the last layer's branches (stochastic depth, 0 until then; layer l of L has l/L of it). */
void bert_set_dropout(struct bert *bert, double hidden, double attention, double depth);
/* While true, backward calls leave parameters' gradients alone, and cost less. */
void bert_inputs_only(struct bert *bert, bool inputs_only);

void bert_embed_forward(struct bert *bert, const int32_t *ids, int T, float *word);
/* The row of the padding id gets no gradient, as with torch.nn.Embedding(padding_idx). */
void bert_embed_backward(struct bert *bert, const int32_t *ids, int T, const float *dword);
void bert_forward(struct bert *bert, const struct model_call *call, const float *word, const uint32_t *offsets, int C,
		  float *t);
void bert_backward(struct bert *bert, const float *dt, float *dword);

#endif
