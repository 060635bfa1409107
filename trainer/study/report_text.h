/*
 * report_text.h - writing a document in pieces: errors stick, texts are escaped.
 *
 * After a failure (memory) every further call does nothing; text_end() gives
 * the first error. So a page is written without a test behind each line.
 *
 * Everything that comes from files goes through the escaping function of its
 * format; bytes that are no UTF-8 become U+FFFD, control characters a space.
 *
 * Threads: one text, one thread.
 */
#ifndef TRAINER_STUDY_REPORT_TEXT_H
#define TRAINER_STUDY_REPORT_TEXT_H

#include <stdint.h>

#include "shared/base/buf.h"

struct text {
	struct buf out;
	struct err *err;
	int code;
};

void text_begin(struct text *t, struct err *err);
/* The code; out stays for the caller to use. text_free() in any case. */
MUST_USE int text_end(struct text *t);
void text_free(struct text *t);

void text_add(struct text *t, const char *literal);
void text_f(struct text *t, const char *format, ...) PRINTF_LIKE(2, 3);
void text_bytes(struct text *t, const void *bytes, size_t size);

/* NULL is written as nothing. */
void text_html(struct text *t, const char *s);
/* With places to break a line behind +, _ and /: names of arms and runs. */
void text_html_name(struct text *t, const char *s);
/* At most so many characters, then an ellipsis: names in figures. */
void text_html_cut(struct text *t, const char *s, int characters);
void text_html_bytes(struct text *t, const void *s, size_t size);
void text_tex(struct text *t, const char *s);
void text_md(struct text *t, const char *s);   /* in a table's cell too */
void text_csv(struct text *t, const char *s);  /* quoted */
void text_json(struct text *t, const char *s); /* quoted; NULL: null */
void text_json_real(struct text *t, double value); /* NaN: null */
void text_csv_real(struct text *t, double value);  /* NaN: empty */
void text_base64(struct text *t, const void *bytes, size_t size);

/* Numbers for people, into a small buffer that the caller has; NaN is an en dash (or "-" for ASCII formats). */
enum { TEXT_NUMBER_BYTES = 48 };
struct text_number {
	char s[TEXT_NUMBER_BYTES];
};
struct text_number text_percent(double share, int digits);   /* 0.713 -> "71.3" */
struct text_number text_points(double difference, int digits); /* 0.021 -> "+2.1", with a minus sign U+2212 */
struct text_number text_fixed(double value, int digits);
struct text_number text_p(double p);                          /* "0.004", "< 0.001" */
struct text_number text_seconds(double seconds);

#endif
