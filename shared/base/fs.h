/*
 * fs.h - whole files in and out.
 *
 * fs_write_atomic() writes a temporary file beside the target, fsyncs it and
 * renames it over the target, then fsyncs the folder: after a crash the old or
 * the new content is there, never a mixture. On failure nothing is left over.
 * A symbolic link stays one: its target is replaced, or made. A device, pipe or
 * socket (/dev/null, /dev/stdout) is written to as it is. A new file's mode is
 * what open() with 0666 gives it.
 */
#ifndef SHARED_BASE_FS_H
#define SHARED_BASE_FS_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/buf.h"

/* For the beginning of main(): takes the numbers 0, 1 and 2 where they are closed (2>&-), so that no file of ours gets one, and
 * messages with it. Whoever uses them fails as before. */
void fs_take_standard(void);

/* Reads a regular file of at most limit_bytes. ERR_LIMIT if larger, ERR_FORMAT
 * if it is not a regular file. out is appended to. */
MUST_USE int fs_read(const char *path, size_t limit_bytes, struct buf *out, struct err *err);
MUST_USE int fs_write_atomic(const char *path, const void *data, size_t size, struct err *err);

/* The same in pieces, for files too large to build in memory. */
struct fs_writer;
MUST_USE int fs_writer_open(struct fs_writer **out, const char *path, struct err *err);
MUST_USE int fs_writer_add(struct fs_writer *writer, const void *data, size_t size, struct err *err);
MUST_USE int fs_writer_commit(struct fs_writer *writer, struct err *err); /* frees writer in any case */
void fs_writer_abort(struct fs_writer *writer);                         /* frees; NULL is fine */

/* Whether a file of this name is what a process that was killed has left of writing the file `of`. */
bool fs_is_temporary(const char *name, const char *of);

/* Cuts a name that is longer than `limit` bytes to at most so many, at a whole character, of which the last 17 are '-' and a checksum
 * of the whole name: the same name always gives the same one, and two that differ behind the cut stay two. limit > 17. */
void fs_shorten_name(char *name, size_t limit);

/* Names in a folder that were made, changed or removed survive power loss from now on, where the folder may be read. */
MUST_USE int fs_sync_folder(const char *path, struct err *err);
/* mkdir -p; existing folders are fine. mode applies to the ones it makes, which survive power loss. */
MUST_USE int fs_mkdirs(const char *path, unsigned mode, struct err *err);
bool fs_exists(const char *path);
bool fs_is_dir(const char *path);
/* out = a/b, or b alone if b is absolute or a is empty. Caller frees with mem_free. */
MUST_USE int fs_join(char **out, const char *a, const char *b, struct err *err);

#endif
