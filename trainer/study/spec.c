#include "trainer/study/spec.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/args.h"
#include "shared/order/fold.h"

static const char *const designs[] = { "listed", "factorial", "add-one", "leave-one-out" };
static const char *const equals[] = { "epochs", "time" };
static const char *const keeps[] = { "none", "last", "best", "all" };

void study_spec_init(struct study_spec *spec)
{
	memset(spec, 0, sizeof(*spec));
	spec->folds = -1;
	spec->fold_seed = 0;
	spec->jobs = -1;
	spec->threads = -1;
	spec->robust.pairs = spec->robust.steps = spec->robust.restarts = -1;
}

static int parse_name(const char *option, const char *name, const char *const *names, int count, int *out, struct err *err)
{
	char list[200] = "";
	size_t used = 0;

	for (int i = 0; i < count; i++) {
		if (strcmp(names[i], name) == 0) {
			*out = i;
			return 0;
		}
		used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", i == 0 ? "" : i == count - 1 ? " or " : ", ", names[i]);
	}
	return err_set(err, ERR_USAGE, "%s: '%.60s' is not known; choose %s", option, name, list);
}

int study_design_parse(enum study_design *out, const char *name, struct err *err)
{
	int i = 0, code = parse_name("design", name, designs, ARRAY_LEN(designs), &i, err);

	*out = (enum study_design)i;
	return code;
}

int study_equal_parse(enum study_equal *out, const char *name, struct err *err)
{
	int i = 0, code = parse_name("equal", name, equals, ARRAY_LEN(equals), &i, err);

	*out = (enum study_equal)i;
	return code;
}

int study_keep_parse(enum study_keep *out, const char *name, struct err *err)
{
	int i = 0, code = parse_name("keep", name, keeps, ARRAY_LEN(keeps), &i, err);

	*out = (enum study_keep)i;
	return code;
}

const char *study_design_name(enum study_design design)
{
	return designs[design];
}

const char *study_equal_name(enum study_equal equal)
{
	return equals[equal];
}

const char *study_keep_name(enum study_keep keep)
{
	return keeps[keep];
}

int study_options_set(struct study_options *options, const char *name, const char *value, struct err *err)
{
	int i = 0;

	while (i < options->count && strcmp(options->all[i].name, name) != 0)
		i++;
	if (i == STUDY_OPTIONS_MAX || strlen(name) >= STUDY_OPTION_BYTES || strlen(value) >= STUDY_VALUE_BYTES)
		return err_set(err, ERR_USAGE, "the option %.40s: too many options, or too long a value", name);
	if (i == options->count)
		options->count++;
	snprintf(options->all[i].name, STUDY_OPTION_BYTES, "%s", name);
	snprintf(options->all[i].value, STUDY_VALUE_BYTES, "%s", value);
	return 0;
}

const char *study_options_get(const struct study_options *options, const char *name)
{
	for (int i = 0; i < options->count; i++)
		if (strcmp(options->all[i].name, name) == 0)
			return options->all[i].value;
	return NULL;
}

void study_options_drop(struct study_options *options, const char *name)
{
	int kept = 0;

	for (int i = 0; i < options->count; i++)
		if (strcmp(options->all[i].name, name) != 0)
			options->all[kept++] = options->all[i];
	options->count = kept;
}

int study_spec_seeds(struct study_spec *spec, const char *text, struct err *err)
{
	const char *at = text;
	int64_t count;

	if (strchr(text, ',') == NULL) {
		if (args_parse_int(text, 1, STUDY_SEEDS_MAX, &count, NULL) != 0)
			return err_set(err, ERR_USAGE, "--seeds %.40s: a number of seeds from 1 to %d, or a list of them as 4,7,11", text,
				       STUDY_SEEDS_MAX);
		for (spec->seed_count = 0; spec->seed_count < count; spec->seed_count++)
			spec->seeds[spec->seed_count] = spec->seed_count;
		return 0;
	}
	for (spec->seed_count = 0;; at++) {
		size_t bytes = strcspn(at, ",");
		char one[32];

		snprintf(one, sizeof(one), "%.*s", (int)(bytes < 31 ? bytes : 31), at);
		if (spec->seed_count == STUDY_SEEDS_MAX ||
		    args_parse_int(one, 0, INT64_MAX, &spec->seeds[spec->seed_count++], NULL) != 0)
			return err_set(err, ERR_USAGE, "--seeds %.40s: '%.31s' is no seed (whole numbers from 0 on, at most %d of them)", text,
				       one, STUDY_SEEDS_MAX);
		at += bytes;
		if (*at == '\0')
			return 0;
	}
}

int study_fold_seed_parse(struct study_spec *spec, const char *text, struct err *err)
{
	spec->recut = strcmp(text, "each") == 0;
	spec->fold_seed = 0;
	if (!spec->recut && args_parse_int(text, 0, INT64_MAX, &spec->fold_seed, NULL) != 0)
		return err_set(err, ERR_USAGE, "--fold-seed %.40s: a whole number from 0 on, or each, where every seed cuts the folds anew", text);
	return 0;
}

static int check_arm(const struct study_spec *spec, int index, struct err *err)
{
	const struct study_arm *arm = &spec->arms[index];
	char name[STUDY_NAME_BYTES];
	struct reg_spec reg;
	int code;

	study_arm_name(arm->name, name);
	if (strcmp(name, arm->name) != 0 || arm->name[0] == '\0' || arm->name[0] == '.')
		return err_set(err, ERR_USAGE, "the arm '%s' cannot be a folder's name; name it otherwise", arm->name);
	if ((code = reg_spec_parse(&reg, arm->reg, err)) != 0)
		return err_prefix(err, "arm %s", arm->name);
	for (int i = 0; i < index; i++)
		if (strcmp(spec->arms[i].name, arm->name) == 0)
			return err_set(err, ERR_USAGE, "two arms are called %s; give one another name (in a file: {\"name\": ..., \"reg\": ...})",
				       arm->name);
	return 0;
}

static int check_options(const struct study_options *options, const char *whose, struct err *err)
{
	static const struct {
		const char *name, *instead;
	} own[] = {
		{ "data", "data of the study" }, { "reg", "arms" }, { "seed", "seeds" }, { "train-split", "split and folds" },
		{ "val-split", "split and folds" }, { "threads", "threads of the study" },
	};

	for (int i = 0; i < options->count; i++)
		for (size_t k = 0; k < ARRAY_LEN(own); k++)
			if (strcmp(options->all[i].name, own[k].name) == 0)
				return err_set(err, ERR_USAGE, "%s: the option %s is the study's own; say it with %s", whose, own[k].name, own[k].instead);
	return 0;
}

/* A fold can be cut into folds again: to choose something on the training part of another study. */
static int check_split(const struct study_spec *spec, struct err *err)
{
	struct fold_chain folds;
	size_t base_bytes;
	int code = fold_parse(spec->split, &folds, &base_bytes, err);

	if (code == 0 && spec->folds > 1 && folds.count == FOLD_DEPTH_MAX)
		return err_set(err, ERR_USAGE, "the split %s is cut %d times already, and a study cuts it once more; name what it is a part "
			       "of", spec->split, FOLD_DEPTH_MAX);
	return code;
}

static int check_baseline(struct study_spec *spec, struct err *err)
{
	int found = -1;

	for (int i = 0; i < spec->arm_count; i++)
		if (strcmp(spec->arms[i].name, spec->baseline[0] != '\0' ? spec->baseline : "none") == 0)
			found = i;
	if (found < 0 && spec->baseline[0] != '\0')
		return err_set(err, ERR_USAGE, "the baseline %s is none of the arms", spec->baseline);
	snprintf(spec->baseline, sizeof(spec->baseline), "%s", spec->arms[found < 0 ? 0 : found].name);
	return 0;
}

static void fill_in(struct study_spec *spec)
{
	if (spec->name[0] == '\0')
		snprintf(spec->name, sizeof(spec->name), "%s", spec->data);
	if (spec->folds < 0)
		spec->folds = 5;
	spec->split_default = spec->split[0] == '\0';
	if (spec->split_default)
		snprintf(spec->split, sizeof(spec->split), "train+val");
	/* Older versions wrote the first for the second. */
	if (spec->folds == 1 && strcmp(spec->split, "train+val") == 0)
		snprintf(spec->split, sizeof(spec->split), STUDY_OWN_SPLITS);
	if (spec->seed_count == 0) {
		spec->seed_count = 1;
		spec->seeds[0] = 0;
	}
	if (spec->robust.pairs < 0)
		spec->robust.pairs = 200;
	if (spec->robust.steps < 0)
		spec->robust.steps = 10;
	if (spec->robust.restarts < 0)
		spec->robust.restarts = 2;
}

int study_spec_resolve(struct study_spec *spec, struct err *err)
{
	int code;

	if (spec->data[0] == '\0')
		return err_set(err, ERR_USAGE, "a study needs --data NAME (in its file \"data\"); prepctl datasets lists what there is");
	if (spec->arm_count == 0)
		return err_set(err, ERR_USAGE, "a study needs arms, such as --arms none,dropout,l2,adv (in its file \"arms\")");
	fill_in(spec);
	if ((code = study_arms_expand(spec, err)) != 0 || (code = check_options(&spec->common, "options", err)) != 0)
		return code;
	if (spec->arm_count < 2)
		return err_set(err, ERR_USAGE, "a study compares at least two arms; add none, or another one");
	for (int i = 0; i < spec->arm_count; i++)
		if ((code = check_arm(spec, i, err)) != 0 || (code = check_options(&spec->arms[i].options, spec->arms[i].name, err)) != 0)
			return code;
	for (int i = 0; i < spec->seed_count; i++)
		for (int k = 0; k < i; k++)
			if (spec->seeds[i] == spec->seeds[k])
				return err_set(err, ERR_USAGE, "the seed %" PRId64 " is named twice", spec->seeds[i]);
	if (spec->recut && spec->folds == 1)
		return err_set(err, ERR_USAGE, "--fold-seed each: with --folds 1 there are no folds to cut");
	if ((code = check_split(spec, err)) != 0)
		return code;
	return check_baseline(spec, err);
}

void study_split(const struct study_spec *spec, int fold, int seed, bool training, char out[STUDY_SPLIT_BYTES])
{
	const int64_t cut = spec->recut ? spec->seeds[seed] : spec->fold_seed;
	char suffix[40] = "";

	if (spec->folds == 1) {
		snprintf(out, STUDY_SPLIT_BYTES, "%s", training ? "train" : "val");
		return;
	}
	if (cut != 0)
		snprintf(suffix, sizeof(suffix), ",seed=%" PRId64, cut);
	snprintf(out, STUDY_SPLIT_BYTES, "%s~%s=%d/%d%s", spec->split, training ? "rest" : "fold", fold, spec->folds, suffix);
}

bool study_ranks(const struct study_spec *spec)
{
	const char *task = study_options_get(&spec->common, "task");

	return task != NULL && strcmp(task, "contrast") == 0;
}
