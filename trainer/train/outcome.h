/*
 * outcome.h - what a finished run is measured by, beside its last validation:
 * predictions.csv, the same measure on pairs of the training pictures, calibration.
 * A contrast model ranks and decides nothing: of these it has the second alone.
 *
 * Accuracy on training pairs is taken as on validation pairs (no dropout,
 * running statistics, every caption once right and once wrong), so that their
 * difference is the gap and not a difference of measures.
 *
 * Threads: one caller. Format: schemas/run.md ("result.final"), schemas/study.md ("predictions.csv").
 */
#ifndef TRAINER_TRAIN_OUTCOME_H
#define TRAINER_TRAIN_OUTCOME_H

#include "trainer/train/session.h"

/* With the weights that the model has: DIR/predictions.csv, session.outcome. */
MUST_USE int outcome_measure(struct session *s, struct err *err);
/* Names all weights: SHA-256 over names, values (by their XXH3) and counters. */
MUST_USE int outcome_weights_digest(const struct params *params, struct hash *out, struct err *err);

#endif
