/*
 * check.h - assertions that stay on, and small compile-time helpers.
 *
 * CHECK is for our own bugs only: a condition that our code guarantees. No
 * byte that comes from outside (files, sockets, arguments) may decide one.
 */
#ifndef SHARED_BASE_CHECK_H
#define SHARED_BASE_CHECK_H

#include <stddef.h>

#define MUST_USE __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

__attribute__((noreturn, cold)) void check_failed(const char *file, int line, const char *condition);

#define CHECK(condition) \
	((condition) ? (void)0 : check_failed(__FILE__, __LINE__, #condition))

#endif
