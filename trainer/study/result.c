#include "trainer/study/result.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/fs.h"
#include "shared/base/mem.h"
#include "trainer/study/flat.h"

#define METRICS_BYTES_MAX ((size_t)1 << 30)

void study_run_path(const struct study_spec *spec, const char *dir, const struct study_cell *cell, const char *name,
		    char out[RESULT_PATH_BYTES])
{
	snprintf(out, RESULT_PATH_BYTES, "%s/runs/%s/f%d-s%" PRId64 "%s%s", dir, spec->arms[cell->arm].name, cell->fold,
		 spec->seeds[cell->seed], name[0] == '\0' ? "" : "/", name);
}

const char *study_measured_weights(const struct study_spec *spec, int arm)
{
	struct reg_spec reg;

	return reg_spec_parse(&reg, spec->arms[arm].reg, NULL) == 0 && reg.early.on ? "best.safetensors" : "last.safetensors";
}

/* ---- metrics.jsonl ---- */

/* Calls use for each whole line that says something; stops when it returns other than 0. */
static int each_line(const char *path, int (*use)(void *, const struct flat *, struct err *), void *context, struct err *err)
{
	struct buf content = BUF_INIT;
	struct flat *flat = mem_zalloc(sizeof(*flat));
	int code = flat == NULL ? err_nomem(err, sizeof(*flat)) : fs_read(path, METRICS_BYTES_MAX, &content, err);

	for (const char *at = content.data; code == 0 && at != NULL && *at != '\0';) {
		const char *end = strchr(at, '\n');

		if (end == NULL)
			break;
		if ((code = flat_parse(flat, path, at, (size_t)(end - at), err)) == 0) {
			code = use(context, flat, err);
			flat_free(flat);
		}
		at = end + 1;
	}
	buf_free(&content);
	mem_free(flat);
	return code;
}

/* By how much of its norm was moved what: in metrics.jsonl and here alike. */
static const char *const moved_names[] = { "delta_over_embedding", "delta_over_feature", "delta_over_fused", "delta_over_pixel" };

/* Means over the run of what a step cost, and over its last epoch of what the adversary did. */
struct averages {
	double cost, seconds, adv_loss, clean_loss, moved[ARRAY_LEN(moved_names)];
	uint64_t costs, advs, steps;
	int64_t epoch; /* of advs */
};

static int add_line(void *context, const struct flat *line, struct err *err)
{
	struct averages *a = context;
	const char *split = flat_text(line, "split");
	double cost, loss, clean, moved, rate, wait, samples;
	int64_t epoch = 0;

	(void)err;
	if (split == NULL || strcmp(split, "train") != 0)
		return 0;
	if (flat_real(line, "pairs_per_s", &rate) && flat_real(line, "samples", &samples) && flat_real(line, "data_wait_s", &wait) &&
	    rate > 0) {
		a->seconds += samples / rate - wait;
		a->steps++;
	}
	if (flat_real(line, "cost", &cost) || flat_real(line, "adv_cost", &cost)) {
		a->cost += cost;
		a->costs++;
	}
	if (!flat_real(line, "adv_loss", &loss) || !flat_real(line, "loss", &clean) || !flat_int(line, "epoch", &epoch))
		return 0;
	if (epoch != a->epoch) {
		a->adv_loss = a->clean_loss = 0;
		memset(a->moved, 0, sizeof(a->moved));
		a->advs = 0;
		a->epoch = epoch;
	}
	a->adv_loss += loss;
	a->clean_loss += clean;
	/* A line names the targets that there are. */
	for (size_t i = 0; i < ARRAY_LEN(moved_names); i++)
		a->moved[i] += flat_real(line, moved_names[i], &moved) ? moved : 0;
	a->advs++;
	return 0;
}

struct wanted {
	int64_t step;
	char *out;
	bool found;
};

static int find_step(void *context, const struct flat *line, struct err *err)
{
	struct wanted *wanted = context;
	const char *split = flat_text(line, "split"), *digest = flat_text(line, "digest");
	int64_t step;

	(void)err;
	if (split == NULL || digest == NULL || strcmp(split, "train") != 0 || !flat_int(line, "step", &step) || step != wanted->step)
		return 0;
	snprintf(wanted->out, HASH_HEX_BYTES, "%s", digest);
	wanted->found = true;
	return 0;
}

int study_digest_at(const char *metrics, int64_t steps, char out[HASH_HEX_BYTES], struct err *err)
{
	struct wanted wanted = { .step = steps - 1, .out = out };
	int code = each_line(metrics, find_step, &wanted, err);

	if (code == 0 && !wanted.found)
		code = err_set(err, ERR_NOTFOUND, "%s: no line of step %" PRId64, metrics, steps - 1);
	return code;
}

/* ---- result.json ---- */

struct field {
	const char *name, *path; /* in result.json, in run.json */
	bool text, optional;
};

static const struct field fields[] = {
	{ "steps", "result.steps", false, false },
	{ "accuracy", "result.final.accuracy", false, false },
	{ "loss", "result.final.loss", false, false },
	{ "ece", "result.final.ece", false, true },
	{ "train_accuracy", "result.final.train_accuracy", false, false },
	{ "train_loss", "result.final.train_loss", false, false },
	{ "best_accuracy", "result.best.accuracy", false, true },
	{ "pairs", "result.final.pairs", false, false },
	{ "pictures", "result.final.pictures", false, false },
	{ "train_pictures", "result.final.train_pictures", false, false },
	{ "train_seconds", "result.train_seconds", false, false },
	{ "digest", "digest", true, false },
	{ "val_digest", "result.final.val_digest", true, false },
	{ "init_digest", "init_digest", true, false },
	{ "pairs_digest", "result.final.pairs_digest", true, true },
	{ "data_version", "dataset.version", true, false },
	{ "reg_full", "reg", true, false },
};

static int add_fields(struct buf *out, const struct flat *run, const char *path, struct err *err)
{
	int code = 0;

	for (size_t i = 0; i < ARRAY_LEN(fields) && code == 0; i++) {
		const char *text = flat_text(run, fields[i].path);

		if (text == NULL && strcmp(fields[i].name, "train_pictures") == 0)
			text = flat_text(run, "train.pictures"); /* of a run that is older than the count of those with a label */
		if (text == NULL && fields[i].optional)
			continue;
		if (text == NULL)
			return err_set(err, ERR_FORMAT, "%s: no %s in it", path, fields[i].path);
		if ((code = buf_printf(out, err, ",\n  \"%s\": ", fields[i].name)) == 0)
			code = fields[i].text ? json_add_string(out, text, strlen(text), err) : buf_add_text(out, text, err);
	}
	return code;
}

static int add_epochs(struct buf *out, const struct flat *run, struct err *err)
{
	int64_t steps, best, each;
	int code = 0;

	if (!flat_int(run, "steps_per_epoch", &each) || each < 1)
		return 0;
	/* Epochs that were begun: a run may end within one. */
	if (flat_int(run, "result.steps", &steps))
		code = buf_printf(out, err, ",\n  \"epochs\": %" PRId64, (steps + each - 1) / each);
	if (code == 0 && flat_int(run, "result.best.steps", &best))
		code = buf_printf(out, err, ",\n  \"best_epoch\": %" PRId64, (best + each - 1) / each);
	return code;
}

static int add_averages(struct buf *out, const struct averages *a, struct err *err)
{
	const struct {
		const char *name;
		double sum;
		uint64_t count;
	} all[] = {
		{ "step_seconds", a->seconds, a->steps }, { "cost", a->cost, a->costs }, { "adv_loss", a->adv_loss, a->advs },
		{ "clean_loss", a->clean_loss, a->advs }, { moved_names[0], a->moved[0], a->advs }, { moved_names[1], a->moved[1], a->advs },
		{ moved_names[2], a->moved[2], a->moved[2] > 0 ? a->advs : 0 }, { moved_names[3], a->moved[3], a->moved[3] > 0 ? a->advs : 0 },
	};
	int code = 0;

	for (size_t i = 0; i < ARRAY_LEN(all) && code == 0; i++)
		if (all[i].count > 0 && (code = buf_printf(out, err, ",\n  \"%s\": ", all[i].name)) == 0)
			code = json_add_real(out, all[i].sum / (double)all[i].count, err);
	return code;
}

static int add_head(const struct study_spec *spec, const struct study_cell *cell, const char *schema, struct buf *out, struct err *err)
{
	const struct study_arm *arm = &spec->arms[cell->arm];
	int code;

	if ((code = buf_printf(out, err, "{\n  \"schema\": \"%s\",\n  \"arm\": ", schema)) != 0 ||
	    (code = json_add_string(out, arm->name, strlen(arm->name), err)) != 0 ||
	    (code = buf_add_text(out, ",\n  \"reg\": ", err)) != 0 || (code = json_add_string(out, arm->reg, strlen(arm->reg), err)) != 0)
		return code;
	return buf_printf(out, err, ",\n  \"fold\": %d,\n  \"seed\": %" PRId64, cell->fold, spec->seeds[cell->seed]);
}

int study_result_make(const struct study_spec *spec, const char *dir, const struct study_cell *cell, struct err *err)
{
	char run_path[RESULT_PATH_BYTES], metrics[RESULT_PATH_BYTES], path[RESULT_PATH_BYTES];
	struct flat *run = mem_zalloc(sizeof(*run));
	struct averages averages = { .epoch = -1 };
	struct buf out = BUF_INIT;
	int code;

	study_run_path(spec, dir, cell, "run.json", run_path);
	study_run_path(spec, dir, cell, "metrics.jsonl", metrics);
	study_run_path(spec, dir, cell, "result.json", path);
	if (run == NULL)
		return err_nomem(err, sizeof(*run));
	if ((code = flat_read(run, run_path, err)) != 0 || (code = each_line(metrics, add_line, &averages, err)) != 0 ||
	    (code = add_head(spec, cell, "trainer-result-1", &out, err)) != 0 || (code = add_fields(&out, run, run_path, err)) != 0 ||
	    (code = add_epochs(&out, run, err)) != 0 || (code = add_averages(&out, &averages, err)) != 0 ||
	    (code = buf_add_text(&out, "\n}\n", err)) != 0)
		goto out;
	code = fs_write_atomic(path, out.data, out.size, err);
out:
	flat_free(run);
	mem_free(run);
	buf_free(&out);
	return code;
}

static bool take_digest(const struct flat *flat, const char *name, char out[HASH_HEX_BYTES])
{
	const char *text = flat_text(flat, name);

	if (text == NULL || strlen(text) != HASH_HEX_BYTES - 1)
		return false;
	memcpy(out, text, HASH_HEX_BYTES);
	return true;
}

int study_result_read(const struct study_spec *spec, const char *dir, const struct study_cell *cell, struct study_result *out,
		      struct err *err)
{
	char path[RESULT_PATH_BYTES];
	struct flat *flat = mem_zalloc(sizeof(*flat));
	const char *arm;
	int64_t fold, seed;
	int code;

	*out = (struct study_result){ 0 };
	if (flat == NULL)
		return err_nomem(err, sizeof(*flat));
	study_run_path(spec, dir, cell, "result.json", path);
	if ((code = flat_read(flat, path, err)) != 0)
		goto out;
	arm = flat_text(flat, "arm");
	if (!flat_real(flat, "accuracy", &out->accuracy) || !flat_real(flat, "train_accuracy", &out->train_accuracy) ||
	    !flat_real(flat, "train_seconds", &out->train_seconds) || !flat_int(flat, "steps", &out->steps) ||
	    !take_digest(flat, "digest", out->digest) || !take_digest(flat, "val_digest", out->val_digest) ||
	    !take_digest(flat, "init_digest", out->init_digest) ||
	    (!study_ranks(spec) && !take_digest(flat, "pairs_digest", out->pairs_digest)))
		code = err_set(err, ERR_FORMAT, "%s: incomplete", path);
	else if (arm == NULL || !flat_int(flat, "fold", &fold) || !flat_int(flat, "seed", &seed) ||
		 strcmp(arm, spec->arms[cell->arm].name) != 0 || fold != cell->fold || seed != spec->seeds[cell->seed])
		code = err_set(err, ERR_MISMATCH, "%s: is of another run (%s, fold and seed inside it); remove that folder, and the same command "
			       "trains the run", path, arm == NULL ? "no arm" : arm);
out:
	flat_free(flat);
	mem_free(flat);
	return code;
}

int study_failure_write(const struct study_spec *spec, const char *dir, const struct study_cell *cell, const char *state,
			const char *message, struct err *err)
{
	char path[RESULT_PATH_BYTES];
	struct buf out = BUF_INIT;
	int code;

	study_run_path(spec, dir, cell, "failed.json", path);
	if ((code = add_head(spec, cell, "trainer-failure-1", &out, err)) == 0 &&
	    (code = buf_printf(&out, err, ",\n  \"state\": \"%s\",\n  \"message\": ", state)) == 0 &&
	    (code = json_add_string(&out, message, strlen(message), err)) == 0 && (code = buf_add_text(&out, "\n}\n", err)) == 0)
		code = fs_write_atomic(path, out.data, out.size, err);
	buf_free(&out);
	return code;
}

bool study_failure_exists(const struct study_spec *spec, const char *dir, const struct study_cell *cell)
{
	char path[RESULT_PATH_BYTES];

	study_run_path(spec, dir, cell, "failed.json", path);
	return fs_exists(path);
}

void study_run_state(const char *run_dir, char *out, size_t bytes)
{
	char path[RESULT_PATH_BYTES + 16];
	struct flat *flat = mem_zalloc(sizeof(*flat));
	struct err ignored;

	out[0] = '\0';
	snprintf(path, sizeof(path), "%s/run.json", run_dir);
	if (flat != NULL && flat_read(flat, path, &ignored) == 0 && flat_text(flat, "state") != NULL)
		snprintf(out, bytes, "%s", flat_text(flat, "state"));
	if (flat != NULL)
		flat_free(flat);
	mem_free(flat);
}
