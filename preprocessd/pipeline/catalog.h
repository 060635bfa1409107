/*
 * catalog.h - data sets and vocabularies by name: records in the cache, and the
 * decoded ones in memory while they are used and a while longer.
 *
 * Threads:   any; a thread reads the cache through the reader that it passes.
 * Ownership: what catalog_*() gives is referenced, and given back with the unref.
 * Limits:    CATALOG_IDLE_MAX of each, and CATALOG_IDLE_PARTS_MAX splits of a data set, that nobody uses stay in memory.
 */
#ifndef PREPROCESSD_PIPELINE_CATALOG_H
#define PREPROCESSD_PIPELINE_CATALOG_H

#include "preprocessd/codec/wordpiece.h"
#include "preprocessd/dataset/manifest.h"
#include "preprocessd/pipeline/records.h"
#include "preprocessd/store/cache.h"

/* Folds: there are as many names of splits as clients can think of. */
enum { CATALOG_IDLE_MAX = 4, CATALOG_IDLE_PARTS_MAX = 32 };

/* What data sets and vocabularies in memory begin with. All but key is catalog.c's. */
struct catalog_item {
	struct hash key;
	int refs;
	uint64_t used;
	struct catalog_item *next;
};

struct vocab_ref {
	struct catalog_item item; /* key: SHA-256 of the file */
	struct vocab *vocab;
	struct hash fingerprint;
};

/* One split of a data set, with what evaluation needs. */
struct part_ref {
	char *split;
	struct manifest_part *part;
	uint32_t *wrong_pictures; /* (caption_count), NULL until an evaluation asked */
	int refs;
	struct part_ref *next;
};

struct dataset_ref {
	struct catalog_item item; /* key: of the manifest's record */
	struct manifest *manifest;
	struct part_ref *parts;
};

struct catalog;
MUST_USE int catalog_open(struct catalog **out, struct err *err);
void catalog_close(struct catalog *catalog); /* NULL is fine */

/* The record under this name; free with records__dataset_record__free_unpacked().
 * ERR_NOTFOUND names the data sets that there are. */
MUST_USE int catalog_record(struct cache_reader *reader, const char *name, Records__DatasetRecord **out, struct err *err);
/* The manifest of a record. */
MUST_USE int catalog_dataset(struct catalog *catalog, struct cache_reader *reader, const char *name,
			     const Records__DatasetRecord *record, struct dataset_ref **out, struct err *err);
void catalog_dataset_unref(struct catalog *catalog, struct dataset_ref *dataset);
/* Those that somebody uses, whether they still have a name or not, one after the other: gives `after` back (NULL: the first one is
 * wanted) for the next one, NULL behind the last. */
struct dataset_ref *catalog_dataset_next(struct catalog *catalog, struct dataset_ref *after);
/* A split of it, to be given back before the dataset_ref is. ERR_NOTFOUND names the splits. */
MUST_USE int catalog_part(struct catalog *catalog, struct dataset_ref *dataset, const char *split, bool with_pairs,
			  const struct part_ref **out, struct err *err);
void catalog_part_unref(struct catalog *catalog, const struct part_ref *part); /* NULL is fine */

/* By registered name, also without or with ".txt". ERR_NOTFOUND names those that there are. */
MUST_USE int catalog_vocab(struct catalog *catalog, struct cache_reader *reader, const char *name, struct vocab_ref **out,
			   struct err *err);
/* From a file's bytes; nothing is registered. */
MUST_USE int catalog_vocab_parse(struct catalog *catalog, const char *name, const void *bytes, size_t size,
				 struct vocab_ref **out, struct err *err);
void catalog_vocab_ref(struct catalog *catalog, struct vocab_ref *vocab);
void catalog_vocab_unref(struct catalog *catalog, struct vocab_ref *vocab);

#endif
