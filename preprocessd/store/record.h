/*
 * record.h - the 48 bytes in front of every record, and their checks.
 *
 * LMDB puts a value of half a page or more at an address of 16 modulo its
 * page size; behind a header of 48 bytes the payload is 64-byte aligned.
 *
 * Threads: pure functions. Format: schemas/cache.md.
 */
#ifndef PREPROCESSD_STORE_RECORD_H
#define PREPROCESSD_STORE_RECORD_H

#include <assert.h>
#include <stdbool.h>

#include "preprocessd/store/cache.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "records are little-endian and read in place"
#endif

enum { RECORD_HEADER_BYTES = 48, RECORD_MAGIC = 0x43525050, /* "PPRC" */ RECORD_VERSION = 1 };

struct record_header {
	uint32_t magic;            /*  0 */
	uint8_t kind;              /*  4  first byte of the key */
	uint8_t version;           /*  5 */
	uint16_t reserved;         /*  6  zero */
	uint64_t payload_bytes;    /*  8 */
	uint64_t payload_checksum; /* 16  XXH3-64 of the payload */
	uint64_t key_checksum;     /* 24  XXH3-64 of the key: a record under a wrong key is noticed */
	uint64_t reserved2;        /* 32  zero */
	uint64_t header_checksum;  /* 40  XXH3-64 of bytes 0 to 39 */
};
static_assert(sizeof(struct record_header) == RECORD_HEADER_BYTES, "record header");
static_assert(offsetof(struct record_header, payload_bytes) == 8, "record header");
static_assert(offsetof(struct record_header, payload_checksum) == 16, "record header");
static_assert(offsetof(struct record_header, key_checksum) == 24, "record header");
static_assert(offsetof(struct record_header, header_checksum) == 40, "record header");

/* What a cache says of itself, under the key META_KEY. */
enum { CACHE_LAYOUT_VERSION = 1 };
#define CACHE_META_KEY "\0meta"
#define CACHE_META_MAGIC "preprocessd cache"

struct cache_meta {
	char magic[24];          /*  0  CACHE_META_MAGIC, padded with zeros */
	uint32_t layout_version; /* 24 */
	uint32_t reserved;       /* 28  zero */
};
static_assert(sizeof(struct cache_meta) == 32, "cache meta");
static_assert(offsetof(struct cache_meta, layout_version) == 24, "cache meta");

/* The header of a payload whose checksum is known. */
void record_header_make(struct record_header *out, const struct cache_key *key, size_t payload_bytes, uint64_t checksum);
/* Header and payload into out, RECORD_HEADER_BYTES + size bytes. */
void record_seal(void *out, const struct cache_key *key, const void *payload, size_t size);

/* record: as it lies in the map, at any alignment. The header is checked in
 * any case, the payload's checksum if verify is set. ERR_CORRUPT says what differs. */
MUST_USE int record_open(const struct cache_key *key, const void *record, size_t bytes, bool verify,
			 struct record_header *header, const uint8_t **payload, struct err *err);
/* For who computed the checksum of a payload opened without verify, and found another: ERR_CORRUPT, and the message. */
int record_checksum_differs(const struct cache_key *key, struct err *err);

#endif
