/* add_internal.h - an add's state, for add.c (its steps) and add_work.c (what the workers do for it). */
#ifndef PREPROCESSD_PIPELINE_ADD_INTERNAL_H
#define PREPROCESSD_PIPELINE_ADD_INTERNAL_H

#include "preprocessd/pipeline/add.h"
#include "preprocessd/pipeline/catalog.h"
#include "preprocessd/pipeline/pool.h"
#include "preprocessd/pipeline/prepare.h"
#include "preprocessd/pipeline/sources.h"

struct add_runner {
	struct pool_job job;
	struct add *add;
};

/* Where a caption's record stands among the others: the first bytes of its key. */
struct caption_place {
	uint64_t key;
	uint32_t caption;
};

struct add {
	struct pipeline *pipeline;
	const Wire__AddDataset *request;
	uint64_t request_id;
	struct rights rights; /* of who asked */
	struct completion *done;
	pthread_t thread;
	_Atomic bool cancelled;
	_Atomic int phase; /* Wire__Progress__Phase */
	_Atomic uint64_t done_count, total, failed, decoded, tokenized;
	/* the workers' share of a phase */
	struct add_runner runners[PIPELINE_WORKERS_MAX];
	_Atomic uint32_t next;   /* captions */
	struct sources *sources; /* pictures */
	pthread_mutex_t lock;
	pthread_cond_t finished;
	int running;    /* under lock */
	int code;       /* under lock while workers run: what ends the whole add */
	struct err err;
	/* the add's own thread */
	struct cache_reader *reader;
	struct picture_settings settings;
	struct listing *listing;
	struct manifest *manifest;
	struct caption_place *caption_places; /* while captions are prepared: in the order of their keys */
	struct vocab_ref *vocab;
	struct buf vocab_bytes;
	char *vocab_path;
	char vocab_name[MANIFEST_NAME_BYTES_MAX + 1];
	Records__DatasetRecord *before; /* under the same name; NULL: none */
	uint64_t put_failures_before;
	bool unchanged;
	uint64_t failure_count;
	double start_s, seconds;
	struct buf reply; /* one frame */
};

/* ERR_CANCELLED, and that nothing is lost. */
int add_cancelled_error(struct add *add, struct err *err);
bool add_is_cancelled(struct add *add);
/* A cache that keeps nothing any more: the disk is full, say. */
bool add_cache_failed(struct add *add, struct err *err);

/* vocab from vocab_bytes, if there are any. */
MUST_USE int add_parse_vocab(struct add *add, struct err *err);
/* On the add's thread: all workers prepare all pictures of the listing, or all captions of the manifest. Meanwhile this
 * thread parses the vocabulary and reads files ahead of them. */
MUST_USE int add_work_pictures(struct add *add, struct err *err);
MUST_USE int add_work_captions(struct add *add, struct err *err);

#endif
