/*
 * hf_config.h - BERT's sizes from Hugging Face's config.json, and all that options say about the towers.
 *
 * What would change the computation and is not built here (another activation
 * than gelu, relative positions, a decoder, another architecture than BERT) is
 * refused by name; fields that change nothing are passed over.
 *
 * Threads:   pure but for reading the file.
 * Limits:    a file of 1 MiB.
 * Format:    https://huggingface.co/docs/transformers/model_doc/bert (BertConfig).
 */
#ifndef TRAINER_MODEL_HF_CONFIG_H
#define TRAINER_MODEL_HF_CONFIG_H

#include "trainer/model/model.h"

/* path: the file, or the folder that it lies in. BertConfig's defaults stand
 * for what the file leaves out; vocab_size is 0 when it does. dropout is
 * hidden_dropout_prob, attention_dropout attention_probs_dropout_prob. pad_id stays. */
MUST_USE int hf_config_read(struct bert_config *config, const char *path, struct err *err);

/* A preset changed as the options --image-encoder, --text-config and
 * --text-encoder say, in this order; each may be NULL. The dropouts are left alone. */
MUST_USE int encoders_apply(struct model_config *config, const char *image_encoder, const char *text_config,
			    const char *text_encoder, struct err *err);

/* The config.json in the folder `weights`, or beside the file `weights`:
 * fills out (out_bytes) and returns true when there is one. */
bool hf_config_beside(const char *weights, char *out, size_t out_bytes);

#endif
