/*
 * svg.h - plots as inline SVG: axes with round ticks, lines, bands, intervals.
 *
 * Colors are classes (s0 .. s7) that the page's style sheet defines for light,
 * dark and print, after Okabe and Ito, the ones that differ most first: color-blind readers can tell
 * them apart; lines of one plot differ in dashes or marks as well. Text inherits the page's color.
 *
 * A plot is VIEW units wide and scales with its column; texts stay readable
 * on a phone because plots are small and many, not large and few.
 *
 * Threads: as the text they write to.
 */
#ifndef TRAINER_STUDY_SVG_H
#define TRAINER_STUDY_SVG_H

#include <stdbool.h>

#include "trainer/study/report_text.h"

enum { SVG_COLORS = 8, SVG_TICKS_MAX = 12 };

struct svg_scale {
	double low, high; /* of the data's axis, low < high */
	bool percent;     /* ticks are 100 times the value */
	bool whole;       /* ticks stand at whole numbers alone: half an epoch is none */
};

struct svg_plot {
	struct text *t;
	double width, height;             /* of the view */
	double left, right, top, bottom;  /* margins */
	struct svg_scale x, y;
};

/* A scale around [low, high] with some air; also for one value, or none (NaN): then 0 to 1. */
struct svg_scale svg_scale(double low, double high);
/* Round values within the scale; returns how many. *digits: decimals that tell them apart. */
int svg_ticks(const struct svg_scale *scale, int wanted, double out[SVG_TICKS_MAX], int *digits);

/* Opens <svg> with a title for screen readers. */
void svg_begin(const struct svg_plot *plot, const char *title);
void svg_end(const struct svg_plot *plot);
/* Frame, grid, ticks (x_ticks 0: none), labels (NULL: none). */
void svg_axes(const struct svg_plot *plot, const char *x_label, const char *y_label, int x_ticks, int y_ticks);
double svg_x(const struct svg_plot *plot, double x);
double svg_y(const struct svg_plot *plot, double y);
/* Through the finite points: an epoch without a validation is no gap. One alone is a dot. */
void svg_line(const struct svg_plot *plot, const double *x, const double *y, int count, const char *classes);
/* A dot at each finite point. */
void svg_dots(const struct svg_plot *plot, const double *x, const double *y, int count, double radius, const char *classes);
/* y - half .. y + half through the same points, of one alone a bar; a half that is not finite has no width. */
void svg_band(const struct svg_plot *plot, const double *x, const double *y, const double *half, int count, const char *classes);
/* One of six shapes, so that marks differ without color. */
void svg_mark(const struct svg_plot *plot, double x, double y, int shape, double size, const char *classes);

#endif
