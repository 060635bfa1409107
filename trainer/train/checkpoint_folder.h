/*
 * checkpoint_folder.h - the names under which checkpoints stand on disk, and the order of
 * system calls that makes one appear, replaces it, and removes what is no longer needed.
 *
 *     checkpoints/step-N        finished
 *     checkpoints/.new-step-N   being written; worth nothing after a crash
 *     checkpoints/.old-step-N   finished, on its way out while one of the same step takes its place
 *                               (only where a file system cannot exchange two names)
 *
 * A rename is synced before anything is removed that it replaces, so at every moment, also
 * after a power cut, at least one finished checkpoint is there once there has been one.
 *
 * Threads: one caller. Limits: CHECKPOINT_FOUND_MAX.
 * Format:  schemas/run.md ("Checkpoints").
 */
#ifndef TRAINER_TRAIN_CHECKPOINT_FOLDER_H
#define TRAINER_TRAIN_CHECKPOINT_FOLDER_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/err.h"

enum { CHECKPOINT_PATH_BYTES = 4096, CHECKPOINT_NAME_BYTES = 64, CHECKPOINT_FOUND_MAX = 1024, CHECKPOINT_KEPT = 2 };

struct checkpoint_found {
	uint64_t steps[CHECKPOINT_FOUND_MAX]; /* newest first */
	int count;
};

MUST_USE int checkpoint_join(char out[CHECKPOINT_PATH_BYTES], const char *dir, const char *name, struct err *err);
void checkpoint_step_name(uint64_t step, char out[CHECKPOINT_NAME_BYTES]);

/* Finished checkpoints in `folder` (DIR/checkpoints). None where there is no such folder. */
void checkpoint_list(const char *folder, struct checkpoint_found *found);
/* Undoes what an interrupted write left: half a checkpoint goes, one that was on its way out comes back. */
void checkpoint_tidy(const char *folder);

/* hidden becomes final, durably; a checkpoint that stands there already is replaced. */
MUST_USE int checkpoint_place(const char *folder, const char *hidden, const char *final, struct err *err);
/* Removes all but the newest CHECKPOINT_KEPT up to `step`, and those of later steps: a run that
 * had to go back passes them again. */
void checkpoint_drop_old(const char *folder, uint64_t step);
/* A folder and the plain files in it; what it cannot remove stays and does no harm. */
void checkpoint_remove(const char *path);

/* DIR/name becomes another name of the file (a copy where a file system has no hard links), durably. */
MUST_USE int checkpoint_point(const char *dir, const char *name, const char *model_path, struct err *err);

#endif
