/*
 * adv_smart.h - adv:method=smart, predictions must not change around x.
 *
 * Jiang et al., "SMART: robust and efficient fine-tuning for pre-trained natural
 * language models through principled regularized optimization", ACL 2020: the
 * smoothness-inducing regularizer,
 *     R(delta) = KL(p||p_delta) + KL(p_delta||p),   p, p_delta = predictions at x and x + delta
 *     delta_1 random of norm init * eps,  delta_{i+1} = P(delta_i + step eps g/||g||), g = dR/ddelta
 *     objective = L(x) + weight R(delta_{k-1})
 * An ascent from a small random start is a step of power iteration on R's Hessian.
 * No labels are used in R. Its gradient goes through both predictions; through=adv
 * holds p fixed. The paper's second part, Bregman proximal point optimization
 * (staying close to a running mean of the weights), is not part of this term.
 *
 * Defaults: k=3 (clean, one for the direction, one that counts), init=0.1, step=1.5/(k-2), weight=1.
 * Cost: k - 2 passes without parameters' gradients, one whole one, and with through=both another
 * forward pass of perturbed towers, so that the clean side gets its share.
 * Metrics: adv_kl = R; adv_loss is the task's loss at the last delta.
 */
#ifndef TRAINER_REG_ADV_SMART_H
#define TRAINER_REG_ADV_SMART_H

#include "trainer/reg/work.h"

#endif
