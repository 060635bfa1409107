/*
 * adv_pgd.h - adv:method=pgd, several projected steps, of which the last counts.
 *
 * Madry et al., "Towards deep learning models resistant to adversarial attacks",
 * ICLR 2018 (with the clean loss beside the adversarial one, as fgm has it).
 *     init=0:   delta_1 = P(step eps g(x)/||g||), delta_{i+1} = P(delta_i + step eps g(x + delta_i)/||g||),
 *               k - 1 ascents; the first one uses the clean pass's gradient
 *     init=X:   delta_1 random of norm X eps, then k - 2 ascents
 *     objective = L(x) + weight L(x + delta_{k-1})
 * Passes at delta_1 .. delta_{k-2} give directions alone.
 *
 * Defaults: k=3, step=1.5/ascents, init=zero, weight=1.
 * Cost: k - 2 passes without parameters' gradients and one whole pass of what is behind the perturbation.
 */
#ifndef TRAINER_REG_ADV_PGD_H
#define TRAINER_REG_ADV_PGD_H

#include "trainer/reg/work.h"

#endif
