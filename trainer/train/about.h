/*
 * about.h - what a checkpoint and run.json say about model and data, beside the
 * configuration: enough to open the model again without anything else.
 *
 * Threads: pure. Ownership: plain values. Format: schemas/run.md.
 */
#ifndef TRAINER_TRAIN_ABOUT_H
#define TRAINER_TRAIN_ABOUT_H

#include "shared/base/hash.h"
#include "shared/base/json.h"
#include "trainer/model/encoders.h"

enum { ABOUT_NAME_BYTES = 256 };

struct about_model {
	enum model_task task;
	int64_t image_size, vocab_size, classes, pad_id;
	int64_t features, parameters; /* for people; derived from the rest, as are these two */
	char image_encoder[ENCODER_TEXT_BYTES], text_encoder[ENCODER_TEXT_BYTES];
};
struct about_data {
	char name[ABOUT_NAME_BYTES];
	struct hash version;
	char vocab[ABOUT_NAME_BYTES];
	struct hash vocab_hash;
};

MUST_USE int about_model_write(const struct about_model *about, struct buf *out, struct err *err);
/* The reader stands before the '{'. ERR_FORMAT: something is missing or of the wrong kind. */
MUST_USE int about_model_read(struct about_model *about, struct json_reader *reader, struct err *err);
MUST_USE int about_data_write(const struct about_data *about, struct buf *out, struct err *err);
MUST_USE int about_data_read(struct about_data *about, struct json_reader *reader, struct err *err);

#endif
