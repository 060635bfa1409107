/*
 * stats.h - the study's tests: intervals, comparisons, corrections, power.
 *
 * Plain arrays in, a struct out; nothing is allocated, nothing is printed. A
 * result says by its status whether its numbers mean anything: with any status
 * but STATS_OK those that could not be had are NaN, and the caller says why in
 * words (stats_status_text()) in place of a number.
 *
 * Threads: pure functions. Ownership: arrays are borrowed.
 * Checked against SciPy in tests/parity/test_stats.py.
 */
#ifndef TRAINER_STUDY_STATS_H
#define TRAINER_STUDY_STATS_H

#include <stddef.h>

enum stats_status {
	STATS_OK,
	STATS_EMPTY,      /* nothing to compute with */
	STATS_TOO_FEW,    /* fewer than two values: no spread can be estimated */
	STATS_NO_SPREAD,  /* all values are equal: the mean is exact, a t statistic has no meaning */
	STATS_NOT_FINITE, /* NaN or infinity among the values */
	STATS_NO_RATIO,   /* the ratio of test to training samples is not known */
};
const char *stats_status_text(enum stats_status status);

/* ---- one sample ---- */

struct stats_mean {
	enum stats_status status;
	int n;
	double mean, sd, se;  /* sd with n - 1 */
	double low, high;     /* Student's t interval of the mean */
};
struct stats_mean stats_mean(const double *values, int n, double level);

/* ---- differences between two arms on the same folds and seeds ---- */

/* Corrected resampled t test: Nadeau and Bengio, "Inference for the
 * generalization error", Machine Learning 52 (2003). Runs of a cross-validation share
 * training samples, so the variance of their mean is not sd²/n; it is
 * estimated by sd² (1/n + test/train), which for k folds is sd² (1/n + 1/(k-1)).
 * df = n - 1, as Bouckaert and Frank (PAKDD 2004) use for repeated k-fold. */
struct stats_paired {
	enum stats_status status;
	int n;
	double mean, sd;
	double ratio, se;     /* test over train; the corrected standard error */
	double t, df, p;      /* two-sided */
	double low, high;     /* interval of the difference at `level` */
};
struct stats_paired stats_corrected_t(const double *differences, int n, double test_over_train, double level);

/* Combined 5x2cv F test: Alpaydin, Neural Computation 11 (1999). differences[i][j]
 * of replication i, fold j. F(10, 5). */
struct stats_52cv {
	enum stats_status status;
	double f, p;
};
struct stats_52cv stats_52cv(const double differences[5][2]);

/* Standardized mean difference of pairs: Cohen's d_z, and Hedges' g with the
 * small-sample factor exact by gamma functions (Hedges 1981). */
struct stats_effect {
	enum stats_status status;
	double d, g;
};
struct stats_effect stats_effect(const double *differences, int n);

/* McNemar, Psychometrika 12 (1947): only_a and only_b count samples that
 * exactly one of two models gets right. Up to MCNEMAR_EXACT_MAX of them the
 * p value is the exact two-sided binomial one, beyond that chi squared with
 * continuity correction (Edwards 1948). Assumes independent samples: pairs that share a picture
 * are not, so its p is too small there. */
enum { MCNEMAR_EXACT_MAX = 1000 };
struct stats_mcnemar {
	enum stats_status status; /* STATS_EMPTY: the two never differ */
	double only_a, only_b;
	int exact;
	double statistic, p;      /* statistic: chi squared; NaN where exact */
};
struct stats_mcnemar stats_mcnemar(double only_a, double only_b);

/* Holm, Scand. J. Statist. 6 (1979): step-down adjusted p values, the family-wise
 * error rate held without assuming independence. A NaN p takes no part and stays NaN. */
enum { STATS_FAMILY_MAX = 256 };
void stats_holm(const double *p, int n, double *adjusted); /* n <= STATS_FAMILY_MAX */

/* ---- power of the corrected resampled t test ---- */

/* Probability that a true difference of `delta` is found at two-sided level
 * alpha with n runs whose differences have standard deviation sd: noncentral t
 * with delta / se (Cohen 1988, section 2). NaN where it cannot be computed. */
double stats_power(double delta, double sd, int n, double test_over_train, double alpha);
/* The difference that is found with this probability. */
double stats_detectable(double sd, int n, double test_over_train, double alpha, double power);
/* The same with any number of seeds: repeating seeds on the same folds cannot go below this. */
double stats_detectable_floor(double sd, double test_over_train, double alpha, double power);
/* The smallest number of seeds per fold that finds delta; 0: none does, because delta is below the floor
 * or more than STATS_SEEDS_MAX would be needed. */
enum { STATS_SEEDS_MAX = 1000 };
int stats_seeds_needed(double delta, double sd, int folds, double alpha, double power);

/* ---- factorials ---- */

/* Effects of a full 2^k factorial (Montgomery, Design and Analysis of
 * Experiments, chapter 6). cells is (n, 2^k): accuracy of run i under the arm whose bit f says that
 * factor f is on. Effect of a set of factors: the mean where an even number of
 * them is off minus the mean where an odd number is off. For one factor that is on
 * minus off; for two, half of how much one changes what the other does. Each
 * run gives one value, and these go through the corrected resampled t. */
enum { STATS_FACTORS_MAX = 6 };
struct stats_factor_effect {
	unsigned factors; /* bits */
	struct stats_paired test;
};
/* out has 2^k - 1 entries, main effects first, then by number of factors. scratch: n doubles. */
void stats_factorial(const double *cells, int n, int factors, double test_over_train, double level, double *scratch,
		     struct stats_factor_effect *out);

/* ---- calibration ---- */

/* Expected calibration error: Naeini et al., AAAI 2015; Guo et al., ICML 2017.
 * Bins of equal width over the confidence; a bin is [low, high), the last one closed. */
enum { STATS_BINS = 15 };
struct stats_bin {
	size_t count;
	double confidence, accuracy; /* means over the bin; NaN where it is empty */
};
struct stats_calibration {
	enum stats_status status;
	size_t count;
	double ece, mce; /* weighted mean and largest gap */
	struct stats_bin bins[STATS_BINS];
};
/* confidence in [0, 1], correct 0 or 1. May be called again with more: starts with stats_calibration_begin, ends with _end. */
void stats_calibration_begin(struct stats_calibration *c);
void stats_calibration_add(struct stats_calibration *c, double confidence, int correct);
void stats_calibration_end(struct stats_calibration *c);

#endif
