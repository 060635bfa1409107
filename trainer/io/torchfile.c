#include "trainer/io/torchfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/base/mem.h"
#include "trainer/io/pickle.h"
#include "trainer/io/zipfile.h"

enum {
	NAME_BYTES_MAX = 4096,
	WRAPPERS_MAX = 4,         /* dicts around the state dict */
	SHOWN_MAX = 4,            /* names in a message */
	LOOKS_MAX = 1 << 26,      /* members of dicts, in search of the state dict */
	LEGACY_PROTOCOL = 1001,
	LEGACY_COUNT_BYTES = 8,   /* before each storage of the legacy format */
	MAGIC_BYTES = 10,
};

/* The number 0x1950a86a20f9469cfc6c as the legacy format pickles it. */
static const char magic_number[MAGIC_BYTES] = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

/* The bytes of one storage. */
struct blob {
	const char *key; /* not terminated */
	uint32_t key_bytes;
	const uint8_t *data;
	uint64_t bytes;
};

struct torchfile {
	char *path;
	void *map; /* NULL: the bytes are borrowed */
	const uint8_t *data;
	size_t bytes;
	struct pickle *pickle;
	struct zipfile *zip;
	const char *folder;  /* of the archive, with its slash: in front of data.pkl and data/ */
	size_t folder_bytes;
	struct blob *blobs;  /* of the legacy format, by key */
	uint32_t blob_count;
	uint32_t looked_at;
	struct state_tensor *tensors;
	char **names;
	int count;
};

/* ---- storages ---- */

static int compare_keys(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
	int order = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);

	return order != 0 ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

static int by_key(const void *a, const void *b)
{
	const struct blob *x = a, *y = b;

	return compare_keys(x->key, x->key_bytes, y->key, y->key_bytes);
}

static int find_in_zip(const struct torchfile *file, const struct pickle_storage *storage, struct blob *out, struct err *err)
{
	char name[ZIP_NAME_MAX + 1];
	struct zip_entry *entry = NULL;
	int length = snprintf(name, sizeof(name), "%.*sdata/%.*s", (int)file->folder_bytes, file->folder, (int)storage->key_bytes,
			      storage->key);

	if (length > 0 && (size_t)length < sizeof(name))
		entry = zip_find(file->zip, name);
	if (entry == NULL)
		return err_set(err, ERR_FORMAT, "%s: the archive lacks the storage %.*s; copy or download it again", file->path,
			       storage->key_bytes > 64 ? 64 : (int)storage->key_bytes, storage->key);
	*out = (struct blob){ .data = entry->data, .bytes = entry->bytes };
	return zip_verify(file->zip, entry, err);
}

static int find_in_legacy(const struct torchfile *file, const struct pickle_storage *storage, struct blob *out, struct err *err)
{
	struct blob wanted = { .key = storage->key, .key_bytes = storage->key_bytes };
	const struct blob *found = file->blob_count == 0 ? NULL
							 : bsearch(&wanted, file->blobs, file->blob_count, sizeof(wanted), by_key);

	if (found == NULL)
		return err_set(err, ERR_FORMAT, "%s: lacks the storage %.*s; copy or download it again", file->path,
			       storage->key_bytes > 64 ? 64 : (int)storage->key_bytes, storage->key);
	*out = *found;
	return 0;
}

/* ---- tensors ---- */

/* Every element's place, offset and strides included, is below `elements`. */
static bool lies_within(const struct pickle_tensor *tensor, int64_t elements, int64_t *count)
{
	int64_t last = tensor->offset, reach;

	*count = 1;
	for (int d = 0; d < tensor->rank; d++)
		if (__builtin_mul_overflow(*count, tensor->shape[d], count))
			return false;
	/* what is empty needs no place, but its shape must be one: the other dimensions may overflow behind a 0 */
	if (*count == 0)
		return true;
	for (int d = 0; d < tensor->rank; d++)
		if (__builtin_mul_overflow(tensor->shape[d] - 1, tensor->strides[d], &reach) ||
		    __builtin_add_overflow(last, reach, &last))
			return false;
	return last < elements && *count <= INT64_MAX / 16;
}

static bool is_contiguous(const struct pickle_tensor *tensor, int64_t count)
{
	int64_t expected = 1;

	for (int d = tensor->rank - 1; d >= 0 && count > 0; d--) {
		if (tensor->shape[d] != 1 && tensor->strides[d] != expected)
			return false;
		expected *= tensor->shape[d];
	}
	return true;
}

static int resolve(const struct torchfile *file, const struct pickle_tensor *tensor, struct state_tensor *out, struct err *err)
{
	const struct pickle_storage *storage = pickle_storage(file->pickle, tensor->storage);
	size_t size = tensor_dtype_bytes(storage->dtype);
	int64_t count;
	struct blob blob;
	int code = file->zip != NULL ? find_in_zip(file, storage, &blob, err) : find_in_legacy(file, storage, &blob, err);

	if (code != 0)
		return code;
	if ((uint64_t)storage->elements > blob.bytes / size)
		return err_set(err, ERR_FORMAT, "%s: the storage of %s has %llu bytes, not its %lld %s values; copy or download it again",
			       file->path, out->view.name, (unsigned long long)blob.bytes, (long long)storage->elements,
			       tensor_dtype_name(storage->dtype));
	if (!lies_within(tensor, storage->view_elements, &count))
		return err_set(err, ERR_FORMAT, "%s: %s leaves its storage of %lld values; the file is damaged", file->path,
			       out->view.name, (long long)storage->view_elements);
	out->view.dtype = storage->dtype;
	out->view.rank = tensor->rank;
	memcpy(out->view.shape, tensor->shape, sizeof(tensor->shape));
	for (int d = 0; d < tensor->rank; d++) /* what a dimension of 1 says is not held to lie within */
		out->strides[d] = tensor->shape[d] == 1 ? 0 : tensor->strides[d];
	out->view.bytes = (size_t)count * size;
	out->view.data = blob.data + (count == 0 ? 0 : (size_t)(storage->view_at + tensor->offset) * size);
	out->strided = !is_contiguous(tensor, count);
	out->path = file->path;
	return 0;
}

/* ---- the state dict ---- */

static bool holds_tensors(struct torchfile *file, uint32_t value)
{
	const struct pickle_value *dict = pickle_value(file->pickle, value);

	/* one dict may be a member of another many times over */
	for (uint32_t i = 0; dict->kind == PICKLE_DICT && i + 1 < dict->count && file->looked_at < LOOKS_MAX; i += 2, file->looked_at++)
		if (pickle_tensor(file->pickle, dict->items[i + 1]) != NULL)
			return true;
	return false;
}

static bool is_dict(const struct torchfile *file, uint32_t value)
{
	return value != UINT32_MAX && pickle_value(file->pickle, value)->kind == PICKLE_DICT;
}

/* The state dict among a dict's members; *at stays when there is none. */
static int unwrap(struct torchfile *file, uint32_t *at, struct err *err)
{
	static const char *const usual[] = { "state_dict", "model_state_dict", "model", "module", "net", "network" };
	const struct pickle_value *dict = pickle_value(file->pickle, *at);
	char names[SHOWN_MAX * 48] = "";
	uint32_t found = UINT32_MAX;
	int candidates = 0;

	for (size_t i = 0; i < ARRAY_LEN(usual); i++) {
		uint32_t inner = pickle_get(file->pickle, *at, usual[i]);

		if (is_dict(file, inner) && (holds_tensors(file, inner) || is_dict(file, pickle_get(file->pickle, inner, usual[0])))) {
			*at = inner;
			return 0;
		}
	}
	if (holds_tensors(file, *at))
		return 0;
	for (uint32_t i = 0; i + 1 < dict->count; i += 2) {
		const struct pickle_value *key = pickle_value(file->pickle, dict->items[i]);
		size_t used = strlen(names);

		if (key->kind != PICKLE_TEXT || !holds_tensors(file, dict->items[i + 1]))
			continue;
		found = dict->items[i + 1];
		if (candidates++ < SHOWN_MAX)
			snprintf(names + used, sizeof(names) - used, "%s%.*s", used > 0 ? ", " : "", key->count > 40 ? 40 : (int)key->count,
				 key->text);
	}
	if (candidates > 1)
		return err_set(err, ERR_MISMATCH, "%s: holds several state dicts (%s); save the one that is wanted in a file of its own",
			       file->path, names);
	if (candidates == 1)
		*at = found;
	return 0;
}

static int find_state(struct torchfile *file, uint32_t root, uint32_t *out, struct err *err)
{
	const struct pickle_value *value = pickle_value(file->pickle, root);
	int code;

	if (value->kind != PICKLE_DICT)
		return err_set(err, ERR_MISMATCH, "%s: holds %s, not a state dict; save module.state_dict()", file->path,
			       pickle_kind_name(value->kind));
	*out = root;
	for (int i = 0; i < WRAPPERS_MAX; i++) {
		uint32_t before = *out;

		if ((code = unwrap(file, out, err)) != 0)
			return code;
		if (*out == before)
			break;
	}
	if (!holds_tensors(file, *out))
		return err_set(err, ERR_MISMATCH, "%s: holds no state dict: there are no tensors in its dict; save module.state_dict()",
			       file->path);
	return 0;
}

static int add_tensor(struct torchfile *file, const struct pickle_value *key, const struct pickle_tensor *tensor, struct err *err)
{
	struct state_tensor *out = &file->tensors[file->count];
	char *name;

	if (key->kind != PICKLE_TEXT)
		return err_set(err, ERR_MISMATCH, "%s: a tensor's name is %s, not text; is it an optimizer's state?", file->path,
			       pickle_kind_name(key->kind));
	if (key->count > NAME_BYTES_MAX || (key->count > 0 && memchr(key->text, 0, key->count) != NULL))
		return err_set(err, ERR_FORMAT, "%s: a tensor has an impossible name", file->path);
	if ((name = mem_strndup(key->text, key->count)) == NULL)
		return err_nomem(err, key->count);
	file->names[file->count++] = name;
	out->view.name = name;
	return resolve(file, tensor, out, err);
}

static int take_state(struct torchfile *file, uint32_t root, struct err *err)
{
	const struct pickle_value *dict;
	uint32_t state = root;
	int code = find_state(file, root, &state, err);

	if (code != 0)
		return code;
	dict = pickle_value(file->pickle, state);
	file->tensors = mem_array(dict->count / 2, sizeof(*file->tensors));
	file->names = mem_array(dict->count / 2, sizeof(*file->names));
	if (file->tensors == NULL || file->names == NULL)
		return err_nomem(err, dict->count / 2 * sizeof(*file->tensors));
	for (uint32_t i = 0; code == 0 && i + 1 < dict->count; i += 2) {
		const struct pickle_tensor *tensor = pickle_tensor(file->pickle, dict->items[i + 1]);

		if (tensor != NULL)
			code = add_tensor(file, pickle_value(file->pickle, dict->items[i]), tensor, err);
	}
	return code;
}

/* ---- the zip format ---- */

/* ARCHIVE/data.pkl, whatever the archive is called. */
static struct zip_entry *find_program(struct torchfile *file)
{
	for (int i = 0; i < zip_count(file->zip); i++) {
		struct zip_entry *entry = zip_at(file->zip, i);
		const char *slash = strchr(entry->name, '/');

		if (slash != NULL && strcmp(slash, "/data.pkl") == 0) {
			file->folder = entry->name;
			file->folder_bytes = (size_t)(slash - entry->name) + 1;
			return entry;
		}
	}
	return NULL;
}

static struct zip_entry *find_beside(struct torchfile *file, const char *what)
{
	char name[ZIP_NAME_MAX + 1];

	snprintf(name, sizeof(name), "%.*s%s", (int)file->folder_bytes, file->folder, what);
	return zip_find(file->zip, name);
}

static int parse_zip(struct torchfile *file, struct err *err)
{
	struct zip_entry *program, *order;
	uint32_t root;
	size_t at = 0;
	int code = zip_open(&file->zip, file->path, file->data, file->bytes, err);

	if (code != 0)
		return code;
	if ((program = find_program(file)) == NULL)
		return err_set(err, ERR_FORMAT, "%s: a zip archive, but not of torch.save() (it has no data.pkl)", file->path);
	if (find_beside(file, "constants.pkl") != NULL)
		return err_set(err, ERR_UNSUPPORTED, "%s: a TorchScript archive, which holds code; in Python: "
			       "torch.save(torch.jit.load(FILE, map_location='cpu').state_dict(), 'weights.pth')", file->path);
	if ((code = zip_verify(file->zip, program, err)) != 0)
		return code;
	order = find_beside(file, "byteorder");
	if (order != NULL && !(order->bytes == 6 && memcmp(order->data, "little", 6) == 0))
		return err_set(err, ERR_UNSUPPORTED, "%s: was saved on a big-endian machine; " PICKLE_REMEDY, file->path);
	if ((code = pickle_run(file->pickle, program->data, (size_t)program->bytes, &at, &root, err)) != 0)
		return code;
	return take_state(file, root, err);
}

/* ---- the legacy format ---- */

static bool is_integer(const struct torchfile *file, uint32_t value, int64_t expected)
{
	const struct pickle_value *v = value == UINT32_MAX ? NULL : pickle_value(file->pickle, value);

	return v != NULL && v->kind == PICKLE_INT && v->integer == expected;
}

/* Magic number, protocol, and what machine wrote it. */
static int check_head(struct torchfile *file, size_t *at, struct err *err)
{
	const struct pickle_value *magic, *little;
	uint32_t value, member;
	int code = pickle_run(file->pickle, file->data, file->bytes, at, &value, err);

	if (code != 0)
		return code;
	magic = pickle_value(file->pickle, value);
	if (magic->kind != PICKLE_BIG || magic->count != MAGIC_BYTES || memcmp(magic->text, magic_number, MAGIC_BYTES) != 0)
		return err_set(err, ERR_FORMAT, "%s: a pickle, but not of torch.save()", file->path);
	if ((code = pickle_run(file->pickle, file->data, file->bytes, at, &value, err)) != 0)
		return code;
	if (!is_integer(file, value, LEGACY_PROTOCOL))
		return err_set(err, ERR_UNSUPPORTED, "%s: of another legacy protocol than %d; " PICKLE_REMEDY, file->path, LEGACY_PROTOCOL);
	if ((code = pickle_run(file->pickle, file->data, file->bytes, at, &value, err)) != 0)
		return code;
	member = pickle_get(file->pickle, value, "little_endian");
	little = member == UINT32_MAX ? NULL : pickle_value(file->pickle, member);
	if (little == NULL || little->kind != PICKLE_BOOL || little->integer != 1)
		return err_set(err, ERR_UNSUPPORTED, "%s: was saved on a big-endian machine; " PICKLE_REMEDY, file->path);
	return 0;
}

/* The storages that tensors refer to, by key; bytes: of an element. */
static int list_storages(const struct torchfile *file, struct blob **out, struct err *err)
{
	uint32_t count = pickle_storage_count(file->pickle);
	struct blob *list = mem_array((size_t)count + 1, sizeof(*list));

	*out = list;
	if (list == NULL)
		return err_nomem(err, ((size_t)count + 1) * sizeof(*list));
	for (uint32_t i = 0; i < count; i++) {
		const struct pickle_storage *storage = pickle_storage(file->pickle, i);

		list[i] = (struct blob){ .key = storage->key, .key_bytes = storage->key_bytes,
					 .bytes = tensor_dtype_bytes(storage->dtype) };
	}
	qsort(list, count, sizeof(*list), by_key);
	return 0;
}

/* A count of elements, then their bytes. */
static int read_blob(const struct torchfile *file, const struct blob *storage, struct blob *blob, size_t *at, struct err *err)
{
	uint64_t count = 0;
	size_t size;

	if (storage == NULL)
		return err_set(err, ERR_FORMAT, "%s: lists a storage that no tensor uses; the file is damaged", file->path);
	size = (size_t)storage->bytes;
	if (file->bytes - *at < LEGACY_COUNT_BYTES)
		return err_set(err, ERR_FORMAT, "%s: truncated before its last storage; copy or download it again", file->path);
	for (int i = 0; i < LEGACY_COUNT_BYTES; i++)
		count |= (uint64_t)file->data[*at + (size_t)i] << (8 * i);
	*at += LEGACY_COUNT_BYTES;
	if (count > (file->bytes - *at) / size)
		return err_set(err, ERR_FORMAT, "%s: truncated: a storage of %llu values reaches beyond its end; copy or download it again",
			       file->path, (unsigned long long)count);
	blob->data = file->data + *at;
	blob->bytes = count * size;
	*at += (size_t)blob->bytes;
	return 0;
}

static int read_all_blobs(struct torchfile *file, const struct pickle_value *list, const struct blob *storages, size_t at,
			  struct err *err)
{
	uint32_t count = pickle_storage_count(file->pickle);
	int code = 0;

	for (uint32_t i = 0; code == 0 && i < list->count; i++) {
		const struct pickle_value *key = pickle_value(file->pickle, list->items[i]);
		struct blob *blob = &file->blobs[i];

		if (key->kind != PICKLE_TEXT)
			return err_set(err, ERR_FORMAT, "%s: the list of its storages cannot be; the file is damaged", file->path);
		blob->key = key->text;
		blob->key_bytes = key->count;
		code = read_blob(file, bsearch(blob, storages, count, sizeof(*blob), by_key), blob, &at, err);
	}
	if (code != 0)
		return code;
	file->blob_count = list->count;
	qsort(file->blobs, file->blob_count, sizeof(*file->blobs), by_key);
	for (uint32_t i = 0; i + 1 < file->blob_count; i++)
		if (by_key(&file->blobs[i], &file->blobs[i + 1]) == 0)
			return err_set(err, ERR_FORMAT, "%s: lists a storage twice; the file is damaged", file->path);
	return 0;
}

static int read_blobs(struct torchfile *file, uint32_t keys, size_t at, struct err *err)
{
	const struct pickle_value *list = pickle_value(file->pickle, keys);
	struct blob *storages = NULL;
	int code;

	if (list->kind != PICKLE_LIST || list->count > pickle_storage_count(file->pickle))
		return err_set(err, ERR_FORMAT, "%s: the list of its storages cannot be; the file is damaged", file->path);
	if (list->count == 0)
		return 0;
	file->blobs = mem_array(list->count, sizeof(*file->blobs));
	if (file->blobs == NULL)
		return err_nomem(err, list->count * sizeof(*file->blobs));
	if ((code = list_storages(file, &storages, err)) == 0)
		code = read_all_blobs(file, list, storages, at, err);
	mem_free(storages);
	return code;
}

static int parse_legacy(struct torchfile *file, struct err *err)
{
	uint32_t root, keys;
	size_t at = 0;
	int code;

	if ((code = check_head(file, &at, err)) != 0 ||
	    (code = pickle_run(file->pickle, file->data, file->bytes, &at, &root, err)) != 0 ||
	    (code = pickle_run(file->pickle, file->data, file->bytes, &at, &keys, err)) != 0 ||
	    (code = read_blobs(file, keys, at, err)) != 0)
		return code;
	return take_state(file, root, err);
}

/* ---- opening ---- */

bool torchfile_is_zip(const void *start, size_t bytes)
{
	return bytes >= 4 && (memcmp(start, "PK\3\4", 4) == 0 || memcmp(start, "PK\5\6", 4) == 0);
}

bool torchfile_is_legacy(const void *start, size_t bytes)
{
	const unsigned char *p = start;

	return bytes >= 2 && p[0] == 0x80 && p[1] >= 1 && p[1] <= 5;
}

static int parse(struct torchfile *file, struct err *err)
{
	int code = pickle_open(&file->pickle, file->path, err);

	if (code != 0)
		return code;
	if (torchfile_is_zip(file->data, file->bytes))
		return parse_zip(file, err);
	if (torchfile_is_legacy(file->data, file->bytes))
		return parse_legacy(file, err);
	return err_set(err, ERR_FORMAT, "%s: not a file of torch.save()", file->path);
}

static int map_file(struct torchfile *file, struct err *err)
{
	struct stat info;
	int code = 0, fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return err_errno(err, errno, "%s", file->path);
	if (fstat(fd, &info) != 0) {
		code = err_errno(err, errno, "%s", file->path);
	} else if (!S_ISREG(info.st_mode) || info.st_size == 0) {
		code = err_set(err, ERR_FORMAT, "%s: %s", file->path, info.st_size == 0 ? "is empty" : "not a regular file");
	} else {
		file->bytes = (size_t)info.st_size;
		file->map = mmap(NULL, file->bytes, PROT_READ, MAP_PRIVATE, fd, 0);
		if (file->map == MAP_FAILED) {
			file->map = NULL;
			code = err_errno(err, errno, "%s: cannot map it", file->path);
		}
		file->data = file->map;
	}
	close(fd);
	return code;
}

int torchfile_parse(struct torchfile **out, const char *path, const void *data, size_t bytes, struct err *err)
{
	struct torchfile *file = mem_zalloc(sizeof(*file));
	int code = 0;

	*out = NULL;
	if (file == NULL)
		return err_nomem(err, sizeof(*file));
	file->data = data;
	file->bytes = bytes;
	if ((file->path = mem_strdup(path)) == NULL)
		code = err_nomem(err, strlen(path));
	if (code == 0 && data == NULL)
		code = map_file(file, err);
	if (code == 0)
		code = parse(file, err);
	if (code != 0) {
		torchfile_close(file);
		return code;
	}
	*out = file;
	return 0;
}

int torchfile_open(struct torchfile **out, const char *path, struct err *err)
{
	return torchfile_parse(out, path, NULL, 0, err);
}

void torchfile_close(struct torchfile *file)
{
	if (file == NULL)
		return;
	for (int i = 0; i < file->count; i++)
		mem_free(file->names[i]);
	mem_free(file->names);
	mem_free(file->tensors);
	mem_free(file->blobs);
	pickle_close(file->pickle);
	zip_close(file->zip);
	if (file->map != NULL)
		munmap(file->map, file->bytes);
	mem_free(file->path);
	mem_free(file);
}

int torchfile_count(const struct torchfile *file)
{
	return file->count;
}

const struct state_tensor *torchfile_at(const struct torchfile *file, int index)
{
	CHECK(index >= 0 && index < file->count);
	return &file->tensors[index];
}
