#include "trainer/study/report_words.h"

#include <math.h>
#include <string.h>

#include "shared/base/plural.h"

void text_plain(struct text *t, const char *s)
{
	if (s != NULL)
		text_add(t, s);
}

static const char *name_of(const struct report_analysis *a, int arm)
{
	return a->data->arm[arm].name;
}

static const char *baseline_name(const struct report_analysis *a)
{
	return name_of(a, a->data->baseline);
}

/* Through the format's escaping, for the signs in it. */
static void add_number(struct text *t, struct text_number n, text_escape escape)
{
	escape(t, n.s);
}

static void add_interval(struct text *t, double low, double high, text_escape escape)
{
	add_number(t, text_points(low, 2), escape);
	text_add(t, " to ");
	add_number(t, text_points(high, 2), escape);
}

static void add_p(struct text *t, double p, text_escape escape)
{
	struct text_number n = text_p(p);

	if (n.s[0] == '<') {
		escape(t, n.s);
	} else {
		text_add(t, "= ");
		escape(t, n.s);
	}
}

const char *words_verdict_name(enum report_verdict verdict)
{
	static const char *const names[] = {
		[VERDICT_BASELINE] = "baseline",   [VERDICT_BETTER] = "better",       [VERDICT_WORSE] = "worse",
		[VERDICT_UNCLEAR] = "not distinguishable", [VERDICT_IDENTICAL] = "identical", [VERDICT_NONE] = "no verdict",
	};

	return names[verdict];
}

static int count_of(const struct report_analysis *a, enum report_verdict verdict)
{
	int n = 0;

	for (int i = 0; i < a->order_count; i++)
		n += a->arm[a->order[i]].verdict == verdict;
	return n;
}

void words_headline(struct text *t, const struct report_analysis *a, text_escape escape)
{
	static const enum report_verdict kinds[] = { VERDICT_BETTER, VERDICT_WORSE, VERDICT_UNCLEAR, VERDICT_IDENTICAL, VERDICT_NONE };
	const bool one_run = a->data->folds_planned * a->data->seeds == 1;
	bool first = true;

	if (a->order_count == 0) {
		text_add(t, "This study has one arm: there is nothing to compare it with.");
		return;
	}
	for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
		int n = count_of(a, kinds[k]);

		if (n == 0)
			continue;
		if (first)
			text_f(t, "%d of %d arm%s ", n, a->order_count, plural((uint64_t)a->order_count));
		else
			text_f(t, ", %d ", n);
		switch (kinds[k]) {
		case VERDICT_BETTER:
		case VERDICT_WORSE:
			text_f(t, "%s %s than ", n == 1 ? "is" : "are", words_verdict_name(kinds[k]));
			break;
		case VERDICT_UNCLEAR:
			text_add(t, "cannot be told apart from ");
			break;
		case VERDICT_IDENTICAL:
			text_f(t, "%s exactly as good as ", n == 1 ? "is" : "are");
			break;
		default:
			text_f(t, "%s no verdict%s against ", n == 1 ? "has" : "have", a->complete || one_run ? "" : " yet");
		}
		escape(t, baseline_name(a));
		first = false;
	}
	text_add(t, one_run ? ": one run an arm allows none." : ".");
}

static void add_effect(struct text *t, const struct report_factorial *f, int e, text_escape escape)
{
	const struct stats_paired *test = &f->effect[e].test;

	add_number(t, text_points(test->mean, 2), escape);
	text_add(t, " points");
	if (!isfinite(test->low))
		return;
	text_f(t, " (95%s interval ", escape == text_tex ? "\\%" : "%");
	add_interval(t, test->low, test->high, escape);
	text_add(t, "; Holm p ");
	add_p(t, f->holm[e], escape);
	text_add(t, ")");
}

static bool is_main_effect(unsigned factors)
{
	return (factors & (factors - 1)) == 0;
}

static int effect_of(const struct report_factorial *f, int factor)
{
	for (int e = 0; e < f->count; e++)
		if (f->effect[e].factors == 1u << factor)
			return e;
	return -1;
}

/* False: no cell of fold and seed has them all. */
static bool add_main_effects(struct text *t, const struct report_factorial *f, text_escape escape)
{
	bool any = false;

	for (int i = 0; i < f->factors; i++) {
		int e = effect_of(f, i);

		if (e < 0 || !isfinite(f->effect[e].test.mean))
			continue;
		text_add(t, any ? ", " : ": ");
		escape(t, f->names[i]);
		text_add(t, " adds ");
		add_effect(t, f, e, escape);
		any = true;
	}
	return any;
}

/* Main effects take their evidence from all runs of the factorial, so that they may be clear where no single arm is. */
void words_factors(struct text *t, const struct report_analysis *a, text_escape escape)
{
	const struct report_factorial *f = &a->factorial;
	int interactions = 0, tested = 0;

	if (f->factors == 0)
		return;
	text_f(t, "Over all %d combinations of ", 1 << f->factors);
	for (int i = 0; i < f->factors; i++) {
		text_add(t, i == 0 ? "" : i == f->factors - 1 ? " and " : ", ");
		escape(t, f->names[i]);
	}
	if (!add_main_effects(t, f, escape)) {
		text_f(t, " no effect can be said%s: no fold and seed has a result of each.", a->complete ? "" : " yet");
		return;
	}
	for (int e = 0; e < f->count; e++) {
		if (is_main_effect(f->effect[e].factors) || !isfinite(f->holm[e]))
			continue;
		tested++;
		interactions += f->holm[e] <= REPORT_ALPHA;
	}
	if (tested == 0)
		text_f(t, ", from %d run%s of each: too few for intervals and tests.", f->runs, plural((uint64_t)f->runs));
	else
		text_add(t, interactions == 0 ? "; no interaction is seen." : "; what they add depends on each other (see the interactions).");
}

static void add_seen(struct text *t, double detectable, text_escape escape)
{
	if (!isfinite(detectable))
		return;
	text_add(t, "; with its spread a difference of ");
	add_number(t, text_percent(detectable, 1), escape);
	text_f(t, " points would have been found with %.0f%s probability", 100 * REPORT_POWER, escape == text_tex ? "\\%" : "%");
}

void words_verdict(struct text *t, const struct report_analysis *a, int arm, text_escape escape)
{
	const struct report_arm_result *r = &a->arm[arm];
	const char *percent = escape == text_tex ? "\\%" : "%";

	switch (r->verdict) {
	case VERDICT_BASELINE:
		text_add(t, "is what the others are compared with");
		return;
	case VERDICT_BETTER:
	case VERDICT_WORSE:
		text_f(t, "is %s than ", words_verdict_name(r->verdict));
		escape(t, baseline_name(a));
		text_add(t, " by ");
		add_number(t, text_percent(fabs(r->test.mean), 2), escape);
		text_f(t, " points (95%s interval ", percent);
		add_interval(t, r->test.low, r->test.high, escape);
		text_add(t, "; Holm p ");
		add_p(t, r->holm, escape);
		text_add(t, ")");
		return;
	case VERDICT_UNCLEAR:
		text_add(t, "is not distinguishable from ");
		escape(t, baseline_name(a));
		text_add(t, ": ");
		add_number(t, text_points(r->test.mean, 2), escape);
		text_f(t, " points (95%s interval ", percent);
		add_interval(t, r->test.low, r->test.high, escape);
		text_add(t, "; Holm p ");
		add_p(t, r->holm, escape);
		text_add(t, ")");
		add_seen(t, r->detectable, escape);
		return;
	case VERDICT_IDENTICAL:
		text_add(t, "has exactly the accuracy of ");
		escape(t, baseline_name(a));
		text_f(t, " in each of %d run%s (is the regularizer on at all?)", r->pairs_of_runs, plural((uint64_t)r->pairs_of_runs));
		return;
	case VERDICT_NONE:
		text_add(t, "has no verdict: ");
		text_add(t, r->why != NULL ? r->why : "?");
		if (isfinite(r->test.mean)) {
			text_add(t, a->complete ? " (difference " : " (difference so far ");
			add_number(t, text_points(r->test.mean, 2), escape);
			text_f(t, " points in %d run%s)", r->pairs_of_runs, plural((uint64_t)r->pairs_of_runs));
		}
		return;
	}
}

/* Does another test see a difference where the primary one does not, or the other way around? */
void words_second_view(struct text *t, const struct report_analysis *a, int arm, text_escape escape)
{
	const struct report_arm_result *r = &a->arm[arm];
	bool found = r->verdict == VERDICT_BETTER || r->verdict == VERDICT_WORSE;

	if (r->verdict != VERDICT_UNCLEAR && !found)
		return;
	if (r->bootstrap.status == STATS_OK) {
		bool boot = r->bootstrap.low > 0 || r->bootstrap.high < 0;

		if (boot != found) {
			text_add(t, found ? "Other pictures alone could undo it: the bootstrap over pictures gives " :
					    "For these very models on other pictures the bootstrap does see a difference: ");
			add_interval(t, r->bootstrap.low, r->bootstrap.high, escape);
			text_add(t, ". ");
		}
	}
	if (found && r->by_fold.status == STATS_OK && r->by_fold.n > 1 && !(r->holm_by_fold <= REPORT_ALPHA)) {
		text_f(t, "With one value a fold (seeds averaged, df = %d), the strictest reading, Holm p ", r->by_fold.n - 1);
		add_p(t, r->holm_by_fold, escape);
		text_add(t, ". ");
	}
	if (r->verdict == VERDICT_UNCLEAR && (r->test.low > 0 || r->test.high < 0))
		text_f(t, "Its own interval excludes zero, but that of one among %d comparisons does so by chance too often. ", a->compared);
}

void words_incomplete(struct text *t, const struct report_analysis *a, text_escape escape)
{
	const struct report_data *data = a->data;
	bool first = true;
	int failed = 0;

	for (int i = 0; i < data->arms; i++)
		failed += a->arm[i].failed;
	if (data->run_count + a->diverged < data->runs_planned) {
		text_f(t, "This study is not complete: %d of %d runs have finished", data->run_count, data->runs_planned);
		for (int i = 0; i < data->arms; i++) {
			int missing = data->folds_planned * data->seeds - a->arm[i].runs - a->arm[i].diverged;

			if (missing == 0)
				continue;
			text_add(t, first ? " (missing: " : ", ");
			escape(t, name_of(a, i));
			text_f(t, " %d", missing);
			first = false;
		}
		text_add(t, first ? ". " : "). ");
		text_add(t, "Verdicts use the folds and seeds where both arms have finished, and are corrected for all arms of the study. ");
	}
	for (int i = 0; i < data->arms; i++) {
		if (a->arm[i].diverged == 0)
			continue;
		text_f(t, "%d run%s of ", a->arm[i].diverged, plural(a->arm[i].diverged));
		escape(t, name_of(a, i));
		text_add(t, " diverged and left no result");
		text_add(t, a->arm[i].runs > 0 ? "; its figures are of the others. " : ". ");
	}
	if (data->damaged > 0)
		text_f(t, "%d run%s a damaged result.json and %s left out; the study, started again, makes %s again. ", data->damaged,
		       data->damaged == 1 ? " has" : "s have", data->damaged == 1 ? "is" : "are", data->damaged == 1 ? "it" : "them");
	if (data->unpredicted > 0)
		text_f(t, "%d of %d finished runs %s no predictions.csv: bootstrap, permutation test, McNemar and calibration are of the others. ",
		       data->unpredicted, data->run_count, data->unpredicted == 1 ? "has" : "have");
	if (failed > 0)
		text_f(t, "%d run%s ended without a finite accuracy and %s left out of the comparisons. ", failed, plural(failed),
		       failed == 1 ? "is" : "are");
}

void words_ranks(struct text *t, const struct report_analysis *a, text_escape escape)
{
	if (a->data->ranks)
		escape(t, "Bootstrap, permutation test, McNemar and calibration (ECE) do not apply: a contrast model ranks and decides nothing about "
			  "single pairs. ");
}

/* An arm that knows its training pairs has learned, though nothing that holds for other pictures. */
void words_plateau(struct text *t, const struct report_analysis *a, text_escape escape)
{
	bool any = false;

	for (int i = 0; a->data->match && i < a->data->arms; i++) {
		const struct report_arm_result *arm = &a->arm[i];

		if (!(arm->accuracy.mean < REPORT_CHANCE_BELOW) || arm->train_accuracy.mean >= REPORT_LEARNED_FROM)
			continue;
		text_add(t, any ? ", " : "At chance or near it (50");
		text_add(t, any ? "" : escape == text_tex ? "\\%): " : "%): ");
		escape(t, name_of(a, i));
		any = true;
	}
	if (any)
		text_add(t, ". These models have hardly begun to learn: what is compared is who has left the plateau, which says nothing about "
			    "regularization. Start all arms from trained encoders (--init), or train longer. ");
}

bool words_has_dashes(const struct report_analysis *a)
{
	for (int i = 0; i < a->order_count; i++) {
		const struct report_arm_result *r = &a->arm[a->order[i]];

		if (r->test.status == STATS_OK && (!isfinite(r->effect.g) || !isfinite(r->detectable)))
			return true;
	}
	return false;
}

/* Why nothing can be said: no spread, or one that so few runs say too little of. */
static void add_no_power(struct text *t, const struct report_analysis *a)
{
	const struct report_power *p = &a->power;
	const int folds = a->data->folds_planned, seeds = a->data->seeds;

	if (isfinite(p->sd))
		text_f(t, "With %d runs an arm (%d fold%s, %d seed%s) the spread between runs is known too roughly (%d degree%s of freedom) to say "
			  "which difference would be found with %.0f%% probability: that takes more seeds or folds.",
		       p->runs, folds, plural((uint64_t)folds), seeds, plural((uint64_t)seeds), p->runs - 1, plural((uint64_t)p->runs - 1),
		       100 * REPORT_POWER);
	else if (p->runs < 2)
		text_add(t, "What this study could see cannot be said: one run an arm has no spread, which takes two folds or seeds at least.");
	else if (!a->complete)
		text_add(t, "What this study could see cannot be said yet: it takes the spread of differences over two runs of an arm at least.");
	else
		text_add(t, "What this study could see cannot be said: no arm has a spread of differences to the baseline.");
}

void words_power(struct text *t, const struct report_analysis *a, text_escape escape)
{
	const struct report_power *p = &a->power;
	const char *percent = escape == text_tex ? "\\%" : "%";

	if (!isfinite(p->detectable)) {
		add_no_power(t, a);
		return;
	}
	text_f(t, "With %d runs an arm (%d fold%s, %d seed%s) and a spread of ", p->runs, a->data->folds_planned,
	       plural((uint64_t)a->data->folds_planned), a->data->seeds, plural((uint64_t)a->data->seeds));
	add_number(t, text_percent(p->sd, 2), escape);
	text_f(t, " points between runs, a true difference of ");
	add_number(t, text_percent(p->detectable, 2), escape);
	text_f(t, " points is found with %.0f%s probability (at %.2g, which is 0.05 over %d comparison%s; alone at 0.05 it would be ",
	       100 * REPORT_POWER, percent, p->alpha, p->family, plural((uint64_t)p->family));
	add_number(t, text_percent(p->detectable_single, 2), escape);
	text_add(t, "). ");
	if (a->data->folds_planned > 1) {
		text_f(t, a->data->recut ? "More seeds, each with %d folds of its own, can bring that down to " :
					   "More seeds on the same %d folds can bring that down to ", a->data->folds_planned);
		add_number(t, text_percent(p->floor, 2), escape);
		/* Two halves have no picture in common; other halves have. */
		text_add(t, a->data->folds_planned > 2 || a->data->recut ? " points and no further: the folds share their training pictures. " :
									    " points and no further. ");
	}
	text_add(t, "Smaller differences may be there; this study would not have shown them.");
}

void words_identity(struct text *t, const struct report_identity *i, text_escape escape)
{
	if (i->inapplicable)
		text_add(t, "does not apply: a contrast model ranks and decides nothing");
	else if (i->cells == 0 && i->unequal_steps == 0)
		text_add(t, "not recorded");
	else if (i->different == 0 && i->cells == 1)
		text_add(t, "identical over the arms in the one fold and seed");
	else if (i->different == 0 && i->cells > 0)
		text_f(t, "identical over the arms%s in all %d folds x seeds", i->unrecorded > 0 ? " that recorded it" : "", i->cells);
	else if (i->different > 0) {
		text_f(t, "DIFFERENT in %d of %d folds x seeds, first ", i->different, i->cells);
		escape(t, i->example);
	}
	if (i->unrecorded > 0 && (i->cells > 0 || i->unequal_steps > 0))
		text_f(t, "%s%d run%s it and %s not compared", i->cells > 0 ? "; " : "", i->unrecorded,
		       i->unrecorded == 1 ? " did not record" : "s did not record", i->unrecorded == 1 ? "is" : "are");
	if (i->unequal_steps > 0)
		text_f(t, "%s%d run%s took another number of steps and %s not comparable", i->cells > 0 || i->unrecorded > 0 ? "; " : "", i->unequal_steps,
		       plural(i->unequal_steps), i->unequal_steps == 1 ? "is" : "are");
}

bool words_identities_hold(const struct report_analysis *a)
{
	for (int i = 0; i < REPORT_IDENTITIES; i++)
		if (a->identity[i].different > 0)
			return false;
	return true;
}

void words_differing(struct text *t, const struct report_analysis *a, text_escape escape)
{
	const char *before = "Arms differ in more than the regularizer: ";

	for (int i = 0; i < REPORT_IDENTITIES; i++) {
		if (a->identity[i].different == 0)
			continue;
		text_add(t, before);
		escape(t, a->identity[i].what);
		text_add(t, ": ");
		words_identity(t, &a->identity[i], escape);
		before = "; ";
	}
	text_add(t, words_identities_hold(a) ? "" : ". ");
}
