/* report.json: everything that the report knows, unrounded. Format: schemas/study.md. */
#include <math.h>

#include "trainer/study/report_words.h"

static void real(struct text *t, const char *key, double value)
{
	text_f(t, ", \"%s\": ", key);
	text_json_real(t, value);
}

static void add_mean(struct text *t, const char *key, const struct stats_mean *m)
{
	text_f(t, ", \"%s\": {\"status\": ", key);
	text_json(t, stats_status_text(m->status));
	text_f(t, ", \"n\": %d", m->n);
	real(t, "mean", m->mean);
	real(t, "sd", m->sd);
	real(t, "low", m->low);
	real(t, "high", m->high);
	text_add(t, "}");
}

static void add_paired(struct text *t, const char *key, const struct stats_paired *p, double holm)
{
	text_f(t, "\"%s\": {\"status\": ", key);
	text_json(t, stats_status_text(p->status));
	text_f(t, ", \"n\": %d", p->n);
	real(t, "difference", p->mean);
	real(t, "sd", p->sd);
	real(t, "test_over_train", p->ratio);
	real(t, "se", p->se);
	real(t, "t", p->t);
	real(t, "df", p->df);
	real(t, "p", p->p);
	real(t, "p_holm", holm);
	real(t, "low", p->low);
	real(t, "high", p->high);
	text_add(t, "}");
}

static void add_resampling(struct text *t, const struct report_arm_result *r)
{
	const struct stats_bootstrap *b = &r->bootstrap;
	const struct stats_permutation *p = &r->permutation;

	text_add(t, ",\n      \"bootstrap\": {\"status\": ");
	text_json(t, stats_status_text(b->status));
	text_f(t, ", \"method\": \"%s\", \"replicates\": %d, \"runs\": %d", b->bca ? "BCa" : "percentile", b->replicates,
	       r->resampled);
	real(t, "difference", b->estimate);
	real(t, "se", b->se);
	real(t, "low", b->low);
	real(t, "high", b->high);
	text_add(t, "},\n      \"permutation\": {\"status\": ");
	text_json(t, stats_status_text(p->status));
	text_f(t, ", \"exact\": %s, \"permutations\": %d, \"differing_pictures\": %u", p->exact ? "true" : "false", p->permutations, p->differing);
	real(t, "difference", p->estimate);
	real(t, "p", p->p);
	real(t, "p_holm", r->holm_permutation);
	text_add(t, "}");
}

static void add_support(struct text *t, const struct report_arm_result *r)
{
	text_add(t, ",\n      \"mcnemar\": {\"status\": ");
	text_json(t, stats_status_text(r->mcnemar.status));
	text_f(t, ", \"seed\": %lld, \"exact\": %s", (long long)r->mcnemar_seed, r->mcnemar.exact ? "true" : "false");
	real(t, "only_arm", r->mcnemar.only_a);
	real(t, "only_baseline", r->mcnemar.only_b);
	real(t, "statistic", r->mcnemar.statistic);
	real(t, "p", r->mcnemar.p);
	text_add(t, "}");
	if (r->has_52cv) {
		text_add(t, ",\n      \"cv52_f\": {\"status\": ");
		text_json(t, stats_status_text(r->cv52.status));
		real(t, "f", r->cv52.f);
		real(t, "p", r->cv52.p);
		text_add(t, "}");
	}
	text_add(t, ",\n      \"effect\": {\"status\": ");
	text_json(t, stats_status_text(r->effect.status));
	real(t, "cohen_d", r->effect.d);
	real(t, "hedges_g", r->effect.g);
	real(t, "error_reduction", r->error_reduction);
	text_add(t, "}");
}

static void add_comparison(struct text *t, const struct report_analysis *a, int arm)
{
	const struct report_arm_result *r = &a->arm[arm];

	text_add(t, ",\n     \"against_baseline\": {\"verdict\": ");
	text_json(t, words_verdict_name(r->verdict));
	if (r->why != NULL) {
		text_add(t, ", \"why\": ");
		text_json(t, r->why);
	}
	text_f(t, ", \"runs\": %d,\n      ", r->pairs_of_runs);
	add_paired(t, "corrected_t", &r->test, r->holm);
	text_add(t, ",\n      ");
	add_paired(t, "corrected_t_by_fold", &r->by_fold, r->holm_by_fold);
	text_add(t, ",\n      \"simultaneous\": {\"low\": ");
	text_json_real(t, r->wide_low);
	text_add(t, ", \"high\": ");
	text_json_real(t, r->wide_high);
	text_add(t, "}");
	add_resampling(t, r);
	add_support(t, r);
	text_add(t, ",\n      \"detectable\": ");
	text_json_real(t, r->detectable);
	text_add(t, ", \"differences\": [");
	for (int i = 0; i < r->pairs_of_runs; i++) {
		text_add(t, i > 0 ? ", " : "");
		text_json_real(t, r->differences[i]);
	}
	text_add(t, "]}");
}

static void add_calibration(struct text *t, const struct stats_calibration *c)
{
	text_add(t, ",\n     \"calibration\": {\"status\": ");
	text_json(t, stats_status_text(c->status));
	text_f(t, ", \"pairs\": %zu", c->count);
	real(t, "ece", c->ece);
	real(t, "mce", c->mce);
	text_add(t, ", \"bins\": [");
	for (int b = 0; b < STATS_BINS; b++) {
		text_f(t, "%s{\"low\": %.17g, \"high\": %.17g, \"count\": %zu", b > 0 ? ", " : "", (double)b / STATS_BINS, (b + 1.0) / STATS_BINS,
		       c->bins[b].count);
		real(t, "confidence", c->count > 0 ? c->bins[b].confidence : NAN);
		real(t, "accuracy", c->count > 0 ? c->bins[b].accuracy : NAN);
		text_add(t, "}");
	}
	text_add(t, "]}");
}

static void add_series(struct text *t, const struct report_arm_result *r)
{
	static const char *const names[SERIES_BY_EPOCH] = { "train_loss", "train_accuracy", "val_loss", "val_accuracy" };

	text_add(t, ",\n     \"curves\": {");
	for (int s = 0; s < SERIES_BY_EPOCH; s++) {
		text_f(t, "%s\"%s\": {\"mean\": [", s > 0 ? ", " : "", names[s]);
		for (int e = 0; e < r->series[s].count; e++) {
			text_add(t, e > 0 ? ", " : "");
			text_json_real(t, r->series[s].mean[e]);
		}
		text_add(t, "], \"sd\": [");
		for (int e = 0; e < r->series[s].count; e++) {
			text_add(t, e > 0 ? ", " : "");
			text_json_real(t, r->series[s].sd[e]);
		}
		text_add(t, "]}");
	}
	text_add(t, "}");
}

static void add_arm(struct text *t, const struct report_analysis *a, int arm)
{
	const struct report_arm_result *r = &a->arm[arm];

	text_add(t, "    {\"name\": ");
	text_json(t, a->data->arm[arm].name);
	text_add(t, ", \"reg\": ");
	text_json(t, a->data->arm[arm].reg);
	text_f(t, ", \"runs\": %d, \"missing\": %d, \"failed\": %d, \"diverged\": %d", r->runs,
	       a->data->folds_planned * a->data->seeds - r->runs - r->diverged, r->failed, r->diverged);
	add_mean(t, "accuracy", &r->accuracy);
	real(t, "accuracy_half_width_corrected", r->accuracy_wide);
	add_mean(t, "loss", &r->loss);
	add_mean(t, "train_accuracy", &r->train_accuracy);
	add_mean(t, "train_minus_validation", &r->gap);
	add_mean(t, "ece", &r->ece);
	real(t, "cost", r->cost);
	real(t, "own_cost", r->own_cost);
	real(t, "train_seconds", r->seconds);
	real(t, "train_seconds_over_baseline", r->seconds_ratio);
	real(t, "delta_over_embedding", r->delta_over_embedding);
	real(t, "delta_over_feature", r->delta_over_feature);
	real(t, "delta_over_fused", r->delta_over_fused);
	real(t, "delta_over_pixel", r->delta_over_pixel);
	real(t, "adv_loss", r->adv_loss);
	real(t, "clean_loss", r->clean_loss);
	add_calibration(t, &r->calibration);
	add_series(t, r);
	if (arm != a->data->baseline)
		add_comparison(t, a, arm);
	text_add(t, "}");
}

static void add_run(struct text *t, const struct report_data *data, const struct report_run *run)
{
	text_add(t, "    {\"arm\": ");
	text_json(t, data->arm[run->arm].name);
	text_f(t, ", \"fold\": %lld, \"seed\": %lld, \"steps\": %lld, \"pairs\": %lld", (long long)data->fold_name[run->fold],
	       (long long)data->seed_name[run->seed], (long long)run->steps, (long long)run->pair_count);
	real(t, "accuracy", run->accuracy);
	real(t, "loss", run->loss);
	real(t, "ece", run->ece);
	real(t, "train_accuracy", run->train_accuracy);
	real(t, "train_loss", run->train_loss);
	real(t, "best_accuracy", run->best_accuracy);
	real(t, "train_seconds", run->train_seconds);
	real(t, "cost", run->cost);
	text_add(t, ", \"digest\": ");
	text_json(t, run->digest);
	text_add(t, ", \"val_digest\": ");
	text_json(t, run->val_digest);
	text_add(t, ", \"init_digest\": ");
	text_json(t, run->init_digest);
	text_add(t, ", \"pairs_digest\": ");
	text_json(t, run->pairs_digest);
	text_add(t, "}");
}

static void add_factorial(struct text *t, const struct report_factorial *f)
{
	text_f(t, ",\n  \"factorial\": {\"runs\": %d, \"factors\": [", f->runs);
	for (int i = 0; i < f->factors; i++) {
		text_add(t, i > 0 ? ", " : "");
		text_json(t, f->names[i]);
	}
	text_add(t, "], \"effects\": [");
	for (int e = 0; e < f->count; e++) {
		bool first = true;

		text_f(t, "%s\n    {\"factors\": [", e > 0 ? "," : "");
		for (int i = 0; i < f->factors; i++) {
			if (!(f->effect[e].factors >> i & 1))
				continue;
			text_add(t, first ? "" : ", ");
			text_json(t, f->names[i]);
			first = false;
		}
		text_add(t, "], ");
		add_paired(t, "test", &f->effect[e].test, f->holm[e]);
		text_add(t, "}");
	}
	text_add(t, "]}");
}

static void add_checks(struct text *t, const struct report_analysis *a)
{
	text_f(t, ",\n  \"identical\": {\"ok\": %s, \"checks\": [", words_identities_hold(a) ? "true" : "false");
	for (int i = 0; i < REPORT_IDENTITIES; i++) {
		const struct report_identity *c = &a->identity[i];

		if (c->inapplicable)
			continue;
		text_f(t, "%s\n    {\"key\": \"%s\", \"cells\": %d, \"different\": %d, \"unequal_steps\": %d, \"unrecorded\": %d, \"example\": ",
		       i > 0 ? "," : "", c->key, c->cells, c->different, c->unequal_steps, c->unrecorded);
		text_json(t, c->example[0] != '\0' ? c->example : NULL);
		text_add(t, "}");
	}
	text_add(t, "]}");
}

static void add_power(struct text *t, const struct report_analysis *a)
{
	const struct report_power *p = &a->power;

	text_f(t, ",\n  \"power\": {\"runs\": %d, \"comparisons\": %d, \"power\": %g", p->runs, p->family, REPORT_POWER);
	real(t, "alpha", p->alpha);
	real(t, "sd", p->sd);
	real(t, "test_over_train", p->ratio);
	real(t, "detectable", p->detectable);
	real(t, "detectable_alone", p->detectable_single);
	real(t, "detectable_any_seeds", p->floor);
	text_add(t, "}");
}

void report_json(struct text *t, const struct report_analysis *a)
{
	const struct report_data *data = a->data;
	bool first = true;

	text_add(t, "{\n  \"schema\": \"trainer-report-1\", \"name\": ");
	text_json(t, data->name);
	text_add(t, ", \"data\": ");
	text_json(t, data->data);
	text_add(t, ", \"data_version\": ");
	text_json(t, data->data_version);
	text_f(t, ",\n  \"complete\": %s, \"runs\": %d, \"runs_planned\": %d, \"folds\": %d, \"seeds\": %d, \"baseline\": ",
	       a->complete ? "true" : "false", data->run_count, data->runs_planned, data->folds_planned, data->seeds);
	text_json(t, data->arm[data->baseline].name);
	text_f(t, ",\n  \"level\": %g, \"alpha\": %g, \"primary\": \"corrected resampled t on arm - baseline of the same fold and seed, Holm over arms\"",
	       REPORT_LEVEL, REPORT_ALPHA);
	real(t, "test_over_train", a->ratio);
	text_f(t, ", \"replicates\": %d,\n  \"arms\": [\n", a->replicates);
	for (int i = 0; i < data->arms; i++) {
		text_add(t, i > 0 ? ",\n" : "");
		add_arm(t, a, i);
	}
	text_add(t, "\n  ]");
	add_power(t, a);
	if (a->factorial.factors > 0)
		add_factorial(t, &a->factorial);
	add_checks(t, a);
	text_add(t, ",\n  \"per_run\": [\n");
	for (int i = 0; i < data->runs_planned; i++) {
		if (data->runs[i] == NULL)
			continue;
		text_add(t, first ? "" : ",\n");
		add_run(t, data, data->runs[i]);
		first = false;
	}
	text_add(t, "\n  ]\n}\n");
}
