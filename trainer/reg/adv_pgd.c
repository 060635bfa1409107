#include "trainer/reg/adv_pgd.h"

void adv_pgd(struct objective *o, struct objective_report *report)
{
	const struct reg_adv *adv = &o->spec->adv;
	double loss;

	adv_clean_gradients(o, false);
	adv_start(o, adv->init, false);
	if (adv->init == 0)
		adv_climb_from(o, adv->step, o->s->dv);
	for (int64_t pass = 2; pass < adv->k; pass++) {
		(void)adv_pass(o, 1.0, ADV_INPUTS);
		adv_climb_from(o, adv->step, o->dv2);
	}
	loss = adv_pass(o, adv->weight, ADV_LAST);
	report->objective += adv->weight * loss;
	adv_note(o, report, loss);
}
