#include "preprocessd/pipeline/pool.h"

#include <stdio.h>
#include <string.h>

#include "shared/base/mem.h"

struct pool {
	pthread_mutex_t lock;
	pthread_cond_t work;    /* a job was queued, or the pool closes */
	pthread_cond_t control_work; /* the same for the thread that does POOL_CONTROL alone */
	pthread_cond_t started; /* a worker has opened what it needs */
	struct {
		struct pool_job *first, **last;
	} queues[POOL_PRIORITIES];
	bool closing;
	int started_count;
	int count;              /* threads */
	struct worker *workers; /* the last one is for POOL_CONTROL alone */
};

/* Of the priorities before `end`. lock is held */
static struct pool_job *take_job(struct pool *pool, int end)
{
	for (int p = 0; p < end; p++) {
		struct pool_job *job = pool->queues[p].first;

		if (job == NULL)
			continue;
		pool->queues[p].first = job->next;
		if (job->next == NULL)
			pool->queues[p].last = &pool->queues[p].first;
		job->next = NULL;
		return job;
	}
	return NULL;
}

static void worker_close(struct worker *worker)
{
	for (int i = 0; i < WORKER_VOCABS_MAX; i++) {
		wordpiece_close(worker->tokenizers[i].wordpiece);
		if (worker->tokenizers[i].vocab != NULL)
			catalog_vocab_unref(worker->pipeline->catalog, worker->tokenizers[i].vocab);
	}
	buf_free(&worker->file);
	picture_codec_close(worker->codec);
	cache_reader_close(worker->reader);
}

static void worker_open(struct worker *worker)
{
	worker->open_code = cache_reader_open(&worker->reader, worker->pipeline->cache, &worker->open_err);
	if (worker->open_code == 0)
		worker->open_code = picture_codec_open(&worker->codec, &worker->open_err);
}

static void *worker_main(void *context)
{
	struct worker *worker = context;
	struct pool *pool = worker->pool;
	const int end = worker->for_control ? POOL_CONTROL + 1 : POOL_PRIORITIES;

	worker_open(worker);
	pthread_mutex_lock(&pool->lock);
	pool->started_count++;
	pthread_cond_signal(&pool->started);
	for (;;) {
		struct pool_job *job = take_job(pool, end);

		if (job == NULL && pool->closing)
			break;
		if (job == NULL) {
			pthread_cond_wait(worker->for_control ? &pool->control_work : &pool->work, &pool->lock);
			continue;
		}
		pthread_mutex_unlock(&pool->lock);
		job->run(worker, job);
		pthread_mutex_lock(&pool->lock);
	}
	pthread_mutex_unlock(&pool->lock);
	worker_close(worker);
	return NULL;
}

static int start_workers(struct pool *pool, struct pipeline *pipeline, int workers, struct err *err)
{
	int code = 0;

	for (int i = 0; i <= workers && code == 0; i++) {
		struct worker *worker = &pool->workers[i];
		char name[16];

		worker->pipeline = pipeline;
		worker->pool = pool;
		worker->for_control = i == workers;
		int reason = pthread_create(&worker->thread, NULL, worker_main, worker);
		if (reason != 0) {
			code = err_errno(err, reason, "cannot start worker thread %d of %d", i + 1, workers);
			break;
		}
		snprintf(name, sizeof(name), worker->for_control ? "control" : "worker-%d", i);
		pthread_setname_np(worker->thread, name);
		pool->count++;
	}
	pthread_mutex_lock(&pool->lock);
	while (pool->started_count < pool->count)
		pthread_cond_wait(&pool->started, &pool->lock);
	pthread_mutex_unlock(&pool->lock);
	for (int i = 0; i < pool->count && code == 0; i++)
		if ((code = pool->workers[i].open_code) != 0)
			*err = pool->workers[i].open_err;
	return code;
}

int pool_open(struct pool **out, struct pipeline *pipeline, int workers, struct err *err)
{
	struct pool *pool = mem_zalloc(sizeof(*pool));

	*out = NULL;
	CHECK(workers >= 1 && workers <= PIPELINE_WORKERS_MAX);
	if (pool == NULL)
		return err_nomem(err, sizeof(*pool));
	pool->workers = mem_array((size_t)workers + 1, sizeof(*pool->workers));
	if (pool->workers == NULL) {
		mem_free(pool);
		return err_nomem(err, sizeof(*pool->workers));
	}
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->work, NULL);
	pthread_cond_init(&pool->control_work, NULL);
	pthread_cond_init(&pool->started, NULL);
	for (int p = 0; p < POOL_PRIORITIES; p++)
		pool->queues[p].last = &pool->queues[p].first;
	int code = start_workers(pool, pipeline, workers, err);
	if (code != 0) {
		pool_close(pool);
		return code;
	}
	*out = pool;
	return 0;
}

void pool_close(struct pool *pool)
{
	if (pool == NULL)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->closing = true;
	pthread_cond_broadcast(&pool->work);
	pthread_cond_broadcast(&pool->control_work);
	pthread_mutex_unlock(&pool->lock);
	for (int i = 0; i < pool->count; i++)
		pthread_join(pool->workers[i].thread, NULL);
	pthread_cond_destroy(&pool->started);
	pthread_cond_destroy(&pool->work);
	pthread_cond_destroy(&pool->control_work);
	pthread_mutex_destroy(&pool->lock);
	mem_free(pool->workers);
	mem_free(pool);
}

int pool_workers(const struct pool *pool)
{
	return pool->count - 1;
}

void pool_submit(struct pool *pool, struct pool_job *job, enum pool_priority priority)
{
	pthread_mutex_lock(&pool->lock);
	job->next = NULL;
	*pool->queues[priority].last = job;
	pool->queues[priority].last = &job->next;
	pthread_cond_signal(&pool->work);
	if (priority == POOL_CONTROL)
		pthread_cond_signal(&pool->control_work);
	pthread_mutex_unlock(&pool->lock);
}

int worker_tokenizer(struct worker *worker, struct vocab_ref *vocab, struct wordpiece **out, struct err *err)
{
	int oldest = 0;

	worker->uses++;
	for (int i = 0; i < WORKER_VOCABS_MAX; i++) {
		if (worker->tokenizers[i].vocab == vocab) {
			worker->tokenizers[i].used = worker->uses;
			*out = worker->tokenizers[i].wordpiece;
			return 0;
		}
		if (worker->tokenizers[i].used < worker->tokenizers[oldest].used)
			oldest = i;
	}
	int code = wordpiece_open(out, vocab->vocab, err);
	if (code != 0)
		return code;
	wordpiece_close(worker->tokenizers[oldest].wordpiece);
	if (worker->tokenizers[oldest].vocab != NULL)
		catalog_vocab_unref(worker->pipeline->catalog, worker->tokenizers[oldest].vocab);
	catalog_vocab_ref(worker->pipeline->catalog, vocab);
	worker->tokenizers[oldest].vocab = vocab;
	worker->tokenizers[oldest].wordpiece = *out;
	worker->tokenizers[oldest].used = worker->uses;
	return 0;
}
