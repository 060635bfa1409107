/*
 * fold.h - which pictures belong to which fold of cross-validation.
 *
 * Pictures that belong together stay in one fold: those of one group, and
 * those that share a caption (letter case, punctuation and blanks aside), as
 * long as what hangs together is a small part of a fold. The same picture twice is one
 * picture of a manifest already. Folds are equal in size and in the share of
 * each label, to one picture where nothing hangs together.
 *
 * A pure function of the pictures' content, captions, labels, groups, and the seed.
 *
 * Threads: pure. Format: schemas/manifest.md ("Folds").
 */
#ifndef PREPROCESSD_DATASET_FOLD_H
#define PREPROCESSD_DATASET_FOLD_H

#include "preprocessd/dataset/manifest.h"
#include "shared/order/fold.h"

/* pictures: (count) ascending. fold_of: (count) 1..spec->count. */
MUST_USE int fold_assign(const struct manifest *manifest, const uint32_t *pictures, uint32_t count, const struct fold_spec *spec,
			 uint16_t *fold_of, struct err *err);

#endif
