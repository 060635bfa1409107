/*
 * describe.h - what people are told about data sets, as messages of schemas/wire.proto.
 *
 * Threads: any, each with its own reader. Ownership: a message is borrowed
 * while use() runs; use() packs it.
 */
#ifndef PREPROCESSD_PIPELINE_DESCRIBE_H
#define PREPROCESSD_PIPELINE_DESCRIBE_H

#include "preprocessd/pipeline/catalog.h"
#include "wire.pb-c.h"

typedef int (*describe_detail_use)(void *context, Wire__DatasetDetail *detail, struct err *err);
MUST_USE int describe_dataset(struct catalog *catalog, struct cache_reader *reader, const char *name,
			      describe_detail_use use, void *context, struct err *err);

typedef int (*describe_list_use)(void *context, Wire__DatasetList *list, struct err *err);
MUST_USE int describe_datasets(struct cache_reader *reader, describe_list_use use, void *context, struct err *err);

/* Failures from `first` on, at most WIRE_FAILURES_PER_REPLY. */
typedef int (*describe_failures_use)(void *context, Wire__FailureList *list, struct err *err);
MUST_USE int describe_failures(struct cache_reader *reader, const char *name, uint64_t first, describe_failures_use use,
			       void *context, struct err *err);

/* What samples are, in the order of the request. */
typedef int (*describe_samples_use)(void *context, Wire__SampleList *list, struct err *err);
MUST_USE int describe_samples(struct catalog *catalog, struct cache_reader *reader, const Wire__DescribeSamples *request,
			      describe_samples_use use, void *context, struct err *err);

/* How many records of a kind there are. */
MUST_USE int describe_count(struct cache_reader *reader, enum cache_kind kind, uint64_t *out, struct err *err);

#endif
