/*
 * adv.h - adversarial training on word embeddings and image features.
 *
 * FGM: Miyato, Dai and Goodfellow, "Adversarial training methods for
 * semi-supervised text classification", ICLR 2017; the sign form (norm=linf)
 * is Goodfellow et al., "Explaining and harnessing adversarial examples", ICLR
 * 2015. With g the gradient of the task's loss L(x) with respect to x,
 *     r = eps * g / ||g||_2   (norm=l2),   r = eps * sign(g)   (norm=linf)
 *     total = L(x) + weight * L(x + r)
 * where r counts as a constant. x is
 *     text: the word embeddings of one caption, all its tokens together;
 *           [CLS] and [SEP] are never perturbed
 *     feat: the feature vector v of one picture
 * and with text+feat both are perturbed in the same adversarial pass. With
 * rel=R, eps is R times the l2 norm of that x (R times its root mean square
 * per element for linf), so that a perturbation has the same share of small
 * and large embeddings. A zero gradient perturbs nothing.
 *
 * Only stages behind a perturbation run again (stages.h): text re-runs the text
 * tower and the fusion stage, feat the fusion stage alone; the gradients that
 * both passes send into the image tower are added and sent back once. This
 * is exact, not an approximation: dropout masks are named, so the second pass
 * draws the same ones, and batch norm's statistics are those of the one
 * image pass.
 *
 * Defaults: method=fgm, target=text+feat, rel=0.03, norm=l2, weight=1. Relative
 * because word embeddings drawn from N(0, 0.02) have an l2 norm near 1 for a
 * whole caption: the customary eps = 1, made for pre-trained embeddings, would
 * drown them. 0.03 because 0.1 on words keeps a model that starts from random
 * weights on its plateau (docs/training.md has the measurements).
 * Cost: one more pass of the text tower (text), or next to nothing (feat).
 *
 * Threads: one caller. Ownership: borrows the stages for one call.
 */
#ifndef TRAINER_REG_ADV_H
#define TRAINER_REG_ADV_H

#include "trainer/reg/spec.h"
#include "trainer/reg/stages.h"

struct adversary; /* buffers of the adversarial pass */

/* What a pass did, for metrics. */
struct adv_report {
	double loss;             /* L(x + r), without the weight */
	double text_ratio;       /* mean of ||r|| / ||x|| over captions; 0 where text is no target */
	double feat_ratio;       /* the same over pictures */
	double seconds;          /* that the clean pass would not have taken */
};

MUST_USE int adversary_open(struct adversary **out, const struct model_config *config, const struct model_limits *limits,
			    struct err *err);
void adversary_close(struct adversary *adversary); /* NULL is fine */

/* After stages_clean(): adds the parameter gradients of the whole text side and
 * the fusion stage for clean and adversarial pass, and leaves in stages->dv
 * the sum that the image tower is to send back. */
void adversary_run(struct adversary *adversary, const struct reg_adv *spec, struct stages *stages, struct adv_report *report);

#endif
