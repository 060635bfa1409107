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

/* The first arm before this one that it can be held against; *any: whether there is one at all that recorded it. A chain over fewer or more
 * batches is another chain: early stopping, equal time. */
static const struct report_run *find_other(const struct report_data *data, const struct report_run *run, int which, bool *any)
{
	*any = false;
	for (int a = 0; a < run->arm; a++) {
		const struct report_run *other = report_run_at(data, a, run->fold, run->seed);

		if (other == NULL || text_of(other, which) == NULL)
			continue;
		*any = true;
		if (which != BATCHES || other->steps == run->steps)
			return other;
	}
	return NULL;
}

static void check_cell(const struct report_data *data, int fold, int seed, int which, struct report_identity *out)
{
	bool compared = false, differs = false;

	for (int a = 0; a < data->arms; a++) {
		const struct report_run *run = report_run_at(data, a, fold, seed);
		const char *text = run != NULL ? text_of(run, which) : NULL;
		bool any;

		if (text == NULL) {
			out->unrecorded += run != NULL;
			continue;
		}
		const struct report_run *other = find_other(data, run, which, &any);
		if (other == NULL) {
			out->unequal_steps += any;
			continue;
		}
		compared = true;
		if (strcmp(text, text_of(other, which)) == 0)
			continue;
		differs = true;
		if (out->example[0] == '\0')
			snprintf(out->example, sizeof(out->example), "fold %lld, seed %lld: %.90s and %.90s",
				 (long long)data->fold_name[fold], (long long)data->seed_name[seed], data->arm[other->arm].name,
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
