/*
 * origin.h - what a file of weights says of itself: with which configuration, model and data it was trained.
 *
 * Only files of this program do (checksum.h); nothing is known of another one.
 *
 * Threads:   one caller.
 * Ownership: origin_free() frees what origin_read() made, also after an error.
 * Format:    schemas/run.md ("Checkpoints").
 */
#ifndef TRAINER_TRAIN_ORIGIN_H
#define TRAINER_TRAIN_ORIGIN_H

#include "trainer/io/statefile.h"
#include "trainer/train/about.h"
#include "trainer/train/config.h"

struct origin {
	bool ours;                    /* false: nothing below is said */
	struct run_config config;
	struct about_model model;
	struct about_classes classes;
	struct about_data data;
};

/* ERR_MISMATCH: a file of ours, but not one of a model (optimizer.safetensors). */
MUST_USE int origin_read(struct origin *out, const struct statefile *state, struct err *err);
/* ERR_MISMATCH: the file says other heads or another eps than `ours` has, which no shape shows and which make another tower of the same weights.
 * Widths that differ are left to the shapes. */
MUST_USE int origin_check_text(const struct origin *origin, const char *path, const struct bert_config *ours, struct err *err);
void origin_free(struct origin *origin);

#endif
