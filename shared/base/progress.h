/*
 * progress.h - one line that shows how far long work has come.
 *
 * On a terminal the line is redrawn in place at most 10 times a second; else a
 * plain line is printed every 10 seconds and at the end. Goes to standard error.
 * One thread at a time.
 *
 *     adding rsicd  [#########---------]  1021/2185  46%  512/s  ETA 0:02  3 failed
 */
#ifndef SHARED_BASE_PROGRESS_H
#define SHARED_BASE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
	const char *label;  /* borrowed */
	uint64_t total;     /* 0: unknown */
	bool quiet;
	bool terminal;
	double start_s, last_draw_s;
	uint64_t first_done;
	bool started;
};

void progress_begin(struct progress *progress, const char *label, uint64_t total, bool quiet);
/* note: extra text after the ETA, or NULL. */
void progress_update(struct progress *progress, uint64_t done, const char *note);
/* Draws the last state and ends the line. */
void progress_end(struct progress *progress, uint64_t done, const char *note);
/* "0:07", "12:34", "3:02:01" into out (at least 16 bytes). */
void progress_format_seconds(char *out, double seconds);

#endif
