/*
 * pairs.h - which pictures and captions of a batch are scored together.
 *
 * Classification: each labelled sample is a pair of its own picture and
 * caption; every one weighs 1/N. Samples without a label are left out.
 *
 * Matching: positives (label 1) are the samples; negatives (label 0) pair the
 * picture of a sample with captions of other samples of the same batch, never
 * with a caption of the same picture, and never with one whose tokens are the
 * same as the positive's (the same sentence would be right for it). K of those
 * are drawn without repetition for each picture, by (seed, optimizer step, place
 * of the sample in that step's batch), or all are taken. The positives weigh 1/2 in the loss together,
 * and so do the negatives, whatever their numbers, so that always saying yes
 * or no gives the loss ln 2 and the accuracy 1/2. Where a batch allows no
 * negative at all the positives weigh 1.
 *
 * Contrast: the samples themselves, each with the first sample that has the same
 * picture and the first that has the same tokens: those are not each other's
 * negatives (kernels/contrast_ops.h).
 *
 * Threads:   one caller.
 * Ownership: the struct owns its arrays, sized once by pairs_open().
 * Limits:    batch size as given to pairs_open().
 */
#ifndef TRAINER_TRAIN_PAIRS_H
#define TRAINER_TRAIN_PAIRS_H

#include "shared/client/client.h"
#include "trainer/model/model.h"

enum { NEGATIVES_ALL = -1 };

struct pairs {
	struct model_pairs list;  /* what the model takes; picture and caption are rows of v and t */
	int positives, negatives; /* classification: labelled samples, 0 */
	int capacity;
	/* the arrays behind list */
	uint32_t *picture, *caption, *candidates;
	int32_t *label;
	float *weight;
	uint32_t *picture_group, *caption_group;
};

/* How many pairs a batch can give: the limit to plan a model for. */
size_t pairs_most(enum model_task task, int batch_size, int negatives);
MUST_USE int pairs_open(struct pairs **out, enum model_task task, int batch_size, int negatives, struct err *err);
void pairs_close(struct pairs *pairs); /* NULL is fine */

/* For a training batch; row i of t is caption i, row image_index[i] of v its
 * picture. first: place of sample 0 in the optimizer step's batch. */
void pairs_match(struct pairs *pairs, const struct batch *batch, int negatives, uint64_t seed, uint64_t step, uint32_t first);
void pairs_classify(struct pairs *pairs, const struct batch *batch);
void pairs_contrast(struct pairs *pairs, const struct batch *batch);

/* Balanced accuracy: half the share of positives that are right, half that of
 * the negatives; for classification the plain share. correct: (list.count). */
double pairs_accuracy(const struct pairs *pairs, const uint8_t *correct);

#endif
