#include "trainer/io/tensorboard.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "shared/base/buf.h"
#include "shared/base/mem.h"

enum { PATH_BYTES = 4096, WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

struct tensorboard {
	int fd;
	char path[PATH_BYTES];
	struct buf event, summary, value, record;
};

/* ---- CRC-32C ---- */

uint32_t tensorboard_crc(const void *data, size_t size)
{
	const uint8_t *bytes = data;
	uint32_t crc = 0xFFFFFFFFu;

	/* Bit by bit: a few hundred bytes a step. */
	for (size_t i = 0; i < size; i++) {
		crc ^= bytes[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (0x82F63B78u & (0u - (crc & 1)));
	}
	return ~crc;
}

uint32_t tensorboard_masked_crc(const void *data, size_t size)
{
	uint32_t crc = tensorboard_crc(data, size);

	return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

/* ---- protocol buffers ---- */

static int add_varint(struct buf *out, uint64_t value, struct err *err)
{
	int code = 0;

	while (code == 0 && value >= 0x80) {
		code = buf_add_byte(out, (char)(value | 0x80), err);
		value >>= 7;
	}
	return code != 0 ? code : buf_add_byte(out, (char)value, err);
}

static int add_key(struct buf *out, int field, int wire, struct err *err)
{
	return add_varint(out, (uint64_t)(field << 3 | wire), err);
}

/* Little-endian, as every machine that this runs on. */
static int add_fixed(struct buf *out, int field, int wire, const void *bytes, size_t size, struct err *err)
{
	int code = add_key(out, field, wire, err);

	return code != 0 ? code : buf_add(out, bytes, size, err);
}

static int add_bytes(struct buf *out, int field, const void *bytes, size_t size, struct err *err)
{
	int code;

	if ((code = add_key(out, field, WIRE_BYTES, err)) != 0 || (code = add_varint(out, size, err)) != 0)
		return code;
	return buf_add(out, bytes, size, err);
}

/* ---- records ---- */

static int write_all(struct tensorboard *board, struct err *err)
{
	size_t done = 0;

	while (done < board->record.size) {
		ssize_t put = write(board->fd, board->record.data + done, board->record.size - done);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return err_errno(err, errno, "%s", board->path);
		done += (size_t)put;
	}
	return 0;
}

static int write_event(struct tensorboard *board, struct err *err)
{
	uint64_t size = board->event.size;
	uint32_t size_crc = tensorboard_masked_crc(&size, sizeof(size));
	uint32_t event_crc = tensorboard_masked_crc(board->event.data, board->event.size);
	int code;

	buf_clear(&board->record);
	if ((code = buf_add(&board->record, &size, sizeof(size), err)) != 0 ||
	    (code = buf_add(&board->record, &size_crc, sizeof(size_crc), err)) != 0 ||
	    (code = buf_add(&board->record, board->event.data, board->event.size, err)) != 0 ||
	    (code = buf_add(&board->record, &event_crc, sizeof(event_crc), err)) != 0)
		return code;
	return write_all(board, err);
}

static int begin_event(struct tensorboard *board, uint64_t step, struct err *err)
{
	struct timespec now;
	double wall;
	int code;

	clock_gettime(CLOCK_REALTIME, &now);
	wall = (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
	buf_clear(&board->event);
	if ((code = add_fixed(&board->event, 1, WIRE_FIXED64, &wall, sizeof(wall), err)) != 0 || step == 0)
		return code;
	code = add_key(&board->event, 2, WIRE_VARINT, err);
	return code != 0 ? code : add_varint(&board->event, step, err);
}

static int begin_file(struct tensorboard *board, uint64_t first_step, struct err *err)
{
	static const char version[] = "brain.Event:2";
	static const char start[] = { 1 << 3 | WIRE_VARINT, 1 };
	int code;

	if ((code = begin_event(board, 0, err)) != 0 ||
	    (code = add_bytes(&board->event, 3, version, sizeof(version) - 1, err)) != 0 || (code = write_event(board, err)) != 0)
		return code;
	if ((code = begin_event(board, first_step, err)) != 0 || (code = add_bytes(&board->event, 7, start, sizeof(start), err)) != 0)
		return code;
	return write_event(board, err);
}

int tensorboard_open(struct tensorboard **out, const char *dir, uint64_t first_step, struct err *err)
{
	struct tensorboard *board = mem_zalloc(sizeof(*board));
	int code;

	*out = NULL;
	if (board == NULL)
		return err_nomem(err, sizeof(*board));
	board->fd = -1;
	/* The number is zero-padded because TensorBoard reads the files in order of name. */
	if (snprintf(board->path, sizeof(board->path), "%s/events.out.tfevents.%010lld.trainer.%ld", dir, (long long)time(NULL),
		     (long)getpid()) >= (int)sizeof(board->path)) {
		code = err_set(err, ERR_LIMIT, "%.100s...: the path is too long", dir);
		goto failed;
	}
	board->fd = open(board->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	if (board->fd < 0) {
		code = err_errno(err, errno, "%s", board->path);
		goto failed;
	}
	if ((code = begin_file(board, first_step, err)) != 0)
		goto failed;
	*out = board;
	return 0;
failed:
	tensorboard_close(board);
	return code;
}

void tensorboard_close(struct tensorboard *board)
{
	if (board == NULL)
		return;
	if (board->fd >= 0)
		close(board->fd);
	buf_free(&board->event);
	buf_free(&board->summary);
	buf_free(&board->value);
	buf_free(&board->record);
	mem_free(board);
}

int tensorboard_sync(struct tensorboard *board, struct err *err)
{
	if (board != NULL && fsync(board->fd) != 0 && errno != EINVAL && errno != EROFS)
		return err_errno(err, errno, "%s", board->path);
	return 0;
}

int tensorboard_add(struct tensorboard *board, uint64_t step, const struct tensorboard_scalar *scalars, int count, struct err *err)
{
	int code;

	if (board == NULL || count == 0)
		return 0;
	buf_clear(&board->summary);
	for (int i = 0; i < count; i++) {
		float value = (float)scalars[i].value;

		buf_clear(&board->value);
		if ((code = add_bytes(&board->value, 1, scalars[i].tag, strlen(scalars[i].tag), err)) != 0 ||
		    (code = add_fixed(&board->value, 2, WIRE_FIXED32, &value, sizeof(value), err)) != 0 ||
		    (code = add_bytes(&board->summary, 1, board->value.data, board->value.size, err)) != 0)
			return code;
	}
	if ((code = begin_event(board, step, err)) != 0 ||
	    (code = add_bytes(&board->event, 5, board->summary.data, board->summary.size, err)) != 0)
		return code;
	return write_event(board, err);
}
