/*
 * flat.h - a small JSON object as a list of (path, value): "result.final.accuracy".
 *
 * For run.json, result.json and lines of metrics.jsonl. Arrays are passed over,
 * null is as if absent.
 *
 * Threads: plain data. Ownership: flat_free(). Limits: FLAT_MAX values, beyond which ERR_LIMIT.
 */
#ifndef TRAINER_STUDY_FLAT_H
#define TRAINER_STUDY_FLAT_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/err.h"

enum { FLAT_MAX = 256, FLAT_PATH_BYTES = 96 };

struct flat {
	struct {
		char path[FLAT_PATH_BYTES];
		char *text; /* a number or a text, as written */
	} all[FLAT_MAX];
	int count;
};

MUST_USE int flat_parse(struct flat *out, const char *name, const void *data, size_t size, struct err *err);
MUST_USE int flat_read(struct flat *out, const char *path, struct err *err);
void flat_free(struct flat *flat);

const char *flat_text(const struct flat *flat, const char *path); /* NULL: not there */
bool flat_real(const struct flat *flat, const char *path, double *out);
bool flat_int(const struct flat *flat, const char *path, int64_t *out);

#endif
