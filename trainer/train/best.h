/*
 * best.h - the best weights so far, in memory until there is time to write them.
 *
 * When both towers are frozen an epoch takes a fraction of a second, and a
 * checkpoint with all weights after each would take most of the run. Only
 * what training changes is copied here after a validation that is the best;
 * best.safetensors is written with the next checkpoint, before it. So
 * whatever a checkpoint says is on disk when it is there; what a killed run
 * forgets the resumed one does again.
 *
 * Threads: one caller. Ownership: a copy of the trained parameters and buffers.
 */
#ifndef TRAINER_TRAIN_BEST_H
#define TRAINER_TRAIN_BEST_H

#include "trainer/kernels/vector_ops.h"
#include "trainer/train/checkpoint.h"

struct best;
MUST_USE int best_open(struct best **out, const struct params *params, const struct vector_ops *ops, struct err *err);
void best_close(struct best *best); /* NULL is fine */
/* progress: whose best_step is its step. */
void best_keep(struct best *best, const struct params *params, const struct checkpoint_progress *progress);
/* Writes what was kept, unless it is of this step: then the checkpoint is the best itself. params are as before afterwards. */
MUST_USE int best_write(struct best *best, const char *dir, struct params *params, uint64_t step,
			const struct checkpoint_about *about, struct err *err);

#endif
