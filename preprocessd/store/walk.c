/* Walking all records, or those of a kind, in the order of their keys: a few in one transaction, so that no reader is held long. */
#include <string.h>

#include "preprocessd/store/guard.h"
#include "preprocessd/store/internal.h"

enum { WALK_CHUNK_RECORDS = 64 /* one read transaction of cache_each and cache_check */ };

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
		code = reader_open_value(reader, &walk->last, &value, true, &header, &payload, err);
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
	int code = reader_begin(reader, err);

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
	reader_end(reader);
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
	int code = reader_begin(reader, err);

	*count = 0;
	if (code != 0)
		return code;
	if (guard_enter(&guard) == 0)
		code = list_keys(reader, &walk, out, capacity, count, err);
	else
		code = env_damaged(reader->cache, err);
	guard_leave();
	reader_end(reader);
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
