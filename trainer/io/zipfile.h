/*
 * zipfile.h - the zip archives that torch.save() writes: stored entries, zip64.
 *
 * Works on bytes in memory (a mapped file) and copies nothing but names. The
 * central directory is what counts; local headers must agree with it in name,
 * and entries may neither overlap nor reach into the directory. Encrypted
 * entries and archives in several parts are refused, compressed entries when
 * they are used (TorchScript compresses its code, torch.save() nothing).
 *
 * Threads:   one caller.
 * Ownership: the bytes and the path are borrowed and outlive the archive.
 * Limits:    ZIP_ENTRIES_MAX entries, names of ZIP_NAME_MAX bytes without a zero byte.
 * Format:    PKWARE's APPNOTE.TXT 6.3.x, sections 4.3 and 4.5.3.
 */
#ifndef TRAINER_IO_ZIPFILE_H
#define TRAINER_IO_ZIPFILE_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/err.h"

enum { ZIP_ENTRIES_MAX = 1 << 20, ZIP_NAME_MAX = 1024 };

struct zip_entry {
	const char *name;
	const uint8_t *data;
	uint64_t bytes;
	uint64_t header_at; /* of the local header in the file */
	uint32_t crc;
	bool packed;        /* compressed: data is not the content */
	bool verified;
};

struct zipfile; /* an open archive */
MUST_USE int zip_open(struct zipfile **out, const char *path, const void *data, size_t bytes, struct err *err);
void zip_close(struct zipfile *zip); /* NULL is fine */
int zip_count(const struct zipfile *zip);
struct zip_entry *zip_at(struct zipfile *zip, int index); /* sorted by name */
struct zip_entry *zip_find(struct zipfile *zip, const char *name); /* NULL: none */
/* The entry is not compressed, and its bytes have the recorded CRC-32: to be
 * called before data is used. A CRC of 0 is not checked: it stands for "not computed". */
MUST_USE int zip_verify(struct zipfile *zip, struct zip_entry *entry, struct err *err);

#endif
