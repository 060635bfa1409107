/* A run's folder: what it is called, whether it is free, the lock on it, and what a killed process left there. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "shared/base/fs.h"
#include "trainer/train/session.h"

enum { FOLDER_NAME_BYTES = 160 /* what a longer default name is cut to */ };

int run_folder_default(const struct run_config *config, char *out, size_t bytes, struct err *err)
{
	char name[REG_TEXT_BYTES + SESSION_NAME_BYTES], seed[32];
	int length;

	if (config->data == NULL)
		return err_set(err, ERR_USAGE, "--resume needs --out DIR, the folder of the run to go on with");
	length = snprintf(name, sizeof(name), "%s-%s", config->data, config->reg == NULL ? "none" : config->reg);
	snprintf(seed, sizeof(seed), "-seed%lld", config->seed < 0 ? 0LL : (long long)config->seed);
	if (length < 0 || (size_t)length >= sizeof(name))
		return err_set(err, ERR_USAGE, "name the folder of this run with --out: the default would be too long");
	if (strlen(name) + strlen(seed) > NAME_MAX)
		fs_shorten_name(name, FOLDER_NAME_BYTES);
	if ((size_t)snprintf(out, bytes, "runs/%s%s", name, seed) >= bytes)
		return err_set(err, ERR_USAGE, "name the folder of this run with --out: the default would be too long");
	for (char *c = out + strlen("runs/"); *c != '\0'; c++)
		if (strchr("/:=, \t", *c) != NULL)
			*c = '_';
	return 0;
}

/* What a process that was killed while it wrote a file has left, or a link not yet renamed. */
static bool is_leftover(const char *name)
{
	static const char *const written[] = { "run.json", "metrics.jsonl", "predictions.csv", "last.safetensors", "best.safetensors" };

	if (strcmp(name, ".last.safetensors.new") == 0 || strcmp(name, ".best.safetensors.new") == 0)
		return true;
	for (size_t i = 0; i < ARRAY_LEN(written); i++)
		if (fs_is_temporary(name, written[i]))
			return true;
	return false;
}

/* Whether a folder holds anything of a run; a missing one does not. */
static bool in_use(const char *path)
{
	DIR *folder = opendir(path);
	struct dirent *entry;
	bool any = false;

	if (folder == NULL)
		return fs_exists(path);
	while (!any && (entry = readdir(folder)) != NULL)
		any = strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 && strcmp(entry->d_name, ".lock") != 0 &&
		      !is_leftover(entry->d_name);
	closedir(folder);
	return any;
}

/* Only with the lock held: another trainer's are not left over. */
static void remove_leftovers(const char *path)
{
	DIR *folder = opendir(path);
	struct dirent *entry;

	while (folder != NULL && (entry = readdir(folder)) != NULL)
		if (is_leftover(entry->d_name))
			unlinkat(dirfd(folder), entry->d_name, 0);
	if (folder != NULL)
		closedir(folder);
}

int run_folder_check(const struct session *s, struct err *err)
{
	if (fs_exists(s->dir) && !fs_is_dir(s->dir))
		return err_set(err, ERR_EXISTS, "--out %s: is not a folder", s->dir);
	if (!s->options->resume && in_use(s->dir))
		return err_set(err, ERR_EXISTS,
			       "--out %s: the folder is not empty; go on with the run in it with --resume, or choose another --out",
			       s->dir);
	return 0;
}

int run_folder_take(struct session *s, struct err *err)
{
	char path[SESSION_PATH_BYTES + 8];
	int code = fs_mkdirs(s->dir, 0777, err);

	if (code != 0)
		return code;
	snprintf(path, sizeof(path), "%s/.lock", s->dir);
	s->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (s->lock < 0)
		return err_errno(err, errno, "%s", path);
	if (flock(s->lock, LOCK_EX | LOCK_NB) != 0)
		return err_set(err, ERR_BUSY, "--out %s: another trainer is writing there", s->dir);
	/* Another one may have come and gone since the first look. */
	if ((code = run_folder_check(s, err)) == 0)
		remove_leftovers(s->dir);
	return code;
}
