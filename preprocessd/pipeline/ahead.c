/*
 * ahead.c - preparing pictures that a stream is going to ask for.
 *
 * Runs only while a stream's batches find pictures missing, at the lowest
 * priority and one picture at a time. A position counts samples over all
 * epochs and steps of this rank, so a runner takes the next one by adding 1.
 */
#include "preprocessd/pipeline/feed_internal.h"

static uint32_t per_step(const struct feed *feed)
{
	return feed->batch_size / feed->world;
}

static void prepare_ahead(struct worker *worker, struct feed *feed, uint64_t at)
{
	const struct manifest *manifest = feed->dataset->manifest;
	uint64_t step_number = at / per_step(feed), epoch = step_number / feed->info.steps;
	struct order_range range = order_rank(feed->samples, feed->batch_size, feed->world, feed->rank,
					      step_number % feed->info.steps);
	uint64_t i = at % per_step(feed);
	struct feed_sample sample;
	struct order order;
	enum prepared how;
	struct err err;

	if (i >= range.count || epoch > UINT32_MAX)
		return;
	feed_order(feed, epoch, &order);
	feed_sample_at(feed, &order, range.first + i, &sample);
	/* A failure is told to the client when it asks for the batch. */
	(void)!prepare_picture(worker, &feed->settings, &manifest->picture_hash[sample.picture],
			       manifest->source_text + manifest->source_at[sample.picture], &feed->rights, NULL, NULL, NULL, &how, &err);
}

static void run_ahead(struct worker *worker, struct pool_job *job)
{
	struct feed_ahead *ahead = (struct feed_ahead *)(void *)((char *)job - offsetof(struct feed_ahead, job));
	struct feed *feed = ahead->feed;
	uint64_t at = atomic_load(&feed->ahead_next);

	while (at < atomic_load(&feed->ahead_end) && !atomic_load(&feed->cancelled)) {
		if (!atomic_compare_exchange_weak(&feed->ahead_next, &at, at + 1))
			continue;
		prepare_ahead(worker, feed, at);
		pool_submit(worker->pool, job, POOL_WARM);
		return;
	}
	feed->pipeline->post(feed->pipeline->post_context, &ahead->completion);
}

void ahead_extend(struct feed *feed, uint64_t epoch, uint64_t step)
{
	uint64_t steps = feed->info.steps, at = epoch * steps + step + 1;
	uint64_t last = at + FEED_AHEAD_STEPS;

	/* An evaluation ends with its epoch. */
	if (!feed->training && last > (epoch + 1) * steps)
		last = (epoch + 1) * steps;
	uint64_t first = at * per_step(feed), end = last * per_step(feed), next = atomic_load(&feed->ahead_next);

	/* Behind the request, or somewhere else altogether after a seek. */
	if (next < first || next > end)
		atomic_store(&feed->ahead_next, first);
	atomic_store(&feed->ahead_end, end);
}

void ahead_start(struct feed *feed)
{
	int runners = pool_workers(feed->pipeline->pool);

	for (int i = 0; i < runners && i < FEED_AHEAD_RUNNERS_MAX; i++) {
		struct feed_ahead *ahead = &feed->ahead[i];

		if (ahead->running || feed->closed)
			continue;
		ahead->running = true;
		feed->outstanding++;
		ahead->job.run = run_ahead;
		pool_submit(feed->pipeline->pool, &ahead->job, POOL_WARM);
	}
}
