/*
 * writeback.h - lets the disk begin with a commit's pages while LMDB is still copying others into the file.
 *
 * A commit copies all its pages to the kernel and waits for the disk then, which has had nothing to do meanwhile: of the time in
 * which small pictures are committed a third was such copying. Here a thread asks the kernel every millisecond to begin
 * (sync_file_range). Nothing depends on it: LMDB's own fdatasync() waits for every page and hears of every error, as without.
 *
 * Threads:   one of its own; begin and end in turns from one other thread.
 * Ownership: the file is borrowed from begin until end returns.
 */
#ifndef PREPROCESSD_STORE_WRITEBACK_H
#define PREPROCESSD_STORE_WRITEBACK_H

#include "shared/base/err.h"

struct writeback;

MUST_USE int writeback_open(struct writeback **out, struct err *err);
void writeback_close(struct writeback *writeback); /* NULL is fine */

void writeback_begin(struct writeback *writeback, int fd);
void writeback_end(struct writeback *writeback);

#endif
