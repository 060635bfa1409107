/*
 * validate.h - accuracy and loss over a whole split, the same for every run.
 *
 * Every picture and every caption is encoded once, without dropout and with
 * batch norm's running statistics; then pairs of features are scored.
 * Matching: the fixed pairs of the data set's version, for each distinct
 * caption of a picture one with that picture (true) and one with a picture
 * whose captions do not include the text (wrong). Half of all pairs are true,
 * so accuracy over pairs is balanced, and chance is 0.5. Loss is the mean cross-entropy over
 * pairs. Classification: every labelled sample once. Contrast: retrieval over the whole split (retrieval.h).
 *
 * Threads:   one caller.
 * Ownership: borrows model and feed for the call; features of the whole split
 *            are kept in memory: (pictures + captions) * F floats.
 */
#ifndef TRAINER_TRAIN_VALIDATE_H
#define TRAINER_TRAIN_VALIDATE_H

#include "trainer/client/feed.h"
#include "trainer/kernels/vector_ops.h"
#include "trainer/model/model.h"
#include "trainer/train/predictions.h"
#include "trainer/train/retrieval.h"
#include "trainer/train/source.h"

struct validation {
	double accuracy, loss;
	double ece;          /* expected calibration error, predictions.h */
	uint64_t pairs;      /* scored; samples for classification; captions compared for contrast */
	uint64_t samples;    /* captions encoded */
	double seconds, wait_s;
	bool has_recalls;    /* contrast */
	double image_to_text[RECALLS], text_to_image[RECALLS];
	struct hash chain;   /* of the batches' digests, from the data set's version */
};

struct validator;
/* limits: those that the model was opened with, at least validator_limits() of the same numbers. captions, pictures: of the split. */
MUST_USE int validator_open(struct validator **out, struct model *model, const struct model_limits *limits,
			    const struct vector_ops *ops, uint32_t pictures, uint32_t captions, uint32_t batch_size,
			    struct err *err);
void validator_close(struct validator *validator); /* NULL is fine */
/* Fills predictions, with room for two of each caption, in every run from now on; NULL: no longer. */
void validator_keep(struct validator *validator, struct predictions *predictions);

/* Features of frozen towers come from here; borrowed. NULL: none is frozen. */
void validator_take_from(struct validator *validator, struct source *source);

/* feed: an evaluation stream that was just opened, of the split. ERR_FORMAT: the split has nothing to score.
 * cancelled (may be NULL) is asked between batches. */
MUST_USE int validator_run(struct validator *validator, struct feed *feed, bool (*cancelled)(void *), void *cancel_context,
			   struct validation *out, struct err *err);

/* Raises limits to the smallest for which a validator works with batches of this size, or of all there is. */
void validator_limits(struct model_limits *limits, uint32_t batch_size, uint32_t pictures, uint32_t captions, uint32_t max_len);

#endif
