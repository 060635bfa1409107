/*
 * manifest.h - a data set: pictures by content hash, raw captions, labels, splits.
 *
 * A sample is one picture with one caption. Its id is the caption's index
 * here: captions stand in the order in which the files list them (files in the
 * order given), whatever picture they belong to.
 *
 * The version is a hash of everything below except the sources (paths), so the
 * same data read from another folder is the same version.
 *
 * Threads:   immutable once built; shared freely.
 * Limits:    MANIFEST_PICTURES_MAX, MANIFEST_CAPTIONS_MAX, MANIFEST_SPLITS_MAX, MANIFEST_LABELS_MAX.
 * Format:    schemas/manifest.md (manifest_encode, manifest_decode).
 */
#ifndef PREPROCESSD_DATASET_MANIFEST_H
#define PREPROCESSD_DATASET_MANIFEST_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/buf.h"
#include "shared/base/hash.h"

struct rights; /* rights.h */

enum {
	MANIFEST_PICTURES_MAX = 1 << 26,
	MANIFEST_CAPTIONS_MAX = 1 << 28,
	MANIFEST_SPLITS_MAX = 64,
	MANIFEST_LABELS_MAX = 1 << 16,
	MANIFEST_NAME_BYTES_MAX = 64, /* data sets, splits, vocabularies */
	MANIFEST_CAPTION_BYTES_MAX = 1 << 20,
	MANIFEST_LABEL_BYTES_MAX = 1024,
	MANIFEST_LABEL_BYTES_SUM_MAX = 8 << 20, /* of different labels when they are read: one reply names all of them */
};

struct manifest {
	struct hash version;
	uint32_t picture_count;        /* P */
	uint32_t caption_count;        /* C */
	uint32_t split_count, label_count, group_count;
	const struct hash *picture_hash;   /* (P) SHA-256 of the source bytes */
	const uint64_t *source_at;         /* (P+1) into source_text */
	const char *source_text;           /* absolute paths, each NUL-terminated */
	const uint8_t *picture_split;      /* (P) index into split_name */
	const int32_t *picture_label;      /* (P) class, -1: none */
	const uint32_t *picture_group;     /* (P) group: pictures of one are never parted. Without groups = picture */
	const uint32_t *caption_picture;   /* (C) */
	const uint64_t *caption_at;        /* (C+1) into caption_text */
	const char *caption_text;          /* raw bytes as read, no terminators */
	const uint32_t *captions_of_at;    /* (P+1) into captions_of */
	const uint32_t *captions_of;       /* (C) caption indices, grouped by picture, ascending */
	const char *const *split_name;     /* (split_count) */
	const char *const *label_name;     /* (label_count) */
};

void manifest_free(struct manifest *manifest); /* NULL is fine */

MUST_USE int manifest_encode(const struct manifest *manifest, struct buf *out, struct err *err);
/* Checks every index and offset: bytes from disk are not trusted. */
MUST_USE int manifest_decode(struct manifest **out, const void *bytes, size_t size, struct err *err);

/* A part of the data set: one split, or several joined by '+' ("train+val"), or "all", or a
 * fold of these ("train+val~fold=2/5", shared/order/fold.h). Pictures ascend by index. */
struct manifest_part {
	uint32_t picture_count;
	uint32_t caption_count;
	uint32_t *pictures; /* (picture_count) */
	uint32_t *captions; /* (caption_count) ascending: evaluation order */
};
/* ERR_NOTFOUND: no such split (names the ones there are). ERR_USAGE: no such fold. ERR_MISMATCH: it
 * has no pictures, or fewer than folds. */
MUST_USE int manifest_part_open(struct manifest_part **out, const struct manifest *manifest, const char *split, struct err *err);
void manifest_part_free(struct manifest_part *part);

/* Validation pairs of matching (DESIGN: every distinct caption of every
 * picture of the part, once with its picture and once with another whose
 * captions do not include that text), in the order of part->captions.
 * wrong_picture: (caption_count) index into part->pictures of the wrong
 * picture, or UINT32_MAX where the caption repeats an earlier one of the same
 * picture (no pair) or no other picture qualifies. Fixed by (version, split). */
MUST_USE int manifest_eval_pairs(const struct manifest *manifest, const struct manifest_part *part, const char *split,
				 uint32_t *wrong_picture, struct err *err);

/* --- building ---------------------------------------------------------- */

/* What a reader found: pictures by path, not yet opened.
 * docs/datasets.md has the formats for users. */
struct listing;
MUST_USE int listing_open(struct listing **out, struct err *err);
void listing_free(struct listing *listing);

struct reader_options {
	const char *format;                   /* coco, karpathy, csv, jsonl */
	const char *const *images;            /* [SPLIT=]DIR */
	int image_count;
	const char *const *captions;          /* [SPLIT=]FILE */
	int caption_count;
	const char *columns;                  /* IMAGE,CAPTION,LABEL or NULL */
	const char *split_ratio;              /* "train=0.8,val=0.2" or NULL */
	uint64_t split_seed;
	uint64_t limit, limit_seed;           /* so many of the pictures, drawn at random; 0: all */
	bool skip_bad;                        /* --on-bad skip: drop bad captions and missing pictures, and list them */
	const struct rights *rights;          /* whose files; NULL: the daemon's own user's */
};
/* Reads every caption file into one listing; once per listing. Paths may be relative to the
 * working directory. Errors name file and line (or item). A picture given in two splits or with
 * two labels is an error. Without --images, names are relative to the captions' folder. */
MUST_USE int listing_read(struct listing *listing, const struct reader_options *options, struct err *err);

uint32_t listing_picture_count(const struct listing *listing);
uint32_t listing_caption_count(const struct listing *listing);
const char *listing_picture_path(const struct listing *listing, uint32_t picture);
/* After opening picture i: its hash, or the reason why it fails (then it is left out
 * of the manifest, with its captions). Exactly one of the two per picture; any thread,
 * different pictures at the same time. */
void listing_set_hash(struct listing *listing, uint32_t picture, const struct hash *hash);
MUST_USE int listing_set_failure(struct listing *listing, uint32_t picture, const struct err *reason);

/* Left-out captions and missing pictures in the order of the files, then pictures for which
 * listing_set_failure was called. Call when all of these are done, and
 * listing_failure_count first; strings live as long as the listing. */
struct listing_failure {
	const char *source; /* path, or file:line for a caption */
	const char *reason;
};
uint32_t listing_failure_count(const struct listing *listing);
struct listing_failure listing_failure_at(const struct listing *listing, uint32_t index);

/* Things a user may want to know and that are no failures: "captions_val2017.json: split val, from its
 * name", "3 pictures without captions are left out". Grows in listing_read and listing_finish. */
uint32_t listing_note_count(const struct listing *listing);
const char *listing_note_at(const struct listing *listing, uint32_t index);
MUST_USE int listing_add_note(struct listing *listing, struct err *err, const char *format, ...) PRINTF_LIKE(3, 4);

/* Two paths with the same content become one picture with the captions of both (an error
 * if they are in different splits: the message names both files; with skip_bad the later one
 * becomes a failure). Without skip_bad any failure is the error. ERR_MISMATCH: nothing is left. */
MUST_USE int listing_finish(struct listing *listing, struct manifest **out, struct err *err);
/* Frees the captions, which are the most of a listing and which its manifest has: no more is read or finished. */
void listing_drop_captions(struct listing *listing);

#endif
