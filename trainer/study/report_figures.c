/* The figures of report.html. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/plural.h"
#include "trainer/study/report_page.h"
#include "trainer/study/svg.h"

static void widen(double value, double *low, double *high)
{
	if (!isfinite(value))
		return;
	*low = value < *low ? value : *low;
	*high = value > *high ? value : *high;
}

/* Above the figure and not in it: there it wraps, and is as large on a phone as anywhere. */
static void figure_name(struct text *t, const char *name, const char *below)
{
	text_add(t, "<figcaption class=\"name\">");
	text_html_name(t, name);
	if (below != NULL)
		text_f(t, "<span class=\"sub\">%s</span>", below);
	text_add(t, "</figcaption>");
}

/* ---- forest ---- */

/* No accuracy differs by more than everything. */
static struct svg_scale forest_scale(double low, double high)
{
	struct svg_scale scale = svg_scale(low, high);

	return (struct svg_scale){ .low = fmax(scale.low, -1), .high = fmin(scale.high, 1), .percent = true };
}

/*
 * The thick bars set the scale. Thin ones may add half of that on either side, and end in an arrow beyond: with two runs
 * an arm they are tens of times as long, and would leave of everything else a dot.
 */
struct svg_scale page_forest_scale(const struct report_analysis *a)
{
	double low = 0, high = 0, thin_low = 0, thin_high = 0;

	for (int i = 0; i < a->order_count; i++) {
		const struct report_arm_result *r = &a->arm[a->order[i]];

		widen(r->test.mean, &low, &high);
		widen(r->test.low, &low, &high);
		widen(r->test.high, &low, &high);
		widen(r->wide_low, &thin_low, &thin_high);
		widen(r->wide_high, &thin_low, &thin_high);
	}
	double more = (high - low) / 2;
	widen(fmax(thin_low, low - more), &low, &high);
	widen(fmin(thin_high, high + more), &low, &high);
	return forest_scale(low, high);
}

static struct svg_plot forest_plot(struct text *t, const struct svg_scale *scale, double height)
{
	return (struct svg_plot){ .t = t, .width = 380, .height = height, .left = 4, .right = 4, .x = *scale, .y = { .high = 1 } };
}

/* An end of a thin bar: a stroke across it, or an arrow where it goes on beyond the scale. */
static void forest_end(const struct svg_plot *p, double value, int direction)
{
	bool beyond = value < p->x.low || value > p->x.high;
	double x = svg_x(p, fmin(fmax(value, p->x.low), p->x.high));

	if (beyond)
		text_f(p->t, "M%.1f 12L%.1f 17L%.1f 22", x - 5 * direction, x, x - 5 * direction);
	else
		text_f(p->t, "M%.1f 13v8", x);
}

static void forest_bar(const struct svg_plot *p, double low, double high, const char *classes, bool thick)
{
	if (!isfinite(low) || !isfinite(high))
		return;
	text_f(p->t, "<path class=\"whisker %s%s\" d=\"M%.1f 17H%.1f", thick ? "thick " : "thin ", classes, svg_x(p, fmax(low, p->x.low)),
	       svg_x(p, fmin(high, p->x.high)));
	if (thick)
		text_f(p->t, "\"/><path class=\"whisker thin %s\" d=\"M0 0", classes);
	if (!thick || low < p->x.low)
		forest_end(p, low, -1);
	if (!thick || high > p->x.high)
		forest_end(p, high, 1);
	text_add(p->t, "\"/>");
}

void page_forest_row(struct text *t, const struct svg_scale *scale, const struct stats_paired *test, double wide_low, double wide_high,
		     enum report_verdict verdict)
{
	const struct svg_plot p = forest_plot(t, scale, 34);
	const char *classes = verdict == VERDICT_BETTER ? "better" : verdict == VERDICT_WORSE ? "worse" : "unclear";
	char title[160];

	snprintf(title, sizeof(title), "%s points, 95%% interval %s to %s", text_points(test->mean, 2).s, text_points(test->low, 2).s,
		 text_points(test->high, 2).s);
	svg_begin(&p, title);
	/* Longer than any row is high: the cell cuts it, so that it joins that of the next row and ends with the last. */
	text_f(t, "<path class=\"null\" d=\"M%.1f -300V334\"/>", svg_x(&p, 0));
	forest_bar(&p, wide_low, wide_high, classes, false);
	forest_bar(&p, test->low, test->high, classes, true);
	char mark[32];
	snprintf(mark, sizeof(mark), "%s%s", classes, verdict == VERDICT_UNCLEAR || verdict == VERDICT_NONE ? " open" : "");
	svg_mark(&p, test->mean, 0.5, verdict == VERDICT_BETTER ? 2 : verdict == VERDICT_WORSE ? 3 : 0, 5, mark);
	svg_end(&p);
}

void page_forest_axis(struct text *t, const struct svg_scale *scale)
{
	const struct svg_plot p = forest_plot(t, scale, 36);
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

/* So few validations are marked one by one. */
enum { DOTS_MAX = 12 };

void page_range_add(struct page_range *range, const struct page_series *series)
{
	for (int i = 0; i < series->count; i++) {
		double half = series->half != NULL && isfinite(series->half[i]) ? series->half[i] : 0;

		if (!isfinite(series->value[i]) || !isfinite(series->at[i]))
			continue;
		widen(series->value[i] - half, &range->low, &range->high);
		widen(series->value[i] + half, &range->low, &range->high);
		range->epochs = fmax(range->epochs, ceil(series->at[i]));
	}
}

static void draw_series(const struct svg_plot *p, const struct page_series *s, const char *classes)
{
	svg_line(p, s->at, s->value, s->count, classes);
}

void page_curve_plot(struct text *t, const char *name, const struct page_curve *c, const struct page_range *range, bool percent)
{
	/* Room on the right, for what stands at the end of the last epoch. */
	const struct svg_scale scale = svg_scale(range->low, range->high);
	const struct svg_plot p = { .t = t, .width = 230, .height = 170, .left = 38, .right = 6, .top = 6, .bottom = 34,
				    .x = { .high = 1.04 * (range->epochs > 0 ? range->epochs : 1), .whole = true },
				    .y = { .low = scale.low, .high = scale.high, .percent = percent } };

	text_add(t, "<figure>");
	figure_name(t, name, NULL);
	svg_begin(&p, name);
	svg_axes(&p, "epochs done", NULL, 4, 4);
	draw_series(&p, &c->base, "basel");
	if (c->train.half != NULL)
		svg_band(&p, c->train.at, c->train.value, c->train.half, c->train.count, "s1");
	if (c->val.half != NULL)
		svg_band(&p, c->val.at, c->val.value, c->val.half, c->val.count, "s0");
	draw_series(&p, &c->train, "s1 dash");
	draw_series(&p, &c->val, "s0");
	if (c->val.count > 1 && c->val.count <= DOTS_MAX)
		svg_dots(&p, c->val.at, c->val.value, c->val.count, 2.2, "s0");
	svg_end(&p);
	text_add(t, "</figure>\n");
}

void page_curve_key(struct text *t, const char *base)
{
	static const struct {
		const char *classes, *what;
	} keys[] = { { "s0", "validation" }, { "s1 dash", "training, as it ran (with its regularizer)" }, { "basel", "validation of " } };

	text_add(t, "<ul class=\"key\">");
	for (size_t k = 0; k < ARRAY_LEN(keys) - (base == NULL); k++) {
		text_f(t, "<li><svg viewBox=\"0 0 30 12\"><path class=\"line %s\" d=\"M1 6h28\"/></svg>%s", keys[k].classes, keys[k].what);
		if (k == 2)
			text_html(t, base);
		text_add(t, "</li>");
	}
	text_add(t, "</ul>\n");
}

static struct page_series series_of(const struct report_arm_result *arm, enum report_series which)
{
	const struct report_band *band = &arm->series[which];

	return (struct page_series){ .count = band->count, .at = band->at, .value = band->mean, .half = band->sd };
}

static struct page_range curve_range(const struct report_analysis *a, enum report_series train, enum report_series val)
{
	struct page_range range = { .low = INFINITY, .high = -INFINITY };

	for (int arm = 0; arm < a->data->arms; arm++) {
		struct page_series both[] = { series_of(&a->arm[arm], train), series_of(&a->arm[arm], val) };

		page_range_add(&range, &both[0]);
		page_range_add(&range, &both[1]);
	}
	return range;
}

static void curves_of(struct text *t, const struct report_analysis *a, enum report_series train, enum report_series val, bool percent)
{
	const struct page_range range = curve_range(a, train, val);

	text_add(t, "<div class=\"small\">\n");
	for (int i = -1; i < a->order_count; i++) {
		int arm = i < 0 ? a->data->baseline : a->order[i];
		const struct report_arm_result *r = &a->arm[arm];
		struct page_curve curve = { .train = series_of(r, train), .val = series_of(r, val) };

		if (i >= 0)
			curve.base = series_of(&a->arm[a->data->baseline], val);
		if (curve.train.count > 0 || curve.val.count > 0)
			page_curve_plot(t, a->data->arm[arm].name, &curve, &range, percent);
	}
	text_add(t, "</div>\n");
}

void page_curves(struct text *t, const struct report_analysis *a)
{
	page_section(t, "curves", "Curves");
	if (!(curve_range(a, SERIES_TRAIN_LOSS, SERIES_EVERY_VAL_LOSS).epochs > 0)) {
		text_add(t, "<p class=\"muted\">No metrics.jsonl in the runs' folders.</p>\n");
		return;
	}
	page_curve_key(t, a->data->arm[a->data->baseline].name);
	text_add(t, "<h3>Accuracy by epoch, %</h3>\n");
	curves_of(t, a, SERIES_TRAIN_ACCURACY, SERIES_EVERY_VAL_ACCURACY, true);
	text_add(t, "<h3>Loss by epoch</h3>\n");
	curves_of(t, a, SERIES_TRAIN_LOSS, SERIES_EVERY_VAL_LOSS, false);
	text_add(t, "<p class=\"muted\">Lines: means over folds and seeds. Bands and bars: one standard deviation of runs either way. " PAGE_CURVE_WORDS
		    "</p>\n");
}

/* ---- cost against gain ---- */

enum { COST_NAME_CHARS = 30, COST_LINE = 15 };

/* An arm in the figure: its mark, and the height of its name in the column beside the plot. */
struct cost_point {
	int arm;
	double x, y, name_y;
};

static int cost_points(const struct report_analysis *a, struct cost_point *out, struct svg_scale *x, struct svg_scale *y)
{
	double low = 0, high = 0, x_low = 1, x_high = 1;
	int count = 0;

	for (int i = 0; i < a->order_count; i++) {
		const struct report_arm_result *r = &a->arm[a->order[i]];

		if (!isfinite(r->cost) || !isfinite(r->test.mean))
			continue;
		out[count++].arm = a->order[i];
		widen(r->cost, &x_low, &x_high);
		widen(r->test.mean, &low, &high);
		widen(r->test.low, &low, &high);
		widen(r->test.high, &low, &high);
	}
	*x = svg_scale(x_low, x_high);
	*y = forest_scale(low, high);
	return count;
}

/*
 * Names stand in the order of their marks (the points come highest first), each at its mark's height or as near as the
 * others let it: lines to them do not cross much, and no name stands on a bar. That is least squares under the condition
 * that each is a line below the one before: isotonic regression, by pooling neighbours that are out of order.
 */
static void place_names(struct cost_point *points, int count, double top, double bottom)
{
	struct {
		double sum;
		int size;
	} pool[REPORT_ARMS_MAX];
	int pools = 0, at = 0;

	for (int i = 0; i < count; i++) {
		pool[pools].sum = points[i].y - COST_LINE * i;
		pool[pools++].size = 1;
		while (pools > 1 && pool[pools - 2].sum / pool[pools - 2].size > pool[pools - 1].sum / pool[pools - 1].size) {
			pools--;
			pool[pools - 1].sum += pool[pools].sum;
			pool[pools - 1].size += pool[pools].size;
		}
	}
	for (int k = 0; k < pools; k++) {
		double first = fmin(fmax(pool[k].sum / pool[k].size, top), bottom - COST_LINE * (count - 1));

		for (int end = at + pool[k].size; at < end; at++)
			points[at].name_y = first + COST_LINE * at;
	}
}

static double cost_name_width(const struct report_analysis *a, const struct cost_point *points, int count)
{
	size_t most = 0;

	for (int i = 0; i < count; i++) {
		size_t bytes = strlen(a->data->arm[points[i].arm].name);

		most = bytes > most ? bytes : most;
	}
	return 6.8 * (double)(most > COST_NAME_CHARS ? COST_NAME_CHARS + 1 : most);
}

static void cost_point(const struct svg_plot *p, const struct report_analysis *a, const struct cost_point *point)
{
	const struct report_arm_result *r = &a->arm[point->arm];
	const char *classes = r->verdict == VERDICT_BETTER ? "better" : r->verdict == VERDICT_WORSE ? "worse" : "unclear";
	char mark[32];

	if (isfinite(r->test.low))
		text_f(p->t, "<path class=\"whisker thin %s\" d=\"M%.1f %.1fV%.1f\"/>", classes, point->x, svg_y(p, fmax(r->test.low, p->y.low)),
		       svg_y(p, fmin(r->test.high, p->y.high)));
	snprintf(mark, sizeof(mark), "%s%s", classes, r->verdict == VERDICT_UNCLEAR || r->verdict == VERDICT_NONE ? " open" : "");
	svg_mark(p, r->cost, r->test.mean, r->verdict == VERDICT_BETTER ? 2 : r->verdict == VERDICT_WORSE ? 3 : 0, 4.5, mark);
}

static void cost_figure(struct text *t, const struct report_analysis *a, struct svg_plot *p, struct cost_point *points, int count)
{
	const double edge = p->width - p->right;

	for (int i = 0; i < count; i++) {
		points[i].x = svg_x(p, a->arm[points[i].arm].cost);
		points[i].y = svg_y(p, a->arm[points[i].arm].test.mean);
	}
	place_names(points, count, p->top + 4, p->height - p->bottom - 4);
	svg_begin(p, "cost against gain");
	svg_axes(p, "time of a step, relative to the baseline", "difference, points", 6, 6);
	text_f(t, "<path class=\"zero\" d=\"M%.1f %.1fH%.1f\"/>", p->left, svg_y(p, 0), edge);
	for (int i = 0; i < count; i++)
		text_f(t, "<path class=\"leader\" d=\"M%.1f %.1fL%.1f %.1fh6\"/>", points[i].x, points[i].y, edge + 4, points[i].name_y);
	for (int i = 0; i < count; i++) {
		cost_point(p, a, &points[i]);
		text_f(t, "<text x=\"%.1f\" y=\"%.1f\" class=\"halo\">", edge + 13, points[i].name_y + 3.5);
		text_html_cut(t, a->data->arm[points[i].arm].name, COST_NAME_CHARS);
		text_add(t, "</text>");
	}
	svg_end(p);
}

void page_cost(struct text *t, const struct report_analysis *a)
{
	struct cost_point points[REPORT_ARMS_MAX];
	struct svg_plot p = { .t = t, .left = 46, .top = 8, .bottom = 34 };
	int count = cost_points(a, points, &p.x, &p.y);

	page_section(t, "cost", "Cost and gain");
	if (count == 0) {
		text_add(t, "<p class=\"muted\">Costs are not recorded.</p>\n");
		return;
	}
	p.right = cost_name_width(a, points, count) + 16;
	p.width = 400 + p.right;
	p.height = fmax(310, p.top + p.bottom + COST_LINE * (count + 1));
	/* As large as texts are elsewhere, however much room the names take. */
	text_f(t, "<figure class=\"wide\" style=\"max-width:%.0fpx\">", 1.3 * p.width);
	cost_figure(t, a, &p, points, count);
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
		  "the %d effects.</p>\n", f->runs, plural((uint64_t)f->runs), f->count);
	if (f->runs == 0) {
		text_add(t, "<p class=\"muted\">");
		words_factors(t, a, text_html);
		text_add(t, "</p>\n");
		return;
	}
	for (int e = 0; e < f->count; e++) {
		widen(f->effect[e].test.mean, &low, &high);
		widen(f->effect[e].test.low, &low, &high);
		widen(f->effect[e].test.high, &low, &high);
	}
	struct svg_scale scale = forest_scale(low, high);
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
			page_forest_row(t, &scale, test, NAN, NAN, !sure ? VERDICT_UNCLEAR : test->mean > 0 ? VERDICT_BETTER : VERDICT_WORSE);
		text_add(t, "</div></div>\n");
	}
	text_add(t, "<div class=\"row axisrow\"><div></div><div></div><div class=\"plot\">");
	page_forest_axis(t, &scale);
	text_add(t, "</div></div>\n</div>\n");
}

/* ---- calibration ---- */

void page_calibration(struct text *t, const struct report_analysis *a)
{
	page_section(t, "calibration", "Calibration");
	if (a->data->ranks) {
		text_add(t, "<p class=\"muted\">Does not apply: a contrast model ranks and decides nothing.</p>\n");
		return;
	}
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
		struct svg_plot p = { .t = t, .width = 200, .height = 176, .left = 32, .right = 14, .top = 6, .bottom = 34,
				      .x = { .low = 0.5, .high = 1, .percent = true }, .y = { .low = 0.3, .high = 1, .percent = true } };
		double x[STATS_BINS], y[STATS_BINS];
		char ece[64];

		if (c->status != STATS_OK)
			continue;
		for (int b = 0; b < STATS_BINS; b++)
			if (c->bins[b].count > 0 && c->bins[b].accuracy < p.y.low)
				p.y.low = 0;
		text_add(t, "<figure>");
		snprintf(ece, sizeof(ece), "ECE %s", text_fixed(c->ece, 3).s);
		figure_name(t, a->data->arm[arm].name, ece);
		svg_begin(&p, a->data->arm[arm].name);
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
