#include "shared/io/tensorfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/base/fs.h"
#include "shared/base/json.h"
#include "shared/base/mem.h"

enum {
	HEADER_BYTES_MAX = 100000000, /* as the reference implementation */
	LENGTH_BYTES = 8,
	DATA_ALIGN_BYTES = 64,
	TENSORS_FIRST = 64,
};

/* The offsets inside the data area, kept until they are checked against the file. */
struct entry {
	struct tensor_view view;
	uint64_t begin, end;
	char *name;
};

struct tensorfile {
	char *path;
	void *map;
	size_t map_bytes;
	struct entry *entries; /* by offset once opened */
	int count, capacity;
	int *by_name;          /* indices into entries, sorted by name */
	char **metadata;       /* key, value, key, value ... */
	int metadata_count;    /* pairs */
};

static const struct {
	const char *name;
	size_t bytes;
} DTYPES[TENSOR_DTYPE_COUNT] = {
	[TENSOR_F32] = { "F32", 4 }, [TENSOR_F64] = { "F64", 8 }, [TENSOR_F16] = { "F16", 2 },
	[TENSOR_BF16] = { "BF16", 2 }, [TENSOR_I64] = { "I64", 8 }, [TENSOR_I32] = { "I32", 4 },
	[TENSOR_I16] = { "I16", 2 }, [TENSOR_I8] = { "I8", 1 }, [TENSOR_U8] = { "U8", 1 }, [TENSOR_BOOL] = { "BOOL", 1 },
	[TENSOR_U16] = { "U16", 2 }, [TENSOR_U32] = { "U32", 4 }, [TENSOR_U64] = { "U64", 8 },
	[TENSOR_F8_E4M3] = { "F8_E4M3", 1 }, [TENSOR_F8_E5M2] = { "F8_E5M2", 1 }, [TENSOR_C64] = { "C64", 8 },
};

size_t tensor_dtype_bytes(enum tensor_dtype dtype)
{
	CHECK(dtype < TENSOR_DTYPE_COUNT);
	return DTYPES[dtype].bytes;
}

const char *tensor_dtype_name(enum tensor_dtype dtype)
{
	CHECK(dtype < TENSOR_DTYPE_COUNT);
	return DTYPES[dtype].name;
}

char *tensor_shape_text(int rank, const int64_t *shape, char *out, size_t out_bytes)
{
	size_t used = 0;

	out[0] = '\0';
	for (int i = 0; i < rank && used + 1 < out_bytes; i++)
		used += (size_t)snprintf(out + used, out_bytes - used, "%s%lld", i == 0 ? "(" : ", ", (long long)shape[i]);
	if (used + 1 < out_bytes)
		snprintf(out + used, out_bytes - used, "%s", rank == 0 ? "()" : ")");
	return out;
}

int64_t tensor_view_elements(const struct tensor_view *view)
{
	int64_t n = 1;

	for (int i = 0; i < view->rank; i++)
		n *= view->shape[i];
	return n;
}

/* --- reading the header ------------------------------------------------- */

static int read_metadata(struct tensorfile *file, struct json_reader *json, struct err *err)
{
	int code = json_expect(json, JSON_OBJECT_BEGIN, err);

	while (code == 0 && (code = json_next(json, err)) == 0 && json->kind == JSON_KEY) {
		char **grown = mem_realloc_array(file->metadata, (size_t)(file->metadata_count + 1) * 2, sizeof(char *));
		if (grown == NULL)
			return err_nomem(err, sizeof(char *));
		file->metadata = grown;
		char *key = mem_strndup(json->text.data, json->text.size);
		if (key == NULL)
			return err_nomem(err, json->text.size);
		if ((code = json_expect(json, JSON_STRING, err)) != 0) {
			mem_free(key);
			return code;
		}
		char *value = mem_strndup(json->text.data, json->text.size);
		if (value == NULL) {
			mem_free(key);
			return err_nomem(err, json->text.size);
		}
		grown[2 * file->metadata_count] = key;
		grown[2 * file->metadata_count + 1] = value;
		file->metadata_count++;
	}
	return code;
}

static int read_dtype(struct json_reader *json, struct entry *entry, struct err *err)
{
	int code = json_expect(json, JSON_STRING, err);

	if (code != 0)
		return code;
	for (int i = 0; i < TENSOR_DTYPE_COUNT; i++)
		if (strcmp(json->text.data, DTYPES[i].name) == 0) {
			entry->view.dtype = (enum tensor_dtype)i;
			return 0;
		}
	return err_set(err, ERR_UNSUPPORTED, "%s: tensor %s has dtype %.20s, which is not read; save it as F32 or I64, or "
		       "leave it out", json->name, entry->name,
		       json->text.data);
}

static int read_numbers(struct json_reader *json, int64_t *out, int max, int *count, struct err *err)
{
	int code = json_expect(json, JSON_ARRAY_BEGIN, err);

	*count = 0;
	while (code == 0 && (code = json_next(json, err)) == 0 && json->kind == JSON_NUMBER) {
		if (*count == max)
			return json_fail(json, err, "more than %d numbers in a list", max);
		if ((code = json_int(json, &out[*count], err)) != 0)
			return code;
		if (out[(*count)++] < 0)
			return json_fail(json, err, "a negative size or offset");
	}
	if (code == 0 && json->kind != JSON_ARRAY_END)
		return json_fail(json, err, "expected a list of numbers");
	return code;
}

static int read_entry(struct json_reader *json, struct entry *entry, struct err *err)
{
	bool dtype = false, shape = false, offsets = false;
	int64_t range[2];
	int count, code = json_expect(json, JSON_OBJECT_BEGIN, err);

	while (code == 0 && (code = json_next(json, err)) == 0 && json->kind == JSON_KEY) {
		if (strcmp(json->text.data, "dtype") == 0) {
			dtype = true;
			code = read_dtype(json, entry, err);
		} else if (strcmp(json->text.data, "shape") == 0) {
			shape = true;
			code = read_numbers(json, entry->view.shape, TENSOR_RANK_MAX, &entry->view.rank, err);
		} else if (strcmp(json->text.data, "data_offsets") == 0) {
			code = read_numbers(json, range, 2, &count, err);
			offsets = code == 0 && count == 2;
		} else {
			code = json_skip(json, err);
		}
	}
	if (code != 0)
		return code;
	if (!dtype || !shape || !offsets)
		return json_fail(json, err, "tensor %s lacks dtype, shape or data_offsets", entry->name);
	entry->begin = (uint64_t)range[0];
	entry->end = (uint64_t)range[1];
	return 0;
}

static int add_entry(struct tensorfile *file, struct json_reader *json, struct err *err)
{
	if (file->count == file->capacity) {
		int capacity = file->capacity == 0 ? TENSORS_FIRST : 2 * file->capacity;
		struct entry *grown = mem_realloc_array(file->entries, (size_t)capacity, sizeof(*grown));

		if (grown == NULL)
			return err_nomem(err, (size_t)capacity * sizeof(*grown));
		file->entries = grown;
		file->capacity = capacity;
	}
	struct entry *entry = &file->entries[file->count];
	*entry = (struct entry){ 0 };
	entry->name = mem_strndup(json->text.data, json->text.size);
	if (entry->name == NULL)
		return err_nomem(err, json->text.size);
	entry->view.name = entry->name;
	file->count++;
	return read_entry(json, entry, err);
}

static int read_header(struct tensorfile *file, struct json_reader *json, struct err *err)
{
	int code = json_expect(json, JSON_OBJECT_BEGIN, err);

	while (code == 0 && (code = json_next(json, err)) == 0 && json->kind == JSON_KEY) {
		if (strcmp(json->text.data, "__metadata__") == 0)
			code = read_metadata(file, json, err);
		else
			code = add_entry(file, json, err);
	}
	return code == 0 ? json_expect(json, JSON_END, err) : code;
}

/* --- checking ranges ---------------------------------------------------- */

static int by_offset(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;

	if (x->begin != y->begin)
		return x->begin < y->begin ? -1 : 1;
	return x->end < y->end ? -1 : x->end > y->end;
}

static int by_name(const void *a, const void *b, void *entries)
{
	const struct entry *all = entries;

	return strcmp(all[*(const int *)a].name, all[*(const int *)b].name);
}

static int check_size(const struct tensorfile *file, const struct entry *entry, struct err *err)
{
	size_t bytes = tensor_dtype_bytes(entry->view.dtype);
	char shape[128];

	for (int i = 0; i < entry->view.rank; i++)
		if (!size_mul(bytes, (size_t)entry->view.shape[i], &bytes) || bytes > INT64_MAX)
			return err_set(err, ERR_FORMAT, "%s: the shape of %s overflows", file->path, entry->name);
	if (entry->end < entry->begin || entry->end - entry->begin != bytes)
		return err_set(err, ERR_FORMAT, "%s: tensor %s %s of %s needs %zu bytes, but its range is [%llu, %llu)", file->path,
			       entry->name, tensor_shape_text(entry->view.rank, entry->view.shape, shape, sizeof(shape)),
			       tensor_dtype_name(entry->view.dtype), bytes, (unsigned long long)entry->begin,
			       (unsigned long long)entry->end);
	return 0;
}

/* Ranges must tile the data area: no overlap, no hole, nothing beyond the end. */
static int check_ranges(struct tensorfile *file, const char *data, uint64_t data_bytes, struct err *err)
{
	uint64_t at = 0;

	if (file->count > 1)
		qsort(file->entries, (size_t)file->count, sizeof(*file->entries), by_offset);
	for (int i = 0; i < file->count; i++) {
		struct entry *entry = &file->entries[i];
		int code = check_size(file, entry, err);

		if (code != 0)
			return code;
		if (entry->begin != at)
			return err_set(err, ERR_FORMAT, "%s: tensor %s begins at %llu, %s", file->path, entry->name,
				       (unsigned long long)entry->begin, entry->begin < at ? "inside another one" : "behind a hole");
		at = entry->end;
		entry->view.data = data + entry->begin;
		entry->view.bytes = (size_t)(entry->end - entry->begin);
	}
	if (at > data_bytes)
		return err_set(err, ERR_FORMAT, "%s: truncated: %llu bytes are missing at its end; copy or download it again",
			       file->path, (unsigned long long)(at - data_bytes));
	if (at < data_bytes)
		return err_set(err, ERR_FORMAT, "%s: %llu bytes behind the last tensor belong to none", file->path,
			       (unsigned long long)(data_bytes - at));
	return 0;
}

static int index_names(struct tensorfile *file, struct err *err)
{
	file->by_name = mem_array((size_t)file->count, sizeof(int));
	if (file->by_name == NULL)
		return err_nomem(err, (size_t)file->count * sizeof(int));
	for (int i = 0; i < file->count; i++)
		file->by_name[i] = i;
	qsort_r(file->by_name, (size_t)file->count, sizeof(int), by_name, file->entries);
	for (int i = 1; i < file->count; i++)
		if (strcmp(file->entries[file->by_name[i - 1]].name, file->entries[file->by_name[i]].name) == 0)
			return err_set(err, ERR_FORMAT, "%s: tensor %s is listed twice", file->path,
				       file->entries[file->by_name[i]].name);
	return 0;
}

/* --- opening ------------------------------------------------------------ */

static int map_file(struct tensorfile *file, struct err *err)
{
	struct stat info;
	int code = 0;
	int fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return err_errno(err, errno, "%s", file->path);
	if (fstat(fd, &info) != 0) {
		code = err_errno(err, errno, "%s", file->path);
	} else if (!S_ISREG(info.st_mode)) {
		code = err_set(err, ERR_FORMAT, "%s: not a regular file", file->path);
	} else if (info.st_size < LENGTH_BYTES) {
		code = err_set(err, ERR_FORMAT, "%s: %lld bytes are too few for a safetensors file", file->path,
			       (long long)info.st_size);
	} else {
		file->map_bytes = (size_t)info.st_size;
		file->map = mmap(NULL, file->map_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
		if (file->map == MAP_FAILED) {
			file->map = NULL;
			code = err_errno(err, errno, "%s: cannot map it", file->path);
		}
	}
	close(fd);
	return code;
}

static int parse(struct tensorfile *file, struct err *err)
{
	const unsigned char *bytes = file->map;
	uint64_t length = 0;
	struct json_reader json;

	for (int i = 0; i < LENGTH_BYTES; i++)
		length |= (uint64_t)bytes[i] << (8 * i);
	if (length > HEADER_BYTES_MAX || length < 2 || bytes[LENGTH_BYTES] != '{')
		return err_set(err, ERR_FORMAT, "%s: not a safetensors file", file->path);
	if (length > file->map_bytes - LENGTH_BYTES)
		return err_set(err, ERR_FORMAT, "%s: truncated inside its header; copy or download it again", file->path);
	json_reader_init(&json, file->path, bytes + LENGTH_BYTES, (size_t)length);
	int code = read_header(file, &json, err);
	json_reader_free(&json);
	if (code != 0)
		return code;
	code = check_ranges(file, (const char *)bytes + LENGTH_BYTES + length, file->map_bytes - LENGTH_BYTES - length, err);
	return code == 0 ? index_names(file, err) : code;
}

int tensorfile_open(struct tensorfile **out, const char *path, struct err *err)
{
	struct tensorfile *file = mem_zalloc(sizeof(*file));
	int code;

	*out = NULL;
	if (file == NULL)
		return err_nomem(err, sizeof(*file));
	file->path = mem_strdup(path);
	if (file->path == NULL)
		code = err_nomem(err, strlen(path));
	else if ((code = map_file(file, err)) == 0)
		code = parse(file, err);
	if (code != 0) {
		tensorfile_close(file);
		return code;
	}
	*out = file;
	return 0;
}

void tensorfile_close(struct tensorfile *file)
{
	if (file == NULL)
		return;
	for (int i = 0; i < file->count; i++)
		mem_free(file->entries[i].name);
	for (int i = 0; i < 2 * file->metadata_count; i++)
		mem_free(file->metadata[i]);
	mem_free(file->metadata);
	mem_free(file->entries);
	mem_free(file->by_name);
	mem_free(file->path);
	if (file->map != NULL)
		munmap(file->map, file->map_bytes);
	mem_free(file);
}

int tensorfile_count(const struct tensorfile *file)
{
	return file->count;
}

const struct tensor_view *tensorfile_at(const struct tensorfile *file, int index)
{
	CHECK(index >= 0 && index < file->count);
	return &file->entries[index].view;
}

const struct tensor_view *tensorfile_find(const struct tensorfile *file, const char *name)
{
	int low = 0, high = file->count;

	while (low < high) {
		int middle = low + (high - low) / 2;
		const struct entry *entry = &file->entries[file->by_name[middle]];
		int order = strcmp(name, entry->name);

		if (order == 0)
			return &entry->view;
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return NULL;
}

const char *tensorfile_metadata(const struct tensorfile *file, const char *key)
{
	for (int i = 0; i < file->metadata_count; i++)
		if (strcmp(file->metadata[2 * i], key) == 0)
			return file->metadata[2 * i + 1];
	return NULL;
}

const char *tensorfile_path(const struct tensorfile *file)
{
	return file->path;
}

/* --- values ------------------------------------------------------------- */

/* Exact: every half has a float32. */
static float half_to_float(uint16_t half)
{
	uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = (half >> 10) & 31u, fraction = half & 1023u;
	uint32_t bits;
	float value;

	if (exponent == 0) {
		value = (float)fraction * (1.0f / 16777216.0f);
		memcpy(&bits, &value, 4);
		bits |= sign;
	} else if (exponent == 31) {
		bits = sign | 0x7F800000u | fraction << 13;
	} else {
		bits = sign | (exponent + 112) << 23 | fraction << 13;
	}
	memcpy(&value, &bits, 4);
	return value;
}

/* Of the kinds behind BOOL. */
static int unread(const struct tensor_view *view, struct err *err)
{
	return err_set(err, ERR_MISMATCH, "tensor %s is %s, which is not read; save it as F32 or I64", view->name, tensor_dtype_name(view->dtype));
}

int tensor_to_f32(const struct tensor_view *view, float *out, struct err *err)
{
	int64_t n = tensor_view_elements(view);
	const char *from = view->data;

	switch (view->dtype) {
	case TENSOR_F32:
		memcpy(out, from, (size_t)n * 4);
		return 0;
	case TENSOR_F64:
		for (int64_t i = 0; i < n; i++) {
			double value;

			memcpy(&value, from + 8 * i, 8);
			out[i] = (float)value;
		}
		return 0;
	case TENSOR_F16:
	case TENSOR_BF16:
		for (int64_t i = 0; i < n; i++) {
			uint16_t half;

			memcpy(&half, from + 2 * i, 2);
			if (view->dtype == TENSOR_F16) {
				out[i] = half_to_float(half);
			} else {
				uint32_t bits = (uint32_t)half << 16;

				memcpy(&out[i], &bits, 4);
			}
		}
		return 0;
	default:
		if (view->dtype > TENSOR_BOOL)
			return unread(view, err);
		return err_set(err, ERR_MISMATCH, "tensor %s is %s; a floating-point one is needed", view->name,
			       tensor_dtype_name(view->dtype));
	}
}

int tensor_to_i64(const struct tensor_view *view, int64_t *out, struct err *err)
{
	int64_t n = tensor_view_elements(view);
	const unsigned char *from = view->data;
	size_t bytes = tensor_dtype_bytes(view->dtype);
	bool is_signed = view->dtype != TENSOR_U8 && view->dtype != TENSOR_BOOL;

	if (view->dtype == TENSOR_F32 || view->dtype == TENSOR_F64 || view->dtype == TENSOR_F16 || view->dtype == TENSOR_BF16)
		return err_set(err, ERR_MISMATCH, "tensor %s is %s; an integer one is needed", view->name,
			       tensor_dtype_name(view->dtype));
	if (view->dtype > TENSOR_BOOL)
		return unread(view, err);
	for (int64_t i = 0; i < n; i++) {
		uint64_t bits = 0;

		memcpy(&bits, from + (size_t)i * bytes, bytes);
		if (is_signed && bytes < 8 && (bits >> (8 * bytes - 1)) != 0)
			bits |= ~(uint64_t)0 << (8 * bytes);
		out[i] = (int64_t)bits;
	}
	return 0;
}

/* --- writing ------------------------------------------------------------ */

static int add_metadata(struct buf *header, const struct tensor_metadata *metadata, int count, struct err *err)
{
	int code = count == 0 ? 0 : buf_add_text(header, "\"__metadata__\":{", err);

	for (int i = 0; code == 0 && i < count; i++) {
		if (i > 0)
			code = buf_add_byte(header, ',', err);
		if (code == 0)
			code = json_add_string(header, metadata[i].key, strlen(metadata[i].key), err);
		if (code == 0)
			code = buf_add_byte(header, ':', err);
		if (code == 0)
			code = json_add_string(header, metadata[i].value, strlen(metadata[i].value), err);
	}
	return code == 0 && count > 0 ? buf_add_byte(header, '}', err) : code;
}

static int add_tensor(struct buf *header, const struct tensor_view *view, size_t at, struct err *err)
{
	size_t bytes = (size_t)tensor_view_elements(view) * tensor_dtype_bytes(view->dtype);
	int code = json_add_string(header, view->name, strlen(view->name), err);

	CHECK(bytes == view->bytes);
	if (code == 0)
		code = buf_printf(header, err, ":{\"dtype\":\"%s\",\"shape\":[", tensor_dtype_name(view->dtype));
	for (int i = 0; code == 0 && i < view->rank; i++)
		code = buf_printf(header, err, "%s%lld", i == 0 ? "" : ",", (long long)view->shape[i]);
	return code != 0 ? code : buf_printf(header, err, "],\"data_offsets\":[%zu,%zu]}", at, at + bytes);
}

/* The header with its length in front, padded with spaces so that data starts aligned. */
static int build_header(struct buf *out, const struct tensor_view *tensors, int count,
			const struct tensor_metadata *metadata, int metadata_count, struct err *err)
{
	static const char blank[LENGTH_BYTES];
	size_t at = 0;
	int code = buf_add(out, blank, LENGTH_BYTES, err);

	if (code == 0)
		code = buf_add_byte(out, '{', err);
	if (code == 0)
		code = add_metadata(out, metadata, metadata_count, err);
	for (int i = 0; code == 0 && i < count; i++) {
		if (i > 0 || metadata_count > 0)
			code = buf_add_byte(out, ',', err);
		if (code == 0)
			code = add_tensor(out, &tensors[i], at, err);
		at += tensors[i].bytes;
	}
	if (code == 0)
		code = buf_add_byte(out, '}', err);
	while (code == 0 && out->size % DATA_ALIGN_BYTES != 0)
		code = buf_add_byte(out, ' ', err);
	if (code != 0)
		return code;
	uint64_t length = out->size - LENGTH_BYTES;
	if (length > HEADER_BYTES_MAX)
		return err_set(err, ERR_LIMIT, "a safetensors header of %llu bytes is beyond the limit of %d",
			       (unsigned long long)length, HEADER_BYTES_MAX);
	for (int i = 0; i < LENGTH_BYTES; i++)
		out->data[i] = (char)(length >> (8 * i));
	return 0;
}

int tensorfile_write(const char *path, const struct tensor_view *tensors, int count,
		     const struct tensor_metadata *metadata, int metadata_count, struct err *err)
{
	struct buf header = BUF_INIT;
	struct fs_writer *writer = NULL;
	int code = build_header(&header, tensors, count, metadata, metadata_count, err);

	if (code != 0)
		goto out;
	if ((code = fs_writer_open(&writer, path, err)) != 0)
		goto out;
	code = fs_writer_add(writer, header.data, header.size, err);
	for (int i = 0; code == 0 && i < count; i++)
		code = fs_writer_add(writer, tensors[i].data, tensors[i].bytes, err);
	if (code != 0)
		fs_writer_abort(writer);
	else
		code = fs_writer_commit(writer, err);
out:
	buf_free(&header);
	return code;
}
