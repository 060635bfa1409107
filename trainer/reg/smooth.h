/*
 * smooth.h - label smoothing.
 *
 * Szegedy et al., "Rethinking the Inception architecture for computer vision",
 * CVPR 2016, as torch.nn.CrossEntropyLoss(label_smoothing=s) has it: with K classes the target is
 *     q = (1 - s) onehot(y) + s / K
 * and the loss the cross-entropy to q, averaged over pairs by their weights. Works
 * on every pass's loss, an adversary's too, and on both labels of a mixed pair. The loss
 * and accuracy in metrics stay those of the labels themselves.
 *
 * Default: s = 0.1. Cost: nothing. The kernel is soft_cross_entropy (kernels/reg_ops.h), called in fused.c.
 */
#ifndef TRAINER_REG_SMOOTH_H
#define TRAINER_REG_SMOOTH_H

#include "trainer/reg/spec.h"

#endif
