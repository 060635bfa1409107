/*
 * report_analysis.h - from the runs of a study to what can be said about its arms.
 *
 * The primary test is the corrected resampled t test (Nadeau and Bengio) on the
 * differences arm - baseline of the same fold and seed, Holm-adjusted over the
 * arms: it is the one of the tests here that counts what varies when training is repeated (data,
 * initial weights, order) and allows for folds sharing training pictures. The
 * picture-clustered bootstrap and permutation test are the second view: they
 * hold the trained models fixed and ask about other pictures. McNemar and
 * 5x2cv F support. A verdict follows the primary test alone.
 *
 * Threads:   one thread.
 * Ownership: report_analysis_free() frees all; data is borrowed.
 */
#ifndef TRAINER_STUDY_REPORT_ANALYSIS_H
#define TRAINER_STUDY_REPORT_ANALYSIS_H

#include "trainer/study/report_data.h"
#include "trainer/study/stats.h"
#include "trainer/study/stats_cluster.h"

enum { REPORT_REPLICATES = 10000, REPORT_DRAWS_MAX = 400 * 1000 * 1000, REPORT_REPLICATES_MIN = 1000 };
#define REPORT_LEVEL 0.95
#define REPORT_ALPHA 0.05
#define REPORT_POWER 0.8

enum report_verdict {
	VERDICT_BASELINE,
	VERDICT_BETTER,
	VERDICT_WORSE,
	VERDICT_UNCLEAR,   /* not distinguishable */
	VERDICT_IDENTICAL, /* the same accuracy in every run */
	VERDICT_NONE,      /* cannot be said; why is in the test's status, or in `why` */
};

/* Mean and standard deviation over runs: by epoch, or by validation where an epoch may have many or none. */
struct report_band {
	int count;
	double *at;        /* (count) epochs done, mean over runs; NULL for validation by epoch, which figures do not show */
	double *mean, *sd; /* (count); NaN: no run has that epoch */
};
enum report_series {
	SERIES_TRAIN_LOSS, SERIES_TRAIN_ACCURACY, SERIES_VAL_LOSS, SERIES_VAL_ACCURACY, SERIES_BY_EPOCH,
	SERIES_EVERY_VAL_LOSS = SERIES_BY_EPOCH, SERIES_EVERY_VAL_ACCURACY, SERIES_COUNT
};

struct report_arm_result {
	int runs, failed, diverged;   /* finished; of these without a finite accuracy; ended without a result */
	struct stats_mean accuracy, loss, gap, ece, train_accuracy;
	double accuracy_wide;         /* half width of the interval with the correction for shared training data; NaN */
	double cost;     /* a step's time over the baseline's; of the baseline NaN. Where steps are not timed, own_cost */
	double own_cost; /* an adversarial step over a clean one of the same run, other regularizers in both; NaN: there is none */
	double seconds, step_seconds, seconds_ratio; /* means; NaN: not recorded */
	double delta_over_embedding, delta_over_feature, delta_over_fused, delta_over_pixel, adv_loss, clean_loss;
	struct stats_calibration calibration;
	struct report_band series[SERIES_COUNT];
	/* against the baseline; all empty for the baseline itself */
	int pairs_of_runs;
	double *differences;          /* (pairs_of_runs) */
	struct stats_paired test, by_fold;
	double wide_low, wide_high;   /* simultaneous over the arms (Bonferroni) */
	double holm, holm_by_fold;
	struct stats_effect effect;
	double error_reduction;       /* share of the baseline's errors that is gone; NaN */
	int resampled;                /* of pairs_of_runs, those where both runs have predictions */
	struct stats_bootstrap bootstrap;
	struct stats_permutation permutation;
	double holm_permutation;
	struct stats_mcnemar mcnemar;
	int64_t mcnemar_seed;
	bool has_52cv;
	struct stats_52cv cv52;
	double detectable;            /* with this arm's own spread */
	enum report_verdict verdict;
	const char *why;              /* of VERDICT_NONE */
};

/* One proof that nothing but the regularizer differs. */
struct report_identity {
	const char *key, *what;
	int cells;        /* folds x seeds with at least two runs that record it */
	int different;
	int unequal_steps; /* runs left out because they took another number of steps */
	int unrecorded;    /* finished runs that have no such record */
	bool inapplicable; /* to a model that ranks: nothing is counted above */
	char example[256]; /* of a difference */
};
enum { REPORT_IDENTITIES = 5 };

struct report_factorial {
	int factors;      /* 0: no full factorial among the arms */
	char names[STATS_FACTORS_MAX][96];
	int arm[1 << STATS_FACTORS_MAX];
	int runs;
	struct stats_factor_effect effect[1 << STATS_FACTORS_MAX];
	double holm[1 << STATS_FACTORS_MAX];
	int count;
};

struct report_power {
	double sd;        /* of differences, pooled over arms; NaN: cannot be estimated */
	int runs;         /* folds x seeds as planned */
	int family;       /* comparisons */
	double ratio;     /* test / train */
	double alpha;     /* REPORT_ALPHA / family */
	double detectable, detectable_single, floor;
};

struct report_analysis {
	const struct report_data *data;
	double ratio;     /* test / train pictures; NaN: not known */
	int replicates;
	bool complete;
	int diverged;     /* runs, over all arms */
	int compared;     /* arms with a p value, and of an unfinished study those that may get one */
	struct report_arm_result arm[REPORT_ARMS_MAX];
	int order[REPORT_ARMS_MAX]; /* the arms but the baseline: largest difference first, unknown last */
	int order_count;
	struct report_identity identity[REPORT_IDENTITIES];
	struct report_factorial factorial;
	struct report_power power;
};

MUST_USE int report_analyse(struct report_analysis **out, const struct report_data *data, struct err *err);
void report_analysis_free(struct report_analysis *analysis); /* NULL is fine */

/* report_factors.c */
void report_factorial_find(struct report_analysis *analysis);
MUST_USE int report_factorial_compute(struct report_analysis *analysis, struct err *err);
/* report_identity.c */
void report_identity_check(struct report_analysis *analysis);

/* A run that takes part in comparisons. */
static inline bool report_usable(const struct report_run *run)
{
	return run != NULL && run->finite && !run->other_pairs;
}

#endif
