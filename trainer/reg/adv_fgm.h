/*
 * adv_fgm.h - adv:method=fgm, one step along the gradient.
 *
 * Miyato, Dai and Goodfellow, "Adversarial training methods for semi-supervised
 * text classification", ICLR 2017; the sign form (norm=linf) is Goodfellow et
 * al., "Explaining and harnessing adversarial examples", ICLR 2015.
 *     g = dL/dx at x,   r = eps g / ||g||_2  (linf: eps sign(g))
 *     objective = L(x) + weight L(x + r)
 * A zero gradient perturbs nothing.
 *
 * Defaults: rel=0.1, growing over the first 4 epochs, norm=l2, weight=1. Relative because word embeddings drawn
 * from N(0, 0.02) have an l2 norm near 1 for a whole caption: the customary
 * eps = 1, made for pre-trained embeddings, would drown them.
 * Cost: one more pass of what is behind the perturbation: the text tower (text),
 * the image tower (pixel), next to nothing (feat, fused).
 */
#ifndef TRAINER_REG_ADV_FGM_H
#define TRAINER_REG_ADV_FGM_H

#include "trainer/reg/work.h"

#endif
