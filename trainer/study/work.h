/*
 * work.h - the runs of a study on their way: what study.c (set-up and end), work.c (jobs),
 * follow.c (how far a run is) and view.c (the terminal) share.
 *
 * Threads: the main thread.
 */
#ifndef TRAINER_STUDY_WORK_H
#define TRAINER_STUDY_WORK_H

#include <sys/types.h>

#include "shared/base/log.h"
#include "trainer/study/result.h"
#include "trainer/study/study.h"

enum { WORK_JOBS_MAX = 256, WORK_MESSAGE_BYTES = 400 };

enum run_state { RUN_PENDING, RUN_ACTIVE, RUN_DONE, RUN_DIVERGED, RUN_BROKEN };

struct run_entry {
	struct study_cell cell;
	enum run_state state;
	bool before;          /* it was there when this session began */
	double seconds;       /* from start to end, where this session saw both; 0: it did not */
	struct study_result result;
};

struct job {
	bool active;
	int run;              /* index */
	pid_t pid;
	double began;         /* clock */
	/* follow.c */
	int64_t steps, steps_total, first_steps; /* first_steps: done before this session */
	double loss, val_accuracy;
	bool has_loss, has_val;
};

struct work {
	const struct study_run_options *options;
	struct study_spec *spec;
	const char *dir;
	struct run_entry *runs; /* (run_count) in the order of work */
	int run_count, done, diverged, broken, broken_in_a_row;
	int threads, job_count;
	struct job jobs[WORK_JOBS_MAX];
	bool stopping;
	bool attacked;        /* robustness.json is there */
	char message[WORK_MESSAGE_BYTES]; /* of the last run that broke */
	struct view {
		bool terminal, quiet;
		int lines;            /* on the screen */
		double drawn, began;
	} view;
};

/* work.c. Fills work->runs from what is on disk. A damaged result.json is made again, where it must be with its run. */
MUST_USE int work_open(struct work *work, const struct study_run_options *options, struct err *err);
void work_close(struct work *work);
/* Until nothing is pending, or options->cancelled. ERR_CANCELLED, ERR_IO ... as study_run(). */
MUST_USE int work_run(struct work *work, struct err *err);
/* The arguments of a run, NULL-terminated, in memory of their own; argv[0] is "trainer". mem_free(), in one piece. */
MUST_USE int work_arguments(const struct study_spec *spec, const char *dir, const struct study_cell *cell, int threads,
			    const char *socket, char ***out, int *argc, struct err *err);
/* What a finished run need not keep. */
void work_prune(const struct work *work, const struct run_entry *run);
/* Whether it is one of those that are still to be attacked. */
bool work_is_attacked(const struct work *work, const struct run_entry *run);
/* Whether it was done before it was to keep what it is to keep now. */
bool work_lacks_weights(const struct work *work, const struct run_entry *run);

/* A folder and all in it, where it is there; what cannot be removed is a warning. */
void work_remove_tree(const char *path);
/* Whether nobody else writes in a run's folder: a run of a study that was killed needs a moment for its checkpoint. */
bool work_is_free(const char *run_dir);

/* follow.c: reads the end of metrics.jsonl. */
void follow_job(const struct work *work, struct job *job);

/* view.c */
void view_open(struct work *work);
void view_draw(struct work *work, bool now);
void view_close(struct work *work);
/* A line of the log above the view. */
void view_note(struct work *work, enum log_level level, const char *format, ...) PRINTF_LIKE(3, 4);
/* Seconds to the end at this pace; negative: unknown. */
double view_eta(const struct work *work);

/* timing.c: equal time. Measures what a step of each arm costs beside the baseline's, and sets spec->arms[].steps. */
MUST_USE int timing_run(struct work *work, struct err *err);

#endif
