/*
 * buf.h - a growable byte string.
 *
 * `struct buf b = BUF_INIT;` owns nothing yet. After any call, data[size] is
 * a zero byte (data may be NULL only while nothing was ever added). A failed
 * call leaves the content as it was. buf_free() releases and returns the
 * struct to BUF_INIT; buf_clear() keeps the memory.
 */
#ifndef SHARED_BASE_BUF_H
#define SHARED_BASE_BUF_H

#include <stddef.h>

#include "shared/base/err.h"

struct buf {
	char *data;      /* read-only for users, as are the other two */
	size_t size;     /* bytes in use */
	size_t capacity; /* bytes allocated */
};

#define BUF_INIT { NULL, 0, 0 }

MUST_USE int buf_reserve(struct buf *buf, size_t more_bytes, struct err *err);
MUST_USE int buf_add(struct buf *buf, const void *bytes, size_t count, struct err *err);
MUST_USE int buf_add_text(struct buf *buf, const char *text, struct err *err);
MUST_USE int buf_add_byte(struct buf *buf, char byte, struct err *err);
MUST_USE int buf_printf(struct buf *buf, struct err *err, const char *format, ...) PRINTF_LIKE(3, 4);
void buf_clear(struct buf *buf);
void buf_free(struct buf *buf);

#endif
