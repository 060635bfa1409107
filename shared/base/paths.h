/*
 * paths.h - where the socket and the cache lie when nobody says.
 *
 * Socket: --socket, else $PREPROCESSD_SOCKET, else
 *         $XDG_RUNTIME_DIR/preprocessd/preprocessd.sock, else /tmp/preprocessd-UID/preprocessd.sock.
 * Cache:  --cache, else $PREPROCESSD_CACHE, else $XDG_CACHE_HOME/preprocessd,
 *         else ~/.cache/preprocessd, else /tmp/preprocessd-UID/cache.
 * Folders that these functions make have mode 0700; an existing /tmp folder
 * that belongs to somebody else is refused.
 */
#ifndef SHARED_BASE_PATHS_H
#define SHARED_BASE_PATHS_H

#include <stdbool.h>

#include "shared/base/err.h"

enum { PATHS_SOCKET_BYTES_MAX = 107 }; /* sockaddr_un.sun_path without its terminator */

/* option: the value of --socket or NULL. make_folder: create the parent folder
 * of a default path (the daemon does, clients do not). Caller frees *out with
 * mem_free. ERR_LIMIT: the path is longer than a socket address can hold. */
MUST_USE int paths_socket(char **out, const char *option, bool make_folder, struct err *err);
/* Makes the cache folder if it is missing and make_folder is set. */
MUST_USE int paths_cache(char **out, const char *option, bool make_folder, struct err *err);
/* ERR_IO unless folder is a folder (not a link to one) of this user that
 * nobody else may enter. */
MUST_USE int paths_check_private(const char *folder, struct err *err);

#endif
