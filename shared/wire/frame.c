#include "shared/wire/frame.h"

#include <string.h>

#include "shared/base/mem.h"
#include "shared/base/utf8.h"

enum { FRAME_READ_BYTES = 4096 };

void frame_reader_init(struct frame_reader *reader, size_t limit_bytes)
{
	*reader = (struct frame_reader){ .limit_bytes = limit_bytes, .bytes = BUF_INIT };
}

void frame_reader_free(struct frame_reader *reader)
{
	buf_free(&reader->bytes);
	reader->at = 0;
}

static uint32_t load_u32(const char *bytes)
{
	const uint8_t *b = (const uint8_t *)bytes;

	return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

int frame_reader_room(struct frame_reader *reader, char **out, size_t *room, struct err *err)
{
	struct buf *bytes = &reader->bytes;
	size_t left = bytes->size - reader->at;
	size_t want = FRAME_READ_BYTES;

	if (reader->at > 0) {
		memmove(bytes->data, bytes->data + reader->at, left);
		bytes->size = left;
		reader->at = 0;
	}
	/* frame_reader_next() has checked the length against the limit. */
	if (left >= FRAME_HEADER_BYTES) {
		size_t whole = FRAME_HEADER_BYTES + (size_t)load_u32(bytes->data);

		if (whole > left && whole - left > want)
			want = whole - left;
	}
	int code = buf_reserve(bytes, want, err);
	if (code != 0)
		return code;
	*out = bytes->data + bytes->size;
	*room = bytes->capacity - bytes->size - 1;
	return 0;
}

void frame_reader_received(struct frame_reader *reader, size_t bytes)
{
	CHECK(bytes < reader->bytes.capacity - reader->bytes.size);
	reader->bytes.size += bytes;
	reader->bytes.data[reader->bytes.size] = '\0';
}

int frame_reader_next(struct frame_reader *reader, const uint8_t **message, size_t *size, bool *got, struct err *err)
{
	size_t left = reader->bytes.size - reader->at;

	*got = false;
	if (left < FRAME_HEADER_BYTES)
		return 0;
	const char *start = reader->bytes.data + reader->at;
	size_t length = load_u32(start);
	if (length == 0)
		return err_set(err, ERR_PROTOCOL, "a frame of zero bytes");
	if (length > reader->limit_bytes)
		return err_set(err, ERR_PROTOCOL, "a frame of %zu bytes, the limit is %zu", length, reader->limit_bytes);
	if (left - FRAME_HEADER_BYTES < length)
		return 0;
	*message = (const uint8_t *)start + FRAME_HEADER_BYTES;
	*size = length;
	*got = true;
	reader->at += FRAME_HEADER_BYTES + length;
	return 0;
}

int frame_append(struct buf *out, const ProtobufCMessage *message, struct err *err)
{
	size_t length = protobuf_c_message_get_packed_size(message);

	if (length > FRAME_REPLY_BYTES_MAX)
		return err_set(err, ERR_LIMIT, "a message of %zu bytes, the limit is %d", length, FRAME_REPLY_BYTES_MAX);
	CHECK(length > 0);
	int code = buf_reserve(out, FRAME_HEADER_BYTES + length, err);
	if (code != 0)
		return code;
	uint8_t *at = (uint8_t *)out->data + out->size;
	for (int i = 0; i < FRAME_HEADER_BYTES; i++)
		at[i] = (uint8_t)(length >> (8 * i));
	CHECK(protobuf_c_message_pack(message, at + FRAME_HEADER_BYTES) == length);
	out->size += FRAME_HEADER_BYTES + length;
	out->data[out->size] = '\0';
	return 0;
}

/* --- arena ---------------------------------------------------------------- */

struct arena_block {
	struct arena_block *next;
	_Alignas(16) char bytes[];
};

static void *arena_take(void *context, size_t size)
{
	struct arena *arena = context;
	size_t bytes;

	if (!size_add(size, 15, &bytes))
		return NULL;
	bytes &= ~(size_t)15;
	if (bytes > arena->limit_bytes - arena->used_bytes)
		return NULL;
	arena->used_bytes += bytes;
	if (bytes <= ARENA_FIRST_BYTES - arena->first_used_bytes) {
		char *at = arena->first + arena->first_used_bytes;

		arena->first_used_bytes += bytes;
		return at;
	}
	struct arena_block *block = mem_alloc(sizeof(*block) + bytes);
	if (block == NULL)
		return NULL;
	block->next = arena->more;
	arena->more = block;
	return block->bytes;
}

static void arena_give_back(void *context, void *p)
{
	/* Everything goes at once in arena_reset(). */
	(void)context;
	(void)p;
}

int arena_init(struct arena *arena, size_t limit_bytes, struct err *err)
{
	CHECK(limit_bytes >= ARENA_FIRST_BYTES);
	*arena = (struct arena){ .limit_bytes = limit_bytes };
	arena->allocator = (ProtobufCAllocator){ .alloc = arena_take, .free = arena_give_back, .allocator_data = arena };
	arena->first = mem_alloc(ARENA_FIRST_BYTES);
	return arena->first != NULL ? 0 : err_nomem(err, ARENA_FIRST_BYTES);
}

void arena_reset(struct arena *arena)
{
	while (arena->more != NULL) {
		struct arena_block *next = arena->more->next;

		mem_free(arena->more);
		arena->more = next;
	}
	arena->used_bytes = 0;
	arena->first_used_bytes = 0;
}

void arena_free(struct arena *arena)
{
	arena_reset(arena);
	mem_free(arena->first);
	arena->first = NULL;
}

int wire_decode(const ProtobufCMessageDescriptor *type, struct arena *arena, const uint8_t *bytes, size_t size,
		ProtobufCMessage **out, struct err *err)
{
	*out = protobuf_c_message_unpack(type, &arena->allocator, size, bytes);
	if (*out == NULL)
		return err_set(err, ERR_PROTOCOL, "%zu bytes that are no %s", size, type->short_name);
	return 0;
}

char *wire_text(char *out, size_t room, const char *text, size_t size)
{
	size_t used = 0;

	CHECK(room > 0);
	for (size_t i = 0; i < size && text[i] != '\0';) {
		size_t length = utf8_char_bytes(text + i, size - i);
		const char *from = length > 0 ? text + i : "\xEF\xBF\xBD";
		size_t bytes = length > 0 ? length : 3;

		if (bytes > room - 1 - used)
			break;
		memcpy(out + used, from, bytes);
		used += bytes;
		i += length > 0 ? length : utf8_bad_bytes(text + i, size - i);
	}
	out[used] = '\0';
	return out;
}
