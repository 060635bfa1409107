#include "preprocessd/dataset/rights.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "shared/base/fs.h"
#include "shared/base/mem.h"

enum { FD_PATH_BYTES = 32, PATH_BYTES_MAX = 4096, USER_BYTES = 4096 };

int rights_of_user(struct rights *out, uint32_t uid, struct err *err)
{
	struct passwd entry, *found = NULL;
	gid_t groups[RIGHTS_GROUPS_MAX];
	int count = RIGHTS_GROUPS_MAX;
	char text[USER_BYTES];

	*out = (struct rights){ .uid = uid };
	if (getpwuid_r(uid, &entry, text, sizeof(text), &found) != 0 || found == NULL)
		return err_set(err, ERR_NOTFOUND, "there is no user %u any more", uid);
	if (getgrouplist(found->pw_name, found->pw_gid, groups, &count) < 0)
		return err_set(err, ERR_LIMIT, "user %s is in more than %d groups", found->pw_name, RIGHTS_GROUPS_MAX);
	for (int i = 0; i < count; i++)
		out->gids[out->gid_count++] = groups[i];
	return 0;
}

bool rights_in_group(const struct rights *rights, uint32_t gid)
{
	for (int i = 0; i < rights->gid_count; i++)
		if (rights->gids[i] == gid)
			return true;
	return false;
}

/* bits: 4 to read, 1 to search. */
static bool grants(const struct rights *rights, const char *path, const struct stat *info, unsigned bits)
{
	mode_t mode = info->st_mode;

	if (info->st_uid == rights->uid)
		return (mode >> 6 & bits) == bits;
	/* With a list, the group bits are its mask and say nothing of the group; a list may also refuse what the others have. */
	if (getxattr(path, "system.posix_acl_access", NULL, 0) > 0)
		return (mode & bits) == bits && (mode >> 3 & bits) == bits;
	if (rights_in_group(rights, info->st_gid))
		return (mode >> 3 & bits) == bits;
	return (mode & bits) == bits;
}

/* Every folder on the way to where it really lies. */
static bool may_reach(const struct rights *rights, char *path)
{
	struct stat info;

	if (path[0] != '/')
		return false; /* "(unreachable)..." and pipes have no place */
	for (char *slash = path; slash != NULL; slash = strchr(slash + 1, '/')) {
		char kept = slash == path ? slash[1] : slash[0];
		char *end = slash == path ? slash + 1 : slash;

		*end = '\0';
		bool granted = stat(path, &info) == 0 && S_ISDIR(info.st_mode) && grants(rights, path, &info, 1);
		*end = kept;
		if (!granted)
			return false;
	}
	return true;
}

static bool may_open(const struct rights *rights, int fd, const char *fd_path, mode_t type, unsigned bits)
{
	char real[PATH_BYTES_MAX];
	struct stat info;
	ssize_t bytes;

	if (fstat(fd, &info) != 0 || (info.st_mode & S_IFMT) != type || !grants(rights, fd_path, &info, bits))
		return false;
	bytes = readlink(fd_path, real, sizeof(real) - 1);
	if (bytes <= 0 || bytes == (ssize_t)sizeof(real) - 1)
		return false;
	real[bytes] = '\0';
	return may_reach(rights, real);
}

/* A descriptor on what path names, which the rights allow to be read; -1: they do not, or there is nothing. */
static int open_allowed(const struct rights *rights, const char *path, mode_t type, unsigned bits, char fd_path[FD_PATH_BYTES])
{
	int fd = open(path, O_PATH | O_CLOEXEC);

	if (fd < 0)
		return -1;
	snprintf(fd_path, FD_PATH_BYTES, "/proc/self/fd/%d", fd);
	if (may_open(rights, fd, fd_path, type, bits))
		return fd;
	close(fd);
	return -1;
}

static bool is_allowed(const struct rights *rights, const char *path, mode_t type, unsigned bits)
{
	char fd_path[FD_PATH_BYTES];
	struct stat info;
	int fd;

	if (rights == NULL || rights->all)
		return stat(path, &info) == 0 && (info.st_mode & S_IFMT) == type;
	fd = open_allowed(rights, path, type, bits, fd_path);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

bool rights_is_file(const struct rights *rights, const char *path)
{
	return is_allowed(rights, path, S_IFREG, 4);
}

bool rights_is_dir(const struct rights *rights, const char *path)
{
	return is_allowed(rights, path, S_IFDIR, 1);
}

int rights_read(const struct rights *rights, const char *path, size_t limit_bytes, struct buf *out, struct err *err)
{
	char fd_path[FD_PATH_BYTES];
	struct err reason;
	int fd, code;

	if (rights == NULL || rights->all)
		return fs_read(path, limit_bytes, out, err);
	fd = open_allowed(rights, path, S_IFREG, 4, fd_path);
	if (fd < 0)
		return err_set(err, ERR_NOTFOUND, "%s: is no file that user %u may read (its mode and that of every folder above it count; "
			       "access control lists give no rights here)", path, rights->uid);
	/* The same inode that was judged, whatever lies under its name by now. */
	code = fs_read(fd_path, limit_bytes, out, &reason);
	close(fd);
	if (code != 0)
		return err_set(err, code, "%s%s", path, strncmp(reason.message, fd_path, strlen(fd_path)) == 0 ? reason.message + strlen(fd_path) : "");
	return 0;
}
