/*
 * source.h - where the features of a part of the data set come from when towers are frozen.
 *
 * With the cache, a table of the whole part: what preprocessd keeps of it is
 * fetched once, what it lacks is computed once and put there for the next run.
 * Without, every batch is encoded when it comes. Both give the same bits
 * (encoder.h), so a run's results do not depend on it.
 *
 * Threads:   one caller.
 * Ownership: borrows the encoder; options' texts are copied where they are needed later.
 * Limits:    (pictures + captions) * F floats of memory.
 * Format:    schemas/features.md.
 */
#ifndef TRAINER_TRAIN_SOURCE_H
#define TRAINER_TRAIN_SOURCE_H

#include "trainer/client/feed.h"
#include "trainer/model/encoder.h"

struct source_options {
	struct encoder *encoder;
	int features;            /* F */
	bool images, texts;      /* which towers are frozen */
	bool tables;             /* false: encode each batch */
	bool blank;              /* --dry-run: features are zero, nothing is fetched or computed */
	const char *settings;    /* further decides features (encoder_hash) */
	struct feed_options feed; /* socket, data set, split, vocabulary, sizes; of the part */
	struct hash version;
	double wait_s;           /* for a daemon that went away */
};

struct source;
MUST_USE int source_open(struct source **out, const struct source_options *options, struct err *err);
void source_close(struct source *source); /* NULL is fine */
bool source_images(const struct source *source);
bool source_texts(const struct source *source);

/* For the distinct pictures of a batch (wanted[image]; NULL: all) -> v (image_count, F); its captions -> t (count, F).
 * ERR_PROTOCOL: a sample that the part does not have. */
MUST_USE int source_pictures(struct source *source, const struct batch *batch, bool nhwc, const uint8_t *wanted, float *v,
			     struct err *err);
MUST_USE int source_captions(struct source *source, const struct batch *batch, float *t, struct err *err);

/* What a feature costs, tried on a few samples of the part and thrown away; for --dry-run. */
struct source_costs {
	uint32_t pictures, captions; /* of the part; 0 where the tower is not frozen */
	double picture_s, caption_s; /* seconds for one */
};
MUST_USE int source_costs(struct source *source, struct source_costs *out, struct err *err);

#endif
