/*
 * The study on the terminal: a bar over all runs, a line for each run at work,
 * a table of accuracies. Elsewhere: a line for each run that ends.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/base/plural.h"
#include "shared/base/progress.h"
#include "trainer/study/work.h"

enum { BAR_COLUMNS = 24, NAME_COLUMNS = 28, FOLDS_SHOWN = 12, ROWS_DEFAULT = 24, COLUMNS_DEFAULT = 80 };

static const double redraw_seconds = 0.5, line_seconds = 60;

void view_open(struct work *work)
{
	struct view *view = &work->view;

	view->quiet = work->options->quiet;
	view->terminal = !view->quiet && isatty(STDERR_FILENO) != 0;
	view->began = clock_seconds();
	/* The first line about the pace comes when there is one. */
	view->drawn = view->terminal ? 0 : view->began;
	view->lines = 0;
}

/* ---- pace ---- */

/* Seconds that a run of this arm took, by those that are done; 0: none is. */
static double arm_seconds(const struct work *work, int arm)
{
	double sum = 0;
	int count = 0;

	for (int i = 0; i < work->run_count; i++)
		if (work->runs[i].state == RUN_DONE && (arm < 0 || work->runs[i].cell.arm == arm)) {
			sum += work->runs[i].seconds > 0 ? work->runs[i].seconds : work->runs[i].result.train_seconds;
			count++;
		}
	return count > 0 ? sum / count : 0;
}

static double job_seconds(const struct job *job)
{
	double steps = (double)(job->steps - (job->first_steps > 0 ? job->first_steps : 0));

	return steps > 0 && job->steps_total > 0 ? (clock_seconds() - job->began) / steps * (double)job->steps_total : 0;
}

double view_eta(const struct work *work)
{
	double known = arm_seconds(work, -1), left = 0;
	int active = 0, pending = 0, workers;

	for (int j = 0; j < work->job_count && known == 0; j++)
		if (work->jobs[j].active)
			known = job_seconds(&work->jobs[j]);
	if (known == 0)
		return -1;
	for (int i = 0; i < work->run_count; i++)
		if (work->runs[i].state == RUN_PENDING) {
			double own = arm_seconds(work, work->runs[i].cell.arm);

			left += own > 0 ? own : known;
			pending++;
		}
	for (int j = 0; j < work->job_count; j++) {
		const struct job *job = &work->jobs[j];

		if (!job->active)
			continue;
		double all = job_seconds(job);
		active++;
		left += all > 0 ? all * (1 - (double)job->steps / (double)job->steps_total) : known;
	}
	/* A run that has just ended leaves its place to one that waits. */
	workers = active + pending < work->job_count ? active + pending : work->job_count;
	return workers > 0 ? left / workers : 0;
}

/* ---- drawing ---- */

static void clear(struct view *view)
{
	if (view->lines > 0)
		fprintf(stderr, "\033[%dA\033[J", view->lines);
	view->lines = 0;
}

struct screen {
	struct view *view;
	int rows, columns;
};

static void put(struct screen *screen, const char *format, ...) PRINTF_LIKE(2, 3);

static void put(struct screen *screen, const char *format, ...)
{
	char line[512];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	fprintf(stderr, "%.*s\n", screen->columns - 1, line);
	screen->view->lines++;
}

static void draw_bar(const struct work *work, struct screen *screen)
{
	char eta[16] = "?", since[16], bar[BAR_COLUMNS + 1];
	int ended = work->done + work->diverged + work->broken;
	double share = (double)ended, seconds = view_eta(work);

	for (int j = 0; j < work->job_count; j++)
		if (work->jobs[j].active && work->jobs[j].steps_total > 0)
			share += (double)work->jobs[j].steps / (double)work->jobs[j].steps_total;
	share /= work->run_count;
	for (int i = 0; i < BAR_COLUMNS; i++)
		bar[i] = i < (int)(share * BAR_COLUMNS) ? '#' : '-';
	bar[BAR_COLUMNS] = '\0';
	if (seconds >= 0)
		progress_format_seconds(eta, seconds);
	progress_format_seconds(since, clock_seconds() - work->view.began);
	put(screen, "%s  [%s] %d/%d runs  %.0f%%  %s since start  ETA %s%s", work->spec->name, bar, ended, work->run_count, 100 * share, since,
	    eta, work->stopping ? "  stopping" : "");
	if (work->diverged + work->broken > 0)
		put(screen, "  %d diverged, %d failed", work->diverged, work->broken);
}

static void draw_jobs(const struct work *work, struct screen *screen)
{
	for (int j = 0; j < work->job_count; j++) {
		const struct job *job = &work->jobs[j];
		char loss[32] = "", val[40] = "";

		if (!job->active)
			continue;
		const struct study_cell *cell = &work->runs[job->run].cell;
		if (job->has_loss)
			snprintf(loss, sizeof(loss), "  loss %.4f", job->loss);
		if (job->has_val)
			snprintf(val, sizeof(val), "  val accuracy %.4f", job->val_accuracy);
		put(screen, "  %-*.*s f%d-s%" PRId64 "  step %" PRId64 "/%" PRId64 "%s%s", NAME_COLUMNS, NAME_COLUMNS,
		    work->spec->arms[cell->arm].name, cell->fold, work->spec->seeds[cell->seed], job->steps, job->steps_total, loss, val);
	}
}

/* Mean accuracy over the seeds of what is done; fold 0: over all folds. */
static bool mean_accuracy(const struct work *work, int arm, int fold, double *out)
{
	double sum = 0;
	int count = 0;

	for (int i = 0; i < work->run_count; i++) {
		const struct run_entry *run = &work->runs[i];

		if (run->state == RUN_DONE && run->cell.arm == arm && (fold == 0 || run->cell.fold == fold)) {
			sum += run->result.accuracy;
			count++;
		}
	}
	*out = count > 0 ? sum / count : 0;
	return count > 0;
}

static void draw_row(const struct work *work, struct screen *screen, int arm)
{
	char cells[256] = "";
	size_t used = 0;
	double accuracy;

	for (int fold = 0; fold <= work->spec->folds && fold <= FOLDS_SHOWN; fold++) {
		if (mean_accuracy(work, arm, fold, &accuracy))
			used += (size_t)snprintf(cells + used, sizeof(cells) - used, " %7.4f", accuracy);
		else
			used += (size_t)snprintf(cells + used, sizeof(cells) - used, "       -");
	}
	put(screen, "  %-*.*s%s", NAME_COLUMNS, NAME_COLUMNS, work->spec->arms[arm].name, cells);
}

static void draw_table(const struct work *work, struct screen *screen)
{
	char head[256];
	size_t used = (size_t)snprintf(head, sizeof(head), "  %-*s    mean", NAME_COLUMNS, "accuracy on validation");
	int room = screen->rows - screen->view->lines - 3;

	for (int fold = 1; fold <= work->spec->folds && fold <= FOLDS_SHOWN; fold++)
		used += (size_t)snprintf(head + used, sizeof(head) - used, "%4sf%-3d", "", fold);
	if (room < 3)
		return;
	put(screen, "%s", head);
	for (int arm = 0; arm < work->spec->arm_count; arm++) {
		if (arm == room - 1 && work->spec->arm_count > room) {
			put(screen, "  ... and %d more arm%s", work->spec->arm_count - arm, plural((uint64_t)(work->spec->arm_count - arm)));
			return;
		}
		draw_row(work, screen, arm);
	}
}

static void draw_terminal(struct work *work)
{
	struct screen screen = { .view = &work->view, .rows = ROWS_DEFAULT, .columns = COLUMNS_DEFAULT };
	struct winsize size;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 && size.ws_row > 4) {
		screen.rows = size.ws_row;
		screen.columns = size.ws_col;
	}
	clear(&work->view);
	draw_bar(work, &screen);
	draw_jobs(work, &screen);
	draw_table(work, &screen);
	fflush(stderr);
}

void view_draw(struct work *work, bool now)
{
	struct view *view = &work->view;
	double since = clock_seconds() - view->drawn;

	if (view->quiet || (!now && since < (view->terminal ? redraw_seconds : line_seconds)) || (now && !view->terminal))
		return;
	view->drawn = clock_seconds();
	for (int j = 0; j < work->job_count; j++)
		if (work->jobs[j].active)
			follow_job(work, &work->jobs[j]);
	if (view->terminal) {
		draw_terminal(work);
		return;
	}
	char eta[16] = "?";
	double seconds = view_eta(work);
	if (seconds >= 0)
		progress_format_seconds(eta, seconds);
	log_info("%d/%d run%s done, ETA %s", work->done + work->diverged + work->broken, work->run_count,
		 plural((uint64_t)work->run_count), eta);
}

void view_note(struct work *work, enum log_level level, const char *format, ...)
{
	char line[2 * ERR_MESSAGE_BYTES]; /* an error's message, and what is done about it */
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	clear(&work->view);
	log_line(level, "%s", line);
	if (work->view.terminal && !work->view.quiet)
		draw_terminal(work);
}

void view_close(struct work *work)
{
	if (work->view.terminal && work->view.lines > 0) {
		for (int j = 0; j < work->job_count; j++)
			work->jobs[j].active = false;
		draw_terminal(work);
	}
	work->view.lines = 0;
}
