/*
 * hash.h - the two hashes of the project.
 *
 * SHA-256 names content (pictures, vocabularies, manifests, settings): keys
 * are shared between users of a cache, so collisions must not be constructible,
 * and `sha256sum FILE` prints the same name. XXH3-64 guards records against
 * damage, where speed matters and nobody attacks. Pure functions, any thread.
 */
#ifndef SHARED_BASE_HASH_H
#define SHARED_BASE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/base/err.h"

enum { HASH_BYTES = 32, HASH_HEX_BYTES = 2 * HASH_BYTES + 1 };

struct hash {
	uint8_t bytes[HASH_BYTES];
};

/* SHA-256 of a byte string. */
void hash_bytes(struct hash *out, const void *data, size_t size);

/* Incremental SHA-256. init may fail for lack of memory; final frees. */
struct hash_stream;
MUST_USE int hash_stream_open(struct hash_stream **out, struct err *err);
void hash_stream_add(struct hash_stream *stream, const void *data, size_t size);
void hash_stream_add_u64(struct hash_stream *stream, uint64_t value); /* little-endian */
/* Adds the length as 8 bytes, then the bytes: fields cannot run into each other. */
void hash_stream_add_field(struct hash_stream *stream, const void *data, size_t size);
void hash_stream_final(struct hash_stream *stream, struct hash *out); /* frees stream */

uint64_t hash_checksum(const void *data, size_t size); /* XXH3-64, seed 0 */
/* The same, and seen() is called for one part after the other, from 0 to size, right after the checksum has read it: whoever
 * wants the bytes too finds them in the processor's first cache, and memory is read once. */
typedef void (*hash_seen)(void *context, size_t from, size_t to);
uint64_t hash_checksum_parts(const void *data, size_t size, size_t part_bytes, hash_seen seen, void *context);

bool hash_equal(const struct hash *a, const struct hash *b);
void hash_to_hex(const struct hash *hash, char out[HASH_HEX_BYTES]);
MUST_USE int hash_from_hex(struct hash *out, const char *hex, struct err *err);

#endif
