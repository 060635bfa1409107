#include "trainer/reg/adv_noise.h"

void adv_noise(struct objective *o, struct objective_report *report)
{
	double weight = o->spec->adv.weight, loss;

	adv_clean_gradients(o, false);
	adv_start(o, 1.0, true);
	loss = adv_pass(o, weight, ADV_LAST);
	report->objective += weight * loss;
	adv_note(o, report, loss);
}
