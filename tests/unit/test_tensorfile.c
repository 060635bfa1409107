/* safetensors: round trip, and every way in which a file can be wrong. Parity with
 * another implementation is in tests/parity (the files are read by Python there). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "shared/base/fs.h"
#include "shared/io/tensorfile.h"

static char folder[] = "/tmp/tensorfile-test-XXXXXX";
static char path[64];

static int setup(void **state)
{
	(void)state;
	if (mkdtemp(folder) == NULL)
		return -1;
	snprintf(path, sizeof(path), "%s/x.safetensors", folder);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(folder);
}

static const float FLOATS[6] = { 1.0f, -2.5f, 3.0f, 4.0f, 5.0f, 1e-30f };
static const int64_t INTS[2] = { -7, INT64_MAX };

static void write_sample(void)
{
	struct err err;
	struct tensor_view tensors[2] = {
		{ .name = "a.\"quoted\"", .dtype = TENSOR_F32, .rank = 2, .shape = { 2, 3 }, .data = FLOATS, .bytes = 24 },
		{ .name = "b", .dtype = TENSOR_I64, .rank = 1, .shape = { 2 }, .data = INTS, .bytes = 16 },
	};
	struct tensor_metadata metadata = { "format", "pt" };

	assert_int_equal(tensorfile_write(path, tensors, 2, &metadata, 1, &err), 0);
}

/* Writes a file of a header and data_bytes zero bytes, and expects it to be refused. */
static void refuse(const char *header, size_t data_bytes, const char *in_message)
{
	struct err err = { 0 };
	struct tensorfile *file;
	size_t length = strlen(header), total = 8 + length + data_bytes;
	unsigned char *bytes = calloc(1, total);

	for (int i = 0; i < 8; i++)
		bytes[i] = (unsigned char)((uint64_t)length >> (8 * i));
	memcpy(bytes + 8, header, length);
	assert_int_equal(fs_write_atomic(path, bytes, total, &err), 0);
	free(bytes);
	int code = tensorfile_open(&file, path, &err);
	assert_true(code < 0);
	assert_null(file);
	if (strstr(err.message, in_message) == NULL)
		fail_msg("\"%s\" is not in the message: %s", in_message, err.message);
}

static void test_round_trip(void **state)
{
	struct err err;
	struct tensorfile *file;
	float floats[6];
	int64_t ints[2];

	(void)state;
	write_sample();
	assert_int_equal(tensorfile_open(&file, path, &err), 0);
	assert_int_equal(tensorfile_count(file), 2);
	const struct tensor_view *a = tensorfile_find(file, "a.\"quoted\"");
	assert_non_null(a);
	assert_int_equal((uintptr_t)a->data % 64, 0);
	assert_int_equal(a->shape[1], 3);
	assert_int_equal(tensor_to_f32(a, floats, &err), 0);
	assert_memory_equal(floats, FLOATS, sizeof(FLOATS));
	assert_int_equal(tensor_to_i64(tensorfile_find(file, "b"), ints, &err), 0);
	assert_memory_equal(ints, INTS, sizeof(INTS));
	assert_int_equal(tensor_to_i64(a, ints, &err), ERR_MISMATCH);
	assert_null(tensorfile_find(file, "c"));
	assert_string_equal(tensorfile_metadata(file, "format"), "pt");
	tensorfile_close(file);
}

static void test_every_truncation_is_refused(void **state)
{
	struct err err;
	struct buf whole = BUF_INIT;
	struct tensorfile *file;

	(void)state;
	write_sample();
	assert_int_equal(fs_read(path, 1 << 20, &whole, &err), 0);
	for (size_t size = 0; size < whole.size; size++) {
		assert_int_equal(fs_write_atomic(path, whole.data, size, &err), 0);
		if (tensorfile_open(&file, path, &err) != ERR_FORMAT)
			fail_msg("cut to %zu of %zu bytes, it was accepted", size, whole.size);
	}
	buf_free(&whole);
}

static void test_bad_headers(void **state)
{
	(void)state;
	refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "needs 8 bytes");
	refuse("{\"a\":{\"dtype\":\"U32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "needs 8 bytes");
	refuse("{\"a\":{\"dtype\":\"F99\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "F99");
	refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "hole");
	refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
	       "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}", 8, "inside another");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
	       "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, "twice");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", 1, "negative");
	refuse("{\"a\":{\"dtype\":\"F64\",\"shape\":[4294967296,4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, "overflow");
	/* No bytes, but on the way there more elements than 63 bits count. */
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[4611686018427387904,3,0],\"data_offsets\":[0,0]}}", 0, "overflow");
	refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 2, "belong to none");
	refuse("{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "lacks");
	refuse("{\"a\":1}", 0, "x.safetensors");
	refuse("[]", 0, "not a safetensors");
}

static void test_halves(void **state)
{
	struct err err;
	float out[5];
	const uint16_t f16[5] = { 0x3C00, 0xC000, 0x0001, 0x7BFF, 0xFC00 };
	struct tensor_view view = { .name = "h", .dtype = TENSOR_F16, .rank = 1, .shape = { 5 }, .data = f16, .bytes = 10 };

	(void)state;
	assert_int_equal(tensor_to_f32(&view, out, &err), 0);
	assert_true(out[0] == 1.0f && out[1] == -2.0f && out[2] == 0x1p-24f && out[3] == 65504.0f && out[4] < -1e38f);
	const uint16_t bf16[5] = { 0x3F80, 0xC000, 0x0000, 0x4049, 0x8000 };
	view.dtype = TENSOR_BF16;
	view.data = bf16;
	assert_int_equal(tensor_to_f32(&view, out, &err), 0);
	assert_true(out[0] == 1.0f && out[1] == -2.0f && out[2] == 0.0f && out[3] == 3.140625f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_every_truncation_is_refused),
		cmocka_unit_test(test_bad_headers),
		cmocka_unit_test(test_halves),
	};

	return cmocka_run_group_tests_name("tensorfile", tests, setup, teardown);
}
