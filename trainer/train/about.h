/*
 * about.h - what a checkpoint and run.json say about model and data, beside the
 * configuration: enough to open the model again without anything else.
 *
 * Threads: pure. Ownership: plain values, but for the names in about_classes. Limits: ABOUT_CLASSES_BYTES. Format: schemas/run.md.
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

/* What the classes of a model for labels are called, in order of class. */
enum { ABOUT_CLASSES_BYTES = 1 << 14, ABOUT_DIFFERENCE_BYTES = 320 };
struct about_classes {
	bool known;         /* false: nothing is said of them */
	struct hash hash;   /* of every name: length as 8 bytes, bytes */
	struct buf names;   /* each with its zero byte; empty where together they are longer than ABOUT_CLASSES_BYTES */
};

MUST_USE int about_classes_set(struct about_classes *out, const char *const *names, uint32_t count, struct err *err);
void about_classes_free(struct about_classes *classes);
/* Whether both are known and are not the same names in the same order; then `text` says where they first differ: "class 0 is
 * 'airport' there and 'beach' here". */
bool about_classes_differ(const struct about_classes *there, const struct about_classes *here, char text[ABOUT_DIFFERENCE_BYTES]);

/* classes may be unknown: then nothing is written of them. */
MUST_USE int about_model_write(const struct about_model *about, const struct about_classes *classes, struct buf *out, struct err *err);
/* The reader stands before the '{'. ERR_FORMAT: something is missing or of the wrong kind. */
MUST_USE int about_model_read(struct about_model *about, struct json_reader *reader, struct err *err);
/* The names in the same object; unknown where it says nothing of them, as one of an older version does. */
MUST_USE int about_classes_read(struct about_classes *classes, struct json_reader *reader, struct err *err);
MUST_USE int about_data_write(const struct about_data *about, struct buf *out, struct err *err);
MUST_USE int about_data_read(struct about_data *about, struct json_reader *reader, struct err *err);

#endif
