/*
 * adv_noise.h - adv:method=noise (also --reg noise), random noise of the same norm: the control.
 *
 *     u ~ N(0, I),  r = eps u / ||u||_2      (norm=linf: eps times random signs)
 *     objective = L(x) + weight L(x + r)
 * the same as fgm but for the direction, so that an arm with it tells how much
 * of an adversary's effect is noise and another pass. r is named by (seed, step,
 * target, position, token, element).
 *
 * Defaults and cost: those of fgm.
 */
#ifndef TRAINER_REG_ADV_NOISE_H
#define TRAINER_REG_ADV_NOISE_H

#include "trainer/reg/work.h"

#endif
