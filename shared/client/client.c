#include "shared/client/client.h"

#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "shared/base/plural.h"
#include "shared/client/stream_internal.h"
#include "shared/wire/slot.h"

enum { SLOTS_DEFAULT = 4, RECONNECT_MS = 200 };

static const float IMAGENET_MEAN[3] = { 0.485f, 0.456f, 0.406f };
static const float IMAGENET_STD[3] = { 0.229f, 0.224f, 0.225f };

void stream_options_init(struct stream_options *out)
{
	*out = (struct stream_options){
		.client_name = "client", .split = "train", .training = true, .batch_size = 32, .world = 1,
		.image_size = 224, .dtype = PIXEL_F32, .layout = PIXEL_NCHW, .max_len = 64, .wait_s = 600,
	};
	memcpy(out->mean, IMAGENET_MEAN, sizeof(out->mean));
	memcpy(out->std, IMAGENET_STD, sizeof(out->std));
}

/* --- opening ---------------------------------------------------------------- */

static int check_options(const struct stream_options *o, struct err *err)
{
	if (o->dataset == NULL || o->dataset[0] == '\0')
		return err_set(err, ERR_USAGE, "no data set was named");
	if (o->world == 0 || o->rank >= o->world || o->batch_size == 0 || o->batch_size % o->world != 0)
		return err_set(err, ERR_USAGE, "a batch of %u samples for rank %u of %u: the batch size must be a multiple of the "
			       "number of ranks, and ranks count from 0", o->batch_size, o->rank, o->world);
	if (o->slots > CLIENT_SLOTS_MAX)
		return err_set(err, ERR_USAGE, "%u batches in flight; it must be 1 to %d", o->slots, CLIENT_SLOTS_MAX);
	return 0;
}

static int copy_texts(struct stream *stream, const struct stream_options *o, struct err *err)
{
	stream->socket = mem_strdup(o->socket);
	stream->client_name = mem_strdup(o->client_name != NULL ? o->client_name : "client");
	stream->dataset = mem_strdup(o->dataset);
	stream->split = mem_strdup(o->split != NULL ? o->split : "all");
	stream->vocab = o->vocab != NULL ? mem_strdup(o->vocab) : NULL;
	if (stream->socket == NULL || stream->client_name == NULL || stream->dataset == NULL || stream->split == NULL ||
	    (o->vocab != NULL && stream->vocab == NULL))
		return err_nomem(err, 64);
	return 0;
}

static int reconnect(struct stream *stream, struct err *err);

int stream_open(struct stream **out, const struct stream_options *options, struct err *err)
{
	int code = check_options(options, err);
	struct stream *stream;

	*out = NULL;
	if (code != 0)
		return code;
	stream = mem_zalloc(sizeof(*stream));
	if (stream == NULL)
		return err_nomem(err, sizeof(*stream));
	stream->options = *options;
	if (stream->options.slots == 0)
		stream->options.slots = SLOTS_DEFAULT;
	conn_init(&stream->conn, options->cancelled, options->cancel_context);
	stream->image_bytes = (uint64_t)3 * options->image_size * options->image_size * (options->dtype == PIXEL_F32 ? 4 : options->dtype == PIXEL_U8 ? 1 : 0);
	code = copy_texts(stream, options, err);
	if (code == 0)
		code = stream_connect(stream, err);
	/* It was there and died at this very moment. */
	if (code == ERR_UNAVAILABLE && stream->conn.broken)
		code = reconnect(stream, err);
	if (code != 0) {
		stream_close(stream);
		return code;
	}
	stream->opened = true;
	*out = stream;
	return 0;
}

void stream_close(struct stream *stream)
{
	if (stream == NULL)
		return;
	conn_free(&stream->conn);
	for (uint32_t i = 0; i < POOLS_MAX; i++)
		if (stream->pools[i].base != NULL)
			munmap(stream->pools[i].base, stream->pools[i].bytes);
	for (uint32_t i = 0; i < stream->info.label_count; i++)
		mem_free(stream->labels[i]);
	mem_free(stream->labels);
	mem_free(stream->vocab_name);
	mem_free(stream->socket);
	mem_free(stream->client_name);
	mem_free(stream->dataset);
	mem_free(stream->split);
	mem_free(stream->vocab);
	mem_free(stream);
}

const struct stream_info *stream_info(const struct stream *stream)
{
	return &stream->info;
}

double stream_wait_seconds(const struct stream *stream)
{
	return stream->wait_s;
}

/* --- asking ------------------------------------------------------------------ */

static struct entry *entry_at(struct stream *stream, uint32_t i)
{
	return &stream->window[(stream->first + i) % CLIENT_SLOTS_MAX];
}

static void extend_window(struct stream *stream)
{
	while (stream->count + stream->held < stream->options.slots && !stream->ended) {
		struct entry *entry = entry_at(stream, stream->count++);

		entry->epoch = stream->next_epoch;
		entry->step = stream->next_step;
		entry->state = ENTRY_NEEDED;
		if (++stream->next_step < stream->info.steps)
			continue;
		stream->next_step = 0;
		if (stream->options.training)
			stream->next_epoch++;
		else
			stream->ended = true;
	}
}

static int ask(struct stream *stream, struct entry *entry, uint32_t slot, struct err *err)
{
	Wire__ReadBatch read = WIRE__READ_BATCH__INIT;
	Wire__Request request = WIRE__REQUEST__INIT;

	entry->generation = ++stream->generation;
	entry->slot = slot;
	entry->pool = stream->pool;
	read.epoch = entry->epoch;
	read.step = entry->step;
	read.slot = slot;
	read.generation = entry->generation;
	request.id = entry->generation;
	request.verb_case = WIRE__REQUEST__VERB_READ_BATCH;
	request.read_batch = &read;
	int code = conn_queue(&stream->conn, &request, err);
	if (code != 0)
		return code;
	entry->state = ENTRY_LENT;
	stream->slots[slot] = SLOT_LENT;
	stream->lent[slot] = entry->generation;
	return 0;
}

/* Asks for all that is needed and has a slot. In one piece: the daemon's threads get to work with the first
 * byte, and where they take every core the rest would wait until one of them stops. */
static int pump(struct stream *stream, struct err *err)
{
	uint32_t slot = 0;
	int code = 0;

	extend_window(stream);
	for (uint32_t i = 0; i < stream->count && code == 0; i++) {
		struct entry *entry = entry_at(stream, i);

		if (entry->state != ENTRY_NEEDED)
			continue;
		while (slot < stream->options.slots && stream->slots[slot] != SLOT_FREE)
			slot++;
		if (slot == stream->options.slots)
			break;
		code = ask(stream, entry, slot, err);
	}
	/* What was asked for before something failed must be on its way all the same. */
	struct err flush_err;
	int flush_code = conn_flush(&stream->conn, &flush_err);
	if (code == 0 && flush_code != 0 && err != NULL)
		*err = flush_err;
	return code != 0 ? code : flush_code;
}

int stream_seek(struct stream *stream, uint64_t epoch, uint64_t step, struct err *err)
{
	if (step >= stream->info.steps)
		return err_set(err, ERR_USAGE, "step %llu: an epoch of %s %s has %llu step%s, counted from 0", (unsigned long long)step,
			       stream->dataset, stream->split, (unsigned long long)stream->info.steps, plural(stream->info.steps));
	/* What was lent comes back by itself: nobody waits for it then. */
	for (uint32_t i = 0; i < stream->count; i++) {
		struct entry *entry = entry_at(stream, i);

		if (entry->state != ENTRY_READY)
			continue;
		if (entry->pool == stream->pool)
			stream->slots[entry->slot] = SLOT_FREE;
		stream->pools[entry->pool].users--;
		stream_pool_drop(stream, entry->pool);
	}
	stream->first = stream->count = 0;
	stream->next_epoch = epoch;
	stream->next_step = step;
	stream->ended = false;
	return 0;
}

/* --- receiving ---------------------------------------------------------------- */

static struct entry *find_lent(struct stream *stream, uint64_t generation)
{
	for (uint32_t i = 0; i < stream->count; i++) {
		struct entry *entry = entry_at(stream, i);

		if (entry->state == ENTRY_LENT && entry->generation == generation)
			return entry;
	}
	return NULL;
}

/* After a seek nobody waits for what was lent before; its slot comes back all the same. */
static void take_back_slot(struct stream *stream, uint64_t generation)
{
	for (uint32_t s = 0; s < stream->options.slots; s++)
		if (stream->slots[s] == SLOT_LENT && stream->lent[s] == generation)
			stream->slots[s] = SLOT_FREE;
}

static int take_batch(struct stream *stream, struct entry *entry, const Wire__BatchReady *ready, struct err *err)
{
	const char *slot = stream->pools[stream->pool].base + entry->slot * stream->info.slot_bytes;
	const struct slot_header *header = (const struct slot_header *)slot;
	int code = slot_check(slot, stream->info.slot_bytes, stream->image_bytes, err);

	if (code == 0)
		code = stream_copy_hash(&entry->digest, ready->digest, "digest", err);
	if (code == 0 && (ready->slot != entry->slot || header->generation != entry->generation ||
			  header->epoch != entry->epoch || header->step != entry->step))
		code = err_set(err, ERR_PROTOCOL, "preprocessd filled a slot with another batch than was asked for");
	if (code != 0)
		return code;
	entry->state = ENTRY_READY;
	stream->slots[entry->slot] = SLOT_OURS;
	stream->pools[entry->pool].users++;
	return 0;
}

static int take_reply(struct stream *stream, const Wire__Reply *reply, struct err *err)
{
	struct entry *entry = find_lent(stream, reply->id);
	int code = 0;

	take_back_slot(stream, reply->id);
	if (reply->body_case == WIRE__REPLY__BODY_BATCH_READY) {
		if (entry != NULL)
			code = take_batch(stream, entry, reply->batch_ready, err);
	} else if (reply->body_case == WIRE__REPLY__BODY_ERROR) {
		/* It is shutting down: the same as being gone. */
		if (reply->error->code == WIRE__ERROR_CODE__UNAVAILABLE) {
			code = conn_error(reply, err);
			conn_close(&stream->conn);
			return code;
		}
		if (reply->id == 0) /* about the connection, which the daemon closes */
			return conn_error(reply, err);
		if (entry != NULL) {
			conn_error(reply, &entry->err);
			entry->state = ENTRY_FAILED;
		}
	} else {
		code = err_set(err, ERR_PROTOCOL, "preprocessd sent a reply that was not asked for");
	}
	return code;
}

/* The connection is gone: what was lent is needed again, what is ready stays valid. */
static void forget_connection(struct stream *stream)
{
	conn_close(&stream->conn);
	for (uint32_t i = 0; i < stream->count; i++) {
		struct entry *entry = entry_at(stream, i);

		if (entry->state == ENTRY_LENT)
			entry->state = ENTRY_NEEDED;
	}
	stream_pool_drop(stream, stream->pool);
}

static int nap(struct stream *stream, struct err *err)
{
	if (stream->options.cancelled != NULL && stream->options.cancelled(stream->options.cancel_context))
		return err_set(err, ERR_CANCELLED, "cancelled");
	nanosleep(&(struct timespec){ .tv_nsec = CONN_POLL_MS * 1000000L }, NULL);
	return 0;
}

static int reconnect(struct stream *stream, struct err *err)
{
	double start_s = clock_seconds(), wait_s = stream->options.wait_s;
	int code;

	if (wait_s == 0)
		return err_set(err, ERR_UNAVAILABLE, "lost the daemon at %s", stream->socket);
	log_warn("lost the daemon at %s; waiting for it to come back", stream->socket);
	for (;;) {
		code = stream_connect(stream, err);
		if (code == 0) {
			log_info("the daemon at %s is back; going on", stream->socket);
			return 0;
		}
		if (code != ERR_UNAVAILABLE)
			return code;
		if (wait_s > 0 && clock_seconds() - start_s >= wait_s)
			return err_set(err, ERR_UNAVAILABLE, "the daemon at %s did not come back within %.0f s; start it with "
				       "preprocessd --socket %s & and go on from the last checkpoint", stream->socket, wait_s,
				       stream->socket);
		for (int ms = 0; ms < RECONNECT_MS; ms += CONN_POLL_MS)
			if ((code = nap(stream, err)) != 0)
				return code;
	}
}

/* Waits for one reply, or for the daemon to come back. */
static int wait_for_reply(struct stream *stream, struct err *err)
{
	Wire__Reply *reply;
	int code = 0;

	if (stream->conn.fd < 0)
		code = reconnect(stream, err);
	if (code == 0)
		code = pump(stream, err);
	if (code == 0)
		code = conn_receive(&stream->conn, -1, &reply, err);
	if (code == 0)
		code = take_reply(stream, reply, err);
	if (code == ERR_UNAVAILABLE && stream->opened && stream->options.wait_s != 0 && stream->conn.fd < 0)
		return 0; /* the next round reconnects */
	return code;
}

/* --- the caller's side ----------------------------------------------------------- */

static const void *at(const char *slot, uint64_t offset)
{
	return slot + offset;
}

static void fill_batch(const struct stream *stream, const struct entry *entry, struct batch *out)
{
	const char *slot = stream->pools[entry->pool].base + entry->slot * stream->info.slot_bytes;
	const struct slot_header *h = (const struct slot_header *)slot;

	*out = (struct batch){
		.epoch = h->epoch, .step = h->step, .count = h->count, .image_count = h->image_count,
		.pixels = at(slot, h->pixels_at), .image_index = at(slot, h->image_index_at),
		.ids = at(slot, h->ids_at), .offsets = at(slot, h->token_offsets_at), .token_count = h->token_count,
		.sample_ids = at(slot, h->sample_ids_at), .pictures = at(slot, h->pictures_at),
		.wrong_pictures = h->flags & SLOT_EVALUATION ? at(slot, h->wrong_pictures_at) : NULL,
		.labels = at(slot, h->labels_at), .first_position = h->first_position, .digest = entry->digest,
		.slot = entry->pool << 8 | entry->slot, .generation = entry->generation,
	};
}

int stream_next(struct stream *stream, struct batch *out, bool *got, struct err *err)
{
	double start_s = clock_seconds();
	struct entry *head;
	int code = 0;

	*got = false;
	if (stream->held >= stream->options.slots)
		return err_set(err, ERR_USAGE, "all %u batches of the stream are held; release one first", stream->options.slots);
	for (;;) {
		extend_window(stream);
		if (stream->count == 0)
			return 0; /* the end of an evaluation */
		head = entry_at(stream, 0);
		if (head->state == ENTRY_READY)
			break;
		if (head->state == ENTRY_FAILED) {
			*err = head->err;
			head->state = ENTRY_NEEDED; /* the next call tries again */
			return err->code;
		}
		code = wait_for_reply(stream, err);
		if (stream->conn.fd < 0)
			forget_connection(stream);
		if (code != 0)
			return code;
	}
	stream->wait_s += clock_seconds() - start_s;
	fill_batch(stream, head, out);
	stream->held++;
	stream->first = (stream->first + 1) % CLIENT_SLOTS_MAX;
	stream->count--;
	*got = true;
	return 0;
}

void stream_release(struct stream *stream, const struct batch *batch)
{
	uint32_t pool = batch->slot >> 8, slot = batch->slot & 0xFF;

	CHECK(pool < POOLS_MAX && slot < CLIENT_SLOTS_MAX && stream->pools[pool].users > 0 && stream->held > 0);
	stream->pools[pool].users--;
	stream->held--;
	if (pool == stream->pool && stream->conn.fd >= 0)
		stream->slots[slot] = SLOT_FREE;
	stream_pool_drop(stream, pool);
	/* Ask for the next one now; a broken connection is seen, and mended, by stream_next(). */
	if (stream->conn.fd >= 0 && pump(stream, NULL) != 0)
		forget_connection(stream);
}
