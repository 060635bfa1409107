/*
 * fold.h - folds of cross-validation, as part of the name of a split.
 *
 *     split := base [ "~" ("fold" | "rest") "=" I "/" K [ ",seed=" N ] ]
 *
 *     train+val~fold=2/5          the second of five folds of train and val
 *     train+val~rest=2/5          everything of them but that fold
 *     all~fold=1/10,seed=7        another way to cut
 *
 * Folds count from 1, so that 5/5 is the last one. The seed is 0 unless said.
 * Which picture is in which fold is a pure function of the data set and this
 * name (preprocessd/dataset/fold.c, schemas/manifest.md): nothing is stored.
 *
 * Threads: pure. Limits: FOLD_COUNT_MAX.
 */
#ifndef SHARED_ORDER_FOLD_H
#define SHARED_ORDER_FOLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/base/err.h"

enum { FOLD_COUNT_MAX = 1000 };

struct fold_spec {
	uint32_t index, count; /* index 1..count; count 0: no fold is named */
	uint64_t seed;
	bool rest;             /* everything but that fold */
};

/* *base_bytes: length of what stands before the "~", or of all. ERR_USAGE quotes what is wrong. */
MUST_USE int fold_parse(const char *split, struct fold_spec *out, size_t *base_bytes, struct err *err);

#endif
