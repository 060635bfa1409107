/*
 * checkpoint.h - weights, optimizer moments and progress of a run, on disk.
 *
 *     DIR/checkpoints/step-0000000123/model.safetensors      the script's state dict
 *                                     optimizer.safetensors  moments
 *     DIR/last.safetensors   the newest model.safetensors
 *     DIR/best.safetensors   the one with the best validation accuracy
 *
 * A checkpoint is written into a hidden folder, synced, and renamed into place:
 * weights and moments appear together or not at all. The newest two are kept,
 * and the older is removed only after the newer is durable. Each file carries
 * a checksum (io/checksum.h), and the optimizer's names the model's: a damaged
 * or mixed one is recognised, and the one before is used. last and best are hard links (copies where a file system has none),
 * replaced atomically, so they outlive the folders.
 *
 * Threads:   one caller.
 * Limits:    CHECKPOINT_KEPT.
 * Format:    schemas/run.md ("Checkpoints"), schemas/weights.md (names of tensors).
 */
#ifndef TRAINER_TRAIN_CHECKPOINT_H
#define TRAINER_TRAIN_CHECKPOINT_H

#include "shared/base/buf.h"
#include "shared/base/hash.h"
#include "trainer/nn/params.h"
#include "trainer/train/checkpoint_folder.h"
#include "trainer/train/optimizer.h"

/* Where a run stands. */
struct checkpoint_progress {
	uint64_t step;          /* optimizer steps done; the next one's number */
	uint64_t epoch;         /* of the next step */
	bool validated;         /* the validation due after the last step is done */
	bool has_best;
	double best_accuracy, best_loss;
	uint64_t best_step;     /* steps done when it was reached */
	bool has_val;           /* the last validation, whenever it was */
	double val_accuracy, val_loss;
	uint64_t val_pairs;
	double train_seconds;   /* spent so far, all sessions together */
	struct hash chain;      /* of the batches' digests */
	bool has_init;
	struct hash init;       /* of the weights that the run began with */
};

/* What a checkpoint says about itself, JSON texts; borrowed. */
struct checkpoint_about {
	const char *config;     /* of the run (config.h) */
	const char *model;      /* sizes and names of classes (about.h) */
	const char *dataset;    /* name and version of the data set, vocabulary */
};

/* Writes DIR/checkpoints/step-N and then moves DIR/last.safetensors (and best
 * if progress says that this step is the best). On failure the checkpoints
 * before are as they were. */
MUST_USE int checkpoint_write(const char *dir, const struct params *params, const struct optimizer *optimizer,
			      const struct checkpoint_progress *progress, const struct checkpoint_about *about, struct err *err);

/* Writes DIR/best.safetensors alone, for weights of which no checkpoint was written (best.h). */
MUST_USE int checkpoint_write_best(const char *dir, const struct params *params, const struct checkpoint_progress *progress,
				   const struct checkpoint_about *about, struct err *err);

/* Reads the newest undamaged checkpoint of DIR into params and optimizer; a
 * warning names those that were passed over. *found is false where there is
 * none. ERR_CORRUPT: there are some, all damaged. ERR_MISMATCH: of another model. Moves
 * DIR/last.safetensors and best as checkpoint_write() would have. */
MUST_USE int checkpoint_restore(const char *dir, struct params *params, struct optimizer *optimizer,
				struct checkpoint_progress *progress, bool *found, struct err *err);
bool checkpoint_exists(const char *dir);
/* All checkpoints of DIR, last.safetensors and best.safetensors; whether there was any of them. What cannot be removed stays and does
 * no harm. */
bool checkpoint_remove_all(const char *dir);
/* What the newest undamaged checkpoint says about the run, JSON texts appended to config and dataset. ERR_NOTFOUND: there is none. */
MUST_USE int checkpoint_read_about(const char *dir, struct buf *config, struct buf *dataset, struct err *err);

#endif
