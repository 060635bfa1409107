/*
 * objective.h - what --reg makes of a micro-batch's loss, and its gradients.
 *
 *     clean pass -> base loss (smooth.h, mixup.h, rdrop.h) -> adversary (adv.h) -> towers backward
 *
 * objective_run() runs the stages forward and backward and adds the gradient
 * of the whole objective to the parameters'. Stages that a perturbation does
 * not touch run once: what the passes send into them is summed and sent back
 * once, which is exact, since their activations, dropout masks and batch
 * statistics are those of the one pass. L2 (l2.h), SAM (sam.h) and early
 * stopping (early.h) work around this, in the training step.
 *
 * Dropout masks are named, so passes of one step have the same ones, but
 * for R-Drop's second pass. Batch norm's running statistics move with the clean
 * pass alone.
 *
 * Threads:   one caller.
 * Ownership: opaque; the stages are borrowed for a call.
 * Limits:    those of the model it was opened for, with objective_fused_rows() as model_limits.fused_rows.
 */
#ifndef TRAINER_REG_OBJECTIVE_H
#define TRAINER_REG_OBJECTIVE_H

#include "trainer/reg/spec.h"
#include "trainer/reg/stages.h"

/* The towers' features have dropout sites of their own, beside those of bert.h and fusion.h. */
enum { SITE_IMAGE = 0xF10, SITE_TEXT = 0xF11 };
/* R-Drop's second masks have a step number that no run reaches. */
#define OBJECTIVE_SECOND ((uint64_t)1 << 62)

struct objective;

/* Where in the run a step stands. */
struct reg_moment {
	uint64_t step, epoch, steps_per_epoch;
};

/* What a micro-batch gave, for metrics. */
struct objective_report {
	struct model_result clean;     /* the task's loss alone, on the pairs as they are */
	double objective;              /* all that is minimized, without l2 */
	bool rdrop;                    /* the term worked in this step */
	double rdrop_kl;               /* KL(p1||p2) + KL(p2||p1), without the weight */
	bool adv;
	double adv_loss;               /* at the last perturbation, without the weight */
	double adv_kl;                 /* villa, smart: divergence there */
	double ratio[ADV_TARGETS];     /* ||delta|| / ||x||: text, feat, fused, pixel; 0 where that is no target */
	double adv_seconds;            /* that the step would not have taken without the adversary */
};

/* What --reg cannot do with this task; ERR_USAGE says why. text: the specification as it was given. */
MUST_USE int objective_check(const struct reg_spec *spec, const char *text, enum model_task task, struct err *err);
/* Rows of features that the fusion stage takes: 0, or one for each pair. */
int objective_fused_rows(const struct reg_spec *spec, const struct model_limits *limits);
MUST_USE int objective_open(struct objective **out, const struct reg_spec *spec, const struct model_config *config,
			    const struct model_limits *limits, struct err *err);
void objective_close(struct objective *objective); /* NULL is fine */

/* Before the first micro-batch of a step: the model's probabilities of dropping. */
void objective_begin(struct objective *objective, struct model *model, const struct reg_moment *moment);
/* Adds the gradients of scale * objective of one micro-batch to the parameters'. image_mode: MODEL_TRAIN, or
 * MODEL_TRAIN_KEEP where running statistics are not to move. stages->logits: of the clean pass. */
void objective_run(struct objective *objective, struct stages *stages, enum model_mode image_mode, struct objective_report *report);

/* adv:method=free, which updates the weights within a minibatch: replays to come (1: none of that). Replay i > 0 must follow
 * an update; objective_run() is replay 0. */
int objective_replays(const struct objective *objective);
void objective_replay(struct objective *objective, struct stages *stages, struct objective_report *report);

/* What was drawn and found in the last objective_run(), for `trainer probe`; valid until the next call. */
struct objective_draws {
	const uint32_t *partner; /* mixup: (pairs), or NULL */
	const float *share;
	const float *delta[ADV_TARGETS]; /* the last perturbation, or NULL: text packed (tokens, W), feat, fused, pixel */
	int width[ADV_TARGETS], rows[ADV_TARGETS];
	double image_drop, text_drop;
};
void objective_draws(const struct objective *objective, struct objective_draws *out);
/* Draws the perturbation that the pass began with again, in the place of the last one. */
void objective_start_again(struct objective *objective);

/* Perturbations that are carried from step to step (free); they belong into a checkpoint. */
struct objective_state {
	const char *name;
	float *data;
	int64_t rows, width;
};
/* Updates of the optimizer in the run's first `steps` steps; as many but for free. */
uint64_t objective_updates(const struct reg_spec *spec, uint64_t steps, uint64_t steps_per_epoch);
int objective_states(struct objective *objective, struct objective_state out[ADV_TARGETS]);

#endif
