/*
 * state_tensor.h - one tensor of a state dict as it lies in a file: perhaps strided.
 *
 * torch.save() writes a tensor as a view of a storage (offset, shape,
 * strides), so a transposed weight is not contiguous. Nothing is copied when a
 * file is opened; values are gathered piece by piece when they are read, so a
 * hostile shape with strides of 0 costs no memory.
 *
 * Rounding: F32 as it is; F16 and BF16 are exact in float32; F64 to the
 * nearest float32, ties to even.
 *
 * Threads:   pure functions of the file's bytes.
 * Ownership: name, data and path belong to the open file.
 */
#ifndef TRAINER_IO_STATE_TENSOR_H
#define TRAINER_IO_STATE_TENSOR_H

#include <stdbool.h>

#include "shared/io/tensorfile.h"

struct state_tensor {
	struct tensor_view view;           /* data: its first element; bytes: of its elements, not of the span they lie in */
	bool strided;                      /* not contiguous: strides hold */
	int64_t strides[TENSOR_RANK_MAX];  /* in elements, not negative; every element lies within the file */
	const char *path;                  /* of the file, for messages */
};

/* Elements first .. first+count-1 in row-major order, as tensor_to_f32() and
 * tensor_to_i64() give them. The range must lie within the tensor. */
MUST_USE int state_tensor_to_f32(const struct state_tensor *tensor, int64_t first, int64_t count, float *out, struct err *err);
MUST_USE int state_tensor_to_i64(const struct state_tensor *tensor, int64_t first, int64_t count, int64_t *out, struct err *err);

#endif
