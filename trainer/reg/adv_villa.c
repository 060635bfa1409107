#include "trainer/reg/adv_villa.h"

struct sums {
	double loss, kl; /* at the last perturbation of each target */
	int targets;
};

/* One pass of A_m. Its gradient is scale's; with dz_kl the clean side's is collected too. */
static double villa_pass(struct objective *o, double scale, enum adv_way way, struct sums *at)
{
	const struct reg_adv *adv = &o->spec->adv;
	const struct model_pairs *pairs = o->s->pairs;
	const float *clean = o->mixing ? o->base : o->s->logits;
	float *share = adv->through == THROUGH_BOTH ? o->dz_kl : NULL;
	struct model_result result;

	adv_forward(o, &result);
	at->loss = base_loss(o, o->z2, scale, o->dz2);
	at->kl = o->kernels->reg->symmetric_kl(o->dz2, share, o->z2, clean, pairs->weight, adv->kl * scale, pairs->count, (int)o->K);
	adv_backward(o, o->dz2, 0, way);
	return at->loss + adv->kl * at->kl;
}

static void villa_target(struct objective *o, unsigned target, struct objective_report *report, struct sums *sums)
{
	const struct reg_adv *adv = &o->spec->adv;
	double weight = adv->weight / (double)(adv->k - 1);
	struct sums at = { 0 };

	o->active = target;
	adv_start(o, adv->init, false);
	if (adv->init == 0)
		adv_climb_from(o, adv->step, o->dv_clean);
	for (int64_t pass = 1; pass < adv->k; pass++) {
		bool last = pass + 1 == adv->k;

		report->objective += weight * villa_pass(o, weight * (double)o->s->scale, last ? ADV_LAST : ADV_BOTH, &at);
		if (!last)
			adv_climb_from(o, adv->step, o->dv2);
	}
	adv_note(o, report, 0);
	sums->loss += at.loss;
	sums->kl += at.kl;
	sums->targets++;
}

void adv_villa(struct objective *o, struct objective_report *report)
{
	const struct reg_adv *adv = &o->spec->adv;
	unsigned targets = adv->targets;
	bool both = adv->through == THROUGH_BOTH, several = (targets & (targets - 1)) != 0;
	struct sums sums = { 0 };

	o->kernels->vector->fill(o->dz_kl, (size_t)o->s->pairs->count * o->K, 0.0f);
	/* Chains start from the clean gradients, and add to dv: they need a copy. */
	o->kernels->vector->copy(o->dv_clean, o->s->dv, (size_t)o->s->pictures * o->F);
	if (adv->init == 0 || (!both && !several))
		adv_clean_gradients(o, both || several);
	/* The gradient at the pairs' features is overwritten by every pass, so that target comes first. */
	static const unsigned order[] = { ADV_FUSED, ADV_FEAT, ADV_TEXT, ADV_PIXEL };
	for (size_t i = 0; i < ARRAY_LEN(order); i++)
		if (targets & order[i])
			villa_target(o, order[i], report, &sums);
	if (both)
		adv_clean_share(o);
	report->adv_loss = sums.loss / sums.targets;
	report->adv_kl = sums.kl / sums.targets;
}
