/*
 * json.h - a pull parser over bytes in memory, and a writer.
 *
 * Why not a library's tree: COCO's captions are 90 MB of JSON, and a tree of
 * them would cost the daemon more memory than all the rest of it. The parser
 * keeps nothing but its position and reports line and column of any fault.
 *
 * Strict RFC 8259, except that NaN, Infinity and -Infinity are accepted as
 * numbers where Python's json module writes them, and that a leading byte
 * order mark is passed over. Strings must be valid UTF-8 and escaped surrogates
 * come in pairs, unless lenient_utf8 is set: it hands bytes on as they stand, and
 * a lone surrogate as the three bytes that UTF-8 would have for it, which are as
 * invalid. Keys may repeat; it is the caller who decides what that means.
 *
 * Threads: one parser, one thread. Limits: depth JSON_DEPTH_MAX.
 */
#ifndef SHARED_BASE_JSON_H
#define SHARED_BASE_JSON_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/buf.h"

enum { JSON_DEPTH_MAX = 64 };

enum json_kind {
	JSON_OBJECT_BEGIN, JSON_OBJECT_END, JSON_ARRAY_BEGIN, JSON_ARRAY_END,
	JSON_KEY, JSON_STRING, JSON_NUMBER, JSON_TRUE, JSON_FALSE, JSON_NULL, JSON_END
};

struct json_reader {
	const char *name; /* for messages; borrowed */
	const char *whole; /* what ends where the bytes do, in messages: "file" unless set after init */
	const char *data; /* borrowed */
	size_t size, at;
	size_t token_at;  /* where the last event begins, or the fault lies */
	size_t line;      /* of token_at, from 1 */
	size_t line_start;
	bool lenient_utf8; /* set after init: invalid UTF-8 and lone surrogates in strings are no fault */
	uint64_t closers; /* bit d-1: the container at depth d is an object */
	int depth;
	int state;
	enum json_kind kind;  /* of the last event */
	struct buf text;      /* KEY, STRING: decoded; NUMBER: as written. Valid until the next event */
};

struct json_mark {
	size_t at, token_at, line, line_start;
	uint64_t closers;
	int depth, state;
	enum json_kind kind;
};

void json_reader_init(struct json_reader *reader, const char *name, const void *data, size_t size);
void json_reader_free(struct json_reader *reader);
/* Moves to the next event; reader->kind tells which. After JSON_END, stays there. */
MUST_USE int json_next(struct json_reader *reader, struct err *err);
/* Having just read a KEY or standing before a value: skips the whole next value. */
MUST_USE int json_skip(struct json_reader *reader, struct err *err);
/* Where a reader stands, to read on from there once more. */
struct json_mark json_mark(const struct json_reader *reader);
void json_return(struct json_reader *reader, const struct json_mark *mark); /* text is not that of then */
/* Next event must be of this kind; the message says what was expected where. */
MUST_USE int json_expect(struct json_reader *reader, enum json_kind kind, struct err *err);
/* The last event, a NUMBER, as a value; ERR_FORMAT where it is no integer or out of range. */
MUST_USE int json_int(const struct json_reader *reader, int64_t *out, struct err *err);
MUST_USE int json_real(const struct json_reader *reader, double *out, struct err *err);
/* An ERR_FORMAT with "name:line:column: " of the last event in front (columns count bytes, from 1). */
int json_fail(const struct json_reader *reader, struct err *err, const char *format, ...) PRINTF_LIKE(3, 4);

/* Appends a quoted, escaped string; invalid UTF-8 becomes U+FFFD. */
MUST_USE int json_add_string(struct buf *out, const char *text, size_t size, struct err *err);
/* With the first of 15, 16 or 17 digits that reads back as the same double; NaN and Inf become null. */
MUST_USE int json_add_real(struct buf *out, double value, struct err *err);

#endif
