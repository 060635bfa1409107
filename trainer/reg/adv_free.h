/*
 * adv_free.h - adv:method=free, every minibatch is replayed and the perturbation carried on.
 *
 * Shafahi et al., "Adversarial training for free!", NeurIPS 2019 (algorithm 1):
 * one backward pass gives the gradient for the weights and for the perturbation.
 *     k times with the same minibatch:
 *         objective = L(x + delta);  the optimizer updates the weights
 *         delta <- P(delta + step eps g(x + delta)/||g||)       (norm=linf, step=1: the paper's)
 * delta starts at zero in the run's first minibatch and is carried from one
 * minibatch to the next, by place in the batch: caption and token, picture,
 * pair. It is state, and lies in checkpoints (reg.delta.* in optimizer.safetensors).
 *
 * A step of the run has k updates, all with its learning rate, and the weight decay
 * of each; the paper divides the number of epochs by k, so that the cost is that of natural training: here
 * that is --epochs. Batch norm's running statistics move once, with the clean
 * forward pass in front of the replays, which also gives the metrics. Dropout
 * masks are the same in all replays. Needs --accumulate 1.
 *
 * Defaults: k=3, step=1.
 * Cost: k times a step, and for perturbed towers one forward pass.
 */
#ifndef TRAINER_REG_ADV_FREE_H
#define TRAINER_REG_ADV_FREE_H

#include "trainer/reg/work.h"

/* Updates of the optimizer in the run's first `steps` steps. */
uint64_t adv_free_updates(const struct reg_spec *spec, uint64_t steps, uint64_t steps_per_epoch);

#endif
