#include "trainer/study/stats.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "shared/base/check.h"
#include "trainer/study/stats_dist.h"

const char *stats_status_text(enum stats_status status)
{
	switch (status) {
	case STATS_OK:
		return "ok";
	case STATS_EMPTY:
		return "nothing to compare";
	case STATS_TOO_FEW:
		return "one run only: no spread can be estimated";
	case STATS_NO_SPREAD:
		return "the same in every run: no spread";
	case STATS_NOT_FINITE:
		return "not a finite number among the results";
	case STATS_NO_RATIO:
		return "the ratio of validation to training pictures is not known";
	}
	return "?";
}

/* Two passes: exact enough, and zero spread comes out as zero. */
static enum stats_status moments(const double *values, int n, double *mean, double *sd)
{
	double sum = 0, squares = 0;
	bool equal = true;

	*mean = *sd = NAN;
	if (n <= 0)
		return STATS_EMPTY;
	for (int i = 0; i < n; i++) {
		if (!isfinite(values[i]))
			return STATS_NOT_FINITE;
		sum += values[i];
		equal = equal && values[i] == values[0];
	}
	*mean = equal ? values[0] : sum / n;
	if (!isfinite(*mean))
		return STATS_NOT_FINITE;
	if (n < 2)
		return STATS_TOO_FEW;
	for (int i = 0; i < n; i++)
		squares += (values[i] - *mean) * (values[i] - *mean);
	*sd = equal ? 0 : sqrt(squares / (n - 1));
	if (!isfinite(*sd))
		return STATS_NOT_FINITE;
	/* Differences of equal accuracies differ in their last bits; that is no spread. */
	double scale = fabs(*mean) > 1 ? fabs(*mean) : 1;
	return *sd <= 1e-14 * scale ? STATS_NO_SPREAD : STATS_OK;
}

struct stats_mean stats_mean(const double *values, int n, double level)
{
	struct stats_mean out = { .n = n, .se = NAN, .low = NAN, .high = NAN };

	out.status = moments(values, n, &out.mean, &out.sd);
	if (out.status == STATS_NO_SPREAD) {
		out.sd = out.se = 0;
		out.low = out.high = out.mean;
	}
	if (out.status != STATS_OK)
		return out;
	out.se = out.sd / sqrt(n);
	double reach = dist_t_quantile(0.5 + level / 2, n - 1) * out.se;
	out.low = out.mean - reach;
	out.high = out.mean + reach;
	return out;
}

struct stats_paired stats_corrected_t(const double *differences, int n, double test_over_train, double level)
{
	struct stats_paired out = { .n = n, .ratio = test_over_train, .se = NAN, .t = NAN, .df = n > 0 ? n - 1 : NAN, .p = NAN, .low = NAN, .high = NAN };

	out.status = moments(differences, n, &out.mean, &out.sd);
	if (out.status == STATS_OK && !(test_over_train >= 0 && isfinite(test_over_train)))
		out.status = STATS_NO_RATIO;
	/* Equal to zero in every run: nothing was found, and that can be said without a t. */
	if (out.status == STATS_NO_SPREAD && fabs(out.mean) <= 1e-14)
		out.p = 1;
	if (out.status != STATS_OK)
		return out;
	out.se = out.sd * sqrt(1.0 / n + test_over_train);
	out.t = out.mean / out.se;
	out.p = dist_t_two_sided(out.t, out.df);
	double reach = dist_t_quantile(0.5 + level / 2, out.df) * out.se;
	out.low = out.mean - reach;
	out.high = out.mean + reach;
	return out;
}

struct stats_52cv stats_52cv(const double differences[5][2])
{
	struct stats_52cv out = { .status = STATS_OK, .f = NAN, .p = NAN };
	double squares = 0, variance = 0;

	for (int i = 0; i < 5; i++) {
		const double a = differences[i][0], b = differences[i][1], mean = (a + b) / 2;

		if (!isfinite(a) || !isfinite(b)) {
			out.status = STATS_NOT_FINITE;
			return out;
		}
		squares += a * a + b * b;
		variance += (a - mean) * (a - mean) + (b - mean) * (b - mean);
	}
	if (variance <= 1e-28) {
		out.status = STATS_NO_SPREAD;
		return out;
	}
	out.f = squares / (2 * variance);
	out.p = dist_f_sf(out.f, 10, 5);
	return out;
}

struct stats_effect stats_effect(const double *differences, int n)
{
	struct stats_effect out = { .d = NAN, .g = NAN };
	double mean, sd;

	out.status = moments(differences, n, &mean, &sd);
	if (out.status != STATS_OK)
		return out;
	out.d = mean / sd;
	double df = n - 1;
	/* The factor exists from df = 2 on; with df = 1 the gamma function has a pole. */
	out.g = df < 2 ? NAN : out.d * exp(lgamma(df / 2) - lgamma((df - 1) / 2)) / sqrt(df / 2);
	return out;
}

struct stats_mcnemar stats_mcnemar(double only_a, double only_b)
{
	struct stats_mcnemar out = { .status = STATS_OK, .only_a = only_a, .only_b = only_b, .statistic = NAN, .p = NAN };
	double n = only_a + only_b, less = only_a < only_b ? only_a : only_b;

	if (!(only_a >= 0) || !(only_b >= 0) || !isfinite(n)) {
		out.status = STATS_NOT_FINITE;
		return out;
	}
	if (n == 0) {
		out.status = STATS_EMPTY;
		out.p = 1;
		return out;
	}
	if (n <= MCNEMAR_EXACT_MAX) {
		double p = 2 * dist_binomial_cdf(less, n, 0.5);

		out.exact = 1;
		out.p = p > 1 ? 1 : p;
		return out;
	}
	double gap = fabs(only_a - only_b) - 1;
	out.statistic = gap > 0 ? gap * gap / n : 0;
	out.p = dist_chi2_sf(out.statistic, 1);
	return out;
}

void stats_holm(const double *p, int n, double *adjusted)
{
	int order[STATS_FAMILY_MAX], count = 0;
	double before = 0;

	CHECK(n <= STATS_FAMILY_MAX);
	for (int i = 0; i < n; i++) {
		int at = count;

		adjusted[i] = NAN;
		if (isnan(p[i]))
			continue;
		while (at > 0 && p[order[at - 1]] > p[i]) {
			order[at] = order[at - 1];
			at--;
		}
		order[at] = i;
		count++;
	}
	for (int i = 0; i < count; i++) {
		double value = p[order[i]] * (count - i);

		value = value > 1 ? 1 : value;
		before = value > before ? value : before;
		adjusted[order[i]] = before;
	}
}

/* ---- power ---- */

static double power_of_shift(double shift, double df, double alpha)
{
	double critical = dist_t_quantile(1 - alpha / 2, df);

	if (fabs(shift) > DIST_NCT_DELTA_MAX)
		return fabs(shift) > critical ? 1 : NAN;
	return 1 - dist_nct_cdf(critical, df, shift) + dist_nct_cdf(-critical, df, shift);
}

static bool can_compute(double sd, int n, double ratio, double alpha)
{
	return isfinite(sd) && sd > 0 && n >= 2 && ratio >= 0 && isfinite(ratio) && alpha > 0 && alpha < 1;
}

double stats_power(double delta, double sd, int n, double test_over_train, double alpha)
{
	if (!can_compute(sd, n, test_over_train, alpha) || !isfinite(delta))
		return NAN;
	return power_of_shift(delta / (sd * sqrt(1.0 / n + test_over_train)), n - 1, alpha);
}

/* The shift in standard errors that is found with this probability; NaN where it is beyond what can be computed. */
static double detectable_shift(double df, double alpha, double power)
{
	double low = 0, high = 1;

	if (!(power > alpha && power < 1))
		return NAN;
	while (!(power_of_shift(high, df, alpha) >= power)) {
		high *= 2;
		if (high > 1e6)
			return NAN;
	}
	if (high > DIST_NCT_DELTA_MAX)
		high = DIST_NCT_DELTA_MAX;
	if (!(power_of_shift(high, df, alpha) >= power))
		return NAN;
	for (int i = 0; i < 80; i++) {
		double middle = (low + high) / 2;

		if (power_of_shift(middle, df, alpha) < power)
			low = middle;
		else
			high = middle;
	}
	return high;
}

double stats_detectable(double sd, int n, double test_over_train, double alpha, double power)
{
	if (!can_compute(sd, n, test_over_train, alpha))
		return NAN;
	return detectable_shift(n - 1, alpha, power) * sd * sqrt(1.0 / n + test_over_train);
}

double stats_detectable_floor(double sd, double test_over_train, double alpha, double power)
{
	if (!can_compute(sd, 2, test_over_train, alpha) || !(power > 0 && power < 1))
		return NAN;
	return (dist_normal_quantile(1 - alpha / 2) + dist_normal_quantile(power)) * sd * sqrt(test_over_train);
}

int stats_seeds_needed(double delta, double sd, int folds, double alpha, double power)
{
	double ratio = folds > 1 ? 1.0 / (folds - 1) : NAN;
	int low = 0, high = STATS_SEEDS_MAX;

	if (folds < 2 || !can_compute(sd, 2, ratio, alpha) || !(stats_power(delta, sd, high * folds, ratio, alpha) >= power))
		return 0;
	/* Power grows with the number of runs. */
	while (high - low > 1) {
		int middle = (low + high) / 2;

		if (stats_power(delta, sd, middle * folds, ratio, alpha) >= power)
			high = middle;
		else
			low = middle;
	}
	return high;
}

/* ---- factorials ---- */

void stats_factorial(const double *cells, int n, int factors, double test_over_train, double level, double *scratch,
		     struct stats_factor_effect *out)
{
	const unsigned arms = 1u << factors;
	int used = 0;

	CHECK(factors >= 1 && factors <= STATS_FACTORS_MAX);
	for (int size = 1; size <= factors; size++) {
		for (unsigned set = 1; set < arms; set++) {
			if (__builtin_popcount(set) != size)
				continue;
			for (int i = 0; i < n; i++) {
				double sum = 0;

				for (unsigned arm = 0; arm < arms; arm++) {
					int off = size - __builtin_popcount(set & arm);

					sum += off % 2 == 0 ? cells[(size_t)i * arms + arm] : -cells[(size_t)i * arms + arm];
				}
				scratch[i] = sum / (arms / 2);
			}
			out[used].factors = set;
			out[used].test = stats_corrected_t(scratch, n, test_over_train, level);
			used++;
		}
	}
}

/* ---- calibration ---- */

void stats_calibration_begin(struct stats_calibration *c)
{
	*c = (struct stats_calibration){ .status = STATS_EMPTY, .ece = NAN, .mce = NAN };
}

void stats_calibration_add(struct stats_calibration *c, double confidence, int correct)
{
	if (!(confidence >= 0 && confidence <= 1)) {
		c->status = STATS_NOT_FINITE;
		return;
	}
	int bin = (int)(confidence * STATS_BINS);
	struct stats_bin *b = &c->bins[bin < STATS_BINS ? bin : STATS_BINS - 1];
	b->count++;
	b->confidence += confidence;
	b->accuracy += correct != 0;
	c->count++;
}

void stats_calibration_end(struct stats_calibration *c)
{
	double sum = 0, most = 0;

	for (int i = 0; i < STATS_BINS; i++) {
		struct stats_bin *b = &c->bins[i];

		if (b->count == 0) {
			b->confidence = b->accuracy = NAN;
			continue;
		}
		b->confidence /= (double)b->count;
		b->accuracy /= (double)b->count;
		double gap = fabs(b->confidence - b->accuracy);
		sum += gap * (double)b->count;
		most = gap > most ? gap : most;
	}
	if (c->count == 0 || c->status == STATS_NOT_FINITE)
		return;
	c->status = STATS_OK;
	c->ece = sum / (double)c->count;
	c->mce = most;
}
