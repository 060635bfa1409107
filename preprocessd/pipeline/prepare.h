/*
 * prepare.h - one picture or one caption: from the cache, or made now and put there.
 *
 * What is found damaged is made again from its source. Why a picture cannot be
 * prepared is remembered in the cache, and it is not tried again under the same key.
 *
 * Threads:   on a worker, where nothing else is said.
 * Ownership: use() sees the record's payload only while it runs (cache_visit, cache_visit_part in cache.h).
 */
#ifndef PREPROCESSD_PIPELINE_PREPARE_H
#define PREPROCESSD_PIPELINE_PREPARE_H

#include "preprocessd/dataset/rights.h"
#include "preprocessd/pipeline/catalog.h"
#include "preprocessd/pipeline/pool.h"

struct picture_settings {
	struct transform transform;
	struct hash fingerprint; /* of transform */
	size_t bytes;            /* of a record: size * size * 3 */
};

/* ERR_LIMIT: a size that is no picture size. */
MUST_USE int picture_settings_init(struct picture_settings *out, uint32_t size, bool exif_apply, struct err *err);

/* What became of a request, for counters and progress. */
enum prepared { PREPARED_HIT, PREPARED_JOINED, PREPARED_MADE };

/* The picture of this content, which path held when the data set was added.
 * rights: of who named path (rights.h); NULL: the daemon's. use() sees the pixels part by part (cache.h), and may see them twice: a
 * record whose damage shows at its end is made again. checksum: of the record. use may be NULL: then it is enough that the record
 * is or will be there, and checksum may be too.
 * ERR_NOTFOUND, ERR_MISMATCH: the source is gone or has changed. */
MUST_USE int prepare_picture(struct worker *worker, const struct picture_settings *settings, const struct hash *content,
			     const char *path, const struct rights *rights, cache_visit_part use, void *context,
			     uint64_t *checksum, enum prepared *how, struct err *err);
/* The checksum of its record alone, which says what the pixels are without reading them. The
 * pixels are not verified; a record that is missing is made. */
MUST_USE int prepare_picture_checksum(struct worker *worker, const struct picture_settings *settings, const struct hash *content,
				      const char *path, const struct rights *rights, uint64_t *out, struct err *err);
/* Reads path and hashes what is in it now. Errors have the path in front. Any thread. */
MUST_USE int prepare_source(struct pipeline *pipeline, const char *path, const struct rights *rights, struct buf *file,
			    struct hash *content, struct err *err);
/* Prepares the picture of this content, whose bytes are in worker->file. Errors have the path in front. */
MUST_USE int prepare_file(struct worker *worker, const struct picture_settings *settings, const char *path,
			  const struct hash *content, enum prepared *how, struct err *err);
/* Token ids (int32) of a caption. */
MUST_USE int prepare_tokens(struct worker *worker, struct vocab_ref *vocab, const char *text, size_t bytes,
			    cache_visit use, void *context, enum prepared *how, struct err *err);

/* A record could not be written: counted, and logged now and then. Any thread. */
void prepare_put_failed(struct pipeline *pipeline, const struct err *err);
/* Whether any could not since pipeline->put_failures was before; err: why the last one could not. Any thread. */
bool prepare_puts_failed(struct pipeline *pipeline, uint64_t before, struct err *err);

/* Where the picture in a file would be found, and whether it is. */
enum { PREPARE_SETTINGS_BYTES = 512, PREPARE_OTHERS_MAX = 16 };
struct prepare_explained {
	struct hash content;
	char settings[PREPARE_SETTINGS_BYTES];
	bool found;
	struct err failure; /* code 0: none is remembered */
	/* Where neither: the settings under which this content is there; "fingerprint=HEX" of a release that is not this one. */
	char others[PREPARE_OTHERS_MAX][PREPARE_SETTINGS_BYTES];
	size_t other_count;
};
MUST_USE int prepare_explain(struct worker *worker, const struct picture_settings *settings, const char *path,
			     const struct rights *rights, struct prepare_explained *out, struct err *err);

#endif
