/*
 * encoders.h - the two towers' sizes by name: what --image-encoder and --text-encoder say.
 *
 * Image: resnet18, resnet34, resnet50, resnet101, resnet152, as torchvision
 * builds them. Text: a list such as layers=4,width=256,heads=4,inner=1024 with
 * keys layers, width, heads, inner, vocab, positions, types, eps and
 * attention-dropout; what it leaves out stays as it was. Its canonical form
 * names every size, so that a run's record is enough to build the model again.
 *
 * Threads:   pure. Ownership: plain values.
 * Limits:    those of bert.h and resnet.h, checked when the model is opened.
 */
#ifndef TRAINER_MODEL_ENCODERS_H
#define TRAINER_MODEL_ENCODERS_H

#include "trainer/model/model.h"

enum { ENCODER_TEXT_BYTES = 256 };

/* ERR_USAGE names the ones there are. image_size and out_features stay. */
MUST_USE int image_encoder_set(struct resnet_config *config, const char *name, struct err *err);
/* "resnet50", or the blocks of one without a name. Returns out. */
const char *image_encoder_text(const struct resnet_config *config, char out[ENCODER_TEXT_BYTES]);

/* ERR_USAGE names key or value. vocab=N: rows of the word embeddings, where the
 * vocabulary has fewer words. */
MUST_USE int text_encoder_set(struct bert_config *config, const char *spec, struct err *err);
/* The canonical form; vocab (where it is not 0) and attention-dropout (where it
 * is not -1) included. Returns out. */
const char *text_encoder_text(const struct bert_config *config, char out[ENCODER_TEXT_BYTES]);

#endif
