/*
 * checksum.h - the checksum that a file of weights or moments of ours carries.
 *
 * A turned bit of a weight leaves a valid file with finite values and the right
 * shapes. The checksum covers names, shapes, dtypes, bytes and metadata;
 * statefile_open() verifies it, so no reader of weights can forget to, and
 * checkpoint.c before it goes on from a checkpoint.
 *
 * Threads:   pure functions.
 * Ownership: everything is borrowed.
 * Format:    schemas/run.md ("Checkpoints").
 */
#ifndef TRAINER_IO_CHECKSUM_H
#define TRAINER_IO_CHECKSUM_H

#include <stdbool.h>

#include "shared/io/tensorfile.h"

/* Metadata under the checksum, in this order; checksum_keys has the names. */
enum checksum_key {
	META_FORMAT, META_STEP, META_PROGRESS, META_CONFIG, META_MODEL, META_DATASET, META_PARTNER, META_SECONDS, META_COUNT
};
extern const char *const checksum_keys[META_COUNT];
extern const char checksum_format[]; /* the value of META_FORMAT */

enum { CHECKSUM_TEXT_BYTES = 17 };

/* Of tensors in the order of their offsets; values[i] is NULL where the file has no such key. */
void checksum_compute(const struct tensor_view *views, int count, const char *const values[META_COUNT], char out[CHECKSUM_TEXT_BYTES]);

/* ERR_CORRUPT: the file is ours, and its checksum does not fit or is gone. *ours is false for a file that says nothing of us. */
MUST_USE int checksum_verify(const struct tensorfile *file, bool *ours, struct err *err);

#endif
