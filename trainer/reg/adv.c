#include "trainer/reg/adv.h"

#include "shared/base/clock.h"

static adv_method *const methods[ADV_METHODS] = {
	[ADV_FGM] = adv_fgm, [ADV_PGD] = adv_pgd, [ADV_FREELB] = adv_freelb, [ADV_VILLA] = adv_villa, [ADV_SMART] = adv_smart,
	[ADV_FREE] = adv_free, [ADV_NOISE] = adv_noise,
};

void adv_run(struct objective *o, struct objective_report *report)
{
	const struct reg_adv *adv = &o->spec->adv;
	double began = clock_seconds();

	adv_begin(o, adv->targets);
	methods[adv->method](o, report);
	o->adv_seconds += clock_seconds() - began;
	report->adv = true;
}

void adv_begin(struct objective *o, unsigned targets)
{
	const struct stages *s = o->s;

	o->active = targets;
	if (targets & ADV_FUSED)
		fused_join(o, s->v, s->t);
	const float *const x[ADV_TARGETS] = { s->word, s->v, o->joined, s->pixels };
	for (int t = 0; t < ADV_TARGETS; t++)
		if (targets >> t & 1)
			perturbation_begin(&o->of[t], &o->spec->adv, o->eps_share, s, x[t], o->pair_picture, o->pair_caption);
}

void adv_start(struct objective *o, double share, bool corners)
{
	for (int t = 0; t < ADV_TARGETS; t++) {
		if (!(o->active >> t & 1))
			continue;
		if (share > 0)
			perturbation_random(&o->of[t], share, corners, o->s->seed, o->s->step);
		else
			perturbation_zero(&o->of[t]);
	}
}

/* dt and dv are not changed by the way back, and what follows begins at zero. */
void adv_clean_gradients(struct objective *o, bool later)
{
	struct stages *s = o->s;
	double began = clock_seconds();

	model_inputs_only(s->model, later);
	if (o->active & ADV_TEXT) {
		tower_text_backward(o, s->dt, MASKS_FIRST, o->dword);
		if (!later && o->other_t) { /* R-Drop's second pass, which says nothing about these words */
			model_text_backward(s->model, o->dt_other, s->dword);
			model_embed_backward(s->model, s->ids, s->tokens, s->dword);
		}
		o->text_sent = !later;
	}
	if (o->active & ADV_PIXEL) {
		tower_image_backward(o, s->dv, MASKS_FIRST, o->dpixels);
		if (!later && o->other_v) {
			/* The way back spends what the pass had kept. */
			tower_image_forward(o, s->pixels, o->again_mode, MASKS_FIRST, s->v);
			model_image_backward(s->model, o->dv_other, NULL);
		}
		o->image_sent = !later;
	}
	model_inputs_only(s->model, false);
	if (!later)
		o->adv_seconds -= clock_seconds() - began; /* the step's own work, done here */
}

/* Gradients at x + delta (or x), as the last backward pass left them. */
static float *gradient_of(struct objective *o, int t, float *dv)
{
	float *const all[ADV_TARGETS] = { o->dword, dv, o->dfused, o->dpixels };

	return all[t];
}

void adv_climb_from(struct objective *o, double step, float *dv)
{
	for (int t = 0; t < ADV_TARGETS; t++)
		if (o->active >> t & 1)
			perturbation_climb(&o->of[t], gradient_of(o, t, dv), step);
}

void adv_forward(struct objective *o, struct model_result *result)
{
	struct stages *s = o->s;
	const float *v = s->v, *t = s->t, *delta = NULL;
	size_t features = (size_t)s->pictures * o->F;

	if (o->active & ADV_PIXEL) {
		struct perturbation *p = perturbed(o, ADV_PIXEL);

		perturbation_apply(p, s->pixels);
		tower_image_forward(o, p->moved, o->again_mode, MASKS_FIRST, o->v2);
		v = o->v2;
	}
	if (o->active & ADV_FEAT) {
		o->kernels->vector->add(o->v2, v, perturbed(o, ADV_FEAT)->delta, features);
		v = o->v2;
	}
	if (o->active & ADV_TEXT) {
		struct perturbation *p = perturbed(o, ADV_TEXT);

		perturbation_apply(p, s->word);
		tower_text_forward(o, p->moved, MASKS_FIRST, o->t2);
		t = o->t2;
	}
	if (o->active & ADV_FUSED)
		delta = perturbed(o, ADV_FUSED)->delta;
	fused_forward(o, v, t, delta, MASKS_FIRST, o->own_loss ? NULL : o->z2, result);
}

void adv_backward(struct objective *o, const float *dlogits, double scale, enum adv_way way)
{
	struct stages *s = o->s;
	const struct vector_ops *ops = o->kernels->vector;
	bool inputs_only = way == ADV_INPUTS;

	if (way == ADV_LAST && s->image_frozen && s->text_frozen) {
		fused_backward(o, dlogits, scale, NULL, NULL, NULL);
		return;
	}
	model_inputs_only(s->model, inputs_only);
	fused_backward(o, dlogits, scale, o->dv2, o->dt2, o->dfused);
	if (o->active & ADV_TEXT)
		tower_text_backward(o, o->dt2, MASKS_FIRST, o->dword);
	else if (!inputs_only)
		ops->add(s->dt, s->dt, o->dt2, (size_t)s->captions * o->F);
	if (o->active & ADV_PIXEL)
		tower_image_backward(o, o->dv2, MASKS_FIRST, o->dpixels);
	else if (!inputs_only)
		ops->add(s->dv, s->dv, o->dv2, (size_t)s->pictures * o->F);
	model_inputs_only(s->model, false);
}

double adv_pass(struct objective *o, double weight, enum adv_way way)
{
	struct model_result result;
	double scale = weight * (double)o->s->scale, loss;

	adv_forward(o, &result);
	loss = o->own_loss ? result.loss : base_loss(o, o->z2, scale, o->dz2);
	adv_backward(o, o->own_loss ? NULL : o->dz2, scale, way);
	return loss;
}

void adv_note(struct objective *o, struct objective_report *report, double loss)
{
	report->adv_loss = loss;
	for (int t = 0; t < ADV_TARGETS; t++)
		if (o->active >> t & 1)
			report->ratio[t] = perturbation_ratio(&o->of[t]);
}

void adv_clean_share(struct objective *o)
{
	struct stages *s = o->s;
	struct model_result result;

	fused_forward(o, s->v, s->t, NULL, MASKS_FIRST, NULL, &result);
	fused_backward(o, o->dz_kl, 0, o->dv2, o->dt2, NULL);
	o->kernels->vector->add(s->dv, s->dv, o->dv2, (size_t)s->pictures * o->F);
	o->kernels->vector->add(s->dt, s->dt, o->dt2, (size_t)s->captions * o->F);
}
