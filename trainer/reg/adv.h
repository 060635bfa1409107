/*
 * adv.h - adversarial training: what its methods have in common.
 *
 * x is what is perturbed, in groups (perturb.h):
 *     text   the word embeddings of one caption together, but [CLS] and [SEP]; there is no padding
 *     feat   the feature vector v of one picture
 *     fused  the features [v; t] of one pair
 *     pixel  one picture, in [0, 1]
 * With a sum of targets all of them are perturbed in the same pass (villa: each alone).
 * An ascent step is  delta <- P(delta + step * eps * g / ||g||)  (linf: sign(g)), g the gradient of what the
 * method climbs at x + delta, P the projection on the ball of radius eps (or rel times the norm of x).
 * Perturbations count as constants for the parameters' gradient. L is the step's base loss: with
 * label smoothing and mixup where those work; with R-Drop the first ascent climbs R-Drop's objective through its first pass.
 *
 *     method   objective                                            file
 *     fgm      L(x) + weight L(x + delta)                           adv_fgm.h
 *     pgd      the same, delta by k - 1 ascents                     adv_pgd.h
 *     freelb   mean of L over k passes                              adv_freelb.h
 *     villa    L(x) + weight mean(L + kl KL), each target alone     adv_villa.h
 *     smart    L(x) + weight KL                                     adv_smart.h
 *     free     L(x + delta), an update in each replay               adv_free.h
 *     noise    fgm with a random direction: the control             adv_noise.h
 *
 * k counts all passes through the stages, the clean one included. Stages that
 * a perturbation does not touch run once, exactly (objective.h): text re-runs the
 * text tower and the fusion stage, feat and fused the fusion stage, pixel the
 * image tower and the fusion stage. Passes that only look for a direction leave the parameters' gradients out.
 * Batch norm: an adversarial pass of the image tower uses its own batch statistics and does not move the running ones.
 *
 * Schedules: @E and @E-F (epochs), every=N (steps), warmup=W (eps grows linearly
 * from 0 over W epochs or steps from the term's start on).
 *
 * Threads: one caller.
 */
#ifndef TRAINER_REG_ADV_H
#define TRAINER_REG_ADV_H

#include "trainer/reg/work.h"

#endif
