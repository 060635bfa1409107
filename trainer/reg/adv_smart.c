#include "trainer/reg/adv_smart.h"

/* R at x + delta, and the way back of scale times it; clean: gradient of the clean side, or NULL. */
static double smart_pass(struct objective *o, double scale, float *clean_share, enum adv_way way, double *loss)
{
	const struct model_pairs *pairs = o->s->pairs;
	const float *clean = o->mixing ? o->base : o->s->logits;
	struct model_result result;
	double kl;

	adv_forward(o, &result);
	*loss = base_loss(o, o->z2, 0.0, o->dz2);
	o->kernels->vector->fill(o->dz2, (size_t)pairs->count * o->K, 0.0f);
	kl = o->kernels->reg->symmetric_kl(o->dz2, clean_share, o->z2, clean, pairs->weight, scale, pairs->count, (int)o->K);
	adv_backward(o, o->dz2, 0, way);
	return kl;
}

void adv_smart(struct objective *o, struct objective_report *report)
{
	const struct reg_adv *adv = &o->spec->adv;
	bool both = adv->through == THROUGH_BOTH;
	double loss;

	o->kernels->vector->fill(o->dz_kl, (size_t)o->s->pairs->count * o->K, 0.0f);
	/* The first direction is random; the clean way back can wait for the divergence's share. */
	if (!both)
		adv_clean_gradients(o, false);
	adv_start(o, adv->init, false);
	for (int64_t pass = 2; pass < adv->k; pass++) {
		(void)smart_pass(o, 1.0, NULL, ADV_INPUTS, &loss);
		adv_climb_from(o, adv->step, o->dv2);
	}
	report->adv_kl = smart_pass(o, adv->weight * (double)o->s->scale, both ? o->dz_kl : NULL, ADV_LAST, &loss);
	report->objective += adv->weight * report->adv_kl;
	adv_note(o, report, loss);
	if (both)
		adv_clean_share(o);
}
