#include "preprocessd/pipeline/prepare.h"

#include <stdio.h>
#include <string.h>

#include "preprocessd/pipeline/flight.h"
#include "preprocessd/pipeline/records.h"
#include "shared/base/clock.h"
#include "shared/base/fs.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"

static const uint64_t PUT_COMPLAINT_NS = 10000000000u;

int picture_settings_init(struct picture_settings *out, uint32_t size, bool exif_apply, struct err *err)
{
	if (size == 0 || size > PICTURE_SIZE_MAX)
		return err_set(err, ERR_LIMIT, "a picture size of %u pixels; it must be 1 to %d", size, PICTURE_SIZE_MAX);
	*out = (struct picture_settings){ .transform = { .size = size, .exif = exif_apply ? EXIF_APPLY : EXIF_IGNORE } };
	transform_fingerprint(&out->transform, &out->fingerprint);
	out->bytes = (size_t)size * size * 3;
	return 0;
}

/* --- what pictures and captions have in common -------------------------------- */

struct request {
	struct worker *worker;
	struct cache_key key;
	size_t bytes; /* of the payload; 0: any multiple of 4 */
	cache_visit use;        /* one of the two, or none: it is enough that the record is there */
	cache_visit_part parts;
	void *context;
	uint64_t *checksum; /* goes with parts */
	bool damaged; /* its record was, at the last look */
	bool unread;  /* what it is made from could not be had: no fault of the content */
	struct err damage;
	enum prepared how;
};

static int use_checked(void *context, const void *payload, size_t size, uint64_t checksum, struct err *err)
{
	struct request *request = context;

	if (request->bytes > 0 ? size != request->bytes : size == 0 || size % 4 != 0)
		return cache_size_differs(size, request->bytes, err);
	return request->use(request->context, payload, size, checksum, err);
}

/* A payload that is in memory, by whoever made it. */
static int use_made(struct request *request, const void *payload, size_t size, uint64_t checksum, struct err *err)
{
	if (request->use != NULL)
		return request->use(request->context, payload, size, checksum, err);
	if (request->parts != NULL) {
		*request->checksum = checksum;
		request->parts(request->context, payload, 0, size);
	}
	return 0;
}

/* ERR_NOTFOUND: has to be made. */
static int look_up(struct request *request, struct err *err)
{
	struct cache_reader *reader = request->worker->reader;
	struct err reason;
	int code;

	request->damaged = false;
	if (request->parts != NULL)
		code = cache_read_parts(reader, &request->key, request->bytes, request->parts, request->context, request->checksum, &reason);
	else if (request->use != NULL)
		code = cache_read(reader, &request->key, true, use_checked, request, &reason);
	else
		return cache_has(reader, &request->key) ? 0 : ERR_NOTFOUND;
	if (code == ERR_CORRUPT) {
		request->damaged = true;
		request->damage = reason;
		return ERR_NOTFOUND;
	}
	if (code != 0 && code != ERR_NOTFOUND)
		*err = reason;
	return code;
}

/* A record that cannot be kept is no reason to stop: it was served from memory
 * and will be made again next time. */
void prepare_put_failed(struct pipeline *pipeline, const struct err *err)
{
	uint64_t now = clock_ns(), last = counter_get(&pipeline->put_failed_ns);

	pthread_mutex_lock(&pipeline->put_lock);
	pipeline->put_err = *err;
	pthread_mutex_unlock(&pipeline->put_lock);
	counter_add(&pipeline->put_failures, 1);
	if (last == 0 || now - last > PUT_COMPLAINT_NS) {
		atomic_store(&pipeline->put_failed_ns, now);
		log_error("cannot keep prepared data in the cache: %s", err->message);
	}
}

bool prepare_puts_failed(struct pipeline *pipeline, uint64_t before, struct err *err)
{
	if (counter_get(&pipeline->put_failures) == before)
		return false;
	pthread_mutex_lock(&pipeline->put_lock);
	*err = pipeline->put_err;
	pthread_mutex_unlock(&pipeline->put_lock);
	return true;
}

/* Called by the cache's writer thread. */
static void put_done(void *context, int code, const struct err *err)
{
	struct flight *flight = context;
	struct pipeline *pipeline = flight->pipeline;

	if (code != 0)
		prepare_put_failed(pipeline, err);
	flights_settle(pipeline->flights, flight);
}

/* The leader's end of a success: use it, let the others have it, put it into the cache. */
static int land(struct request *request, struct flight *flight, void *payload, size_t size, struct err *err)
{
	struct pipeline *pipeline = request->worker->pipeline;
	uint64_t checksum = hash_checksum(payload, size);
	int code = use_made(request, payload, size, checksum, err);

	flight->pipeline = pipeline;
	flights_land(pipeline->flights, flight, payload, size, checksum);
	struct err put_err;
	/* The flight holds its payload until put_done() settles it. */
	int put = cache_put_lent(pipeline->cache, &flight->key, payload, size, checksum, put_done, flight, &put_err);
	if (put != 0)
		put_done(flight, put, &put_err);
	return code;
}

/* Makes the record: *payload by mem_alloc, *size its bytes. */
typedef int (*make_record)(struct request *request, void *context, void **payload, size_t *size, struct err *err);

static int lead(struct request *request, struct flight *flight, make_record make, void *context, struct err *err)
{
	struct flights *flights = request->worker->pipeline->flights;
	void *payload = NULL;
	size_t size = 0;
	int code = look_up(request, err);

	if (code != ERR_NOTFOUND) {
		flights_void(flights, flight);
		request->how = PREPARED_HIT;
		return code;
	}
	if (request->damaged)
		log_warn("a damaged record in the cache is made again (%s)", request->damage.message);
	code = make(request, context, &payload, &size, err);
	if (code != 0 && request->unread) {
		flights_void(flights, flight); /* others may have the same content elsewhere, and rights to it */
		return code;
	}
	if (code != 0) {
		flights_fail(flights, flight, err);
		return code;
	}
	if (request->damaged)
		counter_add(&request->worker->pipeline->counters.remade, 1);
	request->how = PREPARED_MADE;
	return land(request, flight, payload, size, err);
}

static int follow(struct request *request, struct flight *flight, struct err *err)
{
	request->how = PREPARED_JOINED;
	counter_add(&request->worker->pipeline->counters.joins, 1);
	if (flight->state == FLIGHT_FAILED)
		return flight_error(flight, err);
	return use_made(request, flight->payload, flight->size, flight->checksum, err);
}

static int get_or_make(struct request *request, make_record make, void *context, struct err *err)
{
	struct flights *flights = request->worker->pipeline->flights;

	for (;;) {
		struct flight *flight;
		bool leads, again = false;
		int code = look_up(request, err);

		request->how = PREPARED_HIT;
		if (code != ERR_NOTFOUND)
			return code;
		code = flights_join(flights, &request->key, &flight, &leads, err);
		if (code != 0)
			return code;
		if (leads)
			code = lead(request, flight, make, context, err);
		else if (flight->state == FLIGHT_VOID)
			again = true;
		else
			code = follow(request, flight, err);
		flights_leave(flights, flight);
		if (!again)
			return code;
		/* The leader found a sound record: so will we. Or it could not read its source: then one of us leads. */
	}
}

/* --- pictures ------------------------------------------------------------------- */

struct picture_make {
	const struct picture_settings *settings;
	const struct hash *content;
	const char *path;
	const struct rights *rights;
	bool read; /* worker->file has its bytes already */
};

/* A failure that the same bytes will show again, unlike a full disk or memory. */
static bool is_lasting(int code)
{
	return code == ERR_FORMAT || code == ERR_UNSUPPORTED || code == ERR_LIMIT;
}

int prepare_source(struct pipeline *pipeline, const char *path, const struct rights *rights, struct buf *file,
		   struct hash *content, struct err *err)
{
	buf_clear(file);
	int code = rights_read(rights, path, PICTURE_FILE_BYTES_MAX, file, err);
	if (code != 0)
		return code;
	counter_add(&pipeline->counters.source_bytes, file->size);
	hash_bytes(content, file->data, file->size);
	return 0;
}

static int read_same_source(struct worker *worker, const struct picture_make *make, struct err *err)
{
	struct hash now;
	int code = prepare_source(worker->pipeline, make->path, make->rights, &worker->file, &now, err);

	if (code == ERR_NOTFOUND)
		return err_set(err, code, "%s: is gone since the data set was added, and what was prepared from it is not in the "
			       "cache; put it back, or add the data set again with prepctl add --replace", make->path);
	if (code != 0)
		return code;
	if (!hash_equal(&now, make->content))
		return err_set(err, ERR_MISMATCH, "%s: has changed since the data set was added; put the old file back, or add the "
			       "data set again with prepctl add --replace", make->path);
	return 0;
}

static int recall_failure(struct worker *worker, const struct cache_key *key, const char *path, struct err *err)
{
	struct buf record = BUF_INIT;
	struct err reason;
	int code = 0;

	if (cache_read_copy(worker->reader, key, &record, &reason) == 0)
		code = records_failure_decode(record.data, record.size, err);
	buf_free(&record);
	return code != 0 ? err_prefix(err, "%s", path) : 0;
}

static void remember_failure(struct worker *worker, const struct cache_key *key, const struct err *reason)
{
	struct buf record = BUF_INIT;
	struct err err;

	if (records_failure_encode(reason, &record, &err) != 0 ||
	    cache_put(worker->pipeline->cache, key, record.data, record.size, NULL, NULL, &err) != 0)
		log_warn("cannot remember a failure: %s", err.message);
	buf_free(&record);
}

static int decode_picture(struct worker *worker, const struct picture_make *make, void **payload, struct err *err)
{
	struct counters *counters = &worker->pipeline->counters;
	struct cache_key failure_key;
	uint8_t *pixels;

	cache_key_hashes(&failure_key, CACHE_FAILURE, make->content, &make->settings->fingerprint);
	int code = recall_failure(worker, &failure_key, make->path, err);
	if (code != 0)
		return code;
	pixels = mem_aligned(make->settings->bytes);
	if (pixels == NULL)
		return err_nomem(err, make->settings->bytes);
	code = picture_prepare(worker->codec, worker->file.data, worker->file.size, &make->settings->transform, pixels, err);
	if (code == 0) {
		counter_add(&counters->decoded, 1);
		*payload = pixels;
		return 0;
	}
	mem_free(pixels);
	counter_add(&counters->failures, 1);
	if (is_lasting(code))
		remember_failure(worker, &failure_key, err);
	return err_prefix(err, "%s", make->path);
}

static int make_picture(struct request *request, void *context, void **payload, size_t *size, struct err *err)
{
	const struct picture_make *make = context;
	int code = make->read ? 0 : read_same_source(request->worker, make, err);

	request->unread = code != 0;
	if (code != 0)
		return code;
	*size = make->settings->bytes;
	return decode_picture(request->worker, make, payload, err);
}

static int get_picture(struct request *request, struct picture_make *make, enum prepared *how, struct err *err)
{
	struct counters *counters = &request->worker->pipeline->counters;

	request->bytes = make->settings->bytes;
	cache_key_hashes(&request->key, CACHE_PICTURE, make->content, &make->settings->fingerprint);
	int code = get_or_make(request, make_picture, make, err);
	*how = request->how;
	counter_add(request->how == PREPARED_HIT ? &counters->hits : &counters->misses, 1);
	return code;
}

int prepare_picture(struct worker *worker, const struct picture_settings *settings, const struct hash *content,
		    const char *path, const struct rights *rights, cache_visit_part use, void *context, uint64_t *checksum,
		    enum prepared *how, struct err *err)
{
	struct picture_make make = { .settings = settings, .content = content, .path = path, .rights = rights };
	struct request request = { .worker = worker, .parts = use, .context = context, .checksum = checksum };

	return get_picture(&request, &make, how, err);
}

static int note_checksum(void *context, const void *payload, size_t size, uint64_t checksum, struct err *err)
{
	uint64_t *out = context;

	(void)payload;
	(void)size;
	(void)err;
	*out = checksum;
	return 0;
}

int prepare_picture_checksum(struct worker *worker, const struct picture_settings *settings, const struct hash *content,
			     const char *path, const struct rights *rights, uint64_t *out, struct err *err)
{
	struct picture_make make = { .settings = settings, .content = content, .path = path, .rights = rights };
	struct request request = { .worker = worker, .bytes = settings->bytes, .use = note_checksum, .context = out };
	enum prepared how;

	cache_key_hashes(&request.key, CACHE_PICTURE, content, &settings->fingerprint);
	if (cache_read(worker->reader, &request.key, false, use_checked, &request, NULL) == 0) {
		counter_add(&worker->pipeline->counters.hits, 1);
		return 0;
	}
	return get_picture(&request, &make, &how, err);
}

int prepare_file(struct worker *worker, const struct picture_settings *settings, const char *path,
		 const struct hash *content, enum prepared *how, struct err *err)
{
	struct picture_make make = { .settings = settings, .content = content, .path = path, .read = true };
	struct request request = { .worker = worker };

	return get_picture(&request, &make, how, err);
}

struct others {
	struct hash fingerprints[PREPARE_OTHERS_MAX];
	size_t count;
};

static int note_other(void *context, const uint8_t *name, size_t name_bytes, const void *payload, size_t size, struct err *err)
{
	struct others *others = context;

	(void)size;
	(void)err;
	/* A damaged one is as good as none. */
	if (payload != NULL && name_bytes == 2 * HASH_BYTES && others->count < PREPARE_OTHERS_MAX)
		memcpy(others->fingerprints[others->count++].bytes, name + HASH_BYTES, HASH_BYTES);
	return 0;
}

/* Keys have hashes of settings only. There are few enough settings to try all of them. */
static int explain_others(struct worker *worker, struct prepare_explained *out, struct err *err)
{
	struct others others = { .count = 0 };
	struct picture_settings settings;
	int code = cache_each_of(worker->reader, CACHE_PICTURE, &out->content, note_other, &others, err);

	if (code != 0)
		return code;
	out->other_count = others.count;
	for (size_t i = 0; i < others.count; i++) {
		char hex[HASH_HEX_BYTES];

		hash_to_hex(&others.fingerprints[i], hex);
		snprintf(out->others[i], sizeof(out->others[i]), "fingerprint=%s", hex);
	}
	for (uint32_t n = 0; others.count > 0 && n < 2 * PICTURE_SIZE_MAX; n++) {
		if ((code = picture_settings_init(&settings, n / 2 + 1, n % 2 != 0, err)) != 0)
			return code;
		for (size_t i = 0; i < others.count; i++)
			if (hash_equal(&settings.fingerprint, &others.fingerprints[i]))
				transform_describe(&settings.transform, out->others[i], sizeof(out->others[i]));
	}
	return 0;
}

int prepare_explain(struct worker *worker, const struct picture_settings *settings, const char *path,
		    const struct rights *rights, struct prepare_explained *out, struct err *err)
{
	struct cache_key key;
	struct buf record = BUF_INIT;
	struct hash content;
	int code = prepare_source(worker->pipeline, path, rights, &worker->file, &content, err);

	if (code != 0)
		return code;
	*out = (struct prepare_explained){ .content = content };
	transform_describe(&settings->transform, out->settings, sizeof(out->settings));
	cache_key_hashes(&key, CACHE_PICTURE, &out->content, &settings->fingerprint);
	out->found = cache_has(worker->reader, &key);
	cache_key_hashes(&key, CACHE_FAILURE, &out->content, &settings->fingerprint);
	if (cache_read_copy(worker->reader, &key, &record, NULL) == 0)
		records_failure_decode(record.data, record.size, &out->failure);
	buf_free(&record);
	return out->found || out->failure.code != 0 ? 0 : explain_others(worker, out, err);
}

/* --- captions --------------------------------------------------------------------- */

struct tokens_make {
	struct vocab_ref *vocab;
	const char *text;
	size_t bytes;
};

static int make_tokens(struct request *request, void *context, void **payload, size_t *size, struct err *err)
{
	const struct tokens_make *make = context;
	struct wordpiece *wordpiece;
	const int32_t *ids;
	size_t count;
	int code = worker_tokenizer(request->worker, make->vocab, &wordpiece, err);

	if (code == 0)
		code = wordpiece_encode(wordpiece, make->text, make->bytes, &ids, &count, err);
	if (code != 0)
		return code;
	*size = count * sizeof(*ids);
	*payload = mem_alloc(*size);
	if (*payload == NULL)
		return err_nomem(err, *size);
	memcpy(*payload, ids, *size);
	counter_add(&request->worker->pipeline->counters.tokenized, 1);
	return 0;
}

int prepare_tokens(struct worker *worker, struct vocab_ref *vocab, const char *text, size_t bytes, cache_visit use,
		   void *context, enum prepared *how, struct err *err)
{
	struct counters *counters = &worker->pipeline->counters;
	struct request request = { .worker = worker, .use = use, .context = context };
	struct tokens_make make = { .vocab = vocab, .text = text, .bytes = bytes };
	struct hash content;

	hash_bytes(&content, text, bytes);
	cache_key_hashes(&request.key, CACHE_TOKENS, &content, &vocab->fingerprint);
	int code = get_or_make(&request, make_tokens, &make, err);
	*how = request.how;
	counter_add(request.how == PREPARED_HIT ? &counters->caption_hits : &counters->caption_misses, 1);
	return code;
}
