#include "preprocessd/pipeline/feed.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "preprocessd/pipeline/feed_internal.h"
#include "shared/base/mem.h"
#include "shared/base/plural.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

enum { UNMAP_BYTES = 1 << 20 };
enum { DIGEST_HEAD_BYTES = 24 + 2 * HASH_BYTES + 16, DIGEST_SAMPLE_BYTES = 24 };

/* --- opening ----------------------------------------------------------------------- */

static int check_options(const struct feed_options *o, struct err *err)
{
	if (o->world == 0 || o->rank >= o->world || o->batch_size == 0 || o->batch_size % o->world != 0)
		return err_set(err, ERR_USAGE, "a batch of %u samples for rank %u of %u: the batch size must be a multiple of the "
			       "number of ranks, and ranks count from 0", o->batch_size, o->rank, o->world);
	if (o->slots == 0 || o->slots > FEED_SLOTS_MAX)
		return err_set(err, ERR_LIMIT, "%u slots; it must be 1 to %d", o->slots, FEED_SLOTS_MAX);
	for (int c = 0; c < 3; c++)
		if (!isfinite(o->mean[c]) || !isfinite(o->std[c]) || o->std[c] == 0)
			return err_set(err, ERR_USAGE, "mean %g and std %g of channel %d: both must be finite, and std not zero",
				       (double)o->mean[c], (double)o->std[c], c);
	return 0;
}

static int open_data(struct feed *feed, struct worker *worker, const struct feed_options *o, struct err *err)
{
	struct catalog *catalog = feed->pipeline->catalog;
	Records__DatasetRecord *record;
	const char *vocab;
	int code = catalog_record(worker->reader, o->dataset, &record, err);

	if (code != 0)
		return code;
	if (o->expect_version != NULL && memcmp(o->expect_version->bytes, record->version.data, HASH_BYTES) != 0) {
		code = err_set(err, ERR_MISMATCH, "data set %s was replaced by another version since this stream was opened; "
			       "a run goes on only with the data that it began with", o->dataset);
		goto out;
	}
	feed->rights.all = record->added_by == 0;
	if (!feed->rights.all && (code = rights_of_user(&feed->rights, (uint32_t)(record->added_by - 1), err)) != 0) {
		err_prefix(err, "data set %s was added by another user", o->dataset);
		goto out;
	}
	vocab = o->vocab[0] != '\0' ? o->vocab : record->vocab_name;
	if (vocab[0] == '\0') {
		code = err_set(err, ERR_NOTFOUND, "data set %s was added without a vocabulary, and none was named; "
			       "name one with --vocab, or run prepctl add again with --vocab FILE", o->dataset);
		goto out;
	}
	if (strlen(vocab) > MANIFEST_NAME_BYTES_MAX || strlen(o->split) >= sizeof(feed->split)) {
		code = err_set(err, ERR_LIMIT, "a name of a vocabulary or split that is too long");
		goto out;
	}
	memcpy(feed->info.vocab_name, vocab, strlen(vocab) + 1);
	memcpy(feed->split, o->split, strlen(o->split) + 1);
	if ((code = catalog_dataset(catalog, worker->reader, o->dataset, record, &feed->dataset, err)) != 0 ||
	    (code = catalog_vocab(catalog, worker->reader, vocab, &feed->vocab, err)) != 0)
		goto out;
	code = catalog_part(catalog, feed->dataset, feed->split, !feed->training, &feed->part, err);
	if (code != 0)
		err_prefix(err, "data set %s", o->dataset);
out:
	records__dataset_record__free_unpacked(record, NULL);
	return code;
}

static int init_info(struct feed *feed, const struct feed_options *o, struct err *err)
{
	const struct manifest_part *part = feed->part->part;
	struct feed_info *info = &feed->info;
	bool is_float = o->pixels == FEED_F32_NCHW || o->pixels == FEED_F32_NHWC;
	uint64_t each = o->pixels == FEED_NO_PIXELS ? 0 : is_float ? 4 : 1;
	int code = slot_layout_init(&feed->layout, o->batch_size / o->world, feed->settings.bytes * each,
				    o->max_len, o->training, err);

	if (code != 0)
		return code;
	info->version = feed->dataset->manifest->version;
	info->transform = feed->settings.fingerprint;
	info->vocab = feed->vocab->fingerprint;
	info->picture_count = part->picture_count;
	info->caption_count = part->caption_count;
	feed->samples = o->training ? part->picture_count : part->caption_count;
	info->steps = order_steps(feed->samples, o->batch_size, o->training);
	info->slots = o->slots;
	info->slot_bytes = feed->layout.slot_bytes;
	info->pool_bytes = info->slot_bytes * o->slots;
	uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	if (info->pool_bytes > memory / 2)
		return err_set(err, ERR_LIMIT, "%u batches of %llu MiB in flight are more than half of this machine's memory; take a "
			       "smaller batch or picture size", o->slots, (unsigned long long)(info->slot_bytes >> 20));
	return 0;
}

/* Shared memory that we write and the client can only read: the seals forbid
 * every later writable mapping, and our own was made before. */
static int open_pool(struct feed *feed, struct err *err)
{
	uint64_t bytes = feed->info.pool_bytes;
	int code = reserve_take(feed->pipeline->reserve, bytes, feed->info.slot_bytes, &feed->fd, &feed->ready_bytes, err);

	if (code != 0)
		return code;
	void *pool = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, feed->fd, 0);
	if (pool == MAP_FAILED)
		return err_errno(err, errno, "cannot map the memory for batches (%llu MiB)", (unsigned long long)(bytes >> 20));
	feed->pool = pool;
	if (fcntl(feed->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) != 0)
		return err_errno(err, errno, "cannot seal the memory for batches; this needs Linux 5.1 or newer");
	return 0;
}

static void batch_done(struct completion *completion);
static void ahead_done(struct completion *completion);

static int open_batches(struct feed *feed, struct err *err)
{
	uint32_t slots = feed->info.slots, b = feed->layout.samples, table = 0;

	if (!feed->training)
		for (table = 1; table < 2 * b;)
			table *= 2;
	feed->table_size = table;
	size_t each = size_round_up((size_t)b * (4 + 8 + 8) + (size_t)table * 4 + DIGEST_HEAD_BYTES +
				    (size_t)b * DIGEST_SAMPLE_BYTES + 64, 64);
	feed->batches = mem_array(slots, sizeof(*feed->batches));
	feed->memory = mem_array(slots, each);
	if (feed->batches == NULL || feed->memory == NULL)
		return err_nomem(err, slots * each);
	for (uint32_t s = 0; s < slots; s++) {
		struct feed_batch *batch = &feed->batches[s];
		char *at = (char *)feed->memory + s * each;

		batch->feed = feed;
		batch->slot = s;
		batch->completion.run = batch_done;
		batch->image_checksum = (uint64_t *)(void *)at;
		batch->token_checksum = batch->image_checksum + b;
		batch->image_picture = (uint32_t *)(void *)(batch->token_checksum + b);
		batch->image_table = batch->image_picture + b;
		batch->digest_bytes = (uint8_t *)(batch->image_table + table);
	}
	for (int i = 0; i < FEED_AHEAD_RUNNERS_MAX; i++) {
		feed->ahead[i].feed = feed;
		feed->ahead[i].completion.run = ahead_done;
	}
	return 0;
}

/* Taken out by the piece first: one large munmap() would keep every other thread from mapping anything meanwhile. */
static void unmap_pool(struct feed *feed)
{
	uint64_t bytes = feed->info.pool_bytes;

	for (uint64_t at = 0; at < bytes; at += UNMAP_BYTES)
		(void)madvise(feed->pool + at, bytes - at < UNMAP_BYTES ? bytes - at : UNMAP_BYTES, MADV_DONTNEED);
	munmap(feed->pool, bytes);
}

static void release_memory(struct feed *feed)
{
	if (feed->pool != NULL)
		unmap_pool(feed);
	if (feed->fd >= 0)
		close(feed->fd);
	pthread_mutex_destroy(&feed->line_lock);
	mem_free(feed->batches);
	mem_free(feed->memory);
	mem_free(feed);
}

static void release_later(struct reserve_return *item)
{
	release_memory((struct feed *)(void *)((char *)item - offsetof(struct feed, release)));
}

static void let_go(struct feed *feed)
{
	catalog_part_unref(feed->pipeline->catalog, feed->part);
	catalog_dataset_unref(feed->pipeline->catalog, feed->dataset);
	catalog_vocab_unref(feed->pipeline->catalog, feed->vocab);
	reserve_refill(feed->pipeline->reserve);
	atomic_fetch_sub(&feed->pipeline->feeds, 1);
}

/* Not here: freeing tens of megabytes takes the kernel longer than other clients should wait for the loop. */
static void feed_free(struct feed *feed)
{
	struct reserve *reserve = feed->pipeline->reserve;

	let_go(feed);
	feed->release.bytes = feed->info.pool_bytes;
	feed->release.release = release_later;
	reserve_give_back(reserve, &feed->release);
}

int feed_open(struct feed **out, struct worker *worker, const struct feed_options *o, struct err *err)
{
	int code = check_options(o, err);
	struct feed *feed;

	*out = NULL;
	if (code != 0)
		return code;
	/* The tables of normalize.h want more alignment than malloc gives. */
	static_assert(_Alignof(struct feed) <= MEM_ALIGN_BYTES, "mem_aligned() does not suffice");
	feed = mem_aligned(sizeof(*feed));
	if (feed == NULL)
		return err_nomem(err, sizeof(*feed));
	memset(feed, 0, sizeof(*feed));
	feed->fd = -1;
	pthread_mutex_init(&feed->line_lock, NULL);
	feed->pipeline = worker->pipeline;
	atomic_fetch_add(&feed->pipeline->feeds, 1);
	feed->training = o->training;
	feed->seed = o->seed;
	feed->batch_size = o->batch_size;
	feed->world = o->world;
	feed->rank = o->rank;
	feed->pixels = o->pixels;
	normalize_table_init(&feed->table, o->mean, o->std);
	if ((code = picture_settings_init(&feed->settings, o->image_size, o->exif_apply, err)) != 0 ||
	    (code = open_data(feed, worker, o, err)) != 0 || (code = init_info(feed, o, err)) != 0 ||
	    (code = open_pool(feed, err)) != 0 || (code = open_batches(feed, err)) != 0) {
		let_go(feed);
		release_memory(feed);
		return code;
	}
	*out = feed;
	return 0;
}

int feed_take_fd(struct feed *feed)
{
	int fd = feed->fd;

	feed->fd = -1;
	return fd;
}

const struct feed_info *feed_info(const struct feed *feed)
{
	return &feed->info;
}

const struct vocab *feed_vocab(const struct feed *feed)
{
	return feed->vocab->vocab;
}

const struct manifest *feed_manifest(const struct feed *feed)
{
	return feed->dataset->manifest;
}

/* --- requests -------------------------------------------------------------------------- */

void feed_start(struct feed *feed, feed_ready ready, void *context)
{
	feed->ready = ready;
	feed->ready_context = context;
}

/* The first batch goes alone: what a client waits for then should not share the cores with memory for the batches after it. */
static uint32_t active_max(const struct feed *feed)
{
	return feed->done == 0 ? 1 : FEED_ACTIVE_MAX;
}

static void start_queued(struct feed *feed)
{
	while (feed->active < active_max(feed) && feed->queue_count > 0 && !feed->closed) {
		struct feed_batch *batch = &feed->batches[feed->queue[feed->queue_first]];

		feed->queue_first = (feed->queue_first + 1) % FEED_SLOTS_MAX;
		feed->queue_count--;
		batch->state = BATCH_ACTIVE;
		feed->active++;
		feed->outstanding++;
		assemble_start(batch);
	}
}

int feed_read(struct feed *feed, uint64_t request_id, uint64_t epoch, uint64_t step, uint32_t slot, uint64_t generation,
	      struct err *err)
{
	CHECK(!feed->closed);
	if (slot >= feed->info.slots)
		return err_set(err, ERR_PROTOCOL, "slot %u of a stream with %u", slot, feed->info.slots);
	struct feed_batch *batch = &feed->batches[slot];
	if (batch->state != BATCH_IDLE)
		return err_set(err, ERR_PROTOCOL, "slot %u was lent twice", slot);
	if (epoch > UINT32_MAX)
		return err_set(err, ERR_USAGE, "epoch %llu: epochs are counted from 0 to %u", (unsigned long long)epoch, UINT32_MAX);
	if (step >= feed->info.steps)
		return err_set(err, ERR_USAGE, "epoch %llu, step %llu: an epoch has %llu step%s, counted from 0", (unsigned long long)epoch,
			       (unsigned long long)step, (unsigned long long)feed->info.steps, plural(feed->info.steps));
	batch->state = BATCH_QUEUED;
	batch->request_id = request_id;
	batch->epoch = epoch;
	batch->step = step;
	batch->generation = generation;
	feed->queue[(feed->queue_first + feed->queue_count++) % FEED_SLOTS_MAX] = slot;
	ahead_extend(feed, epoch, step);
	start_queued(feed);
	return 0;
}

static void drop_outstanding(struct feed *feed)
{
	if (--feed->outstanding == 0 && feed->closed)
		feed_free(feed);
}

static void batch_done(struct completion *completion)
{
	struct feed_batch *batch =
		(struct feed_batch *)(void *)((char *)completion - offsetof(struct feed_batch, completion));
	struct feed *feed = batch->feed;
	int code = atomic_load(&batch->code);

	batch->state = BATCH_IDLE;
	if (code == 0 && batch->image_count > batch->backed_images)
		batch->backed_images = batch->image_count;
	feed->active--;
	if (++feed->done == feed->info.slots)
		reserve_refill(feed->pipeline->reserve);
	if (!feed->closed) {
		struct feed_result result = {
			.request_id = batch->request_id, .epoch = batch->epoch, .step = batch->step,
			.generation = batch->generation, .slot = batch->slot, .code = code, .err = &batch->err,
			.digest = &batch->digest, .count = batch->count, .image_count = batch->image_count,
			.token_count = batch->token_count,
		};
		if (code == 0 && atomic_load(&batch->misses) > 0)
			ahead_start(feed);
		feed->ready(feed->ready_context, &result);
		start_queued(feed);
	}
	drop_outstanding(feed);
}

static void ahead_done(struct completion *completion)
{
	struct feed_ahead *ahead =
		(struct feed_ahead *)(void *)((char *)completion - offsetof(struct feed_ahead, completion));

	ahead->running = false;
	drop_outstanding(ahead->feed);
}

bool feed_busy(const struct feed *feed)
{
	return feed->active > 0 || feed->queue_count > 0;
}

void feed_close(struct feed *feed)
{
	if (feed == NULL)
		return;
	feed->closed = true;
	feed->queue_count = 0;
	atomic_store(&feed->cancelled, true);
	if (feed->outstanding == 0)
		feed_free(feed);
}
