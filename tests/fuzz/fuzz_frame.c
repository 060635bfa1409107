/* Any bytes on the wire: the first says in which pieces they arrive. What decodes, decodes to the same again and
 * can be packed. The rest of the bytes is taken as a slot as well. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/mem.h"
#include "shared/wire/frame.h"
#include "shared/wire/slot.h"
#include "wire.pb-c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* As a request, the way to the daemon, or as a reply, the way back. */
static void check_message(const ProtobufCMessageDescriptor *type, struct arena *arena, const uint8_t *bytes, size_t size)
{
	ProtobufCMessage *message, *again;
	struct buf frame = BUF_INIT;
	struct arena second;
	struct err err;
	char text[64];

	arena_reset(arena);
	wire_text(text, sizeof(text), (const char *)bytes, size);
	if (wire_decode(type, arena, bytes, size, &message, &err) != 0)
		return;
	/* Into other memory it is the same message, and it can be sent on. */
	CHECK(arena_init(&second, 2 << 20, &err) == 0);
	CHECK(wire_decode(type, &second, bytes, size, &again, &err) == 0);
	if (type == &wire__request__descriptor)
		CHECK(((Wire__Request *)again)->verb_case == ((Wire__Request *)message)->verb_case);
	size_t packed = protobuf_c_message_get_packed_size(message);
	CHECK(packed == protobuf_c_message_get_packed_size(again));
	if (packed > 0 && packed <= FRAME_REPLY_BYTES_MAX) {
		CHECK(frame_append(&frame, message, &err) == 0);
		CHECK(frame.size == FRAME_HEADER_BYTES + packed);
	}
	arena_free(&second);
	buf_free(&frame);
}

static void check_slot(const uint8_t *data, size_t size)
{
	void *slot = mem_aligned(size);
	struct err err;

	CHECK(slot != NULL);
	memcpy(slot, data, size);
	if (size >= 8)
		memcpy(slot, SLOT_MAGIC, 8); /* behind the first check */
	(void)!slot_check(slot, size, 12, &err);
	mem_free(slot);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct frame_reader reader;
	struct arena arena;
	struct err err;
	size_t piece = size > 0 ? 1 + data[0] : 1;

	CHECK(arena_init(&arena, 1 << 20, &err) == 0);
	frame_reader_init(&reader, FRAME_REQUEST_BYTES_MAX);
	for (size_t at = 1; at < size;) {
		const uint8_t *message;
		size_t room, bytes;
		bool got = true;
		char *to;

		CHECK(frame_reader_room(&reader, &to, &room, &err) == 0);
		bytes = size - at < piece ? size - at : piece;
		bytes = bytes < room ? bytes : room;
		memcpy(to, data + at, bytes);
		frame_reader_received(&reader, bytes);
		at += bytes;
		while (got) {
			if (frame_reader_next(&reader, &message, &bytes, &got, &err) != 0)
				goto out;
			if (!got)
				continue;
			check_message(&wire__request__descriptor, &arena, message, bytes);
			check_message(&wire__reply__descriptor, &arena, message, bytes);
		}
	}
out:
	frame_reader_free(&reader);
	arena_free(&arena);
	check_slot(data, size);
	return 0;
}
