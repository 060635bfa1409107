/*
 * batch_file.h - a batch read from a safetensors file, checked and packed for the model.
 *
 * Everything comes from outside, so every size, id, mask and pair is checked
 * here, and what the model CHECKs holds afterwards.
 *
 * Ownership: batch_file_free() frees what batch_file_read() filled, also after a failure.
 * Limits:    BATCH_ROWS_MAX pictures, BATCH_PAIRS_MAX pairs.
 * Format:    schemas/probe.md.
 */
#ifndef TRAINER_PROBE_BATCH_FILE_H
#define TRAINER_PROBE_BATCH_FILE_H

#include "shared/io/tensorfile.h"
#include "trainer/model/model.h"

enum { BATCH_ROWS_MAX = 4096, BATCH_PAIRS_MAX = 1 << 22, BATCH_TOKENS_MAX = 1 << 16 };

struct batch_file {
	int B, image_size;
	float *image;              /* (B, 3, S, S) */
	int tokens, longest;
	int32_t *ids;              /* (tokens) packed */
	uint32_t *offsets;         /* (B + 1) */
	struct model_pairs pairs;  /* into the three arrays below; weights NULL: the mean */
	uint32_t *picture, *caption;
	int32_t *label;
	uint32_t *picture_group, *caption_group; /* (N) contrast */
};

/* config: task, classes, vocabulary and positions of the model it is for. */
MUST_USE int batch_file_read(struct batch_file *out, const struct tensorfile *file, const struct model_config *config,
			     struct err *err);
void batch_file_free(struct batch_file *batch);

/* The side of the file's pictures, for the model's configuration. */
MUST_USE int batch_file_image_size(const struct tensorfile *file, int *out, struct err *err);

#endif
