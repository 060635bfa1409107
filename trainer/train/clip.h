/*
 * clip.h - the gradient's norm and what to multiply it by, as
 * torch.nn.utils.clip_grad_norm_: coefficient = min(1, max_norm / (norm + 1e-6)).
 */
#ifndef TRAINER_TRAIN_CLIP_H
#define TRAINER_TRAIN_CLIP_H

#include <math.h>

/* max_norm 0: no clipping. */
static inline float clip_coefficient(double norm, double max_norm)
{
	return max_norm > 0 ? (float)fmin(1.0, max_norm / (norm + 1e-6)) : 1.0f;
}

#endif
