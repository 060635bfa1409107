/* Plain run folders side by side: what they reached, what they took, their curves. No statistics: one run each has no spread. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/fs.h"
#include "shared/base/mem.h"
#include "shared/base/plural.h"
#include "trainer/study/report.h"
#include "trainer/study/report_page.h"
#include "trainer/study/svg.h"

struct plain_run {
	const char *dir;
	char *name;          /* what tells it from the others: the end of its path */
	struct tree tree;
	struct report_curve curve;
	const char *state, *reg, *data, *version, *digest, *task;
	const char *val_split, *val_pairs; /* what it was measured on; val_pairs: their digest, which not every run has */
	double accuracy, loss, pairs, best, seconds;
	double train_accuracy, train_loss; /* of the last epoch's steps, as they ran */
	int64_t steps;
};

struct plain_runs {
	struct plain_run *run;
	int count;
};

static void run_close(struct plain_run *run)
{
	tree_free(&run->tree);
	report_curve_free(&run->curve);
	mem_free(run->name);
}

static double last_of(const double *values, int count)
{
	while (count > 0 && !isfinite(values[count - 1]))
		count--;
	return count > 0 ? values[count - 1] : NAN;
}

static int read_measure(struct plain_run *run, struct err *err)
{
	const struct tree *t = &run->tree;
	const struct tree_node *dataset, *model, *val;
	int code;

	if ((code = tree_branch(t, t->root, "dataset", JSON_OBJECT_BEGIN, &dataset, err)) != 0 ||
	    (code = tree_branch(t, t->root, "model", JSON_OBJECT_BEGIN, &model, err)) != 0 ||
	    (code = tree_branch(t, t->root, "val", JSON_OBJECT_BEGIN, &val, err)) != 0 ||
	    (code = tree_text(t, dataset, "name", &run->data, err)) != 0 || (code = tree_text(t, dataset, "version", &run->version, err)) != 0 ||
	    (code = tree_text(t, model, "task", &run->task, err)) != 0)
		return code;
	return tree_text(t, val, "split", &run->val_split, err);
}

static int read_result(struct plain_run *run, struct err *err)
{
	const struct tree *t = &run->tree;
	const struct tree_node *result, *val, *best, *final;
	int code;

	run->accuracy = run->loss = run->pairs = run->best = run->seconds = NAN;
	run->steps = -1;
	if ((code = tree_branch(t, t->root, "result", JSON_OBJECT_BEGIN, &result, err)) != 0 || result == NULL)
		return code;
	if ((code = tree_branch(t, result, "val", JSON_OBJECT_BEGIN, &val, err)) != 0 ||
	    (code = tree_branch(t, result, "best", JSON_OBJECT_BEGIN, &best, err)) != 0 ||
	    (code = tree_branch(t, result, "final", JSON_OBJECT_BEGIN, &final, err)) != 0 ||
	    (code = tree_text(t, final, "pairs_digest", &run->val_pairs, err)) != 0 ||
	    (code = tree_count(t, result, "steps", &run->steps, err)) != 0 ||
	    (code = tree_real(t, result, "train_seconds", &run->seconds, err)) != 0 ||
	    (code = tree_real(t, val, "accuracy", &run->accuracy, err)) != 0 || (code = tree_real(t, val, "loss", &run->loss, err)) != 0 ||
	    (code = tree_real(t, val, "pairs", &run->pairs, err)) != 0)
		return code;
	return tree_real(t, best, "accuracy", &run->best, err);
}

/* run.json has a run's results from where it last ended; of one at work, or killed, metrics.jsonl knows more. */
static void results_so_far(struct plain_run *run)
{
	const struct report_curve *c = &run->curve;

	run->seconds = run->best = NAN;
	run->accuracy = last_of(c->val_accuracy, c->count);
	run->loss = last_of(c->val_loss, c->count);
	for (int i = 0; i < c->every_count; i++)
		run->best = fmax(run->best, c->every_accuracy[i]);
}

static int run_open(struct plain_run *run, const char *dir, struct err *err)
{
	const char *end = dir + strlen(dir), *start;
	char *path = NULL;
	int code = fs_join(&path, dir, "run.json", err);

	run->dir = dir;
	while (end > dir + 1 && end[-1] == '/')
		end--;
	for (start = end; start > dir && start[-1] != '/'; start--)
		;
	run->name = mem_strndup(start, (size_t)(end - start));
	if (code == 0 && run->name == NULL)
		code = err_nomem(err, strlen(dir));
	if (code != 0 || (code = tree_read(&run->tree, path, err)) != 0)
		goto out;
	const struct tree *t = &run->tree;
	if ((code = tree_text(t, t->root, "state", &run->state, err)) != 0 || (code = tree_text(t, t->root, "reg", &run->reg, err)) != 0 ||
	    (code = tree_text(t, t->root, "digest", &run->digest, err)) != 0 ||
	    (code = read_measure(run, err)) != 0 || (code = read_result(run, err)) != 0 || (code = report_curve_read(&run->curve, dir, err)) != 0)
		goto out;
	run->train_accuracy = last_of(run->curve.train_accuracy, run->curve.count);
	run->train_loss = last_of(run->curve.train_loss, run->curve.count);
	if (run->state != NULL && strcmp(run->state, "running") == 0)
		results_so_far(run);
out:
	mem_free(path);
	return code;
}

/* Where two folders end alike, all are called by their whole paths. */
static int tell_apart(struct plain_runs *runs, struct err *err)
{
	bool alike = false;

	for (int i = 0; i < runs->count; i++)
		for (int k = 0; k < i; k++)
			alike = alike || strcmp(runs->run[i].name, runs->run[k].name) == 0;
	for (int i = 0; alike && i < runs->count; i++) {
		char *whole = mem_strdup(runs->run[i].dir);

		if (whole == NULL)
			return err_nomem(err, strlen(runs->run[i].dir));
		mem_free(runs->run[i].name);
		runs->run[i].name = whole;
	}
	return 0;
}

static double cost_of(const struct plain_runs *runs, int i)
{
	return runs->run[0].seconds > 0 ? runs->run[i].seconds / runs->run[0].seconds : NAN;
}

/* One standard error of an accuracy on so many independent pairs: what a difference has to be held against. */
static double standard_error(const struct plain_runs *runs)
{
	const struct plain_run *r = &runs->run[0];

	return r->pairs > 0 && isfinite(r->accuracy) ? sqrt(r->accuracy * (1 - r->accuracy) / r->pairs) : NAN;
}

static bool differ(const char *a, const char *b)
{
	return a != NULL && b != NULL && strcmp(a, b) != 0;
}

/* Why their accuracies are not of one measure; NULL: they are, as far as the runs say. */
static const char *unlike(const struct plain_run *a, const struct plain_run *b)
{
	if (differ(a->version, b->version))
		return "on different data";
	if (differ(a->task, b->task))
		return "of different tasks";
	if (differ(a->val_split, b->val_split))
		return "measured on different splits";
	if (differ(a->val_pairs, b->val_pairs) || (isfinite(a->pairs) && isfinite(b->pairs) && a->pairs != b->pairs))
		return "measured on different pairs";
	return NULL;
}

static const char *incomparable(const struct plain_runs *runs)
{
	const char *why = NULL;

	for (int i = 0; i < runs->count; i++)
		for (int k = 0; k < i && why == NULL; k++)
			why = unlike(&runs->run[k], &runs->run[i]);
	return why;
}

static void note(struct text *t, const struct plain_runs *runs)
{
	const char *why = incomparable(runs);

	if (why != NULL)
		text_f(t, "These runs are %s: their accuracies cannot be compared. ", why);
	else if (isfinite(standard_error(runs)))
		text_f(t, "One standard error of an accuracy on %.0f validation pairs is %s points, if pairs were independent. ", runs->run[0].pairs,
		       text_percent(standard_error(runs), 2).s);
	text_add(t, "Single runs do not say whether a difference is real: trainer study does.");
}

/* Pads by characters, not bytes. */
static void cell(struct text *t, const char *s, int width)
{
	int shown = 0;

	for (const char *at = s; *at != '\0'; at++)
		shown += ((unsigned char)*at & 0xC0) != 0x80;
	for (int pad = shown; pad < width; pad++)
		text_add(t, " ");
	text_add(t, s);
	text_add(t, "  ");
}

static void answer(struct text *t, const struct plain_runs *runs)
{
	int longest = 4;

	for (int i = 0; i < runs->count; i++)
		longest = (int)strlen(runs->run[i].name) > longest ? (int)strlen(runs->run[i].name) : longest;
	text_f(t, "%-*s  %6s  %8s  %8s  %8s  %8s  %9s  %6s\n", longest, "run", "epochs", "val, %", "best, %", "val loss", "train, %", "training", "cost");
	for (int i = 0; i < runs->count; i++) {
		const struct plain_run *r = &runs->run[i];

		text_f(t, "%-*s  %6d  ", longest, r->name, r->curve.count);
		cell(t, text_percent(r->accuracy, 2).s, 8);
		cell(t, text_percent(r->best, 2).s, 8);
		cell(t, text_fixed(r->loss, 4).s, 8);
		cell(t, text_percent(r->train_accuracy, 2).s, 8);
		cell(t, text_seconds(r->seconds).s, 9);
		cell(t, text_fixed(cost_of(runs, i), 2).s, 6);
		text_f(t, "%s\n", r->state != NULL && strcmp(r->state, "finished") != 0 ? r->state : "");
	}
	text_add(t, "\n");
	note(t, runs);
	text_add(t, "\n");
}

static void make_md(struct text *t, const struct plain_runs *runs)
{
	text_add(t, "| run | reg | state | epochs | val, % | best, % | val loss | train, % | training | cost |\n|---|---|---|---|---|---|---|---|---|---|\n");
	for (int i = 0; i < runs->count; i++) {
		const struct plain_run *r = &runs->run[i];

		text_add(t, "| ");
		text_md(t, r->name);
		text_add(t, " | ");
		text_md(t, r->reg);
		text_add(t, " | ");
		text_md(t, r->state);
		text_f(t, " | %d | %s", r->curve.count, text_percent(r->accuracy, 2).s);
		text_f(t, " | %s | %s", text_percent(r->best, 2).s, text_fixed(r->loss, 4).s);
		text_f(t, " | %s | %s", text_percent(r->train_accuracy, 2).s, text_seconds(r->seconds).s);
		text_f(t, " | %s |\n", text_fixed(cost_of(runs, i), 2).s);
	}
	text_add(t, "\n");
	note(t, runs);
	text_add(t, "\n");
}

static void make_tex(struct text *t, const struct plain_runs *runs)
{
	const char *why = incomparable(runs);

	if (why != NULL)
		text_f(t, "%% These runs are %s: their accuracies cannot be compared.\n", why);
	text_add(t, "% Needs \\usepackage{booktabs,textcomp}.\n\\begin{tabular}{lrrrrr}\n\\toprule\n"
		    "Run & Val (\\%) & Best (\\%) & Val loss & Train (\\%) & Cost \\\\\n\\midrule\n");
	for (int i = 0; i < runs->count; i++) {
		const struct plain_run *r = &runs->run[i];
		const struct text_number cells[] = { text_percent(r->accuracy, 2), text_percent(r->best, 2), text_fixed(r->loss, 4),
						     text_percent(r->train_accuracy, 2), text_fixed(cost_of(runs, i), 2) };

		text_tex(t, r->name);
		for (size_t c = 0; c < ARRAY_LEN(cells); c++) {
			text_add(t, " & ");
			text_tex(t, cells[c].s);
		}
		text_add(t, " \\\\\n");
	}
	text_add(t, "\\bottomrule\n\\end{tabular}\n");
}

static void make_csv(struct text *t, const struct plain_runs *runs)
{
	text_add(t, "run,reg,state,steps,accuracy,best_accuracy,loss,train_accuracy,train_loss,train_seconds,cost,pairs,data_version,digest\n");
	for (int i = 0; i < runs->count; i++) {
		const struct plain_run *r = &runs->run[i];
		const double values[] = { r->accuracy, r->best, r->loss, r->train_accuracy, r->train_loss, r->seconds, cost_of(runs, i), r->pairs };

		text_csv(t, r->dir);
		text_add(t, ",");
		text_csv(t, r->reg);
		text_add(t, ",");
		text_csv(t, r->state);
		text_add(t, ",");
		if (r->steps >= 0)
			text_f(t, "%lld", (long long)r->steps);
		for (size_t v = 0; v < ARRAY_LEN(values); v++) {
			text_add(t, ",");
			text_csv_real(t, values[v]);
		}
		text_add(t, ",");
		text_csv(t, r->version);
		text_add(t, ",");
		text_csv(t, r->digest);
		text_add(t, "\n");
	}
}

static void json_series(struct text *t, const char *key, const double *values, int count)
{
	text_f(t, ", \"%s\": [", key);
	for (int e = 0; e < count; e++) {
		text_add(t, e > 0 ? ", " : "");
		text_json_real(t, values[e]);
	}
	text_add(t, "]");
}

static void make_json(struct text *t, const struct plain_runs *runs)
{
	static const char *const keys[] = { "accuracy", "best_accuracy", "loss", "train_accuracy", "train_loss", "train_seconds", "cost", "pairs" };

	text_add(t, "{\n  \"schema\": \"trainer-runs-1\",\n  \"runs\": [\n");
	for (int i = 0; i < runs->count; i++) {
		const struct plain_run *r = &runs->run[i];
		const double values[] = { r->accuracy, r->best, r->loss, r->train_accuracy, r->train_loss, r->seconds, cost_of(runs, i), r->pairs };

		text_add(t, i > 0 ? ",\n    {\"dir\": " : "    {\"dir\": ");
		text_json(t, r->dir);
		text_add(t, ", \"reg\": ");
		text_json(t, r->reg);
		text_add(t, ", \"state\": ");
		text_json(t, r->state);
		for (size_t v = 0; v < ARRAY_LEN(values); v++) {
			text_f(t, ", \"%s\": ", keys[v]);
			text_json_real(t, values[v]);
		}
		text_add(t, ", \"data_version\": ");
		text_json(t, r->version);
		text_add(t, ", \"digest\": ");
		text_json(t, r->digest);
		json_series(t, "val_accuracy_by_epoch", r->curve.val_accuracy, r->curve.count);
		json_series(t, "val_loss_by_epoch", r->curve.val_loss, r->curve.count);
		json_series(t, "train_accuracy_by_epoch", r->curve.train_accuracy, r->curve.count);
		json_series(t, "train_loss_by_epoch", r->curve.train_loss, r->curve.count);
		text_add(t, "}");
	}
	text_add(t, "\n  ]\n}\n");
}

static struct page_curve curve_of(const struct report_curve *c, bool loss)
{
	return (struct page_curve){
		.train = { .count = c->count, .at = c->train_at, .value = loss ? c->train_loss : c->train_accuracy },
		.val = { .count = c->every_count, .at = c->every_at, .value = loss ? c->every_loss : c->every_accuracy },
	};
}

static void curves(struct text *t, const struct plain_runs *runs, bool loss)
{
	struct page_range range = { .low = INFINITY, .high = -INFINITY };

	for (int i = 0; i < runs->count; i++) {
		struct page_curve curve = curve_of(&runs->run[i].curve, loss);

		page_range_add(&range, &curve.train);
		page_range_add(&range, &curve.val);
	}
	text_f(t, "<h3>%s by epoch</h3>\n<div class=\"small\">\n", loss ? "Loss" : "Accuracy, %,");
	for (int i = 0; i < runs->count; i++) {
		struct page_curve curve = curve_of(&runs->run[i].curve, loss);

		if (i > 0)
			curve.base = curve_of(&runs->run[0].curve, loss).val;
		if (runs->run[i].curve.count > 0)
			page_curve_plot(t, runs->run[i].name, &curve, &range, !loss);
	}
	text_add(t, "</div>\n");
}

static void make_html(struct text *t, const struct plain_runs *runs)
{
	page_begin(t, "Runs");
	text_f(t, "<h1>Runs</h1>\n<p class=\"headline\">%d run%s side by side</p>\n<p>", runs->count, plural(runs->count));
	note(t, runs);
	text_add(t, "</p>\n<div class=\"scroll\"><table class=\"full\"><thead><tr><th>run</th><th class=\"l\">reg</th><th>epochs</th><th>val, "
			"%</th><th>best, %</th>"
		    "<th>val loss</th><th>train, %</th><th>training</th><th>cost</th><th>state</th></tr></thead><tbody>\n");
	for (int i = 0; i < runs->count; i++) {
		const struct plain_run *r = &runs->run[i];

		text_add(t, "<tr><td><b>");
		text_html_name(t, r->name);
		text_add(t, "</b></td><td class=\"wrap mono\">");
		text_html(t, r->reg);
		text_f(t, "</td><td>%d</td><td>%s</td>", r->curve.count, text_percent(r->accuracy, 2).s);
		text_f(t, "<td>%s</td><td>%s</td>", text_percent(r->best, 2).s, text_fixed(r->loss, 4).s);
		text_f(t, "<td>%s</td><td>%s</td>", text_percent(r->train_accuracy, 2).s, text_seconds(r->seconds).s);
		text_f(t, "<td>%s</td><td>", text_fixed(cost_of(runs, i), 2).s);
		text_html(t, r->state);
		text_add(t, "</td></tr>\n");
	}
	text_add(t, "</tbody></table></div>\n<p class=\"muted\">Cost: seconds of training relative to the first run. Train: mean over the last epoch's "
			"steps, as they ran.</p>\n");
	page_curve_key(t, runs->count > 1 ? "the first run" : NULL);
	curves(t, runs, false);
	curves(t, runs, true);
	text_add(t, "<p class=\"muted\">" PAGE_CURVE_WORDS "</p>\n");
	page_end(t);
}

static int write_one(const char *folder, const char *name, void (*make)(struct text *t, const struct plain_runs *runs),
		     const struct plain_runs *runs, struct buf *also, struct err *err)
{
	struct text t;
	char *path = NULL;
	int code;

	text_begin(&t, err);
	make(&t, runs);
	code = text_end(&t);
	if (code == 0 && also != NULL)
		code = buf_add(also, t.out.data, t.out.size, err);
	if (code == 0 && folder != NULL && (code = fs_join(&path, folder, name, err)) == 0)
		code = fs_write_atomic(path, t.out.data, t.out.size, err);
	mem_free(path);
	text_free(&t);
	return code;
}

static int write_all(const struct plain_runs *runs, const struct report_options *options, struct err *err)
{
	static const struct {
		unsigned bit;
		const char *name;
		void (*make)(struct text *t, const struct plain_runs *runs);
	} files[] = { { REPORT_JSON, "report.json", make_json }, { REPORT_CSV, "report.csv", make_csv }, { REPORT_TEX, "report.tex", make_tex },
		      { REPORT_MD, "report.md", make_md }, { REPORT_HTML, "report.html", make_html } };
	unsigned formats = options->formats != 0 ? options->formats : REPORT_ALL;
	int code = fs_mkdirs(options->out, 0777, err);

	for (size_t i = 0; code == 0 && i < ARRAY_LEN(files); i++)
		if (formats & files[i].bit)
			code = write_one(options->out, files[i].name, files[i].make, runs, NULL, err);
	return code;
}

int report_runs_write(const char *const *dirs, int count, const struct report_options *options, struct err *err)
{
	struct plain_runs runs = { .run = NULL };
	int code = 0;

	if (count < 1 || count > REPORT_PLAIN_RUNS_MAX)
		return err_set(err, ERR_LIMIT, "%d runs; at most %d can be compared", count, REPORT_PLAIN_RUNS_MAX);
	runs.run = mem_array((size_t)count, sizeof(*runs.run));
	if (runs.run == NULL)
		return err_nomem(err, (size_t)count * sizeof(*runs.run));
	while (code == 0 && runs.count < count) {
		code = run_open(&runs.run[runs.count], dirs[runs.count], err);
		runs.count++;
	}
	if (code == 0)
		code = tell_apart(&runs, err);
	if (code == 0 && options->out != NULL)
		code = write_all(&runs, options, err);
	if (code == 0 && options->answer != NULL)
		code = write_one(NULL, NULL, answer, &runs, options->answer, err);
	if (code == 0 && options->json != NULL)
		code = write_one(NULL, NULL, make_json, &runs, options->json, err);
	for (int i = 0; i < runs.count; i++)
		run_close(&runs.run[i]);
	mem_free(runs.run);
	return code;
}
