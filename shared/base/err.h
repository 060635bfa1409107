/*
 * err.h - how a function says that it failed, and why.
 *
 * A fallible function returns 0 or one negative code of enum err_code and
 * fills the caller's struct err. The struct is a plain value: it travels with
 * a job from a pool thread to the loop thread, so nothing here is thread-local.
 *
 * A message is one line without a full stop that names the thing (file, data
 * set, option), the reason and, where the user can do something, the remedy:
 *     "photos/7.jpg: not a JPEG (PNG signature); convert it or add with --on-bad skip"
 *
 * Propagate an error as it is; err_prefix() puts context in front of it.
 */
#ifndef SHARED_BASE_ERR_H
#define SHARED_BASE_ERR_H

#include "shared/base/check.h"

enum err_code {
	ERR_OK = 0,
	ERR_USAGE = -1,       /* the command line or a specification is wrong: exit code 2 */
	ERR_NOMEM = -2,       /* memory could not be had */
	ERR_IO = -3,          /* the operating system refused a file or socket operation */
	ERR_NOTFOUND = -4,    /* no such file, data set, vocabulary, record, tensor */
	ERR_EXISTS = -5,      /* already there, and different */
	ERR_FORMAT = -6,      /* input from outside is malformed */
	ERR_UNSUPPORTED = -7, /* well-formed, but of a kind that is not handled */
	ERR_LIMIT = -8,       /* beyond a stated maximum */
	ERR_CORRUPT = -9,     /* what we wrote ourselves is damaged (checksum, layout) */
	ERR_BUSY = -10,       /* another process holds it */
	ERR_UNAVAILABLE = -11, /* no daemon, or the connection to it broke */
	ERR_PROTOCOL = -12,   /* the other side broke the wire protocol */
	ERR_MISMATCH = -13,   /* two things that must agree do not (shape, version, data) */
	ERR_CANCELLED = -14,  /* stopped on request */
	ERR_FULL = -15,       /* no space left: disk or quota */
};

enum { ERR_MESSAGE_BYTES = 1024 };

struct err {
	int code;                         /* enum err_code */
	char message[ERR_MESSAGE_BYTES];  /* one line, always terminated */
};

/* Fills err (NULL is allowed) and returns code, so that a function can end
 * with `return err_set(err, ERR_IO, ...)`. Too long a message loses its middle: the thing
 * stands at its beginning, the reason at its end. */
int err_set(struct err *err, int code, const char *format, ...) PRINTF_LIKE(3, 4);

/* As err_set, with ": " and the text of the errno value appended; ENOSPC and
 * EDQUOT become ERR_FULL, ENOENT ERR_NOTFOUND, ENOMEM ERR_NOMEM, others ERR_IO. */
int err_errno(struct err *err, int errno_value, const char *format, ...) PRINTF_LIKE(3, 4);

/* Puts "context: " in front of the message; the code stays. Returns the code. */
int err_prefix(struct err *err, const char *format, ...) PRINTF_LIKE(2, 3);

int err_nomem(struct err *err, size_t bytes);

/* "not-found" and so on, for logs and the wire. */
const char *err_name(int code);

/* The process exit code for an error: 2 for ERR_USAGE, 130 for ERR_CANCELLED, else 1. */
int err_exit_code(int code);

#endif
