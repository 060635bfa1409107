/*
 * encoder.h - features by frozen towers, the same bits whatever else is encoded beside them.
 *
 * Products and convolutions may add in another order when a batch has another
 * size, and at another place in a batch. Features that are cached, or compared
 * bit by bit, must not depend on that. So the towers run on groups of one fixed
 * shape: MODEL_FROZEN_GROUP pictures, or as many captions of one length; a
 * group that is not full is filled up with copies of its last one. That the
 * place within the group does not matter either is tried before a shape is
 * used: copies of one input must give equal bits at every place. Which additions are made
 * in which order depends on shapes alone, so what holds for one input holds for all;
 * where it does not hold, the shape is used for one at a time.
 *
 * Batch norm uses running statistics; there is no dropout.
 *
 * Threads, ownership, limits: as model.h. The model must have been opened with the tower frozen.
 */
#ifndef TRAINER_MODEL_ENCODER_H
#define TRAINER_MODEL_ENCODER_H

#include "shared/base/hash.h"
#include "trainer/model/model.h"

struct encoder;
MUST_USE int encoder_open(struct encoder **out, struct model *model, int tokens_per_caption, struct err *err);
void encoder_close(struct encoder *encoder); /* NULL is fine */

/* pixels: n pictures as for model_image_forward(). wanted (n): others are left out; NULL: all. v (n, F). */
void encoder_pictures(struct encoder *encoder, const float *pixels, bool nhwc, int n, const uint8_t *wanted, float *v);
/* ids packed behind offsets (n + 1) -> t (n, F) */
void encoder_captions(struct encoder *encoder, const int32_t *ids, const uint32_t *offsets, int n, const uint8_t *wanted, float *t);

/* Everything on this side that decides a tower's features: the values of its weights and running statistics, the kernels and
 * libraries, the number of threads, and `settings` (a text). */
MUST_USE int encoder_hash(const struct encoder *encoder, bool text, const char *settings, struct hash *out, struct err *err);

#endif
