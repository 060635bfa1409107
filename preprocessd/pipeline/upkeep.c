#include "preprocessd/pipeline/upkeep.h"

#include <stdio.h>
#include <string.h>

#include "preprocessd/pipeline/catalog.h"
#include "preprocessd/pipeline/keepset.h"
#include "preprocessd/pipeline/records.h"
#include "preprocessd/store/cache.h"
#include "shared/base/clock.h"
#include "shared/base/mem.h"
#include "shared/wire/frame.h"

enum { DAMAGED_TEXT_BYTES = 256, LISTED_MAX = 4096 };

struct damaged {
	char text[DAMAGED_TEXT_BYTES];
	bool removed;
};

struct upkeep {
	struct pipeline *pipeline;
	struct upkeep_options options;
	uint64_t request_id;
	struct completion *done;
	pthread_t thread;
	_Atomic bool cancelled;
	_Atomic uint64_t seen, total;
	/* the thread's own */
	struct cache_reader *reader;
	struct keepset contents, manifests, lists, vocabs;
	uint64_t records, bytes, damaged_count, removed, removed_bytes;
	struct damaged damaged[WIRE_DAMAGED_SHOWN];
	double start_s;
	int code;
	struct err err;
	struct buf reply;
	/* the writer thread's, until a flush */
	struct err not_deleted; /* the first that was not; code 0: none */
};

static bool is_cancelled(struct upkeep *u)
{
	return atomic_load_explicit(&u->cancelled, memory_order_relaxed);
}

static int cancelled_error(const struct upkeep *u, struct err *err)
{
	return err_set(err, ERR_CANCELLED, "%s was cancelled; what it did until then stays done", u->options.collect ? "gc" : "verify");
}

static void delete_done(void *context, int code, const struct err *err)
{
	struct upkeep *u = context;

	if (code != 0 && u->not_deleted.code == 0)
		u->not_deleted = *err;
}

/* --- verify --------------------------------------------------------------------------- */

/* Can it be had again from a source? */
static bool is_remakeable(const struct cache_key *key)
{
	return strchr("PTFE", key->bytes[0]) != NULL;
}

static void note_damaged(void *context, const struct cache_key *key, const struct err *reason)
{
	struct upkeep *u = context;
	bool removed = false;
	struct err err;

	if (u->options.mend && is_remakeable(key))
		removed = cache_delete(u->pipeline->cache, key, delete_done, u, &err) == 0;
	u->removed += removed;
	if (u->damaged_count < WIRE_DAMAGED_SHOWN) {
		struct damaged *damaged = &u->damaged[u->damaged_count];

		snprintf(damaged->text, sizeof(damaged->text), "%.*s", DAMAGED_TEXT_BYTES - 1, reason->message);
		damaged->removed = removed;
	}
	u->damaged_count++;
}

static bool note_progress(void *context, const struct cache_check_counts *counts)
{
	struct upkeep *u = context;

	atomic_store_explicit(&u->seen, counts->records, memory_order_relaxed);
	return !is_cancelled(u);
}

static int verify(struct upkeep *u, struct err *err)
{
	struct cache_check_counts counts;
	int code = cache_check(u->reader, note_damaged, note_progress, u, &counts, err);

	u->records = counts.records;
	u->bytes = counts.bytes;
	if (code == 0 && is_cancelled(u))
		code = cancelled_error(u, err);
	return code;
}

/* --- gc: what is needed ------------------------------------------------------------------ */

static int keep_manifest(struct upkeep *u, const struct manifest *manifest, struct err *err)
{
	struct hash hash;
	int code = 0;

	for (uint32_t p = 0; code == 0 && p < manifest->picture_count; p++)
		code = keepset_add(&u->contents, manifest->picture_hash[p].bytes, err);
	for (uint32_t c = 0; code == 0 && c < manifest->caption_count && !is_cancelled(u); c++) {
		const uint64_t *at = manifest->caption_at + c;

		hash_bytes(&hash, manifest->caption_text + at[0], at[1] - at[0]);
		code = keepset_add(&u->contents, hash.bytes, err);
	}
	return code;
}

static int decode(void *context, const void *payload, size_t size, uint64_t checksum, struct err *err)
{
	(void)checksum;
	return manifest_decode(context, payload, size, err);
}

static int keep_manifest_at(struct upkeep *u, const char *name, const struct hash *at, struct err *err)
{
	struct manifest *manifest = NULL;
	struct cache_key key;
	int code;

	if (keepset_has(&u->manifests, at->bytes))
		return 0;
	cache_key_hashes(&key, CACHE_MANIFEST, at, NULL);
	code = cache_read(u->reader, &key, true, decode, &manifest, err);
	if (code != 0)
		return err_set(err, ERR_CORRUPT, "data set %s: its manifest cannot be read, so what it needs is not known; nothing was removed. "
			       "Add it again, or remove it (prepctl rm %s)", name, name);
	code = keep_manifest(u, manifest, err);
	manifest_free(manifest);
	return code == 0 ? keepset_add(&u->manifests, at->bytes, err) : code;
}

struct names {
	struct buf text; /* each NUL-terminated */
	uint32_t count;
};

static int note_name(void *context, const uint8_t *name, size_t name_bytes, const void *payload, size_t size, struct err *err)
{
	struct names *names = context;
	int code = buf_add(&names->text, name, name_bytes, err);

	(void)payload;
	(void)size;
	names->count++;
	return code == 0 ? buf_add(&names->text, "", 1, err) : code;
}

static int keep_dataset(struct upkeep *u, const char *name, struct err *err)
{
	Records__DatasetRecord *record = NULL;
	struct buf bytes = BUF_INIT;
	struct cache_key key;
	struct hash manifest;
	int code = cache_key_name(&key, CACHE_DATASET, name, err);

	if (code == 0)
		code = cache_read_copy(u->reader, &key, &bytes, err);
	if (code == ERR_NOTFOUND) {
		code = 0; /* removed since */
		goto out;
	}
	if (code == 0)
		code = records_dataset_decode(&record, name, bytes.data, bytes.size, err);
	if (code == ERR_CORRUPT)
		err_set(err, code, "data set %s: its record cannot be read, so what it needs is not known; nothing was removed. Add it again, or "
			"remove it (prepctl rm %s)", name, name);
	if (code != 0)
		goto out;
	records_dataset_manifest(record, &manifest);
	code = keep_manifest_at(u, name, &manifest, err);
	if (code == 0 && record->failure_list.len == HASH_BYTES)
		code = keepset_add(&u->lists, record->failure_list.data, err);
	records__dataset_record__free_unpacked(record, NULL);
out:
	buf_free(&bytes);
	return code;
}

static int note_vocab(void *context, const uint8_t *name, size_t name_bytes, const void *payload, size_t size, struct err *err)
{
	struct upkeep *u = context;

	/* Which words it stands for is not known: they must not go. */
	if (payload == NULL)
		return err_set(err, ERR_CORRUPT, "the name of the vocabulary %.*s in the cache is damaged, so what is needed is not known; nothing "
			       "was removed. Add a data set with that vocabulary's file again", (int)name_bytes, (const char *)name);
	return size == HASH_BYTES ? keepset_add(&u->vocabs, payload, err) : 0;
}

/* A stream goes on with what it began with, also where rm or add --replace have taken its name since. */
static int keep_streams(struct upkeep *u, struct err *err)
{
	struct catalog *catalog = u->pipeline->catalog;
	struct dataset_ref *dataset = NULL;
	int code = 0;

	while (code == 0 && (dataset = catalog_dataset_next(catalog, dataset)) != NULL)
		code = is_cancelled(u) ? cancelled_error(u, err) : keep_manifest(u, dataset->manifest, err);
	catalog_dataset_unref(catalog, dataset);
	return code;
}

static int gather(struct upkeep *u, struct err *err)
{
	struct names names = { .text = BUF_INIT };
	const char *name;
	int code = cache_each(u->reader, CACHE_DATASET, note_name, &names, err);

	if (code == 0)
		code = cache_each(u->reader, CACHE_VOCAB_NAME, note_vocab, u, err);
	name = names.text.data;
	for (uint32_t i = 0; code == 0 && i < names.count; i++, name += strlen(name) + 1)
		code = is_cancelled(u) ? cancelled_error(u, err) : keep_dataset(u, name, err);
	buf_free(&names.text);
	return code == 0 ? keep_streams(u, err) : code;
}

/* --- gc: what is not --------------------------------------------------------------------- */

static bool is_needed(const struct upkeep *u, const struct cache_key *key)
{
	const uint8_t *hash = key->bytes + 1;

	switch (key->bytes[0]) {
	case CACHE_PICTURE:
	case CACHE_TOKENS:
	case CACHE_FEATURES:
		return keepset_has(&u->contents, hash);
	case CACHE_FAILURE: /* of one picture, or a data set's list */
		return key->size > 1 + HASH_BYTES ? keepset_has(&u->contents, hash) : keepset_has(&u->lists, hash);
	case CACHE_MANIFEST:
		return keepset_has(&u->manifests, hash);
	case CACHE_VOCAB:
		return keepset_has(&u->vocabs, hash);
	default:
		return true;
	}
}

/* Deletes what of these keys is not needed. */
static int sift(struct upkeep *u, const struct cache_listed *keys, int count, struct err *err)
{
	int code = 0;

	for (int i = 0; code == 0 && i < count; i++) {
		u->records++;
		u->bytes += keys[i].bytes;
		if (is_needed(u, &keys[i].key))
			continue;
		u->removed++;
		u->removed_bytes += keys[i].bytes;
		if (!u->options.dry_run)
			code = cache_delete(u->pipeline->cache, &keys[i].key, delete_done, u, err);
	}
	atomic_store_explicit(&u->seen, u->records, memory_order_relaxed);
	return code;
}

static int collect(struct upkeep *u, struct err *err)
{
	struct cache_listed *keys = mem_array(LISTED_MAX, sizeof(*keys));
	struct cache_key last = { .size = 0 };
	int count = 1;
	int code = keys == NULL ? err_nomem(err, LISTED_MAX * sizeof(*keys)) : gather(u, err);

	while (code == 0 && count > 0) {
		code = is_cancelled(u) ? cancelled_error(u, err) : cache_list(u->reader, &last, keys, LISTED_MAX, &count, err);
		if (code == 0)
			code = sift(u, keys, count, err);
	}
	mem_free(keys);
	return code;
}

/* --- the reply, the thread ------------------------------------------------------------------ */

static int make_reply(struct upkeep *u, struct err *err)
{
	Wire__UpkeepReply body = WIRE__UPKEEP_REPLY__INIT;
	Wire__Error error = WIRE__ERROR__INIT;
	Wire__Reply reply = WIRE__REPLY__INIT;
	Wire__DamagedRecord damaged[WIRE_DAMAGED_SHOWN], *pointers[WIRE_DAMAGED_SHOWN];
	char texts[WIRE_DAMAGED_SHOWN][DAMAGED_TEXT_BYTES], message[ERR_MESSAGE_BYTES];

	reply.id = u->request_id;
	if (u->code != 0) {
		error.code = (Wire__ErrorCode)-u->code;
		error.message = wire_text(message, sizeof(message), u->err.message, strlen(u->err.message));
		reply.body_case = WIRE__REPLY__BODY_ERROR;
		reply.error = &error;
		return frame_append(&u->reply, &reply.base, err);
	}
	body.records = u->records;
	body.bytes = u->bytes;
	body.damaged = u->damaged_count;
	body.removed = u->removed;
	body.removed_bytes = u->removed_bytes;
	body.seconds = clock_seconds() - u->start_s;
	for (uint64_t i = 0; i < u->damaged_count && i < WIRE_DAMAGED_SHOWN; i++) {
		wire__damaged_record__init(&damaged[i]);
		damaged[i].reason = wire_text(texts[i], DAMAGED_TEXT_BYTES, u->damaged[i].text, strlen(u->damaged[i].text));
		damaged[i].removed = u->damaged[i].removed;
		pointers[i] = &damaged[i];
		body.n_records_damaged++;
	}
	body.records_damaged = pointers;
	reply.body_case = WIRE__REPLY__BODY_UPKEEP;
	reply.upkeep = &body;
	return frame_append(&u->reply, &reply.base, err);
}

static void *upkeep_main(void *context)
{
	struct upkeep *u = context;
	struct cache_stats stats;
	struct err err;

	cache_stats(u->pipeline->cache, &stats);
	atomic_store(&u->total, stats.records);
	u->code = cache_reader_open(&u->reader, u->pipeline->cache, &u->err);
	if (u->code == 0)
		u->code = u->options.collect ? collect(u, &u->err) : verify(u, &u->err);
	cache_flush(u->pipeline->cache); /* whatever ended it: delete_done() writes into u */
	if (u->code == 0 && u->not_deleted.code != 0) {
		u->err = u->not_deleted;
		u->code = u->err.code;
	}
	cache_reader_close(u->reader);
	if (make_reply(u, &err) != 0)
		buf_free(&u->reply);
	u->pipeline->post(u->pipeline->post_context, u->done);
	return NULL;
}

int upkeep_start(struct upkeep **out, struct pipeline *pipeline, uint64_t request_id, const struct upkeep_options *options,
		 struct completion *done, struct err *err)
{
	struct upkeep *u = mem_zalloc(sizeof(*u));

	*out = NULL;
	if (u == NULL)
		return err_nomem(err, sizeof(*u));
	u->pipeline = pipeline;
	u->options = *options;
	u->request_id = request_id;
	u->done = done;
	u->start_s = clock_seconds();
	int reason = pthread_create(&u->thread, NULL, upkeep_main, u);
	if (reason != 0) {
		mem_free(u);
		return err_errno(err, reason, "cannot start a thread");
	}
	pthread_setname_np(u->thread, "upkeep");
	*out = u;
	return 0;
}

void upkeep_cancel(struct upkeep *u)
{
	atomic_store(&u->cancelled, true);
}

void upkeep_progress(struct upkeep *u, Wire__Progress *out)
{
	out->phase = WIRE__PROGRESS__PHASE__RECORDS;
	out->done = atomic_load(&u->seen);
	out->total = atomic_load(&u->total);
}

int upkeep_result(const struct upkeep *u, struct err *err)
{
	if (u->code != 0)
		*err = u->err;
	return u->code;
}

const struct buf *upkeep_reply(const struct upkeep *u)
{
	return u->reply.size > 0 ? &u->reply : NULL;
}

void upkeep_free(struct upkeep *u)
{
	if (u == NULL)
		return;
	pthread_join(u->thread, NULL);
	keepset_free(&u->contents);
	keepset_free(&u->manifests);
	keepset_free(&u->lists);
	keepset_free(&u->vocabs);
	buf_free(&u->reply);
	mem_free(u);
}
