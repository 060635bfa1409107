/* report.html: the first screen (the answer), the table, and the order of the sections behind. */
#include <math.h>
#include <string.h>

#include "shared/base/plural.h"
#include "trainer/study/report_page.h"

static const char *verdict_class(enum report_verdict verdict)
{
	static const char *const classes[] = {
		[VERDICT_BASELINE] = "none",	 [VERDICT_BETTER] = "better",	     [VERDICT_WORSE] = "worse",
		[VERDICT_UNCLEAR] = "unclear", [VERDICT_IDENTICAL] = "identical", [VERDICT_NONE] = "none",
	};

	return classes[verdict];
}

static void meta(struct text *t, const struct report_analysis *a)
{
	const struct report_data *data = a->data;

	text_add(t, "<p class=\"meta\">");
	if (data->data != NULL) {
		text_add(t, "Data set ");
		text_html(t, data->data);
		text_add(t, ", ");
	}
	text_f(t, "%d arm%s, %d fold%s × %d seed%s%s, task ", data->arms, plural((uint64_t)data->arms), data->folds_planned,
	       plural((uint64_t)data->folds_planned), data->seeds, plural((uint64_t)data->seeds), data->recut ? ", cut anew for each seed" : "");
	text_html(t, data->task != NULL ? data->task : "match");
	if (data->equal != NULL && strcmp(data->equal, "time") == 0)
		text_add(t, ", the same time for every arm");
	text_f(t, ". Baseline <b>");
	text_html(t, data->arm[data->baseline].name);
	text_f(t, "</b>: accuracy %s%%", text_percent(a->arm[data->baseline].accuracy.mean, 2).s);
	if (isfinite(a->arm[data->baseline].accuracy.low))
		text_f(t, " (95%% interval %s to %s)", text_percent(a->arm[data->baseline].accuracy.low, 2).s,
		       text_percent(a->arm[data->baseline].accuracy.high, 2).s);
	text_add(t, ". Differences are in percentage points.</p>\n");
}

static void factors(struct text *t, const struct report_analysis *a)
{
	if (a->factorial.factors == 0)
		return;
	text_add(t, "<p>");
	words_factors(t, a, text_html);
	text_add(t, "</p>\n");
}

static bool says_probably(const struct report_arm_result *r)
{
	return r->verdict == VERDICT_UNCLEAR && isfinite(r->detectable);
}

/* One short sentence: what the pill says is not said again. */
static void short_verdict(struct text *t, const struct report_analysis *a, int arm)
{
	const struct report_arm_result *r = &a->arm[arm];
	struct text_number p = text_p(r->holm);

	if (r->verdict == VERDICT_IDENTICAL || r->verdict == VERDICT_NONE) {
		words_verdict(t, a, arm, text_html);
		text_add(t, ".");
		return;
	}
	if (r->verdict == VERDICT_UNCLEAR)
		text_f(t, "<b>%s points</b> (%s to %s)", text_points(r->test.mean, 2).s, text_points(r->test.low, 2).s, text_points(r->test.high, 2).s);
	else
		text_f(t, "<b>%s by %s points</b> (%s to %s)", r->verdict == VERDICT_BETTER ? "Better" : "Worse", text_percent(fabs(r->test.mean), 2).s,
		       text_points(r->test.low, 2).s, text_points(r->test.high, 2).s);
	text_add(t, p.s[0] == '<' ? ", Holm p " : ", Holm p = ");
	text_html(t, p.s);
	if (says_probably(r))
		text_f(t, "; from %s points on it would probably have been seen", text_percent(r->detectable, 1).s);
	text_add(t, ".");
}

static void answer_row(struct text *t, const struct report_analysis *a, int arm, const struct svg_scale *scale)
{
	const struct report_arm_result *r = &a->arm[arm];

	text_add(t, "<div class=\"row\"><div class=\"arm\"><b>");
	text_html_name(t, a->data->arm[arm].name);
	text_f(t, "</b><span class=\"pill %s\">%s</span></div><div class=\"say\">", verdict_class(r->verdict), words_verdict_name(r->verdict));
	short_verdict(t, a, arm);
	text_add(t, "</div><div class=\"plot\">");
	if (isfinite(r->test.mean))
		page_forest_row(t, scale, &r->test, r->wide_low, r->wide_high, r->verdict);
	text_add(t, "</div></div>\n");
}

/* What the marks and words above mean, as far as they are there. */
static void legend(struct text *t, const struct report_analysis *a, const struct svg_scale *scale)
{
	bool tested = false, beyond = false, probably = false;

	for (int i = 0; i < a->order_count; i++) {
		const struct report_arm_result *r = &a->arm[a->order[i]];

		tested = tested || isfinite(r->test.low);
		beyond = beyond || fmin(r->wide_low, r->test.low) < scale->low || fmax(r->wide_high, r->test.high) > scale->high;
		probably = probably || says_probably(r);
	}
	if (!tested)
		return;
	text_add(t, "<p class=\"muted\">Thick: 95% interval of the difference (corrected resampled t). Thin: the same for all arms at once. ");
	text_add(t, beyond ? "An arrow: it goes on beyond the scale. " : "");
	text_add(t, "A verdict needs p ≤ 0.05 after Holm's correction for the number of arms.");
	if (probably)
		text_f(t, " Probably: with %.0f%% probability.", 100 * REPORT_POWER);
	text_add(t, "</p>\n");
}

static void answer(struct text *t, const struct report_analysis *a)
{
	const struct svg_scale scale = page_forest_scale(a);

	text_add(t, "<div class=\"answer\">\n");
	for (int i = 0; i < a->order_count; i++)
		answer_row(t, a, a->order[i], &scale);
	if (a->order_count > 0) {
		text_add(t, "<div class=\"row axisrow\"><div></div><div></div><div class=\"plot\">");
		page_forest_axis(t, &scale);
		text_add(t, "</div></div>\n");
	}
	text_add(t, "</div>\n");
	legend(t, a, &scale);
	text_add(t, "<p>");
	words_power(t, a, text_html);
	text_add(t, "</p>\n");
}

/* A paragraph of its own where there is something to say. */
static void warn(struct text *t, const struct report_analysis *a,
		 void (*words)(struct text *t, const struct report_analysis *analysis, text_escape escape))
{
	struct text more;

	text_begin(&more, t->err);
	words(&more, a, text_html);
	if (more.out.size > 0) {
		text_add(t, "<p class=\"warn\">");
		text_bytes(t, more.out.data, more.out.size);
		text_add(t, "</p>\n");
	}
	if (more.code != 0 && t->code == 0)
		t->code = more.code;
	text_free(&more);
}

static void warnings(struct text *t, const struct report_analysis *a)
{
	warn(t, a, words_incomplete);
	warn(t, a, words_plateau);
	for (int i = 0; i < REPORT_IDENTITIES; i++) {
		if (a->identity[i].different == 0)
			continue;
		text_f(t, "<p class=\"warn\"><b>The arms differ in more than the regularizer.</b> %s: ", a->identity[i].what);
		words_identity(t, &a->identity[i], text_html);
		text_add(t, "</p>\n");
	}
	for (int i = 0, bad = 0; i < a->data->check_count && bad == 0; i++) {
		if (a->data->check[i].ok)
			continue;
		text_add(t, "<p class=\"warn\">A check of the attacks failed: read <a href=\"#robustness\">robustness</a> with care.</p>\n");
		bad = 1;
	}
}

/* ---- the table ---- */

static void cell_interval(struct text *t, struct text_number value, struct text_number low, struct text_number high, bool has)
{
	text_f(t, "<td>%s", value.s);
	if (has)
		text_f(t, " <span class=\"sub\">[%s, %s]</span>", low.s, high.s);
	text_add(t, "</td>");
}

static void table_row(struct text *t, const struct report_analysis *a, int arm)
{
	const struct report_arm_result *r = &a->arm[arm];
	bool base = arm == a->data->baseline;

	text_add(t, "<tr><td><b>");
	text_html_name(t, a->data->arm[arm].name);
	text_f(t, "</b></td><td class=\"l %s\">%s</td>", verdict_class(base ? VERDICT_BASELINE : r->verdict),
	       base ? "baseline" : words_verdict_name(r->verdict));
	cell_interval(t, text_percent(r->accuracy.mean, 2), text_percent(r->accuracy.low, 2), text_percent(r->accuracy.high, 2),
		      isfinite(r->accuracy.low));
	if (base) {
		text_add(t, "<td></td><td></td><td></td><td></td>");
	} else {
		cell_interval(t, text_points(r->test.mean, 2), text_points(r->test.low, 2), text_points(r->test.high, 2), isfinite(r->test.low));
		text_f(t, "<td>%s</td>", text_p(r->test.p).s);
		text_f(t, "<td>%s</td>", text_p(r->holm).s);
		if (isfinite(r->bootstrap.low))
			text_f(t, "<td>[%s, %s]</td>", text_points(r->bootstrap.low, 2).s, text_points(r->bootstrap.high, 2).s);
		else
			text_add(t, "<td>–</td>");
	}
	text_f(t, "<td>%s</td>", text_fixed(r->cost, 2).s);
	text_f(t, "<td>%s</td>", text_seconds(r->seconds).s);
	text_f(t, "<td>%s</td>", text_points(r->gap.mean, 1).s);
	text_f(t, "<td>%s</td>", text_fixed(isfinite(r->ece.mean) ? r->ece.mean : r->calibration.ece, 3).s);
	text_f(t, "<td>%d</td></tr>\n", r->runs);
}

static void table(struct text *t, const struct report_analysis *a)
{
	page_section(t, "table", "Every arm");
	text_add(t, "<div class=\"scroll\"><table class=\"full\"><thead><tr><th>arm</th><th class=\"l\">verdict</th><th>accuracy, %<span class=\"sub\">95% "
			"t, runs"
		    "</span></th><th>difference, points<span class=\"sub\">95%, corrected t</span></th><th>p</th><th>Holm p</th><th>bootstrap,<br>pictures</th>"
		    "<th>cost</th><th>training</th><th>train −<br>val</th><th>ECE</th><th>runs</th></tr></thead><tbody>\n");
	table_row(t, a, a->data->baseline);
	for (int i = 0; i < a->order_count; i++)
		table_row(t, a, a->order[i]);
	text_add(t, "</tbody></table></div>\n<p class=\"muted\">Cost: time of a training step, relative to the baseline&#39;s. Train − val: accuracy "
		    "on training pairs less that on validation pairs, both without dropout, in points. ECE: expected calibration error. ");
	words_ranks(t, a, text_html);
	text_add(t, "</p>\n");
}

/* ---- how it was decided ---- */

static void second_view_method(struct text *t, const struct report_analysis *a)
{
	text_add(t, "<p>");
	words_ranks(t, a, text_html);
	if (!a->data->ranks)
		text_f(t, "The second view holds the trained models fixed and asks about other pictures: a bootstrap that draws pictures with all their pairs "
			  "(BCa, %d replicates, the same pictures drawn for every arm) and a permutation test that flips the sign of whole pictures. "
			  "McNemar's test takes pairs as independent, which pairs of one picture are not, so its p is too small; it is here because it is "
			  "often asked for.", a->replicates);
	text_add(t, "</p>\n");
}

static void methods(struct text *t, const struct report_analysis *a)
{
	page_section(t, "methods", "How it was decided");
	text_f(t, "<p>Each arm is compared with <b>");
	text_html(t, a->data->arm[a->data->baseline].name);
	text_f(t, "</b> run by run: same fold, same seed, same initial weights, same batches, same validation pairs. The primary test is the corrected "
			"resampled "
		  "t test of Nadeau and Bengio (2003), because it asks what a reader wants to know (would the difference be there if everything were trained "
		  "again?) and allows for folds sharing training pictures: the variance of the mean difference over n runs is taken as s²(1/n + ");
	if (isfinite(a->ratio))
		text_f(t, "%s", text_fixed(a->ratio, 4).s);
	else
		text_add(t, "test/train, which is not known here");
	text_f(t, "), the second term being validation over training pictures, with n − 1 degrees of freedom. Where seeds are many and folds differ much "
			"more than "
		  "seeds do, n − 1 is generous%s. p values are Holm-adjusted over %d comparison%s.</p>\n",
	       a->data->recut ? "" : "; the table below also has the test on one value a fold", a->compared, plural((uint64_t)a->compared));
	if (a->data->recut)
		text_add(t, "<p>Each seed cuts folds of its own: repeated cross-validation, tested over all folds and repetitions (Bouckaert and "
			    "Frank 2004).</p>\n");
	second_view_method(t, a);
	text_add(t, "<div class=\"scroll\"><table class=\"full\"><thead><tr><th>arm</th><th>t</th><th>df</th><th>by fold: p<span class=\"sub\">Holm</span></th>"
		    "<th>sign flip: p<span class=\"sub\">Holm</span></th><th>McNemar: p<span class=\"sub\">only arm / only baseline right</span></th>"
		    "<th>Hedges' g</th><th>errors<br>avoided, %</th><th>found with 80%<br>from, points</th>");
	bool cv52 = false;
	for (int i = 0; i < a->order_count; i++)
		cv52 = cv52 || a->arm[a->order[i]].has_52cv;
	text_add(t, cv52 ? "<th>5×2cv F: p</th></tr></thead><tbody>\n" : "</tr></thead><tbody>\n");
	for (int i = 0; i < a->order_count; i++) {
		const struct report_arm_result *r = &a->arm[a->order[i]];

		text_add(t, "<tr><td><b>");
		text_html_name(t, a->data->arm[a->order[i]].name);
		text_f(t, "</b></td><td>%s</td>", text_fixed(r->test.t, 2).s);
		text_f(t, "<td>%d</td>", r->test.n > 0 ? r->test.n - 1 : 0);
		text_f(t, "<td>%s <span class=\"sub\">%s</span></td>", text_p(r->by_fold.p).s, text_p(r->holm_by_fold).s);
		text_f(t, "<td>%s <span class=\"sub\">%s</span></td>", text_p(r->permutation.p).s, text_p(r->holm_permutation).s);
		if (a->data->ranks)
			text_add(t, "<td>–</td>");
		else
			text_f(t, "<td>%s <span class=\"sub\">%.0f / %.0f</span></td>", text_p(r->mcnemar.p).s, r->mcnemar.only_a, r->mcnemar.only_b);
		text_f(t, "<td>%s</td>", text_fixed(r->effect.g, 2).s);
		text_f(t, "<td>%s</td>", text_points(r->error_reduction, 1).s);
		text_f(t, "<td>%s</td>", text_percent(r->detectable, 2).s);
		if (cv52)
			text_f(t, "<td>%s</td>", r->has_52cv ? text_p(r->cv52.p).s : "–");
		text_add(t, "</tr>\n");
	}
	text_add(t, "</tbody></table></div>\n");
	if (words_has_dashes(a))
		text_add(t, "<p class=\"muted\">A dash: too few runs to say. Hedges' g, d corrected for small samples, exists from 3 runs on; what would be "
			    "found with 80% probability needs as many at least, and more where many arms are compared.</p>\n");
	if (cv52)
		text_add(t, "<p class=\"muted\">5×2cv F: the combined test of Alpaydin (1999) over five halvings, one for each seed.</p>\n");
}

static void second_views(struct text *t, const struct report_analysis *a)
{
	bool any = false;

	for (int i = 0; i < a->order_count; i++) {
		struct text more;

		text_begin(&more, t->err);
		words_second_view(&more, a, a->order[i], text_html);
		if (more.out.size > 0) {
			text_add(t, any ? "<li><b>" : "<h3>Where the second view differs</h3>\n<ul>\n<li><b>");
			text_html(t, a->data->arm[a->order[i]].name);
			text_add(t, "</b>: ");
			text_bytes(t, more.out.data, more.out.size);
			text_add(t, "</li>\n");
			any = true;
		}
		if (more.code != 0 && t->code == 0)
			t->code = more.code;
		text_free(&more);
	}
	if (any)
		text_add(t, "</ul>\n");
}

/* How many seeds would it take? */
static void power_table(struct text *t, const struct report_analysis *a)
{
	static const double differences[] = { 0.005, 0.01, 0.02, 0.03, 0.05, 0.1 };
	int folds[3] = { a->data->folds_planned, 5, 10 }, count = 0;

	if (!isfinite(a->power.sd))
		return;
	page_section(t, "power", "What it would take to see more");
	text_add(t, "<p>Seeds for each fold that find a true difference with 80% probability, at this study's spread and number of comparisons");
	/* Two runs have a spread, but hardly say how large it is. */
	text_add(t, isfinite(a->power.detectable) ? ". " : " (a spread that so few runs say very roughly). ");
	text_add(t, "A dash: no number of seeds "
		    "does, because runs on the same folds share their training pictures.</p>\n<div class=\"scroll\"><table><thead><tr><th>difference, "
		"points</th>");
	for (int i = 0; i < 3; i++)
		if (folds[i] > 1 && (i == 0 || folds[i] != folds[0]))
			folds[count++] = folds[i];
	for (int i = 0; i < count; i++)
		text_f(t, "<th>%d folds</th>", folds[i]);
	text_add(t, "</tr></thead><tbody>\n");
	for (size_t d = 0; d < ARRAY_LEN(differences); d++) {
		text_f(t, "<tr><td>%s</td>", text_percent(differences[d], 1).s);
		for (int i = 0; i < count; i++) {
			int seeds = stats_seeds_needed(differences[d], a->power.sd, folds[i], a->power.alpha, REPORT_POWER);

			if (seeds > 0)
				text_f(t, "<td>%d</td>", seeds);
			else
				text_add(t, "<td>–</td>");
		}
		text_add(t, "</tr>\n");
	}
	text_add(t, "</tbody></table></div>\n<p class=\"muted\">The spread is taken to be the same for other numbers of folds, which is only roughly so: "
			"smaller folds measure "
		    "less exactly.</p>\n");
}

static void navigation(struct text *t, const struct report_analysis *a)
{
	text_add(t, "<nav><a href=\"#table\">Every arm</a><a href=\"#curves\">Curves</a><a href=\"#cost\">Cost and gain</a>");
	if (a->factorial.factors > 0)
		text_add(t, "<a href=\"#factorial\">Factors</a>");
	text_add(t, "<a href=\"#calibration\">Calibration</a>");
	if (a->data->robust_count > 0)
		text_add(t, "<a href=\"#robustness\">Robustness</a>");
	text_add(t, "<a href=\"#samples\">Mistakes</a><a href=\"#methods\">How it was decided</a><a href=\"#reviewer\">For the reviewer</a></nav>\n");
}

void report_html(struct text *t, const struct report_analysis *a, const struct report_samples *samples)
{
	const char *name = a->data->name != NULL ? a->data->name : "Study";

	page_begin(t, name);
	text_add(t, "<h1>");
	text_html(t, name);
	text_add(t, "</h1>\n<p class=\"headline\">");
	words_headline(t, a, text_html);
	text_add(t, "</p>\n");
	meta(t, a);
	factors(t, a);
	warnings(t, a);
	answer(t, a);
	navigation(t, a);
	table(t, a);
	page_curves(t, a);
	page_cost(t, a);
	page_factorial(t, a);
	page_calibration(t, a);
	page_robustness(t, a);
	page_samples(t, a, samples);
	methods(t, a);
	second_views(t, a);
	power_table(t, a);
	page_reviewer(t, a);
	page_end(t);
}
