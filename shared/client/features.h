/*
 * features.h - features of a part's pictures or captions, from preprocessd's cache and into it.
 *
 * Features are rows of floats that some client's encoder made. The daemon keeps
 * them by content and by everything that decides them; what it has not, the
 * caller computes and puts, for itself and others. A daemon that goes away and
 * comes back is waited for, as by streams: both calls may be repeated freely.
 *
 * Threads:   one caller; a connection of its own.
 * Ownership: values are copied.
 * Limits:    FEATURES_WIDTH_MAX numbers of a row.
 * Format:    schemas/wire.proto, schemas/features.md.
 */
#ifndef SHARED_CLIENT_FEATURES_H
#define SHARED_CLIENT_FEATURES_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/err.h"
#include "shared/base/hash.h"

struct features_options {
	const char *socket, *client_name;
	const char *dataset, *split;
	struct hash version;     /* of the data set; another one is ERR_MISMATCH */
	struct hash encoder;     /* weights, and everything else on this side that decides the numbers */
	bool captions;           /* else pictures */
	uint32_t image_size;     /* pictures */
	bool exif_apply;         /* pictures */
	const char *vocab;       /* captions; NULL: the data set's own */
	uint32_t max_len;        /* captions */
	uint32_t width;
	double wait_s;           /* for a lost daemon; < 0: for ever */
	bool (*cancelled)(void *context); /* may be NULL */
	void *cancel_context;
};

struct features;
/* Connects. *rows: how many pictures or captions the part has. */
MUST_USE int features_open(struct features **out, const struct features_options *options, uint32_t *rows, struct err *err);
void features_close(struct features *features); /* NULL is fine */

/* All rows: values (rows, width), of which those that are there are filled in; found (rows) says
 * which; ids (rows) picture's or caption's index in the manifest, ascending. *count: how many were found. */
MUST_USE int features_get_all(struct features *features, float *values, uint8_t *found, uint64_t *ids, uint32_t *count,
			      struct err *err);
/* rows (count) of the part, values (count, width). Sent in pieces that fit a request. ERR_FULL or another code of the
 * daemon's: they could not be kept. flush: returns when all is durable. */
MUST_USE int features_put(struct features *features, const uint32_t *rows, uint32_t count, const float *values, bool flush,
			  struct err *err);

#endif
