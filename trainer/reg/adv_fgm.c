#include "trainer/reg/adv_fgm.h"

void adv_fgm(struct objective *o, struct objective_report *report)
{
	double weight = o->spec->adv.weight, loss;

	adv_clean_gradients(o, false);
	adv_start(o, 0, false);
	adv_climb_from(o, 1.0, o->s->dv);
	loss = adv_pass(o, weight, ADV_LAST);
	report->objective += weight * loss;
	adv_note(o, report, loss);
}
