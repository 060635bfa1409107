#include "shared/base/paths.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/base/fs.h"
#include "shared/base/mem.h"

enum { FOLDER_MODE = 0700, FALLBACK_BYTES = 64 };

#define SOCKET_NAME "preprocessd.sock"

/* A set variable's value; empty counts as unset. */
static const char *from_env(const char *name)
{
	const char *value = getenv(name);

	return value == NULL || value[0] == '\0' ? NULL : value;
}

/* The XDG standard says that relative paths are invalid and to be ignored. */
static const char *xdg_folder(const char *name)
{
	const char *value = from_env(name);

	return value != NULL && value[0] == '/' ? value : NULL;
}

/* After `su` the variable may still name another user's folder; the socket
 * could not be made there. A missing one is made. */
static const char *runtime_folder(void)
{
	const char *folder = xdg_folder("XDG_RUNTIME_DIR");
	struct stat info;

	if (folder != NULL && stat(folder, &info) == 0 && (!S_ISDIR(info.st_mode) || info.st_uid != geteuid()))
		return NULL;
	return folder;
}

static const char *home_folder(void)
{
	const char *home = xdg_folder("HOME");

	if (home == NULL) {
		const struct passwd *user = getpwuid(geteuid());

		home = user == NULL ? NULL : user->pw_dir;
	}
	/* Service users have homes like /nonexistent. */
	return home != NULL && fs_is_dir(home) && access(home, W_OK | X_OK) == 0 ? home : NULL;
}

int paths_check_private(const char *folder, struct err *err)
{
	struct stat info;

	if (lstat(folder, &info) != 0)
		return err_errno(err, errno, "%s", folder);
	if (!S_ISDIR(info.st_mode) || info.st_uid != geteuid())
		return err_set(err, ERR_IO, "%s: not a folder of yours, and not safe to use; set XDG_RUNTIME_DIR and "
			       "XDG_CACHE_HOME, or give --socket and --cache", folder);
	if ((info.st_mode & 077) != 0)
		return err_set(err, ERR_IO, "%s: other users may enter it; run: chmod 700 %s", folder, folder);
	return 0;
}

/* /tmp/preprocessd-UID, for users without XDG folders. Anybody may have made
 * a folder of that name in /tmp. */
static int fallback_folder(char out[FALLBACK_BYTES], bool make_folder, struct err *err)
{
	snprintf(out, FALLBACK_BYTES, "/tmp/preprocessd-%u", (unsigned)geteuid());
	if (make_folder && mkdir(out, FOLDER_MODE) != 0 && errno != EEXIST)
		return err_errno(err, errno, "cannot make the folder %s", out);
	int code = paths_check_private(out, err);
	return code == ERR_NOTFOUND && !make_folder ? 0 : code;
}

static int make_private(const char *folder, struct err *err)
{
	return fs_mkdirs(folder, FOLDER_MODE, err);
}

static int default_socket(char **out, bool make_folder, struct err *err)
{
	char fallback[FALLBACK_BYTES];
	const char *runtime = runtime_folder();
	char *folder = NULL;
	int code;

	if (runtime == NULL) {
		if ((code = fallback_folder(fallback, make_folder, err)) != 0)
			return code;
		return fs_join(out, fallback, SOCKET_NAME, err);
	}
	if ((code = fs_join(&folder, runtime, "preprocessd", err)) != 0)
		return code;
	if (make_folder && (code = make_private(folder, err)) != 0) {
		err_prefix(err, "XDG_RUNTIME_DIR %s", runtime);
		goto out;
	}
	code = fs_join(out, folder, SOCKET_NAME, err);
out:
	mem_free(folder);
	return code;
}

static int copy_path(char **out, const char *path, struct err *err)
{
	*out = mem_strdup(path);
	return *out == NULL ? err_nomem(err, strlen(path)) : 0;
}

int paths_socket(char **out, const char *option, bool make_folder, struct err *err)
{
	const char *chosen = option != NULL ? option : from_env("PREPROCESSD_SOCKET");
	int code;

	*out = NULL;
	code = chosen != NULL ? copy_path(out, chosen, err) : default_socket(out, make_folder, err);
	if (code != 0)
		return code;
	size_t bytes = strlen(*out);
	if (bytes > PATHS_SOCKET_BYTES_MAX || bytes == 0) {
		code = err_set(err, ERR_LIMIT, "socket path %s: %zu bytes, a socket's path has 1 to %d; "
			       "choose a shorter one with --socket or PREPROCESSD_SOCKET", *out, bytes, PATHS_SOCKET_BYTES_MAX);
		mem_free(*out);
		*out = NULL;
	}
	return code;
}

static int default_cache(char **out, bool make_folder, struct err *err)
{
	char fallback[FALLBACK_BYTES];
	const char *base;
	int code;

	if ((base = xdg_folder("XDG_CACHE_HOME")) != NULL)
		return fs_join(out, base, "preprocessd", err);
	if ((base = home_folder()) != NULL)
		return fs_join(out, base, ".cache/preprocessd", err);
	if ((code = fallback_folder(fallback, make_folder, err)) != 0)
		return code;
	return fs_join(out, fallback, "cache", err);
}

int paths_cache(char **out, const char *option, bool make_folder, struct err *err)
{
	const char *chosen = option != NULL ? option : from_env("PREPROCESSD_CACHE");
	int code;

	*out = NULL;
	code = chosen != NULL ? copy_path(out, chosen, err) : default_cache(out, make_folder, err);
	if (code == 0 && make_folder && (code = make_private(*out, err)) != 0) {
		err_prefix(err, "cache %s", *out);
		mem_free(*out);
		*out = NULL;
	}
	return code;
}
