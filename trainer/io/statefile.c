#include "trainer/io/statefile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared/base/fs.h"
#include "shared/base/mem.h"
#include "trainer/io/checksum.h"
#include "trainer/io/torchfile.h"

enum { START_BYTES = 512, PATH_BYTES = 4096 };

#define INDEX_BYTES_MAX ((size_t)64 << 20)

/* One file of a state dict; one of the two is open. */
struct part {
	char *name; /* as the index calls it; NULL: the only file */
	struct tensorfile *safe;
	struct torchfile *torch;
};

struct statefile {
	char *path;
	struct part *parts;
	int part_count;
	bool borrowed;                /* the part belongs to somebody else */
	size_t prefix_bytes;          /* taken off every name */
	struct state_tensor *tensors; /* in order of the parts */
	int count;
	int *by_name;
};

/* ---- what a file is ---- */

static const struct {
	const char *start;
	size_t bytes;
	const char *what;
} strangers[] = {
	{ "\x89HDF\r\n\x1a\n", 8, "an HDF5 file (Keras, tf_model.h5); in Python: "
	  "transformers.BertModel.from_pretrained(FOLDER, from_tf=True).save_pretrained('converted')" },
	{ "version https://git-lfs", 23, "a pointer of Git LFS, not the file itself; fetch it with git lfs pull" },
	{ "<!DOCTYPE", 9, "a web page, not weights; was the download an error page?" },
	{ "<!doctype", 9, "a web page, not weights; was the download an error page?" },
	{ "<html", 5, "a web page, not weights; was the download an error page?" },
	{ "\x1f\x8b", 2, "gzip-compressed; unpack it with gunzip" },
	{ "\xfd" "7zXZ", 5, "xz-compressed; unpack it with unxz" },
	{ "\x93NUMPY", 6, "a NumPy array, not a state dict" },
};

/* The last bytes of a table of TensorFlow's checkpoints (model.ckpt.index). */
static const char table_end[8] = "\x57\xfb\x80\x8b\x24\x75\x47\xdb";

static int read_ends(const char *path, char *start, size_t *bytes, char end[sizeof(table_end)], struct err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), code = 0;
	ssize_t got;
	off_t size;

	memset(end, 0, sizeof(table_end));
	*bytes = 0;
	if (fd < 0)
		return err_errno(err, errno, "%s", path);
	if ((got = pread(fd, start, START_BYTES, 0)) < 0)
		code = err_errno(err, errno, "%s", path);
	else
		*bytes = (size_t)got;
	size = lseek(fd, 0, SEEK_END);
	if (code == 0 && size >= (off_t)sizeof(table_end) &&
	    pread(fd, end, sizeof(table_end), size - (off_t)sizeof(table_end)) != (ssize_t)sizeof(table_end))
		code = err_set(err, ERR_IO, "%s: cannot be read to its end", path);
	close(fd);
	return code;
}

/* A header's length of below 2^40 and its first byte: a length may begin like a pickle or a zip archive. */
static bool is_safetensors(const char *start, size_t bytes)
{
	return bytes > 8 && start[5] == 0 && start[6] == 0 && start[7] == 0 && start[8] == '{';
}

static bool is_json(const char *start, size_t bytes)
{
	size_t i = 0;

	while (i < bytes && strchr(" \t\r\n", start[i]) != NULL && start[i] != '\0')
		i++;
	return i < bytes && start[i] == '{';
}

static int refuse_strangers(const char *path, const char *start, size_t bytes, const char end[sizeof(table_end)], struct err *err)
{
	if (bytes == 0)
		return err_set(err, ERR_FORMAT, "%s: is empty", path);
	for (size_t i = 0; i < ARRAY_LEN(strangers); i++)
		if (bytes >= strangers[i].bytes && memcmp(start, strangers[i].start, strangers[i].bytes) == 0)
			return err_set(err, ERR_UNSUPPORTED, "%s: is %s", path, strangers[i].what);
	if (memcmp(end, table_end, sizeof(table_end)) == 0)
		return err_set(err, ERR_UNSUPPORTED, "%s: is the index of a TensorFlow checkpoint; convert it in Python: "
			       "transformers.BertForPreTraining.from_pretrained(FILE, from_tf=True, config=...).save_pretrained('converted')",
			       path);
	if (bytes >= 265 && memcmp(start + 257, "ustar", 5) == 0)
		return err_set(err, ERR_UNSUPPORTED, "%s: is a tar archive; unpack it with tar -xf and name the file in it", path);
	return 0;
}

/* A bit that turned in a file of ours: better no model than another one. */
static int open_safetensors(struct part *part, const char *path, struct err *err)
{
	struct err damage;
	bool ours;
	int code = tensorfile_open(&part->safe, path, err);

	if (code != 0 || (code = checksum_verify(part->safe, &ours, &damage)) == 0)
		return code;
	tensorfile_close(part->safe);
	part->safe = NULL;
	return err_set(err, code, "%s; take another copy or another checkpoint of the run, or train again", damage.message);
}

static int open_part(struct part *part, const char *path, bool *is_index, struct err *err)
{
	char start[START_BYTES], end[sizeof(table_end)];
	size_t bytes;
	int code = read_ends(path, start, &bytes, end, err);

	if (code != 0)
		return code;
	if (is_safetensors(start, bytes))
		return open_safetensors(part, path, err);
	if (torchfile_is_zip(start, bytes) || torchfile_is_legacy(start, bytes))
		return torchfile_open(&part->torch, path, err);
	if (is_index != NULL && (*is_index = is_json(start, bytes)))
		return 0;
	if ((code = refuse_strangers(path, start, bytes, end, err)) != 0)
		return code;
	return err_set(err, ERR_FORMAT, "%s: neither a safetensors file nor one of torch.save()", path);
}

/* ---- an index of shards ---- */

static int find_part(struct statefile *file, const struct json_reader *reader, int *out, struct err *err)
{
	const char *name = reader->text.data;
	struct part *grown;

	for (*out = 0; *out < file->part_count; ++*out)
		if (strcmp(file->parts[*out].name, name) == 0)
			return 0;
	if (name[0] == '\0' || name[0] == '.' || strchr(name, '/') != NULL || strlen(name) != reader->text.size)
		return json_fail(reader, err, "'%.100s' is no file beside the index", name);
	if (file->part_count == STATEFILE_SHARDS_MAX)
		return json_fail(reader, err, "more than %d shards", STATEFILE_SHARDS_MAX);
	if ((grown = mem_realloc_array(file->parts, (size_t)file->part_count + 1, sizeof(*grown))) == NULL)
		return err_nomem(err, sizeof(*grown));
	file->parts = grown;
	grown[file->part_count] = (struct part){ .name = mem_strdup(name) };
	if (grown[file->part_count].name == NULL)
		return err_nomem(err, strlen(name));
	file->part_count++;
	return 0;
}

/* "weight_map": { name: shard }. The names are looked up once all shards are open. */
static int read_map(struct statefile *file, struct json_reader *reader, bool lookup, struct err *err)
{
	int part, code = json_expect(reader, JSON_OBJECT_BEGIN, err);

	while (code == 0 && (code = json_next(reader, err)) == 0 && reader->kind == JSON_KEY) {
		char name[PATH_BYTES];

		snprintf(name, sizeof(name), "%s", reader->text.data);
		if ((code = json_expect(reader, JSON_STRING, err)) != 0 || (code = find_part(file, reader, &part, err)) != 0)
			break;
		if (lookup && (strlen(name) < file->prefix_bytes || statefile_find(file, name + file->prefix_bytes) == NULL))
			code = json_fail(reader, err, "%s is in none of the shards; copy or download them again", name);
	}
	return code;
}

static int read_index(struct statefile *file, bool lookup, struct err *err)
{
	struct json_reader reader;
	struct buf text = BUF_INIT;
	bool found = false;
	int code = fs_read(file->path, INDEX_BYTES_MAX, &text, err);

	if (code != 0)
		return code;
	json_reader_init(&reader, file->path, text.data, text.size);
	code = json_expect(&reader, JSON_OBJECT_BEGIN, err);
	while (code == 0 && (code = json_next(&reader, err)) == 0 && reader.kind == JSON_KEY) {
		bool map = strcmp(reader.text.data, "weight_map") == 0;

		found |= map;
		code = map ? read_map(file, &reader, lookup, err) : json_skip(&reader, err);
	}
	if (code == 0)
		code = json_expect(&reader, JSON_END, err);
	if (code == 0 && (!found || file->part_count == 0))
		code = err_set(err, ERR_FORMAT, "%s: JSON, but no index of shards (weight_map); name the file that holds the weights",
			       file->path);
	json_reader_free(&reader);
	buf_free(&text);
	return code;
}

static int open_shards(struct statefile *file, struct err *err)
{
	int folder_bytes, code = read_index(file, false, err);
	const char *slash = strrchr(file->path, '/');
	char path[PATH_BYTES];

	folder_bytes = slash == NULL ? 0 : (int)(slash - file->path) + 1;
	for (int i = 0; code == 0 && i < file->part_count; i++) {
		if (snprintf(path, sizeof(path), "%.*s%s", folder_bytes, file->path, file->parts[i].name) >= (int)sizeof(path))
			return err_set(err, ERR_LIMIT, "%s: the path of a shard is too long", file->path);
		if ((code = open_part(&file->parts[i], path, NULL, err)) != 0)
			err_prefix(err, "a shard of %s", file->path);
	}
	return code;
}

/* ---- a folder ---- */

static int choose_in_folder(const char *folder, char path[PATH_BYTES], struct err *err)
{
	static const char *const usual[] = { "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
					     "pytorch_model.bin.index.json" };
	static const char *const others[] = { "tf_model.h5", "flax_model.msgpack", "model.ckpt.index", "bert_model.ckpt.index" };

	for (size_t i = 0; i < ARRAY_LEN(usual); i++) {
		if (snprintf(path, PATH_BYTES, "%s/%s", folder, usual[i]) >= PATH_BYTES)
			return err_set(err, ERR_LIMIT, "%.200s...: the path is too long", folder);
		if (fs_exists(path))
			return 0;
	}
	for (size_t i = 0; i < ARRAY_LEN(others); i++) {
		snprintf(path, PATH_BYTES, "%s/%s", folder, others[i]);
		if (fs_exists(path))
			return err_set(err, ERR_UNSUPPORTED, "%s: holds only weights of TensorFlow or Flax (%s); convert them in Python: "
				       "transformers.BertModel.from_pretrained(FOLDER, %s=True).save_pretrained('converted')", folder, others[i],
				       i == 1 ? "from_flax" : "from_tf");
	}
	return err_set(err, ERR_NOTFOUND, "%s: a folder without model.safetensors or pytorch_model.bin (or an index of their shards); name the "
		       "file that holds the weights", folder);
}

/* ---- all tensors together ---- */

static int part_tensors(const struct part *part)
{
	return part->safe != NULL ? tensorfile_count(part->safe) : torchfile_count(part->torch);
}

static void add_part(struct statefile *file, const struct part *part)
{
	for (int i = 0; i < part_tensors(part); i++) {
		struct state_tensor *tensor = &file->tensors[file->count++];

		if (part->torch != NULL)
			*tensor = *torchfile_at(part->torch, i);
		else
			*tensor = (struct state_tensor){ .view = *tensorfile_at(part->safe, i), .path = tensorfile_path(part->safe) };
	}
}

/* A prefix that all names have is a wrapper's. */
static void take_off_prefixes(struct statefile *file)
{
	static const char *const wrappers[] = { "module.", "_orig_mod.", "model.", "net." };

	for (size_t i = 0; i < ARRAY_LEN(wrappers);) {
		size_t length = strlen(wrappers[i]);
		int with = 0;

		while (with < file->count && strncmp(file->tensors[with].view.name, wrappers[i], length) == 0)
			with++;
		if (with == 0 || with < file->count) {
			i++;
			continue;
		}
		for (int t = 0; t < file->count; t++)
			file->tensors[t].view.name += length;
		file->prefix_bytes += length;
		i = 0; /* one may stand inside of the other */
	}
}

static int by_name(const void *a, const void *b, void *tensors)
{
	const struct state_tensor *all = tensors;

	return strcmp(all[*(const int *)a].view.name, all[*(const int *)b].view.name);
}

static int gather(struct statefile *file, struct err *err)
{
	size_t total = 0;

	for (int i = 0; i < file->part_count; i++)
		total += (size_t)part_tensors(&file->parts[i]);
	file->tensors = mem_array(total + 1, sizeof(*file->tensors));
	file->by_name = mem_array(total + 1, sizeof(*file->by_name));
	if (file->tensors == NULL || file->by_name == NULL)
		return err_nomem(err, (total + 1) * sizeof(*file->tensors));
	for (int i = 0; i < file->part_count; i++)
		add_part(file, &file->parts[i]);
	if (!file->borrowed)
		take_off_prefixes(file);
	for (int i = 0; i < file->count; i++)
		file->by_name[i] = i;
	qsort_r(file->by_name, (size_t)file->count, sizeof(int), by_name, file->tensors);
	for (int i = 1; i < file->count; i++)
		if (by_name(&file->by_name[i - 1], &file->by_name[i], file->tensors) == 0)
			return err_set(err, ERR_FORMAT, "%s: tensor %s is there twice (in two shards, or under two names); "
				       "remove one", file->path,
				       file->tensors[file->by_name[i]].view.name);
	return 0;
}

/* ---- opening ---- */

static int open_any(struct statefile *file, const char *path, struct err *err)
{
	char chosen[PATH_BYTES];
	bool is_index = false;
	int code;

	if (fs_is_dir(path)) {
		if ((code = choose_in_folder(path, chosen, err)) != 0)
			return code;
		path = chosen;
	}
	file->path = mem_strdup(path);
	file->parts = mem_array(1, sizeof(*file->parts));
	if (file->path == NULL || file->parts == NULL)
		return err_nomem(err, strlen(path));
	if ((code = open_part(&file->parts[0], path, &is_index, err)) != 0)
		return code;
	file->part_count = is_index ? 0 : 1;
	if (is_index && (code = open_shards(file, err)) != 0)
		return code;
	code = gather(file, err);
	return code == 0 && is_index ? read_index(file, true, err) : code;
}

int statefile_open(struct statefile **out, const char *path, struct err *err)
{
	struct statefile *file = mem_zalloc(sizeof(*file));
	int code;

	*out = NULL;
	if (file == NULL)
		return err_nomem(err, sizeof(*file));
	if ((code = open_any(file, path, err)) != 0) {
		statefile_close(file);
		return code;
	}
	*out = file;
	return 0;
}

int statefile_borrow(struct statefile **out, const struct tensorfile *borrowed, struct err *err)
{
	struct statefile *file = mem_zalloc(sizeof(*file));
	int code = 0;

	*out = NULL;
	if (file == NULL)
		return err_nomem(err, sizeof(*file));
	file->borrowed = true;
	file->path = mem_strdup(tensorfile_path(borrowed));
	file->parts = mem_array(1, sizeof(*file->parts));
	if (file->path == NULL || file->parts == NULL) {
		code = err_nomem(err, sizeof(*file->parts));
	} else {
		file->parts[0].safe = (struct tensorfile *)(uintptr_t)borrowed;
		file->part_count = 1;
		code = gather(file, err);
	}
	if (code != 0) {
		statefile_close(file);
		return code;
	}
	*out = file;
	return 0;
}

void statefile_close(struct statefile *file)
{
	if (file == NULL)
		return;
	for (int i = 0; i < file->part_count; i++) {
		mem_free(file->parts[i].name);
		if (file->borrowed)
			continue;
		tensorfile_close(file->parts[i].safe);
		torchfile_close(file->parts[i].torch);
	}
	mem_free(file->parts);
	mem_free(file->tensors);
	mem_free(file->by_name);
	mem_free(file->path);
	mem_free(file);
}

int statefile_count(const struct statefile *file)
{
	return file->count;
}

const struct state_tensor *statefile_at(const struct statefile *file, int index)
{
	CHECK(index >= 0 && index < file->count);
	return &file->tensors[index];
}

const struct state_tensor *statefile_find(const struct statefile *file, const char *name)
{
	int low = 0, high = file->count;

	while (low < high) {
		int middle = low + (high - low) / 2;
		const struct state_tensor *tensor = &file->tensors[file->by_name[middle]];
		int order = strcmp(name, tensor->view.name);

		if (order == 0)
			return tensor;
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return NULL;
}

const char *statefile_path(const struct statefile *file)
{
	return file->path;
}

const struct tensorfile *statefile_safetensors(const struct statefile *file)
{
	return file->part_count == 1 && file->parts[0].name == NULL ? file->parts[0].safe : NULL;
}
