/*
 * session.h - the state of a run in progress, shared by the files that make it up:
 * run.c (set-up and end), run_folder.c, run_data.c, initial.c (weights at the start), step.c (one step),
 * loop.c (all of them, and what follows each), record.c (run.json), plan.c (--dry-run).
 *
 * Threads: one caller. Ownership: run.c opens and closes everything.
 */
#ifndef TRAINER_TRAIN_SESSION_H
#define TRAINER_TRAIN_SESSION_H

#include "shared/base/progress.h"
#include "trainer/client/feed.h"
#include "trainer/io/tensorboard.h"
#include "trainer/reg/objective.h"
#include "trainer/reg/sam.h"
#include "trainer/train/about.h"
#include "trainer/train/best.h"
#include "trainer/train/checkpoint.h"
#include "trainer/train/epoch_sums.h"
#include "trainer/train/metrics.h"
#include "trainer/train/pairs.h"
#include "trainer/train/run.h"
#include "trainer/train/source.h"

enum { SESSION_PATH_BYTES = 1024, SESSION_NAME_BYTES = 128 };

/* What is known of a part of the data set. */
struct part {
	char split[SESSION_NAME_BYTES];
	uint32_t pictures, captions;
	uint64_t steps; /* batches of an epoch */
};

/* outcome.h; of the weights at the end. */
struct outcome {
	bool measured;
	struct validation val, train;
	struct hash pairs_digest; /* of the validation pairs */
	size_t pictures, train_pictures; /* in them; that were trained on */
};

struct session {
	const struct run_options *options;
	struct run_config config;
	struct run_plan plan;
	char *socket;
	char dir[SESSION_PATH_BYTES];
	int lock;              /* descriptor of DIR/.lock, or -1 */
	int threads;           /* in use */
	char client_name[SESSION_NAME_BYTES];

	/* data */
	struct feed *feed;     /* of training */
	struct part train, val;
	bool validates;
	struct hash version, vocab, transform;
	char vocab_name[SESSION_NAME_BYTES]; /* that the run began with, once that is known: a data set's own may change */
	uint32_t vocab_size, label_count;
	struct about_classes classes; /* known with --task classify */
	int32_t pad_id;

	/* model */
	struct model_config model_config;
	struct model_limits limits;      /* of the model: for steps and for validation */
	struct model_limits step_limits; /* of a step's batches alone */
	struct model *model;
	struct params *params; /* the model's */
	const struct vector_ops *ops;
	struct stages stages;
	struct objective *objective;
	struct sam *sam;       /* NULL without sam */
	struct pairs *pairs;
	struct decay_spans spans;
	struct optimizer *optimizer;
	struct encoder *encoder;     /* of frozen towers; NULL without */
	struct source *train_source, *val_source;
	struct best *best;           /* with both towers frozen, or NULL */
	struct validator *validator; /* NULL without validation */
	struct schedule schedule;

	/* per micro-batch, (batch_size) */
	uint32_t *picture_positions, *caption_positions;
	uint8_t *correct;      /* (pairs) */
	bool grads_clear;      /* all gradients are zero */
	float *buffers;        /* running statistics at the start of a step; NULL when steps are whole batches */
	int64_t *counters;     /* (params->count) */

	/* progress */
	uint64_t steps_per_epoch, steps_total;
	struct checkpoint_progress progress;
	uint64_t written_step; /* of the last checkpoint; UINT64_MAX: none */
	bool written_validated;
	bool diverged;         /* a loss was not finite */
	bool said_no_negatives;
	double written_at;     /* clock */
	struct outcome outcome;
	struct buf about_config, about_model, about_dataset;
	struct metrics *metrics;
	struct tensorboard *tensorboard;
	struct progress bar;
	/* for the epoch's line on the terminal: the last validation of contrast (to text, to image), sums over the epoch */
	bool has_recalls;
	double recall_at_10[2];
	struct epoch_sums epoch;
	double epoch_began;
	double wait_total, step_total; /* seconds of this session, for the progress line */
};

/* step.c: one optimizer step on the batches that come next; feed_seek() first. Fills
 * the line for metrics.jsonl and moves progress on. */
MUST_USE int step_run(struct session *s, struct metrics_train *line, struct err *err);
/* Batches of a whole optimizer step, and samples of each: fewer than were asked for where the split has no more. */
int64_t step_batches(const struct session *s);
int64_t step_batch_samples(const struct session *s);

/* loop.c: from progress.step to the end. */
MUST_USE int loop_run(struct session *s, struct err *err);
/* Whether early stopping ends the run here. */
bool loop_stopped_early(const struct session *s);
/* Measures the model on a part; a daemon that is away is waited for. */
MUST_USE int loop_validate(struct session *s, struct validator *validator, const struct part *part, struct validation *out,
			   struct err *err);
/* Writes a checkpoint unless the last one is of this very state. */
MUST_USE int loop_checkpoint(struct session *s, struct err *err);
/* Whether a checkpoint belongs at the end: not where no weights are wanted, unless the result is that of earlier ones. */
bool loop_wants_last(const struct session *s);

/* run_folder.c: runs/DATA-REG-seedS, with what a file name should not hold replaced, and DATA-REG cut where it would be too long
 * for one (fs_shorten_name). */
MUST_USE int run_folder_default(const struct run_config *config, char *out, size_t bytes, struct err *err);
/* ERR_EXISTS: s->dir is no folder, or holds a run that is not to be resumed. */
MUST_USE int run_folder_check(const struct session *s, struct err *err);
/* Makes the folder and locks it until s->lock is closed; ERR_BUSY: another trainer has it. */
MUST_USE int run_folder_take(struct session *s, struct err *err);

/* run_data.c: opens the stream of training, looks at that of validation, and checks that there is something to learn and to measure. */
MUST_USE int run_data_open(struct session *s, struct err *err);

/* initial.c: draws or loads the weights that the run begins with, unless a checkpoint has them, and names them in progress. */
MUST_USE int initial_weights(struct session *s, struct err *err);

/* record.c */
MUST_USE int record_about(struct session *s, struct err *err);
/* state: "running", "interrupted", "failed", "finished" */
MUST_USE int record_write(struct session *s, const char *state, struct err *err);
/* The configuration in DIR/run.json, and the data. Where that file is missing or damaged (*lost), the newest checkpoint
 * says the same. ERR_NOTFOUND: there is neither. */
MUST_USE int record_read_config(const char *dir, struct run_config *out, struct about_data *data, bool *lost, struct err *err);

/* The digest of the initial weights there; *found is false where an older version wrote the file. */
MUST_USE int record_read_init(const char *dir, struct hash *out, bool *found, struct err *err);
/* Whether run.json says so; false where there is none. */
bool record_is_finished(const char *dir);
/* profile_report.c: the table on standard output (unless quiet), and DIR/profile.json unless path is NULL. */
MUST_USE int profile_report(const struct session *s, const char *path, struct err *err);

/* plan.c */
MUST_USE int plan_print(struct session *s, struct err *err);

#endif
