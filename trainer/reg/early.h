/*
 * early.h - early stopping as a regularizer: the run ends when validation has stopped improving.
 *
 * Prechelt, "Early stopping - but when?", in Neural Networks: Tricks of the
 * Trade, 1998: the UP criterion on the validation. The run ends after `patience`
 * validations in a row without a new best (the higher accuracy; between
 * equal ones the lower loss), and its result is best.safetensors. early@E counts
 * validations from epoch E on. The learning rate's schedule is that of the whole planned run.
 *
 * Nothing is stored for it: how many validations have passed since the best one follows
 * from the step numbers alone, so a resumed run stops where the uninterrupted one did, and
 * resuming a run that has stopped ends at once.
 *
 * Default: patience 3. Cost: none; it saves the rest of the run.
 *
 * Threads: pure.
 */
#ifndef TRAINER_REG_EARLY_H
#define TRAINER_REG_EARLY_H

#include "trainer/reg/spec.h"

struct early_place {
	uint64_t done;            /* steps done, with the validation that was due behind the last one */
	uint64_t best_step;       /* steps done at the best validation; 0: none yet */
	uint64_t every;           /* steps from one validation to the next */
	uint64_t steps_per_epoch;
};

/* Validations since the best one that count. */
uint64_t early_waited(const struct reg_spec *spec, const struct early_place *place);
/* Whether the run ends here. */
bool early_stops(const struct reg_spec *spec, const struct early_place *place);

#endif
