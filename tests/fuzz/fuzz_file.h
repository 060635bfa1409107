/*
 * fuzz_file.h - bytes as a file, for what is read by its path.
 *
 * A folder of its own below $TMPDIR or /tmp, made at the first use and removed at the end of the process.
 */
#ifndef TESTS_FUZZ_FUZZ_FILE_H
#define TESTS_FUZZ_FUZZ_FILE_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "shared/base/check.h"

static char fuzz_folder[512];

static const char *fuzz_path(const char *name)
{
	static char path[sizeof(fuzz_folder) + 64];

	snprintf(path, sizeof(path), "%s/%s", fuzz_folder, name);
	return path;
}

static const char *const fuzz_names[] = { "first", "second" };

static void fuzz_remove_folder(void)
{
	for (size_t i = 0; i < sizeof(fuzz_names) / sizeof(fuzz_names[0]); i++)
		unlink(fuzz_path(fuzz_names[i]));
	rmdir(fuzz_folder);
}

/* The path of a file with these bytes; which: one of fuzz_names. Good until the next call. */
static const char *fuzz_write(int which, const void *bytes, size_t size)
{
	if (fuzz_folder[0] == '\0') {
		const char *base = getenv("TMPDIR");

		snprintf(fuzz_folder, sizeof(fuzz_folder), "%s/fuzz-XXXXXX", base != NULL ? base : "/tmp");
		CHECK(mkdtemp(fuzz_folder) != NULL && atexit(fuzz_remove_folder) == 0);
	}
	const char *path = fuzz_path(fuzz_names[which]);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	CHECK(fd >= 0 && write(fd, bytes, size) == (ssize_t)size && close(fd) == 0);
	return path;
}

#endif
