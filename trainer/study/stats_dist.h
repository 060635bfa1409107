/*
 * stats_dist.h - distribution functions and quantiles that the study's tests need.
 *
 * Everything rests on two special functions: the regularized incomplete beta
 * (continued fraction, modified Lentz; Didonato and Morris, ACM TOMS 708, 1992,
 * say where it converges fast) and the regularized incomplete gamma (series and
 * continued fraction; Numerical Recipes' chapter 6.2 derives both). Quantiles
 * are found by bisection on these, so that a quantile and its distribution
 * function always agree. Held against SciPy to 1e-10 in tests/parity/test_stats.py.
 *
 * An argument outside of the domain (df <= 0, p outside [0, 1], NaN) gives NaN;
 * callers check what they pass. Pure functions, any thread.
 */
#ifndef TRAINER_STUDY_STATS_DIST_H
#define TRAINER_STUDY_STATS_DIST_H

double dist_beta_inc(double a, double b, double x); /* I_x(a, b) */

double dist_normal_cdf(double x);
double dist_normal_quantile(double p);

double dist_t_two_sided(double t, double df); /* P(|T| >= |t|) */
double dist_t_quantile(double p, double df);

/* P(X >= x) */
double dist_f_sf(double f, double df1, double df2);
double dist_chi2_sf(double x, double df);

/* P(X <= k) of n trials; k below 0 or above n is fine. */
double dist_binomial_cdf(double k, double n, double p);

/* Noncentral t (Lenth, algorithm AS 243, Applied Statistics 38, 1989): for
 * power. |delta| <= DIST_NCT_DELTA_MAX, beyond that NaN. */
#define DIST_NCT_DELTA_MAX 37.0
double dist_nct_cdf(double t, double df, double delta);

#endif
