/*
 * upkeep.h - the cache looked over: every record read and checked (verify), or
 * what no data set needs any more removed (gc).
 *
 * verify reads all records against their checksums. With mend, damaged ones that
 * can be made again from their source (pictures, tokens, failures, features) are
 * removed, so that the next reader makes them; a damaged data set, manifest or
 * vocabulary is reported only: adding the data set again writes it anew.
 *
 * gc keeps data sets and what they name: pictures and features by the contents in
 * their manifests, tokens by their captions, failure lists, registered
 * vocabularies. The rest goes. The file keeps its size; the space is used again.
 * An add that runs at the same time would lose what it has prepared, so the
 * server lets only one of the two run.
 *
 * Runs on a thread of its own, as add.h; cancelled, it stops between two records.
 *
 * Threads:   upkeep_start(), upkeep_free() on the loop thread, the rest on any.
 * Limits:    WIRE_DAMAGED_SHOWN damaged records are named; memory of gc: 16 bytes for each picture and caption.
 */
#ifndef PREPROCESSD_PIPELINE_UPKEEP_H
#define PREPROCESSD_PIPELINE_UPKEEP_H

#include "preprocessd/pipeline/pipeline.h"
#include "shared/base/buf.h"
#include "wire.pb-c.h"

struct upkeep_options {
	bool collect; /* gc; else verify */
	bool mend;    /* verify: remove what can be made again */
	bool dry_run; /* gc: only count */
};

struct upkeep;
MUST_USE int upkeep_start(struct upkeep **out, struct pipeline *pipeline, uint64_t request_id, const struct upkeep_options *options,
			  struct completion *done, struct err *err);
void upkeep_cancel(struct upkeep *upkeep);
void upkeep_progress(struct upkeep *upkeep, Wire__Progress *out);
int upkeep_result(const struct upkeep *upkeep, struct err *err);
/* The Reply (UpkeepReply or Error) as a frame; NULL: no memory for it. */
const struct buf *upkeep_reply(const struct upkeep *upkeep);
void upkeep_free(struct upkeep *upkeep); /* joins the thread; NULL is fine */

#endif
