#include "preprocessd/dataset/rights.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/magic.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
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

/* Where the mode bits (and lists) of an inode are all that decides. Elsewhere they may say yes and the system no: /proc asks who
 * may trace the process, FUSE who mounted, a file server somebody else again. */
static bool modes_decide(int fd)
{
	struct statfs system;

	if (fstatfs(fd, &system) != 0)
		return false;
	switch ((uint32_t)system.f_type) {
	case EXT4_SUPER_MAGIC:
	case XFS_SUPER_MAGIC:
	case BTRFS_SUPER_MAGIC:
	case F2FS_SUPER_MAGIC:
	case TMPFS_MAGIC:
	case RAMFS_MAGIC:
	case OVERLAYFS_SUPER_MAGIC:
	case SQUASHFS_MAGIC:
	case EROFS_SUPER_MAGIC_V1:
	case ISOFS_SUPER_MAGIC:
	case MSDOS_SUPER_MAGIC:
	case REISERFS_SUPER_MAGIC:
	case 0x2011BAB0: /* exFAT; these have no name in linux/magic.h */
	case 0x3153464A: /* JFS */
	case 0x15013346: /* UDF */
	case 0x2FC12FC1: /* ZFS */
	case 0xCA451A4E: /* bcachefs */
		return true;
	default:
		return false;
	}
}

/* bits: 4 to read, 1 to search. fd: of any kind, O_PATH too. */
static bool grants(const struct rights *rights, int fd, mode_t type, unsigned bits)
{
	char path[FD_PATH_BYTES];
	struct stat info;

	if (fstat(fd, &info) != 0 || (info.st_mode & S_IFMT) != type || !modes_decide(fd))
		return false;
	if (info.st_uid == rights->uid)
		return (info.st_mode >> 6 & bits) == bits;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	/* With a list, the group bits are its mask and say nothing of the group; a list may also refuse what the others have. */
	if (getxattr(path, "system.posix_acl_access", NULL, 0) > 0)
		return (info.st_mode & bits) == bits && (info.st_mode >> 3 & bits) == bits;
	if (rights_in_group(rights, info.st_gid))
		return (info.st_mode >> 3 & bits) == bits;
	return (info.st_mode & bits) == bits;
}

/* From folder to folder by descriptors, none of which the user may not search: what lies at the end is what the user
 * could have opened the same way, whatever is renamed meanwhile. path is cut up. */
static int walk(const struct rights *rights, char *path)
{
	int fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	char *rest = path;

	while (fd >= 0 && rest != NULL) {
		char *name = strsep(&rest, "/");
		int next;

		if (name[0] == '\0')
			continue;
		next = grants(rights, fd, S_IFDIR, 1) ? openat(fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC) : -1;
		close(fd);
		fd = next;
	}
	return fd;
}

/* Where it really lies; links are followed with the daemon's rights, and what they lead to is judged. */
static bool find_real(const char *path, char real[PATH_BYTES_MAX])
{
	char fd_path[FD_PATH_BYTES];
	int fd = open(path, O_PATH | O_CLOEXEC);

	if (fd < 0)
		return false;
	snprintf(fd_path, sizeof(fd_path), "/proc/self/fd/%d", fd);
	ssize_t bytes = readlink(fd_path, real, PATH_BYTES_MAX - 1);
	close(fd);
	if (bytes <= 0 || bytes == PATH_BYTES_MAX - 1 || real[0] != '/')
		return false; /* "(unreachable)..." and pipes have no place */
	real[bytes] = '\0';
	return true;
}

/* A descriptor on what path names, which the rights allow to be read; -1: they do not, or there is nothing. */
static int open_allowed(const struct rights *rights, const char *path, mode_t type, unsigned bits)
{
	char real[PATH_BYTES_MAX];
	int fd = find_real(path, real) ? walk(rights, real) : -1;

	if (fd >= 0 && !grants(rights, fd, type, bits)) {
		close(fd);
		return -1;
	}
	return fd;
}

static int why_not_this(int fd)
{
	struct stat info;

	if (fstat(fd, &info) != 0)
		return errno;
	switch (info.st_mode & S_IFMT) {
	case S_IFREG:
		return EACCES;
	case S_IFDIR:
		return EISDIR;
	case S_IFLNK:
		return ENOENT;
	default:
		return RIGHTS_NO_FILE;
	}
}

/* For an absolute path that may not be read. Goes only where the user may go and follows no link, so it tells nothing that the
 * user could not find out alone. */
static int why_not(const struct rights *rights, const char *path)
{
	char copy[PATH_BYTES_MAX], *rest = copy;
	int fd, next, why = 0;

	if (strlen(path) >= sizeof(copy))
		return ENAMETOOLONG;
	memcpy(copy, path, strlen(path) + 1);
	if ((fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0)
		return errno;
	while (rest != NULL && why == 0) {
		const char *name = strsep(&rest, "/");

		if (name[0] == '\0')
			continue;
		why = why_not_this(fd);
		if (why != EISDIR) {
			why = why == ENOENT ? ENOENT : ENOTDIR;
		} else if (!grants(rights, fd, S_IFDIR, 1)) {
			why = EACCES;
		} else if ((next = openat(fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC)) < 0) {
			why = errno;
		} else {
			close(fd);
			fd = next;
			why = 0;
		}
	}
	if (why == 0)
		why = why_not_this(fd);
	close(fd);
	return why;
}

int rights_find_file(const struct rights *rights, const char *path)
{
	struct stat info;
	int fd;

	if (rights == NULL || rights->all) {
		if (stat(path, &info) != 0)
			return errno;
		return S_ISREG(info.st_mode) ? 0 : S_ISDIR(info.st_mode) ? EISDIR : RIGHTS_NO_FILE;
	}
	if ((fd = open_allowed(rights, path, S_IFREG, 4)) < 0)
		return why_not(rights, path);
	close(fd);
	return 0;
}

bool rights_is_dir(const struct rights *rights, const char *path)
{
	struct stat info;
	int fd;

	if (rights == NULL || rights->all)
		return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
	if ((fd = open_allowed(rights, path, S_IFDIR, 1)) >= 0)
		close(fd);
	return fd >= 0;
}

int rights_read(const struct rights *rights, const char *path, size_t limit_bytes, struct buf *out, struct err *err)
{
	char fd_path[FD_PATH_BYTES];
	struct err reason;
	int fd, code;

	if (rights == NULL || rights->all)
		return fs_read(path, limit_bytes, out, err);
	fd = open_allowed(rights, path, S_IFREG, 4);
	if (fd < 0)
		return err_set(err, ERR_NOTFOUND, "%s: is no file that user %u may read (its mode and that of every folder above it count, on "
			       "a local file system; access control lists give no rights here)", path, rights->uid);
	snprintf(fd_path, sizeof(fd_path), "/proc/self/fd/%d", fd);
	/* The same inode that was judged, whatever lies under its name by now. */
	code = fs_read(fd_path, limit_bytes, out, &reason);
	close(fd);
	if (code != 0)
		return err_set(err, code, "%s%s", path, strncmp(reason.message, fd_path, strlen(fd_path)) == 0 ? reason.message + strlen(fd_path) : "");
	return 0;
}
