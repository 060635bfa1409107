#include "shared/base/progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "shared/base/check.h"
#include "shared/base/clock.h"

enum { LINE_BYTES = 512, BAR_COLUMNS = 18, COLUMNS_DEFAULT = 80 };

/* SHORTEST_S: a speed measured over less time would be noise. */
static const double REDRAW_S = 0.1, PLAIN_LINE_S = 10.0, SHORTEST_S = 0.05;

void progress_format_seconds(char *out, double seconds)
{
	/* Also false for a rate that was no number. */
	if (!(seconds >= 0))
		seconds = 0;
	if (seconds > 3599999)
		seconds = 3599999;
	unsigned whole = (unsigned)(seconds + 0.5);
	if (whole >= 3600)
		snprintf(out, 16, "%u:%02u:%02u", whole / 3600, whole / 60 % 60, whole % 60);
	else
		snprintf(out, 16, "%u:%02u", whole / 60, whole % 60);
}

void progress_begin(struct progress *progress, const char *label, uint64_t total, bool quiet)
{
	*progress = (struct progress){
		.label = label,
		.total = total,
		.quiet = quiet,
		.terminal = isatty(STDERR_FILENO) != 0,
		.start_s = clock_seconds(),
	};
	progress->last_draw_s = progress->start_s;
}

struct line {
	char text[LINE_BYTES];
	size_t used;
};

static void add(struct line *line, const char *format, ...) PRINTF_LIKE(2, 3);

static void add(struct line *line, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	int added = vsnprintf(line->text + line->used, LINE_BYTES - line->used, format, args);
	va_end(args);
	if (added > 0)
		line->used += (size_t)added;
	/* Room for the newline stays. */
	if (line->used > LINE_BYTES - 2)
		line->used = LINE_BYTES - 2;
}

static void add_bar(struct line *line, uint64_t done, uint64_t total)
{
	int filled = (int)((double)done / (double)total * BAR_COLUMNS);

	add(line, "  [");
	for (int i = 0; i < BAR_COLUMNS; i++)
		add(line, i < filled ? "#" : "-");
	add(line, "]");
}

static void make_line(struct line *line, const struct progress *progress, uint64_t done, const char *note, bool last,
		      double now)
{
	double elapsed = now - progress->start_s;
	/* What was done before (a resumed run) says nothing about the speed. */
	double rate = elapsed > SHORTEST_S ? (double)(done - progress->first_done) / elapsed : 0;
	uint64_t total = progress->total;
	char time[16];

	if (total != 0 && done > total)
		done = total;
	add(line, "%s", progress->label);
	if (total != 0) {
		add_bar(line, done, total);
		add(line, "  %llu/%llu  %d%%", (unsigned long long)done, (unsigned long long)total,
		    (int)((double)done / (double)total * 100));
	} else {
		add(line, "  %llu", (unsigned long long)done);
	}
	/* Where all was done before the first report there is no speed to tell. */
	if (elapsed > SHORTEST_S && done > progress->first_done)
		add(line, rate < 10 ? "  %.1f/s" : "  %.0f/s", rate);
	if (last || total == 0) {
		progress_format_seconds(time, elapsed);
		add(line, "  %s", time);
	} else if (rate > 0) {
		progress_format_seconds(time, (double)(total - done) / rate);
		add(line, "  ETA %s", time);
	}
	if (note != NULL && note[0] != '\0')
		add(line, "  %s", note);
}

/* A line that wraps can't be redrawn in place. */
static void cut_to_terminal(struct line *line)
{
	struct winsize window;
	size_t columns = COLUMNS_DEFAULT;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1)
		columns = window.ws_col;
	for (size_t i = 0, seen = 0; i < line->used; i++) {
		seen += ((unsigned char)line->text[i] & 0xC0) != 0x80;
		if (seen == columns) {
			line->used = i;
			return;
		}
	}
}

static void draw(struct progress *progress, uint64_t done, const char *note, bool last, double now)
{
	char bytes[LINE_BYTES + 8];
	struct line line = { .used = 0 };

	make_line(&line, progress, done, note, last, now);
	if (progress->terminal)
		cut_to_terminal(&line);
	int size = snprintf(bytes, sizeof(bytes), "%s%.*s%s", progress->terminal ? "\r\033[K" : "", (int)line.used, line.text,
			    progress->terminal && !last ? "" : "\n");
	/* Nothing sensible can be done when standard error itself fails. */
	ssize_t ignored = write(STDERR_FILENO, bytes, (size_t)size);
	(void)ignored;
	progress->last_draw_s = now;
}

void progress_update(struct progress *progress, uint64_t done, const char *note)
{
	double now = clock_seconds();

	if (!progress->started) {
		progress->started = true;
		/* The first report tells where a resumed job takes up. Work that
		 * was finished before the first report belongs to the speed. */
		progress->first_done = now - progress->start_s < REDRAW_S ? done : 0;
		if (progress->terminal && !progress->quiet)
			draw(progress, done, note, false, now);
		return;
	}
	if (progress->quiet || now - progress->last_draw_s < (progress->terminal ? REDRAW_S : PLAIN_LINE_S))
		return;
	draw(progress, done, note, false, now);
}

void progress_end(struct progress *progress, uint64_t done, const char *note)
{
	if (!progress->quiet)
		draw(progress, done, note, true, clock_seconds());
}
