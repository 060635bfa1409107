#include "trainer/study/stats_dist.h"

#include <math.h>
#include <stdbool.h>

enum {
	FRACTION_TERMS_MAX = 100000,
	SERIES_TERMS_MAX = 100000,
	BISECTIONS_MAX = 2200, /* a double has 2^11 exponents: more than enough to settle from any bracket */
};

static double log_gamma(double x)
{
	int sign;

	return lgamma_r(x, &sign);
}

/* ---- incomplete beta ---- */

/* The continued fraction of I_x(a, b), for x below the mean of the distribution. */
static double beta_fraction(double a, double b, double x)
{
	const double tiny = 1e-300, epsilon = 1e-16;
	double c = 1, d = 1 - (a + b) * x / (a + 1);

	d = 1 / (fabs(d) < tiny ? tiny : d);
	double h = d;
	for (int m = 1; m <= FRACTION_TERMS_MAX; m++) {
		double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
		double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));

		d = 1 + even * d;
		c = 1 + even / c;
		d = 1 / (fabs(d) < tiny ? tiny : d);
		c = fabs(c) < tiny ? tiny : c;
		h *= d * c;
		d = 1 + odd * d;
		c = 1 + odd / c;
		d = 1 / (fabs(d) < tiny ? tiny : d);
		c = fabs(c) < tiny ? tiny : c;
		h *= d * c;
		if (fabs(d * c - 1) < epsilon)
			break;
	}
	return h;
}

/* x and y = 1 - x are given both, so that neither loses its digits. */
static double beta_inc_xy(double a, double b, double x, double y)
{
	if (!(a > 0) || !(b > 0) || isnan(x))
		return NAN;
	if (x <= 0)
		return 0;
	if (y <= 0)
		return 1;
	double front = exp(a * log(x) + b * log(y) + log_gamma(a + b) - log_gamma(a) - log_gamma(b));
	if (x < (a + 1) / (a + b + 2))
		return front * beta_fraction(a, b, x) / a;
	return 1 - front * beta_fraction(b, a, y) / b;
}

double dist_beta_inc(double a, double b, double x)
{
	return x < 0 || x > 1 ? NAN : beta_inc_xy(a, b, x, 1 - x);
}

/* ---- incomplete gamma ---- */

static double gamma_series(double a, double x)
{
	double term = 1 / a, sum = term;

	for (int n = 1; n <= SERIES_TERMS_MAX && term > sum * 1e-17; n++) {
		term *= x / (a + n);
		sum += term;
	}
	return sum * exp(a * log(x) - x - log_gamma(a));
}

static double gamma_fraction(double a, double x)
{
	const double tiny = 1e-300;
	double b = x + 1 - a, c = 1 / tiny, d = 1 / b, h = d;

	for (int n = 1; n <= FRACTION_TERMS_MAX; n++) {
		double an = -n * (n - a);

		b += 2;
		d = an * d + b;
		d = 1 / (fabs(d) < tiny ? tiny : d);
		c = b + an / c;
		c = fabs(c) < tiny ? tiny : c;
		h *= d * c;
		if (fabs(d * c - 1) < 1e-16)
			break;
	}
	return h * exp(a * log(x) - x - log_gamma(a));
}

/* The upper one, 1 - P(a, x) without cancellation. */
static double gamma_q(double a, double x)
{
	if (!(a > 0) || isnan(x) || x < 0)
		return NAN;
	if (x == 0)
		return 1;
	if (isinf(x))
		return 0;
	return x < a + 1 ? 1 - gamma_series(a, x) : gamma_fraction(a, x);
}

/* ---- normal ---- */

double dist_normal_cdf(double x)
{
	return 0.5 * erfc(-x * M_SQRT1_2);
}

/* 0 < p <= 0.5: the tail near 0 has all digits, the one near 1 has not. */
static double normal_lower_quantile(double p)
{
	double low = -1, high = 0;

	while (dist_normal_cdf(low) > p && low > -1e300)
		low *= 2;
	for (int i = 0; i < BISECTIONS_MAX; i++) {
		double middle = low + (high - low) / 2;

		if (middle <= low || middle >= high)
			break;
		if (dist_normal_cdf(middle) < p)
			low = middle;
		else
			high = middle;
	}
	return low + (high - low) / 2;
}

double dist_normal_quantile(double p)
{
	if (!(p >= 0 && p <= 1))
		return NAN;
	if (p == 0 || p == 1)
		return p == 0 ? -INFINITY : INFINITY;
	return p <= 0.5 ? normal_lower_quantile(p) : -normal_lower_quantile(1 - p);
}

/* ---- Student's t ---- */

double dist_t_two_sided(double t, double df)
{
	if (!(df > 0) || isnan(t))
		return NAN;
	if (isinf(t))
		return 0;
	double square = t * t;
	if (isinf(square))
		return 0;
	return beta_inc_xy(df / 2, 0.5, df / (df + square), square / (df + square));
}

double dist_t_quantile(double p, double df)
{
	if (!(p >= 0 && p <= 1) || !(df > 0))
		return NAN;
	if (p == 0 || p == 1)
		return p == 0 ? -INFINITY : INFINITY;
	if (p == 0.5)
		return 0;
	/* P(|T| >= t) falls from 1 to 0: bisected on the side that keeps its digits. */
	double tail = 2 * (p < 0.5 ? p : 1 - p), low = 0, high = 1;
	while (dist_t_two_sided(high, df) > tail && high < 1e300)
		high *= 2;
	for (int i = 0; i < BISECTIONS_MAX; i++) {
		double middle = low + (high - low) / 2;

		if (middle <= low || middle >= high)
			break;
		if (dist_t_two_sided(middle, df) > tail)
			low = middle;
		else
			high = middle;
	}
	return p < 0.5 ? -high : high;
}

/* ---- F ---- */

double dist_f_sf(double f, double df1, double df2)
{
	if (!(df1 > 0) || !(df2 > 0) || isnan(f))
		return NAN;
	if (f <= 0)
		return 1;
	if (isinf(f))
		return 0;
	return beta_inc_xy(df2 / 2, df1 / 2, df2 / (df1 * f + df2), df1 * f / (df1 * f + df2));
}

/* ---- chi squared ---- */

double dist_chi2_sf(double x, double df)
{
	return x <= 0 && df > 0 ? 1 : gamma_q(df / 2, x / 2);
}

/* ---- binomial ---- */

double dist_binomial_cdf(double k, double n, double p)
{
	if (!(n >= 0) || !(p >= 0 && p <= 1) || isnan(k) || n != floor(n))
		return NAN;
	k = floor(k);
	if (k < 0)
		return 0;
	if (k >= n || p == 0)
		return 1;
	return p == 1 ? 0 : beta_inc_xy(n - k, k + 1, 1 - p, p);
}

/* ---- noncentral t ---- */

/* P(0 < T <= t), t > 0. The Poisson weights are largest near delta²/2, so the sum runs until they are spent behind it. */
static double nct_above_zero(double t, double df, double delta)
{
	double y = df / (df + t * t), x = t * t / (df + t * t), half = delta * delta / 2;
	double p = exp(-half), q = delta * sqrt(2 / M_PI) * exp(-half), sum = 0;

	for (int j = 0; j < SERIES_TERMS_MAX; j++) {
		double term = p * beta_inc_xy(j + 0.5, df / 2, x, y) + q * beta_inc_xy(j + 1, df / 2, x, y);

		sum += term;
		p *= half / (j + 1);
		q *= half / (j + 1.5);
		if (j > half && p + fabs(q) < 1e-18)
			break;
	}
	return sum / 2;
}

double dist_nct_cdf(double t, double df, double delta)
{
	if (!(df > 0) || isnan(t) || !(fabs(delta) <= DIST_NCT_DELTA_MAX))
		return NAN;
	if (isinf(t))
		return t < 0 ? 0 : 1;
	if (t < 0)
		return 1 - dist_nct_cdf(-t, df, -delta);
	double value = dist_normal_cdf(-delta) + (t > 0 ? nct_above_zero(t, df, delta) : 0);
	return value < 0 ? 0 : value > 1 ? 1 : value;
}
