/* report.md, report.tex, report.csv, report-runs.csv. */
#include <math.h>

#include "shared/base/plural.h"
#include "trainer/study/report_words.h"

/* The arms as tables have them: the baseline first, then by difference. */
static int arm_at(const struct report_analysis *a, int row)
{
	return row == 0 ? a->data->baseline : a->order[row - 1];
}

static int rows(const struct report_analysis *a)
{
	return a->order_count + 1;
}

/* ---- Markdown ---- */

static void md_row(struct text *t, const struct report_analysis *a, int arm)
{
	const struct report_arm_result *r = &a->arm[arm];
	bool base = arm == a->data->baseline;

	text_add(t, "| ");
	text_md(t, a->data->arm[arm].name);
	text_f(t, " | %s", text_percent(r->accuracy.mean, 2).s);
	if (isfinite(r->accuracy.low))
		text_f(t, " [%s, %s]", text_percent(r->accuracy.low, 2).s, text_percent(r->accuracy.high, 2).s);
	if (base) {
		text_add(t, " | | | | ");
	} else {
		text_f(t, " | %s", text_points(r->test.mean, 2).s);
		if (isfinite(r->test.low))
			text_f(t, " [%s, %s]", text_points(r->test.low, 2).s, text_points(r->test.high, 2).s);
		text_f(t, " | %s | %s | ", text_p(r->test.p).s, text_p(r->holm).s);
		if (isfinite(r->bootstrap.low))
			text_f(t, "[%s, %s]", text_points(r->bootstrap.low, 2).s, text_points(r->bootstrap.high, 2).s);
	}
	text_f(t, " | %s | %s | %s | %d | %s |\n", text_fixed(r->cost, 2).s, text_points(r->gap.mean, 1).s,
	       text_fixed(isfinite(r->ece.mean) ? r->ece.mean : r->calibration.ece, 3).s, r->runs, base ? "baseline" : words_verdict_name(r->verdict));
}

static void md_paragraph(struct text *t, const struct report_analysis *a,
			 void (*words)(struct text *t, const struct report_analysis *analysis, text_escape escape))
{
	size_t before = t->out.size;

	words(t, a, text_md);
	text_add(t, t->out.size > before ? "\n\n" : "");
}

void report_md(struct text *t, const struct report_analysis *a)
{
	const struct report_data *data = a->data;

	text_add(t, "# ");
	text_md(t, data->name != NULL ? data->name : "Study");
	text_add(t, "\n\n**");
	words_headline(t, a, text_md);
	text_add(t, "**\n\n");
	md_paragraph(t, a, words_factors);
	md_paragraph(t, a, words_differing);
	md_paragraph(t, a, words_incomplete);
	md_paragraph(t, a, words_plateau);
	for (int i = 0; i < a->order_count; i++) {
		text_add(t, "- **");
		text_md(t, data->arm[a->order[i]].name);
		text_add(t, "** ");
		words_verdict(t, a, a->order[i], text_md);
		text_add(t, ". ");
		words_second_view(t, a, a->order[i], text_md);
		text_add(t, "\n");
	}
	text_f(t, "\nData set ");
	text_md(t, data->data);
	text_f(t, ", %d fold%s x %d seed%s%s, task ", data->folds_planned, plural((uint64_t)data->folds_planned), data->seeds,
	       plural((uint64_t)data->seeds), data->recut ? " (cut anew for each)" : "");
	text_md(t, data->task != NULL ? data->task : "match");
	text_add(t, ". Accuracies in percent, differences in points against ");
	text_md(t, data->arm[data->baseline].name);
	text_add(t, ".\n\n| arm | accuracy [95% t] | difference [95%] | p | Holm p | bootstrap [95%] | cost | train - val | ECE | runs | verdict |\n"
		    "|---|---|---|---|---|---|---|---|---|---|---|\n");
	for (int i = 0; i < rows(a); i++)
		md_row(t, a, arm_at(a, i));
	text_f(t, "\nThe interval of the difference and p are of the corrected resampled t test (Nadeau and Bengio 2003) with test/train = %s",
	       text_fixed(a->ratio, 4).s);
	if (!data->ranks)
		text_f(t, "; the bootstrap draws pictures (%d replicates)", a->replicates);
	text_add(t, ". ");
	words_ranks(t, a, text_md);
	words_power(t, a, text_md);
	text_add(t, "\n");
	if (a->factorial.factors > 0 && a->factorial.runs > 0) {
		const struct report_factorial *f = &a->factorial;

		text_f(t, "\n| effect | points [95%%] | Holm p |\n|---|---|---|\n");
		for (int e = 0; e < f->count; e++) {
			bool first = true;

			text_add(t, "| ");
			for (int i = 0; i < f->factors; i++) {
				if (!(f->effect[e].factors >> i & 1))
					continue;
				text_add(t, first ? "" : " x ");
				text_md(t, f->names[i]);
				first = false;
			}
			text_f(t, " | %s", text_points(f->effect[e].test.mean, 2).s);
			if (isfinite(f->effect[e].test.low))
				text_f(t, " [%s, %s]", text_points(f->effect[e].test.low, 2).s, text_points(f->effect[e].test.high, 2).s);
			text_f(t, " | %s |\n", text_p(f->holm[e]).s);
		}
	}
	text_add(t, "\nWhat should be identical across arms:\n\n");
	for (int i = 0; i < REPORT_IDENTITIES; i++) {
		text_f(t, "- %s: ", a->identity[i].what);
		words_identity(t, &a->identity[i], text_md);
		text_add(t, "\n");
	}
}

/* ---- LaTeX ---- */

static void tex_number(struct text *t, struct text_number n)
{
	text_tex(t, n.s);
}

static void tex_row(struct text *t, const struct report_analysis *a, int arm)
{
	const struct report_arm_result *r = &a->arm[arm];

	text_tex(t, a->data->arm[arm].name);
	text_add(t, " & ");
	tex_number(t, text_percent(r->accuracy.mean, 2));
	if (isfinite(r->accuracy.low)) {
		text_add(t, " $\\pm$ ");
		tex_number(t, text_percent(r->accuracy.high - r->accuracy.mean, 2));
	}
	if (arm == a->data->baseline) {
		text_add(t, " & & & ");
	} else {
		text_add(t, " & ");
		tex_number(t, text_points(r->test.mean, 2));
		if (isfinite(r->test.low)) {
			text_add(t, " [");
			tex_number(t, text_points(r->test.low, 2));
			text_add(t, ", ");
			tex_number(t, text_points(r->test.high, 2));
			text_add(t, "]");
		}
		text_add(t, " & ");
		tex_number(t, text_p(r->holm));
		text_add(t, " & ");
		if (isfinite(r->bootstrap.low)) {
			text_add(t, "[");
			tex_number(t, text_points(r->bootstrap.low, 2));
			text_add(t, ", ");
			tex_number(t, text_points(r->bootstrap.high, 2));
			text_add(t, "]");
		}
	}
	text_add(t, " & ");
	tex_number(t, text_fixed(r->cost, 2));
	text_add(t, " & ");
	tex_number(t, text_points(r->gap.mean, 1));
	text_add(t, " & ");
	tex_number(t, text_fixed(isfinite(r->ece.mean) ? r->ece.mean : r->calibration.ece, 3));
	text_add(t, " \\\\\n");
}

/* With a blank in front, where there are any. */
static void tex_sentences(struct text *t, const struct report_analysis *a,
			  void (*words)(struct text *t, const struct report_analysis *analysis, text_escape escape))
{
	const size_t before = t->out.size;

	text_add(t, " ");
	const size_t begun = t->out.size;
	words(t, a, text_tex);
	if (t->out.size == begun)
		t->out.size = before;
}

void report_tex(struct text *t, const struct report_analysis *a)
{
	const struct report_data *data = a->data;

	text_add(t, "% Needs \\usepackage{booktabs,textcomp,graphicx} and, for names beyond ASCII, a UTF-8 engine with a font that has them.\n"
		    "\\begin{table}\n\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}\n"
		    "% Made narrower only where it is wider than the line.\n"
		    "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n\\begin{tabular}{lrrrrrrr}\n\\toprule\n"
		    "Arm & Accuracy (\\%) & Difference [95\\%] & Holm $p$ & Bootstrap [95\\%] & Cost & Train $-$ val & ECE \\\\\n\\midrule\n");
	for (int i = 0; i < rows(a); i++)
		tex_row(t, a, arm_at(a, i));
	text_add(t, "\\bottomrule\n\\end{tabular}}\n\\caption{");
	text_tex(t, data->data);
	text_f(t, ", %d fold%s $\\times$ %d seed%s. Accuracy $\\pm$ 95\\%% $t$ interval over runs; difference to ", data->folds_planned,
	       plural((uint64_t)data->folds_planned), data->seeds, plural((uint64_t)data->seeds));
	text_tex(t, data->arm[data->baseline].name);
	text_f(t, " in points with the corrected resampled $t$ interval (test/train %s), Holm-adjusted over %d arm%s%s. Cost: time of a step over the "
		  "baseline's.",
	       text_fixed(a->ratio, 4).s, a->compared, plural((uint64_t)a->compared), data->ranks ? "" : ", and the picture-clustered bootstrap");
	tex_sentences(t, a, words_ranks);
	tex_sentences(t, a, words_differing);
	tex_sentences(t, a, words_incomplete);
	text_add(t, "}\n\\end{table}\n");
}

/* ---- CSV ---- */

static void csv_reals(struct text *t, const double *values, int count)
{
	for (int i = 0; i < count; i++) {
		text_add(t, ",");
		text_csv_real(t, values[i]);
	}
}

void report_csv(struct text *t, const struct report_analysis *a)
{
	text_add(t, "arm,reg,verdict,runs,missing,accuracy,accuracy_low,accuracy_high,difference,difference_low,difference_high,t,df,p,p_holm,"
		    "bootstrap_low,bootstrap_high,permutation_p,mcnemar_p,hedges_g,error_reduction,detectable,loss,train_accuracy,"
		    "train_minus_validation,ece,cost,train_seconds\n");
	for (int i = 0; i < rows(a); i++) {
		int arm = arm_at(a, i);
		const struct report_arm_result *r = &a->arm[arm];
		bool base = arm == a->data->baseline;

		text_csv(t, a->data->arm[arm].name);
		text_add(t, ",");
		text_csv(t, a->data->arm[arm].reg);
		text_f(t, ",%s,%d,%d", base ? "baseline" : words_verdict_name(r->verdict), r->runs,
		       a->data->folds_planned * a->data->seeds - r->runs - r->diverged);
		csv_reals(t, (double[]){ r->accuracy.mean, r->accuracy.low, r->accuracy.high }, 3);
		if (base)
			text_add(t, ",,,,,,,,,,,,,,");
		else
			csv_reals(t, (double[]){ r->test.mean, r->test.low, r->test.high, r->test.t, r->test.df, r->test.p, r->holm, r->bootstrap.low,
						 r->bootstrap.high, r->permutation.p, r->mcnemar.p, r->effect.g, r->error_reduction,
						 r->detectable }, 14);
		csv_reals(t, (double[]){ r->loss.mean, r->train_accuracy.mean, r->gap.mean, isfinite(r->ece.mean) ? r->ece.mean : r->calibration.ece,
					 r->cost, r->seconds }, 6);
		text_add(t, "\n");
	}
}

void report_runs_csv(struct text *t, const struct report_analysis *a)
{
	const struct report_data *data = a->data;

	text_add(t, "arm,fold,seed,accuracy,loss,ece,train_accuracy,train_loss,best_accuracy,train_seconds,cost,steps,pairs,digest,val_digest,init_digest,"
		    "pairs_digest\n");
	for (int i = 0; i < data->runs_planned; i++) {
		const struct report_run *run = data->runs[i];

		if (run == NULL)
			continue;
		text_csv(t, data->arm[run->arm].name);
		text_f(t, ",%lld,%lld", (long long)data->fold_name[run->fold], (long long)data->seed_name[run->seed]);
		csv_reals(t, (double[]){ run->accuracy, run->loss, run->ece, run->train_accuracy, run->train_loss, run->best_accuracy,
					 run->train_seconds, run->cost }, 8);
		text_add(t, ",");
		if (run->steps >= 0)
			text_f(t, "%lld", (long long)run->steps);
		text_add(t, ",");
		if (run->pair_count >= 0)
			text_f(t, "%lld", (long long)run->pair_count);
		text_add(t, ",");
		text_csv(t, run->digest);
		text_add(t, ",");
		text_csv(t, run->val_digest);
		text_add(t, ",");
		text_csv(t, run->init_digest);
		text_add(t, ",");
		text_csv(t, run->pairs_digest);
		text_add(t, "\n");
	}
}
