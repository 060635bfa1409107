/* Event files of an earlier process, cut to where the run goes on. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "shared/base/buf.h"
#include "shared/base/fs.h"
#include "trainer/io/tensorboard.h"

/* An event has about 250 bytes; a million steps are a quarter of this. */
#define EVENTS_BYTES_MAX ((size_t)1 << 30)

enum { PATH_BYTES = 4096, HEAD_BYTES = 12, TAIL_BYTES = 4, FIELD_STEP = 2, FIELD_SUMMARY = 5 };

static const char file_prefix[] = "events.out.tfevents.", file_part[] = ".trainer.";

/* A walk over the fields of a protocol buffer. */
struct walk {
	const uint8_t *at, *end;
	uint32_t field;
	uint64_t number;      /* of a varint; else the length of bytes */
	const uint8_t *bytes; /* NULL for a varint */
};

static bool take_varint(struct walk *walk, uint64_t *out)
{
	*out = 0;
	for (int shift = 0; walk->at < walk->end && shift < 64; shift += 7) {
		uint8_t byte = *walk->at++;

		*out |= (uint64_t)(byte & 127) << shift;
		if (byte < 128)
			return true;
	}
	return false;
}

static bool walk_next(struct walk *walk)
{
	uint64_t key;

	if (walk->at == walk->end || !take_varint(walk, &key))
		return false;
	walk->field = (uint32_t)(key >> 3);
	walk->bytes = NULL;
	switch (key & 7) {
	case 0: return take_varint(walk, &walk->number);
	case 1: walk->number = 8; break;
	case 5: walk->number = 4; break;
	case 2:
		if (take_varint(walk, &walk->number))
			break;
		return false;
	default: return false;
	}
	if (walk->number > (uint64_t)(walk->end - walk->at))
		return false;
	walk->bytes = walk->at;
	walk->at += walk->number;
	return true;
}

struct event {
	uint64_t step;
	bool scalars, val;
};

static bool is_val(const uint8_t *summary, uint64_t size)
{
	struct walk values = { .at = summary, .end = summary + size }, value;

	if (!walk_next(&values) || values.bytes == NULL)
		return false;
	value = (struct walk){ .at = values.bytes, .end = values.bytes + values.number };
	return walk_next(&value) && value.field == 1 && value.bytes != NULL && value.number > 4 && memcmp(value.bytes, "val/", 4) == 0;
}

static struct event read_event(const uint8_t *data, size_t size)
{
	struct walk walk = { .at = data, .end = data + size };
	struct event event = { 0 };

	while (walk_next(&walk)) {
		if (walk.field == FIELD_STEP && walk.bytes == NULL)
			event.step = walk.number;
		if (walk.field == FIELD_SUMMARY && walk.bytes != NULL) {
			event.scalars = true;
			event.val = is_val(walk.bytes, walk.number);
		}
	}
	return event;
}

/* How many leading bytes stay; *scalars: whether an event with scalars is among them. */
static size_t keep_bytes(const uint8_t *data, size_t size, uint64_t next_step, int keep_last_val, bool *scalars)
{
	size_t kept = 0;

	*scalars = false;
	while (size - kept >= HEAD_BYTES + TAIL_BYTES) {
		uint64_t length;
		uint32_t crc, end_crc;

		memcpy(&length, data + kept, sizeof(length));
		memcpy(&crc, data + kept + 8, sizeof(crc));
		if (crc != tensorboard_masked_crc(&length, sizeof(length)) || length > size - kept - HEAD_BYTES - TAIL_BYTES)
			break;
		memcpy(&end_crc, data + kept + HEAD_BYTES + length, sizeof(end_crc));
		if (end_crc != tensorboard_masked_crc(data + kept + HEAD_BYTES, length))
			break;
		struct event event = read_event(data + kept + HEAD_BYTES, length);
		if (event.scalars && (event.step >= next_step || (event.val && event.step + 1 == next_step && !keep_last_val)))
			break;
		*scalars |= event.scalars;
		kept += HEAD_BYTES + length + TAIL_BYTES;
	}
	return kept;
}

static int cut_content(const char *path, const struct buf *content, uint64_t next_step, int keep_last_val, struct err *err)
{
	bool scalars;
	size_t kept = keep_bytes((const uint8_t *)content->data, content->size, next_step, keep_last_val, &scalars);

	if (!scalars ? unlink(path) != 0 : kept < content->size && truncate(path, (off_t)kept) != 0)
		return err_errno(err, errno, "%s", path);
	return 0;
}

static int cut_file(const char *path, uint64_t next_step, int keep_last_val, struct err *err)
{
	struct buf content = BUF_INIT;
	int code = fs_read(path, EVENTS_BYTES_MAX, &content, err);

	/* Too large to look at: the START record of the next file has to do. */
	if (code == ERR_LIMIT)
		code = 0;
	else if (code == 0)
		code = cut_content(path, &content, next_step, keep_last_val, err);
	buf_free(&content);
	return code;
}

int tensorboard_cut(const char *dir, uint64_t next_step, int keep_last_val, struct err *err)
{
	char path[PATH_BYTES];
	DIR *folder = opendir(dir);
	struct dirent *entry;
	int code = 0;

	if (folder == NULL)
		return err_errno(err, errno, "%s", dir);
	while (code == 0 && (entry = readdir(folder)) != NULL)
		if (strncmp(entry->d_name, file_prefix, sizeof(file_prefix) - 1) == 0 && strstr(entry->d_name, file_part) != NULL &&
		    snprintf(path, sizeof(path), "%s/%s", dir, entry->d_name) < (int)sizeof(path))
			code = cut_file(path, next_step, keep_last_val, err);
	closedir(folder);
	return code;
}
