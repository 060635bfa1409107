#include "trainer/train/schedule.h"

#include <math.h>
#include <string.h>

enum { WARMUP_DEFAULT = 50 };

static const char *const names[] = { [SCHEDULE_CONSTANT] = "constant", [SCHEDULE_LINEAR] = "linear", [SCHEDULE_COSINE] = "cosine" };

int schedule_kind_parse(enum schedule_kind *out, const char *name, struct err *err)
{
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (strcmp(names[i], name) == 0) {
			*out = (enum schedule_kind)i;
			return 0;
		}
	return err_set(err, ERR_USAGE, "--schedule: '%s' is no schedule; choose constant, linear or cosine", name);
}

double schedule_lr(const struct schedule *schedule, uint64_t step)
{
	const double pi = 3.14159265358979323846;
	double progress, span;

	if (step < schedule->warmup)
		return schedule->base * ((double)step / (double)schedule->warmup);
	if (schedule->kind == SCHEDULE_CONSTANT)
		return schedule->base;
	span = (double)(schedule->total > schedule->warmup ? schedule->total - schedule->warmup : 1);
	if (schedule->kind == SCHEDULE_LINEAR)
		return schedule->base * (step < schedule->total ? (double)(schedule->total - step) / span : 0.0);
	progress = (double)(step - schedule->warmup) / span;
	return schedule->base * fmax(0.0, 0.5 * (1.0 + cos(pi * progress)));
}

uint64_t schedule_default_warmup(uint64_t total)
{
	return total / 10 < WARMUP_DEFAULT ? total / 10 : WARMUP_DEFAULT;
}
