/* The last part of report.html: mistakes with pictures, and what a reviewer needs to repeat and to check. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "trainer/study/report_page.h"

/* ---- mistakes ---- */

static void card(struct text *t, const struct report_data *data, const struct report_sample *s)
{
	text_add(t, "<div class=\"card\">");
	if (s->jpeg.size > 0) {
		text_add(t, "<img alt=\"sample picture\" src=\"data:image/jpeg;base64,");
		text_base64(t, s->jpeg.data, s->jpeg.size);
		text_add(t, "\">");
	}
	text_add(t, "<div>");
	if (s->text.size > 0) {
		text_add(t, "<q>");
		text_html_bytes(t, s->text.data, s->text.size);
		text_add(t, "</q>");
	}
	if (data->match)
		text_f(t, "<span class=\"truth\">%s; wrong answer given with %s%%</span>", s->label == 1 ? "They belong together" : "A caption of another "
				"picture",
		       text_percent(s->confidence, 0).s);
	else
		text_f(t, "<span class=\"truth\">class %d; given %s%%</span>", (int)s->label, text_percent(1 - s->confidence, 0).s);
	text_f(t, "<br><span class=\"truth mono\">samples %llu, %llu</span><ul>", (unsigned long long)s->picture, (unsigned long long)s->caption);
	for (int a = 0; a < data->arms; a++) {
		if (s->seen[a] == 0)
			continue;
		text_f(t, "<li%s>%s ", 2 * s->wrong[a] > s->seen[a] ? " class=\"x\"" : "", 2 * s->wrong[a] > s->seen[a] ? "✗" : "✓");
		text_html(t, data->arm[a].name);
		if (s->wrong[a] > 0 && s->wrong[a] < s->seen[a])
			text_f(t, " %d/%d", s->seen[a] - s->wrong[a], s->seen[a]);
		text_add(t, "</li>");
	}
	text_add(t, "</ul></div></div>\n");
}

void page_samples(struct text *t, const struct report_analysis *a, const struct report_samples *samples)
{
	const struct report_data *data = a->data;
	int shown = 0;

	page_section(t, "samples", "Mistakes");
	for (int r = 0; r < samples->row_count; r++)
		shown += samples->rows[r].count;
	if (shown == 0) {
		text_add(t, data->ranks ? "<p class=\"muted\">None to show: a contrast model ranks and decides nothing, right or wrong.</p>\n" :
					  "<p class=\"muted\">None to show: no predictions.csv, or no samples were asked for.</p>\n");
		return;
	}
	text_add(t, "<p>For each arm the pairs that it gets wrong while the others mostly do not, the surest mistakes first. Marks: right or wrong in most "
			"of an arm's runs; a fraction "
		    "says how many were right where they differ.</p>\n");
	if (!samples->pictures) {
		text_add(t, "<p class=\"warn\">Pictures and captions are not shown: ");
		text_html(t, samples->note);
		text_add(t, ". With a daemon that has this data set, <code>trainer report</code> adds them; sample ids can be looked up with <code>prepctl "
				"samples</code>.</p>\n");
	}
	for (int i = -2; i < a->order_count; i++) {
		int row = i == -2 ? data->arms : i == -1 ? data->baseline : a->order[i];
		const struct report_sample_row *r = &samples->rows[row];

		if (r->count == 0)
			continue;
		text_add(t, "<h3>");
		if (r->arm < 0) {
			text_add(t, "Wrong in every arm");
		} else {
			text_add(t, "Wrong with ");
			text_html(t, data->arm[r->arm].name);
		}
		text_add(t, "</h3>\n<div class=\"cards\">\n");
		for (int k = 0; k < r->count; k++)
			card(t, data, &r->sample[k]);
		text_add(t, "</div>\n");
	}
}

/* ---- for the reviewer ---- */

/* A value of study.json, for people. Depth is bounded by the parser. */
static void value(struct text *t, const struct tree_node *n)
{
	bool first = true;

	switch (n->kind) {
	case JSON_STRING:
	case JSON_NUMBER:
		text_html(t, n->text);
		return;
	case JSON_TRUE:
	case JSON_FALSE:
		text_add(t, n->kind == JSON_TRUE ? "yes" : "no");
		return;
	case JSON_OBJECT_BEGIN:
	case JSON_ARRAY_BEGIN:
		for (const struct tree_node *c = n->child; c != NULL; c = c->next) {
			text_add(t, first ? "" : ", ");
			if (c->key != NULL) {
				text_html(t, c->key);
				text_add(t, " ");
			}
			value(t, c);
			first = false;
		}
		return;
	default:
		text_add(t, "–");
	}
}

static void list_of(struct text *t, const char *heading, const struct tree_node *object)
{
	if (object == NULL || object->kind != JSON_OBJECT_BEGIN || object->count == 0)
		return;
	text_f(t, "<h3>%s</h3>\n<dl>", heading);
	for (const struct tree_node *n = object->child; n != NULL; n = n->next) {
		text_add(t, "<dt>");
		text_html(t, n->key);
		text_add(t, "</dt><dd class=\"mono\">");
		value(t, n);
		text_add(t, "</dd>");
	}
	text_add(t, "</dl>\n");
}

/* An argument as a shell takes it. */
static void shell_word(struct text *t, const char *word)
{
	static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=:,@%+~";

	if (word[0] != '\0' && word[0] != '~' && strspn(word, safe) == strlen(word)) {
		text_html(t, word);
		return;
	}
	text_add(t, "&#39;");
	for (const char *at = word; *at != '\0';) {
		size_t plain = strcspn(at, "'");

		text_html_bytes(t, at, plain);
		at += plain;
		if (*at == '\'') {
			text_add(t, "&#39;\\&#39;&#39;");
			at++;
		}
	}
	text_add(t, "&#39;");
}

static void command(struct text *t, const struct report_data *data)
{
	const struct tree_node *n = tree_get(data->study.root, "command");

	if (n == NULL)
		return;
	text_add(t, "<h3>Command</h3>\n<pre>");
	if (n->kind == JSON_STRING)
		text_html(t, n->text);
	for (const struct tree_node *c = n->child; c != NULL; c = c->next) {
		if (c->kind != JSON_STRING)
			continue;
		shell_word(t, c->text);
		text_add(t, c->next != NULL ? " " : "");
	}
	text_add(t, "</pre>\n");
}

/* How long a run is: either takes the place of both. */
static bool is_length(const char *key)
{
	return strcmp(key, "epochs") == 0 || strcmp(key, "steps") == 0;
}

/* --key VALUE for each member, as the study gives them to a run: without those that over has, or a length where that is given otherwise. */
static void options_of(struct text *t, const struct tree_node *object, const struct tree_node *over, bool has_length)
{
	for (const struct tree_node *n = object != NULL ? object->child : NULL; n != NULL; n = n->next) {
		if (n->kind != JSON_STRING && n->kind != JSON_NUMBER && n->kind != JSON_TRUE)
			continue;
		if (tree_get(over, n->key) != NULL || (has_length && is_length(n->key)))
			continue;
		text_add(t, " --");
		text_html(t, n->key);
		if (n->kind != JSON_TRUE) {
			text_add(t, " ");
			shell_word(t, n->text);
		}
	}
}

/* The first run of the best arm, as somebody would repeat it alone. */
static void by_hand(struct text *t, const struct report_analysis *a)
{
	const struct report_data *data = a->data;
	const struct tree_node *split = tree_get(data->study.root, "split"), *fold_seed = tree_get(data->study.root, "fold_seed");
	const int arm = a->order_count > 0 ? a->order[0] : data->baseline;
	const char *of = split != NULL && split->kind == JSON_STRING ? split->text : NULL;
	char part[256], cut[64] = "";

	if (data->data == NULL || of == NULL || strlen(of) > 128 || data->folds == 0)
		return;
	if (data->recut && data->seed_name[0] != 0)
		snprintf(cut, sizeof(cut), ",seed=%lld", (long long)data->seed_name[0]);
	else if (!data->recut && fold_seed != NULL && fold_seed->number > 0)
		snprintf(cut, sizeof(cut), ",seed=%.40s", fold_seed->text);
	text_add(t, "<h3>One run by hand</h3>\n<pre>trainer --data ");
	shell_word(t, data->data);
	text_add(t, " --reg ");
	shell_word(t, data->arm[arm].reg != NULL ? data->arm[arm].reg : data->arm[arm].name);
	text_f(t, " --seed %lld", (long long)data->seed_name[0]);
	for (int rest = 1; rest >= 0; rest--) {
		text_add(t, rest ? " --train-split " : " --val-split ");
		if (data->folds_planned > 1)
			snprintf(part, sizeof(part), "%s~%s=%lld/%d%s", of, rest ? "rest" : "fold", (long long)data->fold_name[0], data->folds_planned,
				 cut);
		else
			snprintf(part, sizeof(part), "%s", rest ? "train" : "val");
		shell_word(t, part);
	}
	const struct tree_node *own = data->arm[arm].options, *steps = data->arm[arm].steps;
	options_of(t, tree_get(data->study.root, "common"), own, steps != NULL || tree_get(own, "epochs") != NULL || tree_get(own, "steps") != NULL);
	options_of(t, own, NULL, steps != NULL);
	if (steps != NULL)
		text_f(t, " --steps %.20s", steps->text);
	const struct tree_node *threads = tree_get(data->study.root, "threads");
	if (threads != NULL && threads->kind == JSON_NUMBER)
		text_f(t, " --threads %.0f", threads->number);
	text_add(t, " --out run</pre>\n");
}

static void arms(struct text *t, const struct report_data *data)
{
	text_add(t, "<h3>Arms</h3>\n<div class=\"scroll\"><table><thead><tr><th>arm</th><th class=\"l\">--reg</th><th class=\"l\">own "
			"options</th></tr></thead><tbody>\n");
	for (int a = 0; a < data->arms; a++) {
		text_add(t, "<tr><td><b>");
		text_html_name(t, data->arm[a].name);
		text_add(t, "</b></td><td class=\"wrap mono\">");
		text_html(t, data->arm[a].reg);
		text_add(t, "</td><td class=\"wrap mono\">");
		if (data->arm[a].options != NULL)
			value(t, data->arm[a].options);
		text_add(t, "</td></tr>\n");
	}
	text_add(t, "</tbody></table></div>\n");
}

static void identities(struct text *t, const struct report_analysis *a)
{
	text_add(t, "<h3>The same for every arm?</h3>\n<p>Within a fold and seed all arms must have been trained and measured on the same things; digests "
			"of the runs prove it.</p>\n<ul>\n");
	for (int i = 0; i < REPORT_IDENTITIES; i++) {
		const struct report_identity *c = &a->identity[i];

		text_f(t, "<li%s>%s %s <span class=\"mono muted\">%s</span>: ", c->different > 0 ? " class=\"worse\"" : "",
		       c->different > 0 ? "✗" : c->cells > 0 ? "✓" : "–", c->what, c->key);
		words_identity(t, c, text_html);
		text_add(t, "</li>\n");
	}
	text_add(t, "</ul>\n");
	const struct tree_node *own = tree_get(a->data->study.root, "digests"), *compared = tree_get(own, "compared"),
			       *mismatches = tree_get(own, "mismatches");

	if (compared != NULL && compared->kind == JSON_NUMBER && mismatches != NULL && mismatches->kind == JSON_NUMBER) {
		text_add(t, "<p>The study itself, which also knows where runs of unequal length agree up to the shorter one&#39;s end, compared ");
		text_html(t, compared->text);
		text_add(t, " runs with another one and found ");
		text_html(t, mismatches->text);
		text_add(t, " that differ.</p>\n");
	}
}

static void short_digest(struct text *t, const char *digest)
{
	text_add(t, "<td class=\"mono\"");
	if (digest == NULL) {
		text_add(t, ">–</td>");
		return;
	}
	text_add(t, " title=\"");
	text_html(t, digest);
	text_add(t, "\">");
	size_t bytes = strlen(digest);
	text_html_bytes(t, digest, bytes > 10 ? 10 : bytes);
	text_add(t, "</td>");
}

static void run_rows(struct text *t, const struct report_data *data, int arm)
{
	for (int f = 0; f < data->folds; f++) {
		for (int s = 0; s < data->seeds; s++) {
			const struct report_run *run = report_run_at(data, arm, f, s);

			if (run == NULL)
				continue;
			text_add(t, "<tr><td>");
			text_html_name(t, data->arm[arm].name);
			text_f(t, "</td><td>%lld</td><td>%lld</td><td>%s</td>", (long long)data->fold_name[f], (long long)data->seed_name[s],
			       text_percent(run->accuracy, 3).s);
			text_f(t, "<td>%s</td>", text_fixed(run->loss, 4).s);
			text_f(t, "<td>%s</td>", text_percent(run->train_accuracy, 2).s);
			text_f(t, "<td>%s</td>", text_percent(run->best_accuracy, 2).s);
			text_f(t, "<td>%s</td>", text_fixed(run->ece, 4).s);
			text_f(t, "<td>%s</td>", text_fixed(run->cost, 3).s);
			text_f(t, "<td>%s</td><td>", text_seconds(run->train_seconds).s);
			if (run->steps >= 0)
				text_f(t, "%lld", (long long)run->steps);
			text_add(t, "</td>");
			short_digest(t, run->digest);
			short_digest(t, run->init_digest);
			short_digest(t, run->pairs_digest);
			text_add(t, "</tr>\n");
		}
	}
}

static void diagnostics(struct text *t, const struct report_analysis *a)
{
	bool any = false;

	for (int i = 0; i < a->data->arms; i++)
		any = any || isfinite(a->arm[i].adv_loss);
	if (!any)
		return;
	text_add(t, "<h3>Does the adversary do anything?</h3>\n<p class=\"muted\">Over the last epoch in which it worked: the loss on the same batches "
			"without and with the perturbation, and its size as a share of what it is added to.</p>\n<div class=\"scroll\"><table><thead><tr>"
			"<th>arm</th><th>clean loss</th><th>adversarial loss</th><th>‖δ‖/‖embedding‖</th><th>‖δ‖/‖feature‖</th><th>‖δ‖/‖fused‖</th>"
			"<th>‖δ‖/‖pixels‖</th></tr></thead><tbody>\n");
	for (int i = 0; i < a->data->arms; i++) {
		const struct report_arm_result *r = &a->arm[i];

		const double moved[] = { r->delta_over_embedding, r->delta_over_feature, r->delta_over_fused, r->delta_over_pixel };

		if (!isfinite(r->adv_loss))
			continue;
		text_add(t, "<tr><td><b>");
		text_html_name(t, a->data->arm[i].name);
		text_f(t, "</b></td><td>%s</td>", text_fixed(r->clean_loss, 4).s);
		text_f(t, "<td>%s</td>", text_fixed(r->adv_loss, 4).s);
		for (size_t k = 0; k < ARRAY_LEN(moved); k++)
			text_f(t, "<td>%s</td>", moved[k] > 0 ? text_fixed(moved[k], 4).s : "–");
		text_add(t, "</tr>\n");
	}
	text_add(t, "</tbody></table></div>\n");
}

void page_reviewer(struct text *t, const struct report_analysis *a)
{
	const struct report_data *data = a->data;

	page_section(t, "reviewer", "For the reviewer");
	text_add(t, "<dl><dt>data set</dt><dd>");
	text_html(t, data->data);
	text_add(t, "</dd><dt>its version</dt><dd class=\"mono\">");
	text_html(t, data->data_version != NULL ? data->data_version : "not recorded");
	text_f(t, "</dd><dt>design</dt><dd>");
	text_html(t, data->design != NULL ? data->design : "listed");
	text_add(t, ", equal ");
	text_html(t, data->equal != NULL ? data->equal : "epochs");
	text_f(t, "</dd><dt>runs</dt><dd>%d of %d</dd></dl>\n", data->run_count, data->runs_planned);
	command(t, data);
	by_hand(t, a);
	arms(t, data);
	list_of(t, "Options of every run", tree_get(data->study.root, "common"));
	list_of(t, "Start", tree_get(data->study.root, "init"));
	list_of(t, "Versions", tree_get(data->study.root, "versions"));
	identities(t, a);
	diagnostics(t, a);
	text_add(t, "<h3>Every run</h3>\n<details");
	/* So few are printed with the rest. */
	text_add(t, data->run_count <= 60 ? " open" : "");
	text_add(t, "><summary>Numbers and digests of all runs</summary>\n<div "
			"class=\"scroll\"><table><thead><tr><th>arm</th><th>fold</th><th>seed</th>"
		    "<th>accuracy, %</th><th>loss</th><th>train, %</th><th>best, "
		"%</th><th>ECE</th><th>own cost</th><th>training</th><th>steps</th><th>batches</th><th>weights</th>"
		    "<th>pairs</th></tr></thead><tbody>\n");
	run_rows(t, data, data->baseline);
	for (int i = 0; i < a->order_count; i++)
		run_rows(t, data, a->order[i]);
	text_add(t, "</tbody></table></div></details>\n<p class=\"muted\">report-runs.csv has them with whole digests, report.json everything without "
			"rounding. Tests: Nadeau and Bengio, Machine "
		    "Learning 52 (2003); Holm, Scand. J. Statist. 6 (1979); Efron, JASA 82 (1987); McNemar, Psychometrika 12 (1947); Alpaydin, Neural "
		"Computation 11 (1999); "
		    "ECE: Guo et al., ICML 2017, 15 bins.</p>\n");
}
