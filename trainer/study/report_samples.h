/*
 * report_samples.h - pictures and captions that arms get wrong.
 *
 * Which ones is decided from predictions.csv; pictures and raw captions come
 * from the daemon that has the data set. Without it (or with another version
 * of the data) the report does without, and says why.
 *
 * Threads:   one thread.
 * Ownership: report_samples_free() frees all.
 * Limits:    REPORT_SAMPLES_MAX an arm.
 */
#ifndef TRAINER_STUDY_REPORT_SAMPLES_H
#define TRAINER_STUDY_REPORT_SAMPLES_H

#include "trainer/study/report.h"
#include "trainer/study/report_analysis.h"

enum { REPORT_SAMPLES_MAX = 12, REPORT_THUMB_PIXELS = 128 };

struct report_sample {
	uint64_t picture, caption; /* sample ids */
	int32_t label;
	int runs;                  /* of each arm on this pair, at most */
	uint8_t wrong[REPORT_ARMS_MAX], seen[REPORT_ARMS_MAX]; /* runs that are wrong, of runs */
	float confidence;          /* mean probability of the wrong answer, of the row's arm */
	struct buf text;           /* the caption's raw bytes; empty: not known */
	struct buf source;         /* path of the picture */
	struct buf jpeg;           /* empty: not known */
};

/* What one arm gets wrong and the others right most often; arm -1: what every arm gets wrong. */
struct report_sample_row {
	int arm;
	int count;
	struct report_sample sample[REPORT_SAMPLES_MAX];
};

struct report_samples {
	int row_count;
	struct report_sample_row *rows;
	bool pictures;             /* the daemon gave them */
	char note[ERR_MESSAGE_BYTES]; /* why there are none */
};

MUST_USE int report_samples_find(struct report_samples **out, const struct report_analysis *analysis, int per_arm, struct err *err);
/* Captions and pictures from the daemon. Its absence is no error: note says so. ERR_NOMEM, ERR_CANCELLED. */
MUST_USE int report_samples_fetch(struct report_samples *samples, const struct report_data *data, const struct report_options *options,
				  struct err *err);
void report_samples_free(struct report_samples *samples); /* NULL is fine */

#endif
