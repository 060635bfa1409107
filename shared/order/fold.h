/*
 * fold.h - folds of cross-validation, as part of the name of a split.
 *
 *     split := base { "~" ("fold" | "rest") "=" I "/" K [ ",seed=" N ] }
 *
 *     train+val~fold=2/5          the second of five folds of train and val
 *     train+val~rest=2/5          everything of them but that fold
 *     all~fold=1/10,seed=7        another way to cut
 *     train~rest=1/5~fold=2/4     what is left of one cut, cut again (nested cross-validation)
 *
 * Folds count from 1, so that 5/5 is the last one. The seed is 0 unless said.
 * Which picture is in which fold is a pure function of the data set and this
 * name (preprocessd/dataset/fold.c, schemas/manifest.md): nothing is stored.
 *
 * Threads: pure. Limits: FOLD_COUNT_MAX, FOLD_DEPTH_MAX.
 */
#ifndef SHARED_ORDER_FOLD_H
#define SHARED_ORDER_FOLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/base/err.h"

enum { FOLD_COUNT_MAX = 1000, FOLD_DEPTH_MAX = 3 };

struct fold_spec {
	uint32_t index, count; /* index 1..count */
	uint64_t seed;
	bool rest;             /* everything but that fold */
};

/* The cuts of a name in the order they are made; count 0: no fold is named. */
struct fold_chain {
	struct fold_spec cut[FOLD_DEPTH_MAX];
	int count;
};

/* *base_bytes: length of what stands before the first "~", or of all. ERR_USAGE quotes what is wrong. */
MUST_USE int fold_parse(const char *split, struct fold_chain *out, size_t *base_bytes, struct err *err);

/* Whether pictures of one base can be in both: false only where the names show that there are none. */
bool fold_overlap(const struct fold_chain *a, const struct fold_chain *b);

#endif
