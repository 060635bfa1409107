#include "trainer/study/robust.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/fs.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "shared/base/paths.h"
#include "shared/base/plural.h"
#include "shared/base/progress.h"
#include "trainer/io/weights.h"
#include "trainer/kernels/kernels.h"
#include "trainer/study/result.h"
#include "trainer/study/robust_parts.h"
#include "trainer/train/origin.h"

const double robust_pixel_eps[ROBUST_RUNGS] = { 0, 0.5 / 255, 1.0 / 255, 2.0 / 255, 8.0 / 255, 64.0 / 255 };
const double robust_text_eps[ROBUST_RUNGS] = { 0, 0.01, 0.03, 0.1, 0.5, 4 };
const unsigned robust_targets[ROBUST_TARGETS] = { ATTACK_PIXEL, ATTACK_TEXT, ATTACK_PIXEL | ATTACK_TEXT };
const char *const robust_target_names[ROBUST_TARGETS] = { "pixel", "text", "pixel+text" };
const char *const robust_kind_names[ROBUST_KINDS] = { "noise", "fgsm", "pgd" };
static const char *const norms[ROBUST_TARGETS] = { "linf", "l2", "linf+l2" };

/* ---- an arm's model ---- */

struct loaded {
	struct origin origin;
	struct model *model;
};

static int open_model(struct loaded *out, const struct statefile *file, struct err *err)
{
	struct run_config *run = &out->origin.config;
	const struct about_model *about = &out->origin.model;
	struct model_config config;
	struct model_limits limits;
	int code;

	if (!out->origin.ours)
		return err_set(err, ERR_MISMATCH, "%s: does not say what model it is", statefile_path(file));
	if (run->preset == NULL || run->max_len < 2)
		return err_set(err, ERR_FORMAT, "%s: its configuration is incomplete", statefile_path(file));
	if ((code = run_config_model(run, about->task, true, &config, err)) != 0)
		return code;
	config.classes = (int)about->classes;
	config.text.vocab_size = (int)about->vocab_size;
	config.text.pad_id = (int)about->pad_id;
	attack_limits(&limits, (uint32_t)run->max_len);
	if (config.task != TASK_MATCH && config.task != TASK_CLASSIFY)
		return err_set(err, ERR_UNSUPPORTED, "%s: attacks are on pairs and labels; this model was trained for another task",
			       statefile_path(file));
	if ((code = model_open(&out->model, &config, &limits, err)) != 0)
		return code;
	return weights_load_strict(model_params(out->model), file, "", err);
}

/* unload() frees what there is, also after an error. */
static int load(struct loaded *out, const char *path, struct err *err)
{
	struct statefile *file;
	int code;

	*out = (struct loaded){ .model = NULL };
	if ((code = statefile_open(&file, path, err)) != 0)
		return code;
	if ((code = origin_read(&out->origin, file, err)) == 0)
		code = open_model(out, file, err);
	statefile_close(file);
	return code;
}

static void unload(struct loaded *loaded)
{
	model_close(loaded->model);
	origin_free(&loaded->origin);
	loaded->model = NULL;
}

/* ---- the pairs ---- */

static int open_pairs(const struct robust_options *o, const struct loaded *first, struct attack_data *out, struct err *err)
{
	char split[STUDY_SPLIT_BYTES];
	struct feed_options options = { .client_name = "trainer robust", .dataset = o->spec->data, .split = split,
					.vocab = study_options_get(&o->spec->common, "vocab"), .batch_size = 32,
					.image_size = (uint32_t)first->origin.model.image_size, .max_len = (uint32_t)first->origin.config.max_len,
					.cancelled = o->cancelled, .cancel_context = o->cancel_context };
	struct feed *feed = NULL;
	char *socket = NULL;
	int code;

	study_split(o->spec, o->fold, o->seed, false, split);
	if ((code = run_exif_parse(first->origin.config.exif, &options.exif_apply, err)) != 0 ||
	    (code = paths_socket(&socket, o->socket, false, err)) != 0)
		return code;
	options.socket = socket;
	if ((code = feed_open(&feed, &options, err)) == 0 && o->spec->has_version && !hash_equal(&feed_info(feed)->version, &o->spec->version))
		code = err_set(err, ERR_MISMATCH, "data set %s is another version now than the study began with", o->spec->data);
	if (code == 0)
		code = attack_data_open(out, feed, first->origin.model.task, o->pairs, (int)options.image_size, options.max_len, err);
	feed_close(feed);
	mem_free(socket);
	return code;
}

/* ---- attacks ---- */

struct robustness {
	struct robust_all all;
	struct attack_data data;
	bool has_data;
	int64_t image_size, max_len;
	struct progress bar;
	uint64_t done;
};

static struct attack_spec spec_of(const struct robust_options *o, enum attack_kind kind, int target, int rung)
{
	unsigned targets = robust_targets[target];

	return (struct attack_spec){ .kind = kind, .targets = targets, .steps = o->steps, .restarts = o->restarts,
				     .pixel_eps = (targets & ATTACK_PIXEL) != 0 ? robust_pixel_eps[rung] : 0,
				     .text_eps = (targets & ATTACK_TEXT) != 0 ? robust_text_eps[rung] : 0 };
}

static int tick(struct robustness *r, const char *note, struct err *err)
{
	const struct robust_options *o = r->all.options;

	progress_update(&r->bar, ++r->done, note);
	if (o->cancelled != NULL && o->cancelled(o->cancel_context))
		return err_set(err, ERR_CANCELLED, "stopped; robustness is measured anew next time");
	return 0;
}

static int attack_arm(struct robustness *r, struct robust_arm *arm, struct attack *attack, const char *name, struct err *err)
{
	const struct robust_options *o = r->all.options;
	int code = 0;

	for (int t = 0; t < ROBUST_TARGETS; t++) {
		for (int kind = 0; kind < ROBUST_KINDS; kind++)
			for (int rung = 0; rung < ROBUST_RUNGS; rung++) {
				struct attack_spec spec = spec_of(o, (enum attack_kind)kind, t, rung);
				bool keep = kind == ATTACK_PGD && rung == ROBUST_TRANSFER_RUNG;

				attack_run(attack, &spec, keep ? &arm->examples[t] : NULL, &arm->at[kind][t][rung]);
				if ((code = tick(r, name, err)) != 0)
					return code;
			}
		struct attack_spec harder = spec_of(o, ATTACK_PGD, t, ROBUST_TRANSFER_RUNG);
		harder.steps *= 2;
		harder.restarts *= 2;
		attack_run(attack, &harder, NULL, &arm->harder[t]);
		if ((code = tick(r, name, err)) != 0)
			return code;
	}
	return 0;
}

static int with_model(struct robustness *r, struct robust_arm *arm, bool transfer, struct err *err)
{
	const struct robust_options *o = r->all.options;
	struct study_cell cell = { arm->arm, o->fold, o->seed };
	const char *name = o->spec->arms[arm->arm].name;
	char path[RESULT_PATH_BYTES];
	struct attack *attack = NULL;
	struct loaded loaded;
	int code;

	study_run_path(o->spec, o->dir, &cell, study_measured_weights(o->spec, arm->arm), path);
	if ((code = load(&loaded, path, err)) != 0)
		goto out;
	if (!r->has_data) {
		if ((code = open_pairs(o, &loaded, &r->data, err)) != 0)
			goto out;
		r->has_data = true;
		r->all.pairs = r->data.pairs;
		r->all.classes = (int)loaded.origin.model.classes;
		r->image_size = loaded.origin.model.image_size;
		r->max_len = loaded.origin.config.max_len;
	}
	if (loaded.origin.model.image_size != r->image_size || loaded.origin.config.max_len != r->max_len) {
		code = err_set(err, ERR_MISMATCH, "arm %s: its pictures or captions are of another size; attacks compare arms on the same pairs", name);
		goto out;
	}
	if ((code = attack_open(&attack, loaded.model, &r->data, (uint32_t)r->max_len, err)) != 0)
		goto out;
	for (int t = 0; t < ROBUST_TARGETS && transfer; t++)
		for (int source = 0; source < r->all.count; source++)
			attack_transfer(attack, &r->all.arms[source].examples[t], robust_targets[t], &arm->transfer[t][source]);
	for (int t = 0; t < ROBUST_TARGETS && !transfer && code == 0; t++)
		code = attack_examples_open(&arm->examples[t], &r->data, robust_targets[t], model_config(loaded.model)->text.width, err);
	if (code == 0)
		code = transfer ? tick(r, name, err) : attack_arm(r, arm, attack, name, err);
out:
	attack_close(attack);
	unload(&loaded);
	return code;
}

/* ---- robustness.json ---- */

static int add_attack(const struct robustness *r, struct buf *out, const struct robust_arm *arm, int source, const char *attack, int target,
		      int rung, int steps, int restarts, const struct attack_outcome *outcome, struct err *err)
{
	const struct robust_options *o = r->all.options;
	const char *name = o->spec->arms[arm->arm].name, *from = o->spec->arms[r->all.arms[source].arm].name;
	bool text = robust_targets[target] == ATTACK_TEXT;
	int code;

	if ((code = buf_printf(out, err, "%s\n    {\"arm\": ", out->data[out->size - 1] == '[' ? "" : ",")) != 0 ||
	    (code = json_add_string(out, name, strlen(name), err)) != 0 ||
	    (code = buf_printf(out, err, ", \"fold\": %d, \"seed\": %" PRId64 ", \"attack\": \"%s\", \"target\": \"%s\", \"norm\": \"%s\", \"eps\": ",
			       o->fold, o->spec->seeds[o->seed], attack, robust_target_names[target], norms[target])) != 0 ||
	    (code = json_add_real(out, text ? robust_text_eps[rung] : robust_pixel_eps[rung], err)) != 0)
		return code;
	if (robust_targets[target] == (ATTACK_PIXEL | ATTACK_TEXT) &&
	    ((code = buf_add_text(out, ", \"text_eps\": ", err)) != 0 || (code = json_add_real(out, robust_text_eps[rung], err)) != 0))
		return code;
	if ((code = buf_printf(out, err, ", \"steps\": %d, \"restarts\": %d, \"accuracy\": ", steps, restarts)) != 0 ||
	    (code = json_add_real(out, outcome->accuracy, err)) != 0 || (code = buf_add_text(out, ", \"loss\": ", err)) != 0 ||
	    (code = json_add_real(out, outcome->loss, err)) != 0 ||
	    (code = buf_printf(out, err, ", \"pairs\": %d, \"source_arm\": ", r->all.pairs)) != 0 ||
	    (code = json_add_string(out, from, strlen(from), err)) != 0)
		return code;
	return buf_add_byte(out, '}', err);
}

static int add_arm(const struct robustness *r, struct buf *out, int place, struct err *err)
{
	const struct robust_options *o = r->all.options;
	const struct robust_arm *arm = &r->all.arms[place];
	int code = 0;

	for (int t = 0; t < ROBUST_TARGETS; t++) {
		for (int kind = 0; kind < ROBUST_KINDS; kind++)
			for (int rung = 0; rung < ROBUST_RUNGS && code == 0; rung++)
				code = add_attack(r, out, arm, place, robust_kind_names[kind], t, rung, kind == ATTACK_PGD ? o->steps : kind == ATTACK_FGSM,
						  kind == ATTACK_PGD ? o->restarts : 1, &arm->at[kind][t][rung], err);
		if (code == 0)
			code = add_attack(r, out, arm, place, "pgd", t, ROBUST_TRANSFER_RUNG, 2 * o->steps, 2 * o->restarts, &arm->harder[t], err);
		for (int source = 0; source < r->all.count && code == 0; source++)
			if (source != place)
				code = add_attack(r, out, arm, source, "pgd", t, ROBUST_TRANSFER_RUNG, o->steps, o->restarts, &arm->transfer[t][source], err);
	}
	return code;
}

static int write_all(const struct robustness *r, struct err *err)
{
	const struct robust_options *o = r->all.options;
	char path[RESULT_PATH_BYTES];
	struct buf out = BUF_INIT;
	int failed = 0, code;

	if ((code = buf_add_text(&out, "{\n  \"schema\": \"trainer-robustness-1\",\n  \"attacks\": [", err)) != 0)
		goto out;
	for (int i = 0; i < r->all.count && code == 0; i++)
		code = add_arm(r, &out, i, err);
	if (code != 0 || (code = buf_add_text(&out, "\n  ],\n  \"checks\": [", err)) != 0 ||
	    (code = robust_add_checks(&r->all, &out, &failed, err)) != 0 || (code = buf_add_text(&out, "\n  ]\n}\n", err)) != 0)
		goto out;
	snprintf(path, sizeof(path), "%s/robustness.json", o->dir);
	if ((code = fs_write_atomic(path, out.data, out.size, err)) != 0)
		goto out;
	if (failed > 0)
		log_warn("%d checks of the attacks do not hold: an arm may hide its gradients, or hardly look at what was attacked; %s names them",
			 failed, path);
	else
		log_info("attacks on %d arm%s, %d pair%s each: every check against hidden gradients holds; %s", r->all.count,
			 plural((uint64_t)r->all.count), r->all.pairs, plural((uint64_t)r->all.pairs), path);
out:
	buf_free(&out);
	return code;
}

/* ---- the whole ---- */

static int find_arms(struct robustness *r, struct err *err)
{
	const struct robust_options *o = r->all.options;
	char path[RESULT_PATH_BYTES];

	r->all.arms = mem_array((size_t)o->spec->arm_count, sizeof(*r->all.arms));
	if (r->all.arms == NULL)
		return err_nomem(err, (size_t)o->spec->arm_count * sizeof(*r->all.arms));
	for (int arm = 0; arm < o->spec->arm_count; arm++) {
		struct study_cell cell = { arm, o->fold, o->seed };

		study_run_path(o->spec, o->dir, &cell, study_measured_weights(o->spec, arm), path);
		if (fs_exists(path))
			r->all.arms[r->all.count++].arm = arm;
		else
			log_warn("%s: not there, so the arm %s is not attacked", path, o->spec->arms[arm].name);
	}
	study_run_path(o->spec, o->dir, &(struct study_cell){ 0, o->fold, o->seed }, "", path);
	if (r->all.count == 0)
		return err_set(err, ERR_NOTFOUND, "no weights of fold %d, seed %" PRId64 " were kept in %s; where these runs are done, remove their "
			       "folders (the first is %s), and then trainer study --out %s --keep last trains them and keeps their weights",
			       o->fold, o->spec->seeds[o->seed], o->dir, path, o->dir);
	return 0;
}

int robust_run(const struct robust_options *options, struct err *err)
{
	struct robustness r = { .all = { .options = options } };
	int code;

	if (study_ranks(options->spec))
		return err_set(err, ERR_UNSUPPORTED, "%s: attacks are on pairs and labels; this study is of contrast, which ranks and decides nothing",
			       options->dir);
	if ((code = find_arms(&r, err)) != 0)
		goto out;
	kernels_set_threads(options->threads > 0 ? options->threads : 0);
	progress_begin(&r.bar, "attacking", (uint64_t)r.all.count * (ROBUST_TARGETS * (ROBUST_KINDS * ROBUST_RUNGS + 1) + 1), options->quiet);
	for (int pass = 0; pass < 2 && code == 0; pass++)
		for (int i = 0; i < r.all.count && code == 0; i++)
			code = with_model(&r, &r.all.arms[i], pass == 1, err);
	progress_end(&r.bar, r.done, NULL);
	if (code == 0)
		code = write_all(&r, err);
out:
	for (int i = 0; i < r.all.count; i++)
		for (int t = 0; t < ROBUST_TARGETS; t++)
			attack_examples_close(&r.all.arms[i].examples[t]);
	attack_data_close(&r.data);
	mem_free(r.all.arms);
	return code;
}
