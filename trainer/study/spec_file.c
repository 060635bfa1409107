/* A study in a file: what people write to start one, and the study.json that one leaves in its folder. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/fs.h"
#include "trainer/study/spec.h"

#define FILE_BYTES_MAX ((size_t)4 << 20)

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

static int read_word(struct json_reader *r, struct study_spec *spec, const char *key, struct err *err)
{
	char word[32];
	struct err reason;
	int code = read_text(r, word, sizeof(word), err);

	if (code != 0)
		return code;
	if (strcmp(key, "design") == 0)
		code = study_design_parse(&spec->design, word, &reason);
	else if (strcmp(key, "equal") == 0)
		code = study_equal_parse(&spec->equal, word, &reason);
	else
		code = study_keep_parse(&spec->keep, word, &reason);
	return code == 0 ? 0 : json_fail(r, err, "%s", reason.message);
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
	bool known;
	int code;

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
	if (strcmp(key, "design") == 0 || strcmp(key, "equal") == 0 || strcmp(key, "keep") == 0)
		return read_word(r, spec, key, err);
	if (strcmp(key, "jobs") == 0)
		return read_int(r, 1, 1024, &spec->jobs, err);
	if (strcmp(key, "threads") == 0)
		return read_int(r, 1, 1024, &spec->threads, err);
	if (strcmp(key, "folds") == 0) {
		code = read_int(r, 1, STUDY_FOLDS_MAX, &number, err);
		spec->folds = (int)number;
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
	    (code = add_text(out, "design", study_design_name(spec->design), err)) != 0 ||
	    (code = buf_add_text(out, ",\n  \"expanded\": true", err)) != 0 || (code = add_arms(out, spec, err)) != 0 ||
	    (code = add_text(out, "baseline", spec->baseline, err)) != 0 ||
	    (code = add_text(out, "equal", study_equal_name(spec->equal), err)) != 0 || (code = add_text(out, "keep", study_keep_name(spec->keep), err)) != 0 ||
	    (code = buf_add_text(out, ",\n  \"common\": ", err)) != 0 || (code = add_options(out, &spec->common, err)) != 0 ||
	    (code = buf_printf(out, err, ",\n  \"threads\": %" PRId64, spec->threads)) != 0 ||
	    (spec->init_hash[0] != '\0' && (code = add_text(out, "init_hash", spec->init_hash, err)) != 0))
		return code;
	if (!spec->robust.on)
		return buf_add_text(out, ",\n  \"robustness\": false", err);
	return buf_printf(out, err, ",\n  \"robustness\": {\"pairs\": %" PRId64 ", \"steps\": %" PRId64 ", \"restarts\": %" PRId64 "}",
			  spec->robust.pairs, spec->robust.steps, spec->robust.restarts);
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
