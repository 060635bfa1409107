/*
 * attack.h - attacks on a trained model, pair by pair: FGSM, PGD, and noise of the same size.
 *
 * FGSM: Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial
 * examples", ICLR 2015: one step of size eps along the gradient of the loss from the clean input.
 * PGD: Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards deep learning models resistant to
 * adversarial attacks", ICLR 2018: `steps` steps of size 2.5 eps / steps from random starts, each brought
 * back into the bounds; a pair counts as lost if any point on the way loses it.
 *
 * Pixels: linf, eps in units of [0, 1], after undoing the normalization. Word
 * embeddings: l2, eps as a share of the norm of a caption's words; [CLS] and [SEP] stay. Every
 * pair has perturbations of its own, also where pairs share a picture. The model
 * works as in evaluation: no dropout, running statistics.
 *
 * Threads:   one caller.
 * Ownership: attack_data and attack own their buffers; the model is borrowed, opened with
 *            attack_limits() for training (its gradients are scratch).
 */
#ifndef TRAINER_STUDY_ATTACK_H
#define TRAINER_STUDY_ATTACK_H

#include "trainer/client/feed.h"
#include "trainer/kernels/attack_ops.h"
#include "trainer/model/model.h"

enum { ATTACK_CHUNK = 25, ATTACK_SEED = 1 };

struct attack_data {
	int pairs, pictures, captions; /* pictures and captions: different ones */
	size_t picture_elements;
	float *pixels;           /* (pictures, picture_elements), rows of 3 */
	int32_t *ids;
	uint32_t *offsets;       /* (captions + 1) into ids */
	uint32_t *picture, *caption; /* (pairs) */
	int32_t *label;          /* (pairs) */
	struct attack_box box;
};
/* Takes `wanted` pairs (or all where there are fewer) from an evaluation stream, evenly over the split; for matching
 * each caption with its right and its wrong picture. ERR_FORMAT: the split has none. */
MUST_USE int attack_data_open(struct attack_data *out, struct feed *feed, enum model_task task, int wanted, int image_size,
			      uint32_t max_len, struct err *err);
void attack_data_close(struct attack_data *data);

enum attack_kind { ATTACK_NOISE, ATTACK_FGSM, ATTACK_PGD };
enum { ATTACK_PIXEL = 1, ATTACK_TEXT = 2 };
struct attack_spec {
	enum attack_kind kind;
	unsigned targets;
	double pixel_eps, text_eps; /* 0 where no target */
	int steps, restarts;        /* of PGD */
};
struct attack_outcome {
	double accuracy, loss; /* over all pairs; of the worst points */
};
/* Worst points found, to be tried on another model: pixels as they are, words as differences. */
struct attack_examples {
	float *pixels; /* (pairs, picture_elements) */
	float *words;  /* (tokens of all pairs one after the other, width) */
};
MUST_USE int attack_examples_open(struct attack_examples *out, const struct attack_data *data, unsigned targets, int width, struct err *err);
void attack_examples_close(struct attack_examples *examples);

struct attack;
void attack_limits(struct model_limits *limits, uint32_t max_len);
MUST_USE int attack_open(struct attack **out, struct model *model, const struct attack_data *data, uint32_t max_len, struct err *err);
void attack_close(struct attack *attack); /* NULL is fine */
/* keep: examples to fill, or NULL. eps 0 measures the clean pairs. */
void attack_run(struct attack *attack, const struct attack_spec *spec, struct attack_examples *keep, struct attack_outcome *out);
/* The model on examples that were made with another. */
void attack_transfer(struct attack *attack, const struct attack_examples *examples, unsigned targets, struct attack_outcome *out);

#endif
