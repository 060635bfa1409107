/*
 * csv.h - rows of a CSV file in memory (RFC 4180).
 *
 * Fields may be quoted; a quoted field may hold separators, line ends and
 * doubled quotes. Lines end in LF, CRLF or CR. With a tab or '|' between the
 * fields quotes are ordinary characters, as such files are written; around
 * '|' spaces are dropped. Blank lines are passed over.
 *
 * Threads: one. Limits: CSV_COLUMNS_MAX, CSV_FIELD_BYTES_MAX.
 */
#ifndef PREPROCESSD_DATASET_CSV_H
#define PREPROCESSD_DATASET_CSV_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/buf.h"

enum { CSV_COLUMNS_MAX = 65536, CSV_FIELD_BYTES_MAX = 16 << 20 };

struct csv {
	const char *data; /* borrowed */
	size_t size, at;
	uint32_t next_line; /* of `at`, from 1 */
	char separator;
	/* the row */
	uint32_t line;      /* where it begins */
	uint32_t count, capacity;
	struct buf text;
	size_t *ends; /* (count) in text */
};

/* Passes over a byte order mark. */
void csv_open(struct csv *csv, const char *data, size_t size, char separator);
void csv_close(struct csv *csv);
/* count is 0 at the end. The message has no file name; csv->line says where. */
MUST_USE int csv_next(struct csv *csv, struct err *err);
const char *csv_field(const struct csv *csv, uint32_t column, size_t *bytes);

#endif
