/*
 * internal.h - what the files of store/ share. Nobody else includes it.
 *
 * env.c     the LMDB environment: lock file, opening, growth, repair, error texts
 * writer.c  the queue and the thread that commits it
 * writeback.c  the disk begins with a commit's pages before all of them are copied
 * cache.c   opening and closing, figures
 * reader.c  readers, reading
 * walk.c    all records in turn: each, lists, checking
 * guard.c   what happens when the mapped file turns out to be damaged or cut short
 * record.c  the bytes of a record
 *
 * The gate. LMDB may move its map only while no transaction of the process is
 * active. Every transaction, the writer's too, runs with the gate held shared;
 * whoever changes the map or reopens the environment holds it exclusively.
 *
 * Locks, in the order in which they may be taken: gate, readers_lock. The
 * queue's lock is never held together with another.
 */
#ifndef PREPROCESSD_STORE_INTERNAL_H
#define PREPROCESSD_STORE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include <lmdb.h>

#include "preprocessd/store/record.h"

struct cache_unit;
struct writeback;

struct cache {
	/* set once */
	char *path;
	char *check_path;      /* of the file that asks the next opening for a look at everything */
	char *end_message;     /* last words about damage: made early, as memory may be in disorder then */
	uint64_t max_bytes;
	int lock_fd;

	pthread_rwlock_t gate;
	/* under the gate: read shared, written exclusively */
	MDB_env *env;          /* NULL: it broke and could not be opened again, see broken */
	MDB_dbi dbi;
	size_t page_bytes;
	uint64_t map_bytes;
	bool map_has_extra;    /* is larger than max_bytes, so that a full cache can delete */
	uint64_t generation;   /* counts openings of env: a reader of an older one begins anew */
	struct err broken;

	pthread_mutex_t readers_lock;
	struct cache_reader *readers;

	/* the queue, under lock */
	pthread_mutex_t lock;
	pthread_cond_t work, room, settled;
	struct cache_unit *first, **last;
	size_t queued_bytes;
	uint64_t queued_seq, settled_seq;
	int hurried;           /* callers that wait for a commit */
	bool stopping;
	pthread_t writer;
	bool writer_runs;
	struct writeback *writeback; /* the writer's */

	atomic_uint_least64_t puts, commits;
};

struct cache_reader {
	struct cache *cache;
	struct cache_reader *next, **back; /* under readers_lock */
	MDB_txn *txn;          /* reset between reads; NULL: not begun yet */
	uint64_t generation;
	void *scratch;         /* a page: small records are copied here, aligned */
	size_t scratch_bytes;
};

/* --- env.c ------------------------------------------------------------- */

MUST_USE int env_names(struct cache *cache, struct err *err);  /* check_path, end_message */
MUST_USE int env_lock(struct cache *cache, struct err *err);   /* takes the lock file */
void env_unlock(struct cache *cache);
MUST_USE int env_open(struct cache *cache, uint64_t first_map_bytes, struct err *err);
void env_close(struct cache *cache);

/* For the writer, when it met damage in the map: says so and ends the process, since LMDB cannot be left
 * in the middle of a write. Nothing that was acknowledged changes; the next opening looks at the whole tree first. */
_Noreturn void env_end_damaged(const struct cache *cache);

/* An ERR_CORRUPT for damage that a guard (guard.h) caught while reading. */
int env_damaged(const struct cache *cache, struct err *err);

/* The text and code of an LMDB or errno value; nonzero. */
int env_error(const struct cache *cache, int rc, struct err *err);

/* The same for what a write transaction returned; only the writer thread, gate held shared. */
int env_write_error(const struct cache *cache, int rc, struct err *err);

/* Call with the gate released. Makes room for at least more_bytes; allow_extra: beyond max_bytes,
 * for deletions, which need a few pages before they free many. */
MUST_USE int env_grow(struct cache *cache, uint64_t map_bytes_seen, uint64_t more_bytes, bool allow_extra, struct err *err);
/* Takes back what allow_extra gave. */
MUST_USE int env_drop_extra(struct cache *cache, struct err *err);
MUST_USE int env_follow(struct cache *cache, struct err *err); /* after MDB_MAP_RESIZED */
/* After MDB_PANIC: closes and opens the environment, unless somebody did since generation. */
MUST_USE int env_reopen(struct cache *cache, uint64_t generation, struct err *err);

/* --- reader.c ------------------------------------------------------------ */

/* Afterwards a transaction is open and the gate held, or neither. */
MUST_USE int reader_begin(struct cache_reader *reader, struct err *err);
void reader_end(struct cache_reader *reader);
/* Checks a record and makes its payload aligned; between the two above, in a guard. */
MUST_USE int reader_open_value(struct cache_reader *reader, const struct cache_key *key, const MDB_val *value, bool verify,
			       struct record_header *header, const uint8_t **payload, struct err *err);

/* --- writer.c ------------------------------------------------------------ */

MUST_USE int writer_start(struct cache *cache, struct err *err);
void writer_stop(struct cache *cache); /* commits what is queued */

#endif
