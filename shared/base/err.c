#include "shared/base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { WHOLE_BYTES = 16384 }; /* a few paths of the longest */

#define GAP "[...]"

/* Cuts the middle out of what is too long, which is that of a path: the reason and the remedy stand at the end. */
static void keep_ends(char out[ERR_MESSAGE_BYTES], const char *whole)
{
	const size_t bytes = strlen(whole);
	size_t head = (ERR_MESSAGE_BYTES - sizeof(GAP)) / 2, tail = bytes - head;

	if (bytes < ERR_MESSAGE_BYTES) {
		memcpy(out, whole, bytes + 1);
		return;
	}
	/* No halves of characters. */
	while (head > 0 && ((unsigned char)whole[head] & 0xC0) == 0x80)
		head--;
	while (tail < bytes && ((unsigned char)whole[tail] & 0xC0) == 0x80)
		tail++;
	memcpy(out, whole, head);
	memcpy(out + head, GAP, sizeof(GAP) - 1);
	memcpy(out + head + sizeof(GAP) - 1, whole + tail, bytes - tail + 1);
}

int err_set(struct err *err, int code, const char *format, ...)
{
	char whole[WHOLE_BYTES];
	va_list args;

	CHECK(code < 0);
	if (err == NULL)
		return code;
	err->code = code;
	va_start(args, format);
	vsnprintf(whole, sizeof(whole), format, args);
	va_end(args);
	keep_ends(err->message, whole);
	return code;
}

static int code_of_errno(int errno_value)
{
	switch (errno_value) {
	case ENOSPC:
	case EDQUOT:
		return ERR_FULL;
	case ENOENT:
		return ERR_NOTFOUND;
	case ENOMEM:
		return ERR_NOMEM;
	default:
		return ERR_IO;
	}
}

int err_errno(struct err *err, int errno_value, const char *format, ...)
{
	char context[WHOLE_BYTES];
	char reason[128];
	va_list args;

	va_start(args, format);
	vsnprintf(context, sizeof(context), format, args);
	va_end(args);
	/* The GNU variant returns the text, which need not be in the buffer. */
	const char *text = strerror_r(errno_value, reason, sizeof(reason));
	return err_set(err, code_of_errno(errno_value), "%s: %s", context, text);
}

int err_prefix(struct err *err, const char *format, ...)
{
	char context[WHOLE_BYTES];
	char whole[WHOLE_BYTES + ERR_MESSAGE_BYTES];
	va_list args;

	if (err == NULL)
		return ERR_IO;
	va_start(args, format);
	vsnprintf(context, sizeof(context), format, args);
	va_end(args);
	snprintf(whole, sizeof(whole), "%s: %s", context, err->message);
	keep_ends(err->message, whole);
	return err->code;
}

int err_nomem(struct err *err, size_t bytes)
{
	return err_set(err, ERR_NOMEM, "out of memory (%zu bytes asked for)", bytes);
}

const char *err_name(int code)
{
	switch (code) {
	case ERR_OK: return "ok";
	case ERR_USAGE: return "usage";
	case ERR_NOMEM: return "no-memory";
	case ERR_IO: return "io";
	case ERR_NOTFOUND: return "not-found";
	case ERR_EXISTS: return "exists";
	case ERR_FORMAT: return "format";
	case ERR_UNSUPPORTED: return "unsupported";
	case ERR_LIMIT: return "limit";
	case ERR_CORRUPT: return "corrupt";
	case ERR_BUSY: return "busy";
	case ERR_UNAVAILABLE: return "unavailable";
	case ERR_PROTOCOL: return "protocol";
	case ERR_MISMATCH: return "mismatch";
	case ERR_CANCELLED: return "cancelled";
	case ERR_FULL: return "full";
	default: return "unknown";
	}
}

int err_exit_code(int code)
{
	if (code == ERR_OK)
		return 0;
	if (code == ERR_USAGE)
		return 2;
	return code == ERR_CANCELLED ? 130 : 1;
}
