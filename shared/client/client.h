/*
 * client.h - reading prepared batches from preprocessd.
 *
 * A client names what it wants (data set, split, transform, vocabulary, batch
 * size, seed) and reads batches by (epoch, step). The daemon keeps no state
 * about it: after a lost connection the library reconnects, opens the same
 * stream, checks that the data set's version is the same, and asks for the
 * same step, so the caller sees the same batches as if nothing had happened.
 *
 * Threads:   a client and its streams belong to one thread. A stream has its own connection.
 * Ownership: a batch points into shared memory mapped read-only; it is valid
 *            until stream_release() or stream_close(), also when the daemon dies meanwhile.
 * Limits:    CLIENT_SLOTS_MAX batches in flight; see schemas/wire.proto for the rest.
 * Format:    schemas/wire.proto (messages), schemas/slot.md (layout of a slot).
 */
#ifndef SHARED_CLIENT_CLIENT_H
#define SHARED_CLIENT_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/err.h"
#include "shared/base/hash.h"

enum { CLIENT_SLOTS_MAX = 64 };

enum pixel_dtype { PIXEL_F32, PIXEL_U8, PIXEL_NONE /* batches without pixels; all else is the same */ };
enum pixel_layout { PIXEL_NCHW, PIXEL_NHWC };

struct stream_options {
	const char *socket;      /* path, from paths_socket() */
	const char *client_name; /* shown by prepctl status: "trainer rsicd adv" */
	const char *dataset;
	const char *split;       /* one, or joined by '+', or "all" */
	bool training;           /* permuted pictures, one caption each; else every caption in manifest order */
	uint64_t seed;           /* order and captions; training only */
	uint32_t batch_size;     /* global, samples; a multiple of world */
	uint32_t world, rank;
	uint32_t image_size;     /* pixels */
	bool exif_apply;
	enum pixel_dtype dtype;
	enum pixel_layout layout;
	float mean[3], std[3];   /* of PIXEL_F32 */
	const char *vocab;       /* registered name; NULL: the one the data set was added with */
	uint32_t max_len;        /* tokens with [CLS] and [SEP], >= 2 */
	uint32_t slots;          /* batches in flight, 1..CLIENT_SLOTS_MAX; 0: 4. 1 reads nothing ahead */
	double wait_s;           /* how long to wait for a lost daemon; < 0: for ever; 0: do not */
	bool (*cancelled)(void *context); /* polled at least every 100 ms while waiting; may be NULL */
	void *cancel_context;
};
/* world 1, rank 0, 224 px, F32 NCHW, ImageNet's mean and std, max_len 64, wait 600 s. */
void stream_options_init(struct stream_options *out);

struct stream_info {
	struct hash version;     /* of the data set */
	struct hash transform;   /* fingerprint */
	struct hash vocab;       /* fingerprint */
	uint32_t picture_count;  /* of the part */
	uint32_t caption_count;
	uint64_t steps;          /* per epoch */
	uint32_t vocab_size;
	int32_t cls_id, sep_id, pad_id, unk_id;
	uint32_t label_count;    /* 0: the data set has no labels */
	const char *const *label_names;
	const char *vocab_name;
	uint64_t slot_bytes;
};

struct batch {
	uint64_t epoch, step;
	uint32_t count;                /* samples, B */
	uint32_t image_count;          /* distinct pictures in the slot, <= B */
	const void *pixels;            /* (image_count, 3, H, W) or (image_count, H, W, 3); 64-byte aligned */
	const uint32_t *image_index;   /* (B) which of them belongs to a sample */
	const int32_t *ids;            /* (token_count) packed */
	const uint32_t *offsets;       /* (B+1) into ids */
	uint32_t token_count;
	const uint64_t *sample_ids;    /* (B) caption index in the manifest */
	const uint32_t *pictures;      /* (B) index of the picture in the part, 0..picture_count-1 */
	const uint32_t *wrong_pictures; /* (B) evaluation: the wrong picture of this caption's pair, UINT32_MAX: no pair; NULL when training */
	const int32_t *labels;         /* (B) class, -1: none */
	uint64_t first_position;       /* of sample 0 in the global epoch order */
	struct hash digest;
	uint32_t slot;                 /* the library's */
	uint64_t generation;
};

struct stream;
/* ERR_UNAVAILABLE: no daemon (the message says how to start one).
 * ERR_NOTFOUND: unknown data set, split or vocabulary (names the known ones). */
MUST_USE int stream_open(struct stream **out, const struct stream_options *options, struct err *err);
void stream_close(struct stream *stream); /* NULL is fine */
const struct stream_info *stream_info(const struct stream *stream);

/* The next batch that stream_next() returns; prefetching starts there. A
 * training stream goes on with the next epoch by itself; an evaluation stream
 * ends after its last step. */
MUST_USE int stream_seek(struct stream *stream, uint64_t epoch, uint64_t step, struct err *err);
/* Blocks. *got is false at the end of an evaluation stream. At most slots-1
 * batches may be held at a time. ERR_CANCELLED: options.cancelled said so. */
MUST_USE int stream_next(struct stream *stream, struct batch *out, bool *got, struct err *err);
void stream_release(struct stream *stream, const struct batch *batch);
/* Seconds spent blocked in stream_next() since the stream was opened. */
double stream_wait_seconds(const struct stream *stream);

#endif
