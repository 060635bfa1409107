#include "trainer/reg/early.h"

uint64_t early_waited(const struct reg_spec *spec, const struct early_place *p)
{
	const struct reg_early *early = &spec->early;
	uint64_t from = early->when.from_epoch * p->steps_per_epoch, until = early->when.until_epoch * p->steps_per_epoch;
	uint64_t since = p->best_step, end = p->done;

	if (!early->on || p->every == 0)
		return 0;
	if (from > since)
		since = from;
	if (until > 0 && end > until)
		return 0; /* the term works no more */
	return end > since ? end / p->every - since / p->every : 0;
}

bool early_stops(const struct reg_spec *spec, const struct early_place *p)
{
	return spec->early.on && early_waited(spec, p) >= (uint64_t)spec->early.patience;
}
