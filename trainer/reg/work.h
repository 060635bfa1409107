/*
 * work.h - inside the objective: one micro-batch while its passes run.
 *
 * Private to objective.c, fused.c, rdrop.c and adv*.c. A pass is: towers that
 * must run again, the fusion stage, a loss on its logits, and the way back.
 * Gradients at v and t of passes with the clean masks are summed in
 * stages->dv and dt until finish() sends them through the towers.
 *
 * Threads, ownership: as objective.h.
 */
#ifndef TRAINER_REG_WORK_H
#define TRAINER_REG_WORK_H

#include "trainer/reg/objective.h"
#include "trainer/reg/perturb.h"

enum { MASKS_FIRST, MASKS_SECOND }; /* R-Drop's second pass draws other ones */

struct objective {
	const struct reg_spec *spec;
	const struct kernels *kernels;
	struct model_config config;
	struct reg_moment moment;
	size_t F, W, K;

	/* of the step */
	double image_drop, text_drop;       /* dropout of the towers' features */
	bool image_random, text_random;     /* running a tower again with other masks gives something else */
	bool mixing, smoothing, rdrop, adversary;
	double eps_share;                   /* of adv's eps, in its warm-up */

	/* of the micro-batch */
	struct stages *s;
	bool own_loss;                      /* the model's cross-entropy is the loss, and gives its gradient */
	bool expanded;                      /* a row for each pair goes into the fusion stage */
	uint32_t *iota, *picture, *caption, *picture2, *caption2; /* (N) rows of v and t of each pair and its partner */
	uint32_t *pair_picture, *pair_caption, *partner;          /* (N) positions; partner */
	float *share;                       /* (N) */
	int32_t *label2;                    /* (N) */
	double *sums;                       /* (N) scratch */
	float *vx, *tx, *dvx, *dtx;         /* (N, F) */
	float *joined, *dfused;             /* (N, 2F) pairs as they are perturbed; gradient there */

	float *v_raw, *t_raw;               /* (B, F), (C, F) before their dropout, where there is some */
	float *dv_other, *dt_other;         /* likewise: gradients before dropout, of passes with other masks */
	bool other_v, other_t;              /* they hold something */
	float *dropped;                     /* (max(B, C), F) scratch */
	float *base;                        /* (N, K) logits of the base pass, which stages->logits are unless pairs are mixed */
	float *dz, *dz2, *z2, *dz_kl;       /* (N, K) */
	float *v2, *dv2, *t2, *dt2;         /* (B, F), (C, F) of the second or adversarial pass */
	float *dv_clean;                    /* (B, F) villa: gradient at v of the base loss alone */

	/* adversary */
	unsigned active;                    /* targets that are perturbed in the passes at hand */
	struct perturbation of[ADV_TARGETS];
	float *carried;                     /* (captions, tokens_per_caption, W) free: the words' perturbation by place */
	int captions_max, tokens_per_caption;
	float *dpixels;                     /* (B, 3, S, S) */
	float *dword;                       /* (T, W) gradient at perturbed words */
	double base_weight;                 /* of the base loss in the objective */
	bool text_sent, image_sent;         /* stages->dt, dv have been sent through the towers and start anew */
	bool text_moved, image_moved;       /* the tower's activations are those of another pass, or spent by a way back */
	double adv_seconds;                 /* that the batch would not have taken without the adversary */
	enum model_mode again_mode;         /* of the image tower's passes behind the clean one */
};

static inline struct perturbation *perturbed(struct objective *o, enum reg_adv_target target)
{
	return &o->of[target == ADV_TEXT ? 0 : target == ADV_FEAT ? 1 : target == ADV_FUSED ? 2 : 3];
}

/* fused.c: the fusion stage on the pairs as --reg has them. */
void fused_begin(struct objective *o);
/* joined = [v; t] of each pair, mixed. */
void fused_join(struct objective *o, const float *v, const float *t);
/* delta (N, 2F), or NULL. logits may be NULL. */
void fused_forward(struct objective *o, const float *v, const float *t, const float *delta, int masks, float *logits,
		   struct model_result *result);
/* Backward from dlogits, or, where those are NULL, of scale * the model's own loss. dfused (N, 2F) may be NULL. */
void fused_backward(struct objective *o, const float *dlogits, double scale, float *dv, float *dt, float *dfused);
/* The base loss of logits: value, and dz = scale * gradient. Not where own_loss. */
double base_loss(struct objective *o, const float *logits, double scale, float *dz);

/* objective.c: towers, with the dropout of their features */
void tower_image_forward(struct objective *o, const float *pixels, enum model_mode mode, int masks, float *v);
void tower_text_forward(struct objective *o, const float *word, int masks, float *t);
void tower_image_backward(struct objective *o, const float *dv, int masks, float *dpixels);
void tower_text_backward(struct objective *o, const float *dt, int masks, float *dword);
/* out = mask * x of the features' dropout */
void drop_image(struct objective *o, float *out, const float *x, int masks);
void drop_text(struct objective *o, float *out, const float *x, int masks);
struct model_call work_call(const struct objective *o, int masks);

/* rdrop.c: loss is the first pass's; returns that of both with the divergence. dz holds the first pass's gradient. */
double rdrop_run(struct objective *o, const float *logits, double loss, struct objective_report *report);

/* adv.c */
void adv_run(struct objective *o, struct objective_report *report);
/* Sets radii for the clean inputs of the targets in `targets`. */
void adv_begin(struct objective *o, unsigned targets);
/* Gradients at the clean inputs: sends dt and dv through perturbed towers. later: without parameters, which adv_finish()
 * does, when more has been added to dt and dv. */
void adv_clean_gradients(struct objective *o, bool later);
void adv_start(struct objective *o, double share, bool corners);
/* dv: gradient at v (stages->dv behind the clean pass, dv2 behind another). */
void adv_climb_from(struct objective *o, double step, float *dv);
/* A pass at x + delta of the active targets; z2 holds its logits. */
void adv_forward(struct objective *o, struct model_result *result);
/* What a way back is for. */
enum adv_way {
	ADV_INPUTS, /* gradients of the inputs alone: the next climb */
	ADV_BOTH,   /* those of the parameters, too */
	ADV_LAST,   /* of the parameters: nobody climbs from here, so frozen towers' features need none */
};
/* dlogits NULL: of scale * own loss. */
void adv_backward(struct objective *o, const float *dlogits, double scale, enum adv_way way);
/* Forward, loss, backward of weight * the base loss at x + delta. Returns the loss. */
double adv_pass(struct objective *o, double weight, enum adv_way way);
void adv_note(struct objective *o, struct objective_report *report, double loss);
/* The clean side's share of a divergence, dz_kl, through the fusion stage into dv and dt. */
void adv_clean_share(struct objective *o);

typedef void adv_method(struct objective *o, struct objective_report *report);
adv_method adv_fgm, adv_pgd, adv_freelb, adv_villa, adv_smart, adv_free, adv_noise;

#endif
