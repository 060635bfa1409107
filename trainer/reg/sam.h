/*
 * sam.h - sharpness-aware minimization: the gradient is taken where the loss nearby is highest.
 *
 * Foret et al., "Sharpness-aware minimization for efficiently improving
 * generalization", ICLR 2021:
 *     e = rho g / ||g||_2,  g = gradient of the objective at w;  the step's gradient is that at w + e
 * mode=asam: Kwon et al., "ASAM: adaptive sharpness-aware minimization", ICML 2021:
 *     e = rho T^2 g / ||T g||_2,  T = |w| + eta for tensors called weight, 1 for biases; eta = 0.01
 * The objective is the whole of --reg but l2, which both modes leave out of g and
 * which is added at w (coupled) or applied by the optimizer (decoupled).
 *
 * Per micro-batch: with --accumulate each has its own e (the paper's m-sharpness). Both passes see the same
 * dropout masks and pairs; batch norm's running statistics move with the first alone.
 *
 * Default: rho = 0.05, mode=sam; rho = 0.5 for asam (the papers').
 * Cost: two whole passes, so 2.0 times a step, and a copy of the weights (with --accumulate two).
 * Metrics: sam_loss, the task's loss at w + e.
 *
 * Threads: one caller. Ownership: opaque.
 */
#ifndef TRAINER_REG_SAM_H
#define TRAINER_REG_SAM_H

#include "trainer/kernels/kernels.h"
#include "trainer/nn/params.h"
#include "trainer/reg/objective.h"

struct sam;

/* accumulates: gradients of earlier micro-batches have to be kept aside. */
MUST_USE int sam_open(struct sam **out, const struct reg_sam *spec, struct params *params, bool accumulates, struct err *err);
void sam_close(struct sam *sam); /* NULL is fine */

/* objective_run() at w and at w + e. report is that of the first pass, with the seconds of both; returns the loss of the second. */
double sam_run(struct sam *sam, struct objective *objective, struct stages *stages, enum model_mode image_mode,
	       struct objective_report *report);

#endif
