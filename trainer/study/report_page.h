/*
 * report_page.h - the parts of report.html, each a section of its own.
 *
 * Threads: as the text they write to.
 */
#ifndef TRAINER_STUDY_REPORT_PAGE_H
#define TRAINER_STUDY_REPORT_PAGE_H

#include "trainer/study/report_words.h"

/* <head>, style and the opening of <main>; title is escaped here. */
void page_begin(struct text *t, const char *title);
void page_end(struct text *t);
/* A heading with an anchor; the id is a literal. */
void page_section(struct text *t, const char *id, const char *heading);

/* report_figures.c */
void page_forest_scale(const struct report_analysis *a, double *low, double *high);
void page_forest_row(struct text *t, double low, double high, const struct stats_paired *test, double wide_low, double wide_high,
		     enum report_verdict verdict);
void page_forest_axis(struct text *t, double low, double high);
void page_curves(struct text *t, const struct report_analysis *a);
void page_cost(struct text *t, const struct report_analysis *a);
void page_factorial(struct text *t, const struct report_analysis *a);
void page_calibration(struct text *t, const struct report_analysis *a);
/* One run's or arm's curves as a small plot: solid val, dashed train, the baseline's val in gray. */
struct page_curve {
	const double *train, *train_half, *val, *val_half; /* (count); halves may be NULL */
	int count;
	const double *base;
	int base_count;
};
void page_curve_plot(struct text *t, const char *name, const struct page_curve *curve, double low, double high, int epochs, bool percent);

/* report_robust.c */
void page_robustness(struct text *t, const struct report_analysis *a);

/* report_reviewer.c */
void page_samples(struct text *t, const struct report_analysis *a, const struct report_samples *samples);
void page_reviewer(struct text *t, const struct report_analysis *a);

#endif
