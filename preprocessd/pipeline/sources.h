/*
 * sources.h - the files of a data set, read and hashed ahead of the workers.
 *
 * One thread reads; workers take what is ready in the order of the listing. A
 * worker that finds nothing ready reads the next file itself, so nobody waits
 * for the reading thread while there is something to do.
 *
 * Threads:   sources_read() on one thread, sources_take() on any number of workers, sources_stop() anywhere.
 * Ownership: borrows the listing and the rights.
 * Limits:    SOURCES_AHEAD_MAX files; none is begun while SOURCES_AHEAD_BYTES are ready.
 */
#ifndef PREPROCESSD_PIPELINE_SOURCES_H
#define PREPROCESSD_PIPELINE_SOURCES_H

#include "preprocessd/dataset/listing.h"
#include "preprocessd/dataset/rights.h"
#include "preprocessd/pipeline/pool.h"

enum { SOURCES_AHEAD_MAX = 16, SOURCES_AHEAD_BYTES = 8 << 20 };

struct sources;
MUST_USE int sources_open(struct sources **out, struct pipeline *pipeline, const struct listing *listing,
			  const struct rights *rights, struct err *err);
void sources_close(struct sources *sources); /* NULL is fine; nobody may be inside any more */

/* Reads ahead until every file is taken up by somebody, or sources_stop(). */
void sources_read(struct sources *sources);
void sources_stop(struct sources *sources);

/* The next picture's number; its bytes are in worker->file. code: of reading it, its error in err.
 * Returns false when there are no more, or after sources_stop(). */
bool sources_take(struct sources *sources, struct worker *worker, uint32_t *picture, struct hash *content, int *code,
		  struct err *err);

#endif
