/*
 * features.h - what clients' encoders made of pictures and captions, kept for the next who asks.
 *
 * The daemon knows nothing of encoders: a feature is a row of floats that a
 * client computed. Its key is the content (of the source file; of the
 * caption's bytes) and a fingerprint of all that decides the row: what the
 * client says of its encoder (32 bytes), the width, and what the daemon
 * itself knows: the picture's transform, or vocabulary, tokenizer and max_len.
 * So the same picture in another data set, split or run is found.
 *
 * A row that is there is never replaced, unless its record is damaged: that
 * counts as absent, and is mended by the next put.
 *
 * Threads:   on a worker.
 * Ownership: features_get() gives a descriptor, the caller's to close.
 * Limits:    FEATURES_ROWS_MAX and FEATURES_BYTES_MAX of one call.
 * Format:    schemas/features.md.
 */
#ifndef PREPROCESSD_PIPELINE_FEATURES_H
#define PREPROCESSD_PIPELINE_FEATURES_H

#include "preprocessd/pipeline/catalog.h"
#include "preprocessd/pipeline/pool.h"
#include "shared/wire/features.h"

/* Whose features; texts are borrowed. */
struct features_of {
	const char *dataset, *split;
	const struct hash *expect_version; /* NULL: any */
	struct hash encoder;
	bool captions;       /* else pictures */
	uint32_t image_size; /* pictures */
	bool exif_apply;
	const char *vocab;   /* captions; "": the data set's */
	uint32_t max_len;    /* captions */
	uint32_t width;      /* floats of a row */
};

struct features_found {
	int fd;             /* of the memory, sealed */
	uint64_t bytes;
	uint32_t rows;      /* of the whole part */
	uint32_t count;     /* in the memory */
	uint32_t found;     /* of these */
	struct hash fingerprint;
};

/* Rows first .. first+count of the part: pictures in order of their index, captions in
 * evaluation's order; fewer at the end. ERR_NOTFOUND, ERR_MISMATCH as for streams. */
MUST_USE int features_get(struct worker *worker, const struct features_of *of, uint32_t first, uint32_t count,
			  struct features_found *out, struct err *err);
/* Fingerprints under which features of this content (SHA-256 of a picture's file) are kept, at most FEATURES_EXPLAINED. */
enum { FEATURES_EXPLAINED = 64 };
MUST_USE int features_explain(struct worker *worker, const struct hash *content, struct hash out[FEATURES_EXPLAINED], size_t *count,
			      struct err *err);
/* values: (count, width). Rows of the part, any order. *kept: how many were not there yet. Returns
 * when they are queued; a failure to write is reported as for pictures. ERR_FORMAT: not finite. */
MUST_USE int features_put(struct worker *worker, const struct features_of *of, const uint32_t *rows, uint32_t count,
			  const float *values, uint32_t *kept, struct err *err);

#endif
