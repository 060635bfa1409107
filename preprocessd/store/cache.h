/*
 * cache.h - prepared records on disk (LMDB), keyed by content and settings.
 *
 * Threads:   one writer thread of the cache's own commits in batches; any
 *            number of threads read, each through its own cache_reader.
 * Ownership: a record's bytes are seen only inside a visit callback or copied;
 *            no pointer into the map leaves store/. A visit must be short: copy
 *            or transform the bytes and return (a held reader makes the file grow),
 *            and call nothing of the cache from inside.
 * Durability: when a put's callback says 0, the record survives power loss.
 * Growth:    the map grows by itself up to max_bytes; MAP_FULL and MAP_RESIZED
 *            are handled inside. The file never shrinks; freed space is used again.
 * Full disk: the puts of a batch that does not fit report ERR_FULL, each through
 *            its callback; nothing older is lost and the cache goes on. A process
 *            that sets RLIMIT_FSIZE must ignore SIGXFSZ.
 * Order:     records are written in the order of their puts; a put is not seen
 *            by readers before it is durable.
 * Limits:    key <= CACHE_KEY_BYTES_MAX, record <= CACHE_RECORD_BYTES_MAX,
 *            queued puts <= CACHE_QUEUE_BYTES_MAX (a put beyond it waits; one
 *            larger than all of it waits until it is alone), CACHE_READERS_MAX.
 * Format:    schemas/cache.md.
 */
#ifndef PREPROCESSD_STORE_CACHE_H
#define PREPROCESSD_STORE_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/buf.h"
#include "shared/base/hash.h"

enum {
	CACHE_KEY_BYTES_MAX = 80,
	CACHE_NAME_BYTES_MAX = 64,
	CACHE_RECORD_BYTES_MAX = 1 << 30,
	CACHE_QUEUE_BYTES_MAX = 32 << 20,
	CACHE_READERS_MAX = 1024,
	CACHE_LIMIT_BYTES_MIN = 1 << 20, /* of max_bytes */
};

enum cache_kind {
	CACHE_PICTURE = 'P',  /* (content hash, transform fingerprint) -> uint8 (S, S, 3) */
	CACHE_TOKENS = 'T',   /* (SHA-256 of the caption, vocab fingerprint) -> int32 ids, untruncated */
	CACHE_FAILURE = 'F',  /* (content hash, transform fingerprint) -> code and reason */
	CACHE_MANIFEST = 'M', /* (hash of them) -> manifest bytes */
	CACHE_DATASET = 'D',  /* (name) -> version, paths, default vocabulary, when added */
	CACHE_VOCAB = 'V',    /* (hash of its bytes) -> the file's bytes */
	CACHE_VOCAB_NAME = 'N', /* (name) -> hash of its bytes */
	CACHE_FEATURES = 'E', /* (content hash, fingerprint of encoder and settings) -> float32 (F), features.md */
};

struct cache_key {
	uint8_t size;
	uint8_t bytes[CACHE_KEY_BYTES_MAX]; /* kind, then the parts */
};

void cache_key_hashes(struct cache_key *out, enum cache_kind kind, const struct hash *a, const struct hash *b /* or NULL */);
/* ERR_LIMIT or ERR_FORMAT for a name that is empty, too long (64 bytes) or has other than A-Z a-z 0-9 . _ - */
MUST_USE int cache_key_name(struct cache_key *out, enum cache_kind kind, const char *name, struct err *err);

struct cache;
struct cache_options {
	const char *path;    /* folder; must exist (paths_cache() makes it) */
	uint64_t max_bytes;  /* 0: no limit but the disk */
	uint64_t first_map_bytes; /* 0: 1 GiB; address space only, grows by itself (tests start small) */
};

/* Opens or creates. ERR_CORRUPT: not a cache of ours, or of another layout
 * version. ERR_BUSY: another daemon has it open (its pid is named). */
MUST_USE int cache_open(struct cache **out, const struct cache_options *options, struct err *err);
/* Commits what is queued, stops the writer thread. NULL is fine. */
void cache_close(struct cache *cache);

struct cache_reader;
MUST_USE int cache_reader_open(struct cache_reader **out, struct cache *cache, struct err *err);
void cache_reader_close(struct cache_reader *reader); /* NULL is fine */

/* Called inside a read transaction. payload is 64-byte aligned; checksum is its
 * XXH3-64. A non-zero return ends cache_read with that code. */
typedef int (*cache_visit)(void *context, const void *payload, size_t size, uint64_t checksum, struct err *err);

/* ERR_NOTFOUND: no such record (message left empty: it is no failure). ERR_CORRUPT: its
 * checksum or layout is wrong; visit was not called. verify=false skips only the checksum. */
MUST_USE int cache_read(struct cache_reader *reader, const struct cache_key *key, bool verify, cache_visit visit,
			void *context, struct err *err);
/* For a visit that finds a payload of another size: ERR_CORRUPT. */
MUST_USE int cache_size_differs(size_t size, size_t wanted, struct err *err);

/* For a large record that is turned into something else: visit is called for one part of the payload after the other, [from, to)
 * of it, right after the checksum has read that part and while it lies in the processor's first cache. from is a multiple of
 * CACHE_PART_BYTES. checksum: the payload's, set first. Whether it is right is known at the end only: after ERR_CORRUPT, what visit made
 * is to be thrown away. ERR_CORRUPT without a visit: the payload has not `bytes` bytes. */
enum { CACHE_PART_BYTES = 1536 };
typedef void (*cache_visit_part)(void *context, const uint8_t *payload, size_t from, size_t to);
MUST_USE int cache_read_parts(struct cache_reader *reader, const struct cache_key *key, size_t bytes, cache_visit_part visit,
			      void *context, uint64_t *checksum, struct err *err);
MUST_USE int cache_read_copy(struct cache_reader *reader, const struct cache_key *key, struct buf *out, struct err *err);
bool cache_has(struct cache_reader *reader, const struct cache_key *key);

/* Called on the writer thread when the record is durable (code 0) or was not
 * written. Exactly once for every put that returned 0. Must not call cache_put,
 * cache_delete, cache_apply, cache_flush or cache_close: they wait for this thread. */
typedef void (*cache_done)(void *context, int code, const struct err *err);

/* Copies the payload into the queue; blocks while the queue is full, so never
 * call it on an event loop. Replaces an existing record. done may be NULL. */
MUST_USE int cache_put(struct cache *cache, const struct cache_key *key, const void *payload, size_t size,
		       cache_done done, void *context, struct err *err);
/* As cache_put, without the copy: the payload stays the caller's, and must stay as it is, until done (not NULL) is
 * called. checksum: its XXH3-64. */
MUST_USE int cache_put_lent(struct cache *cache, const struct cache_key *key, const void *payload, size_t size,
			    uint64_t checksum, cache_done done, void *context, struct err *err);
MUST_USE int cache_delete(struct cache *cache, const struct cache_key *key, cache_done done, void *context, struct err *err);
/* Returns once everything queued so far is durable or has failed, callbacks included: what failed, they say. */
void cache_flush(struct cache *cache);
/* Several records or none: all are written in one transaction, durable on return.
 * A NULL payload deletes. */
struct cache_change {
	struct cache_key key;
	const void *payload;
	size_t size;
};
MUST_USE int cache_apply(struct cache *cache, const struct cache_change *changes, int count, struct err *err);

/* Calls visit for every record of a kind, in key order; name gets the key
 * without its kind byte (name_bytes of it). A damaged record comes without its payload (NULL), and err says what
 * is wrong: visit returns err->code where it cannot do without. The walk is cut into short transactions: what is
 * written meanwhile may be seen or not. */
typedef int (*cache_each_visit)(void *context, const uint8_t *name, size_t name_bytes, const void *payload, size_t size,
				struct err *err);
MUST_USE int cache_each(struct cache_reader *reader, enum cache_kind kind, cache_each_visit visit, void *context, struct err *err);

/* As cache_each for the records whose key begins with this hash. */
MUST_USE int cache_each_of(struct cache_reader *reader, enum cache_kind kind, const struct hash *first, cache_each_visit visit,
			   void *context, struct err *err);

/* Up to capacity keys behind *last (size 0: from the beginning), in order, with the bytes of their records, which
 * are not read; *last becomes the last of them. *count 0: there are no more. */
struct cache_listed {
	struct cache_key key;
	uint64_t bytes;
};
MUST_USE int cache_list(struct cache_reader *reader, struct cache_key *last, struct cache_listed *out, int capacity, int *count,
			struct err *err);

/* Reads every record and checks its checksum; damaged is called for each that
 * fails, outside of any transaction, with the reason. on (may be NULL) is called now and then
 * and ends the check, without an error, by returning false. Counts may be NULL. */
typedef void (*cache_damaged)(void *context, const struct cache_key *key, const struct err *reason);
struct cache_check_counts {
	uint64_t records, bytes, damaged;
};
typedef bool (*cache_check_on)(void *context, const struct cache_check_counts *counts);
MUST_USE int cache_check(struct cache_reader *reader, cache_damaged damaged, cache_check_on on, void *context,
			 struct cache_check_counts *counts, struct err *err);

/* used_bytes: pages that hold records; file_bytes less that is free for new ones. */
struct cache_stats {
	uint64_t records, file_bytes, used_bytes, map_bytes, puts, commits;
};
void cache_stats(struct cache *cache, struct cache_stats *out);

#endif
