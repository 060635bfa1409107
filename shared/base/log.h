/*
 * log.h - lines for people on standard error; quiet or verbose by level.
 *
 * Threads: any; one line is one write(2), so lines never mix.
 * A progress line on a terminal is cleared first (see progress.h). What a file
 * is called, or a caption says, does not steer the terminal: log_clean().
 */
#ifndef SHARED_BASE_LOG_H
#define SHARED_BASE_LOG_H

#include <stddef.h>

#include "shared/base/check.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Program name in front of each line; messages above level are dropped.
 * with_time: put the UTC time in front (daemon). Call once, before threads. */
void log_setup(const char *program, enum log_level level, int with_time);
/* Control characters, of ASCII and of UTF-8's C1, become '?': no line can look like two, or move the cursor. */
void log_clean(char *text, size_t bytes);
void log_line(enum log_level level, const char *format, ...) PRINTF_LIKE(2, 3);

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

#endif
