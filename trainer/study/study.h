/*
 * study.h - a whole study, from its specification to the last run and the report.
 *
 * STUDY/ holds study.json, runs/ARM/fK-sN/ and what is made of them. Every run is a process of
 * its own (child.h): `trainer --out STUDY/runs/ARM/fK-sN`, resumed where it was interrupted. A
 * run with a result.json is never repeated, so a study that was stopped in any
 * way goes on with the same command, and ends with the same numbers.
 *
 * Order: seed by seed, fold by fold, all arms of a fold before the next fold, so that what is there at
 * any moment is balanced over the arms.
 *
 * Threads:   the main thread.
 * Limits:    spec.h; STUDY_DIR_BYTES; one process at a time (STUDY/.lock).
 * Format:    schemas/study.md.
 */
#ifndef TRAINER_STUDY_STUDY_H
#define TRAINER_STUDY_STUDY_H

#include "trainer/study/spec.h"

enum { STUDY_DIR_BYTES = 512, STUDY_ARGS_MAX = 2 * STUDY_OPTIONS_MAX + 40 };

struct study_run_options {
	struct study_spec *spec;          /* resolved by study_run() */
	const char *dir, *socket;         /* socket: --socket, or NULL */
	bool quiet, dry_run;
	bool (*cancelled)(void *context); /* may be NULL */
	void *cancel_context;
	/* Whether trainer would take these arguments (without its name). */
	int (*check_run)(int argc, char *const argv[], struct err *err);
	int argc;                         /* the command, for study.json */
	char *const *argv;
};

/* ERR_CANCELLED: stopped on request; the same command goes on. ERR_MISMATCH: another study is in
 * dir, or arms did not see the same data. */
MUST_USE int study_run(const struct study_run_options *options, struct err *err);

/* Where a study lies when nobody says: studies/NAME. */
MUST_USE int study_default_dir(const struct study_spec *spec, char out[STUDY_DIR_BYTES], struct err *err);

#endif
