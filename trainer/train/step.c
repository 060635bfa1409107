/* One optimizer step: its micro-batches forward and backward, clipping, the update, and the line that says what came of it. */
#include <math.h>

#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "trainer/kernels/profile.h"
#include "trainer/train/clip.h"
#include "trainer/train/session.h"

/* What one optimizer step summed up over its micro-batches. */
struct step_sums {
	double loss, accuracy;  /* of batches with something to learn */
	uint32_t batches, samples;
	struct objective_report report; /* sums of what the regularizers say */
	double sam_loss;
};

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

int64_t step_batches(const struct session *s)
{
	return s->train.steps < (uint64_t)s->config.accumulate ? (int64_t)s->train.steps : s->config.accumulate;
}

int64_t step_batch_samples(const struct session *s)
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

int step_run(struct session *s, struct metrics_train *line, struct err *err)
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
