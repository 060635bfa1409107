/* Records of data sets: where their manifest is, in a cache of today and in one of before; what is no record. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "preprocessd/pipeline/records.h"
#include "shared/base/mem.h"
#include "shared/base/version.h"

static uint8_t version[HASH_BYTES + 1], manifest[HASH_BYTES + 1];

static int through(size_t version_bytes, size_t manifest_bytes, struct hash *out)
{
	Records__DatasetRecord record = RECORDS__DATASET_RECORD__INIT, *back;
	struct buf bytes = BUF_INIT;
	struct err err = { 0 };

	memset(version, 1, sizeof(version));
	memset(manifest, 2, sizeof(manifest));
	record.layout = RECORDS_LAYOUT;
	record.version = (ProtobufCBinaryData){ version_bytes, version };
	record.manifest = (ProtobufCBinaryData){ manifest_bytes, manifest };
	assert_int_equal(records_dataset_encode(&record, &bytes, &err), 0);
	int code = records_dataset_decode(&back, "x", bytes.data, bytes.size, &err);
	buf_free(&bytes);
	assert_int_equal(err.code, code);
	if (code == 0) {
		records_dataset_manifest(back, out);
		records__dataset_record__free_unpacked(back, NULL);
	}
	return code;
}

static void test_where_the_manifest_is(void **state)
{
	struct hash at;

	(void)state;
	assert_int_equal(through(HASH_BYTES, HASH_BYTES, &at), 0);
	assert_memory_equal(at.bytes, manifest, HASH_BYTES);
	/* before there was such a field */
	assert_int_equal(through(HASH_BYTES, 0, &at), 0);
	assert_memory_equal(at.bytes, version, HASH_BYTES);
}

static void test_hashes_of_other_lengths(void **state)
{
	struct hash at;

	(void)state;
	assert_int_equal(through(HASH_BYTES, HASH_BYTES - 1, &at), ERR_CORRUPT);
	assert_int_equal(through(HASH_BYTES, HASH_BYTES + 1, &at), ERR_CORRUPT);
	assert_int_equal(through(HASH_BYTES - 1, HASH_BYTES, &at), ERR_CORRUPT);
	assert_int_equal(through(0, 0, &at), ERR_CORRUPT);
}

static void test_failures(void **state)
{
	struct err reason = { .code = ERR_FORMAT, .message = "cut off" }, back = { 0 };
	struct buf bytes = BUF_INIT;
	struct err err;

	(void)state;
	assert_int_equal(records_failure_encode(&reason, &bytes, &err), 0);
	assert_int_equal(records_failure_decode(bytes.data, bytes.size, &back), ERR_FORMAT);
	assert_string_equal(back.message, "cut off");
	/* what cannot be read is as good as none */
	assert_int_equal(records_failure_decode(bytes.data, bytes.size - 1, &back), 0);
	buf_free(&bytes);
}

/* What one release cannot read the next one may, so it is not held to what an older one, or one that did not say which, has found. */
static void test_failures_of_other_releases(void **state)
{
	static const char *const releases[] = { "", "0.9", PRODUCT_VERSION "1" };
	Records__FailureRecord record = RECORDS__FAILURE_RECORD__INIT;
	uint8_t bytes[64];
	struct err err;

	(void)state;
	record.layout = RECORDS_LAYOUT;
	record.code = ERR_UNSUPPORTED;
	for (size_t i = 0; i < ARRAY_LEN(releases); i++) {
		record.release = (char *)(uintptr_t)releases[i];
		size_t size = records__failure_record__pack(&record, bytes);
		assert_int_equal(records_failure_decode(bytes, size, &err), 0);
	}
	record.release = (char *)(uintptr_t)PRODUCT_VERSION;
	assert_int_equal(records_failure_decode(bytes, records__failure_record__pack(&record, bytes), &err), ERR_UNSUPPORTED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_where_the_manifest_is),
		cmocka_unit_test(test_hashes_of_other_lengths),
		cmocka_unit_test(test_failures),
		cmocka_unit_test(test_failures_of_other_releases),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
