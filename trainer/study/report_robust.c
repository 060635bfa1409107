/* Accuracy under attack: curves, transfer, and the checks of the attacks. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "trainer/study/report_page.h"
#include "trainer/study/svg.h"

enum { EPSILONS_MAX = 64, GROUPS_MAX = 24 };

/* Attacks that belong into one plot. */
struct group {
	const struct report_robust *first;
	double eps[EPSILONS_MAX]; /* ascending */
	int count;
	double high;              /* accuracy */
};

static bool same_group(const struct report_robust *a, const struct report_robust *b)
{
	return strcmp(a->attack, b->attack) == 0 && strcmp(a->target, b->target) == 0 && strcmp(a->norm, b->norm) == 0 && a->steps == b->steps &&
	       a->restarts == b->restarts;
}

static void add_eps(struct group *g, double eps)
{
	int at = 0;

	for (; at < g->count && g->eps[at] < eps; at++)
		;
	if ((at < g->count && g->eps[at] == eps) || g->count == EPSILONS_MAX)
		return;
	memmove(g->eps + at + 1, g->eps + at, (size_t)(g->count - at) * sizeof(double));
	g->eps[at] = eps;
	g->count++;
}

static int find_groups(const struct report_data *data, struct group *groups)
{
	int count = 0;

	for (int i = 0; i < data->robust_count; i++) {
		const struct report_robust *r = &data->robust[i];
		int g = 0;

		for (; g < count && !same_group(groups[g].first, r); g++)
			;
		if (g == GROUPS_MAX)
			continue;
		if (g == count)
			groups[count++] = (struct group){ .first = r };
		if (r->arm == r->source)
			add_eps(&groups[g], r->eps);
		if (isfinite(r->accuracy) && r->accuracy > groups[g].high)
			groups[g].high = r->accuracy;
	}
	return count;
}

/* Mean over folds and seeds; NaN: not measured. */
static double mean_at(const struct report_data *data, const struct group *g, int arm, int source, double eps)
{
	double sum = 0;
	int n = 0;

	for (int i = 0; i < data->robust_count; i++) {
		const struct report_robust *r = &data->robust[i];

		if (r->arm == arm && r->source == source && r->eps == eps && same_group(r, g->first) && isfinite(r->accuracy)) {
			sum += r->accuracy;
			n++;
		}
	}
	return n > 0 ? sum / n : NAN;
}

static void group_title(struct text *t, const struct group *g)
{
	text_html(t, g->first->attack);
	text_add(t, " on ");
	text_html(t, g->first->target);
	if (g->first->norm[0] != '\0') {
		text_add(t, ", ");
		text_html(t, g->first->norm);
	}
	if (g->first->steps > 1)
		text_f(t, ", %lld steps", (long long)g->first->steps);
	if (g->first->restarts > 1)
		text_f(t, ", %lld restarts", (long long)g->first->restarts);
}

static void line_class(int arm, char *out, size_t bytes)
{
	snprintf(out, bytes, "s%d%s", arm % SVG_COLORS, (const char *[]){ "", " d1", " d2", " d3" }[arm / SVG_COLORS % 4]);
}

static bool in_steps_of_255(const struct group *g)
{
	return strncmp(g->first->target, "pixel", 5) == 0 && strcmp(g->first->norm, "l2") != 0;
}

/* Epsilons grow by factors: they stand at equal distances. Those of pixels are said in steps of 1/255. */
static void eps_axis(const struct svg_plot *p, const struct group *g, bool of_255)
{
	for (int e = 0; e < g->count; e++)
		text_f(p->t, "<text class=\"tick\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%.3g</text>", svg_x(p, e), p->height - p->bottom + 13,
		       of_255 ? g->eps[e] * 255 : g->eps[e]);
	text_f(p->t, "<text class=\"label\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">epsilon%s</text>", (p->left + p->width - p->right) / 2,
	       p->height - 3, of_255 ? " in steps of 1/255" : "");
}

static void plot_group(struct text *t, const struct report_analysis *a, const struct group *g)
{
	const struct report_data *data = a->data;
	const bool of_255 = in_steps_of_255(g);
	struct svg_plot p = { .t = t, .width = 360, .height = 240, .left = 36, .right = 12, .top = 8, .bottom = 32,
			      .x = { .low = -0.15, .high = g->count - 0.85 }, .y = { .high = g->high * 1.05 + 0.01, .percent = true } };
	double x[EPSILONS_MAX], y[EPSILONS_MAX];
	char classes[16];

	text_add(t, "<figure><figcaption><b>");
	group_title(t, g);
	text_add(t, "</b></figcaption>");
	svg_begin(&p, "accuracy against epsilon");
	svg_axes(&p, NULL, NULL, 0, 5);
	eps_axis(&p, g, of_255);
	for (int arm = 0; arm < data->arms; arm++) {
		bool any = false;

		for (int e = 0; e < g->count; e++) {
			x[e] = e;
			y[e] = mean_at(data, g, arm, arm, g->eps[e]);
			any = any || isfinite(y[e]);
		}
		if (!any)
			continue;
		line_class(arm, classes, sizeof(classes));
		svg_line(&p, x, y, g->count, classes);
		for (int e = 0; e < g->count; e++)
			if (isfinite(y[e]))
				svg_mark(&p, e, y[e], arm % 5, 2.6, classes);
	}
	svg_end(&p);
	text_add(t, "</figure>\n");
}

/* Where attacks were made on one arm and tried on another. */
static void transfer(struct text *t, const struct report_analysis *a, const struct group *g)
{
	const struct report_data *data = a->data;
	bool source[REPORT_ARMS_MAX] = { false }, target[REPORT_ARMS_MAX] = { false }, any = false, of_255 = in_steps_of_255(g);
	double eps = 0;

	for (int i = 0; i < data->robust_count; i++) {
		const struct report_robust *r = &data->robust[i];

		if (r->arm == r->source || !same_group(r, g->first))
			continue;
		any = true;
		source[r->source] = target[r->arm] = true;
		eps = r->eps > eps ? r->eps : eps;
	}
	if (!any)
		return;
	text_add(t, "<h3>Transfer: ");
	group_title(t, g);
	text_add(t, ", epsilon ");
	text_f(t, of_255 ? "%.3g/255" : "%.3g", of_255 ? 255 * eps : eps);
	text_f(t, "</h3><p class=\"muted\">Accuracy in %%. Rows: the arm that the perturbation was made on; columns: the arm that had to "
			"answer. On the diagonal "
		  "both are one.</p><div class=\"scroll\"><table><thead><tr><th>made on</th>");
	for (int arm = 0; arm < data->arms; arm++) {
		if (!target[arm])
			continue;
		text_add(t, "<th>");
		text_html_name(t, data->arm[arm].name);
		text_add(t, "</th>");
	}
	text_add(t, "</tr></thead><tbody>\n");
	for (int from = 0; from < data->arms; from++) {
		if (!source[from])
			continue;
		text_add(t, "<tr><td><b>");
		text_html_name(t, data->arm[from].name);
		text_add(t, "</b></td>");
		for (int arm = 0; arm < data->arms; arm++)
			if (target[arm])
				text_f(t, "<td>%s</td>", text_percent(mean_at(data, g, arm, from, eps), 1).s);
		text_add(t, "</tr>\n");
	}
	text_add(t, "</tbody></table></div>\n");
}

static void checks(struct text *t, const struct report_data *data)
{
	int failed = 0;

	if (data->check_count == 0)
		return;
	for (int i = 0; i < data->check_count; i++)
		failed += !data->check[i].ok;
	text_f(t, "<h3>Checks of the attacks</h3>\n<p>An attack that is too weak makes any model look robust (gradient masking). %d of %d checks hold%s</p>\n",
	       data->check_count - failed, data->check_count, failed > 0 ? "; these do not:" : ".");
	if (failed > 0)
		text_add(t, "<ul>\n");
	for (int i = 0; i < data->check_count; i++) {
		if (data->check[i].ok)
			continue;
		text_add(t, "<li class=\"worse\">");
		text_html(t, data->check[i].name);
		if (data->check[i].arm >= 0) {
			text_add(t, ", ");
			text_html(t, data->arm[data->check[i].arm].name);
		}
		if (data->check[i].detail != NULL && data->check[i].detail[0] != '\0') {
			text_add(t, ": ");
			text_html(t, data->check[i].detail);
		}
		text_add(t, "</li>\n");
	}
	if (failed > 0)
		text_add(t, "</ul>\n");
}

void page_robustness(struct text *t, const struct report_analysis *a)
{
	const struct report_data *data = a->data;
	struct group groups[GROUPS_MAX];
	int count = find_groups(data, groups);
	char classes[16];

	if (data->robust_count == 0)
		return;
	page_section(t, "robustness", "Robustness");
	text_add(t, "<p>Accuracy in % when pictures or captions are perturbed by up to epsilon to be answered wrongly; means over the folds and seeds that "
			"were attacked.</p>\n<ul class=\"key\">");
	for (int arm = 0; arm < data->arms; arm++) {
		line_class(arm, classes, sizeof(classes));
		text_f(t, "<li><svg viewBox=\"0 0 30 12\"><path class=\"line %s\" d=\"M1 6h28\"/>", classes);
		struct svg_plot p = { .t = t, .width = 30, .height = 12, .x = { .high = 1 }, .y = { .high = 1 } };
		svg_mark(&p, 0.5, 0.5, arm % 5, 3, classes);
		text_add(t, "</svg>");
		text_html(t, data->arm[arm].name);
		text_add(t, "</li>");
	}
	text_add(t, "</ul>\n<div class=\"two\">\n");
	for (int g = 0; g < count; g++)
		/* One strength alone is no curve: the checks have what it is for. */
		if (groups[g].count > 1)
			plot_group(t, a, &groups[g]);
	text_add(t, "</div>\n");
	for (int g = 0; g < count; g++)
		transfer(t, a, &groups[g]);
	checks(t, data);
}
