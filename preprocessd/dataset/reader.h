/*
 * reader.h - one caption file on its way into a listing.
 *
 * A format's reader turns bytes into items: a picture's name as the file
 * writes it, and captions. reader_item() finds the picture in the folders,
 * judges the captions and adds both. What is wrong with one caption or one
 * missing picture ends the reading or, with skip_bad, becomes a failure.
 *
 * Threads: one.
 */
#ifndef PREPROCESSD_DATASET_READER_H
#define PREPROCESSD_DATASET_READER_H

#include "preprocessd/dataset/listing.h"
#include "preprocessd/dataset/rights.h"
#include "shared/base/json.h"

enum { COLUMN_IMAGE, COLUMN_CAPTION, COLUMN_LABEL, COLUMN_COUNT };

struct folder {
	char *path;   /* absolute; owned */
	int16_t split; /* NO_SPLIT: for every one */
};

struct folders {
	struct folder *items;
	int count;
	bool trust; /* tests: every name exists */
	const struct rights *rights;
};

struct reader {
	struct listing *listing;
	const struct folders *folders;
	const char *name;          /* of the file, for messages */
	uint32_t file;             /* index into listing->files */
	int16_t file_split;        /* from SPLIT=FILE; NO_SPLIT: none */
	int16_t default_split;     /* where an item names none; NO_SPLIT under --split */
	bool by_ratio;             /* --split: no item may name one */
	const char *columns[COLUMN_COUNT]; /* --columns; NULL: the usual names */
	bool columns_given;
	char hint[160];            /* behind a message about missing pictures: where their names stand */

	struct strings names;      /* "split \0 folder \0 name" as this file writes them */
	uint32_t *name_picture;    /* (names.capacity) */
	uint32_t name_capacity;
	struct buf key, path;      /* scratch */
	int no_file;               /* what find_picture() came upon in place of a file: as rights_find_file() says it; 0: nothing */
};

/* What one line or object says. Memory is kept from item to item. */
struct item {
	struct buf image, folder, split, label, group;
	bool has_image, has_folder, has_split, has_label, has_group;
	struct buf texts;
	size_t *ends; /* of the captions in texts */
	uint32_t caption_count, caption_capacity;
	uint32_t number; /* line or item, from 1 */
};

void item_clear(struct item *item);
void item_free(struct item *item);
MUST_USE int item_add_caption(struct item *item, const char *text, size_t bytes, struct err *err);

/* Adds it all. ERR_FORMAT names the place. */
MUST_USE int reader_item(struct reader *reader, const struct item *item, struct err *err);
/* *has: there is a picture of this name for some split. ERR_IO: a folder cannot be looked into. */
MUST_USE int reader_has_picture(struct reader *reader, const char *name, size_t bytes, bool *has, struct err *err);
/* The same for one split (NO_SPLIT: folders for every one); the path is in reader->path, and folder may be NULL. */
MUST_USE int reader_find_picture(struct reader *reader, int16_t split, const struct buf *folder, const char *name, size_t bytes,
				 bool *there, struct err *err);
/* Does it end as names of JPEG files do (and Flickr8k's "#3" behind that)? */
bool reader_looks_like_picture(const char *name, size_t bytes);
/* Bytes of a text without the zeros behind a whole number's point: 5.0, as programs write whole numbers that were floats on their way,
 * is 5. All of them where it is no such number. */
size_t reader_number_bytes(const char *text, size_t bytes);
/* An ERR_FORMAT with the place in front. */
int reader_fail(const struct reader *reader, uint32_t number, struct err *err, const char *format, ...) PRINTF_LIKE(4, 5);
/* An item that is left out: with skip_bad a failure and 0, else the error. */
MUST_USE int reader_bad_item(struct reader *reader, uint32_t number, struct err *err, const char *format, ...) PRINTF_LIKE(4, 5);

/* --- missing.c ------------------------------------------------------------------ */

/* This picture, just added under a name of its own, is not there; reader->no_file is what was come upon in its place. */
MUST_USE int missing_note(struct reader *reader, const struct item *item, struct picture *picture, struct err *err);
/* After all files, and a draw, were read: no missing picture is left. An error tells of all of them, or with skip_bad each is a failure. */
MUST_USE int missing_settle(struct listing *listing, const struct folders *folders, bool drawn, struct err *err);

/* --- JSON helpers ----------------------------------------------------------- */

/* The last value says nothing: null, or the NaN that Python writes where a table has no value. */
bool json_is_null(const struct json_reader *json);
/* The next value, a string or a number, into out; *has stays false where it says nothing. what: for the message. */
MUST_USE int json_text(struct json_reader *json, struct buf *out, bool *has, const char *what, struct err *err);
/* The same of a label or a group, where "" says nothing either, as an empty cell of a table. */
MUST_USE int json_label(struct json_reader *json, struct buf *out, bool *has, const char *what, struct err *err);
/* For a key that json has just read and whose value counts: ERR_FORMAT where *seen, else sets it. */
MUST_USE int json_once(const struct json_reader *json, bool *seen, const char *key, struct err *err);
/* Reads the array that comes next; element is called when the first event of each value has been
 * read, and reads on to its last. Numbers count from 1. */
typedef int (*json_element)(void *context, struct json_reader *json, uint32_t number, struct err *err);
MUST_USE int json_array(struct json_reader *json, const char *what, json_element element, void *context, struct err *err);

/* json has just read OBJECT_BEGIN (else the error says what should be an object). field is called
 * with each key and reads the value; key is valid until it reads. */
typedef int (*json_field)(void *context, struct json_reader *json, const char *key, struct err *err);
MUST_USE int json_object(struct json_reader *json, const char *what, json_field field, void *context, struct err *err);

/* --- formats ------------------------------------------------------------------ */

typedef int (*reader_format)(struct reader *reader, const char *bytes, size_t size, struct err *err);
MUST_USE int read_coco(struct reader *reader, const char *bytes, size_t size, struct err *err);
MUST_USE int read_karpathy(struct reader *reader, const char *bytes, size_t size, struct err *err);
MUST_USE int read_csv(struct reader *reader, const char *bytes, size_t size, struct err *err);
MUST_USE int read_jsonl(struct reader *reader, const char *bytes, size_t size, struct err *err);

/* Releases what the reader owns. */
void reader_close(struct reader *reader);

/* NULL-terminated. */
extern const char *const usual_image_names[], *const usual_caption_names[], *const usual_label_names[],
	*const usual_split_names[], *const usual_group_names[];

#endif
