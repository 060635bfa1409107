/* Any bytes as a record of the cache: found damaged, or whole and inside the input. */
#include <stdint.h>

#include "preprocessd/store/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct record_header header;
	const uint8_t *payload;
	struct cache_key key;
	struct hash hash;
	struct err err;

	hash_bytes(&hash, "x", 1);
	cache_key_hashes(&key, CACHE_PICTURE, &hash, NULL);
	if (record_open(&key, data, size, (size & 1) != 0, &header, &payload, &err) == 0)
		CHECK(payload >= data && payload + header.payload_bytes == data + size);
	return 0;
}
