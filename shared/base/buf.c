#include "shared/base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/mem.h"

enum { BUF_FIRST_BYTES = 64 };

int buf_reserve(struct buf *buf, size_t more_bytes, struct err *err)
{
	size_t need, capacity = buf->capacity;

	if (!size_add(buf->size, more_bytes, &need) || !size_add(need, 1, &need))
		return err_nomem(err, more_bytes);
	if (need <= capacity)
		return 0;
	if (capacity < BUF_FIRST_BYTES)
		capacity = BUF_FIRST_BYTES;
	while (capacity < need)
		if (!size_mul(capacity, 2, &capacity))
			capacity = need;
	char *data = mem_realloc_array(buf->data, capacity, 1);
	if (data == NULL)
		return err_nomem(err, capacity);
	data[buf->size] = '\0';
	buf->data = data;
	buf->capacity = capacity;
	return 0;
}

int buf_add(struct buf *buf, const void *bytes, size_t count, struct err *err)
{
	int code = buf_reserve(buf, count, err);

	if (code != 0)
		return code;
	if (count > 0)
		memcpy(buf->data + buf->size, bytes, count);
	buf->size += count;
	buf->data[buf->size] = '\0';
	return 0;
}

int buf_add_text(struct buf *buf, const char *text, struct err *err)
{
	return buf_add(buf, text, strlen(text), err);
}

int buf_add_byte(struct buf *buf, char byte, struct err *err)
{
	return buf_add(buf, &byte, 1, err);
}

int buf_printf(struct buf *buf, struct err *err, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	int length = vsnprintf(NULL, 0, format, args);
	va_end(args);
	CHECK(length >= 0);
	int code = buf_reserve(buf, (size_t)length, err);
	if (code != 0)
		return code;
	va_start(args, format);
	vsnprintf(buf->data + buf->size, (size_t)length + 1, format, args);
	va_end(args);
	buf->size += (size_t)length;
	return 0;
}

void buf_clear(struct buf *buf)
{
	buf->size = 0;
	if (buf->data != NULL)
		buf->data[0] = '\0';
}

void buf_free(struct buf *buf)
{
	mem_free(buf->data);
	*buf = (struct buf)BUF_INIT;
}
