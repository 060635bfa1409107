/* feed_internal.h - what feed.c (life of a stream), assemble.c (one batch) and ahead.c (reading ahead) share. */
#ifndef PREPROCESSD_PIPELINE_FEED_INTERNAL_H
#define PREPROCESSD_PIPELINE_FEED_INTERNAL_H

#include <pthread.h>

#include "preprocessd/pipeline/feed.h"
#include "preprocessd/pipeline/reserve.h"

enum batch_state { BATCH_IDLE, BATCH_QUEUED, BATCH_ACTIVE };

/* One for each slot, made when the feed is opened. */
struct feed_batch {
	struct feed *feed;
	enum batch_state state; /* loop thread */
	uint32_t slot;
	uint32_t backed_images; /* pictures whose part of the slot was written before: the kernel has found its pages; 0: not even the head's */
	uint64_t request_id, epoch, step, generation;
	struct completion completion;
	struct pool_job plan;
	struct feed_runner {
		struct pool_job job;
		struct feed_batch *batch;
	} runners[FEED_RUNNERS_MAX];
	_Atomic uint32_t next_image; /* to be taken by a runner */
	_Atomic uint32_t left;       /* who still works on the batch; the last one finishes it */
	uint32_t runner_count;
	bool planned;                /* feed->line_lock; its runners may start when it is at the head of the line */
	_Atomic uint32_t misses;
	_Atomic int code;            /* first failure; err below is its owner's until the end */
	struct err err;
	uint32_t count, image_count, token_count;
	uint64_t first_position;
	uint32_t *image_picture;  /* (samples) index in the manifest */
	uint64_t *image_checksum; /* (samples) */
	uint64_t *token_checksum; /* (samples) */
	uint32_t *image_table;    /* (table_size) evaluation: image + 1 by picture */
	uint8_t *digest_bytes;
	struct hash digest;
};

struct feed_ahead {
	struct pool_job job;
	struct completion completion;
	struct feed *feed;
	bool running; /* loop thread */
};

struct feed {
	struct pipeline *pipeline;
	struct dataset_ref *dataset;
	const struct part_ref *part;
	struct vocab_ref *vocab;
	struct rights rights; /* of who added the data set */
	struct picture_settings settings;
	struct normalize_table table;
	enum feed_pixels pixels;
	bool training;
	uint64_t seed;
	uint32_t batch_size, world, rank;
	uint64_t samples; /* of an epoch: pictures or captions of the part */
	char split[MANIFEST_SPLITS_MAX * (MANIFEST_NAME_BYTES_MAX + 1)];
	struct slot_layout layout;
	struct feed_info info;
	char *pool;
	uint64_t ready_bytes; /* of the pool, from its start: pages that only have to be mapped */
	int fd; /* -1: taken */
	struct reserve_return release; /* of the feed's memory, in the end */
	pthread_mutex_t line_lock;
	struct feed_batch *line[FEED_ACTIVE_MAX]; /* whose pictures are not all begun; the first one has all runners */
	uint32_t line_count;
	uint32_t table_size; /* of image_table; a power of two */
	struct feed_batch *batches; /* (slots) */
	void *memory;               /* of the arrays in batches */
	/* loop thread */
	feed_ready ready;
	void *ready_context;
	uint32_t queue[FEED_SLOTS_MAX]; /* ring of slots */
	uint32_t queue_first, queue_count, active;
	uint32_t outstanding; /* completions that will still come */
	uint64_t done;        /* batches */
	bool closed;
	_Atomic bool cancelled;
	/* reading ahead: samples counted over epochs, epoch * steps * per_step + ... */
	struct feed_ahead ahead[FEED_AHEAD_RUNNERS_MAX];
	_Atomic uint64_t ahead_next, ahead_end;
};

/* assemble.c: fills batch's slot; its completion is posted when it is done. */
void assemble_start(struct feed_batch *batch);
/* The picture (index in the manifest) and caption of position p of an epoch. */
struct feed_sample {
	uint32_t picture; /* in the manifest */
	uint32_t part_picture;
	uint32_t caption;
};
void feed_sample_at(const struct feed *feed, const struct order *order, uint64_t position, struct feed_sample *out);
void feed_order(const struct feed *feed, uint64_t epoch, struct order *out);

/* ahead.c, loop thread: after a request for (epoch, step), or after a batch that missed pictures. */
void ahead_extend(struct feed *feed, uint64_t epoch, uint64_t step);
void ahead_start(struct feed *feed);

#endif
