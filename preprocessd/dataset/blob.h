/*
 * blob.h - a manifest's memory: one block, laid out as on disk.
 *
 * Encoding is a copy, decoding a copy and a check. While a manifest is built,
 * the writable pointers are used; afterwards only `view` is.
 *
 * Threads: as manifest.h. Format: schemas/manifest.md.
 */
#ifndef PREPROCESSD_DATASET_BLOB_H
#define PREPROCESSD_DATASET_BLOB_H

#include "preprocessd/dataset/manifest.h"

struct blob_counts {
	uint32_t pictures, captions, splits, labels, groups;
	uint64_t source_bytes;  /* with terminators */
	uint64_t caption_bytes;
	uint64_t name_bytes;    /* of splits, then labels, with terminators */
};

struct blob {
	struct manifest view; /* first: a struct manifest * of ours is a struct blob * */
	uint8_t *bytes;
	size_t size;
	const char **names;   /* (splits + labels) */

	struct hash *picture_hash;
	uint64_t *source_at, *caption_at;
	int32_t *picture_label;
	uint32_t *picture_group, *caption_picture, *captions_of_at, *captions_of;
	uint8_t *picture_split;
	char *name_text, *source_text, *caption_text;
};

/* Cleared arrays. ERR_LIMIT: a count beyond manifest.h's. */
MUST_USE int blob_open(struct blob **out, const struct blob_counts *counts, struct err *err);
/* caption_picture is filled in: makes captions_of_at and captions_of. */
void blob_group_captions(struct blob *blob);
/* name_text is filled in: sets the name pointers; false where it does not hold all names. */
bool blob_find_names(struct blob *blob);
/* manifest_decode without its last step: *version is what the content says, and may differ from the view's. */
MUST_USE int blob_decode(struct blob **out, const void *bytes, size_t size, struct hash *version, struct err *err);
MUST_USE int blob_set_version(struct blob *blob, struct err *err);

#endif
