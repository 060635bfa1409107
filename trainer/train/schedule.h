/*
 * schedule.h - the learning rate of each optimizer step, as Hugging Face's
 * get_{constant,linear,cosine}_schedule_with_warmup with LambdaLR gives it.
 *
 * Steps count from 0. During the warm-up lr(t) = base * t / warmup, so the
 * very first step has rate 0 when there is a warm-up, as there. Afterwards,
 * with p = (t - warmup) / (total - warmup):
 *     constant   base
 *     linear     base * (1 - p)
 *     cosine     base * (1 + cos(pi p)) / 2
 *
 * Threads: pure.
 */
#ifndef TRAINER_TRAIN_SCHEDULE_H
#define TRAINER_TRAIN_SCHEDULE_H

#include <stdint.h>

#include "shared/base/err.h"

enum schedule_kind { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE };

struct schedule {
	enum schedule_kind kind;
	double base;
	uint64_t warmup; /* steps */
	uint64_t total;  /* steps of the whole run */
};

MUST_USE int schedule_kind_parse(enum schedule_kind *out, const char *name, struct err *err);
double schedule_lr(const struct schedule *schedule, uint64_t step);
/* The warm-up when nobody says: 50 steps, but at most a tenth of the run. */
uint64_t schedule_default_warmup(uint64_t total);

#endif
