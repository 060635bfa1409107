/*
 * records.h - the cache's records that are Protocol Buffers messages.
 *
 * Threads: pure functions. Format: schemas/records.proto.
 * Bytes from disk are not trusted: what does not parse or lacks a part is ERR_CORRUPT.
 */
#ifndef PREPROCESSD_PIPELINE_RECORDS_H
#define PREPROCESSD_PIPELINE_RECORDS_H

#include "preprocessd/dataset/manifest.h"
#include "shared/base/buf.h"
#include "records.pb-c.h"

enum { RECORDS_LAYOUT = 1 };

MUST_USE int records_dataset_encode(const Records__DatasetRecord *record, struct buf *out, struct err *err);
/* *out is freed with records__dataset_record__free_unpacked(*out, NULL). */
MUST_USE int records_dataset_decode(Records__DatasetRecord **out, const char *name, const void *bytes, size_t size,
				    struct err *err);

/* Where its manifest is kept. Two data sets of one version have manifests of their own if their files lie in different places. */
void records_dataset_manifest(const Records__DatasetRecord *record, struct hash *out);

/* Why this release cannot prepare a picture. decode fills err with it, and returns its code; 0: it may be tried. */
MUST_USE int records_failure_encode(const struct err *reason, struct buf *out, struct err *err);
int records_failure_decode(const void *bytes, size_t size, struct err *err);

MUST_USE int records_failures_encode(const struct listing *listing, struct buf *out, struct err *err);
MUST_USE int records_failures_decode(Records__FailureListRecord **out, const char *name, const void *bytes, size_t size,
				     struct err *err);

#endif
