/* Whether the arms of a study differ in their regularizer alone, by what their runs wrote down. */
#include <stdio.h>
#include <string.h>

#include "trainer/study/result.h"

struct first {
	bool any;
	struct study_cell cell;
	struct study_result result;
};

static int note(const struct study_spec *spec, const struct first *first, const struct study_cell *cell, const char *what, int *mismatches,
		struct buf *report, struct err *err)
{
	(*mismatches)++;
	return buf_printf(report, err, "fold %d, seed %lld: %s and %s %s\n", cell->fold, (long long)spec->seeds[cell->seed],
			  spec->arms[first->cell.arm].name, spec->arms[cell->arm].name, what);
}

/* Runs of different length are compared up to the end of the shorter one. */
static int same_batches(const struct study_spec *spec, const char *dir, const struct first *first, const struct study_cell *cell,
			const struct study_result *result, bool *same, struct err *err)
{
	const char *shorter = result->digest;
	char path[RESULT_PATH_BYTES], digest[HASH_HEX_BYTES];
	int code;

	if (result->steps == first->result.steps) {
		*same = strcmp(result->digest, first->result.digest) == 0;
		return 0;
	}
	if (result->steps < first->result.steps) {
		study_run_path(spec, dir, &first->cell, "metrics.jsonl", path);
		code = study_digest_at(path, result->steps, digest, err);
	} else {
		shorter = first->result.digest;
		study_run_path(spec, dir, cell, "metrics.jsonl", path);
		code = study_digest_at(path, first->result.steps, digest, err);
	}
	*same = code == 0 && strcmp(digest, shorter) == 0;
	return code;
}

static int compare(const struct study_spec *spec, const char *dir, const struct first *first, const struct study_cell *cell,
		   const struct study_result *result, int *mismatches, struct buf *report, struct err *err)
{
	bool same;
	int code = same_batches(spec, dir, first, cell, result, &same, err);

	if (code == 0 && !same)
		code = note(spec, first, cell, "were trained on different batches", mismatches, report, err);
	if (code == 0 && strcmp(first->result.init_digest, result->init_digest) != 0)
		code = note(spec, first, cell, "began with different weights", mismatches, report, err);
	if (code == 0 && (strcmp(first->result.val_digest, result->val_digest) != 0 ||
			  strcmp(first->result.pairs_digest, result->pairs_digest) != 0))
		code = note(spec, first, cell, "were measured on different pairs", mismatches, report, err);
	return code;
}

int study_check_same(const struct study_spec *spec, const char *dir, int *cells, int *mismatches, struct buf *report, struct err *err)
{
	*cells = *mismatches = 0;
	for (int seed = 0; seed < spec->seed_count; seed++)
		for (int fold = 1; fold <= spec->folds; fold++) {
			struct first first = { .any = false };

			for (int arm = 0; arm < spec->arm_count; arm++) {
				struct study_cell cell = { arm, fold, seed };
				struct study_result result;
				int code = study_result_read(spec, dir, &cell, &result, err);

				if (code == ERR_NOTFOUND)
					continue;
				if (code == 0 && first.any) {
					code = compare(spec, dir, &first, &cell, &result, mismatches, report, err);
					(*cells)++;
				}
				if (code != 0)
					return code;
				if (!first.any)
					first = (struct first){ true, cell, result };
			}
		}
	return 0;
}
