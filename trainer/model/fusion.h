/*
 * fusion.h - the fusion stage: pairs of features to logits and loss.
 *
 *     [v; t] -> Dropout(p) -> Linear(2F, F) -> ReLU -> LayerNorm(F) -> Linear(F, K) -> cross-entropy
 *
 * Names: fusion_layer.1 (linear), fusion_layer.3 (LayerNorm, eps 1e-5), head;
 * initial values are torch.nn's defaults.
 *
 * Without dropout the first product is split: W [v; t] = Wv v + Wt t is worked
 * out once for each picture and caption and added up per pair, so scoring all
 * B*C pairs costs little more than B + C. With dropout every pair has a mask
 * of its own and the whole product is needed.
 *
 * Threads, ownership, limits: as model.h. Pairs, positions, v and t are copied
 * by the forward call for the backward call.
 */
#ifndef TRAINER_MODEL_FUSION_H
#define TRAINER_MODEL_FUSION_H

#include "trainer/model/model.h"

/* Dropout sites, beyond every layer of the text tower. */
enum { SITE_FUSION = 0xF00, SITE_HEAD = 0xF01 };

struct kernels;
struct fusion;
MUST_USE int fusion_open(struct fusion **out, int features, int classes, const struct kernels *kernels,
			 struct params *params, struct err *err);
/* dropout: whether a call may ever use it; its buffers are the largest. */
MUST_USE int fusion_plan(struct fusion *fusion, const struct model_limits *limits, bool dropout, struct err *err);
void fusion_close(struct fusion *fusion); /* NULL is fine */
size_t fusion_activation_bytes(const struct fusion *fusion, const struct model_limits *batch);

void fusion_forward(struct fusion *fusion, const struct model_call *call, float dropout, const float *v, int B,
		    const float *t, int C, const struct model_pairs *pairs, const uint32_t *picture_positions,
		    const uint32_t *caption_positions, float *logits, struct model_result *result);
void fusion_backward(struct fusion *fusion, float scale, float *dv, float *dt);
/* From a gradient of the logits (N, K) that somebody else's loss gave. */
void fusion_backward_from(struct fusion *fusion, const float *dlogits, float *dv, float *dt);
/* Between LayerNorm and head, a mask for each pair; 0 until this is called. */
void fusion_set_head_dropout(struct fusion *fusion, double probability);
/* While true, backward calls leave parameters' gradients alone. */
void fusion_inputs_only(struct fusion *fusion, bool inputs_only);

#endif
