#include "tests/support/scratch.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "shared/base/fs.h"

enum { PATHS_AT_ONCE = 8 };

void scratch_open(struct scratch *scratch)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(scratch->path, sizeof(scratch->path), "%s/unit-test.XXXXXX", tmp != NULL ? tmp : "/tmp");
	if (mkdtemp(scratch->path) == NULL)
		fail_msg("cannot make a folder %s", scratch->path);
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *ftw)
{
	(void)info;
	(void)type;
	(void)ftw;
	return remove(path);
}

void scratch_close(struct scratch *scratch)
{
	nftw(scratch->path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *scratch_path(const struct scratch *scratch, const char *name)
{
	static _Thread_local char paths[PATHS_AT_ONCE][2 * SCRATCH_PATH_BYTES];
	static _Thread_local unsigned next;
	char *out = paths[next++ % PATHS_AT_ONCE];

	snprintf(out, sizeof(paths[0]), "%s/%s", scratch->path, name);
	return out;
}

void scratch_write(const struct scratch *scratch, const char *name, const void *data, size_t size)
{
	const char *path = scratch_path(scratch, name);
	char folder[2 * SCRATCH_PATH_BYTES];
	struct err err;

	snprintf(folder, sizeof(folder), "%s", path);
	*strrchr(folder, '/') = '\0';
	if (fs_mkdirs(folder, 0700, &err) != 0)
		fail_msg("%s", err.message);
	FILE *file = fopen(path, "wb");
	if (file == NULL || fwrite(data, 1, size, file) != size || fclose(file) != 0)
		fail_msg("cannot write %s", path);
}

void scratch_text(const struct scratch *scratch, const char *name, const char *text)
{
	scratch_write(scratch, name, text, strlen(text));
}

const char *shared_data(const char *name)
{
	static _Thread_local char path[2 * SCRATCH_PATH_BYTES];
	const char *folder = getenv("SHARED_DATA");

	snprintf(path, sizeof(path), "%s/%s", folder != NULL ? folder : "../shared/data", name);
	if (fs_exists(path))
		return path;
	fprintf(stderr, "skipped: %s is absent\n", path);
	return NULL;
}
