/*
 * frame.h - messages on a byte stream: u32 little-endian length, then the message.
 *
 * Threads:   one reader or writer, one thread.
 * Ownership: a frame that frame_reader_next() gives points into the reader and
 *            is valid until the next frame_reader_room().
 *            A decoded message lies in the arena, until arena_reset().
 * Limits:    FRAME_REQUEST_BYTES_MAX to the daemon, FRAME_REPLY_BYTES_MAX from it;
 *            a message's decoded form at most the arena's limit. A length
 *            beyond the limit is refused before memory for it is asked for.
 * Format:    schemas/wire.proto.
 */
#ifndef SHARED_WIRE_FRAME_H
#define SHARED_WIRE_FRAME_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include <protobuf-c/protobuf-c.h>

#include "shared/base/buf.h"

enum {
	WIRE_VERSION = 1,
	FRAME_HEADER_BYTES = 4,
	FRAME_REQUEST_BYTES_MAX = 1 << 20,
	FRAME_REPLY_BYTES_MAX = 16 << 20,
	WIRE_CLIENT_NAME_BYTES_MAX = 128,
	WIRE_FAILURES_PER_REPLY = 1024, /* of FailureList */
	WIRE_FAILURES_SHOWN = 10,       /* of Error */
	WIRE_SOURCE_BYTES_MAX = 8192,   /* of Failure */
	WIRE_NOTES_SHOWN = 20,          /* of AddReply */
	WIRE_SAMPLES_PER_REQUEST = 1024, /* of DescribeSamples */
	WIRE_SAMPLE_CAPTION_BYTES_MAX = 8192, /* of Sample */
	WIRE_DAMAGED_SHOWN = 50,        /* of UpkeepReply */
};

struct frame_reader {
	size_t limit_bytes; /* of one message */
	struct buf bytes;   /* received */
	size_t at;          /* start of what was not given out yet */
};

void frame_reader_init(struct frame_reader *reader, size_t limit_bytes);
void frame_reader_free(struct frame_reader *reader);
/* Where to receive into, at least one byte; *room says how many. */
MUST_USE int frame_reader_room(struct frame_reader *reader, char **out, size_t *room, struct err *err);
void frame_reader_received(struct frame_reader *reader, size_t bytes);
/* *got is false when no whole frame is there yet. ERR_PROTOCOL: empty or too long; the stream is lost. */
MUST_USE int frame_reader_next(struct frame_reader *reader, const uint8_t **message, size_t *size, bool *got,
			       struct err *err);

/* Appends one frame. ERR_LIMIT: longer than FRAME_REPLY_BYTES_MAX; nothing was appended. */
MUST_USE int frame_append(struct buf *out, const ProtobufCMessage *message, struct err *err);

/* Memory of decoded messages: a block that is kept, and more up to a limit. So
 * the small messages of a running stream allocate nothing, and a hostile one
 * cannot ask for more than the limit. */
struct arena_block;
struct arena {
	size_t limit_bytes;
	size_t used_bytes;          /* of all blocks */
	char *first;
	size_t first_used_bytes;
	struct arena_block *more;
	ProtobufCAllocator allocator;
};

enum { ARENA_FIRST_BYTES = 4096 };

MUST_USE int arena_init(struct arena *arena, size_t limit_bytes, struct err *err);
void arena_reset(struct arena *arena);
void arena_free(struct arena *arena);

/* Decodes a message of a type into the arena. ERR_PROTOCOL: it does not parse, or is beyond the limit. */
MUST_USE int wire_decode(const ProtobufCMessageDescriptor *type, struct arena *arena, const uint8_t *bytes, size_t size,
			 ProtobufCMessage **out, struct err *err);

/* Copies text as valid UTF-8 (what is ill-formed becomes U+FFFD), cut to room bytes with its terminator. Returns out. */
char *wire_text(char *out, size_t room, const char *text, size_t size);

/* A field of bytes that stay where they are, as long as the message is used: it only reads them. */
static inline ProtobufCBinaryData wire_bytes(const void *bytes, size_t size)
{
	return (ProtobufCBinaryData){ size, (uint8_t *)(uintptr_t)bytes };
}

static inline ProtobufCBinaryData wire_string(const char *text)
{
	return wire_bytes(text, strlen(text));
}

/* What a Failure is about. Longer than any path are only names that caption files made up. */
static inline ProtobufCBinaryData wire_source(const void *bytes, size_t size)
{
	return wire_bytes(bytes, size < WIRE_SOURCE_BYTES_MAX ? size : WIRE_SOURCE_BYTES_MAX);
}

#endif
