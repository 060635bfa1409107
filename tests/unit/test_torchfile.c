/* State dicts that torch.save() wrote (the fuzz target's seeds): both formats, both ways of pickling, every dtype. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "trainer/io/statefile.h"
#include "trainer/io/torchfile.h"

static const char *const forms[] = { "zip-2", "zip-4", "legacy-2", "legacy-4" };

static struct statefile *open_seed(const char *name, const char *form)
{
	struct statefile *file;
	struct err err = { 0 };
	char path[128];

	snprintf(path, sizeof(path), "tests/fuzz/corpus/torchfile/%s-%s", name, form);
	if (statefile_open(&file, path, &err) != 0)
		fail_msg("%s", err.message);
	assert_null(statefile_safetensors(file));
	return file;
}

static void expect(const struct statefile *file, const char *name, enum tensor_dtype dtype, const char *shape, const float *values)
{
	const struct state_tensor *tensor = statefile_find(file, name);
	float got[64];
	char text[64];
	int64_t count;

	assert_non_null(tensor);
	count = tensor_view_elements(&tensor->view);
	assert_true(tensor->view.dtype == dtype && count <= 64);
	assert_string_equal(tensor_shape_text(tensor->view.rank, tensor->view.shape, text, sizeof(text)), shape);
	assert_int_equal(state_tensor_to_f32(tensor, 0, count, got, NULL), 0);
	assert_memory_equal(got, values, (size_t)count * sizeof(float));
	/* any part of it is the same */
	for (int64_t first = 0; first < count; first++) {
		assert_int_equal(state_tensor_to_f32(tensor, first, count - first, got, NULL), 0);
		assert_memory_equal(got, values + first, (size_t)(count - first) * sizeof(float));
	}
}

static void test_values(void **state)
{
	static const float a[] = { 0, 1, 2, 3, 4, 5 }, t[] = { 0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11 }, ones[] = { 1, 1, 1 };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
		struct statefile *file = open_seed("plain", forms[i]);
		int64_t three = 0;

		assert_int_equal(statefile_count(file), 7);
		expect(file, "a", TENSOR_F32, "(2, 3)", a);
		expect(file, "t", TENSOR_F32, "(4, 3)", t);
		expect(file, "h", TENSOR_F16, "(2)", ones);
		expect(file, "p", TENSOR_F32, "(2)", ones);
		expect(file, "e", TENSOR_F32, "(0, 2)", ones);
		expect(file, "x", TENSOR_F32, "(3)", ones);
		assert_true(statefile_find(file, "t")->strided && !statefile_find(file, "a")->strided);
		assert_int_equal(state_tensor_to_i64(statefile_find(file, "n"), 0, 1, &three, NULL), 0);
		assert_int_equal(three, 3);
		assert_int_equal(state_tensor_to_i64(statefile_find(file, "a"), 0, 1, &three, NULL), ERR_MISMATCH);
		statefile_close(file);
	}
}

static void test_wrapper_and_prefix(void **state)
{
	static const float ones[] = { 1, 1 };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
		struct statefile *file = open_seed("wrapped", forms[i]);

		assert_int_equal(statefile_count(file), 1);
		expect(file, "w", TENSOR_F32, "(2)", ones);
		statefile_close(file);
	}
}

static void test_kinds(void **state)
{
	static const struct {
		const char *name;
		enum tensor_dtype dtype;
	} integers[] = { { "int32", TENSOR_I32 }, { "int16", TENSOR_I16 }, { "int8", TENSOR_I8 }, { "uint8", TENSOR_U8 }, { "bool", TENSOR_BOOL } };
	static const float one = 1;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
		struct statefile *file = open_seed("kinds", forms[i]);

		expect(file, "float64", TENSOR_F64, "(1)", &one);
		expect(file, "bfloat16", TENSOR_BF16, "(1)", &one);
		for (size_t k = 0; k < ARRAY_LEN(integers); k++) {
			const struct state_tensor *tensor = statefile_find(file, integers[k].name);
			int64_t value = 0;

			assert_true(tensor->view.dtype == integers[k].dtype);
			assert_int_equal(state_tensor_to_i64(tensor, 0, 1, &value, NULL), 0);
			assert_int_equal(value, 1);
		}
		statefile_close(file);
	}
}

/* A program alone is no file of torch.save(). */
static void test_other_pickles(void **state)
{
	(void)state;
	for (int protocol = 0; protocol <= 5; protocol++) {
		struct statefile *file;
		struct err err;
		char path[128];

		snprintf(path, sizeof(path), "tests/fuzz/corpus/torchfile/program-%d", protocol);
		assert_int_equal(statefile_open(&file, path, &err) == 0, 0);
		assert_null(file);
		assert_non_null(strstr(err.message, path));
	}
}

/* The stride of a dimension of 1 is never taken, and may be any number. */
static void test_stride_of_one(void **state)
{
	static const char head[] =
		"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
		"\x80\x02M\xe9\x03."
		"\x80\x02}X\x0d\0\0\0little_endian\x88s."
		"\x80\x02}X\x01\0\0\0w" "ctorch._utils\n_rebuild_tensor_v2\n"
		"((X\x07\0\0\0storage" "ctorch\nFloatStorage\n" "X\x01\0\0\0" "0X\x03\0\0\0cpuK\x04NtQ"
		"K\0K\x02K\x02K\x01\x87" "K\x01K\x02\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x87\x89tRs."
		"\x80\x02]X\x01\0\0\0" "0a."
		"\x04\0\0\0\0\0\0";
	const float values[4] = { 1, 2, 3, 4 }, turned[4] = { 1, 3, 2, 4 };
	char file_bytes[sizeof(head) + sizeof(values)];
	struct torchfile *file;
	struct err err;
	float got[4];

	(void)state;
	memcpy(file_bytes, head, sizeof(head)); /* its last zero is the eighth byte of the storage's count */
	memcpy(file_bytes + sizeof(head), values, sizeof(values));
	if (torchfile_parse(&file, "strides.pt", file_bytes, sizeof(file_bytes), &err) != 0)
		fail_msg("%s", err.message);
	assert_int_equal(torchfile_count(file), 1);
	assert_int_equal(state_tensor_to_f32(torchfile_at(file, 0), 0, 4, got, &err), 0);
	assert_memory_equal(got, turned, sizeof(got));
	torchfile_close(file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values), cmocka_unit_test(test_wrapper_and_prefix), cmocka_unit_test(test_kinds),
		cmocka_unit_test(test_other_pickles), cmocka_unit_test(test_stride_of_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
