/*
 * adv_villa.h - adv:method=villa, each modality alone, with a divergence from the clean prediction.
 *
 * Gan et al., "Large-scale adversarial training for vision-and-language
 * representation learning", NeurIPS 2020 (algorithm 1). For every target m alone,
 *     A_m(delta) = L(x_m + delta) + kl (KL(p_delta||p) + KL(p||p_delta)),  p = prediction at x
 *     delta_1 from the clean gradient (where the divergence has none), delta_{i+1} = P(delta_i + step eps g/||g||), g = dA_m/ddelta
 *     objective = L(x) + weight sum_m 1/(k-1) sum_{i=1}^{k-1} A_m(delta_i)
 * init=X: delta_1 is random of norm X eps. The divergence's gradient goes
 * through both predictions; through=adv holds p fixed.
 *
 * Defaults: k=3, kl=1, weight=1, step=1.5/(k-1), init=zero. The paper's targets are text+feat.
 * Cost: with text k - 1 passes of the text tower, and one to send back what the clean
 * side gets from the divergence (through=adv with one target: not needed).
 * Metrics: adv_loss is the mean over targets of L, adv_kl that of the divergence, at the last delta.
 */
#ifndef TRAINER_REG_ADV_VILLA_H
#define TRAINER_REG_ADV_VILLA_H

#include "trainer/reg/work.h"

#endif
