#include "trainer/study/report_analysis.h"

#include <math.h>
#include <string.h>

#include "shared/base/mem.h"

/* A fixed seed: the same study gives the same report. */
static const uint64_t resampling_seed = 20;

/* ---- test over train ---- */

/* One fold only: what the runs say about their sizes. One that was measured on no picture says nothing: a ratio of 0 would be no correction. */
static double ratio_of_runs(const struct report_data *data)
{
	for (int i = 0; i < data->runs_planned; i++) {
		const struct report_run *run = data->runs[i];

		if (run != NULL && run->train_pictures > 0 && run->pictures > 0)
			return (double)run->pictures / run->train_pictures;
	}
	return NAN;
}

/* ---- each arm by itself ---- */

struct column {
	double *values; /* room for all folds and seeds */
	int count;
};

static void gather(const struct report_data *data, int arm, double (*get)(const struct report_run *run), struct column *out)
{
	out->count = 0;
	for (int f = 0; f < data->folds; f++) {
		for (int s = 0; s < data->seeds; s++) {
			const struct report_run *run = report_run_at(data, arm, f, s);
			double value = run != NULL ? get(run) : NAN;

			if (isfinite(value))
				out->values[out->count++] = value;
		}
	}
}

static double get_accuracy(const struct report_run *run) { return run->accuracy; }
static double get_loss(const struct report_run *run) { return run->loss; }
static double get_ece(const struct report_run *run) { return run->ece; }
static double get_train_accuracy(const struct report_run *run) { return run->train_accuracy; }
static double get_gap(const struct report_run *run) { return run->train_accuracy - run->accuracy; }
static double get_cost(const struct report_run *run) { return run->cost; }
static double get_step(const struct report_run *run) { return run->step_seconds; }
static double get_seconds(const struct report_run *run) { return run->train_seconds; }
static double get_embedding(const struct report_run *run) { return run->delta_over_embedding; }
static double get_feature(const struct report_run *run) { return run->delta_over_feature; }
static double get_fused(const struct report_run *run) { return run->delta_over_fused; }
static double get_pixel(const struct report_run *run) { return run->delta_over_pixel; }
static double get_clean_loss(const struct report_run *run) { return run->clean_loss; }
static double get_adv_loss(const struct report_run *run) { return run->adv_loss; }

static double mean_of(const struct report_data *data, int arm, double (*get)(const struct report_run *run), struct column *column)
{
	gather(data, arm, get, column);
	return stats_mean(column->values, column->count, REPORT_LEVEL).mean;
}

static struct stats_mean spread_of(const struct report_data *data, int arm, double (*get)(const struct report_run *run),
				   struct column *column)
{
	gather(data, arm, get, column);
	return stats_mean(column->values, column->count, REPORT_LEVEL);
}

static void calibrate(const struct report_data *data, int arm, struct stats_calibration *out)
{
	stats_calibration_begin(out);
	/* Of a class among many, p is the true class's: the confidence of a wrong answer is not in the file. */
	for (int i = 0; data->match && i < data->folds * data->seeds; i++) {
		const struct report_run *run = report_run_at(data, arm, i / data->seeds, i % data->seeds);

		if (run == NULL || run->pairs == NULL)
			continue;
		for (uint32_t r = 0; r < run->pairs->count; r++)
			stats_calibration_add(out, run->p[r] >= 0.5f ? (double)run->p[r] : 1 - (double)run->p[r], run->correct[r]);
	}
	stats_calibration_end(out);
}

/* One of a run's series: its values, and where they stand (NULL: by epoch). */
struct curve_series {
	int count;
	const double *at, *values;
};

static struct curve_series series_of(const struct report_curve *curve, int which)
{
	const double *all[SERIES_COUNT] = { curve->train_loss, curve->train_accuracy, curve->val_loss, curve->val_accuracy, curve->every_loss,
					    curve->every_accuracy };
	const bool every = which >= SERIES_BY_EPOCH, train = which == SERIES_TRAIN_LOSS || which == SERIES_TRAIN_ACCURACY;

	return (struct curve_series){ .count = every ? curve->every_count : curve->count, .values = all[which],
				      .at = every ? curve->every_at : train ? curve->train_at : NULL };
}

/* The i-th point of every run that has it. */
static void band_point(const struct report_data *data, int arm, int which, int i, struct report_band *out, double *values)
{
	double at = 0;
	int n = 0;

	for (int cell = 0; cell < data->folds * data->seeds; cell++) {
		const struct report_run *run = report_run_at(data, arm, cell / data->seeds, cell % data->seeds);

		if (run == NULL)
			continue;
		struct curve_series series = series_of(&run->curve, which);
		if (i >= series.count || !isfinite(series.values[i]))
			continue;
		at += series.at != NULL ? series.at[i] : NAN;
		values[n++] = series.values[i];
	}
	struct stats_mean m = stats_mean(values, n, REPORT_LEVEL);
	out->mean[i] = m.mean;
	out->sd[i] = m.sd;
	if (out->at != NULL)
		out->at[i] = n > 0 ? at / n : NAN;
}

static int band(const struct report_data *data, int arm, int which, struct report_band *out, double *values, struct err *err)
{
	bool has_at = which != SERIES_VAL_LOSS && which != SERIES_VAL_ACCURACY;

	for (int i = 0; i < data->folds * data->seeds; i++) {
		const struct report_run *run = report_run_at(data, arm, i / data->seeds, i % data->seeds);
		int count = run != NULL ? series_of(&run->curve, which).count : 0;

		out->count = count > out->count ? count : out->count;
	}
	out->mean = mem_array((size_t)out->count + 1, sizeof(double));
	out->sd = mem_array((size_t)out->count + 1, sizeof(double));
	out->at = has_at ? mem_array((size_t)out->count + 1, sizeof(double)) : NULL;
	if (out->mean == NULL || out->sd == NULL || (has_at && out->at == NULL))
		return err_nomem(err, (size_t)out->count * sizeof(double));
	for (int i = 0; i < out->count; i++)
		band_point(data, arm, which, i, out, values);
	return 0;
}

static int describe_arm(struct report_analysis *analysis, int arm, struct column *column, struct err *err)
{
	const struct report_data *data = analysis->data;
	struct report_arm_result *out = &analysis->arm[arm];
	int code = 0;

	for (int i = 0; i < data->folds * data->seeds; i++) {
		const struct report_run *run = report_run_at(data, arm, i / data->seeds, i % data->seeds);

		out->runs += run != NULL;
		out->failed += run != NULL && !run->finite;
	}
	out->diverged = data->diverged[arm];
	out->accuracy = spread_of(data, arm, get_accuracy, column);
	/* The same interval with the variance of the mean as the corrected test has it. */
	struct stats_paired wide = stats_corrected_t(column->values, column->count, analysis->ratio, REPORT_LEVEL);
	out->accuracy_wide = wide.status == STATS_OK ? wide.high - wide.mean : NAN;
	out->loss = spread_of(data, arm, get_loss, column);
	out->gap = spread_of(data, arm, get_gap, column);
	out->ece = spread_of(data, arm, get_ece, column);
	out->train_accuracy = spread_of(data, arm, get_train_accuracy, column);
	out->own_cost = mean_of(data, arm, get_cost, column);
	out->cost = NAN;
	out->seconds = mean_of(data, arm, get_seconds, column);
	out->step_seconds = mean_of(data, arm, get_step, column);
	out->delta_over_embedding = mean_of(data, arm, get_embedding, column);
	out->delta_over_feature = mean_of(data, arm, get_feature, column);
	out->delta_over_fused = mean_of(data, arm, get_fused, column);
	out->delta_over_pixel = mean_of(data, arm, get_pixel, column);
	out->adv_loss = mean_of(data, arm, get_adv_loss, column);
	out->clean_loss = mean_of(data, arm, get_clean_loss, column);
	calibrate(data, arm, &out->calibration);
	for (int s = 0; code == 0 && s < SERIES_COUNT; s++)
		code = band(data, arm, s, &out->series[s], column->values, err);
	return code;
}

/* ---- an arm against the baseline ---- */

static bool both(const struct report_data *data, int arm, int fold, int seed, const struct report_run **a, const struct report_run **b)
{
	*a = report_run_at(data, arm, fold, seed);
	*b = report_run_at(data, data->baseline, fold, seed);
	return report_usable(*a) && report_usable(*b);
}

/* Where each seed cuts anew, fold 1 of one seed has nothing to do with fold 1 of another. */
static void compare_folds(const struct report_analysis *analysis, int arm, struct report_arm_result *out, double *values)
{
	const struct report_data *data = analysis->data;
	const struct report_run *a, *b;
	int count = 0;

	for (int f = 0; f < data->folds && !data->recut; f++) {
		double sum = 0;
		int n = 0;

		for (int s = 0; s < data->seeds; s++) {
			if (both(data, arm, f, s, &a, &b)) {
				sum += a->accuracy - b->accuracy;
				n++;
			}
		}
		if (n > 0)
			values[count++] = sum / n;
	}
	out->by_fold = stats_corrected_t(values, count, analysis->ratio, REPORT_LEVEL);
}

static void compare_52cv(const struct report_data *data, int arm, struct report_arm_result *out)
{
	const struct report_run *a, *b;
	double d[5][2];

	/* Five halvings, not one halving five times. */
	if (!data->recut || data->folds_planned != 2 || data->seeds != 5 || data->folds != 2)
		return;
	for (int s = 0; s < 5; s++) {
		for (int f = 0; f < 2; f++) {
			if (!both(data, arm, f, s, &a, &b))
				return;
			d[s][f] = a->accuracy - b->accuracy;
		}
	}
	out->has_52cv = true;
	out->cv52 = stats_52cv(d);
}

/* The first seed for which both have predictions: each pair once. */
static void compare_mcnemar(const struct report_data *data, int arm, struct report_arm_result *out)
{
	out->mcnemar = (struct stats_mcnemar){ .status = STATS_EMPTY, .statistic = NAN, .p = NAN };
	for (int s = 0; s < data->seeds; s++) {
		double only_a = 0, only_b = 0;
		int found = 0;

		for (int f = 0; f < data->folds; f++) {
			const struct report_run *a, *b;

			if (!both(data, arm, f, s, &a, &b) || a->pairs == NULL || b->pairs == NULL)
				continue;
			found++;
			for (uint32_t r = 0; r < a->pairs->count; r++) {
				only_a += a->correct[r] && !b->correct[r];
				only_b += b->correct[r] && !a->correct[r];
			}
		}
		if (found == 0)
			continue;
		out->mcnemar = stats_mcnemar(only_a, only_b);
		out->mcnemar_seed = data->seed_name[s];
		return;
	}
}

static void compare_arm(struct report_analysis *analysis, int arm, double *values)
{
	const struct report_data *data = analysis->data;
	struct report_arm_result *out = &analysis->arm[arm], *base = &analysis->arm[data->baseline];
	const struct report_run *a, *b;
	double errors = 0;

	for (int f = 0; f < data->folds; f++) {
		for (int s = 0; s < data->seeds; s++) {
			if (!both(data, arm, f, s, &a, &b))
				continue;
			out->differences[out->pairs_of_runs++] = a->accuracy - b->accuracy;
			errors += 1 - b->accuracy;
		}
	}
	out->test = stats_corrected_t(out->differences, out->pairs_of_runs, analysis->ratio, REPORT_LEVEL);
	out->effect = stats_effect(out->differences, out->pairs_of_runs);
	out->error_reduction = errors > 0 ? out->test.mean / (errors / out->pairs_of_runs) : NAN;
	out->seconds_ratio = base->seconds > 0 ? out->seconds / base->seconds : NAN;
	/* What a run measures within itself leaves out what its other regularizers cost: dropout+adv would seem cheaper than dropout. */
	out->cost = isfinite(out->step_seconds) && base->step_seconds > 0 ? out->step_seconds / base->step_seconds : out->own_cost;
	compare_folds(analysis, arm, out, values);
	compare_52cv(data, arm, out);
	compare_mcnemar(data, arm, out);
}

/* ---- pictures as clusters ---- */

/* sums and counts: (clusters, arms of order[]). */
static void fill_clusters(struct report_analysis *analysis, double *sums, double *counts)
{
	const struct report_data *data = analysis->data;

	for (int i = 0; i < analysis->order_count; i++) {
		for (int cell = 0; cell < data->folds * data->seeds; cell++) {
			const struct report_run *a, *b;

			if (!both(data, analysis->order[i], cell / data->seeds, cell % data->seeds, &a, &b) || a->pairs == NULL ||
			    b->pairs == NULL)
				continue;
			analysis->arm[analysis->order[i]].resampled++;
			for (uint32_t r = 0; r < a->pairs->count; r++) {
				size_t at = (size_t)a->pairs->cluster[r] * (size_t)analysis->order_count + (size_t)i;

				sums[at] += (int)a->correct[r] - (int)b->correct[r];
				counts[at] += 1;
			}
		}
	}
}

static int resample(struct report_analysis *analysis, struct err *err)
{
	const struct report_data *data = analysis->data;
	const size_t arms = (size_t)analysis->order_count, size = (size_t)data->clusters * arms;
	double *sums = mem_array(size + 1, sizeof(*sums)), *counts = mem_array(size + 1, sizeof(*counts));
	struct stats_bootstrap *boot = mem_array(arms + 1, sizeof(*boot));
	struct cluster_table table = { .clusters = data->clusters, .arms = (uint32_t)arms, .sums = sums, .counts = counts };
	int code = 0;

	if (sums == NULL || counts == NULL || boot == NULL) {
		code = err_nomem(err, 2 * size * sizeof(*sums));
		goto out;
	}
	analysis->replicates = REPORT_REPLICATES;
	if ((double)size * REPORT_REPLICATES > REPORT_DRAWS_MAX) {
		analysis->replicates = (int)(REPORT_DRAWS_MAX / (double)size);
		if (analysis->replicates < REPORT_REPLICATES_MIN)
			analysis->replicates = REPORT_REPLICATES_MIN;
	}
	fill_clusters(analysis, sums, counts);
	code = stats_bootstrap(&table, analysis->replicates, resampling_seed, REPORT_LEVEL, boot, NULL, err);
	for (size_t i = 0; code == 0 && i < arms; i++) {
		struct report_arm_result *out = &analysis->arm[analysis->order[i]];

		out->bootstrap = boot[i];
		code = stats_permutation(&table, (uint32_t)i, analysis->replicates, resampling_seed, &out->permutation, err);
	}
out:
	mem_free(sums);
	mem_free(counts);
	mem_free(boot);
	return code;
}

/* ---- over all arms ---- */

/* Of an unfinished study the arms to come count, too: as long as they say nothing, as comparisons that find nothing. */
static void holm(const struct report_analysis *analysis, const double *p, double *out)
{
	const int n = analysis->order_count;
	double all[REPORT_ARMS_MAX] = { 0 };

	for (int i = 0; i < n; i++)
		all[i] = isnan(p[i]) && !analysis->complete ? 1 : p[i];
	stats_holm(all, n, out);
	for (int i = 0; i < n; i++)
		if (isnan(p[i]))
			out[i] = NAN;
}

static void adjust(struct report_analysis *analysis)
{
	const struct report_data *data = analysis->data;
	double p[REPORT_ARMS_MAX] = { 0 }, folds[REPORT_ARMS_MAX] = { 0 }, flips[REPORT_ARMS_MAX] = { 0 }, out[REPORT_ARMS_MAX];
	int n = analysis->order_count;

	for (int i = 0; i < n; i++) {
		const struct report_arm_result *arm = &analysis->arm[analysis->order[i]];

		p[i] = arm->test.p;
		folds[i] = arm->by_fold.p;
		flips[i] = arm->permutation.p;
		analysis->compared += !isnan(p[i]) || !analysis->complete;
	}
	holm(analysis, p, out);
	for (int i = 0; i < n; i++)
		analysis->arm[analysis->order[i]].holm = out[i];
	holm(analysis, folds, out);
	for (int i = 0; i < n; i++)
		analysis->arm[analysis->order[i]].holm_by_fold = out[i];
	holm(analysis, flips, out);
	for (int i = 0; i < n; i++)
		analysis->arm[analysis->order[i]].holm_permutation = out[i];
	/* What the study was set up for counts, not what has finished so far. */
	analysis->power.family = data->arms > 1 ? data->arms - 1 : 1;
	analysis->power.alpha = REPORT_ALPHA / analysis->power.family;
	for (int i = 0; i < n; i++) {
		struct report_arm_result *arm = &analysis->arm[analysis->order[i]];
		struct stats_paired wide =
			stats_corrected_t(arm->differences, arm->pairs_of_runs, analysis->ratio, 1 - analysis->power.alpha);

		arm->wide_low = wide.low;
		arm->wide_high = wide.high;
		arm->detectable = stats_detectable(arm->test.sd, arm->pairs_of_runs, analysis->ratio, analysis->power.alpha, REPORT_POWER);
	}
}

static void judge(struct report_arm_result *arm, const struct report_arm_result *base)
{
	arm->verdict = VERDICT_NONE;
	if (arm->runs == 0)
		arm->why = arm->diverged > 0 ? "every run diverged" : "no run has finished";
	else if (base->runs == 0)
		arm->why = base->diverged > 0 ? "every run of the baseline diverged" : "no run of the baseline has finished";
	else if (arm->pairs_of_runs == 0)
		arm->why = arm->failed > 0 || base->failed > 0 ?
				   "no fold and seed where both have a finite accuracy" :
				   "no fold and seed where both have finished on the same pairs";
	else if (arm->test.status == STATS_OK)
		arm->verdict = !(arm->holm <= REPORT_ALPHA) ? VERDICT_UNCLEAR : arm->test.mean > 0 ? VERDICT_BETTER : VERDICT_WORSE;
	else if (arm->test.status == STATS_NO_SPREAD && arm->test.p == 1)
		arm->verdict = VERDICT_IDENTICAL;
	else
		arm->why = stats_status_text(arm->test.status);
}

static void estimate_power(struct report_analysis *analysis)
{
	struct report_power *power = &analysis->power;
	const struct report_data *data = analysis->data;
	double squares = 0;
	int n = 0;

	for (int i = 0; i < analysis->order_count; i++) {
		const struct report_arm_result *arm = &analysis->arm[analysis->order[i]];

		if (arm->test.status == STATS_OK) {
			squares += arm->test.sd * arm->test.sd;
			n++;
		}
	}
	power->sd = n > 0 ? sqrt(squares / n) : NAN;
	power->runs = data->folds_planned * data->seeds;
	power->ratio = analysis->ratio;
	power->detectable = stats_detectable(power->sd, power->runs, power->ratio, power->alpha, REPORT_POWER);
	power->detectable_single = stats_detectable(power->sd, power->runs, power->ratio, REPORT_ALPHA, REPORT_POWER);
	power->floor = stats_detectable_floor(power->sd, power->ratio, power->alpha, REPORT_POWER);
}

static double order_value(const struct report_arm_result *arm)
{
	return isfinite(arm->test.mean) ? arm->test.mean : -INFINITY;
}

/* Largest difference first; equal ones stay in the study's order. */
static void order_arms(struct report_analysis *analysis)
{
	for (int i = 1; i < analysis->order_count; i++) {
		int arm = analysis->order[i], at = i;

		for (; at > 0 && order_value(&analysis->arm[analysis->order[at - 1]]) < order_value(&analysis->arm[arm]); at--)
			analysis->order[at] = analysis->order[at - 1];
		analysis->order[at] = arm;
	}
}

static int compare(struct report_analysis *analysis, double *values, struct err *err)
{
	const struct report_data *data = analysis->data;
	int code;

	for (int a = 0; a < data->arms; a++) {
		if (a == data->baseline)
			continue;
		analysis->arm[a].differences = mem_array((size_t)(data->folds_planned * data->seeds), sizeof(double));
		if (analysis->arm[a].differences == NULL)
			return err_nomem(err, (size_t)(data->folds_planned * data->seeds) * sizeof(double));
		compare_arm(analysis, a, values);
		analysis->order[analysis->order_count++] = a;
	}
	order_arms(analysis);
	if ((code = resample(analysis, err)) != 0)
		return code;
	adjust(analysis);
	estimate_power(analysis);
	for (int i = 0; i < analysis->order_count; i++)
		judge(&analysis->arm[analysis->order[i]], &analysis->arm[data->baseline]);
	report_factorial_find(analysis);
	return report_factorial_compute(analysis, err);
}

int report_analyse(struct report_analysis **out, const struct report_data *data, struct err *err)
{
	struct report_analysis *analysis = mem_zalloc(sizeof(*analysis));
	struct column column = { .values = mem_array((size_t)(data->folds_planned * data->seeds), sizeof(double)) };
	int code = 0;

	*out = NULL;
	if (analysis == NULL || column.values == NULL) {
		code = err_nomem(err, sizeof(*analysis));
		goto out;
	}
	analysis->data = data;
	for (int a = 0; a < data->arms; a++)
		analysis->diverged += data->diverged[a];
	analysis->complete = data->run_count + analysis->diverged >= data->runs_planned;
	analysis->ratio = data->folds_planned > 1 ? 1.0 / (data->folds_planned - 1) : ratio_of_runs(data);
	for (int a = 0; code == 0 && a < data->arms; a++)
		code = describe_arm(analysis, a, &column, err);
	if (code != 0 || (code = compare(analysis, column.values, err)) != 0)
		goto out;
	report_identity_check(analysis);
	*out = analysis;
	analysis = NULL;
out:
	report_analysis_free(analysis);
	mem_free(column.values);
	return code;
}

void report_analysis_free(struct report_analysis *analysis)
{
	if (analysis == NULL)
		return;
	for (int a = 0; a < REPORT_ARMS_MAX; a++) {
		mem_free(analysis->arm[a].differences);
		for (int s = 0; s < SERIES_COUNT; s++) {
			mem_free(analysis->arm[a].series[s].at);
			mem_free(analysis->arm[a].series[s].mean);
			mem_free(analysis->arm[a].series[s].sd);
		}
	}
	mem_free(analysis);
}
