/* Whether the study that a folder holds is the one that is wanted now. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "trainer/study/spec.h"

static int differs(const char *dir, const char *what, const char *there, const char *now, struct err *err)
{
	return err_set(err, ERR_MISMATCH, "the study in %.300s has %s %.200s, now it is %.200s; leave it as it was, or choose another --out", dir,
		       what, there, now);
}

static int same_text(const char *dir, const char *what, const char *there, const char *now, struct err *err)
{
	return strcmp(there, now) == 0 ? 0 : differs(dir, what, there[0] == '\0' ? "(none)" : there, now[0] == '\0' ? "(none)" : now, err);
}

static int same_number(const char *dir, const char *what, int64_t there, int64_t now, struct err *err)
{
	char a[32], b[32];

	snprintf(a, sizeof(a), "%" PRId64, there);
	snprintf(b, sizeof(b), "%" PRId64, now);
	return same_text(dir, what, a, b, err);
}

static int same_options(const char *dir, const char *whose, const struct study_options *there, const struct study_options *now,
			struct err *err)
{
	for (int side = 0; side < 2; side++) {
		const struct study_options *from = side == 0 ? now : there;

		for (int i = 0; i < from->count; i++) {
			const char *name = from->all[i].name, *a = study_options_get(there, name), *b = study_options_get(now, name);
			char what[STUDY_NAME_BYTES + STUDY_OPTION_BYTES + 16];

			snprintf(what, sizeof(what), "%s%s--%s", whose, whose[0] == '\0' ? "" : ": ", name);
			if (a == NULL || b == NULL || strcmp(a, b) != 0)
				return differs(dir, what, a == NULL ? "(not given)" : a, b == NULL ? "(not given)" : b, err);
		}
	}
	return 0;
}

static const char *fold_seed_text(const struct study_spec *spec, char out[32])
{
	snprintf(out, 32, spec->recut ? "each" : "%" PRId64, spec->fold_seed);
	return out;
}

int study_spec_same(const struct study_spec *there, const struct study_spec *now, const char *dir, struct err *err)
{
	char cuts[2][32];
	int code;

	if ((code = same_text(dir, "data", there->data, now->data, err)) != 0 ||
	    (code = same_text(dir, "split", there->split, now->split, err)) != 0 ||
	    (code = same_number(dir, "folds", there->folds, now->folds, err)) != 0 ||
	    (code = same_text(dir, "fold_seed", fold_seed_text(there, cuts[0]), fold_seed_text(now, cuts[1]), err)) != 0 ||
	    (code = same_text(dir, "design", study_design_name(there->design), study_design_name(now->design), err)) != 0 ||
	    (code = same_text(dir, "baseline", there->baseline, now->baseline, err)) != 0 ||
	    (code = same_text(dir, "equal", study_equal_name(there->equal), study_equal_name(now->equal), err)) != 0 ||
	    (code = same_number(dir, "seeds, in number", there->seed_count, now->seed_count, err)) != 0 ||
	    (code = same_number(dir, "arms, in number", there->arm_count, now->arm_count, err)) != 0 ||
	    (now->threads > 0 && (code = same_number(dir, "--threads", there->threads, now->threads, err)) != 0) ||
	    (code = same_options(dir, "", &there->common, &now->common, err)) != 0)
		return code;
	for (int i = 0; i < now->seed_count; i++)
		if ((code = same_number(dir, "the seed", there->seeds[i], now->seeds[i], err)) != 0)
			return code;
	for (int i = 0; i < now->arm_count; i++)
		if ((code = same_text(dir, "an arm", there->arms[i].name, now->arms[i].name, err)) != 0 ||
		    (code = same_text(dir, "the regularizer", there->arms[i].reg, now->arms[i].reg, err)) != 0 ||
		    (code = same_options(dir, now->arms[i].name, &there->arms[i].options, &now->arms[i].options, err)) != 0)
			return code;
	return same_text(dir, "the weights of --init", there->init_hash, now->init_hash, err);
}
