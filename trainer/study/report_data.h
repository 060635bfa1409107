/*
 * report_data.h - what a study's folder says, read and checked.
 *
 * Everything that a report shows comes from here. A run counts when its
 * result.json is there; runs that the study names and that have none are
 * missing, and the report says so. A damaged result.json is a warning, and its run is left
 * out; other damaged files are errors that name the file.
 *
 * Absent numbers are NaN (counts: -1), absent texts NULL.
 *
 * Threads:   one thread.
 * Ownership: report_data_free() frees all; texts belong to the trees.
 * Limits:    the REPORT_*_MAX below.
 * Format:    schemas/study.md, schemas/run.md (metrics.jsonl).
 */
#ifndef TRAINER_STUDY_REPORT_DATA_H
#define TRAINER_STUDY_REPORT_DATA_H

#include <stdbool.h>
#include <stdint.h>

#include "trainer/study/report_tree.h"

enum {
	REPORT_ARMS_MAX = 64,
	REPORT_FOLDS_MAX = 1000,
	REPORT_SEEDS_MAX = 1000,
	REPORT_RUNS_MAX = 1 << 16,
	REPORT_EPOCHS_MAX = 1 << 20,
	REPORT_VALIDATIONS_MAX = 1 << 20, /* of one run */
	REPORT_LINE_BYTES_MAX = 1 << 16, /* of metrics.jsonl */
};
#define REPORT_ROWS_MAX ((size_t)1 << 26) /* of one predictions.csv */

/* The validation pairs of one fold (and seed): the same for every arm. */
struct report_pairs {
	uint32_t count;
	uint64_t *picture, *caption; /* (count) sample ids; pairs of one picture have the same name */
	int32_t *label;              /* (count) */
	uint32_t *cluster;           /* (count) picture as an index over the whole study */
	int fold;                    /* index */
};

struct report_curve {
	int count;                   /* epochs */
	double *train_loss, *train_accuracy, *val_loss, *val_accuracy; /* (count); NaN: not measured */
	/* Where they stand on an axis of epochs done: the end of the first epoch is 1, its middle 0.5. */
	double *train_at;            /* (count) after the epoch's last step; NaN: it has none */
	int every_count;             /* every validation, also where an epoch has many */
	double *every_at, *every_loss, *every_accuracy; /* (every_count) */
};

struct report_run {
	int arm, fold, seed;         /* indices */
	char *dir;
	struct tree result;
	double accuracy, loss, ece, train_accuracy, train_loss, best_accuracy, train_seconds, cost;
	double step_seconds, train_pictures, adv_loss, clean_loss;
	double delta_over_embedding, delta_over_feature, delta_over_fused, delta_over_pixel;
	double epochs; /* not a whole number where runs have equal time */
	int64_t steps, best_epoch, pair_count, pictures;
	const char *digest, *val_digest, *init_digest, *pairs_digest;
	bool finite;                 /* accuracy is a number from 0 to 1: the run takes part in comparisons */
	struct report_pairs *pairs;  /* NULL: no predictions.csv, or of other pairs than the first arm's */
	bool other_pairs;            /* its predictions are of other pairs than another arm's */
	bool unpredicted;            /* it has no predictions.csv */
	float *p;                    /* (pairs->count) */
	uint8_t *correct;            /* (pairs->count) */
	struct report_curve curve;
};

struct report_arm {
	const char *name, *reg;
	const struct tree_node *options; /* the arm's own, beside the regularizer; NULL: none */
	const struct tree_node *steps;   /* equal time: a number; NULL: as long as options say */
};

struct report_robust {
	int arm, source, fold;       /* source: the arm that the attack was made on */
	int64_t seed;
	const char *attack, *target, *norm;
	double eps, accuracy, loss;
	int64_t steps, restarts, pairs;
};
struct report_check {
	const char *name, *detail;
	int arm;                     /* -1: of all */
	bool ok;
};

struct report_data {
	char *dir;
	struct tree study, robustness;
	const char *name, *data, *data_version, *task, *design, *equal;
	bool match;                  /* task match: p is the probability of class 1 */
	bool ranks;                  /* task contrast: no predictions, no calibration, no digest of pairs */
	int arms, folds, seeds, baseline;
	int folds_planned;
	bool recut;                  /* each seed has folds of its own */
	struct report_arm arm[REPORT_ARMS_MAX];
	int64_t fold_name[REPORT_FOLDS_MAX], seed_name[REPORT_SEEDS_MAX];
	struct report_run **runs;    /* (arms, folds_planned, seeds); NULL: not there yet. See report_run_at() */
	int run_count, runs_planned;
	int damaged, unpredicted;    /* runs left out for their result.json; runs without a predictions.csv */
	int diverged[REPORT_ARMS_MAX]; /* runs with failed.json in place of a result */
	struct report_pairs **pairs; /* (pairs_count) */
	int pairs_count;
	uint32_t clusters;           /* distinct pictures in all pairs */
	int robust_count, check_count;
	struct report_robust *robust;
	struct report_check *check;
};

/* baseline: an arm's name, or NULL for the study's own. */
MUST_USE int report_data_read(struct report_data **out, const char *dir, const char *baseline, struct err *err);
void report_data_free(struct report_data *data); /* NULL is fine */

static inline struct report_run *report_run_at(const struct report_data *data, int arm, int fold, int seed)
{
	return data->runs[((size_t)arm * (size_t)data->folds_planned + (size_t)fold) * (size_t)data->seeds + (size_t)seed];
}

/* Of any run folder: the means of each epoch's train lines, the last val line of each, and all val lines.
 * A last line that was cut short is left out. *out is empty where there is no such file. */
MUST_USE int report_curve_read(struct report_curve *out, const char *dir, struct err *err);
void report_curve_free(struct report_curve *curve);

#endif
