/*
 * report_page.h - the parts of report.html, each a section of its own.
 *
 * Threads: as the text they write to.
 */
#ifndef TRAINER_STUDY_REPORT_PAGE_H
#define TRAINER_STUDY_REPORT_PAGE_H

#include "trainer/study/report_words.h"
#include "trainer/study/svg.h"

/* <head>, style and the opening of <main>; title is escaped here. */
void page_begin(struct text *t, const char *title);
void page_end(struct text *t);
/* A heading with an anchor; the id is a literal. */
void page_section(struct text *t, const char *id, const char *heading);

/* report_figures.c */
struct svg_scale page_forest_scale(const struct report_analysis *a);
void page_forest_row(struct text *t, const struct svg_scale *scale, const struct stats_paired *test, double wide_low, double wide_high,
		     enum report_verdict verdict);
void page_forest_axis(struct text *t, const struct svg_scale *scale);
void page_curves(struct text *t, const struct report_analysis *a);
void page_cost(struct text *t, const struct report_analysis *a);
void page_factorial(struct text *t, const struct report_analysis *a);
void page_calibration(struct text *t, const struct report_analysis *a);
/* Points over epochs done. */
struct page_series {
	int count;
	const double *at, *value, *half; /* (count); half: of a band, may be NULL */
};
/* One run's or arm's curves as a small plot: solid val, dashed train, the baseline's val in gray. */
struct page_curve {
	struct page_series train, val, base; /* count 0: none */
};
/* What all plots of a page have in common. */
struct page_range {
	double low, high; /* of values; low > high: nothing yet */
	double epochs;    /* whole */
};
void page_range_add(struct page_range *range, const struct page_series *series);
void page_curve_plot(struct text *t, const char *name, const struct page_curve *curve, const struct page_range *range, bool percent);
/* How to read them. base: what is behind "validation of", NULL: nothing. */
void page_curve_key(struct text *t, const char *base);
#define PAGE_CURVE_WORDS "Points stand at the epochs done by then: the end of the first one is 1. Training is the mean over each epoch&#39;s steps."

/* report_robust.c */
void page_robustness(struct text *t, const struct report_analysis *a);

/* report_reviewer.c */
void page_samples(struct text *t, const struct report_analysis *a, const struct report_samples *samples);
void page_reviewer(struct text *t, const struct report_analysis *a);

#endif
