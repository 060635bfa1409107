/* The figures of report.html. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "trainer/study/report_page.h"
#include "trainer/study/svg.h"

static void widen(double value, double *low, double *high)
{
	if (!isfinite(value))
		return;
	*low = value < *low ? value : *low;
	*high = value > *high ? value : *high;
}

/* ---- forest ---- */

void page_forest_scale(const struct report_analysis *a, double *low, double *high)
{
	*low = *high = 0;
	for (int i = 0; i < a->order_count; i++) {
		const struct report_arm_result *r = &a->arm[a->order[i]];

		widen(r->test.mean, low, high);
		widen(r->test.low, low, high);
		widen(r->test.high, low, high);
		widen(r->wide_low, low, high);
		widen(r->wide_high, low, high);
	}
	struct svg_scale scale = svg_scale(*low, *high);
	*low = scale.low;
	*high = scale.high;
}

static struct svg_plot forest_plot(struct text *t, double low, double high, double height)
{
	return (struct svg_plot){ .t = t, .width = 380, .height = height, .left = 4, .right = 4, .top = 0, .bottom = 0,
				  .x = { low, high, true }, .y = { 0, 1, false } };
}

void page_forest_row(struct text *t, double low, double high, const struct stats_paired *test, double wide_low, double wide_high,
		     enum report_verdict verdict)
{
	const struct svg_plot p = forest_plot(t, low, high, 34);
	const char *classes = verdict == VERDICT_BETTER ? "better" : verdict == VERDICT_WORSE ? "worse" : "unclear";
	char title[160];

	snprintf(title, sizeof(title), "%s points, 95%% interval %s to %s", text_points(test->mean, 2).s, text_points(test->low, 2).s,
		 text_points(test->high, 2).s);
	svg_begin(&p, title);
	text_f(t, "<path class=\"null\" d=\"M%.1f -24V58\"/>", svg_x(&p, 0));
	if (isfinite(wide_low) && isfinite(wide_high))
		text_f(t, "<path class=\"whisker thin %s\" d=\"M%.1f 17H%.1fM%.1f 13v8M%.1f 13v8\"/>", classes, svg_x(&p, wide_low), svg_x(&p, wide_high),
		       svg_x(&p, wide_low), svg_x(&p, wide_high));
	if (isfinite(test->low) && isfinite(test->high))
		text_f(t, "<path class=\"whisker %s\" d=\"M%.1f 17H%.1f\" style=\"stroke-width:5;opacity:.55\"/>", classes, svg_x(&p, test->low),
		       svg_x(&p, test->high));
	char mark[32];
	snprintf(mark, sizeof(mark), "%s%s", classes, verdict == VERDICT_UNCLEAR || verdict == VERDICT_NONE ? " open" : "");
	svg_mark(&p, test->mean, 0.5, verdict == VERDICT_BETTER ? 2 : verdict == VERDICT_WORSE ? 3 : 0, 5, mark);
	svg_end(&p);
}

void page_forest_axis(struct text *t, double low, double high)
{
	const struct svg_plot p = forest_plot(t, low, high, 36);
	double ticks[SVG_TICKS_MAX];
	int digits, count = svg_ticks(&p.x, 6, ticks, &digits);

	svg_begin(&p, "difference in points");
	for (int i = 0; i < count; i++)
		text_f(t, "<path class=\"axis\" d=\"M%.1f 0v4\"/><text class=\"tick\" x=\"%.1f\" y=\"14\" text-anchor=\"middle\">%s</text>", svg_x(&p,
				ticks[i]),
		       svg_x(&p, ticks[i]), text_points(ticks[i], digits).s);
	text_add(t, "<text class=\"label\" x=\"190\" y=\"30\" text-anchor=\"middle\">← worse · difference, points · better →</text>");
	svg_end(&p);
}

/* ---- curves ---- */

void page_curve_plot(struct text *t, const char *name, const struct page_curve *c, double low, double high, int epochs, bool percent)
{
	const struct svg_plot p = { .t = t, .width = 230, .height = 174, .left = 38, .right = 12, .top = 22, .bottom = 22,
				    .x = { 0, epochs > 1 ? epochs - 1 : 1, false }, .y = { low, high, percent } };

	text_add(t, "<figure>");
	svg_begin(&p, name);
	text_f(t, "<text class=\"name\" x=\"%.1f\" y=\"13\">", p.left);
	/* Long names would run out of the plot; the tables have them whole. */
	text_html_cut(t, name, 25);
	text_add(t, "</text>");
	svg_axes(&p, NULL, NULL, 4, 4);
	if (c->base != NULL)
		svg_line(&p, NULL, c->base, c->base_count, "basel");
	if (c->train_half != NULL)
		svg_band(&p, c->train, c->train_half, c->count, "s1");
	if (c->val_half != NULL)
		svg_band(&p, c->val, c->val_half, c->count, "s0");
	svg_line(&p, NULL, c->train, c->count, "s1 dash");
	svg_line(&p, NULL, c->val, c->count, "s0");
	svg_end(&p);
	text_add(t, "</figure>\n");
}

static void curve_range(const struct report_analysis *a, int train, int val, double *low, double *high, int *epochs)
{
	*low = INFINITY;
	*high = -INFINITY;
	*epochs = 0;
	for (int arm = 0; arm < a->data->arms; arm++) {
		const int which[2] = { train, val };

		for (int s = 0; s < 2; s++) {
			const struct report_band *band = &a->arm[arm].series[which[s]];

			*epochs = band->count > *epochs ? band->count : *epochs;
			for (int e = 0; e < band->count; e++) {
				double half = isfinite(band->sd[e]) ? band->sd[e] : 0;

				widen(band->mean[e] - half, low, high);
				widen(band->mean[e] + half, low, high);
			}
		}
	}
}

static void curves_of(struct text *t, const struct report_analysis *a, int train, int val, bool percent)
{
	const struct report_band *base = &a->arm[a->data->baseline].series[val];
	double low, high;
	int epochs;

	curve_range(a, train, val, &low, &high, &epochs);
	struct svg_scale scale = svg_scale(low, high);
	text_add(t, "<div class=\"small\">\n");
	for (int i = -1; i < a->order_count; i++) {
		int arm = i < 0 ? a->data->baseline : a->order[i];
		const struct report_arm_result *r = &a->arm[arm];
		struct page_curve curve = {
			.train = r->series[train].mean, .train_half = r->series[train].sd, .val = r->series[val].mean, .val_half = r->series[val].sd,
			.count = r->series[val].count, .base = i < 0 ? NULL : base->mean, .base_count = base->count,
		};

		if (curve.count > 0)
			page_curve_plot(t, a->data->arm[arm].name, &curve, scale.low, scale.high, epochs, percent);
	}
	text_add(t, "</div>\n");
}

void page_curves(struct text *t, const struct report_analysis *a)
{
	double low, high;
	int epochs;

	page_section(t, "curves", "Curves");
	curve_range(a, SERIES_TRAIN_ACCURACY, SERIES_VAL_ACCURACY, &low, &high, &epochs);
	if (epochs == 0) {
		text_add(t, "<p class=\"muted\">No metrics.jsonl in the runs' folders.</p>\n");
		return;
	}
	text_add(t, "<ul class=\"key\"><li><svg viewBox=\"0 0 30 12\"><path class=\"line s0\" d=\"M1 6h28\"/></svg>validation</li><li><svg viewBox=\"0 0 30 "
			"12\"><path "
		    "class=\"line s1 dash\" d=\"M1 6h28\"/></svg>training, as it ran (with its regularizer)</li><li><svg viewBox=\"0 0 30 12\"><path "
		"class=\"line basel\" "
		    "d=\"M1 6h28\"/></svg>validation of ");
	text_html(t, a->data->arm[a->data->baseline].name);
	text_add(t, "</li></ul>\n<h3>Accuracy by epoch, %</h3>\n");
	curves_of(t, a, SERIES_TRAIN_ACCURACY, SERIES_VAL_ACCURACY, true);
	text_add(t, "<h3>Loss by epoch</h3>\n");
	curves_of(t, a, SERIES_TRAIN_LOSS, SERIES_VAL_LOSS, false);
	text_add(t, "<p class=\"muted\">Lines: means over folds and seeds. Bands: one standard deviation of runs either way.</p>\n");
}

/* ---- cost against gain ---- */

struct box {
	double x, y, width;
};

/* A place beside the mark where no earlier name stands: to the right, else further down or up. */
static struct box place(const struct box *taken, int count, double x, double y, double width, double right)
{
	struct box best = { x + 9 + width > right ? x - 9 - width : x + 9, y, width };

	for (int step = 0; step < 24; step++) {
		double dy = (step + 1) / 2 * 6.0 * (step % 2 == 0 ? 1 : -1);
		bool free = true;

		for (int i = 0; i < count && free; i++)
			free = fabs(taken[i].y - (y + dy)) >= 12 || taken[i].x > best.x + width || taken[i].x + taken[i].width < best.x;
		if (free) {
			best.y = y + dy;
			break;
		}
	}
	return best;
}

void page_cost(struct text *t, const struct report_analysis *a)
{
	double low = 0, high = 0, x_low = 1, x_high = 1;
	struct box taken[2 * REPORT_ARMS_MAX];
	int count = 0, shown = 0;

	page_section(t, "cost", "Cost and gain");
	for (int i = 0; i < a->order_count; i++) {
		const struct report_arm_result *r = &a->arm[a->order[i]];

		if (!isfinite(r->cost) || !isfinite(r->test.mean))
			continue;
		shown++;
		widen(r->cost, &x_low, &x_high);
		widen(r->test.mean, &low, &high);
		widen(r->test.low, &low, &high);
		widen(r->test.high, &low, &high);
	}
	if (shown == 0) {
		text_add(t, "<p class=\"muted\">Costs are not recorded.</p>\n");
		return;
	}
	struct svg_plot p = { .t = t, .width = 440, .height = 310, .left = 46, .right = 12, .top = 8, .bottom = 34,
			      .x = svg_scale(x_low, x_high), .y = svg_scale(low, high) };
	p.y.percent = true;
	/* Room for names on the right. */
	p.x.high += (p.x.high - p.x.low) * 0.28;
	text_add(t, "<figure class=\"wide\">");
	svg_begin(&p, "cost against gain");
	svg_axes(&p, "time of a step, relative to the baseline", "difference, points", 6, 6);
	text_f(t, "<path class=\"zero\" d=\"M%.1f %.1fH%.1f\"/>", p.left, svg_y(&p, 0), p.width - p.right);
	/* No name stands on a mark. */
	for (int i = 0; i < a->order_count; i++) {
		const struct report_arm_result *r = &a->arm[a->order[i]];

		if (isfinite(r->cost) && isfinite(r->test.mean))
			taken[count++] = (struct box){ svg_x(&p, r->cost) - 6, svg_y(&p, r->test.mean), 12 };
	}
	for (int i = 0; i < a->order_count; i++) {
		const struct report_arm_result *r = &a->arm[a->order[i]];
		const char *classes = r->verdict == VERDICT_BETTER ? "better" : r->verdict == VERDICT_WORSE ? "worse" : "unclear";
		const char *name = a->data->arm[a->order[i]].name;

		if (!isfinite(r->cost) || !isfinite(r->test.mean))
			continue;
		double x = svg_x(&p, r->cost), y = svg_y(&p, r->test.mean);
		if (isfinite(r->test.low))
			text_f(t, "<path class=\"whisker thin %s\" d=\"M%.1f %.1fV%.1f\"/>", classes, x, svg_y(&p, r->test.low), svg_y(&p, r->test.high));
		char mark[32];
		snprintf(mark, sizeof(mark), "%s%s", classes, r->verdict == VERDICT_UNCLEAR ? " open" : "");
		svg_mark(&p, r->cost, r->test.mean, r->verdict == VERDICT_BETTER ? 2 : r->verdict == VERDICT_WORSE ? 3 : 0, 4.5, mark);
		struct box at = place(taken, count, x, y, 6.0 * (double)(strlen(name) > 20 ? 21 : strlen(name)), p.width - p.right);
		taken[count++] = at;
		if (fabs(at.y - y) > 7)
			text_f(t, "<path class=\"grid\" d=\"M%.1f %.1fL%.1f %.1f\"/>", x, y, at.x > x ? at.x - 1 : at.x + at.width + 1, at.y);
		text_f(t, "<text x=\"%.1f\" y=\"%.1f\" class=\"halo\">", at.x, at.y + 3.5);
		text_html_cut(t, name, 20);
		text_add(t, "</text>");
	}
	svg_end(&p);
	text_add(t, "<figcaption>Bars: 95% intervals. Cost is the mean time of a step over the baseline&#39;s, which other work on the "
			"machine blurs.</figcaption></figure>\n");
}

/* ---- factors ---- */

static void effect_name(struct text *t, const struct report_factorial *f, unsigned factors)
{
	bool first = true;

	for (int i = 0; i < f->factors; i++) {
		if (!(factors >> i & 1))
			continue;
		text_add(t, first ? "" : " × ");
		text_html(t, f->names[i]);
		first = false;
	}
}

void page_factorial(struct text *t, const struct report_analysis *a)
{
	const struct report_factorial *f = &a->factorial;
	double low = 0, high = 0;

	if (f->factors == 0)
		return;
	page_section(t, "factorial", "Main effects and interactions");
	text_f(t, "<p>%d of the arms are a full factorial of ", 1 << f->factors);
	for (int i = 0; i < f->factors; i++) {
		text_add(t, i == 0 ? "" : i + 1 == f->factors ? " and " : ", ");
		text_html(t, f->names[i]);
	}
	text_f(t, ". A main effect is the mean gain of having it, over all settings of the others; an interaction says how much more (or less, if negative) "
			"two together "
		  "give than they would if each acted by itself (half of that difference). From %d run%s of each arm, the same corrected t test, Holm over "
		  "the %d effects.</p>\n", f->runs, f->runs == 1 ? "" : "s", f->count);
	for (int e = 0; e < f->count; e++) {
		widen(f->effect[e].test.mean, &low, &high);
		widen(f->effect[e].test.low, &low, &high);
		widen(f->effect[e].test.high, &low, &high);
	}
	struct svg_scale scale = svg_scale(low, high);
	text_add(t, "<div class=\"answer\">\n");
	for (int e = 0; e < f->count; e++) {
		const struct stats_paired *test = &f->effect[e].test;
		bool sure = f->holm[e] <= REPORT_ALPHA;

		text_add(t, "<div class=\"row\"><div class=\"arm\"><b>");
		effect_name(t, f, f->effect[e].factors);
		text_add(t, "</b></div><div class=\"say\">");
		if (test->status == STATS_OK) {
			text_f(t, "%s points (%s to %s)", text_points(test->mean, 2).s, text_points(test->low, 2).s, text_points(test->high, 2).s);
			text_f(t, ", Holm p %s", text_p(f->holm[e]).s);
		} else {
			text_html(t, stats_status_text(test->status));
		}
		text_add(t, "</div><div class=\"plot\">");
		if (isfinite(test->mean))
			page_forest_row(t, scale.low, scale.high, test, NAN, NAN, !sure ? VERDICT_UNCLEAR : test->mean > 0 ? VERDICT_BETTER : VERDICT_WORSE);
		text_add(t, "</div></div>\n");
	}
	text_add(t, "<div class=\"row axisrow\"><div></div><div></div><div class=\"plot\">");
	page_forest_axis(t, scale.low, scale.high);
	text_add(t, "</div></div>\n</div>\n");
}

/* ---- calibration ---- */

void page_calibration(struct text *t, const struct report_analysis *a)
{
	page_section(t, "calibration", "Calibration");
	if (a->arm[a->data->baseline].calibration.status != STATS_OK) {
		text_add(t, "<p class=\"muted\">Reliability diagrams need predictions.csv of a matching task. The table's ECE is what the runs measured "
				"themselves.</p>\n");
		return;
	}
	text_f(t, "<p>How often an answer is right against how sure the model is of it, in %d bins over all folds and seeds. On the dashed line it is as "
			"sure as it should be; below it is "
		  "too sure. The size of a dot is the share of pairs.</p>\n<div class=\"small\">\n", STATS_BINS);
	for (int i = -1; i < a->order_count; i++) {
		int arm = i < 0 ? a->data->baseline : a->order[i];
		const struct stats_calibration *c = &a->arm[arm].calibration;
		struct svg_plot p = { .t = t, .width = 200, .height = 204, .left = 32, .right = 14, .top = 34, .bottom = 34,
				      .x = { 0.5, 1, true }, .y = { 0.3, 1, true } };
		double x[STATS_BINS], y[STATS_BINS];

		if (c->status != STATS_OK)
			continue;
		for (int b = 0; b < STATS_BINS; b++)
			if (c->bins[b].count > 0 && c->bins[b].accuracy < p.y.low)
				p.y.low = 0;
		text_add(t, "<figure>");
		svg_begin(&p, a->data->arm[arm].name);
		text_add(t, "<text class=\"name\" x=\"30\" y=\"12\">");
		text_html_cut(t, a->data->arm[arm].name, 21);
		text_f(t, "</text><text class=\"tick\" x=\"30\" y=\"25\">ECE %s</text>", text_fixed(c->ece, 3).s);
		svg_axes(&p, "confidence, %", NULL, 4, 4);
		text_f(t, "<path class=\"zero\" d=\"M%.1f %.1fL%.1f %.1f\"/>", svg_x(&p, 0.5), svg_y(&p, 0.5), svg_x(&p, 1), svg_y(&p, 1));
		for (int b = 0; b < STATS_BINS; b++) {
			x[b] = c->bins[b].confidence;
			y[b] = c->bins[b].accuracy;
		}
		svg_line(&p, x, y, STATS_BINS, "s0");
		for (int b = 0; b < STATS_BINS; b++)
			if (c->bins[b].count > 0)
				svg_mark(&p, x[b], y[b], 0, 1.5 + 6 * sqrt((double)c->bins[b].count / (double)c->count), "s0");
		svg_end(&p);
		text_add(t, "</figure>\n");
	}
	text_add(t, "</div>\n");
}
