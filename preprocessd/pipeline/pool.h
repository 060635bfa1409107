/*
 * pool.h - worker threads, each with its own decoder, tokenizers and cache reader.
 *
 * Jobs of a higher priority always go first; of the same, first come first
 * served. A job that runs long gives way by submitting itself again. One thread
 * more than there are workers does POOL_CONTROL alone: a person who asks waits
 * for no decoder.
 *
 * Threads:   pool_submit() from any thread, also from a job.
 * Ownership: a job's memory is the submitter's, and busy until run() was called.
 */
#ifndef PREPROCESSD_PIPELINE_POOL_H
#define PREPROCESSD_PIPELINE_POOL_H

#include <pthread.h>

#include "preprocessd/codec/picture.h"
#include "preprocessd/codec/wordpiece.h"
#include "preprocessd/pipeline/catalog.h"
#include "preprocessd/pipeline/pipeline.h"

enum { WORKER_VOCABS_MAX = 4 };

struct worker {
	struct pipeline *pipeline;
	struct cache_reader *reader;
	struct picture_codec *codec;
	struct buf file; /* source bytes of the picture in hand */
	struct {
		struct vocab_ref *vocab;
		struct wordpiece *wordpiece;
		uint64_t used;
	} tokenizers[WORKER_VOCABS_MAX];
	uint64_t uses;
	pthread_t thread;
	struct pool *pool;
	bool for_control; /* and for nothing else */
	int open_code; /* of worker's start */
	struct err open_err;
};

struct pool_job {
	void (*run)(struct worker *worker, struct pool_job *job);
	struct pool_job *next;
};

enum pool_priority {
	POOL_CONTROL, /* requests that a person waits for */
	POOL_BATCH,   /* batches that a client has asked for */
	POOL_WARM,    /* adding, and reading ahead */
	POOL_PRIORITIES
};

struct pool;
MUST_USE int pool_open(struct pool **out, struct pipeline *pipeline, int workers, struct err *err);
void pool_close(struct pool *pool); /* runs what is queued, then stops; NULL is fine */
int pool_workers(const struct pool *pool);
void pool_submit(struct pool *pool, struct pool_job *job, enum pool_priority priority);

/* This worker's tokenizer for a vocabulary; it lives until WORKER_VOCABS_MAX others were used. */
MUST_USE int worker_tokenizer(struct worker *worker, struct vocab_ref *vocab, struct wordpiece **out, struct err *err);

#endif
