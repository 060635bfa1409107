/*
 * rdrop.h - two passes with other dropout masks must agree.
 *
 * Liang et al., "R-Drop: regularized dropout for neural networks", NeurIPS 2021.
 * With p1, p2 the predictions of two passes of the same minibatch,
 *     loss = (CE(p1) + CE(p2)) / 2 + weight/2 * (KL(p1||p2) + KL(p2||p1))
 * averaged over pairs by their weights. (The paper's formula has the sum of the
 * cross-entropies; here their mean, so that the loss keeps the scale of the
 * other arms: weight is the paper's alpha over 2.) Gradients go through both passes.
 *
 * What runs twice depends on where something is dropped: the fusion stage
 * always, the text tower with dropout or stochastic depth inside BERT, the
 * image tower with stochastic depth. Towers that only have dropout on their features run
 * once. The second pass's masks are those of the step number + 2^62. A tower
 * that ran twice is run forward once more, with the first masks, for its backward pass: activations
 * are kept for one pass.
 *
 * Default: weight 1. Works on whatever dropout the run has; without any it does nothing but cost time.
 * Cost: with BERT's own dropout (0.1) about one and a third text towers more.
 * Metrics: rdrop_kl, the divergence without its weight.
 */
#ifndef TRAINER_REG_RDROP_H
#define TRAINER_REG_RDROP_H

#include "trainer/reg/work.h"

#endif
