#include "trainer/reg/adv_free.h"

/* The words' perturbation, packed as this batch is, from its places (caption, token); or back. */
static void carry_words(struct objective *o, bool back)
{
	const struct stages *s = o->s;
	float *delta = perturbed(o, ADV_TEXT)->delta;

	for (int c = 0; c < s->captions; c++) {
		float *place = o->carried + (size_t)c * (size_t)o->tokens_per_caption * o->W;
		float *here = delta + (size_t)s->offsets[c] * o->W;
		size_t n = (size_t)(s->offsets[c + 1] - s->offsets[c]) * o->W;

		o->kernels->vector->copy(back ? place : here, back ? here : place, n);
	}
}

/* Radii are those of this batch; a place that is [CLS] or [SEP] in it starts anew. */
static void keep_in_ball(struct objective *o)
{
	for (int t = 0; t < ADV_TARGETS; t++)
		if (o->active >> t & 1)
			perturbation_project(&o->of[t]);
}

void adv_free(struct objective *o, struct objective_report *report)
{
	const struct reg_adv *adv = &o->spec->adv;
	bool text = o->active & ADV_TEXT;
	double loss;

	/* The clean pass weighs nothing: its way back is left out. */
	o->text_sent = text;
	o->image_sent = o->active & ADV_PIXEL;
	if (text)
		carry_words(o, false);
	keep_in_ball(o);
	loss = adv_pass(o, 1.0, ADV_BOTH);
	report->objective += loss;
	adv_note(o, report, loss);
	adv_climb_from(o, adv->step, o->dv2);
	if (text)
		carry_words(o, true);
}

static uint64_t multiples_below(uint64_t n, uint64_t of)
{
	return (n + of - 1) / of;
}

uint64_t adv_free_updates(const struct reg_spec *spec, uint64_t steps, uint64_t steps_per_epoch)
{
	const struct reg_adv *adv = &spec->adv;
	uint64_t from = adv->when.from_epoch * steps_per_epoch, until = steps;

	if (!adv->on || adv->method != ADV_FREE)
		return steps;
	if (adv->when.until_epoch > 0 && adv->when.until_epoch * steps_per_epoch < until)
		until = adv->when.until_epoch * steps_per_epoch;
	if (from >= until)
		return steps;
	return steps + (multiples_below(until, (uint64_t)adv->every) - multiples_below(from, (uint64_t)adv->every)) *
			       (uint64_t)(adv->k - 1);
}
