/*
 * epoch_sums.h - what an epoch's steps were on average, for the line that the terminal shows behind it.
 *
 * An adversary may work in some of the steps only (every, @E in epochs that a run begins in the middle of), so its
 * figures are means over those, beside the clean loss of the same steps. A step without a labelled sample has no loss
 * (schemas/run.md) and counts in none of the means.
 *
 * Threads: one caller. Ownership: plain values.
 */
#ifndef TRAINER_TRAIN_EPOCH_SUMS_H
#define TRAINER_TRAIN_EPOCH_SUMS_H

#include "trainer/reg/spec.h"
#include "trainer/train/metrics.h"

enum { EPOCH_TEXT_BYTES = 320 };

struct epoch_sums {
	uint64_t steps, learned_steps, adv_steps;
	double loss, accuracy;
	unsigned targets; /* of the adversary */
	double adv_clean, adv_loss, adv_kl, adv_cost, ratio[ADV_TARGETS];
	bool adv_kl_on;
};

void epoch_sums_add(struct epoch_sums *sums, const struct metrics_train *line);
/* "train loss 0.6931, accuracy 0.5000", or that nothing was learned from. */
void epoch_sums_text(const struct epoch_sums *sums, char out[EPOCH_TEXT_BYTES]);
/* "; adversarial loss 0.7012 beside 0.6931 clean, ..."; empty without an adversary. */
void epoch_sums_adv_text(const struct epoch_sums *sums, char out[EPOCH_TEXT_BYTES]);

#endif
