/* Optimizer steps, one after the other; what follows a step; when to stop. */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "trainer/kernels/profile.h"
#include "trainer/reg/dropout.h"
#include "trainer/train/clip.h"
#include "trainer/reg/early.h"
#include "trainer/train/session.h"

/* Beside the checkpoints at the end of epochs: so much work at most is lost to a SIGKILL. */
static const double checkpoint_seconds = 300;
/* With both towers frozen, where epochs are short: in the place of the ends of epochs (best.h). */
static const double quick_checkpoint_seconds = 20;
static const double daemon_wait_seconds = 600; /* as streams do by default */

enum { BOARD_MAX = 16 };

/* What one optimizer step summed up over its micro-batches. */
struct step_sums {
	double loss, accuracy;  /* of batches with something to learn */
	uint32_t batches, samples;
	struct objective_report report; /* sums of what the regularizers say */
	double sam_loss;
};

static bool cancelled(const struct session *s)
{
	return s->options->cancelled != NULL && s->options->cancelled(s->options->cancel_context);
}

/* ---- one micro-batch ---- */

/* Names every picture and caption by its place in the optimizer step's batch. */
static void set_positions(struct session *s, const struct batch *batch, uint32_t first)
{
	/* Downwards: a picture that several samples share has the place of the first. */
	for (uint32_t i = batch->count; i-- > 0;) {
		s->caption_positions[i] = first + i;
		s->picture_positions[batch->image_index[i]] = first + i;
	}
}

static void fill_stages(struct session *s, const struct batch *batch, uint64_t step, float scale)
{
	struct stages *stages = &s->stages;

	stages->image_frozen = s->plan.freeze_image;
	stages->text_frozen = s->plan.freeze_text;
	stages->pixels = batch->pixels;
	stages->nhwc = feed_nhwc(s->feed);
	stages->pictures = (int)batch->image_count;
	stages->ids = batch->ids;
	stages->offsets = batch->offsets;
	stages->captions = (int)batch->count;
	stages->tokens = (int)batch->token_count;
	stages->picture_positions = s->picture_positions;
	stages->caption_positions = s->caption_positions;
	stages->pairs = &s->pairs->list;
	stages->seed = (uint64_t)s->config.seed;
	stages->step = step;
	stages->dropout = true;
	stages->scale = scale;
}

/* Of the clean pass. Contrast: rows and columns whose own one is the nearest. */
static double batch_accuracy(struct session *s, const struct model_result *result)
{
	if (s->plan.task == TASK_CONTRAST)
		return result->correct / (2.0 * s->pairs->list.count);
	s->ops->row_correct(s->stages.logits, s->pairs->label, s->pairs->list.count, s->model_config.classes, s->correct);
	return pairs_accuracy(s->pairs, s->correct);
}

static int next_batch(struct session *s, const struct batch **out, struct err *err)
{
	enum profile_part before = profile_enter(PART_DATA);
	uint64_t began = profile_begin();
	int code = feed_next(s->feed, out, err);

	profile_end(began, KIND_DATA_WAIT);
	profile_leave(before);
	return code;
}

/* Wakes the daemon, which may take the core at once. */
static void give_back(struct session *s)
{
	enum profile_part before = profile_enter(PART_DATA);
	uint64_t began = profile_begin();

	feed_release(s->feed);
	profile_end(began, KIND_DATA_WAIT);
	profile_leave(before);
}

/* Once: where it happens again and again, the run learns to say yes. */
static void warn_of_no_negatives(struct session *s, uint64_t step)
{
	if (s->plan.task != TASK_MATCH || s->pairs->negatives > 0 || s->said_no_negatives)
		return;
	log_warn("step %llu: all captions of the batch are the same (of at most %lld tokens), so no picture has a wrong one to be scored with; a "
		 "larger --batch-size or --max-len helps where that is more than chance", (unsigned long long)step, (long long)s->config.max_len);
	s->said_no_negatives = true;
}

static void choose_pairs(struct session *s, const struct batch *batch, uint64_t step, uint32_t first)
{
	enum profile_part before = profile_enter(PART_DATA);
	uint64_t began = profile_begin();

	if (s->plan.task == TASK_MATCH)
		pairs_match(s->pairs, batch, s->plan.negatives, (uint64_t)s->config.seed, step, first);
	else if (s->plan.task == TASK_CONTRAST)
		pairs_contrast(s->pairs, batch);
	else
		pairs_classify(s->pairs, batch);
	warn_of_no_negatives(s, step);
	profile_end(began, KIND_CHOOSE);
	profile_leave(before);
}

/* Of frozen towers. */
static int take_features(struct session *s, const struct batch *batch, struct err *err)
{
	int code = 0;

	if (s->plan.freeze_image)
		code = source_pictures(s->train_source, batch, feed_nhwc(s->feed), NULL, s->stages.v, err);
	if (code == 0 && s->plan.freeze_text)
		code = source_captions(s->train_source, batch, s->stages.t, err);
	return code;
}

static int diverged(struct session *s, uint64_t step, double lr, struct err *err)
{
	s->diverged = true;
	return err_set(err, ERR_LIMIT,
		       "step %llu: the loss or its gradient is not finite (lr %g); nothing of this step was kept. Try a lower --lr, "
		       "a longer --warmup or --clip 1%s",
		       (unsigned long long)step, lr, s->plan.reg.adv.on ? ", or a smaller eps of adv" : "");
}

/* Clipping and the optimizer's step on what lies in the gradients; NaN shows in the loss or the norm. */
static int update_weights(struct session *s, const struct reg_moment *moment, double loss, double *norm, struct err *err)
{
	double lr = schedule_lr(&s->schedule, moment->step);

	reg_l2_add_gradient(&s->spans, reg_l2_coupled(&s->plan.reg, moment->epoch), s->params, s->ops);
	*norm = sqrt(s->ops->sum_squares(s->params->grads, s->params->trained_elements));
	if (!isfinite(*norm) || !isfinite(loss))
		return diverged(s, moment->step, lr, err);
	optimizer_step(s->optimizer, lr, reg_l2_decoupled(&s->plan.reg, moment->epoch), clip_coefficient(*norm, s->config.clip));
	model_settle(s->model);
	return 0;
}

static void add_report(struct step_sums *sums, const struct objective_report *report)
{
	struct objective_report *to = &sums->report;

	to->objective += report->objective;
	to->rdrop_kl += report->rdrop_kl;
	to->adv_loss += report->adv_loss;
	to->adv_kl += report->adv_kl;
	for (int t = 0; t < ADV_TARGETS; t++)
		to->ratio[t] += report->ratio[t];
	to->adv_seconds += report->adv_seconds;
	to->rdrop = report->rdrop;
	to->adv = report->adv;
}

/* adv:method=free: the same batch again, after an update of the weights each time. */
static int replay(struct session *s, const struct reg_moment *moment, struct objective_report *report, struct err *err)
{
	double norm;
	int code;

	for (int i = 1; i < objective_replays(s->objective); i++) {
		double began = clock_seconds();

		if ((code = update_weights(s, moment, report->adv_loss, &norm, err)) != 0)
			return code;
		/* A step without the adversary updates once, and that comes behind. */
		report->adv_seconds += clock_seconds() - began;
		objective_replay(s->objective, &s->stages, report);
	}
	return 0;
}

static int learn(struct session *s, const struct reg_moment *moment, struct step_sums *sums, struct err *err)
{
	struct stages *stages = &s->stages;
	struct objective_report report;
	const struct reg_sam *sam = &s->plan.reg.sam;
	int code;

	if (reg_active(sam->on, sam->when, moment->epoch))
		sums->sam_loss += sam_run(s->sam, s->objective, stages, MODEL_TRAIN, &report);
	else
		objective_run(s->objective, stages, MODEL_TRAIN, &report);
	double accuracy = batch_accuracy(s, &report.clean);
	if ((code = replay(s, moment, &report, err)) != 0)
		return code;
	add_report(sums, &report);
	sums->loss += report.clean.loss;
	sums->accuracy += accuracy;
	sums->batches++;
	return 0;
}

static int micro_step(struct session *s, const struct reg_moment *moment, uint64_t micro, uint32_t place, uint32_t places,
		      struct step_sums *sums, struct err *err)
{
	uint64_t step = moment->step, epoch = moment->epoch;
	const struct batch *batch;
	uint32_t first = place * (uint32_t)s->config.batch_size;
	int code;

	if ((code = next_batch(s, &batch, err)) != 0)
		return code;
	if (batch == NULL || batch->epoch != epoch || batch->step != micro)
		return err_set(err, ERR_PROTOCOL, "the daemon sent another batch than epoch %llu, step %llu",
			       (unsigned long long)epoch, (unsigned long long)micro);
	choose_pairs(s, batch, step, first);
	feed_chain(&s->progress.chain, &batch->digest);
	sums->samples += batch->count;
	if (s->pairs->list.count > 0) {
		set_positions(s, batch, first);
		fill_stages(s, batch, step, 1.0f / (float)places);
		if ((code = take_features(s, batch, err)) == 0)
			code = learn(s, moment, sums, err);
	}
	give_back(s);
	return code;
}

/* ---- one optimizer step ---- */

int64_t loop_step_batches(const struct session *s)
{
	return s->train.steps < (uint64_t)s->config.accumulate ? (int64_t)s->train.steps : s->config.accumulate;
}

int64_t loop_batch_samples(const struct session *s)
{
	return s->train.pictures < (uint64_t)s->config.batch_size ? (int64_t)s->train.pictures : s->config.batch_size;
}

/* Running statistics change with every micro-batch: a step that is given up
 * half way must leave no trace, or the resumed run would differ. */
static void keep_buffers(struct session *s, bool restore)
{
	struct params *params = s->params;
	float *now = params->values + params->trained_elements;
	size_t count = params->buffer_elements;

	if (s->buffers == NULL)
		return;
	s->ops->copy(restore ? now : s->buffers, restore ? s->buffers : now, count);
	for (int i = 0; i < params->count; i++) {
		if (restore)
			params->all[i].counter = s->counters[i];
		else
			s->counters[i] = params->all[i].counter;
	}
}

static int gradients(struct session *s, const struct reg_moment *moment, struct step_sums *sums, struct err *err)
{
	uint64_t first = moment->step % s->steps_per_epoch * (uint64_t)s->config.accumulate;
	uint64_t left = s->train.steps - first;
	uint32_t places = left < (uint64_t)s->config.accumulate ? (uint32_t)left : (uint32_t)s->config.accumulate;
	struct hash chain = s->progress.chain;
	int code;

	*sums = (struct step_sums){ 0 };
	keep_buffers(s, false);
	if (!s->grads_clear)
		s->ops->fill(s->params->grads, s->params->trained_elements, 0.0f);
	s->grads_clear = false;
	objective_begin(s->objective, s->model, moment);
	for (uint32_t place = 0; place < places; place++)
		if ((code = micro_step(s, moment, first + place, place, places, sums, err)) != 0) {
			s->progress.chain = chain;
			if (place > 0)
				keep_buffers(s, true);
			return code;
		}
	return 0;
}

static void fill_regularizers(const struct session *s, struct metrics_train *line, const struct objective_report *sums, double batches)
{
	const struct reg_spec *reg = &s->plan.reg;

	line->adv = sums->adv;
	line->adv_kl_on = sums->adv && (reg->adv.method == ADV_VILLA || reg->adv.method == ADV_SMART);
	line->rdrop = sums->rdrop;
	line->sam = reg_active(reg->sam.on, reg->sam.when, line->epoch);
	line->objective_on = sums->adv || sums->rdrop || reg_active(reg->smooth.on, reg->smooth.when, line->epoch) ||
			     reg_active(reg->mixup.on, reg->mixup.when, line->epoch);
	line->objective = sums->objective / batches;
	line->rdrop_kl = sums->rdrop_kl / batches;
	line->adv_loss = sums->adv_loss / batches;
	line->adv_kl = sums->adv_kl / batches;
	line->targets = reg->adv.targets;
	for (int t = 0; t < ADV_TARGETS; t++)
		line->ratio[t] = sums->ratio[t] / batches;
}

static void fill_line(const struct session *s, struct metrics_train *line, const struct step_sums *sums, double seconds,
		      double waited)
{
	double batches = sums->batches > 0 ? sums->batches : NAN;

	line->loss = sums->loss / batches;
	line->accuracy = sums->accuracy / batches;
	line->samples = sums->samples;
	line->pairs_per_s = sums->samples / seconds;
	line->data_wait_s = waited;
	line->digest = s->progress.chain;
	fill_regularizers(s, line, &sums->report, batches);
	line->sam_loss = sums->sam_loss / batches;
	/* What the step took as a multiple of what it would have taken without the adversary. */
	line->adv_cost = (seconds - waited) / (seconds - waited - sums->report.adv_seconds);
}

static int compute_step(struct session *s, struct metrics_train *line, struct step_sums *sums, struct err *err)
{
	const struct reg_moment moment = { line->step, line->epoch, s->steps_per_epoch };
	enum profile_part before;
	int code = gradients(s, &moment, sums, err);

	if (code != 0)
		return code;
	before = profile_enter(PART_OPTIMIZER);
	line->lr = schedule_lr(&s->schedule, line->step);
	code = update_weights(s, &moment, sums->loss, &line->grad_norm, err);
	s->grads_clear = code == 0;
	profile_leave(before);
	return code;
}

int loop_step(struct session *s, struct metrics_train *line, struct err *err)
{
	double began = clock_seconds(), waited = feed_wait_seconds(s->feed);
	uint64_t step = s->progress.step;
	struct step_sums sums;
	int code;

	*line = (struct metrics_train){ .step = step, .epoch = step / s->steps_per_epoch };
	profile_step_begin();
	code = compute_step(s, line, &sums, err);
	profile_step_end(code == 0);
	if (code != 0)
		return code;
	double seconds = clock_seconds() - began;
	waited = feed_wait_seconds(s->feed) - waited;
	fill_line(s, line, &sums, seconds, waited);
	s->progress.step = step + 1;
	s->progress.epoch = s->progress.step / s->steps_per_epoch;
	s->progress.validated = false;
	s->progress.train_seconds += seconds;
	s->step_total += seconds;
	s->wait_total += waited;
	return 0;
}

/* ---- after a step ---- */

static bool validation_due(const struct session *s)
{
	uint64_t done = s->progress.step;

	if (!s->validates || done == 0 || s->progress.validated)
		return false;
	if (done == s->steps_total)
		return true;
	return s->config.eval_every > 0 ? done % (uint64_t)s->config.eval_every == 0 : done % s->steps_per_epoch == 0;
}

bool loop_stopped_early(const struct session *s)
{
	const struct checkpoint_progress *p = &s->progress;
	struct early_place place = {
		/* A validation that is still due does not count yet. */
		.done = p->validated || p->step == 0 ? p->step : p->step - 1, .best_step = p->has_best ? p->best_step : 0,
		.every = s->config.eval_every > 0 ? (uint64_t)s->config.eval_every : s->steps_per_epoch,
		.steps_per_epoch = s->steps_per_epoch,
	};

	return p->step < s->steps_total && s->validates && early_stops(&s->plan.reg, &place);
}

static void announce_stop(const struct session *s)
{
	if (loop_stopped_early(s))
		log_info("early stopping after step %llu of %llu: the last %lld validations were no better than that after step %llu "
			 "(accuracy %.4f)%s", (unsigned long long)s->progress.step, (unsigned long long)s->steps_total,
			 (long long)s->plan.reg.early.patience, (unsigned long long)s->progress.best_step, s->progress.best_accuracy,
			 s->options->no_weights ? "" : ", whose weights are best.safetensors");
}

/* A daemon that is being started again is waited for, as in the middle of a stream. */
static int open_patiently(struct session *s, const struct feed_options *options, struct feed **out, struct err *err)
{
	const struct timespec pause = { .tv_nsec = 100000000 };
	double until = clock_seconds() + daemon_wait_seconds;
	bool said = false;
	int code;

	while ((code = feed_open(out, options, err)) == ERR_UNAVAILABLE && clock_seconds() < until) {
		if (cancelled(s))
			return err_set(err, ERR_CANCELLED, "stopped");
		if (!said)
			log_warn("%s; waiting for it", err->message);
		said = true;
		nanosleep(&pause, NULL);
	}
	return code;
}

int loop_validate(struct session *s, struct validator *validator, const struct part *part, struct validation *out,
		  struct err *err)
{
	struct feed *feed = NULL;
	struct feed_options options = {
		.socket = s->socket, .client_name = s->client_name, .dataset = s->config.data, .split = part->split,
		.vocab = s->vocab_name, .batch_size = (uint32_t)s->config.batch_size,
		.no_pixels = s->plan.freeze_image && s->plan.feature_cache,
		.exif_apply = s->plan.exif_apply, .image_size = (uint32_t)s->config.image_size, .max_len = (uint32_t)s->config.max_len,
		.cancelled = s->options->cancelled, .cancel_context = s->options->cancel_context,
	};
	int code;

	if ((code = open_patiently(s, &options, &feed, err)) != 0)
		return code;
	if (!hash_equal(&feed_info(feed)->version, &s->version))
		code = err_set(err, ERR_MISMATCH, "data set %s is another version now than at the start of the run; add that one again "
			       "to go on", s->config.data);
	else if (!hash_equal(&feed_info(feed)->vocab, &s->vocab))
		code = err_set(err, ERR_MISMATCH, "the vocabulary %s is another one now than at the start of the run", s->vocab_name);
	validator_take_from(validator, part == &s->val ? s->val_source : s->train_source);
	if (code == 0)
		code = validator_run(validator, feed, s->options->cancelled, s->options->cancel_context, out, err);
	if (code == ERR_FORMAT)
		err_prefix(err, "split %s of %s", part->split, s->config.data);
	feed_close(feed);
	return code;
}

static int validate_and_log(struct session *s, struct err *err)
{
	struct checkpoint_progress *p = &s->progress;
	struct validation val;
	struct metrics_val line;
	int code;

	if ((code = loop_validate(s, s->validator, &s->val, &val, err)) != 0)
		return code;
	/* Outputs that are no numbers make every pair a "no", and an accuracy of just 0.5. */
	bool finite = isfinite(val.loss), best = finite && (!p->has_best || val.accuracy > p->best_accuracy ||
					  (val.accuracy == p->best_accuracy && val.loss < p->best_loss));
	if (best) {
		p->has_best = true;
		p->best_accuracy = val.accuracy;
		p->best_loss = val.loss;
		p->best_step = p->step;
	}
	p->validated = true;
	p->has_val = true;
	p->val_accuracy = val.accuracy;
	p->val_loss = val.loss;
	p->val_pairs = val.pairs;
	if (best && s->best != NULL)
		best_keep(s->best, s->params, p);
	line = (struct metrics_val){
		.step = p->step - 1, .epoch = (p->step - 1) / s->steps_per_epoch, .loss = val.loss, .accuracy = val.accuracy,
		.pairs_per_s = (double)val.samples / val.seconds, .data_wait_s = val.wait_s, .seconds = val.seconds,
		.pairs = val.pairs, .digest = val.chain, .best = best, .recalls = val.has_recalls,
	};
	static_assert(sizeof(line.image_to_text) == sizeof(val.image_to_text), "recalls");
	memcpy(line.image_to_text, val.image_to_text, sizeof(line.image_to_text));
	memcpy(line.text_to_image, val.text_to_image, sizeof(line.text_to_image));
	s->has_recalls = val.has_recalls;
	s->recall_at_10[0] = val.image_to_text[2];
	s->recall_at_10[1] = val.text_to_image[2];
	if ((code = metrics_add_val(s->metrics, &line, err)) != 0)
		return code;
	if (!finite) {
		s->diverged = true;
		return err_set(err, ERR_LIMIT, "the validation after step %llu: its loss is not finite, so the model's outputs overflow. Try a lower "
			       "--lr, a longer --warmup or --clip 1", (unsigned long long)(p->step - 1));
	}
	const struct tensorboard_scalar scalars[] = { { "val/loss", val.loss }, { "val/accuracy", val.accuracy } };
	return tensorboard_add(s->tensorboard, line.step, scalars, ARRAY_LEN(scalars), err);
}

static void epoch_line(struct session *s)
{
	uint64_t done = s->progress.step, epoch = (done - 1) / s->steps_per_epoch;
	char val[160] = "", train[EPOCH_TEXT_BYTES], adv[EPOCH_TEXT_BYTES];

	if (s->epoch.steps == 0 || (done % s->steps_per_epoch != 0 && done != s->steps_total))
		return;
	if (s->progress.has_val && s->progress.validated)
		snprintf(val, sizeof(val), "; val loss %.4f, accuracy %.4f%s", s->progress.val_loss, s->progress.val_accuracy,
			 s->progress.best_step == done ? " (best)" : "");
	if (val[0] != '\0' && s->has_recalls)
		snprintf(val + strlen(val), sizeof(val) - strlen(val), ", recall at 10: %.3f to text, %.3f to image", s->recall_at_10[0],
			 s->recall_at_10[1]);
	epoch_sums_text(&s->epoch, train);
	epoch_sums_adv_text(&s->epoch, adv);
	log_info("epoch %llu done: %s%s%s; %.0f s", (unsigned long long)epoch, train, val, adv, clock_seconds() - s->epoch_began);
	s->epoch = (struct epoch_sums){ 0 };
	s->epoch_began = clock_seconds();
}

/* The last update is seen by no further step, and by a validation only where there is one. */
static int check_weights(struct session *s, struct err *err)
{
	if (s->ops->all_finite(s->params->values, s->params->value_elements))
		return 0;
	s->diverged = true;
	return err_set(err, ERR_LIMIT, "after step %llu some weights are not finite. Try a lower --lr, a longer --warmup or --clip 1",
		       (unsigned long long)(s->progress.step - 1));
}

int loop_checkpoint(struct session *s, struct err *err)
{
	struct checkpoint_about about = { s->about_config.data, s->about_model.data, s->about_dataset.data };
	int code;

	if (s->written_step == s->progress.step && s->written_validated == s->progress.validated)
		return 0;
	if ((code = check_weights(s, err)) != 0)
		return code;
	if ((s->best != NULL && (code = best_write(s->best, s->dir, s->params, s->progress.step, &about, err)) != 0) ||
	    (code = metrics_sync(s->metrics, err)) != 0 || (code = tensorboard_sync(s->tensorboard, err)) != 0 ||
	    (code = checkpoint_write(s->dir, s->params, s->optimizer, &s->progress, &about, err)) != 0)
		return code;
	s->written_step = s->progress.step;
	s->written_validated = s->progress.validated;
	s->written_at = clock_seconds();
	return 0;
}

bool loop_wants_last(const struct session *s)
{
	return !s->options->no_weights || s->plan.reg.early.on;
}

static bool checkpoint_due(const struct session *s, bool validated_now)
{
	uint64_t done = s->progress.step;

	if (done == s->steps_total)
		return loop_wants_last(s);
	if (s->best != NULL && clock_seconds() - s->written_at > quick_checkpoint_seconds)
		return true;
	if (s->best == NULL && (validated_now || done % s->steps_per_epoch == 0))
		return true;
	if (s->config.checkpoint_every > 0 && done % (uint64_t)s->config.checkpoint_every == 0)
		return true;
	return clock_seconds() - s->written_at > checkpoint_seconds;
}

static int after_step(struct session *s, struct err *err)
{
	bool due = validation_due(s);
	int code;

	if (due && (code = validate_and_log(s, err)) != 0)
		return code;
	epoch_line(s);
	return checkpoint_due(s, due) ? loop_checkpoint(s, err) : 0;
}

static void show(struct session *s, const struct metrics_train *line)
{
	char note[160], learned[64] = "no labels";

	epoch_sums_add(&s->epoch, line);
	if (isfinite(line->loss))
		snprintf(learned, sizeof(learned), "loss %.4f  acc %.3f", line->loss, line->accuracy);
	snprintf(note, sizeof(note), "epoch %llu  %s  %.1f pairs/s  wait %.1f%%", (unsigned long long)line->epoch, learned, line->pairs_per_s,
		 s->step_total > 0 ? 100.0 * s->wait_total / s->step_total : 0.0);
	progress_update(&s->bar, s->progress.step, note);
}

static int board_train(struct session *s, const struct metrics_train *m, struct err *err)
{
	struct tensorboard_scalar scalars[BOARD_MAX] = {
		{ "train/loss", m->loss }, { "train/accuracy", m->accuracy }, { "train/lr", m->lr },
		{ "train/grad_norm", m->grad_norm }, { "speed/pairs_per_s", m->pairs_per_s }, { "speed/data_wait_s", m->data_wait_s },
	};
	int n = 6;
	const struct {
		int on;
		struct tensorboard_scalar scalar;
	} more[] = {
		{ m->objective_on, { "train/objective", m->objective } }, { m->rdrop, { "reg/rdrop_kl", m->rdrop_kl } },
		{ m->sam, { "reg/sam_loss", m->sam_loss } }, { m->adv, { "adv/loss", m->adv_loss } },
		{ m->adv_kl_on, { "adv/kl", m->adv_kl } }, { m->adv, { "adv/delta_over_embedding", m->ratio[0] } },
		{ m->adv, { "adv/delta_over_feature", m->ratio[1] } },
		{ m->adv && m->targets & ADV_FUSED, { "adv/delta_over_fused", m->ratio[2] } },
		{ m->adv && m->targets & ADV_PIXEL, { "adv/delta_over_pixel", m->ratio[3] } }, { m->adv, { "adv/cost", m->adv_cost } },
	};

	for (size_t i = 0; i < ARRAY_LEN(more); i++)
		if (more[i].on)
			scalars[n++] = more[i].scalar;
	return tensorboard_add(s->tensorboard, m->step, scalars, n, err);
}

int loop_run(struct session *s, struct err *err)
{
	uint64_t in_epoch = s->progress.step % s->steps_per_epoch;
	struct metrics_train line;
	int code = 0;

	s->epoch_began = s->written_at = clock_seconds();
	/* A run that was stopped between its last step and the validation that is due. */
	if (validation_due(s) && (code = after_step(s, err)) != 0)
		return code;
	if (s->progress.step < s->steps_total && !loop_stopped_early(s) &&
	    (code = feed_seek(s->feed, s->progress.epoch, in_epoch * (uint64_t)s->config.accumulate, err)) != 0)
		return code;
	while (code == 0 && s->progress.step < s->steps_total && !loop_stopped_early(s)) {
		if (cancelled(s))
			return err_set(err, ERR_CANCELLED, "stopped");
		if ((code = loop_step(s, &line, err)) != 0 || (code = metrics_add_train(s->metrics, &line, err)) != 0 ||
		    (code = board_train(s, &line, err)) != 0)
			break;
		show(s, &line);
		code = after_step(s, err);
	}
	if (code == 0)
		code = check_weights(s, err);
	if (code == 0)
		announce_stop(s);
	return code;
}
