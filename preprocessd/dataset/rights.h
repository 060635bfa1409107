/*
 * rights.h - whose files the daemon may read on somebody's behalf.
 *
 * A daemon that serves a group runs as one user but is asked by others. What a
 * client names is read only if that client could read it: mode bits of the
 * file itself and of every folder above it, with the client's user and groups.
 * Where it really lies is walked to from the root, folder by folder, and each
 * is judged by the descriptor through which the next is opened, so that
 * nothing can be swapped in between. Access control lists can only take rights
 * away here, never give any, and only local file systems count, where modes
 * are all that decides (not /proc, FUSE, NFS); so the answer may be "no" where
 * the system's would be "yes", never the other way round.
 *
 * Threads:   any.
 * Ownership: plain values.
 * Limits:    RIGHTS_GROUPS_MAX groups.
 */
#ifndef PREPROCESSD_DATASET_RIGHTS_H
#define PREPROCESSD_DATASET_RIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/base/buf.h"

enum { RIGHTS_GROUPS_MAX = 256 };

struct rights {
	bool all; /* the daemon's own: no check beyond the system's */
	uint32_t uid;
	uint32_t gids[RIGHTS_GROUPS_MAX];
	int gid_count;
};

/* Those of a user of this system and all its groups. ERR_NOTFOUND: there is no such user. */
MUST_USE int rights_of_user(struct rights *out, uint32_t uid, struct err *err);
bool rights_in_group(const struct rights *rights, uint32_t gid);

/* As fs_read(). What may not be read gives ERR_NOTFOUND, whether it exists or not. rights NULL: all. */
MUST_USE int rights_read(const struct rights *rights, const char *path, size_t limit_bytes, struct buf *out, struct err *err);
/* 0: a regular file that may be read (rights NULL or all: that is there). Else why not, as open() would say it to a user with
 * these rights: ENOENT, EACCES, ELOOP, ...; EISDIR: a folder; RIGHTS_NO_FILE: a pipe, a device, a socket. What a link leads
 * to that may not be read is ENOENT, whether it exists or not. */
enum { RIGHTS_NO_FILE = -1 };
int rights_find_file(const struct rights *rights, const char *path);
/* A folder that may be searched (rights NULL or all: that is there). */
bool rights_is_dir(const struct rights *rights, const char *path);

#endif
