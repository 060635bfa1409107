/*
 * result.h - what a run of a study came to: STUDY/runs/ARM/fK-sN/result.json,
 * written last and atomically. A run is done exactly when it is there.
 *
 * Threads: one caller. Format: schemas/study.md ("result.json", "failed.json").
 */
#ifndef TRAINER_STUDY_RESULT_H
#define TRAINER_STUDY_RESULT_H

#include "trainer/study/spec.h"

enum { RESULT_PATH_BYTES = 1024 };

struct study_cell {
	int arm;   /* index */
	int fold;  /* from 1 */
	int seed;  /* index */
};

struct study_result {
	double accuracy, train_accuracy, train_seconds;
	int64_t steps;
	char digest[HASH_HEX_BYTES], val_digest[HASH_HEX_BYTES], init_digest[HASH_HEX_BYTES];
	char pairs_digest[HASH_HEX_BYTES]; /* "" of ranks */
};

/* STUDY/runs/ARM/fK-sN[/name] */
void study_run_path(const struct study_spec *spec, const char *dir, const struct study_cell *cell, const char *name,
		    char out[RESULT_PATH_BYTES]);

/* The file of the weights that an arm's results are of: the last ones, or with early stopping the best. */
const char *study_measured_weights(const struct study_spec *spec, int arm);

/* From run.json and metrics.jsonl of a run that has ended well. ERR_FORMAT names what is missing. */
MUST_USE int study_result_make(const struct study_spec *spec, const char *dir, const struct study_cell *cell, struct err *err);
/* ERR_NOTFOUND: not done yet. ERR_FORMAT: damaged. ERR_MISMATCH: of another run. The message names the file. */
MUST_USE int study_result_read(const struct study_spec *spec, const char *dir, const struct study_cell *cell,
			       struct study_result *out, struct err *err);
/* failed.json: why there will be no result.json. */
MUST_USE int study_failure_write(const struct study_spec *spec, const char *dir, const struct study_cell *cell, const char *state,
				 const char *message, struct err *err);
bool study_failure_exists(const struct study_spec *spec, const char *dir, const struct study_cell *cell);
/* The state in run.json, "" where there is none. */
void study_run_state(const char *run_dir, char *out, size_t bytes);
/* The chain of digests of a run after so many steps, from metrics.jsonl. ERR_NOTFOUND: no such line. */
MUST_USE int study_digest_at(const char *metrics, int64_t steps, char out[HASH_HEX_BYTES], struct err *err);

/* check.c: in every (fold, seed) all arms saw the same batches in the same order, began with the same weights and were
 * measured on the same pairs. Appends the mismatches to report, one a line; *cells counts what was compared. */
MUST_USE int study_check_same(const struct study_spec *spec, const char *dir, int *cells, int *mismatches, struct buf *report,
			      struct err *err);

#endif
