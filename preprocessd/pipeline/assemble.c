/*
 * assemble.c - one batch into its slot.
 *
 * The plan job decides which samples the batch has and does the captions.
 * Runners do the pictures, as many of them as there are workers, for one batch
 * of the feed after the other: a client waits for the first one, and two at once would
 * each take twice as long. Whoever is last writes digest and header. Every array of
 * the slot has its own place whatever the batch holds (slot.h), so all of this
 * goes on without waiting for another.
 */
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>

#include "preprocessd/pipeline/feed_internal.h"

static char *slot_of(const struct feed_batch *batch)
{
	return batch->feed->pool + batch->slot * batch->feed->layout.slot_bytes;
}

static void *array_at(const struct feed_batch *batch, uint64_t at)
{
	return slot_of(batch) + at;
}

/* The first failure of a batch stays; others of it only repeat the trouble. */
static void batch_fail(struct feed_batch *batch, const struct err *err)
{
	int none = 0;

	if (atomic_compare_exchange_strong(&batch->code, &none, err->code))
		batch->err = *err;
}

static bool batch_stopped(struct feed_batch *batch)
{
	return atomic_load_explicit(&batch->code, memory_order_relaxed) != 0 ||
	       atomic_load_explicit(&batch->feed->cancelled, memory_order_relaxed);
}

/* --- which samples -------------------------------------------------------------- */

void feed_order(const struct feed *feed, uint64_t epoch, struct order *out)
{
	order_init(out, &feed->info.version, feed->split, feed->seed, (uint32_t)epoch, feed->part->part->picture_count);
}

/* Index in the part of a picture of the manifest; the part's pictures ascend. */
static uint32_t part_index(const struct manifest_part *part, uint32_t picture)
{
	uint32_t low = 0, high = part->picture_count;

	while (high - low > 1) {
		uint32_t middle = low + (high - low) / 2;

		if (part->pictures[middle] <= picture)
			low = middle;
		else
			high = middle;
	}
	return low;
}

void feed_sample_at(const struct feed *feed, const struct order *order, uint64_t position, struct feed_sample *out)
{
	const struct manifest *manifest = feed->dataset->manifest;
	const struct manifest_part *part = feed->part->part;

	if (feed->training) {
		out->part_picture = order_at(order, (uint32_t)position);
		out->picture = part->pictures[out->part_picture];
		uint32_t first = manifest->captions_of_at[out->picture];
		uint32_t count = manifest->captions_of_at[out->picture + 1] - first;
		out->caption = manifest->captions_of[first + order_caption(order, out->picture, count)];
	} else {
		out->caption = part->captions[position];
		out->picture = manifest->caption_picture[out->caption];
		out->part_picture = part_index(part, out->picture);
	}
}

/* The place in the slot of a picture: one for all its captions in the batch. */
static uint32_t image_of(struct feed_batch *batch, uint32_t picture)
{
	uint32_t mask = batch->feed->table_size - 1;

	if (batch->feed->training) { /* each picture once in an epoch */
		batch->image_picture[batch->image_count] = picture;
		return batch->image_count++;
	}
	for (uint32_t at = picture * 0x9E3779B1u & mask;; at = (at + 1) & mask) {
		uint32_t image = batch->image_table[at];

		if (image == 0) {
			batch->image_picture[batch->image_count] = picture;
			batch->image_table[at] = ++batch->image_count;
			return batch->image_count - 1;
		}
		if (batch->image_picture[image - 1] == picture)
			return image - 1;
	}
}

static void plan_samples(struct feed_batch *batch)
{
	const struct feed *feed = batch->feed;
	const struct slot_layout *layout = &feed->layout;
	const struct manifest *manifest = feed->dataset->manifest;
	struct order_range range = order_rank(feed->samples, feed->batch_size, feed->world, feed->rank, batch->step);
	uint64_t *sample_ids = array_at(batch, layout->sample_ids_at);
	uint32_t *image_index = array_at(batch, layout->image_index_at);
	uint32_t *pictures = array_at(batch, layout->pictures_at);
	int32_t *labels = array_at(batch, layout->labels_at);
	uint32_t *wrong = layout->wrong_pictures_at != 0 ? array_at(batch, layout->wrong_pictures_at) : NULL;
	struct order order;

	CHECK(range.count <= layout->samples);
	batch->count = range.count;
	batch->first_position = range.first;
	batch->image_count = 0;
	if (!feed->training)
		memset(batch->image_table, 0, feed->table_size * sizeof(*batch->image_table));
	feed_order(feed, batch->epoch, &order);
	for (uint32_t i = 0; i < range.count; i++) {
		struct feed_sample sample;

		feed_sample_at(feed, &order, range.first + i, &sample);
		sample_ids[i] = sample.caption;
		image_index[i] = image_of(batch, sample.picture);
		pictures[i] = sample.part_picture;
		labels[i] = manifest->picture_label[sample.picture];
		if (wrong != NULL)
			wrong[i] = feed->part->wrong_pictures[range.first + i];
	}
}

/* --- captions -------------------------------------------------------------------- */

struct tokens_place {
	int32_t *ids;
	uint32_t room, count;
	uint64_t checksum;
};

static int place_tokens(void *context, const void *payload, size_t size, uint64_t checksum, struct err *err)
{
	struct tokens_place *place = context;
	const int32_t *ids = payload;
	size_t count = size / sizeof(*ids);

	(void)err;
	place->checksum = checksum;
	place->count = count < place->room ? (uint32_t)count : place->room;
	memcpy(place->ids, ids, place->count * sizeof(*ids));
	/* The last one is [SEP]; a caption that is cut keeps it. */
	place->ids[place->count - 1] = ids[count - 1];
	return 0;
}

static int place_captions(struct worker *worker, struct feed_batch *batch, struct err *err)
{
	const struct feed *feed = batch->feed;
	const struct manifest *manifest = feed->dataset->manifest;
	const uint64_t *sample_ids = array_at(batch, feed->layout.sample_ids_at);
	uint32_t *offsets = array_at(batch, feed->layout.token_offsets_at);
	int32_t *ids = array_at(batch, feed->layout.ids_at);

	offsets[0] = 0;
	for (uint32_t i = 0; i < batch->count && !batch_stopped(batch); i++) {
		struct tokens_place place = { .ids = ids + offsets[i], .room = feed->layout.max_len };
		const uint64_t *at = manifest->caption_at + sample_ids[i];
		enum prepared how;
		int code = prepare_tokens(worker, feed->vocab, manifest->caption_text + at[0], at[1] - at[0], place_tokens,
					  &place, &how, err);

		if (code != 0)
			return err_prefix(err, "caption %llu", (unsigned long long)sample_ids[i]);
		offsets[i + 1] = offsets[i] + place.count;
		batch->token_checksum[i] = place.checksum;
	}
	batch->token_count = offsets[batch->count];
	return 0;
}

/* --- memory ------------------------------------------------------------------------ */

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* As much as the kernel maps with one look at a page that it has; Documentation/filesystems/proc: fault-around. */
enum { AROUND_BYTES = 64 << 10 };

/* Maps pages that are there. Looked at, not written to: only then the kernel maps those around it too. No byte
 * beyond the end is looked at: the neighbour on the same page may be written at this moment. */
static void map_ready(const char *from, const char *end)
{
	while (from < end) {
		(void)*(const volatile char *)from;
		from = (const char *)(((uintptr_t)from / AROUND_BYTES + 1) * AROUND_BYTES);
	}
}

/* Before a part of a slot is written for the first time: its pages by the piece rather than one fault each,
 * and an error where there is no memory instead of a signal. */
static int back_memory(struct feed *feed, uint64_t at, uint64_t bytes, struct err *err)
{
	uint64_t first = at / SLOT_PAGE_BYTES * SLOT_PAGE_BYTES;
	uint64_t end = (at + bytes + SLOT_PAGE_BYTES - 1) / SLOT_PAGE_BYTES * SLOT_PAGE_BYTES;

	if (end <= feed->ready_bytes)
		map_ready(feed->pool + at, feed->pool + at + bytes);
	/* EFAULT: writing would end in SIGBUS. Others: a kernel before 5.14, where writing finds the pages one by one. */
	else if (madvise(feed->pool + first, end - first, MADV_POPULATE_WRITE) != 0 && (errno == EFAULT || errno == ENOMEM))
		return err_errno(err, ENOMEM, "no memory for a batch");
	return 0;
}

/* --- pictures --------------------------------------------------------------------- */

struct picture_place {
	const struct feed *feed;
	char *out;
};

/* As parts come; a part that begins in the middle of a pixel would be lost. */
static void place_picture(void *context, const uint8_t *payload, size_t from, size_t to)
{
	static_assert(CACHE_PART_BYTES % 3 == 0, "whole pixels");
	const struct picture_place *place = context;
	const struct feed *feed = place->feed;
	const size_t n = feed->settings.bytes / 3;

	switch (feed->pixels) {
	case FEED_F32_NCHW:
		normalize_f32_chw(&feed->table, payload, from / 3, to / 3, n, (float *)(void *)place->out);
		break;
	case FEED_F32_NHWC:
		normalize_f32_hwc(&feed->table, payload, from / 3, to / 3, n, (float *)(void *)place->out);
		break;
	case FEED_U8_NCHW:
		normalize_u8_chw(&feed->table, payload, from / 3, to / 3, n, (uint8_t *)place->out);
		break;
	case FEED_U8_NHWC:
		memcpy(place->out + from, payload + from, to - from);
		break;
	case FEED_NO_PIXELS:
		break;
	}
}

static void run_picture(struct worker *worker, struct feed_batch *batch, uint32_t image)
{
	const struct feed *feed = batch->feed;
	const struct manifest *manifest = feed->dataset->manifest;
	uint32_t picture = batch->image_picture[image];
	struct picture_place place = {
		.feed = feed, .out = (char *)array_at(batch, feed->layout.pixels_at) + image * feed->layout.image_bytes
	};
	const char *path = manifest->source_text + manifest->source_at[picture];
	enum prepared how;
	struct err err;

	if (image >= batch->backed_images && feed->pixels != FEED_NO_PIXELS &&
	    back_memory(batch->feed, (uint64_t)(place.out - feed->pool), feed->layout.image_bytes, &err) != 0) {
		batch_fail(batch, &err);
		return;
	}
	if (feed->pixels == FEED_NO_PIXELS) {
		if (prepare_picture_checksum(worker, &feed->settings, &manifest->picture_hash[picture], path, &feed->rights,
					     &batch->image_checksum[image], &err) != 0)
			batch_fail(batch, &err);
		return;
	}
	if (prepare_picture(worker, &feed->settings, &manifest->picture_hash[picture],
			    path, &feed->rights, place_picture, &place, &batch->image_checksum[image], &how, &err) != 0) {
		batch_fail(batch, &err);
		return;
	}
	if (how != PREPARED_HIT)
		atomic_fetch_add_explicit(&batch->misses, 1, memory_order_relaxed);
}

/* --- the end ------------------------------------------------------------------------ */

static uint8_t *put_u64(uint8_t *at, uint64_t value)
{
	for (int i = 0; i < 8; i++)
		at[i] = (uint8_t)(value >> (8 * i));
	return at + 8;
}

/* schemas/digest.md */
static void write_digest(struct feed_batch *batch)
{
	static const char domain[24] = "preprocessd batch 1";
	const struct feed *feed = batch->feed;
	const uint64_t *sample_ids = array_at(batch, feed->layout.sample_ids_at);
	const uint32_t *image_index = array_at(batch, feed->layout.image_index_at);
	uint8_t *at = batch->digest_bytes;

	memcpy(at, domain, sizeof(domain));
	memcpy(at + 24, feed->info.transform.bytes, HASH_BYTES);
	memcpy(at + 24 + HASH_BYTES, feed->info.vocab.bytes, HASH_BYTES);
	at = put_u64(at + 24 + 2 * HASH_BYTES, feed->layout.max_len);
	at = put_u64(at, batch->count);
	for (uint32_t i = 0; i < batch->count; i++) {
		at = put_u64(at, sample_ids[i]);
		at = put_u64(at, batch->image_checksum[image_index[i]]);
		at = put_u64(at, batch->token_checksum[i]);
	}
	hash_bytes(&batch->digest, batch->digest_bytes, (size_t)(at - batch->digest_bytes));
}

static void write_header(struct feed_batch *batch)
{
	const struct feed *feed = batch->feed;
	const struct slot_layout *layout = &feed->layout;
	struct slot_header *header = array_at(batch, 0);

	*header = (struct slot_header){
		.generation = batch->generation, .epoch = batch->epoch, .step = batch->step, .count = batch->count,
		.image_count = batch->image_count, .token_count = batch->token_count,
		.flags = feed->training ? 0 : SLOT_EVALUATION, .first_position = batch->first_position,
		.pixels_at = layout->pixels_at, .pixels_bytes = batch->image_count * layout->image_bytes,
		.image_index_at = layout->image_index_at, .token_offsets_at = layout->token_offsets_at,
		.sample_ids_at = layout->sample_ids_at, .pictures_at = layout->pictures_at,
		.wrong_pictures_at = layout->wrong_pictures_at, .labels_at = layout->labels_at, .ids_at = layout->ids_at,
	};
	memcpy(header->magic, SLOT_MAGIC, sizeof(header->magic));
	memcpy(header->digest, batch->digest.bytes, HASH_BYTES);
}

static void finish_one(struct feed_batch *batch)
{
	struct pipeline *pipeline = batch->feed->pipeline;

	if (atomic_fetch_sub(&batch->left, 1) != 1)
		return;
	if (!batch_stopped(batch)) {
		write_digest(batch);
		write_header(batch);
		counter_add(&pipeline->counters.batches, 1);
		counter_add(&pipeline->counters.batch_bytes, batch->image_count * batch->feed->layout.image_bytes);
	}
	pipeline->post(pipeline->post_context, &batch->completion);
	/* Workers with more batches to make take every core, and the one who waits for this batch would wait for
	 * the end of their time slices twice: until the loop runs, and until the client does. */
	sched_yield();
}

/* --- whose turn it is ---------------------------------------------------------------- */

static void start_runners(struct pool *pool, struct feed_batch *batch)
{
	for (uint32_t i = 0; i < batch->runner_count; i++)
		pool_submit(pool, &batch->runners[i].job, POOL_BATCH);
}

static void enter_line(struct feed_batch *batch)
{
	struct feed *feed = batch->feed;

	pthread_mutex_lock(&feed->line_lock);
	CHECK(feed->line_count < FEED_ACTIVE_MAX);
	batch->planned = false;
	feed->line[feed->line_count++] = batch;
	pthread_mutex_unlock(&feed->line_lock);
}

static void now_planned(struct pool *pool, struct feed_batch *batch)
{
	struct feed *feed = batch->feed;

	pthread_mutex_lock(&feed->line_lock);
	batch->planned = true;
	bool first = feed->line[0] == batch;
	pthread_mutex_unlock(&feed->line_lock);
	if (first)
		start_runners(pool, batch);
}

/* Its pictures are all begun: the next batch's may start. Every runner says so; the first one counts. */
static void leave_line(struct pool *pool, struct feed_batch *batch)
{
	struct feed *feed = batch->feed;
	struct feed_batch *next = NULL;

	pthread_mutex_lock(&feed->line_lock);
	if (feed->line_count > 0 && feed->line[0] == batch) {
		feed->line_count--;
		for (uint32_t i = 0; i < feed->line_count; i++)
			feed->line[i] = feed->line[i + 1];
		if (feed->line_count > 0 && feed->line[0]->planned)
			next = feed->line[0];
	}
	pthread_mutex_unlock(&feed->line_lock);
	if (next != NULL)
		start_runners(pool, next);
}

static bool pictures_left(struct feed_batch *batch)
{
	return atomic_load(&batch->next_image) < batch->image_count && !batch_stopped(batch);
}

/* Pictures of the batch until there are none left, or others have waited long enough. With none left it says so at
 * once: the batch is ready when every runner has, and one that lined up again would come after the next batch's. */
static void run_runner(struct worker *worker, struct pool_job *job)
{
	struct feed_batch *batch = ((struct feed_runner *)(void *)job)->batch;
	/* Without pixels a picture is a look at a few bytes. */
	int chunk = batch->feed->pixels == FEED_NO_PIXELS ? INT_MAX : FEED_CHUNK_PICTURES;

	for (int done = 0; done < chunk || !pictures_left(batch); done++) {
		uint32_t image = atomic_fetch_add(&batch->next_image, 1);

		if (image >= batch->image_count || batch_stopped(batch)) {
			leave_line(worker->pool, batch);
			finish_one(batch);
			return;
		}
		run_picture(worker, batch, image);
	}
	pool_submit(worker->pool, job, POOL_BATCH);
}

static uint32_t runners_for(const struct feed_batch *batch, int workers)
{
	uint32_t count = workers < FEED_RUNNERS_MAX ? (uint32_t)workers : FEED_RUNNERS_MAX;

	if (batch->feed->pixels == FEED_NO_PIXELS || batch->image_count == 0)
		return 1;
	return count < batch->image_count ? count : batch->image_count;
}

static void run_plan(struct worker *worker, struct pool_job *job)
{
	struct feed_batch *batch = (struct feed_batch *)(void *)((char *)job - offsetof(struct feed_batch, plan));
	struct feed *feed = batch->feed;
	struct err err;

	/* What lies in front of the pixels; of these each has its own. */
	batch->image_count = 0;
	if (batch->backed_images == 0 && back_memory(feed, batch->slot * feed->layout.slot_bytes, feed->layout.pixels_at, &err) != 0)
		batch_fail(batch, &err);
	else
		plan_samples(batch);
	batch->runner_count = runners_for(batch, pool_workers(worker->pool));
	atomic_store(&batch->left, batch->runner_count + 1);
	now_planned(worker->pool, batch);
	if (!batch_stopped(batch) && place_captions(worker, batch, &err) != 0)
		batch_fail(batch, &err);
	finish_one(batch);
}

void assemble_start(struct feed_batch *batch)
{
	atomic_store(&batch->next_image, 0);
	atomic_store(&batch->misses, 0);
	atomic_store(&batch->code, 0);
	batch->plan.run = run_plan;
	for (int i = 0; i < FEED_RUNNERS_MAX; i++) {
		batch->runners[i].job.run = run_runner;
		batch->runners[i].batch = batch;
	}
	enter_line(batch);
	pool_submit(batch->feed->pipeline->pool, &batch->plan, POOL_BATCH);
}
