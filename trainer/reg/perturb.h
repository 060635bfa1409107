/*
 * perturb.h - a perturbation of one kind of input, kept within a ball.
 *
 * A group is what is perturbed together: the word embeddings of one caption but
 * [CLS] and [SEP] (text), the features of one picture (feat), both features
 * of one pair (fused), one picture (pixel). Its ball has the radius
 *     eps                 norm=l2: ||delta||_2 <= eps,  norm=linf: |delta_i| <= eps
 *     rel * ||x||_2       norm=l2
 *     rel * rms(x)        norm=linf; so that a perturbation at its bound has rel times the norm of x
 * Pictures are measured and perturbed in picture space, where pixels lie in
 * [0, 1]: p = x * std + mean; p + delta never leaves [0, 1].
 *
 * Random perturbations are named by (seed, step, target, position, token, element).
 *
 * Threads:   one caller.
 * Ownership: the struct owns its buffers; x and gradients are borrowed for a call.
 */
#ifndef TRAINER_REG_PERTURB_H
#define TRAINER_REG_PERTURB_H

#include "trainer/kernels/kernels.h"
#include "trainer/model/model.h"
#include "trainer/reg/spec.h"
#include "trainer/reg/stages.h"

struct perturbation {
	enum reg_adv_target target;
	const struct kernels *kernels;
	int groups_max, rows_max, width_max;
	float *delta, *moved;    /* (rows, width): the perturbation; x + delta, of text and pixel */
	uint32_t *offsets;       /* (groups + 1) rows */
	uint32_t *position, *token; /* (rows) names */
	float *scale, *radius;   /* (groups); radius: per element for linf; 0: never perturbed */
	double *x2, *d2;         /* (groups) sums of squares of x, scratch */

	/* of the micro-batch at hand */
	int groups, rows, width;
	struct pixel_rows layout;
	enum reg_adv_norm norm;
};

MUST_USE int perturbation_open(struct perturbation *out, enum reg_adv_target target, const struct model_config *config,
			       const struct model_limits *limits, struct err *err);
void perturbation_close(struct perturbation *p);
size_t perturbation_bytes(enum reg_adv_target target, const struct model_config *config, const struct model_limits *limits);

/* Groups, names and radii for x, which is word, v, the joined features of the pairs, or pixels. eps: times the radius.
 * pair_picture, pair_caption: positions of the pairs, for fused. delta stays as it is. */
void perturbation_begin(struct perturbation *p, const struct reg_adv *spec, double eps, const struct stages *stages, const float *x,
			const uint32_t *pair_picture, const uint32_t *pair_caption);
void perturbation_zero(struct perturbation *p);
/* delta = a random point: norm=l2: of norm share * radius; linf: uniform within share * radius, or its corners. */
void perturbation_random(struct perturbation *p, double share, bool corners, uint64_t seed, uint64_t step);
/* delta += step * radius * g / ||g|| (linf: sign(g)), then back into the ball. A zero gradient moves nothing.
 * g, of pixel, is turned into the gradient in picture space in place. */
void perturbation_climb(struct perturbation *p, float *g, double step);
/* delta back into the ball (a carried one, whose radii are new). */
void perturbation_project(struct perturbation *p);
/* text, pixel: moved = x + delta (pixel: cut to [0, 1], delta too). */
void perturbation_apply(struct perturbation *p, const float *x);
/* Mean of ||delta|| / ||x|| over the groups that may be perturbed and are not zero. */
double perturbation_ratio(struct perturbation *p);

#endif
