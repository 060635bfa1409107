/*
 * stats_cluster.h - resampling whole pictures: the second view of a difference.
 *
 * Pairs that share a picture are not independent, so pictures (clusters) are
 * what is drawn, with all their pairs. For each cluster and arm there are two numbers: a
 * sum over its pairs (and seeds) of [arm right] - [baseline right], and how
 * many terms it has. The difference of accuracies is sum of sums over sum of
 * counts.
 *
 * Draws are named by (seed, replicate, position), so results repeat exactly,
 * and every arm sees the same drawn pictures.
 *
 * Both say how sure one can be about THESE trained models on other pictures;
 * neither knows that training again would give other models.
 *
 * Threads:   pure functions, any thread.
 * Ownership: arrays are borrowed.
 */
#ifndef TRAINER_STUDY_STATS_CLUSTER_H
#define TRAINER_STUDY_STATS_CLUSTER_H

#include <stdint.h>

#include "shared/base/err.h"
#include "trainer/study/stats.h"

struct cluster_table {
	uint32_t clusters, arms;
	const double *sums;   /* (clusters, arms), whole numbers */
	const double *counts; /* (clusters, arms), whole numbers */
};

/* Interval by the bias-corrected and accelerated bootstrap: Efron, JASA 82
 * (1987); acceleration from the jackknife over clusters. Clusters are drawn with replacement, as in
 * Davison and Hinkley, Bootstrap Methods and Their Application (1997), section 3.8. */
struct stats_bootstrap {
	enum stats_status status;
	int replicates;
	int bca;              /* 0: percentiles, where bias or acceleration could not be had */
	double estimate, se;
	double low, high;
	double bias, acceleration; /* z0, a */
};
/* out: (arms). replicates_out: (replicates, arms) or NULL; for tests. */
MUST_USE int stats_bootstrap(const struct cluster_table *table, int replicates, uint64_t seed, double level,
			     struct stats_bootstrap *out, double *replicates_out, struct err *err);

/* Permutation test by sign-flipping whole clusters (Winkler et al., NeuroImage
 * 92, 2014, "whole-block"): with no difference, a picture's sum is as likely of
 * either sign. Exact where at most PERMUTATION_EXACT_MAX clusters differ at all, else
 * p = (1 + number at least as large) / (1 + permutations) (Phipson and Smyth 2010). */
enum { PERMUTATION_EXACT_MAX = 16 };
struct stats_permutation {
	enum stats_status status; /* STATS_EMPTY: no cluster differs, p = 1 */
	int exact;
	uint32_t differing;       /* clusters whose sum is not zero */
	int permutations;
	double estimate, p;
};
MUST_USE int stats_permutation(const struct cluster_table *table, uint32_t arm, int permutations, uint64_t seed,
			       struct stats_permutation *out, struct err *err);

#endif
