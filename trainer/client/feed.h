/*
 * feed.h - batches from the daemon as the trainer takes them.
 *
 * A thin layer over a stream (shared/client/client.h): it names the stream,
 * holds one batch at a time, checks everything that memory accesses depend on
 * (the bytes come from another process), counts the time spent waiting, and
 * chains the digests of the batches: chain' = SHA-256(chain, digest).
 *
 * Threads:   one caller.
 * Ownership: feed_next()'s batch is valid until the next feed call.
 * Limits:    batch_size samples, or those of the part where it has fewer, and max_len tokens of each, as opened.
 */
#ifndef TRAINER_CLIENT_FEED_H
#define TRAINER_CLIENT_FEED_H

#include "shared/client/client.h"

struct feed_options {
	const char *socket, *client_name;
	const char *dataset, *split, *vocab; /* vocab NULL: the data set's own */
	bool training;
	bool exif_apply;
	bool no_pixels; /* batches without pixels; all else, digests included, is the same */
	bool quiet;     /* not the feed's: no progress line while a part is read */
	uint64_t seed;
	uint32_t batch_size, image_size, max_len;
	bool (*cancelled)(void *context);
	void *cancel_context;
};

struct feed;
MUST_USE int feed_open(struct feed **out, const struct feed_options *options, struct err *err);
void feed_close(struct feed *feed); /* NULL is fine */
const struct stream_info *feed_info(const struct feed *feed);

MUST_USE int feed_seek(struct feed *feed, uint64_t epoch, uint64_t step, struct err *err);
/* *out is NULL at the end of an evaluation. Releases the batch before. */
MUST_USE int feed_next(struct feed *feed, const struct batch **out, struct err *err);
/* Gives the last batch back early, so that its slot is filled again while the
 * caller does something else. */
void feed_release(struct feed *feed);
double feed_wait_seconds(const struct feed *feed);
/* Whether pixels are (B, H, W, 3). */
bool feed_nhwc(const struct feed *feed);

void feed_chain(struct hash *chain, const struct hash *digest);

/* The checks alone. ERR_PROTOCOL names what is wrong. */
MUST_USE int feed_check(const struct batch *batch, const struct stream_info *info, uint32_t batch_size, uint32_t max_len,
			bool training, struct err *err);

#endif
