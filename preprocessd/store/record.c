#include "preprocessd/store/record.h"

#include <stdio.h>
#include <string.h>

enum { NAME_BYTES = 112 };

static_assert(CACHE_KEY_BYTES_MAX >= 1 + 2 * HASH_BYTES, "two hashes fit into a key");

void cache_key_hashes(struct cache_key *out, enum cache_kind kind, const struct hash *a, const struct hash *b)
{
	out->bytes[0] = (uint8_t)kind;
	memcpy(out->bytes + 1, a->bytes, HASH_BYTES);
	out->size = 1 + HASH_BYTES;
	if (b != NULL) {
		memcpy(out->bytes + out->size, b->bytes, HASH_BYTES);
		out->size += HASH_BYTES;
	}
}

static bool is_name_byte(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
}

int cache_key_name(struct cache_key *out, enum cache_kind kind, const char *name, struct err *err)
{
	size_t length = strlen(name);

	if (length == 0)
		return err_set(err, ERR_FORMAT, "an empty name; a name has 1 to %d of the characters A-Z a-z 0-9 . _ -",
			       CACHE_NAME_BYTES_MAX);
	if (length > CACHE_NAME_BYTES_MAX)
		return err_set(err, ERR_LIMIT, "the name %.20s... has %zu characters; %d are allowed", name, length,
			       CACHE_NAME_BYTES_MAX);
	for (size_t i = 0; i < length; i++)
		if (!is_name_byte(name[i]))
			return err_set(err, ERR_FORMAT, "the name \"%s\" has a character at position %zu that is none of A-Z a-z 0-9 . _ -",
				       name, i + 1);
	out->bytes[0] = (uint8_t)kind;
	memcpy(out->bytes + 1, name, length);
	out->size = (uint8_t)(1 + length);
	return 0;
}

void record_header_make(struct record_header *out, const struct cache_key *key, size_t payload_bytes, uint64_t checksum)
{
	*out = (struct record_header){
		.magic = RECORD_MAGIC,
		.kind = key->bytes[0],
		.version = RECORD_VERSION,
		.payload_bytes = payload_bytes,
		.payload_checksum = checksum,
		.key_checksum = hash_checksum(key->bytes, key->size),
	};
	out->header_checksum = hash_checksum(out, offsetof(struct record_header, header_checksum));
}

void record_seal(void *out, const struct cache_key *key, const void *payload, size_t size)
{
	struct record_header header;

	record_header_make(&header, key, size, hash_checksum(payload, size));
	memcpy(out, &header, sizeof(header));
	if (size > 0)
		memcpy((uint8_t *)out + sizeof(header), payload, size);
}

static const char *kind_name(uint8_t kind)
{
	switch (kind) {
	case CACHE_PICTURE: return "picture";
	case CACHE_TOKENS: return "tokens";
	case CACHE_FAILURE: return "failure";
	case CACHE_MANIFEST: return "manifest";
	case CACHE_DATASET: return "data set";
	case CACHE_VOCAB: return "vocabulary";
	case CACHE_VOCAB_NAME: return "vocabulary name";
	case CACHE_FEATURES: return "features";
	default: return "of unknown kind";
	}
}

/* "picture 0123456789abcdef..." for messages. */
static void record_name(const struct cache_key *key, char out[NAME_BYTES])
{
	uint8_t kind = key->bytes[0];
	int used = snprintf(out, NAME_BYTES, "%s ", kind_name(kind));

	if (kind == CACHE_DATASET || kind == CACHE_VOCAB_NAME) {
		snprintf(out + used, NAME_BYTES - (size_t)used, "%.*s", key->size - 1, (const char *)key->bytes + 1);
		return;
	}
	for (int i = 1; i < key->size && i <= 8; i++)
		used += snprintf(out + used, NAME_BYTES - (size_t)used, "%02x", key->bytes[i]);
	if (key->size > 9)
		snprintf(out + used, NAME_BYTES - (size_t)used, "...");
}

static int damaged(const struct cache_key *key, const char *how, struct err *err)
{
	char name[NAME_BYTES];

	record_name(key, name);
	return err_set(err, ERR_CORRUPT, "the cache's record %s is damaged: %s", name, how);
}

int record_checksum_differs(const struct cache_key *key, struct err *err)
{
	return damaged(key, "its checksum differs", err);
}

int record_open(const struct cache_key *key, const void *record, size_t bytes, bool verify, struct record_header *header,
		const uint8_t **payload, struct err *err)
{
	if (bytes < sizeof(*header))
		return damaged(key, "it is shorter than its header", err);
	memcpy(header, record, sizeof(*header));
	if (header->magic != RECORD_MAGIC)
		return damaged(key, "it does not begin with a record's mark", err);
	if (header->header_checksum != hash_checksum(header, offsetof(struct record_header, header_checksum)))
		return damaged(key, "the checksum of its header differs", err);
	if (header->version != RECORD_VERSION)
		return damaged(key, "it has another version", err);
	if (header->kind != key->bytes[0] || header->key_checksum != hash_checksum(key->bytes, key->size))
		return damaged(key, "it belongs to another key", err);
	if (header->payload_bytes != bytes - sizeof(*header))
		return damaged(key, "its length differs from what its header says", err);
	*payload = (const uint8_t *)record + sizeof(*header);
	if (verify && header->payload_checksum != hash_checksum(*payload, bytes - sizeof(*header)))
		return record_checksum_differs(key, err);
	return 0;
}
