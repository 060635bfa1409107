/*
 * add.h - a data set is read, every picture and caption prepared, and registered.
 *
 * Runs on a thread of its own; the workers prepare. Nothing is registered
 * before all is prepared and durable; then manifest, vocabulary and name are
 * written in one transaction. Cancelled or failed, it leaves no data set, but
 * what was prepared stays in the cache, so the next attempt goes on from there.
 *
 * Threads:   add_start(), add_free() on the loop thread, the rest on any.
 * Ownership: the request is borrowed until done's completion has run.
 */
#ifndef PREPROCESSD_PIPELINE_ADD_H
#define PREPROCESSD_PIPELINE_ADD_H

#include "preprocessd/dataset/rights.h"
#include "preprocessd/pipeline/pipeline.h"
#include "shared/base/buf.h"
#include "wire.pb-c.h"

struct add;

/* rights are of who asks, and are copied: only what they allow is read, and no data set of
 * another user is replaced. done is posted when the add has ended, successfully or not. */
MUST_USE int add_start(struct add **out, struct pipeline *pipeline, uint64_t request_id, const Wire__AddDataset *request,
		       const struct rights *rights, struct completion *done, struct err *err);
void add_cancel(struct add *add); /* it ends soon */
void add_progress(struct add *add, Wire__Progress *out);

/* After done: 0, or the error. */
int add_result(const struct add *add, struct err *err);
/* After done: the Reply (AddReply, or Error with the first failures) as a frame; NULL: no memory for it. */
const struct buf *add_reply(const struct add *add);
void add_free(struct add *add); /* joins the thread; NULL is fine */

#endif
