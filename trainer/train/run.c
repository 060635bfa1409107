/* Setting a run up, and ending it. The steps are in loop.c, the folder in run_folder.c, what is trained and measured on in run_data.c. */
#include "trainer/train/run.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "shared/base/fs.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "shared/base/plural.h"
#include "trainer/io/weights.h"
#include "trainer/kernels/kernels.h"
#include "trainer/kernels/profile.h"
#include "trainer/train/outcome.h"
#include "trainer/train/session.h"

enum { FEATURES_WAIT_S = 600 /* as streams do by default */ };

/* ---- configuration ---- */

static int adopt_recorded(struct session *s, bool *adopted, struct err *err)
{
	struct run_config recorded;
	struct about_data data;
	bool lost;
	int code = record_read_config(s->dir, &recorded, &data, &lost, err);

	if (code == ERR_NOTFOUND && !checkpoint_exists(s->dir)) {
		if (s->config.data != NULL)
			log_info("%s holds no run yet: starting at the beginning", s->dir);
		code = 0;
	} else if (code == 0 && !checkpoint_exists(s->dir) && record_is_finished(s->dir)) {
		code = err_set(err, ERR_EXISTS, "--out %s: the run in it is finished and has no checkpoint to go on from (--no-weights leaves "
			       "none); choose another --out, or remove the folder to train it again", s->dir);
	} else if (code == 0) {
		if (lost)
			log_warn("%s/run.json is missing or damaged; the newest checkpoint says what the run was configured to do", s->dir);
		if (recorded.vocab == NULL && s->config.vocab != NULL && strcmp(s->config.vocab, data.vocab) == 0)
			s->config.vocab = NULL; /* the data set's own, said by name */
		code = run_config_adopt(&s->config, &recorded, s->options->given, s->dir, err);
		*adopted = code == 0;
		snprintf(s->vocab_name, sizeof(s->vocab_name), "%s", data.vocab);
		if (code == 0 && s->config.threads != recorded.threads)
			log_warn("the run was started with %lld threads: with %lld the last bits of its results will differ",
				 (long long)recorded.threads, (long long)s->config.threads);
	}
	run_config_free(&recorded);
	return code;
}

static bool has_dropout(const struct session *s)
{
	for (int site = 0; site < DROP_SITES; site++)
		if (s->plan.reg.dropout[site].on)
			return true;
	return s->plan.reg.depth.on || (s->config.bert_dropout > 0 && !s->plan.freeze_text);
}

/* What was asked for and changes nothing deserves a word. */
static void warn_of_idle_options(const struct session *s)
{
	const struct run_config *c = &s->config;

	if (s->options->given[run_field_index("momentum")] && s->plan.optimizer != OPTIMIZER_SGD)
		log_warn("--momentum is sgd's; %s does not use it", c->optimizer);
	if (s->plan.negatives != NEGATIVES_ALL && s->plan.task == TASK_CLASSIFY)
		log_warn("--negatives %s is for --task match; labels have no wrong captions", c->negatives);
	else if (s->plan.negatives != NEGATIVES_ALL && s->plan.negatives > c->batch_size - 1)
		log_warn("--negatives %s: a batch of %lld samples has %lld at most for each picture", c->negatives, (long long)c->batch_size,
			 (long long)c->batch_size - 1);
	if (s->options->given[run_field_index("bert-dropout")] && c->bert_dropout > 0 && s->plan.freeze_text)
		log_warn("--bert-dropout %g: the frozen text tower runs without dropout", c->bert_dropout);
	if (strcmp(c->feature_cache, "off") == 0 && !s->plan.freeze_image && !s->plan.freeze_text)
		log_warn("--feature-cache off is for features of frozen towers (--freeze); none is frozen");
	if (s->options->recompute && s->plan.freeze_image && s->plan.freeze_text)
		log_warn("--recompute: frozen towers keep nothing for a backward pass, so there is nothing to compute again");
	if (s->plan.reg.rdrop.on && !has_dropout(s))
		log_warn("--reg %s: rdrop compares two passes that differ by dropout, and there is none (add dropout, or --bert-dropout)", c->reg);
}

static int configure(struct session *s, struct err *err)
{
	bool recorded = false;
	int code;

	if (s->options->out != NULL) {
		if (snprintf(s->dir, sizeof(s->dir), "%s", s->options->out) >= (int)sizeof(s->dir) || s->dir[0] == '\0')
			return err_set(err, ERR_USAGE, "--out: the path is empty or longer than %d bytes", SESSION_PATH_BYTES - 1);
	} else if ((code = run_folder_default(&s->config, s->dir, sizeof(s->dir), err)) != 0) {
		return code;
	}
	if (s->options->resume && (code = adopt_recorded(s, &recorded, err)) != 0)
		return code;
	if (s->options->resume && !recorded && s->config.data == NULL)
		return err_set(err, ERR_USAGE, "--resume --out %s: there is no run to go on with (no run.json and no checkpoint in it); check the "
			       "folder, or say with --data what to begin there", s->dir);
	if ((code = run_config_resolve(&s->config, &s->plan, err)) != 0 ||
	    (code = run_config_model(&s->config, s->plan.task, recorded, &s->model_config, err)) != 0)
		return code;
	warn_of_idle_options(s);
	char beside[RUN_CONFIG_PATH_BYTES];
	const char *text = recorded ? NULL : run_config_text_path(&s->config, beside);

	if (text != NULL)
		log_info("text tower as %s says: %d layers of width %d", text, s->model_config.text.layers, s->model_config.text.width);
	if (s->config.max_len > s->model_config.text.max_positions)
		return err_set(err, ERR_USAGE, "--max-len %lld: the text tower has %d positions", (long long)s->config.max_len,
			       s->model_config.text.max_positions);
	return s->options->dry_run ? 0 : run_folder_check(s, err);
}

/* ---- model ---- */

static int open_buffers(struct session *s, struct err *err)
{
	size_t batch = (size_t)step_batch_samples(s);
	size_t running = s->params->buffer_elements;

	s->picture_positions = mem_array(batch, sizeof(*s->picture_positions));
	s->caption_positions = mem_array(batch, sizeof(*s->caption_positions));
	s->correct = mem_array((size_t)s->pairs->capacity, 1);
	if (s->config.accumulate > 1) {
		s->buffers = model_alloc(running + 1);
		s->counters = mem_array((size_t)s->params->count, sizeof(*s->counters));
	}
	if (s->picture_positions == NULL || s->caption_positions == NULL || s->correct == NULL ||
	    (s->config.accumulate > 1 && (s->buffers == NULL || s->counters == NULL)))
		return err_nomem(err, running * sizeof(float));
	return 0;
}

/* What regularizers carry from step to step lies in checkpoints beside the optimizer's moments. */
static void attach_states(struct session *s)
{
	struct objective_state states[ADV_TARGETS];
	int count = objective_states(s->objective, states);

	for (int i = 0; i < count; i++)
		optimizer_attach(s->optimizer, states[i].name, states[i].data, states[i].rows, states[i].width);
}

/* No batch has more samples than its part of the data set, however many were asked for. */
static void plan_limits(struct session *s)
{
	const int batch = (int)step_batch_samples(s), len = (int)s->config.max_len;
	const uint32_t asked = (uint32_t)s->config.batch_size, most = (uint32_t)batch;

	s->step_limits = (struct model_limits){ .pictures = batch, .captions = batch, .tokens = batch * len, .tokens_per_caption = len,
						.pairs = (int)pairs_most(s->plan.task, batch, s->plan.negatives), .training = true,
						.recompute = s->options->recompute };
	/* What regularizers carry has the size of these, so they must not depend on options that may change on --resume. */
	validator_limits(&s->step_limits, most, most, most, (uint32_t)len);
	s->step_limits.fused_rows = objective_fused_rows(&s->plan.reg, &s->step_limits);
	s->limits = s->step_limits;
	if (s->validates)
		validator_limits(&s->limits, asked, s->val.pictures, s->val.captions, (uint32_t)len);
	if (s->config.predictions == 1)
		validator_limits(&s->limits, asked, s->train.pictures, s->train.captions, (uint32_t)len);
}

static int open_model(struct session *s, struct err *err)
{
	struct optimizer_config optimizer = { .kind = s->plan.optimizer, .momentum = s->config.momentum };
	int batch = (int)step_batch_samples(s);
	int code;

	if (s->model_config.text.vocab_size == 0)
		s->model_config.text.vocab_size = (int)s->vocab_size;
	else if ((uint32_t)s->model_config.text.vocab_size < s->vocab_size)
		return err_set(err, ERR_MISMATCH, "the text tower has embeddings of %d words, the vocabulary %s %u; name the vocabulary that the "
			       "weights were made with by --vocab", s->model_config.text.vocab_size, s->vocab_name, s->vocab_size);
	s->model_config.text.pad_id = s->pad_id;
	s->model_config.freeze_image = s->plan.freeze_image;
	s->model_config.freeze_text = s->plan.freeze_text;
	if ((code = model_check_batch(&s->model_config, batch, err)) != 0)
		return code;
	s->model_config.classes = s->plan.task == TASK_CLASSIFY ? (int)s->label_count : s->plan.task == TASK_MATCH ? 2 : 1;
	plan_limits(s);
	s->ops = kernels_fast()->vector;
	if ((code = model_open(&s->model, &s->model_config, &s->limits, err)) != 0)
		return code;
	s->params = model_params(s->model);
	s->grads_clear = true; /* fresh memory is */
	if ((code = initial_weights(s, err)) != 0 ||
	    (code = stages_open(&s->stages, s->model, &s->step_limits, s->ops, err)) != 0 ||
	    (code = pairs_open(&s->pairs, s->plan.task, batch, s->plan.negatives, err)) != 0 ||
	    (code = decay_spans_init(&s->spans, s->params, s->plan.reg.l2.all, err)) != 0 ||
	    (code = optimizer_open(&s->optimizer, &optimizer, s->params, &s->spans, s->ops, err)) != 0 ||
	    (code = objective_open(&s->objective, &s->plan.reg, &s->model_config, &s->step_limits, err)) != 0 ||
	    (s->plan.reg.sam.on && (code = sam_open(&s->sam, &s->plan.reg.sam, s->params, s->config.accumulate > 1, err)) != 0) ||
	    (s->validates && (code = validator_open(&s->validator, s->model, &s->limits, s->ops, s->val.pictures, s->val.captions,
						    (uint32_t)s->config.batch_size, err)) != 0))
		return code;
	attach_states(s);
	return open_buffers(s, err);
}

/* ---- frozen towers ---- */

static int open_source(struct session *s, const struct part *part, struct source **out, struct err *err)
{
	char settings[128];
	struct source_options options = {
		.encoder = s->encoder, .features = s->model_config.features, .images = s->plan.freeze_image, .texts = s->plan.freeze_text,
		.tables = s->plan.feature_cache, .blank = s->options->dry_run && s->plan.feature_cache, .settings = settings,
		.version = s->version, .wait_s = FEATURES_WAIT_S,
		.feed = {
			.socket = s->socket, .client_name = s->client_name, .dataset = s->config.data, .split = part->split,
			.vocab = s->vocab_name, .batch_size = (uint32_t)s->config.batch_size, .quiet = s->options->quiet,
			.exif_apply = s->plan.exif_apply, .image_size = (uint32_t)s->config.image_size, .max_len = (uint32_t)s->config.max_len,
			.cancelled = s->options->cancelled, .cancel_context = s->options->cancel_context,
		},
	};

	snprintf(settings, sizeof(settings), "pixels ImageNet f32, precision %s", s->config.precision);
	return source_open(out, &options, err);
}

/* With the weights that the run goes on with. */
static int open_sources(struct session *s, struct err *err)
{
	int code;

	if (!s->plan.freeze_image && !s->plan.freeze_text)
		return 0;
	if ((s->plan.freeze_image && s->plan.freeze_text && (code = best_open(&s->best, s->params, s->ops, err)) != 0) ||
	    (code = encoder_open(&s->encoder, s->model, (int)s->config.max_len, err)) != 0 ||
	    (code = open_source(s, &s->train, &s->train_source, err)) != 0 ||
	    (s->validates && (code = open_source(s, &s->val, &s->val_source, err)) != 0))
		return code;
	return 0;
}

/* ---- progress ---- */

static void plan_steps(struct session *s)
{
	uint64_t each = (uint64_t)s->config.accumulate;

	s->steps_per_epoch = (s->train.steps + each - 1) / each;
	s->steps_total = s->config.steps > 0 ? (uint64_t)s->config.steps : (uint64_t)s->config.epochs * s->steps_per_epoch;
	if (s->config.warmup < 0)
		s->config.warmup = (int64_t)schedule_default_warmup(s->steps_total);
	s->schedule = (struct schedule){ .kind = s->plan.schedule, .base = s->config.lr, .warmup = (uint64_t)s->config.warmup,
					 .total = s->steps_total };
	s->progress = (struct checkpoint_progress){ .chain = s->version };
	s->written_step = UINT64_MAX;
}

/* The data must be what the run was started on, whatever its name says. */
static int check_same_data(const struct session *s, struct err *err)
{
	struct run_config recorded;
	struct about_data data;
	bool lost;
	int code = record_read_config(s->dir, &recorded, &data, &lost, err);

	run_config_free(&recorded);
	if (code == ERR_NOTFOUND)
		return 0;
	if (code == 0 && !hash_equal(&data.version, &s->version))
		code = err_set(err, ERR_MISMATCH,
			       "data set %s is not the version that the run in %s was started on; add that one again, or start a new run "
			       "with another --out",
			       s->config.data, s->dir);
	if (code == 0 && !hash_equal(&data.vocab_hash, &s->vocab))
		code = err_set(err, ERR_MISMATCH, "the vocabulary %s is not the one that the run in %s was started with", s->vocab_name,
			       s->dir);
	return code;
}

static bool is_complete(const struct session *s)
{
	return (s->progress.step >= s->steps_total || loop_stopped_early(s)) && (s->progress.validated || !s->validates);
}

static int restore(struct session *s, struct err *err)
{
	const struct checkpoint_progress fresh = s->progress;
	bool found;
	int code;

	if ((code = check_same_data(s, err)) != 0 ||
	    (code = checkpoint_restore(s->dir, s->params, s->optimizer, &s->progress, &found, err)) != 0)
		return code;
	if (!found)
		return 0;
	optimizer_set_steps(s->optimizer, objective_updates(&s->plan.reg, s->progress.step, s->steps_per_epoch));
	if (!s->progress.has_init) {
		s->progress.has_init = fresh.has_init;
		s->progress.init = fresh.init;
	}
	s->progress.epoch = s->progress.step / s->steps_per_epoch;
	s->written_step = s->progress.step;
	s->written_validated = s->progress.validated;
	if (is_complete(s))
		log_info("the run in %s is complete: %s %llu steps are done, nothing is left to do", s->dir,
			 loop_stopped_early(s) ? "it stopped early," : "all of its", (unsigned long long)s->progress.step);
	else
		log_info("going on at step %llu of %llu (epoch %llu)", (unsigned long long)s->progress.step,
			 (unsigned long long)s->steps_total, (unsigned long long)s->progress.epoch);
	return 0;
}

static int open_outputs(struct session *s, struct err *err)
{
	char path[SESSION_PATH_BYTES + 32];
	int code;

	snprintf(path, sizeof(path), "%s/metrics.jsonl", s->dir);
	if ((code = record_about(s, err)) != 0 || (code = record_write(s, "running", err)) != 0 ||
	    (code = metrics_open(&s->metrics, path, s->progress.step, s->progress.validated, err)) != 0)
		return code;
	snprintf(path, sizeof(path), "%s/tensorboard", s->dir);
	if ((code = fs_mkdirs(path, 0777, err)) != 0 ||
	    (code = tensorboard_cut(path, s->progress.step, s->progress.validated, err)) != 0)
		return code;
	return is_complete(s) ? 0 : tensorboard_open(&s->tensorboard, path, s->progress.step, err);
}

/* ---- the whole ---- */

static void announce(const struct session *s)
{
	const int64_t samples = step_batch_samples(s) * step_batches(s);
	char reg[REG_TEXT_BYTES];

	reg_spec_text(&s->plan.reg, reg);
	log_info("%s (%u picture%s, %u caption%s), preset %s at %lld px, reg %s", s->config.data, s->train.pictures, plural(s->train.pictures),
		 s->train.captions, plural(s->train.captions), s->config.preset, (long long)s->config.image_size, reg);
	if (reg_spec_too_late(&s->plan.reg, (s->steps_total + s->steps_per_epoch - 1) / s->steps_per_epoch, reg))
		log_warn("--reg %s: %s never works: epochs count from 0, and training ends before it begins", s->config.reg, reg);
	if (s->config.warmup >= (int64_t)s->steps_total)
		log_warn("--warmup %lld: training ends after %llu step%s, before the rate has risen to --lr %g", (long long)s->config.warmup,
			 (unsigned long long)s->steps_total, plural(s->steps_total), s->config.lr);
	log_info("%llu step%s of %lld sample%s, %llu an epoch, %d thread%s; writing to %s", (unsigned long long)s->steps_total,
		 plural(s->steps_total), (long long)samples, plural((uint64_t)samples), (unsigned long long)s->steps_per_epoch, s->threads,
		 plural((uint64_t)s->threads), s->dir);
}

/* A run that ends early: what was reached is kept, and the message says how to go on. */
static int end_early(struct session *s, int code, struct err *err)
{
	struct err second = { 0 };
	bool stopped = code == ERR_CANCELLED;
	/* What the daemon said or did not say leaves the run between two steps; a full disk or a loss that is not finite does not. */
	bool whole = stopped || code == ERR_UNAVAILABLE || code == ERR_MISMATCH || code == ERR_PROTOCOL || code == ERR_NOTFOUND;

	if (!whole) {
		struct err first = *err;

		if (record_write(s, s->diverged ? "diverged" : "failed", &second) != 0)
			log_warn("%s", second.message);
		if (code == ERR_FULL && checkpoint_exists(s->dir))
			return err_set(err, code, "%.500s; make room and go on from the last checkpoint with: trainer --resume --out %.300s",
				       first.message, s->dir);
		return code;
	}
	if (loop_checkpoint(s, &second) != 0 || record_write(s, "interrupted", &second) != 0) {
		if (!stopped)
			log_error("%s", err->message);
		return err_set(err, second.code, "%.500s; stopped after step %llu without a checkpoint of it; go on from the one before with: "
			       "trainer --resume --out %.300s", second.message, (unsigned long long)s->progress.step, s->dir);
	}
	if (stopped)
		return err_set(err, ERR_CANCELLED, "stopped after step %llu; the checkpoint is written. Go on with: trainer --resume --out %s",
			       (unsigned long long)s->progress.step, s->dir);
	return err_prefix(err, "stopped after step %llu with a checkpoint (go on with trainer --resume --out %s)",
			  (unsigned long long)s->progress.step, s->dir);
}

static void fill_result(const struct session *s, struct run_result *result)
{
	const struct checkpoint_progress *p = &s->progress;

	*result = (struct run_result){
		.steps = p->step, .epochs = p->step / s->steps_per_epoch, .train_seconds = p->train_seconds,
		.has_val = p->has_val, .accuracy = p->val_accuracy, .loss = p->val_loss, .has_best = p->has_best,
		.best_accuracy = p->best_accuracy, .best_loss = p->best_loss, .best_step = p->best_step,
		.early = s->plan.reg.early.on, .stopped_early = loop_stopped_early(s), .no_weights = s->options->no_weights,
	};
	snprintf(result->dir, sizeof(result->dir), "%s", s->dir);
}

static int profile_write(const struct session *s, struct err *err)
{
	char path[SESSION_PATH_BYTES + 16];

	snprintf(path, sizeof(path), "%s/profile.json", s->dir);
	return profile_report(s, path, err);
}

/* The result of a run with early stopping is the best validation's. */
static int use_best(struct session *s, struct err *err)
{
	char path[SESSION_PATH_BYTES + 32];
	struct weights_report report = { 0 };
	int code;

	if (!s->plan.reg.early.on || !s->progress.has_best || s->progress.best_step == s->progress.step)
		return 0;
	snprintf(path, sizeof(path), "%s/best.safetensors", s->dir);
	code = weights_load(s->params, path, WEIGHTS_STATE, &report, err);
	weights_report_free(&report);
	return code;
}

static int last_checkpoint(struct session *s, struct err *err)
{
	int code;

	if (loop_wants_last(s))
		return loop_checkpoint(s, err);
	if ((code = metrics_sync(s->metrics, err)) != 0)
		return code;
	return s->tensorboard == NULL ? 0 : tensorboard_sync(s->tensorboard, err);
}

static int train(struct session *s, struct run_result *result, struct err *err)
{
	struct err second = { 0 };
	bool was_finished = s->options->resume && record_is_finished(s->dir);
	int code;

	if ((code = run_folder_take(s, err)) != 0 || (s->options->resume && (code = restore(s, err)) != 0) ||
	    (code = open_outputs(s, err)) != 0)
		return code;
	if (!is_complete(s))
		announce(s);
	/* Of a run that is complete only predictions are measured again. */
	if ((!is_complete(s) || s->config.predictions == 1) && (code = open_sources(s, err)) != 0)
		return end_early(s, code, err);
	progress_begin(&s->bar, "training", s->steps_total, s->options->quiet || is_complete(s));
	progress_update(&s->bar, s->progress.step, NULL);
	code = loop_run(s, err);
	progress_end(&s->bar, s->progress.step, NULL);
	if (code == 0)
		code = last_checkpoint(s, err);
	if (code == 0 && s->config.predictions == 1 && (code = use_best(s, err)) == 0)
		code = outcome_measure(s, err);
	if (s->options->profile && profile_write(s, &second) != 0)
		log_warn("%s", second.message);
	if (code != 0)
		return end_early(s, code, err);
	fill_result(s, result);
	if ((code = record_write(s, "finished", err)) == 0 && s->options->no_weights && checkpoint_remove_all(s->dir) && was_finished)
		log_warn("--no-weights: the weights that the finished run in %s had are removed", s->dir);
	return code;
}

static void session_close(struct session *s)
{
	if (s == NULL)
		return;
	tensorboard_close(s->tensorboard);
	metrics_close(s->metrics);
	validator_close(s->validator);
	best_close(s->best);
	source_close(s->train_source);
	source_close(s->val_source);
	encoder_close(s->encoder);
	objective_close(s->objective);
	sam_close(s->sam);
	optimizer_close(s->optimizer);
	decay_spans_free(&s->spans);
	pairs_close(s->pairs);
	stages_close(&s->stages);
	model_release(s->buffers);
	mem_free(s->counters);
	mem_free(s->picture_positions);
	mem_free(s->caption_positions);
	mem_free(s->correct);
	model_close(s->model);
	feed_close(s->feed);
	about_classes_free(&s->classes);
	buf_free(&s->about_config);
	buf_free(&s->about_model);
	buf_free(&s->about_dataset);
	mem_free(s->socket);
	if (s->lock >= 0)
		close(s->lock);
	run_config_free(&s->config);
	mem_free(s);
}

int run_train(struct run_options *options, struct run_result *result, struct err *err)
{
	struct session *s = mem_zalloc(sizeof(*s));
	int code;

	*result = (struct run_result){ .dir = "" };
	if (s == NULL)
		return err_nomem(err, sizeof(*s));
	s->options = options;
	s->config = options->config;
	memset(options->config.owned, 0, sizeof(options->config.owned));
	s->lock = -1;
	if ((code = configure(s, err)) != 0)
		goto out;
	if (options->profile)
		profile_turn_on();
	kernels_set_precision(s->config.precision);
	s->threads = kernels_set_threads(s->config.threads > 0 ? (int)s->config.threads : 0);
	s->config.threads = s->threads;
	if ((code = run_data_open(s, err)) != 0)
		goto out;
	plan_steps(s);
	if ((code = open_model(s, err)) != 0)
		goto out;
	if (options->dry_run)
		code = open_sources(s, err);
	if (code == 0)
		code = options->dry_run ? plan_print(s, err) : train(s, result, err);
out:
	session_close(s);
	return code;
}
