/* Reading one record: a transaction for each read, in a guard, and nothing of the map is handed out longer than that. */
#include <string.h>

#include "preprocessd/store/guard.h"
#include "preprocessd/store/internal.h"
#include "shared/base/hash.h"
#include "shared/base/mem.h"

enum { BEGIN_ATTEMPTS = 8 };

enum { BEGIN_FAULT = -1 }; /* no code of LMDB, whose own begin at -30799, nor of the system */

int cache_reader_open(struct cache_reader **out, struct cache *cache, struct err *err)
{
	struct cache_reader *reader = mem_zalloc(sizeof(*reader));

	*out = NULL;
	if (reader == NULL)
		return err_nomem(err, sizeof(*reader));
	pthread_rwlock_rdlock(&cache->gate); /* env_reopen() writes it */
	const size_t bytes = cache->page_bytes;
	pthread_rwlock_unlock(&cache->gate);
	reader->scratch_bytes = bytes;
	if ((reader->scratch = mem_aligned(bytes)) == NULL) {
		mem_free(reader);
		return err_nomem(err, bytes);
	}
	reader->cache = cache;
	pthread_mutex_lock(&cache->readers_lock);
	reader->next = cache->readers;
	reader->back = &cache->readers;
	if (reader->next != NULL)
		reader->next->back = &reader->next;
	cache->readers = reader;
	pthread_mutex_unlock(&cache->readers_lock);
	*out = reader;
	return 0;
}

/* Its place is in LMDB's lock file, which may have been cut short, too: then there is none to give back. */
static void end_reading(struct cache_reader *reader)
{
	struct guard guard;

	if (guard_enter(&guard) == 0)
		mdb_txn_abort(reader->txn);
	guard_leave();
	reader->txn = NULL;
}

void cache_reader_close(struct cache_reader *reader)
{
	if (reader == NULL)
		return;
	struct cache *cache = reader->cache;

	/* The gate keeps env_reopen() from touching the transaction meanwhile. */
	pthread_rwlock_rdlock(&cache->gate);
	end_reading(reader);
	pthread_mutex_lock(&cache->readers_lock);
	*reader->back = reader->next;
	if (reader->next != NULL)
		reader->next->back = reader->back;
	pthread_mutex_unlock(&cache->readers_lock);
	pthread_rwlock_unlock(&cache->gate);
	mem_free(reader->scratch);
	mem_free(reader);
}

/* One attempt, gate held shared. */
static int begin_unguarded(struct cache_reader *reader)
{
	struct cache *cache = reader->cache;
	int dead;

	if (cache->env == NULL)
		return MDB_PANIC;
	if (reader->txn != NULL)
		return mdb_txn_renew(reader->txn);
	int rc = mdb_txn_begin(cache->env, NULL, MDB_RDONLY, &reader->txn);
	if (rc == MDB_READERS_FULL && mdb_reader_check(cache->env, &dead) == 0 && dead > 0)
		rc = mdb_txn_begin(cache->env, NULL, MDB_RDONLY, &reader->txn);
	if (rc != 0)
		reader->txn = NULL;
	return rc;
}

/* Pages of the file are read even for this. */
static int begin(struct cache_reader *reader)
{
	struct guard guard;
	int rc;

	if (guard_enter(&guard) == 0) {
		rc = begin_unguarded(reader);
	} else {
		reader->txn = NULL; /* in no state to be used or freed */
		rc = BEGIN_FAULT;
	}
	guard_leave();
	return rc;
}

int reader_begin(struct cache_reader *reader, struct err *err)
{
	struct cache *cache = reader->cache;
	int code = 0;

	for (int attempt = 0; attempt < BEGIN_ATTEMPTS; attempt++) {
		pthread_rwlock_rdlock(&cache->gate);
		uint64_t generation = cache->generation;
		int rc = begin(reader);
		if (rc == 0)
			return 0;
		code = rc == BEGIN_FAULT ? env_damaged(cache, err) : env_error(cache, rc, err);
		pthread_rwlock_unlock(&cache->gate);
		if (rc == MDB_MAP_RESIZED)
			code = env_follow(cache, err);
		else if (rc == MDB_PANIC)
			code = env_reopen(cache, generation, err);
		else
			return code;
		if (code != 0)
			return code;
	}
	return err_set(err, ERR_IO, "the cache %s: gave up after %d attempts to read", cache->path, BEGIN_ATTEMPTS);
}

void reader_end(struct cache_reader *reader)
{
	mdb_txn_reset(reader->txn);
	pthread_rwlock_unlock(&reader->cache->gate);
}

int reader_open_value(struct cache_reader *reader, const struct cache_key *key, const MDB_val *value, bool verify,
		      struct record_header *header, const uint8_t **payload, struct err *err)
{
	int code = record_open(key, value->mv_data, value->mv_size, verify, header, payload, err);

	if (code != 0 || (uintptr_t)*payload % MEM_ALIGN_BYTES == 0)
		return code;
	/* Small records lie inside a page of the tree at any even address. */
	if (header->payload_bytes > reader->scratch_bytes) {
		void *larger = mem_aligned(header->payload_bytes);

		if (larger == NULL)
			return err_nomem(err, header->payload_bytes);
		mem_free(reader->scratch);
		reader->scratch = larger;
		reader->scratch_bytes = header->payload_bytes;
	}
	memcpy(reader->scratch, *payload, header->payload_bytes);
	*payload = reader->scratch;
	return 0;
}

static int not_found(struct err *err)
{
	if (err != NULL)
		*err = (struct err){ .code = ERR_NOTFOUND };
	return ERR_NOTFOUND;
}

/* In a transaction and a guard. */
static int read_record(struct cache_reader *reader, const struct cache_key *key, bool verify, cache_visit visit, void *context,
		       struct err *err)
{
	MDB_val name = { key->size, (void *)key->bytes }, value;
	struct record_header header;
	const uint8_t *payload;
	int code, rc = mdb_get(reader->txn, reader->cache->dbi, &name, &value);
	if (rc == MDB_NOTFOUND)
		code = not_found(err);
	else if (rc != 0)
		code = env_error(reader->cache, rc, err);
	else if ((code = reader_open_value(reader, key, &value, verify, &header, &payload, err)) == 0)
		code = visit(context, payload, header.payload_bytes, header.payload_checksum, err);
	return code;
}

int cache_read(struct cache_reader *reader, const struct cache_key *key, bool verify, cache_visit visit, void *context,
	       struct err *err)
{
	struct guard guard;
	int code = reader_begin(reader, err);

	if (code != 0)
		return code;
	if (guard_enter(&guard) == 0)
		code = read_record(reader, key, verify, visit, context, err);
	else
		code = env_damaged(reader->cache, err);
	guard_leave();
	reader_end(reader);
	return code;
}

struct parts {
	const struct cache_key *key;
	size_t bytes;
	cache_visit_part visit;
	void *context;
	const uint8_t *payload;
	uint64_t *checksum;
};

static void visit_part(void *context, size_t from, size_t to)
{
	const struct parts *parts = context;

	parts->visit(parts->context, parts->payload, from, to);
}

int cache_size_differs(size_t size, size_t wanted, struct err *err)
{
	return err_set(err, ERR_CORRUPT, "a record of %zu bytes instead of %zu", size, wanted);
}

static int visit_parts(void *context, const void *payload, size_t size, uint64_t checksum, struct err *err)
{
	struct parts *parts = context;

	if (size != parts->bytes)
		return cache_size_differs(size, parts->bytes, err);
	parts->payload = payload;
	*parts->checksum = checksum;
	if (hash_checksum_parts(payload, size, CACHE_PART_BYTES, visit_part, parts) != checksum)
		return record_checksum_differs(parts->key, err);
	return 0;
}

int cache_read_parts(struct cache_reader *reader, const struct cache_key *key, size_t bytes, cache_visit_part visit, void *context,
		     uint64_t *checksum, struct err *err)
{
	struct parts parts = { .key = key, .bytes = bytes, .visit = visit, .context = context, .checksum = checksum };

	return cache_read(reader, key, false, visit_parts, &parts, err);
}

static int visit_copy(void *context, const void *payload, size_t size, uint64_t checksum, struct err *err)
{
	(void)checksum;
	return buf_add(context, payload, size, err);
}

int cache_read_copy(struct cache_reader *reader, const struct cache_key *key, struct buf *out, struct err *err)
{
	return cache_read(reader, key, true, visit_copy, out, err);
}

bool cache_has(struct cache_reader *reader, const struct cache_key *key)
{
	MDB_val name = { key->size, (void *)key->bytes }, value;
	struct guard guard;
	int rc;

	if (reader_begin(reader, NULL) != 0)
		return false;
	if (guard_enter(&guard) == 0)
		rc = mdb_get(reader->txn, reader->cache->dbi, &name, &value);
	else
		rc = MDB_CORRUPTED;
	guard_leave();
	reader_end(reader);
	return rc == 0;
}
