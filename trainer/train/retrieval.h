/*
 * retrieval.h - how well the pictures and captions of a split find each other by their features alone.
 *
 * Features become unit vectors; a picture and a caption are as near as their
 * cosine. A caption's answer is its picture, a picture's answers are its
 * captions. A caption of another picture with the same tokens is neither right
 * nor wrong for that picture: it is left out of both rankings. An answer that
 * another is as near as (within CONTRAST_TIE) counts as beaten by it.
 *
 *     recall at k   share of captions whose picture is among the k nearest (text to image); share of pictures
 *                   of whose captions at least one is among the k nearest (image to text)
 *     accuracy      share of captions that are nearer to their own picture than to the wrong picture of the
 *                   data set's fixed pair (those of matching); chance is 0.5
 *     loss          InfoNCE over the whole split at the model's temperature: mean over captions of half
 *                   -log softmax over all pictures and half -log softmax over the caption and all captions of others
 *
 * Threads:   one caller.
 * Ownership: features are borrowed for the call and become unit vectors in place.
 * Limits:    as opened. Memory: 1 block of RETRIEVAL_ELEMENTS scores and 40 bytes a caption.
 */
#ifndef TRAINER_TRAIN_RETRIEVAL_H
#define TRAINER_TRAIN_RETRIEVAL_H

#include <stdint.h>

#include "shared/base/err.h"

enum { RECALLS = 3 };
extern const uint32_t retrieval_recall_at[RECALLS]; /* 1, 5, 10 */

struct retrieval_scores {
	double loss, accuracy;
	double image_to_text[RECALLS], text_to_image[RECALLS];
	uint64_t pairs; /* captions that accuracy is over */
};

struct retrieval_input {
	float *v, *t;            /* (pictures, F), (captions, F) */
	uint32_t pictures, captions;
	int features;            /* F */
	const uint32_t *own;     /* (captions) picture */
	const uint32_t *wrong;   /* (captions) picture, UINT32_MAX: none */
	const uint64_t *text;    /* (captions) equal for equal tokens */
	float log_scale;         /* of the temperature */
};

struct retrieval;
MUST_USE int retrieval_open(struct retrieval **out, uint32_t pictures, uint32_t captions, struct err *err);
void retrieval_close(struct retrieval *retrieval); /* NULL is fine */
/* ERR_FORMAT: nothing to score, as all captions are alike. */
MUST_USE int retrieval_run(struct retrieval *retrieval, const struct retrieval_input *input, struct retrieval_scores *out,
			   struct err *err);

#endif
