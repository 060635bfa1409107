#include "preprocessd/store/cache.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "preprocessd/store/guard.h"
#include "preprocessd/store/internal.h"
#include "shared/base/fs.h"
#include "shared/base/hash.h"
#include "shared/base/mem.h"
#include "shared/base/plural.h"

enum {
	WALK_CHUNK_RECORDS = 64, /* one read transaction of cache_each and cache_check */
	BEGIN_ATTEMPTS = 8,
};

enum { BEGIN_FAULT = -1 }; /* no code of LMDB, whose own begin at -30799, nor of the system */

/* --- opening and closing --------------------------------------------------------- */

static void init_locks(struct cache *cache)
{
	pthread_rwlockattr_t gate;
	pthread_condattr_t monotonic;

	/* A waiting writer goes first: readers come in an endless stream. */
	pthread_rwlockattr_init(&gate);
	pthread_rwlockattr_setkind_np(&gate, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&cache->gate, &gate);
	pthread_rwlockattr_destroy(&gate);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&cache->work, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_cond_init(&cache->room, NULL);
	pthread_cond_init(&cache->settled, NULL);
	pthread_mutex_init(&cache->lock, NULL);
	pthread_mutex_init(&cache->readers_lock, NULL);
}

static void destroy_locks(struct cache *cache)
{
	pthread_mutex_destroy(&cache->readers_lock);
	pthread_mutex_destroy(&cache->lock);
	pthread_cond_destroy(&cache->settled);
	pthread_cond_destroy(&cache->room);
	pthread_cond_destroy(&cache->work);
	pthread_rwlock_destroy(&cache->gate);
}

int cache_open(struct cache **out, const struct cache_options *options, struct err *err)
{
	int code;
	struct cache *cache;

	*out = NULL;
	if (options->max_bytes != 0 && options->max_bytes < CACHE_LIMIT_BYTES_MIN)
		return err_set(err, ERR_LIMIT, "a cache limit of %llu byte%s; --max-cache takes at least %d KiB, or 0 for no limit",
			       (unsigned long long)options->max_bytes, plural(options->max_bytes), CACHE_LIMIT_BYTES_MIN >> 10);
	if (!fs_is_dir(options->path))
		return err_set(err, ERR_NOTFOUND, "the cache folder %s does not exist or is no folder", options->path);
	if ((cache = mem_zalloc(sizeof(*cache))) == NULL)
		return err_nomem(err, sizeof(*cache));
	guard_install();
	cache->lock_fd = -1;
	cache->last = &cache->first;
	cache->max_bytes = options->max_bytes;
	init_locks(cache);
	if ((cache->path = mem_strdup(options->path)) == NULL) {
		code = err_nomem(err, strlen(options->path));
		goto failed;
	}
	if ((code = env_names(cache, err)) != 0 || (code = env_lock(cache, err)) != 0 || (code = env_open(cache, options->first_map_bytes, err)) != 0 ||
	    (code = writer_start(cache, err)) != 0)
		goto failed;
	*out = cache;
	return 0;
failed:
	cache_close(cache);
	return code;
}

void cache_close(struct cache *cache)
{
	if (cache == NULL)
		return;
	writer_stop(cache);
	CHECK(cache->readers == NULL);
	env_close(cache);
	env_unlock(cache);
	destroy_locks(cache);
	mem_free(cache->path);
	mem_free(cache->check_path);
	mem_free(cache->end_message);
	mem_free(cache);
}

/* --- readers ------------------------------------------------------------------------- */

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

/* Afterwards a transaction is open and the gate held, or neither. */
static int read_begin(struct cache_reader *reader, struct err *err)
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

static void read_end(struct cache_reader *reader)
{
	mdb_txn_reset(reader->txn);
	pthread_rwlock_unlock(&reader->cache->gate);
}

/* Checks a record and makes its payload aligned. */
static int open_value(struct cache_reader *reader, const struct cache_key *key, const MDB_val *value, bool verify,
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
	else if ((code = open_value(reader, key, &value, verify, &header, &payload, err)) == 0)
		code = visit(context, payload, header.payload_bytes, header.payload_checksum, err);
	return code;
}

int cache_read(struct cache_reader *reader, const struct cache_key *key, bool verify, cache_visit visit, void *context,
	       struct err *err)
{
	struct guard guard;
	int code = read_begin(reader, err);

	if (code != 0)
		return code;
	if (guard_enter(&guard) == 0)
		code = read_record(reader, key, verify, visit, context, err);
	else
		code = env_damaged(reader->cache, err);
	guard_leave();
	read_end(reader);
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

	if (read_begin(reader, NULL) != 0)
		return false;
	if (guard_enter(&guard) == 0)
		rc = mdb_get(reader->txn, reader->cache->dbi, &name, &value);
	else
		rc = MDB_CORRUPTED;
	guard_leave();
	read_end(reader);
	return rc == 0;
}

/* --- walking --------------------------------------------------------------------------- */

/* Returns nonzero to stop. code: 0, or why the record is damaged (err says it). */
typedef int (*walk_visit)(void *context, const struct cache_key *key, int code, const uint8_t *payload, size_t size,
			  struct err *err);

struct walk {
	uint8_t kind;           /* 0: every record */
	struct cache_key last;  /* size 0: nothing visited yet */
	bool ended;
	bool in_record;         /* last is being read */
};

static int walk_first(const struct walk *walk, MDB_cursor *cursor, MDB_val *key, MDB_val *value)
{
	uint8_t lowest = walk->kind == 0 ? 1 : walk->kind; /* kind 0 is the cache's own record */
	int rc;

	*key = (MDB_val){ 1, &lowest };
	if (walk->last.size > 0)
		*key = (MDB_val){ walk->last.size, (void *)walk->last.bytes };
	rc = mdb_cursor_get(cursor, key, value, MDB_SET_RANGE);
	if (rc == 0 && walk->last.size == key->mv_size && memcmp(walk->last.bytes, key->mv_data, key->mv_size) == 0)
		rc = mdb_cursor_get(cursor, key, value, MDB_NEXT);
	return rc;
}

/* Keys are no longer than ours are, and ascend; in a damaged tree they may lead back, and the walk round in circles. */
static bool may_follow(const struct walk *walk, const MDB_val *key)
{
	size_t common = walk->last.size < key->mv_size ? walk->last.size : key->mv_size;
	int order = memcmp(walk->last.bytes, key->mv_data, common);

	if (key->mv_size > CACHE_KEY_BYTES_MAX)
		return false;
	return order < 0 || (order == 0 && walk->last.size < key->mv_size);
}

/* At most WALK_CHUNK_RECORDS of them. */
static int walk_records(struct cache_reader *reader, struct walk *walk, walk_visit visit, void *context, struct err *err)
{
	MDB_cursor *cursor;
	MDB_val name, value;
	struct record_header header;
	const uint8_t *payload = NULL;
	int code = 0, rc = mdb_cursor_open(reader->txn, reader->cache->dbi, &cursor);

	if (rc != 0)
		return env_error(reader->cache, rc, err);
	rc = walk_first(walk, cursor, &name, &value);
	for (int i = 0; i < WALK_CHUNK_RECORDS && code == 0; i++) {
		if (rc != 0 || (walk->kind != 0 && *(uint8_t *)name.mv_data != walk->kind)) {
			walk->ended = true;
			break;
		}
		if (!may_follow(walk, &name)) {
			code = env_error(reader->cache, MDB_CORRUPTED, err);
			break;
		}
		walk->last.size = (uint8_t)name.mv_size;
		memcpy(walk->last.bytes, name.mv_data, name.mv_size);
		walk->in_record = true;
		code = open_value(reader, &walk->last, &value, true, &header, &payload, err);
		walk->in_record = false;
		code = visit(context, &walk->last, code, code == 0 ? payload : NULL, code == 0 ? header.payload_bytes : 0, err);
		rc = mdb_cursor_get(cursor, &name, &value, MDB_NEXT);
	}
	mdb_cursor_close(cursor);
	return code != 0 || rc == 0 || rc == MDB_NOTFOUND ? code : env_error(reader->cache, rc, err);
}

/* The same in a transaction of its own and a guard: a record whose bytes cannot be read is a damaged one. */
static int walk_chunk(struct cache_reader *reader, struct walk *walk, walk_visit visit, void *context, struct err *err)
{
	struct guard guard;
	int code = read_begin(reader, err);

	if (code != 0)
		return code;
	if (guard_enter(&guard) == 0) {
		code = walk_records(reader, walk, visit, context, err);
	} else {
		code = env_damaged(reader->cache, err);
		if (walk->in_record)
			code = visit(context, &walk->last, code, NULL, 0, err);
		walk->in_record = false;
	}
	guard_leave();
	read_end(reader);
	return code;
}

/* after (may be NULL): only what comes behind this key. */
static int walk_all(struct cache_reader *reader, uint8_t kind, const struct cache_key *after, walk_visit visit, void *context,
		    struct err *err)
{
	struct walk walk = { .kind = kind };
	int code = 0;

	if (after != NULL)
		walk.last = *after;

	while (code == 0 && !walk.ended)
		code = walk_chunk(reader, &walk, visit, context, err);
	return code;
}

struct each {
	cache_each_visit visit;
	void *context;
};

static int visit_each(void *context, const struct cache_key *key, int code, const uint8_t *payload, size_t size,
		      struct err *err)
{
	const struct each *each = context;

	if (code != 0 && code != ERR_CORRUPT)
		return code;
	return each->visit(each->context, key->bytes + 1, key->size - 1u, payload, size, err);
}

int cache_each(struct cache_reader *reader, enum cache_kind kind, cache_each_visit visit, void *context, struct err *err)
{
	struct each each = { visit, context };

	return walk_all(reader, (uint8_t)kind, NULL, visit_each, &each, err);
}

struct each_of {
	struct cache_key first;
	struct each each;
	bool ended; /* a key that begins otherwise was met */
};

static int visit_each_of(void *context, const struct cache_key *key, int code, const uint8_t *payload, size_t size, struct err *err)
{
	struct each_of *each = context;

	if (key->size < each->first.size || memcmp(key->bytes, each->first.bytes, each->first.size) != 0) {
		each->ended = true;
		return ERR_NOTFOUND; /* only to stop */
	}
	return visit_each(&each->each, key, code, payload, size, err);
}

int cache_each_of(struct cache_reader *reader, enum cache_kind kind, const struct hash *first, cache_each_visit visit, void *context,
		  struct err *err)
{
	struct each_of each = { .each = { visit, context } };
	int code;

	cache_key_hashes(&each.first, kind, first, NULL);
	code = walk_all(reader, (uint8_t)kind, &each.first, visit_each_of, &each, err);
	return each.ended ? 0 : code;
}

static int list_keys(struct cache_reader *reader, struct walk *walk, struct cache_listed *out, int capacity, int *count,
		     struct err *err)
{
	MDB_cursor *cursor;
	MDB_val name, value;
	int code = 0, rc = mdb_cursor_open(reader->txn, reader->cache->dbi, &cursor);

	if (rc != 0)
		return env_error(reader->cache, rc, err);
	rc = walk_first(walk, cursor, &name, &value);
	while (code == 0 && rc == 0 && *count < capacity) {
		if (!may_follow(walk, &name)) {
			code = env_error(reader->cache, MDB_CORRUPTED, err);
			break;
		}
		walk->last.size = (uint8_t)name.mv_size;
		memcpy(walk->last.bytes, name.mv_data, name.mv_size);
		out[(*count)++] = (struct cache_listed){ walk->last, value.mv_size };
		rc = mdb_cursor_get(cursor, &name, &value, MDB_NEXT);
	}
	mdb_cursor_close(cursor);
	return code != 0 || rc == 0 || rc == MDB_NOTFOUND ? code : env_error(reader->cache, rc, err);
}

int cache_list(struct cache_reader *reader, struct cache_key *last, struct cache_listed *out, int capacity, int *count,
	       struct err *err)
{
	struct walk walk = { .last = *last };
	struct guard guard;
	int code = read_begin(reader, err);

	*count = 0;
	if (code != 0)
		return code;
	if (guard_enter(&guard) == 0)
		code = list_keys(reader, &walk, out, capacity, count, err);
	else
		code = env_damaged(reader->cache, err);
	guard_leave();
	read_end(reader);
	*last = walk.last;
	return code;
}

/* --- checking everything ------------------------------------------------------------------ */

enum { CHECK_STOPPED = 1 }; /* leaves the transaction to report a damaged record */

struct check {
	struct cache_check_counts counts;
	struct cache_key damaged_key;
	struct err reason;
};

static int visit_check(void *context, const struct cache_key *key, int code, const uint8_t *payload, size_t size,
		       struct err *err)
{
	struct check *check = context;

	(void)payload;
	check->counts.records++;
	check->counts.bytes += size;
	if (code == 0)
		return 0;
	if (code != ERR_CORRUPT)
		return code;
	check->counts.damaged++;
	check->damaged_key = *key;
	check->reason = *err;
	return CHECK_STOPPED;
}

int cache_check(struct cache_reader *reader, cache_damaged damaged, cache_check_on on, void *context,
		struct cache_check_counts *counts, struct err *err)
{
	struct check check = { 0 };
	struct walk walk = { 0 };
	struct err local = { 0 };
	int code = 0;

	do {
		code = walk_chunk(reader, &walk, visit_check, &check, &local);
		if (code == CHECK_STOPPED) {
			damaged(context, &check.damaged_key, &check.reason);
			code = 0;
		}
	} while (code == 0 && !walk.ended && (on == NULL || on(context, &check.counts)));
	if (counts != NULL)
		*counts = check.counts;
	return code == 0 ? 0 : err_set(err, code, "%s", local.message);
}

/* --- figures -------------------------------------------------------------------------------- */

/* Of a damaged file there are none. */
static bool tree_stats(const struct cache *cache, MDB_stat *out)
{
	struct guard guard;
	bool there;

	if (guard_enter(&guard) == 0)
		there = mdb_env_stat(cache->env, out) == 0;
	else
		there = false;
	guard_leave();
	return there;
}

void cache_stats(struct cache *cache, struct cache_stats *out)
{
	MDB_stat pages;
	struct stat file;
	mdb_filehandle_t fd;

	*out = (struct cache_stats){
		.puts = atomic_load_explicit(&cache->puts, memory_order_relaxed),
		.commits = atomic_load_explicit(&cache->commits, memory_order_relaxed),
	};
	pthread_rwlock_rdlock(&cache->gate);
	if (cache->env != NULL && tree_stats(cache, &pages)) {
		out->map_bytes = cache->map_bytes;
		out->records = pages.ms_entries > 0 ? pages.ms_entries - 1 : 0; /* without the cache's own */
		out->used_bytes = (uint64_t)(pages.ms_branch_pages + pages.ms_leaf_pages + pages.ms_overflow_pages) * pages.ms_psize;
		if (mdb_env_get_fd(cache->env, &fd) == 0 && fstat(fd, &file) == 0)
			out->file_bytes = (uint64_t)file.st_size;
	}
	pthread_rwlock_unlock(&cache->gate);
}
