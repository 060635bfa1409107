/*
 * stages.h - one micro-batch on its way through the model's stages: what goes
 * into each, what came out, and the gradients on the way back.
 *
 * The training step fills in the inputs; objective.c runs the stages, and an
 * adversary single ones of them again. Buffers are for the largest batch.
 *
 * Threads: one caller. Ownership: buffers belong to whoever called
 * stages_open(); inputs are borrowed for one step.
 */
#ifndef TRAINER_REG_STAGES_H
#define TRAINER_REG_STAGES_H

#include "trainer/kernels/vector_ops.h"
#include "trainer/model/model.h"

struct stages {
	struct model *model;
	const struct vector_ops *ops;
	/* inputs of this micro-batch, borrowed */
	bool image_frozen, text_frozen;    /* v, t are filled in by the caller; pixels, ids and the tower are not used */
	const float *pixels;
	bool nhwc;
	int pictures;                      /* B */
	const int32_t *ids;                /* (tokens) packed */
	const uint32_t *offsets;           /* (captions + 1) */
	int captions, tokens;
	const uint32_t *picture_positions; /* (pictures) place in the optimizer step's batch */
	const uint32_t *caption_positions; /* (captions) */
	const struct model_pairs *pairs;
	uint64_t seed, step;
	bool dropout;
	float scale;                       /* of the loss gradient: 1 / micro-batches of the step */
	/* values and gradients, owned; W is the text tower's width, F the number of features */
	float *v, *dv;                     /* (pictures, F) */
	float *t, *dt;                     /* (captions, F) */
	float *word, *dword;               /* (tokens, W) */
	float *logits;                     /* (pairs, classes) of the clean pass; not of contrast */
};

MUST_USE int stages_open(struct stages *out, struct model *model, const struct model_limits *limits,
			 const struct vector_ops *ops, struct err *err);
void stages_close(struct stages *stages);
size_t stages_bytes(const struct model_config *config, const struct model_limits *limits);

/* What model.h's text and fusion stages are called with. */
struct model_call stages_text_call(const struct stages *stages);

#endif
