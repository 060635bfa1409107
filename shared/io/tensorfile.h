/*
 * tensorfile.h - safetensors files.
 *
 * Format: 8-byte little-endian header length, JSON header, tensor bytes
 * (https://github.com/huggingface/safetensors, "Format"). Reading maps the file and
 * checks everything before anything is used: header length, JSON, names,
 * dtypes, that shapes match byte counts, that ranges lie inside the file and
 * neither overlap nor leave holes. A truncated file is an ERR_FORMAT that says
 * how many bytes are missing.
 *
 * Threads: a reader may be shared by threads that only read.
 * Limits:  header 100 MB (the reference implementation's), rank <= 8.
 */
#ifndef SHARED_IO_TENSORFILE_H
#define SHARED_IO_TENSORFILE_H

#include <stdint.h>

#include "shared/base/err.h"

enum tensor_dtype {
	TENSOR_F32, TENSOR_F64, TENSOR_F16, TENSOR_BF16, TENSOR_I64, TENSOR_I32, TENSOR_I16, TENSOR_I8, TENSOR_U8, TENSOR_BOOL,
	/* A file may have them where nobody wants their values, which are not read. */
	TENSOR_U16, TENSOR_U32, TENSOR_U64, TENSOR_F8_E4M3, TENSOR_F8_E5M2, TENSOR_C64,
	TENSOR_DTYPE_COUNT
};
enum { TENSOR_RANK_MAX = 8 };

struct tensor_view {
	const char *name;
	enum tensor_dtype dtype;
	int rank;
	int64_t shape[TENSOR_RANK_MAX];
	const void *data; /* little-endian; aligned to 1 byte only when read from foreign files */
	size_t bytes;
};

size_t tensor_dtype_bytes(enum tensor_dtype dtype);
const char *tensor_dtype_name(enum tensor_dtype dtype); /* "F32" */
/* "(2, 3, 224, 224)" into out. Returns out. */
char *tensor_shape_text(int rank, const int64_t *shape, char *out, size_t out_bytes);
int64_t tensor_view_elements(const struct tensor_view *view);

struct tensorfile; /* an open file; views and strings live as long as it */
MUST_USE int tensorfile_open(struct tensorfile **out, const char *path, struct err *err);
void tensorfile_close(struct tensorfile *file); /* NULL is fine */
int tensorfile_count(const struct tensorfile *file);
const struct tensor_view *tensorfile_at(const struct tensorfile *file, int index); /* in order of offset */
const struct tensor_view *tensorfile_find(const struct tensorfile *file, const char *name); /* NULL: absent */
/* A value of the header's __metadata__ object, or NULL. */
const char *tensorfile_metadata(const struct tensorfile *file, const char *key);
const char *tensorfile_path(const struct tensorfile *file);

/* Copies a tensor as float32 (from F32, F64, F16, BF16) or as int64 (from any
 * integer kind or BOOL) into memory of tensor_view_elements() elements.
 * ERR_MISMATCH names the tensor and its dtype otherwise. */
MUST_USE int tensor_to_f32(const struct tensor_view *view, float *out, struct err *err);
MUST_USE int tensor_to_i64(const struct tensor_view *view, int64_t *out, struct err *err);

struct tensor_metadata {
	const char *key, *value;
};
/* Writes atomically (fs.h), tensors in the order given, data 64-byte aligned in the file. */
MUST_USE int tensorfile_write(const char *path, const struct tensor_view *tensors, int count,
			      const struct tensor_metadata *metadata, int metadata_count, struct err *err);

#endif
