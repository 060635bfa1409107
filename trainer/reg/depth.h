/*
 * depth.h - stochastic depth: residual branches are dropped whole.
 *
 * Huang et al., "Deep networks with stochastic depth", ECCV 2016, with the
 * linear decay rule: the branch of block (layer) l of L, l = 1 .. L, is dropped with
 * probability p_l = p l / L. Drawn for each picture and caption alone (the "row" mode of
 * torchvision's StochasticDepth), what is kept is multiplied by 1 / (1 - p_l), so
 * evaluation needs no change:
 *     image  a residual block:  out = relu(shortcut + b/(1 - p_l) branch(x)), behind the branch's last batch norm
 *     text   a layer of BERT:   LayerNorm(x + b/(1 - p_l) dropout(attention(x))), and the same for its
 *            feed-forward part, each with a draw of its own
 * b is 0 or 1, named by (seed, step, layer, position). Batch statistics are those of all pictures.
 *
 * Default: p = 0.1, at=image+text. Off at evaluation.
 * Cost: next to nothing, and nothing is saved: branches are computed for the whole batch.
 * The draws are in kernels/dropout.h (branch_factor).
 */
#ifndef TRAINER_REG_DEPTH_H
#define TRAINER_REG_DEPTH_H

#include "trainer/reg/spec.h"

#endif
