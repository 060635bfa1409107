#include "trainer/reg/objective.h"

#include <string.h>

#include "shared/base/clock.h"
#include "shared/base/mem.h"
#include "trainer/kernels/profile.h"
#include "trainer/reg/adv_free.h"
#include "trainer/reg/dropout.h"
#include "trainer/reg/work.h"


/* ---- opening ---- */

static bool needs_rows(const struct reg_spec *spec)
{
	return spec->mixup.on || (spec->adv.on && spec->adv.targets & ADV_FUSED);
}

int objective_fused_rows(const struct reg_spec *spec, const struct model_limits *limits)
{
	return needs_rows(spec) ? limits->pairs : 0;
}

int objective_check(const struct reg_spec *spec, const char *text, enum model_task task, struct err *err)
{
	const struct reg_adv *adv = &spec->adv;
	const struct {
		bool asked;
		const char *part;
	} of_pairs[] = {
		{ spec->smooth.on, "smooth" },
		{ spec->mixup.on, "mixup" },
		{ spec->rdrop.on, "rdrop" },
		{ spec->dropout[DROP_FUSION].on, "dropout:at=fusion" },
		{ spec->dropout[DROP_HEAD].on, "dropout:at=head" },
		{ adv->on && adv->method == ADV_VILLA, "adv:method=villa" },
		{ adv->on && adv->method == ADV_SMART, "adv:method=smart" },
		{ adv->on && adv->targets & ADV_FUSED, "adv:target=fused" },
	};

	for (size_t i = 0; i < ARRAY_LEN(of_pairs) && task == TASK_CONTRAST; i++)
		if (of_pairs[i].asked)
			return reg_spec_refuse(text, err, "'%s' works on pairs in the fusion layer, which --task contrast does not have; leave "
					       "it out%s", of_pairs[i].part, strncmp(of_pairs[i].part, "dropout", 7) == 0 ?
					       ", or name another place such as at=image+text" : "");
	return 0;
}

static size_t floats_of(const struct reg_spec *spec, const struct model_config *config, const struct model_limits *limits,
			bool towers)
{
	size_t F = (size_t)config->features, pairs = (size_t)limits->pairs;
	size_t rows = (size_t)(limits->pictures + limits->captions);

	return towers ? rows * F * 5 + pairs * (size_t)config->classes * 5 : needs_rows(spec) ? pairs * F * 8 : 0;
}

static size_t objective_bytes(const struct reg_spec *spec, const struct model_config *config, const struct model_limits *limits)
{
	size_t S = (size_t)config->image.image_size, bytes;

	bytes = sizeof(float) * (floats_of(spec, config, limits, true) + floats_of(spec, config, limits, false));
	for (int t = 0; spec->adv.on && t < ADV_TARGETS; t++)
		if (spec->adv.targets >> t & 1)
			bytes += perturbation_bytes((enum reg_adv_target)(1 << t), config, limits);
	if (spec->adv.on && spec->adv.targets & ADV_PIXEL)
		bytes += (size_t)limits->pictures * 3 * S * S * sizeof(float);
	return bytes;
}

/* What was asked for and could not be had, in one place. */
struct taker {
	bool failed;
};

static float *take(struct taker *taker, size_t elements)
{
	float *memory = model_alloc(elements + 1);

	taker->failed = taker->failed || memory == NULL;
	return memory;
}

static void *take_array(struct taker *taker, size_t count, size_t bytes)
{
	void *memory = mem_array(count + 1, bytes);

	taker->failed = taker->failed || memory == NULL;
	return memory;
}

static void open_pairs(struct objective *o, struct taker *taker, size_t N)
{
	uint32_t **arrays[] = { &o->iota, &o->picture, &o->caption, &o->picture2, &o->caption2, &o->pair_picture, &o->pair_caption,
				&o->partner };

	for (size_t i = 0; i < ARRAY_LEN(arrays); i++)
		*arrays[i] = take_array(taker, N, sizeof(uint32_t));
	o->label2 = take_array(taker, N, sizeof(*o->label2));
	o->sums = take_array(taker, N, sizeof(*o->sums));
	o->share = take(taker, N);
	o->vx = take(taker, N * o->F);
	o->tx = take(taker, N * o->F);
	o->dvx = take(taker, N * o->F);
	o->dtx = take(taker, N * o->F);
	o->joined = take(taker, N * 2 * o->F);
	o->dfused = take(taker, N * 2 * o->F);
}

static void open_features(struct objective *o, struct taker *taker, const struct model_limits *limits)
{
	size_t B = (size_t)limits->pictures, C = (size_t)limits->captions, N = (size_t)limits->pairs;

	o->v_raw = take(taker, B * o->F);
	o->v2 = take(taker, B * o->F);
	o->dv2 = take(taker, B * o->F);
	o->dv_clean = take(taker, B * o->F);
	o->dv_other = take(taker, B * o->F);
	o->t_raw = take(taker, C * o->F);
	o->t2 = take(taker, C * o->F);
	o->dt2 = take(taker, C * o->F);
	o->dt_other = take(taker, C * o->F);
	o->dropped = take(taker, (B > C ? B : C) * o->F);
	o->base = take(taker, N * o->K);
	o->dz = take(taker, N * o->K);
	o->dz2 = take(taker, N * o->K);
	o->z2 = take(taker, N * o->K);
	o->dz_kl = take(taker, N * o->K);
}

static int open_adversary(struct objective *o, struct taker *taker, const struct model_limits *limits, struct err *err)
{
	size_t S = (size_t)o->config.image.image_size;
	unsigned targets = o->spec->adv.targets;
	int code = 0;

	for (int t = 0; code == 0 && t < ADV_TARGETS; t++)
		if (targets >> t & 1)
			code = perturbation_open(&o->of[t], (enum reg_adv_target)(1 << t), &o->config, limits, err);
	if (targets & ADV_TEXT)
		o->dword = take(taker, (size_t)limits->tokens * o->W);
	o->captions_max = limits->captions;
	o->tokens_per_caption = limits->tokens_per_caption;
	if (o->spec->adv.method == ADV_FREE && targets & ADV_TEXT) {
		size_t places = (size_t)limits->captions * (size_t)limits->tokens_per_caption * o->W;

		o->carried = take(taker, places);
		if (o->carried != NULL)
			o->kernels->vector->fill(o->carried, places, 0.0f);
	}
	if (targets & ADV_PIXEL)
		o->dpixels = take(taker, (size_t)limits->pictures * 3 * S * S);
	return code;
}

int objective_open(struct objective **out, const struct reg_spec *spec, const struct model_config *config,
		   const struct model_limits *limits, struct err *err)
{
	struct objective *o = mem_zalloc(sizeof(*o));
	struct taker taker = { false };
	int code = 0;

	*out = NULL;
	if (o == NULL)
		return err_nomem(err, sizeof(*o));
	o->spec = spec;
	o->kernels = kernels_fast();
	o->config = *config;
	o->F = (size_t)config->features;
	o->W = (size_t)config->text.width;
	o->K = (size_t)config->classes;
	open_features(o, &taker, limits);
	if (needs_rows(spec))
		open_pairs(o, &taker, (size_t)limits->pairs);
	if (spec->adv.on)
		code = open_adversary(o, &taker, limits, err);
	if (code == 0 && taker.failed)
		code = err_nomem(err, objective_bytes(spec, config, limits));
	if (code != 0)
		objective_close(o);
	else
		*out = o;
	return code;
}

void objective_close(struct objective *o)
{
	if (o == NULL)
		return;
	float *const floats[] = { o->share, o->vx, o->tx, o->dvx, o->dtx, o->joined, o->dfused, o->v_raw, o->v2, o->dv2, o->dv_clean, o->dv_other,
				  o->t_raw, o->t2, o->dt2, o->dt_other, o->dropped, o->base, o->dz, o->dz2, o->z2, o->dz_kl, o->dpixels,
				  o->dword, o->carried };
	void *const arrays[] = { o->iota, o->picture, o->caption, o->picture2, o->caption2, o->pair_picture, o->pair_caption,
				 o->partner, o->label2, o->sums };

	for (size_t i = 0; i < ARRAY_LEN(floats); i++)
		model_release(floats[i]);
	for (size_t i = 0; i < ARRAY_LEN(arrays); i++)
		mem_free(arrays[i]);
	for (int t = 0; t < ADV_TARGETS; t++)
		perturbation_close(&o->of[t]);
	mem_free(o);
}

/* ---- the step ---- */

static double eps_share(const struct reg_adv *adv, const struct reg_moment *m)
{
	uint64_t since = m->step - (uint64_t)adv->when.from_epoch * m->steps_per_epoch;
	double over = adv->warmup_steps ? adv->warmup : adv->warmup * (double)m->steps_per_epoch;
	double share = over > 0 ? ((double)since + 1.0) / over : 1.0;

	return share < 1.0 ? share : 1.0;
}

static double probability_at(const struct objective *o, enum reg_site site, double otherwise)
{
	const struct reg_dropout *d = &o->spec->dropout[site];

	return reg_active(d->on, d->when, o->moment.epoch) ? d->probability : otherwise;
}

static double or_else(double value, double otherwise)
{
	return value < 0 ? otherwise : value;
}

void objective_begin(struct objective *o, struct model *model, const struct reg_moment *moment)
{
	const struct bert_config *text = &o->config.text;
	const struct reg_spec *spec = o->spec;
	const struct reg_depth *depth = &spec->depth;
	uint64_t epoch = moment->epoch;
	double depth_p = reg_active(depth->on, depth->when, epoch) ? depth->probability : 0;
	struct model_drops drops;

	o->moment = *moment;
	drops = (struct model_drops){
		.head = probability_at(o, DROP_HEAD, 0), .bert_hidden = probability_at(o, DROP_BERT_HIDDEN, -1),
		.bert_attention = probability_at(o, DROP_BERT_ATTENTION, -1),
		.image_depth = depth->places & DEPTH_IMAGE ? depth_p : 0, .text_depth = depth->places & DEPTH_TEXT ? depth_p : 0,
	};
	model_set_drops(model, &drops);
	model_set_fusion_dropout(model, reg_dropout_probability(spec, epoch));
	o->image_drop = probability_at(o, DROP_IMAGE, 0);
	o->text_drop = probability_at(o, DROP_TEXT, 0);
	o->image_random = drops.image_depth > 0; /* of a frozen tower nothing: begin_batch() */
	o->text_random = drops.text_depth > 0 || or_else(drops.bert_hidden, text->dropout) > 0 ||
			 or_else(drops.bert_attention, or_else(text->attention_dropout, text->dropout)) > 0;
	o->mixing = reg_active(spec->mixup.on, spec->mixup.when, epoch);
	o->smoothing = reg_active(spec->smooth.on, spec->smooth.when, epoch);
	o->rdrop = reg_active(spec->rdrop.on, spec->rdrop.when, epoch);
	o->adversary = reg_active(spec->adv.on, spec->adv.when, epoch) && moment->step % (uint64_t)spec->adv.every == 0;
	o->eps_share = o->adversary ? eps_share(&spec->adv, moment) : 0;
}

/* ---- towers ---- */

struct model_call work_call(const struct objective *o, int masks)
{
	struct model_call call = stages_text_call(o->s);

	if (masks == MASKS_SECOND)
		call.step |= OBJECTIVE_SECOND;
	return call;
}

static struct dropout_spec site(const struct objective *o, double probability, uint32_t layer, int masks)
{
	struct model_call call = work_call(o, masks);

	return (struct dropout_spec){ .probability = call.dropout ? (float)probability : 0.0f, .layer = layer, .seed = call.seed,
				      .step = call.step };
}

void drop_image(struct objective *o, float *out, const float *x, int masks)
{
	struct dropout_spec drop = site(o, o->image_drop, SITE_IMAGE, masks);

	o->kernels->reg->drop_rows(out, x, o->s->pictures, (int)o->F, o->s->picture_positions, NULL, &drop);
}

void drop_text(struct objective *o, float *out, const float *x, int masks)
{
	struct dropout_spec drop = site(o, o->text_drop, SITE_TEXT, masks);

	o->kernels->reg->drop_rows(out, x, o->s->captions, (int)o->F, o->s->caption_positions, NULL, &drop);
}

void tower_image_forward(struct objective *o, const float *pixels, enum model_mode mode, int masks, float *v)
{
	struct model_call call = work_call(o, masks);

	call.mode = mode;
	call.positions = o->s->picture_positions;
	o->image_moved = true;
	if (o->s->image_frozen) {
		if (o->image_drop > 0)
			drop_image(o, v, o->v_raw, masks);
		return;
	}
	model_image_forward(o->s->model, &call, pixels, o->s->nhwc, o->s->pictures, o->image_drop > 0 ? o->v_raw : v);
	if (o->image_drop > 0)
		drop_image(o, v, o->v_raw, masks);
}

void tower_text_forward(struct objective *o, const float *word, int masks, float *t)
{
	struct model_call call = work_call(o, masks);

	o->text_moved = true;
	if (o->s->text_frozen) {
		if (o->text_drop > 0)
			drop_text(o, t, o->t_raw, masks);
		return;
	}
	model_text_forward(o->s->model, &call, word, o->s->offsets, o->s->captions, o->text_drop > 0 ? o->t_raw : t);
	if (o->text_drop > 0)
		drop_text(o, t, o->t_raw, masks);
}

void tower_image_backward(struct objective *o, const float *dv, int masks, float *dpixels)
{
	if (o->image_drop > 0) {
		drop_image(o, o->dropped, dv, masks);
		dv = o->dropped;
	}
	model_image_backward(o->s->model, dv, dpixels);
	o->image_moved = true;
}

void tower_text_backward(struct objective *o, const float *dt, int masks, float *dword)
{
	if (o->text_drop > 0) {
		drop_text(o, o->dropped, dt, masks);
		dt = o->dropped;
	}
	model_text_backward(o->s->model, dt, dword);
	model_embed_backward(o->s->model, o->s->ids, o->s->tokens, dword);
}

/* Gradients before the features' dropout, of passes with other masks, join those of the clean ones. */
static void send_text(struct objective *o)
{
	struct stages *s = o->s;

	if (o->text_sent || s->text_frozen)
		return;
	if (o->text_moved) {
		double began = clock_seconds();

		tower_text_forward(o, s->word, MASKS_FIRST, s->t);
		o->adv_seconds += clock_seconds() - began;
	}
	if (o->other_t) {
		drop_text(o, o->dropped, s->dt, MASKS_FIRST);
		o->kernels->vector->add(o->dropped, o->dropped, o->dt_other, (size_t)s->captions * o->F);
		model_text_backward(s->model, o->dropped, s->dword);
		model_embed_backward(s->model, s->ids, s->tokens, s->dword);
	} else {
		tower_text_backward(o, s->dt, MASKS_FIRST, s->dword);
	}
}

static void send_image(struct objective *o)
{
	struct stages *s = o->s;

	if (o->image_sent || s->image_frozen)
		return;
	if (o->image_moved) {
		double began = clock_seconds();

		tower_image_forward(o, s->pixels, o->again_mode, MASKS_FIRST, s->v);
		o->adv_seconds += clock_seconds() - began;
	}
	if (o->other_v) {
		drop_image(o, o->dropped, s->dv, MASKS_FIRST);
		o->kernels->vector->add(o->dropped, o->dropped, o->dv_other, (size_t)s->pictures * o->F);
		model_image_backward(s->model, o->dropped, NULL);
	} else {
		tower_image_backward(o, s->dv, MASKS_FIRST, NULL);
	}
}

/* ---- the micro-batch ---- */

static bool diverges(const struct reg_adv *adv)
{
	return adv->method == ADV_VILLA || adv->method == ADV_SMART;
}

static void clean_forward(struct objective *o, enum model_mode image_mode)
{
	struct stages *s = o->s;

	tower_image_forward(o, s->pixels, image_mode, MASKS_FIRST, s->v);
	if (!s->text_frozen)
		model_embed_forward(s->model, s->ids, s->tokens, s->word);
	tower_text_forward(o, s->word, MASKS_FIRST, s->t);
	o->image_moved = o->text_moved = false;
}

/* The base pass: clean metrics on the pairs as they are, then the loss that is trained on. Returns it. */
static double base_pass(struct objective *o, struct objective_report *report)
{
	struct stages *s = o->s;
	const float *logits = s->logits;
	struct model_result result;
	bool scores = o->config.task == TASK_MATCH || o->config.task == TASK_CLASSIFY;

	o->expanded = false;
	fused_forward(o, s->v, s->t, NULL, MASKS_FIRST, scores ? s->logits : NULL, &report->clean);
	o->expanded = o->mixing || (o->adversary && o->spec->adv.targets & ADV_FUSED);
	if (o->mixing)
		logits = o->base;
	if (o->expanded)
		fused_forward(o, s->v, s->t, NULL, MASKS_FIRST, o->mixing ? o->base : NULL, &result);
	if (o->own_loss)
		return report->clean.loss;
	return base_loss(o, logits, o->base_weight * (double)s->scale, o->dz);
}

/* FreeLB's k passes weigh the same; where it starts at random the clean pass is none of them, nor is it in free's replays. */
static double weight_of_base(const struct objective *o)
{
	const struct reg_adv *adv = &o->spec->adv;

	if (o->adversary && adv->method == ADV_FREE)
		return 0.0;
	if (!o->adversary || adv->method != ADV_FREELB)
		return 1.0;
	return adv->init > 0 ? 0.0 : 1.0 / (double)adv->k;
}

static void begin_batch(struct objective *o, struct stages *s)
{
	o->s = s;
	o->own_loss = !o->mixing && !o->smoothing && !o->rdrop && !(o->adversary && diverges(&o->spec->adv));
	o->base_weight = weight_of_base(o);
	o->text_sent = o->image_sent = o->other_v = o->other_t = false;
	o->adv_seconds = 0;
	o->image_random = o->image_random && !s->image_frozen;
	o->text_random = o->text_random && !s->text_frozen;
	/* Features of a frozen tower come from the caller, and go back to it as they came: a batch may be run twice. */
	if (s->image_frozen && o->image_drop > 0)
		o->kernels->vector->copy(o->v_raw, s->v, (size_t)s->pictures * o->F);
	if (s->text_frozen && o->text_drop > 0)
		o->kernels->vector->copy(o->t_raw, s->t, (size_t)s->captions * o->F);
	fused_begin(o);
}

static void end_batch(struct objective *o)
{
	struct stages *s = o->s;

	send_text(o);
	send_image(o);
	if (s->image_frozen && o->image_drop > 0)
		o->kernels->vector->copy(s->v, o->v_raw, (size_t)s->pictures * o->F);
	if (s->text_frozen && o->text_drop > 0)
		o->kernels->vector->copy(s->t, o->t_raw, (size_t)s->captions * o->F);
}

void objective_run(struct objective *o, struct stages *s, enum model_mode image_mode, struct objective_report *report)
{
	double loss;

	*report = (struct objective_report){ 0 };
	begin_batch(o, s);
	/* Later passes of the image tower see the same kind of statistics, but never move the running ones. */
	o->again_mode = image_mode == MODEL_EVAL ? MODEL_EVAL : MODEL_TRAIN_KEEP;
	clean_forward(o, image_mode);
	loss = base_pass(o, report);
	if (o->rdrop)
		loss = rdrop_run(o, o->mixing ? o->base : s->logits, loss, report);
	report->objective = o->base_weight * loss;
	bool wanted = !s->image_frozen || !s->text_frozen || o->adversary;
	fused_backward(o, o->own_loss ? NULL : o->dz, o->base_weight * (double)s->scale, wanted ? s->dv : NULL, wanted ? s->dt : NULL,
		       o->dfused);
	if (o->adversary) {
		enum profile_part part = profile_enter(PART_REGULARIZER);

		adv_run(o, report);
		profile_leave(part);
	}
	end_batch(o);
	report->adv_seconds = o->adversary ? o->adv_seconds : 0;
}

/* ---- free: a minibatch again, with weights that have been updated ---- */

int objective_replays(const struct objective *o)
{
	return o->adversary && o->spec->adv.method == ADV_FREE ? (int)o->spec->adv.k : 1;
}

void objective_replay(struct objective *o, struct stages *s, struct objective_report *report)
{
	unsigned targets = o->spec->adv.targets;
	double seconds = report->adv_seconds, began = clock_seconds();

	begin_batch(o, s);
	o->expanded = o->mixing || targets & ADV_FUSED;
	if (!(targets & ADV_PIXEL))
		tower_image_forward(o, s->pixels, o->again_mode, MASKS_FIRST, s->v);
	if (!s->text_frozen)
		model_embed_forward(s->model, s->ids, s->tokens, s->word);
	if (!(targets & ADV_TEXT))
		tower_text_forward(o, s->word, MASKS_FIRST, s->t);
	o->image_moved = o->text_moved = false;
	o->kernels->vector->fill(s->dv, (size_t)s->pictures * o->F, 0.0f);
	o->kernels->vector->fill(s->dt, (size_t)s->captions * o->F, 0.0f);
	report->objective = 0;
	adv_run(o, report);
	end_batch(o);
	report->adv_seconds = seconds + clock_seconds() - began;
}

uint64_t objective_updates(const struct reg_spec *spec, uint64_t steps, uint64_t steps_per_epoch)
{
	return adv_free_updates(spec, steps, steps_per_epoch);
}

int objective_states(struct objective *o, struct objective_state out[ADV_TARGETS])
{
	static const char *const names[ADV_TARGETS] = { "reg.delta.text", "reg.delta.feat", "reg.delta.fused", "reg.delta.pixel" };
	int count = 0;

	for (int t = 0; o->spec->adv.on && o->spec->adv.method == ADV_FREE && t < ADV_TARGETS; t++) {
		struct perturbation *p = &o->of[t];

		if (!(o->spec->adv.targets >> t & 1))
			continue;
		out[count] = (struct objective_state){ names[t], p->delta, p->rows_max, p->width_max };
		if (t == 0)
			out[count] = (struct objective_state){ names[t], o->carried, (int64_t)o->captions_max * o->tokens_per_caption,
							       (int64_t)o->W };
		count++;
	}
	return count;
}

/* ---- for the probe ---- */

void objective_draws(const struct objective *o, struct objective_draws *out)
{
	*out = (struct objective_draws){ .image_drop = o->image_drop, .text_drop = o->text_drop };
	if (o->mixing) {
		out->partner = o->partner;
		out->share = o->share;
	}
	for (int t = 0; o->adversary && t < ADV_TARGETS; t++)
		if (o->spec->adv.targets >> t & 1) {
			out->delta[t] = o->of[t].delta;
			out->rows[t] = o->of[t].rows;
			out->width[t] = o->of[t].width;
		}
}

void objective_start_again(struct objective *o)
{
	const struct reg_adv *adv = &o->spec->adv;
	bool noise = adv->method == ADV_NOISE;

	if (!o->adversary || adv->method == ADV_FREE)
		return;
	adv_begin(o, adv->targets);
	adv_start(o, noise ? 1.0 : adv->method == ADV_FGM ? 0.0 : adv->init, noise);
}
