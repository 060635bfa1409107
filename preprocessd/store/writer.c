/*
 * writer.c - the queue of changes and the thread that commits them.
 *
 * A unit is what must be written together: one record of cache_put, all of
 * cache_apply. The thread takes as many units as make a batch, writes them in
 * one transaction, calls their callbacks and goes on. It waits LINGER_NS for a
 * batch to fill, since a commit costs an fsync, unless somebody waits for it.
 */
#include <errno.h>
#include <string.h>

#include "preprocessd/store/guard.h"
#include "preprocessd/store/internal.h"
#include "preprocessd/store/writeback.h"
#include "shared/base/clock.h"
#include "shared/base/mem.h"

enum {
	BATCH_BYTES = 16 << 20,
	BATCH_UNITS_MAX = 16384,
	LINGER_BYTES = 4 << 20,      /* with so much queued there is no waiting */
	LINGER_NS = 20 * 1000 * 1000,
	IDLE_SECONDS = 30,           /* between looks for dead readers */
	WRITEBACK_BYTES_MIN = 1 << 20, /* of a commit: smaller ones are copied before another thread is awake */
	ATTEMPTS_MAX = 64,           /* growing from a page to 16 EiB takes fewer */
};

struct change {
	struct cache_key key;
	const void *payload; /* NULL: delete. Behind the unit in the same allocation, or lent */
	size_t payload_bytes;
	struct record_header header;
};

struct cache_unit {
	struct cache_unit *next;
	uint64_t seq;
	uint64_t queued_ns;
	size_t bytes;    /* of the allocation and what was lent */
	cache_done done;
	void *context;
	bool deletes_only;
	int count;
	struct change changes[];
};

/* --- one transaction ----------------------------------------------------------- */

static int write_change(struct cache *cache, MDB_txn *txn, const struct change *change)
{
	MDB_val key = { change->key.size, (void *)change->key.bytes };
	MDB_val value = { RECORD_HEADER_BYTES + change->payload_bytes, NULL };
	int rc;

	if (change->payload == NULL) {
		rc = mdb_del(txn, cache->dbi, &key, NULL);
		return rc == MDB_NOTFOUND ? 0 : rc;
	}
	/* MDB_RESERVE: LMDB hands out the page, which saves it a copy of its own. */
	rc = mdb_put(txn, cache->dbi, &key, &value, MDB_RESERVE);
	if (rc != 0)
		return rc;
	memcpy(value.mv_data, &change->header, RECORD_HEADER_BYTES);
	if (change->payload_bytes > 0)
		memcpy((uint8_t *)value.mv_data + RECORD_HEADER_BYTES, change->payload, change->payload_bytes);
	return 0;
}

static size_t units_bytes(struct cache_unit *const *units, size_t count)
{
	size_t bytes = 0;

	for (size_t u = 0; u < count; u++)
		bytes += units[u]->bytes;
	return bytes;
}

static int commit_large(struct cache *cache, MDB_txn *txn)
{
	int fd, rc = mdb_env_get_fd(cache->env, &fd);

	if (rc != 0) {
		mdb_txn_abort(txn);
		return rc;
	}
	writeback_begin(cache->writeback, fd);
	rc = mdb_txn_commit(txn);
	writeback_end(cache->writeback);
	return rc;
}

/* Gate held shared. */
static int write_all(struct cache *cache, struct cache_unit *const *units, size_t count)
{
	MDB_txn *txn;
	int rc = mdb_txn_begin(cache->env, NULL, 0, &txn);

	if (rc != 0)
		return rc;
	for (size_t u = 0; u < count; u++) {
		for (int c = 0; c < units[u]->count; c++) {
			if ((rc = write_change(cache, txn, &units[u]->changes[c])) != 0) {
				mdb_txn_abort(txn);
				return rc;
			}
		}
	}
	return units_bytes(units, count) >= WRITEBACK_BYTES_MIN ? commit_large(cache, txn) : mdb_txn_commit(txn);
}

/* LMDB uses pages that were freed in one transaction from the one after the next on. Writing
 * the cache's own record again is a transaction, so that space freed now serves the next put. Gate held shared. */
static int write_own_record(struct cache *cache)
{
	struct cache_meta meta = { .magic = CACHE_META_MAGIC, .layout_version = CACHE_LAYOUT_VERSION };
	MDB_val key = { sizeof(CACHE_META_KEY) - 1, (void *)CACHE_META_KEY }, value = { sizeof(meta), &meta };
	MDB_txn *txn;
	int rc = mdb_txn_begin(cache->env, NULL, 0, &txn);

	if (rc != 0)
		return rc;
	if ((rc = mdb_put(txn, cache->dbi, &key, &value, 0)) == 0)
		return mdb_txn_commit(txn);
	mdb_txn_abort(txn);
	return rc;
}

/* count 0: the cache's own record. LMDB reads the tree while it writes. */
static int write_units(struct cache *cache, struct cache_unit *const *units, size_t count)
{
	struct guard guard;
	int rc;

	if (guard_enter(&guard) != 0)
		env_end_damaged(cache);
	rc = count > 0 ? write_all(cache, units, count) : write_own_record(cache);
	guard_leave();
	return rc;
}

static void age_free_pages(struct cache *cache)
{
	pthread_rwlock_rdlock(&cache->gate);
	/* Failing is no loss: the space serves a later put. */
	if (cache->env != NULL)
		(void)write_units(cache, NULL, 0);
	pthread_rwlock_unlock(&cache->gate);
}

static bool only_deletes(struct cache_unit *const *units, size_t count)
{
	for (size_t u = 0; u < count; u++)
		if (!units[u]->deletes_only)
			return false;
	return true;
}

/* Tries again where the map or the environment can be put right. */
static int commit_units(struct cache *cache, struct cache_unit *const *units, size_t count, struct err *err)
{
	bool deletes = only_deletes(units, count);
	int code = 0;

	for (int attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
		pthread_rwlock_rdlock(&cache->gate);
		uint64_t generation = cache->generation, map_bytes = cache->map_bytes;
		bool extra = cache->map_has_extra && !deletes;
		int rc = cache->env == NULL ? MDB_PANIC : extra ? 0 : write_units(cache, units, count);
		if (rc != 0)
			code = env_write_error(cache, rc, err);
		pthread_rwlock_unlock(&cache->gate);

		if (extra)
			code = env_drop_extra(cache, err);
		else if (rc == MDB_MAP_FULL)
			code = env_grow(cache, map_bytes, 2 * units_bytes(units, count), deletes, err);
		else if (rc == MDB_MAP_RESIZED)
			code = env_follow(cache, err);
		else if (rc == MDB_PANIC)
			code = env_reopen(cache, generation, err);
		else
			return rc == 0 ? 0 : code;
		if (code != 0)
			return code;
	}
	return err_set(err, ERR_IO, "the cache %s: gave up after %d attempts to commit", cache->path, ATTEMPTS_MAX);
}

/* A batch that does not fit is cut in halves: what fits is kept, and a small
 * change does not fail because of a large neighbour. */
static void commit_batch(struct cache *cache, struct cache_unit *const *units, size_t count)
{
	struct err err = { 0 };
	int code = commit_units(cache, units, count, &err);

	if (code != 0 && code != ERR_CORRUPT && count > 1) {
		commit_batch(cache, units, count / 2);
		commit_batch(cache, units + count / 2, count - count / 2);
		return;
	}
	if (code == 0) {
		atomic_fetch_add_explicit(&cache->commits, 1, memory_order_relaxed);
		for (size_t u = 0; u < count; u++)
			atomic_fetch_add_explicit(&cache->puts, (uint64_t)units[u]->count, memory_order_relaxed);
		if (only_deletes(units, count))
			age_free_pages(cache);
	}
	for (size_t u = 0; u < count; u++)
		if (units[u]->done != NULL)
			units[u]->done(units[u]->context, code, &err);
}

/* --- the thread ---------------------------------------------------------------------- */

static void deadline_in(struct timespec *out, uint64_t ns)
{
	uint64_t at = clock_ns() + ns;

	out->tv_sec = (time_t)(at / 1000000000u);
	out->tv_nsec = (long)(at % 1000000000u);
}

static void check_readers(struct cache *cache)
{
	int dead;

	pthread_rwlock_rdlock(&cache->gate);
	if (cache->env != NULL)
		(void)mdb_reader_check(cache->env, &dead); /* the next look is soon enough */
	pthread_rwlock_unlock(&cache->gate);
}

/* Lock held. Returns with a reason to commit, or with nothing queued: to stop or to look around. */
static void wait_for_work(struct cache *cache)
{
	struct timespec deadline;
	int rc = 0;

	deadline_in(&deadline, (uint64_t)IDLE_SECONDS * 1000000000u);
	while (cache->first == NULL && !cache->stopping && rc != ETIMEDOUT)
		rc = pthread_cond_timedwait(&cache->work, &cache->lock, &deadline);
	while (cache->first != NULL && !cache->stopping && cache->hurried == 0 && cache->queued_bytes < LINGER_BYTES) {
		uint64_t ready = cache->first->queued_ns + LINGER_NS, now = clock_ns();

		if (now >= ready)
			break;
		deadline_in(&deadline, ready - now);
		pthread_cond_timedwait(&cache->work, &cache->lock, &deadline);
	}
}

/* Lock held. */
static size_t take_batch(struct cache *cache, struct cache_unit **units, size_t *bytes)
{
	size_t count = 0;

	*bytes = 0;
	while (cache->first != NULL && count < BATCH_UNITS_MAX && (count == 0 || *bytes + cache->first->bytes <= BATCH_BYTES)) {
		units[count] = cache->first;
		*bytes += units[count++]->bytes;
		cache->first = cache->first->next;
	}
	if (cache->first == NULL)
		cache->last = &cache->first;
	return count;
}

static void *writer_main(void *argument)
{
	static_assert(sizeof(struct cache_unit *) * BATCH_UNITS_MAX <= 128 << 10, "fits on the stack");
	struct cache *cache = argument;
	struct cache_unit *units[BATCH_UNITS_MAX];
	uint64_t readers_checked = clock_ns();
	size_t bytes;

	pthread_mutex_lock(&cache->lock);
	for (;;) {
		wait_for_work(cache);
		if (cache->first == NULL && cache->stopping)
			break;
		size_t count = take_batch(cache, units, &bytes);
		pthread_mutex_unlock(&cache->lock);

		if (count > 0)
			commit_batch(cache, units, count);
		uint64_t seq = count > 0 ? units[count - 1]->seq : 0;
		for (size_t u = 0; u < count; u++)
			mem_free(units[u]);
		if (clock_ns() - readers_checked >= (uint64_t)IDLE_SECONDS * 1000000000u) {
			check_readers(cache);
			readers_checked = clock_ns();
		}

		pthread_mutex_lock(&cache->lock);
		cache->queued_bytes -= bytes;
		if (seq != 0)
			cache->settled_seq = seq;
		pthread_cond_broadcast(&cache->room);
		pthread_cond_broadcast(&cache->settled);
	}
	pthread_mutex_unlock(&cache->lock);
	return NULL;
}

int writer_start(struct cache *cache, struct err *err)
{
	int code = writeback_open(&cache->writeback, err), rc;

	if (code != 0)
		return code;
	rc = pthread_create(&cache->writer, NULL, writer_main, cache);
	if (rc != 0)
		return err_errno(err, rc, "cannot start the cache's writer thread");
	cache->writer_runs = true;
	return 0;
}

void writer_stop(struct cache *cache)
{
	if (cache->writer_runs) {
		pthread_mutex_lock(&cache->lock);
		cache->stopping = true;
		pthread_cond_broadcast(&cache->work);
		pthread_mutex_unlock(&cache->lock);
		pthread_join(cache->writer, NULL);
		cache->writer_runs = false;
	}
	writeback_close(cache->writeback);
	cache->writeback = NULL;
}

/* --- queueing ----------------------------------------------------------------------------- */

static int check_change(const struct cache_change *change, struct err *err)
{
	CHECK(change->key.size >= 2 && change->key.size <= CACHE_KEY_BYTES_MAX && change->key.bytes[0] != 0);
	if (change->payload != NULL && change->size > (size_t)CACHE_RECORD_BYTES_MAX - RECORD_HEADER_BYTES)
		return err_set(err, ERR_LIMIT, "a record of %zu bytes; the cache takes at most %d", change->size,
			       CACHE_RECORD_BYTES_MAX - RECORD_HEADER_BYTES);
	return 0;
}

static int unit_make(struct cache_unit **out, const struct cache_change *changes, int count, struct err *err)
{
	size_t bytes = sizeof(struct cache_unit) + (size_t)count * sizeof(struct change);
	struct cache_unit *unit;
	uint8_t *next;

	*out = NULL;
	for (int c = 0; c < count; c++) {
		int code = check_change(&changes[c], err);

		if (code != 0)
			return code;
		if (changes[c].payload != NULL && !size_add(bytes, changes[c].size, &bytes))
			return err_nomem(err, changes[c].size);
	}
	if ((unit = mem_alloc(bytes)) == NULL)
		return err_nomem(err, bytes);
	*unit = (struct cache_unit){ .bytes = bytes, .count = count, .deletes_only = true };
	next = (uint8_t *)&unit->changes[count];
	for (int c = 0; c < count; c++) {
		unit->changes[c] = (struct change){ .key = changes[c].key };
		if (changes[c].payload == NULL)
			continue;
		record_header_make(&unit->changes[c].header, &changes[c].key, changes[c].size,
				   hash_checksum(changes[c].payload, changes[c].size));
		if (changes[c].size > 0)
			memcpy(next, changes[c].payload, changes[c].size);
		unit->changes[c].payload = next;
		unit->changes[c].payload_bytes = changes[c].size;
		unit->deletes_only = false;
		next += changes[c].size;
	}
	*out = unit;
	return 0;
}

/* Takes the unit; returns its number. */
static uint64_t enqueue_take(struct cache *cache, struct cache_unit *unit, bool hurry)
{
	pthread_mutex_lock(&cache->lock);
	while (cache->queued_bytes > 0 && cache->queued_bytes + unit->bytes > CACHE_QUEUE_BYTES_MAX)
		pthread_cond_wait(&cache->room, &cache->lock);
	uint64_t seq = ++cache->queued_seq;
	unit->seq = seq;
	unit->queued_ns = clock_ns();
	cache->queued_bytes += unit->bytes;
	*cache->last = unit;
	cache->last = &unit->next;
	cache->hurried += hurry;
	pthread_cond_signal(&cache->work);
	pthread_mutex_unlock(&cache->lock);
	return seq;
}

/* The caller counts as hurried until then. */
static void wait_settled(struct cache *cache, uint64_t seq)
{
	pthread_mutex_lock(&cache->lock);
	while (cache->settled_seq < seq)
		pthread_cond_wait(&cache->settled, &cache->lock);
	cache->hurried--;
	pthread_mutex_unlock(&cache->lock);
}

static int queue_one(struct cache *cache, const struct cache_change *change, cache_done done, void *context, struct err *err)
{
	struct cache_unit *unit;
	int code = unit_make(&unit, change, 1, err);

	if (code != 0)
		return code;
	unit->done = done;
	unit->context = context;
	enqueue_take(cache, unit, false);
	return 0;
}

int cache_put(struct cache *cache, const struct cache_key *key, const void *payload, size_t size, cache_done done,
	      void *context, struct err *err)
{
	struct cache_change change = { .key = *key, .payload = size == 0 ? "" : payload, .size = size };

	return queue_one(cache, &change, done, context, err);
}

int cache_put_lent(struct cache *cache, const struct cache_key *key, const void *payload, size_t size, uint64_t checksum,
		   cache_done done, void *context, struct err *err)
{
	const struct cache_change change = { .key = *key, .payload = payload, .size = size };
	const size_t bytes = sizeof(struct cache_unit) + sizeof(struct change);
	struct cache_unit *unit;
	int code = check_change(&change, err);

	CHECK(payload != NULL && done != NULL);
	if (code != 0)
		return code;
	if ((unit = mem_alloc(bytes)) == NULL)
		return err_nomem(err, bytes);
	*unit = (struct cache_unit){ .bytes = bytes + size, .count = 1, .done = done, .context = context };
	unit->changes[0] = (struct change){ .key = *key, .payload = payload, .payload_bytes = size };
	record_header_make(&unit->changes[0].header, key, size, checksum);
	enqueue_take(cache, unit, false);
	return 0;
}

int cache_delete(struct cache *cache, const struct cache_key *key, cache_done done, void *context, struct err *err)
{
	struct cache_change change = { .key = *key };

	return queue_one(cache, &change, done, context, err);
}

void cache_flush(struct cache *cache)
{
	pthread_mutex_lock(&cache->lock);
	uint64_t seq = cache->queued_seq;
	cache->hurried++;
	pthread_cond_signal(&cache->work);
	pthread_mutex_unlock(&cache->lock);
	wait_settled(cache, seq);
}

struct outcome {
	int code;
	struct err err;
};

static void keep_outcome(void *context, int code, const struct err *err)
{
	struct outcome *outcome = context;

	outcome->code = code;
	if (code != 0)
		outcome->err = *err;
}

int cache_apply(struct cache *cache, const struct cache_change *changes, int count, struct err *err)
{
	struct outcome outcome = { 0 };
	struct cache_unit *unit;
	int code;

	CHECK(count > 0);
	if ((code = unit_make(&unit, changes, count, err)) != 0)
		return code;
	unit->done = keep_outcome;
	unit->context = &outcome;
	wait_settled(cache, enqueue_take(cache, unit, true));
	return outcome.code == 0 ? 0 : err_set(err, outcome.code, "%s", outcome.err.message);
}
