/*
 * adv_freelb.h - adv:method=freelb, the mean over the passes of an ascent.
 *
 * Zhu et al., "FreeLB: enhanced adversarial training for natural language
 * understanding", ICLR 2020 (algorithm 1): the gradient of every pass is used.
 *     delta_{i+1} = P(delta_i + step eps g(x + delta_i)/||g||)
 *     objective = 1/k sum_{i=0}^{k-1} L(x + delta_i)
 * init=zero: delta_0 = 0, so the first of the k passes is the clean one.
 * init=X: delta_0 is random of norm X eps (the paper's start; the norm is drawn
 * there, fixed here); then no pass is clean, and one forward pass is added for the metrics.
 * All passes have the same dropout masks, as in the paper.
 *
 * Defaults: k=3, step=1.5/(k-1), init=zero. There is no weight: all passes weigh the same.
 * Cost: k - 1 more passes of what is behind the perturbation.
 */
#ifndef TRAINER_REG_ADV_FREELB_H
#define TRAINER_REG_ADV_FREELB_H

#include "trainer/reg/work.h"

#endif
