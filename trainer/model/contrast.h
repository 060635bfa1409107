/*
 * contrast.h - the last stage of the contrastive task: how well pictures and captions find each other.
 *
 *     v, t -> unit vectors -> exp(logit_scale) * cosines (N, N) -> InfoNCE in both directions
 *
 * Its one parameter is `logit_scale`, the logarithm of 1/temperature, a scalar
 * that starts at ln(1/0.07) as in CLIP; contrast_settle() keeps it within 0
 * and ln(100) after each optimizer step.
 *
 * Threads, ownership, limits: as model.h. What backward needs is copied by forward.
 */
#ifndef TRAINER_MODEL_CONTRAST_H
#define TRAINER_MODEL_CONTRAST_H

#include "trainer/model/model.h"

struct kernels;
struct contrast;
MUST_USE int contrast_open(struct contrast **out, int features, const struct kernels *kernels, struct params *params,
			   struct err *err);
MUST_USE int contrast_plan(struct contrast *contrast, const struct model_limits *limits, struct err *err);
void contrast_close(struct contrast *contrast); /* NULL is fine */
size_t contrast_activation_bytes(const struct contrast *contrast);

/* logits (N, N), picture by caption, or NULL; nothing is left out of them. */
void contrast_forward(struct contrast *contrast, const float *v, int B, const float *t, int C, const struct model_pairs *pairs,
		      float *logits, struct model_result *result);
void contrast_backward(struct contrast *contrast, float scale, float *dv, float *dt);
/* While true, backward calls leave the parameter's gradient alone. */
void contrast_inputs_only(struct contrast *contrast, bool inputs_only);
void contrast_settle(struct contrast *contrast);
float contrast_log_scale(const struct contrast *contrast);

#endif
