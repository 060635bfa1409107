/*
 * feed.h - one client's stream: batches assembled into the slots of its pool.
 *
 * A feed holds nothing about how far its client has come. At most
 * FEED_ACTIVE_MAX of its batches are in the making at a time, the pictures of
 * one after those of the other, each by as many workers as there are; so a client
 * with many slots does not push others back. The first batch goes alone: a
 * client waits for it no longer than for one.
 * While batches find pictures missing, a few steps beyond the newest request
 * are prepared as well, when workers have nothing else to do.
 *
 * Threads:   feed_open() on a worker; all else on the loop thread.
 * Ownership: feed_close() gives the feed up; it frees itself after its last batch.
 * Limits:    CLIENT_SLOTS_MAX slots, slot.h, and half of the machine's memory for a pool.
 * Format:    schemas/slot.md, schemas/digest.md.
 */
#ifndef PREPROCESSD_PIPELINE_FEED_H
#define PREPROCESSD_PIPELINE_FEED_H

#include "preprocessd/codec/normalize.h"
#include "preprocessd/pipeline/catalog.h"
#include "preprocessd/pipeline/pool.h"
#include "preprocessd/pipeline/prepare.h"
#include "shared/order/order.h"
#include "shared/wire/slot.h"

enum {
	FEED_SLOTS_MAX = 64,
	FEED_ACTIVE_MAX = 2,
	FEED_RUNNERS_MAX = 16, /* workers on one batch */
	FEED_CHUNK_PICTURES = 8, /* that a worker does before it lets others have their turn */
	FEED_AHEAD_STEPS = 4,
	FEED_AHEAD_RUNNERS_MAX = 4,
};

enum feed_pixels { FEED_F32_NCHW, FEED_F32_NHWC, FEED_U8_NCHW, FEED_U8_NHWC, FEED_NO_PIXELS };

/* Everything is borrowed while feed_open() runs. */
struct feed_options {
	const char *dataset, *split;
	const char *vocab; /* "": the data set's own */
	bool training;
	uint64_t seed;
	uint32_t batch_size, world, rank;
	uint32_t image_size;
	bool exif_apply;
	enum feed_pixels pixels;
	float mean[3], std[3];
	uint32_t max_len, slots;
	const struct hash *expect_version; /* NULL: any */
};

struct feed_info {
	struct hash version;
	struct hash transform, vocab; /* fingerprints */
	uint32_t picture_count, caption_count;
	uint64_t steps;
	uint64_t slot_bytes, pool_bytes;
	uint32_t slots;
	char vocab_name[MANIFEST_NAME_BYTES_MAX + 1];
};

struct feed;

/* One batch, filled or failed. */
struct feed_result {
	uint64_t request_id, epoch, step, generation;
	uint32_t slot;
	int code; /* 0, or err says why */
	const struct err *err;
	const struct hash *digest;
	uint32_t count, image_count, token_count;
};
typedef void (*feed_ready)(void *context, const struct feed_result *result);

MUST_USE int feed_open(struct feed **out, struct worker *worker, const struct feed_options *options, struct err *err);
/* The pool's descriptor, sealed; the caller's to close from now on. */
int feed_take_fd(struct feed *feed);
const struct feed_info *feed_info(const struct feed *feed);
const struct vocab *feed_vocab(const struct feed *feed);
const struct manifest *feed_manifest(const struct feed *feed);

/* ready is called once for every feed_read() that returned 0, until feed_close(). */
void feed_start(struct feed *feed, feed_ready ready, void *context);
/* ERR_PROTOCOL: no such slot, or the daemon has it. ERR_USAGE: no such step. */
MUST_USE int feed_read(struct feed *feed, uint64_t request_id, uint64_t epoch, uint64_t step, uint32_t slot,
		       uint64_t generation, struct err *err);
bool feed_busy(const struct feed *feed); /* requests are under way */
void feed_close(struct feed *feed);      /* NULL is fine */

#endif
