#include "preprocessd/pipeline/records.h"

#include <string.h>

#include "shared/base/mem.h"
#include "shared/base/version.h"
#include "shared/wire/frame.h"

static int pack(const ProtobufCMessage *message, struct buf *out, struct err *err)
{
	size_t bytes = protobuf_c_message_get_packed_size(message);
	int code = buf_reserve(out, bytes, err);

	if (code != 0)
		return code;
	out->size += protobuf_c_message_pack(message, (uint8_t *)out->data + out->size);
	return 0;
}

int records_dataset_encode(const Records__DatasetRecord *record, struct buf *out, struct err *err)
{
	return pack(&record->base, out, err);
}

int records_dataset_decode(Records__DatasetRecord **out, const char *name, const void *bytes, size_t size, struct err *err)
{
	Records__DatasetRecord *record = records__dataset_record__unpack(NULL, size, bytes);

	*out = NULL;
	if (record == NULL)
		return err_set(err, ERR_CORRUPT, "data set %s: its record in the cache does not parse; add it again", name);
	if (record->layout != RECORDS_LAYOUT || record->version.len != HASH_BYTES ||
	    (record->manifest.len != 0 && record->manifest.len != HASH_BYTES) ||
	    (record->failure_list.len != 0 && record->failure_list.len != HASH_BYTES)) {
		records__dataset_record__free_unpacked(record, NULL);
		return err_set(err, ERR_CORRUPT, "data set %s: its record in the cache has another layout; add it again", name);
	}
	*out = record;
	return 0;
}

void records_dataset_manifest(const Records__DatasetRecord *record, struct hash *out)
{
	memcpy(out->bytes, record->manifest.len == HASH_BYTES ? record->manifest.data : record->version.data, HASH_BYTES);
}

int records_failure_encode(const struct err *reason, struct buf *out, struct err *err)
{
	Records__FailureRecord record = RECORDS__FAILURE_RECORD__INIT;

	record.layout = RECORDS_LAYOUT;
	record.code = reason->code;
	record.reason = wire_string(reason->message);
	record.release = (char *)(uintptr_t)PRODUCT_VERSION;
	return pack(&record.base, out, err);
}

int records_failure_decode(const void *bytes, size_t size, struct err *err)
{
	Records__FailureRecord *record = records__failure_record__unpack(NULL, size, bytes);
	int code = 0;

	/* One that cannot be read, or is another release's, is as good as none: the picture is tried again. */
	if (record != NULL && record->layout == RECORDS_LAYOUT && record->code < 0 && strcmp(record->release, PRODUCT_VERSION) == 0)
		code = err_set(err, record->code, "%.*s", (int)record->reason.len, (const char *)record->reason.data);
	if (record != NULL)
		records__failure_record__free_unpacked(record, NULL);
	return code;
}

int records_failures_encode(const struct listing *listing, struct buf *out, struct err *err)
{
	Records__FailureListRecord record = RECORDS__FAILURE_LIST_RECORD__INIT;
	size_t count = listing_failure_count(listing);
	Records__FailureItem *items = mem_array(count, sizeof(*items));
	Records__FailureItem **pointers = mem_array(count, sizeof(*pointers));
	int code;

	if (items == NULL || pointers == NULL) {
		code = err_nomem(err, count * sizeof(*items));
		goto out;
	}
	for (size_t i = 0; i < count; i++) {
		struct listing_failure failure = listing_failure_at(listing, (uint32_t)i);

		records__failure_item__init(&items[i]);
		items[i].source = wire_string(failure.source);
		items[i].reason = wire_string(failure.reason);
		pointers[i] = &items[i];
	}
	record.layout = RECORDS_LAYOUT;
	record.n_failures = count;
	record.failures = pointers;
	code = pack(&record.base, out, err);
out:
	mem_free(items);
	mem_free(pointers);
	return code;
}

int records_failures_decode(Records__FailureListRecord **out, const char *name, const void *bytes, size_t size,
			    struct err *err)
{
	*out = records__failure_list_record__unpack(NULL, size, bytes);
	if (*out == NULL || (*out)->layout != RECORDS_LAYOUT)
		return err_set(err, ERR_CORRUPT, "data set %s: its list of failures in the cache does not parse; add it again", name);
	return 0;
}
