/* Any bytes as a record of the cache: found damaged, or whole and inside the input. And as the payload of a sealed
 * record: it comes back, any one changed byte is found, and what is read out of payloads ends well. The first byte
 * says what the key is of, the next two which byte changes, the fourth how. */
#include <stdint.h>
#include <string.h>

#include "preprocessd/pipeline/records.h"
#include "preprocessd/store/record.h"
#include "shared/base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int open_record(const struct cache_key *key, const uint8_t *record, size_t size, bool verify)
{
	struct record_header header;
	const uint8_t *payload;
	struct err err = { .code = 0 };
	int code = record_open(key, record, size, verify, &header, &payload, &err);

	CHECK(code == err.code && (code == 0 || code == ERR_CORRUPT));
	if (code == 0)
		CHECK(payload >= record && payload + header.payload_bytes == record + size);
	return code;
}

static void seal_and_change(const struct cache_key *key, const uint8_t *change, const uint8_t *payload, size_t size)
{
	size_t bytes = RECORD_HEADER_BYTES + size, at = (size_t)(change[0] << 8 | change[1]) % bytes;
	uint8_t *record = mem_alloc(bytes);

	CHECK(record != NULL);
	record_seal(record, key, payload, size);
	CHECK(open_record(key, record, bytes, true) == 0);
	CHECK(open_record(key, record, bytes - 1, true) == ERR_CORRUPT);
	record[at] ^= change[2];
	CHECK((open_record(key, record, bytes, true) == 0) == (change[2] == 0));
	if (at < RECORD_HEADER_BYTES)
		CHECK((open_record(key, record, bytes, false) == 0) == (change[2] == 0));
	mem_free(record);
}

/* Payloads that are messages: whoever can write the cache's files can make their checksums, too. */
static void decode(const uint8_t *payload, size_t size)
{
	Records__DatasetRecord *dataset;
	Records__FailureListRecord *failures;
	struct err err = { .code = 0 };

	if (records_dataset_decode(&dataset, "fuzz", payload, size, &err) == 0) {
		CHECK(dataset->version.len == HASH_BYTES);
		records__dataset_record__free_unpacked(dataset, NULL);
	}
	if (records_failures_decode(&failures, "fuzz", payload, size, &err) == 0)
		for (size_t i = 0; i < failures->n_failures; i++)
			CHECK(failures->failures[i] != NULL);
	if (failures != NULL)
		records__failure_list_record__free_unpacked(failures, NULL);
	err = (struct err){ .code = 0 };
	CHECK(records_failure_decode(payload, size, &err) == err.code);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char kinds[] = "PTFMDVNE";
	struct cache_key key;
	struct hash hash;

	hash_bytes(&hash, "x", 1);
	cache_key_hashes(&key, CACHE_PICTURE, &hash, NULL);
	(void)open_record(&key, data, size, (size & 1) != 0);
	if (size < 4)
		return 0;
	cache_key_hashes(&key, (enum cache_kind)kinds[data[0] % (sizeof(kinds) - 1)], &hash, &hash);
	seal_and_change(&key, data + 1, data + 4, size - 4);
	decode(data + 4, size - 4);
	return 0;
}
