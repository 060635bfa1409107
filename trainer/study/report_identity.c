/* The proofs that arms of one fold and seed differ in nothing but the regularizer. */
#include <stdio.h>
#include <string.h>

#include "trainer/study/report_analysis.h"

enum identity { BATCHES, VALIDATION, WEIGHTS, PAIRS, PREDICTED };

static const struct {
	const char *key, *what;
} names[REPORT_IDENTITIES] = {
	[BATCHES] = { "digest", "training batches: the same samples in the same order" },
	[VALIDATION] = { "val_digest", "validation batches" },
	[WEIGHTS] = { "init_digest", "initial weights" },
	[PAIRS] = { "pairs_digest", "validation pairs, by their digest" },
	[PREDICTED] = { "predictions", "validation pairs, row by row in predictions.csv" },
};

static const char *text_of(const struct report_run *run, int which)
{
	switch (which) {
	case BATCHES:
		return run->digest;
	case VALIDATION:
		return run->val_digest;
	case WEIGHTS:
		return run->init_digest;
	case PAIRS:
		return run->pairs_digest;
	default:
		return run->other_pairs ? "other" : run->pairs != NULL ? "same" : NULL;
	}
}

static void check_cell(const struct report_data *data, int fold, int seed, int which, struct report_identity *out)
{
	const struct report_run *first = NULL;
	bool compared = false, differs = false;

	for (int a = 0; a < data->arms; a++) {
		const struct report_run *run = report_run_at(data, a, fold, seed);
		const char *text = run != NULL ? text_of(run, which) : NULL;

		if (text == NULL) {
			out->unrecorded += run != NULL;
			continue;
		}
		if (first == NULL) {
			first = run;
			continue;
		}
		/* A chain over fewer or more batches is another chain: early stopping, equal time. */
		if (which == BATCHES && run->steps != first->steps) {
			out->unequal_steps++;
			continue;
		}
		compared = true;
		if (strcmp(text, text_of(first, which)) == 0)
			continue;
		differs = true;
		if (out->example[0] == '\0')
			snprintf(out->example, sizeof(out->example), "fold %lld, seed %lld: %.90s and %.90s",
				 (long long)data->fold_name[fold], (long long)data->seed_name[seed], data->arm[first->arm].name,
				 data->arm[a].name);
	}
	out->cells += compared;
	out->different += differs;
}

void report_identity_check(struct report_analysis *analysis)
{
	for (int i = 0; i < REPORT_IDENTITIES; i++) {
		struct report_identity *out = &analysis->identity[i];

		out->key = names[i].key;
		out->what = names[i].what;
		out->inapplicable = analysis->data->ranks && (i == PAIRS || i == PREDICTED);
		if (out->inapplicable)
			continue;
		for (int f = 0; f < analysis->data->folds; f++)
			for (int s = 0; s < analysis->data->seeds; s++)
				check_cell(analysis->data, f, s, i, out);
	}
}
