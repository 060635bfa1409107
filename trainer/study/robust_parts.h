/* robust_parts.h - what robust.c (attacks on all arms) and robust_checks.c (what they say about one another) share. */
#ifndef TRAINER_STUDY_ROBUST_PARTS_H
#define TRAINER_STUDY_ROBUST_PARTS_H

#include "shared/base/buf.h"
#include "trainer/study/attack.h"
#include "trainer/study/robust.h"

enum { ROBUST_RUNGS = 6, ROBUST_TARGETS = 3, ROBUST_KINDS = 3, ROBUST_TRANSFER_RUNG = 3 };

/* rung 0 is no perturbation; the last is large enough that nothing can withstand it. */
extern const double robust_pixel_eps[ROBUST_RUNGS], robust_text_eps[ROBUST_RUNGS];
extern const unsigned robust_targets[ROBUST_TARGETS];
extern const char *const robust_target_names[ROBUST_TARGETS], *const robust_kind_names[ROBUST_KINDS];

struct robust_arm {
	int arm;                 /* index in the study */
	struct attack_outcome at[ROBUST_KINDS][ROBUST_TARGETS][ROBUST_RUNGS];
	struct attack_outcome harder[ROBUST_TARGETS]; /* twice the steps and restarts, at the rung of transfer */
	struct attack_outcome transfer[ROBUST_TARGETS][STUDY_ARMS_MAX]; /* by the place of the arm that made the examples */
	struct attack_examples examples[ROBUST_TARGETS];
};

struct robust_all {
	const struct robust_options *options;
	struct robust_arm *arms; /* (count) */
	int count, pairs, classes;
};

/* Appends the elements of the list "checks"; *failed counts those that are not well. */
MUST_USE int robust_add_checks(const struct robust_all *all, struct buf *out, int *failed, struct err *err);

#endif
