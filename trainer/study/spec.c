#include "trainer/study/spec.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/args.h"
#include "shared/base/fs.h"
#include "shared/order/fold.h"

#define FILE_BYTES_MAX ((size_t)4 << 20)

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

/* ---- reading ---- */

enum { KEYS_MAX = 32, KEY_BYTES = 48 };

/* Of an object. There are fewer that are known, and any other is an error. */
struct keys {
	char all[KEYS_MAX][KEY_BYTES];
	int count;
};

static int stands_twice(struct json_reader *r, const char *key, struct err *err)
{
	return json_fail(r, err, "\"%s\" stands there twice; of two values one would be passed over", key);
}

/* The key that was just read. Comments may repeat. */
static int take_key(struct json_reader *r, struct keys *seen, char out[KEY_BYTES], struct err *err)
{
	snprintf(out, KEY_BYTES, "%s", r->text.data);
	for (int i = 0; i < seen->count; i++)
		if (strcmp(seen->all[i], out) == 0)
			return stands_twice(r, out, err);
	if (out[0] != '#' && seen->count < KEYS_MAX)
		memcpy(seen->all[seen->count++], out, KEY_BYTES);
	return 0;
}

static int read_text(struct json_reader *r, char *out, size_t bytes, struct err *err)
{
	int code = json_expect(r, JSON_STRING, err);

	if (code == 0 && (r->text.size >= bytes || strlen(r->text.data == NULL ? "" : r->text.data) != r->text.size))
		return json_fail(r, err, "this text is longer than %zu bytes, or has a zero byte in it", bytes - 1);
	if (code == 0)
		snprintf(out, bytes, "%s", r->text.data == NULL ? "" : r->text.data);
	return code;
}

static int read_int(struct json_reader *r, int64_t low, int64_t high, int64_t *out, struct err *err)
{
	int code = json_expect(r, JSON_NUMBER, err);

	if (code == 0 && (code = json_int(r, out, err)) == 0 && (*out < low || *out > high))
		return json_fail(r, err, "this number must be %" PRId64 " to %" PRId64, low, high);
	return code;
}

static int read_options(struct json_reader *r, struct study_options *out, struct err *err)
{
	int code = json_expect(r, JSON_OBJECT_BEGIN, err);
	char name[STUDY_OPTION_BYTES];

	while (code == 0) {
		if ((code = json_next(r, err)) != 0 || r->kind == JSON_OBJECT_END)
			break;
		if (r->text.size > 0 && r->text.data[0] == '#') {
			code = json_skip(r, err);
			continue;
		}
		snprintf(name, sizeof(name), "%s", r->text.data);
		if (study_options_get(out, name) != NULL)
			return stands_twice(r, name, err);
		if ((code = json_next(r, err)) != 0)
			break;
		if (r->kind != JSON_STRING && r->kind != JSON_NUMBER)
			return json_fail(r, err, "the option %s is a text or a number", name);
		code = study_options_set(out, name, r->text.data == NULL ? "" : r->text.data, err);
	}
	return code;
}

static int read_arm_object(struct json_reader *r, struct study_arm *arm, struct err *err)
{
	struct keys seen = { .count = 0 };
	char key[KEY_BYTES];
	int code = 0;

	while (code == 0) {
		if ((code = json_next(r, err)) != 0 || r->kind == JSON_OBJECT_END || (code = take_key(r, &seen, key, err)) != 0)
			break;
		if (strcmp(key, "name") == 0)
			code = read_text(r, arm->name, sizeof(arm->name), err);
		else if (strcmp(key, "reg") == 0)
			code = read_text(r, arm->reg, sizeof(arm->reg), err);
		else if (strcmp(key, "options") == 0)
			code = read_options(r, &arm->options, err);
		else if (strcmp(key, "steps") == 0)
			code = read_int(r, 0, INT64_MAX, &arm->steps, err);
		else if (strcmp(key, "cost") == 0)
			code = (code = json_expect(r, JSON_NUMBER, err)) != 0 ? code : json_real(r, &arm->cost, err);
		else if (key[0] == '#')
			code = json_skip(r, err);
		else
			code = json_fail(r, err, "an arm has name, reg and options, but no \"%s\"", key);
	}
	if (code == 0 && arm->reg[0] == '\0')
		return json_fail(r, err, "this arm does not say its reg");
	if (code == 0 && arm->name[0] == '\0')
		study_arm_name(arm->reg, arm->name);
	return code;
}

static int read_arms(struct json_reader *r, struct study_spec *spec, struct err *err)
{
	int code = json_expect(r, JSON_ARRAY_BEGIN, err);

	spec->arm_count = 0;
	while (code == 0) {
		if ((code = json_next(r, err)) != 0 || r->kind == JSON_ARRAY_END)
			break;
		struct study_arm *arm = &spec->arms[spec->arm_count];
		if (spec->arm_count == STUDY_ARMS_MAX)
			return json_fail(r, err, "a study has at most %d arms", STUDY_ARMS_MAX);
		*arm = (struct study_arm){ .cost = 0 };
		if (r->kind == JSON_STRING) {
			if (r->text.data == NULL || r->text.size >= sizeof(arm->reg))
				return json_fail(r, err, "this arm is empty or longer than %d bytes", REG_TEXT_BYTES - 1);
			snprintf(arm->reg, sizeof(arm->reg), "%s", r->text.data);
			study_arm_name(arm->reg, arm->name);
		} else if (r->kind == JSON_OBJECT_BEGIN) {
			code = read_arm_object(r, arm, err);
		} else {
			return json_fail(r, err, "an arm is a text such as \"dropout+l2\", or an object with name, reg and options");
		}
		spec->arm_count++;
	}
	return code;
}

static int read_seeds(struct json_reader *r, struct study_spec *spec, struct err *err)
{
	int code = json_next(r, err);
	int64_t count;

	spec->seed_count = 0;
	if (code == 0 && r->kind == JSON_NUMBER) {
		if ((code = json_int(r, &count, err)) == 0 && (count < 1 || count > STUDY_SEEDS_MAX))
			return json_fail(r, err, "the number of seeds must be 1 to %d", STUDY_SEEDS_MAX);
		for (int64_t i = 0; i < count && code == 0; i++)
			spec->seeds[spec->seed_count++] = i;
		return code;
	}
	if (code == 0 && r->kind != JSON_ARRAY_BEGIN)
		return json_fail(r, err, "seeds is their number, or a list of them");
	while (code == 0) {
		if ((code = json_next(r, err)) != 0 || r->kind == JSON_ARRAY_END)
			break;
		if (r->kind != JSON_NUMBER || spec->seed_count == STUDY_SEEDS_MAX)
			return json_fail(r, err, "seeds is a list of at most %d numbers", STUDY_SEEDS_MAX);
		if ((code = json_int(r, &spec->seeds[spec->seed_count], err)) == 0 && spec->seeds[spec->seed_count++] < 0)
			return json_fail(r, err, "a seed is a whole number from 0 on");
	}
	if (code == 0 && spec->seed_count == 0)
		return json_fail(r, err, "this list of seeds is empty; leave it out for one seed, 0");
	return code;
}

static int read_fold_seed(struct json_reader *r, struct study_spec *spec, struct err *err)
{
	struct err reason;
	int code = json_next(r, err);

	if (code == 0 && ((r->kind != JSON_NUMBER && r->kind != JSON_STRING) ||
			  study_fold_seed_parse(spec, r->text.data == NULL ? "" : r->text.data, &reason) != 0))
		return json_fail(r, err, "fold_seed is a whole number from 0 on, or \"each\", where every seed cuts the folds anew");
	return code;
}

static int read_robust(struct json_reader *r, struct study_spec *spec, struct err *err)
{
	struct study_robust *robust = &spec->robust;
	struct keys seen = { .count = 0 };
	char key[KEY_BYTES];
	int code = json_next(r, err);

	if (code == 0 && (r->kind == JSON_TRUE || r->kind == JSON_FALSE)) {
		robust->on = r->kind == JSON_TRUE;
		return 0;
	}
	if (code == 0 && r->kind != JSON_OBJECT_BEGIN)
		return json_fail(r, err, "robustness is true, false, or an object with pairs, steps and restarts");
	robust->on = true;
	while (code == 0) {
		if ((code = json_next(r, err)) != 0 || r->kind == JSON_OBJECT_END || (code = take_key(r, &seen, key, err)) != 0)
			break;
		if (strcmp(key, "pairs") == 0)
			code = read_int(r, 2, 1000000, &robust->pairs, err);
		else if (strcmp(key, "steps") == 0)
			code = read_int(r, 1, 1000, &robust->steps, err);
		else if (strcmp(key, "restarts") == 0)
			code = read_int(r, 1, 100, &robust->restarts, err);
		else
			code = json_fail(r, err, "robustness has pairs, steps and restarts, but no \"%s\"", key);
	}
	return code;
}

static int read_version(struct json_reader *r, struct study_spec *spec, struct err *err)
{
	int code = json_expect(r, JSON_STRING, err);

	if (code == 0 && (code = hash_from_hex(&spec->version, r->text.data, err)) == 0)
		spec->has_version = true;
	return code;
}

static int read_named(struct json_reader *r, int (*parse)(int *, const char *, struct err *), int *out, struct err *err)
{
	char name[32];
	struct err reason;
	int code = read_text(r, name, sizeof(name), err);

	if (code == 0 && parse(out, name, &reason) != 0)
		return json_fail(r, err, "%s", reason.message);
	return code;
}

static int parse_design(int *out, const char *name, struct err *err)
{
	return parse_name("design", name, designs, ARRAY_LEN(designs), out, err);
}

static int parse_equal(int *out, const char *name, struct err *err)
{
	return parse_name("equal", name, equals, ARRAY_LEN(equals), out, err);
}

static int parse_keep(int *out, const char *name, struct err *err)
{
	return parse_name("keep", name, keeps, ARRAY_LEN(keeps), out, err);
}

/* study.json says more than a file that a user writes; that is passed over, or taken where it matters. */
static int read_found(struct json_reader *r, struct study_spec *spec, const char *key, bool *known, struct err *err)
{
	static const char *const passed[] = { "schema", "task", "command", "versions", "init", "digests" };

	*known = true;
	if (strcmp(key, "data_version") == 0)
		return read_version(r, spec, err);
	if (strcmp(key, "init_hash") == 0)
		return read_text(r, spec->init_hash, sizeof(spec->init_hash), err);
	if (strcmp(key, "expanded") == 0) {
		int code = json_next(r, err);

		spec->expanded = code == 0 && r->kind == JSON_TRUE;
		return code;
	}
	for (size_t i = 0; i < ARRAY_LEN(passed); i++)
		if (strcmp(key, passed[i]) == 0)
			return json_skip(r, err);
	if (key[0] == '#')
		return json_skip(r, err);
	*known = false;
	return 0;
}

static int read_field(struct json_reader *r, struct study_spec *spec, const char *key, struct err *err)
{
	int64_t number = 0;
	int choice = 0, code;
	bool known;

	if (strcmp(key, "name") == 0)
		return read_text(r, spec->name, sizeof(spec->name), err);
	if (strcmp(key, "data") == 0)
		return read_text(r, spec->data, sizeof(spec->data), err);
	if (strcmp(key, "split") == 0)
		return read_text(r, spec->split, sizeof(spec->split), err);
	if (strcmp(key, "baseline") == 0)
		return read_text(r, spec->baseline, sizeof(spec->baseline), err);
	if (strcmp(key, "arms") == 0)
		return read_arms(r, spec, err);
	if (strcmp(key, "seeds") == 0)
		return read_seeds(r, spec, err);
	if (strcmp(key, "options") == 0 || strcmp(key, "common") == 0)
		return read_options(r, &spec->common, err);
	if (strcmp(key, "robustness") == 0)
		return read_robust(r, spec, err);
	if (strcmp(key, "fold_seed") == 0)
		return read_fold_seed(r, spec, err);
	if (strcmp(key, "jobs") == 0)
		return read_int(r, 1, 1024, &spec->jobs, err);
	if (strcmp(key, "threads") == 0)
		return read_int(r, 1, 1024, &spec->threads, err);
	if (strcmp(key, "folds") == 0) {
		code = read_int(r, 1, STUDY_FOLDS_MAX, &number, err);
		spec->folds = (int)number;
	} else if (strcmp(key, "design") == 0) {
		code = read_named(r, parse_design, &choice, err);
		spec->design = (enum study_design)choice;
	} else if (strcmp(key, "equal") == 0) {
		code = read_named(r, parse_equal, &choice, err);
		spec->equal = (enum study_equal)choice;
	} else if (strcmp(key, "keep") == 0) {
		code = read_named(r, parse_keep, &choice, err);
		spec->keep = (enum study_keep)choice;
	} else if ((code = read_found(r, spec, key, &known, err)) == 0 && !known) {
		code = json_fail(r, err,
				 "\"%s\" is no part of a study; it has name, data, split, folds, fold_seed, seeds, design, arms, baseline, equal, "
				 "options, keep, jobs, threads and robustness",
				 key);
	}
	return code;
}

int study_spec_read(struct study_spec *spec, const char *path, struct err *err)
{
	struct keys seen = { .count = 0 };
	struct buf content = BUF_INIT;
	struct json_reader r;
	char key[KEY_BYTES];
	int code = fs_read(path, FILE_BYTES_MAX, &content, err);

	if (code != 0) {
		buf_free(&content);
		return code;
	}
	json_reader_init(&r, path, content.data, content.size);
	code = json_expect(&r, JSON_OBJECT_BEGIN, err);
	while (code == 0) {
		if ((code = json_next(&r, err)) != 0 || r.kind == JSON_OBJECT_END || (code = take_key(&r, &seen, key, err)) != 0)
			break;
		code = read_field(&r, spec, key, err);
	}
	if (code == 0)
		code = json_expect(&r, JSON_END, err);
	json_reader_free(&r);
	buf_free(&content);
	return code;
}

/* ---- checking ---- */

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

/* ---- writing ---- */

static int add_text(struct buf *out, const char *key, const char *text, struct err *err)
{
	int code = buf_printf(out, err, ",\n  \"%s\": ", key);

	return code != 0 ? code : json_add_string(out, text, strlen(text), err);
}

/* By JSON's grammar, which has no 5. or .5 or 05. */
static bool is_json_number(const char *text)
{
	struct json_reader reader;

	json_reader_init(&reader, "", text, strlen(text));
	bool is = json_next(&reader, NULL) == 0 && reader.kind == JSON_NUMBER && reader.text.size == strlen(text);

	json_reader_free(&reader);
	return is;
}

static int add_options(struct buf *out, const struct study_options *options, struct err *err)
{
	int code = buf_add_byte(out, '{', err);

	for (int i = 0; i < options->count && code == 0; i++) {
		const char *name = options->all[i].name, *value = options->all[i].value;

		if ((code = buf_add_text(out, i > 0 ? ", " : "", err)) != 0 || (code = json_add_string(out, name, strlen(name), err)) != 0 ||
		    (code = buf_add_text(out, ": ", err)) != 0)
			break;
		/* A number stays as it was written; what only looks like one is a text. */
		if (is_json_number(value))
			code = buf_add_text(out, value, err);
		else
			code = json_add_string(out, value, strlen(value), err);
	}
	return code != 0 ? code : buf_add_byte(out, '}', err);
}

static int add_arms(struct buf *out, const struct study_spec *spec, struct err *err)
{
	int code = buf_add_text(out, ",\n  \"arms\": [", err);

	for (int i = 0; i < spec->arm_count && code == 0; i++) {
		const struct study_arm *arm = &spec->arms[i];

		if ((code = buf_printf(out, err, "%s\n    {\"name\": ", i > 0 ? "," : "")) != 0 ||
		    (code = json_add_string(out, arm->name, strlen(arm->name), err)) != 0 ||
		    (code = buf_add_text(out, ", \"reg\": ", err)) != 0 || (code = json_add_string(out, arm->reg, strlen(arm->reg), err)) != 0 ||
		    (code = buf_add_text(out, ", \"options\": ", err)) != 0 || (code = add_options(out, &arm->options, err)) != 0)
			break;
		if (arm->steps > 0 && ((code = buf_printf(out, err, ", \"steps\": %" PRId64 ", \"cost\": ", arm->steps)) != 0 ||
				       (code = json_add_real(out, arm->cost, err)) != 0))
			break;
		code = buf_add_byte(out, '}', err);
	}
	return code != 0 ? code : buf_add_text(out, "\n  ]", err);
}

static int add_seeds(struct buf *out, const struct study_spec *spec, struct err *err)
{
	char cut[32];
	int code;

	snprintf(cut, sizeof(cut), spec->recut ? "\"each\"" : "%" PRId64, spec->fold_seed);
	code = buf_printf(out, err, ",\n  \"folds\": %d,\n  \"fold_seed\": %s,\n  \"seeds\": [", spec->folds, cut);

	for (int i = 0; i < spec->seed_count && code == 0; i++)
		code = buf_printf(out, err, "%s%" PRId64, i > 0 ? ", " : "", spec->seeds[i]);
	return code != 0 ? code : buf_add_byte(out, ']', err);
}

int study_spec_write(const struct study_spec *spec, struct buf *out, struct err *err)
{
	char version[HASH_HEX_BYTES];
	const char *task = study_options_get(&spec->common, "task");
	int code;

	hash_to_hex(&spec->version, version);
	if ((code = buf_add_text(out, "{\n  \"schema\": \"trainer-study-1\"", err)) != 0 ||
	    (code = add_text(out, "name", spec->name, err)) != 0 || (code = add_text(out, "data", spec->data, err)) != 0 ||
	    (spec->has_version && (code = add_text(out, "data_version", version, err)) != 0) ||
	    (code = add_text(out, "task", task == NULL ? "match" : task, err)) != 0 ||
	    (code = add_text(out, "split", spec->split, err)) != 0 || (code = add_seeds(out, spec, err)) != 0 ||
	    (code = add_text(out, "design", designs[spec->design], err)) != 0 ||
	    (code = buf_add_text(out, ",\n  \"expanded\": true", err)) != 0 || (code = add_arms(out, spec, err)) != 0 ||
	    (code = add_text(out, "baseline", spec->baseline, err)) != 0 ||
	    (code = add_text(out, "equal", equals[spec->equal], err)) != 0 || (code = add_text(out, "keep", keeps[spec->keep], err)) != 0 ||
	    (code = buf_add_text(out, ",\n  \"common\": ", err)) != 0 || (code = add_options(out, &spec->common, err)) != 0 ||
	    (code = buf_printf(out, err, ",\n  \"threads\": %" PRId64, spec->threads)) != 0 ||
	    (spec->init_hash[0] != '\0' && (code = add_text(out, "init_hash", spec->init_hash, err)) != 0))
		return code;
	if (!spec->robust.on)
		return buf_add_text(out, ",\n  \"robustness\": false", err);
	return buf_printf(out, err, ",\n  \"robustness\": {\"pairs\": %" PRId64 ", \"steps\": %" PRId64 ", \"restarts\": %" PRId64 "}",
			  spec->robust.pairs, spec->robust.steps, spec->robust.restarts);
}

/* ---- comparing ---- */

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
	    (code = same_text(dir, "design", designs[there->design], designs[now->design], err)) != 0 ||
	    (code = same_text(dir, "baseline", there->baseline, now->baseline, err)) != 0 ||
	    (code = same_text(dir, "equal", equals[there->equal], equals[now->equal], err)) != 0 ||
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

const char study_example[] =
	"{\n"
	"  \"#\": \"trainer study FILE --out DIR runs this. Keys that begin with # are comments.\",\n"
	"  \"name\": \"which regularizer\",\n"
	"  \"data\": \"flowers\",\n"
	"  \"# split\": \"what the folds are made of: splits joined by +, or all\",\n"
	"  \"split\": \"train+val\",\n"
	"  \"# folds\": \"each is left out for validation once; 1: no folds, but the splits train and val\",\n"
	"  \"folds\": 5,\n"
	"  \"# seeds\": \"how many (0, 1, ...), or a list\",\n"
	"  \"seeds\": 2,\n"
	"  \"# design\": \"listed: the arms as they are. Of the arms as terms: factorial (all sums), add-one, leave-one-out\",\n"
	"  \"design\": \"listed\",\n"
	"  \"arms\": [\"none\", \"dropout\", \"l2\", \"adv\", \"dropout+l2\", {\"name\": \"late\", \"reg\": \"l2+dropout@3\"}],\n"
	"  \"baseline\": \"none\",\n"
	"  \"# equal\": \"epochs, or time: as many steps as the baseline's time allows\",\n"
	"  \"equal\": \"epochs\",\n"
	"  \"# options\": \"of every run, by their names on trainer's command line\",\n"
	"  \"options\": {\"preset\": \"small\", \"epochs\": 10, \"batch-size\": 32},\n"
	"  \"# keep\": \"weights of finished runs: none, last, best or all\",\n"
	"  \"keep\": \"none\",\n"
	"  \"robustness\": false\n"
	"}\n";
