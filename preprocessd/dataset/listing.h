/*
 * listing.h - what the files of dataset/ share while a data set is read.
 *
 * reader.c        options, folders and the loop over caption files
 * read_*.c        one format each: bytes to rows
 * rows.c          rows into the listing: finding pictures, judging captions
 * listing.c       the listing itself: failures, notes, places
 * draw.c          so many of the pictures, drawn at random
 * missing.c       pictures that are named and not there
 * split.c         splits by ratio
 * finish.c        listing to manifest
 *
 * Threads: as manifest.h says of a listing; a reader belongs to one thread.
 */
#ifndef PREPROCESSD_DATASET_LISTING_H
#define PREPROCESSD_DATASET_LISTING_H

#include <pthread.h>
#include <sys/types.h>

#include "preprocessd/dataset/manifest.h"
#include "preprocessd/dataset/strings.h"

enum {
	LISTING_FILES_MAX = 256,        /* --images and --captions, each */
	LISTING_EXAMPLES_MAX = 3,       /* names quoted in a message about many */
	LISTING_PLACE_BYTES = 4200,
	LISTING_PATH_BYTES = 4096,
};
#define CAPTION_FILE_BYTES_MAX ((size_t)8 << 30)
#define NO_SPLIT (-1)
#define NO_PICTURE UINT32_MAX

/* Where something was said. */
struct place {
	uint32_t file; /* index into listing->files */
	uint32_t item; /* line, or number of the annotation or image, from 1; 0: the file as a whole */
};

/* MISSING: only until all files are read, so that it has its place in a draw. */
enum picture_state { PICTURE_LISTED, PICTURE_HASHED, PICTURE_FAILED, PICTURE_MISSING };

struct picture {
	struct place place, label_place, group_place;
	int32_t label, group; /* into listing->labels, ->groups; -1: none */
	int16_t split;        /* into listing->splits or NO_SPLIT */
	uint8_t state;
	struct hash hash;     /* PICTURE_HASHED */
	char *failure;        /* PICTURE_FAILED; owned */
	struct absent *absent; /* PICTURE_MISSING; owned */
};

struct caption {
	uint64_t end; /* of its bytes in caption_text; they begin where the one before ends */
	uint32_t picture;
	struct place place;
};

struct listing_file {
	char *name;       /* as given, for messages; owned */
	const char *item; /* "annotation", "image", or NULL: lines */
	char *folder;     /* the only one that is searched for its pictures: its own; owned, or NULL: those of --images */
	char *hint;       /* behind a message about missing pictures: where their names stand; owned, or NULL */
	dev_t device;     /* which file it is, under whatever name */
	ino_t inode;
	int16_t split;    /* from SPLIT=FILE; NO_SPLIT: none */
};

struct failure {
	char *source, *reason; /* owned */
};

struct ratio {
	int count;
	int16_t split[MANIFEST_SPLITS_MAX]; /* into listing->splits */
	double part[MANIFEST_SPLITS_MAX];   /* sums to 1 */
	uint64_t seed;
};

struct listing {
	struct listing_file *files;
	uint32_t file_count;
	struct strings paths;      /* index = picture */
	struct picture *pictures;
	uint32_t picture_count, picture_capacity;
	struct caption *captions;
	uint32_t caption_count, caption_capacity;
	struct buf caption_text;
	struct strings splits, labels, groups, notes;
	struct failure *failures;  /* while reading and finishing */
	uint32_t failure_count, failure_capacity;
	pthread_mutex_t lock;      /* failed_* below */
	uint32_t *failed;          /* pictures, sorted when asked for */
	uint32_t failed_count, failed_capacity;
	struct ratio ratio;        /* count 0: none */
	bool skip_bad, read;
};

/* "captions.csv:12" or "captions.json: annotation 12" */
void listing_place(const struct listing *listing, struct place place, char out[LISTING_PLACE_BYTES]);
MUST_USE int listing_add_failure(struct listing *listing, const char *source, const char *reason, struct err *err);
bool listing_is_name(const char *name, size_t bytes);
/* The number of a split's name; ERR_FORMAT or ERR_LIMIT where it cannot be one. */
MUST_USE int listing_split(struct listing *listing, const char *name, size_t bytes, int16_t *split, struct err *err);

/* Only the pictures p with keep[p] and their captions stay, in their order; keep is (picture_count) and is overwritten. */
MUST_USE int listing_keep(struct listing *listing, uint32_t *keep, struct err *err);

/* What missing.c knows of one, if anything. */
void missing_free(struct picture *picture);

/* --- draw.c ----------------------------------------------------------------- */

/* After all files were read: leaves `limit` of the pictures that have captions, and says so in a note. */
MUST_USE int listing_draw(struct listing *listing, uint64_t limit, uint64_t seed, struct err *err);

/* --- split.c ---------------------------------------------------------------- */

/* "train=0.8,val=0.2" */
MUST_USE int ratio_parse(struct listing *listing, const char *text, uint64_t seed, struct err *err);
/* Fills split (count) for units that stay together: unit[i] is a number below unit_count. */
MUST_USE int ratio_assign(const struct ratio *ratio, const struct hash *hashes, const uint32_t *unit, uint32_t unit_count,
			  uint32_t count, int16_t *split, struct err *err);

#endif
