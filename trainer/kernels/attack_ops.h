/*
 * attack_ops.h - moving inputs where an attack wants them, within bounds.
 *
 * Pixels are (rows, 3) floats, normalized: channel c of x01 in [0, 1] is
 * (x01 - mean[c]) / std[c]. Bounds are those of picture space: within eps of
 * the clean value (linf), and never below 0 or above 1.
 *
 * Words are the packed embeddings (tokens, width) of captions; the words of
 * one caption move together, within eps times their l2 norm, and its first and last
 * token ([CLS] and [SEP]) never move.
 *
 * Random numbers are named by (key, number of the pair, draw, element).
 *
 * Threads: one caller.
 */
#ifndef TRAINER_KERNELS_ATTACK_OPS_H
#define TRAINER_KERNELS_ATTACK_OPS_H

#include <stddef.h>
#include <stdint.h>

#include "shared/base/rng.h"

struct attack_box {
	float mean[3], std[3];
};

/* x += alpha * sign(g), then back into the bounds; alpha and eps in units of [0, 1]. (elements): a multiple of 3. */
void attack_pixels_step(float *x, const float *clean, const float *g, size_t elements, const struct attack_box *box, double alpha, double eps);
/* Uniform within the bounds. */
void attack_pixels_start(float *x, const float *clean, size_t elements, const struct attack_box *box, double eps, struct rng_key key,
			 uint32_t pair, uint32_t draw);
/* Random signs times eps, cut to [0, 1]: as far as the attack may go, in a direction that knows nothing. */
void attack_pixels_noise(float *x, const float *clean, size_t elements, const struct attack_box *box, double eps, struct rng_key key,
			 uint32_t pair, uint32_t draw);

/* One caption of `tokens` tokens. x += alpha * |clean| * g / |g|, then back into the ball of eps * |clean|. */
void attack_words_step(float *x, const float *clean, const float *g, uint32_t tokens, int width, double alpha, double eps);
/* A random direction of length eps * |clean| * share. */
void attack_words_random(float *x, const float *clean, uint32_t tokens, int width, double eps, double share, struct rng_key key, uint32_t pair,
			 uint32_t draw);

#endif
