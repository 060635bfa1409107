#include "trainer/reg/adv_freelb.h"

void adv_freelb(struct objective *o, struct objective_report *report)
{
	const struct reg_adv *adv = &o->spec->adv;
	double share = 1.0 / (double)adv->k, loss = 0;
	bool clean = adv->init == 0;

	adv_start(o, adv->init, false);
	if (clean) {
		adv_clean_gradients(o, false);
		adv_climb_from(o, adv->step, o->s->dv);
	} else { /* the clean pass weighs nothing: its way back is left out */
		o->text_sent = o->active & ADV_TEXT;
		o->image_sent = o->active & ADV_PIXEL;
	}
	for (int64_t pass = clean; pass < adv->k; pass++) {
		loss = adv_pass(o, share, pass + 1 < adv->k ? ADV_BOTH : ADV_LAST);
		report->objective += share * loss;
		if (pass + 1 < adv->k)
			adv_climb_from(o, adv->step, o->dv2);
	}
	adv_note(o, report, loss);
}
