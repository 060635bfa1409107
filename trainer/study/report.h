/*
 * report.h - the report on a study, or a comparison of plain runs.
 *
 * report_study_write() may be called at any time, also while the study runs:
 * what has finished is reported, and what is missing is said. Files are
 * replaced atomically.
 *
 *     report.html      for people: one file, no network, inline SVG, dark and light, phone, print
 *     report.md        the answer and the table
 *     report.tex       the table for a paper (booktabs)
 *     report.csv       a line for each arm        report-runs.csv  a line for each run
 *     report.json      everything, unrounded
 *
 * Threads:   one caller.
 * Format:    schemas/study.md ("report.json").
 */
#ifndef TRAINER_STUDY_REPORT_H
#define TRAINER_STUDY_REPORT_H

#include <stdbool.h>

#include "shared/base/buf.h"

enum report_format { REPORT_HTML = 1, REPORT_MD = 2, REPORT_TEX = 4, REPORT_CSV = 8, REPORT_JSON = 16, REPORT_ALL = 31 };

struct report_options {
	const char *out;       /* folder; NULL: the study's */
	unsigned formats;      /* enum report_format; 0: all */
	const char *socket;    /* of the daemon, for sample pictures; NULL: the default one */
	int samples;           /* pictures an arm; 0: none */
	const char *baseline;  /* arm that the others are held against; NULL: the study's */
	struct buf *answer;    /* appended: the answer as a few lines of plain text; may be NULL */
	struct buf *json;      /* appended: report.json's content, beside or in place of the file; may be NULL */
	bool no_files;
	bool (*cancelled)(void *context); /* of the daemon's client; may be NULL */
};
/* All formats, 4 samples. */
void report_options_init(struct report_options *out);

/*
 * dir: a study's folder. ERR_NOTFOUND: not one. ERR_FORMAT, ERR_MISMATCH: a damaged or wrong file, which is named.
 * ERR_USAGE: options->baseline is none of its arms.
 */
MUST_USE int report_study_write(const char *dir, const struct report_options *options, struct err *err);

/* Run folders side by side; the first is what the others' cost is relative to. Files are written only
 * with options->out; `answer` gets the table as text. */
enum { REPORT_PLAIN_RUNS_MAX = 64 };
MUST_USE int report_runs_write(const char *const *dirs, int count, const struct report_options *options, struct err *err);

#endif
