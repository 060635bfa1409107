/*
 * scratch.h - a folder for one test, removed with all that is in it.
 *
 * Every function fails the running cmocka test itself when it cannot do its work.
 */
#ifndef TESTS_SUPPORT_SCRATCH_H
#define TESTS_SUPPORT_SCRATCH_H

#include <stddef.h>

enum { SCRATCH_PATH_BYTES = 512 };

struct scratch {
	char path[SCRATCH_PATH_BYTES];
};

void scratch_open(struct scratch *scratch);
void scratch_close(struct scratch *scratch);

/* path/name; a few calls may be used in one expression. */
const char *scratch_path(const struct scratch *scratch, const char *name);
/* Writes a file, making folders that are missing. */
void scratch_write(const struct scratch *scratch, const char *name, const void *data, size_t size);
void scratch_text(const struct scratch *scratch, const char *name, const char *text);

/* $SHARED_DATA/name or ../shared/data/name; NULL (and a line on standard error) where it is absent. */
const char *shared_data(const char *name);

#endif
