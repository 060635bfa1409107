/* fuzz_tensor.h - every value of a tensor can be read, whatever file it is from. */
#ifndef TESTS_FUZZ_FUZZ_TENSOR_H
#define TESTS_FUZZ_FUZZ_TENSOR_H

#include <stdint.h>

#include "shared/base/check.h"
#include "trainer/io/state_tensor.h"

static void fuzz_read_tensor(const struct state_tensor *tensor)
{
	enum { READ_MAX = 4096 };
	static float reals[READ_MAX];
	static int64_t integers[READ_MAX];
	int64_t elements = tensor_view_elements(&tensor->view), count = elements < READ_MAX ? elements : READ_MAX;
	struct err err;

	CHECK(elements >= 0 && tensor->view.bytes == (size_t)elements * tensor_dtype_bytes(tensor->view.dtype));
	(void)!state_tensor_to_f32(tensor, 0, count, reals, &err);
	(void)!state_tensor_to_i64(tensor, elements - count, count, integers, &err);
}

#endif
