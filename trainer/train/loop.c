/* Optimizer steps, one after the other; what follows a step; when to stop. */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "trainer/reg/early.h"
#include "trainer/train/session.h"

/* Beside the checkpoints at the end of epochs: so much work at most is lost to a SIGKILL. */
static const double checkpoint_seconds = 300;
/* With both towers frozen, where epochs are short: in the place of the ends of epochs (best.h). */
static const double quick_checkpoint_seconds = 20;
static const double daemon_wait_seconds = 600; /* as streams do by default */

enum { BOARD_MAX = 16 };

static bool cancelled(const struct session *s)
{
	return s->options->cancelled != NULL && s->options->cancelled(s->options->cancel_context);
}

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
		if ((code = step_run(s, &line, err)) != 0 || (code = metrics_add_train(s->metrics, &line, err)) != 0 ||
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
