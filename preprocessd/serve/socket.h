/*
 * socket.h - the listening socket, and the lock that keeps it ours.
 *
 * A lock file SOCKET.lock (flock) is held as long as the daemon lives. So a
 * socket file without a lock at which nobody listens is one that a killed
 * daemon left behind, and is replaced; one with a lock is a live daemon's, and
 * an error, and so is one where a process listens though its lock file was
 * removed. Who ends removes only what is still its own. A daemon that is
 * stopping says so in the lock file, and one that was killed does not answer:
 * for both a successor waits a while.
 */
#ifndef PREPROCESSD_SERVE_SOCKET_H
#define PREPROCESSD_SERVE_SOCKET_H

#include <stdbool.h>

#include "shared/base/err.h"

struct socket_lock;

/* ERR_BUSY: a live daemon has this socket; its pid is named. ERR_EXISTS: a file of another kind is there. ERR_NOTFOUND: its folder
 * is not there. */
MUST_USE int socket_lock_open(struct socket_lock **out, const char *path, struct err *err);
/* Binds and listens: mode 0600, close-on-exec, non-blocking. */
MUST_USE int socket_listen(struct socket_lock *lock, bool for_groups, int *out_fd, struct err *err);
/* Removes the socket file and marks the lock: a successor may wait. */
void socket_stop(struct socket_lock *lock);
void socket_lock_close(struct socket_lock *lock); /* removes what is left; NULL is fine */

#endif
