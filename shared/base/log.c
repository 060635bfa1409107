#include "shared/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LOG_LINE_BYTES = 8192 }; /* the longest path, and an error's message behind it */

static const char *log_program = "";
static enum log_level log_threshold = LOG_INFO;
static int log_with_time;

void log_setup(const char *program, enum log_level level, int with_time)
{
	log_program = program;
	log_threshold = level;
	log_with_time = with_time;
}

static size_t append(char *line, size_t used, const char *format, ...) PRINTF_LIKE(3, 4);

static size_t append(char *line, size_t used, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	int added = vsnprintf(line + used, LOG_LINE_BYTES - used, format, args);
	va_end(args);
	if (added < 0)
		return used;
	used += (size_t)added;
	return used < LOG_LINE_BYTES ? used : LOG_LINE_BYTES - 1;
}

void log_clean(char *text, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++) {
		unsigned char c = (unsigned char)text[i], next = i + 1 < bytes ? (unsigned char)text[i + 1] : 0;

		if ((c < ' ' && c != '\t') || c == 0x7F)
			text[i] = '?';
		else if (c == 0xC2 && next >= 0x80 && next < 0xA0)
			text[i] = text[i + 1] = '?';
	}
}

void log_line(enum log_level level, const char *format, ...)
{
	static const char *const words[] = { "error: ", "warning: ", "", "debug: " };
	char line[LOG_LINE_BYTES];
	char message[LOG_LINE_BYTES];
	size_t used = 0;
	va_list args;

	if (level > log_threshold)
		return;
	if (isatty(STDERR_FILENO))
		used = append(line, used, "\r\033[K");
	if (log_with_time) {
		struct timespec now;
		struct tm parts;

		clock_gettime(CLOCK_REALTIME, &now);
		gmtime_r(&now.tv_sec, &parts);
		used = append(line, used, "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ ", parts.tm_year + 1900, parts.tm_mon + 1,
			      parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec, now.tv_nsec / 1000000);
	}
	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	log_clean(message, strlen(message));
	used = append(line, used, "%s: %s%s", log_program, words[level], message);
	if (used > LOG_LINE_BYTES - 2)
		used = LOG_LINE_BYTES - 2;
	line[used++] = '\n';
	/* Nothing sensible can be done when standard error itself fails. */
	ssize_t ignored = write(STDERR_FILENO, line, used);
	(void)ignored;
}
