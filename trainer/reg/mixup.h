/*
 * mixup.h - pairs are mixed in front of the fusion layer, labels in the same proportion.
 *
 * Zhang et al., "mixup: beyond empirical risk minimization", ICLR 2018, on
 * hidden features as in Verma et al., "Manifold mixup", ICML 2019. For each pair
 * n a partner m and a share lambda ~ Beta(alpha, alpha) are drawn, and
 *     x_n' = lambda x_n + (1 - lambda) x_m          x = [v; t]
 *     loss = sum_n w_n (lambda CE(f(x_n'), y_n) + (1 - lambda) CE(f(x_n'), y_m))
 * with w_n the pair's weight in the loss. A partner is drawn with probability
 * w_m / sum w: where all pairs weigh the same that is the usual random pairing,
 * and in matching, where 1 positive weighs as much as all its negatives, it
 * keeps the classes balanced. Every pass of a step (R-Drop's second one, an
 * adversary's) mixes the same pairs in the same shares.
 *
 * Default: alpha 0.2 (most pairs are nearly pure). Off at evaluation; the
 * loss and accuracy in metrics are those of the pairs as they are.
 * Cost: the whole first product for each pair, as dropout has it: under 1% of a
 * step of `full`, a few percent of `small`. With it `fused` rows are needed.
 *
 * Random numbers are named by (seed, step, positions of picture and caption).
 * Threads: one caller. Ownership: arrays are the caller's.
 */
#ifndef TRAINER_REG_MIXUP_H
#define TRAINER_REG_MIXUP_H

#include "trainer/model/model.h"

/* partner, share (pairs->count); sums (pairs->count) is scratch. picture, caption: positions of each pair. */
void mixup_draw(const struct model_pairs *pairs, const uint32_t *picture, const uint32_t *caption, double alpha, uint64_t seed,
		uint64_t step, uint32_t *partner, float *share, double *sums);
/* A draw from Beta(alpha, alpha), a function of the names alone. */
double mixup_beta(double alpha, uint64_t seed, uint64_t step, uint32_t picture, uint32_t caption);

#endif
