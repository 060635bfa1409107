#include "shared/base/hash.h"

#include <string.h>

/* The EVP interface allocates for each hash; a daemon short of memory must still be able to tell what it has from what it has not. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>
/* For the size of a state, so that one can lie on the stack. */
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#include "shared/base/mem.h"

struct hash_stream {
	SHA256_CTX context;
};

void hash_bytes(struct hash *out, const void *data, size_t size)
{
	SHA256_CTX context;

	CHECK(SHA256_Init(&context) == 1 && SHA256_Update(&context, data, size) == 1 && SHA256_Final(out->bytes, &context) == 1);
}

int hash_stream_open(struct hash_stream **out, struct err *err)
{
	struct hash_stream *stream = mem_zalloc(sizeof(*stream));

	*out = NULL;
	if (stream == NULL)
		return err_nomem(err, sizeof(*stream));
	CHECK(SHA256_Init(&stream->context) == 1);
	*out = stream;
	return 0;
}

void hash_stream_add(struct hash_stream *stream, const void *data, size_t size)
{
	CHECK(SHA256_Update(&stream->context, data, size) == 1);
}

void hash_stream_add_u64(struct hash_stream *stream, uint64_t value)
{
	uint8_t bytes[8];

	for (int i = 0; i < 8; i++)
		bytes[i] = (uint8_t)(value >> (8 * i));
	hash_stream_add(stream, bytes, sizeof(bytes));
}

void hash_stream_add_field(struct hash_stream *stream, const void *data, size_t size)
{
	hash_stream_add_u64(stream, size);
	hash_stream_add(stream, data, size);
}

void hash_stream_final(struct hash_stream *stream, struct hash *out)
{
	CHECK(SHA256_Final(out->bytes, &stream->context) == 1);
	mem_free(stream);
}

/* The library's own choice of the widest vectors that the processor has, three
 * times faster than the SSE2 of the plain call. Same value; not every build of the library has it. */
extern XXH64_hash_t XXH3_64bits_dispatch(const void *data, size_t size) __attribute__((weak));

uint64_t hash_checksum(const void *data, size_t size)
{
	return XXH3_64bits_dispatch != NULL ? XXH3_64bits_dispatch(data, size) : XXH3_64bits(data, size);
}

extern XXH_errorcode XXH3_64bits_update_dispatch(XXH3_state_t *state, const void *data, size_t size) __attribute__((weak));

enum { ASK_AHEAD_BYTES = 2048, LINE_BYTES = 64 };

/* Memory that is not in cache comes sooner if it is asked for: the processor itself looks no further than to the end of a page. */
static void ask_for(const void *data, size_t size, size_t from, size_t bytes)
{
	size_t end = size < from + bytes ? size : from + bytes;

	for (; from < end; from += LINE_BYTES)
		__builtin_prefetch((const uint8_t *)data + from, 0, 3);
}

uint64_t hash_checksum_parts(const void *data, size_t size, size_t part_bytes, hash_seen seen, void *context)
{
	/* The library at run time may be newer than its header here, and its state larger. */
	union {
		XXH3_state_t state;
		uint8_t room[2 * sizeof(XXH3_state_t)];
	} own;

	CHECK(part_bytes > 0);
	CHECK(XXH3_64bits_reset(&own.state) == XXH_OK);
	for (size_t from = 0; from < size;) {
		size_t bytes = size - from < part_bytes ? size - from : part_bytes;
		const void *part = (const uint8_t *)data + from;
		ask_for(data, size, from + bytes + ASK_AHEAD_BYTES, bytes);
		XXH_errorcode code = XXH3_64bits_update_dispatch != NULL ? XXH3_64bits_update_dispatch(&own.state, part, bytes) :
									   XXH3_64bits_update(&own.state, part, bytes);
		CHECK(code == XXH_OK);
		seen(context, from, from + bytes);
		from += bytes;
	}
	return XXH3_64bits_digest(&own.state);
}

bool hash_equal(const struct hash *a, const struct hash *b)
{
	return memcmp(a->bytes, b->bytes, HASH_BYTES) == 0;
}

void hash_to_hex(const struct hash *hash, char out[HASH_HEX_BYTES])
{
	static const char digits[] = "0123456789abcdef";

	for (int i = 0; i < HASH_BYTES; i++) {
		out[2 * i] = digits[hash->bytes[i] >> 4];
		out[2 * i + 1] = digits[hash->bytes[i] & 15];
	}
	out[HASH_HEX_BYTES - 1] = '\0';
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

int hash_from_hex(struct hash *out, const char *hex, struct err *err)
{
	if (strlen(hex) != HASH_HEX_BYTES - 1)
		return err_set(err, ERR_FORMAT, "a hash has %d hexadecimal digits, this has %zu", HASH_HEX_BYTES - 1,
			       strlen(hex));
	for (int i = 0; i < HASH_BYTES; i++) {
		int high = hex_digit(hex[2 * i]), low = hex_digit(hex[2 * i + 1]);

		if (high < 0 || low < 0)
			return err_set(err, ERR_FORMAT, "not a hexadecimal digit at position %d", 2 * i);
		out->bytes[i] = (uint8_t)(high << 4 | low);
	}
	return 0;
}
