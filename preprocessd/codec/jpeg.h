/*
 * jpeg.h - JPEG bytes to rows of gray or RGB samples, with libjpeg-turbo.
 *
 * Oracle: the rows of Pillow 9.4's `Image.open(f).convert("RGB")` (gray
 * pictures are delivered with one channel). libjpeg-turbo is driven as Pillow
 * drives it: a source that suspends and is topped up in pieces of 64 KiB, the
 * colors that libjpeg guesses, integer IDCT, smooth upsampling and block
 * smoothing; CMYK and YCCK are taken as Adobe's inverted CMYK. Warnings are
 * not errors; data that ends before the last row is one; what follows the last
 * row does not matter (for several scans: what follows the end marker).
 * The scan of a sound baseline picture is decoded by our own code (jpeg_scan.h).
 *
 * Format:    ITU-T T.81, JFIF 1.02, Adobe Technical Note 5116.
 * Threads:   one decoder, one thread at a time; any number of decoders.
 * Ownership: a decoder keeps its row buffer; libjpeg's own memory lives for
 *            one picture and is freed on every way out.
 * Limits:    JPEG_BLOCK_VISITS_MAX.
 */
#ifndef PREPROCESSD_CODEC_JPEG_H
#define PREPROCESSD_CODEC_JPEG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/base/err.h"

enum {
	JPEG_BATCH_ROWS = 8,   /* rows come in groups of at most this */
	JPEG_SLACK_BYTES = 128, /* readable memory behind the rows of a group */
};

/* A progressive file may name any number of scans, each of which passes over
 * the whole picture. Blocks of 8 x 8 pixels times scans beyond this (two or
 * three seconds of work; 95 scans of the largest picture, where ten are usual)
 * are refused, so that a small file can't hold up everybody else. Pillow has no
 * such limit. */
#define JPEG_BLOCK_VISITS_MAX ((uint64_t)1 << 28)

struct jpeg_info {
	uint32_t width, height;
	int channels; /* of the rows that will come: 1 gray, 3 RGB */
};

struct jpeg_sink {
	void *context;
	/* The header is read, nothing large is allocated; not 0 refuses the picture.
	 * Called a second time where the data turn out to be damaged: rows start again. */
	int (*begin)(void *context, const struct jpeg_info *info, struct err *err);
	/* The next `count` rows, top down, `stride` bytes apart. */
	void (*rows)(void *context, const uint8_t *rows, size_t stride, int count);
};

/* Name and version of the decoder, for fingerprints: "libjpeg-turbo-2.1.5". */
const char *jpeg_decoder_name(void);

struct jpeg;
MUST_USE int jpeg_open(struct jpeg **out, struct err *err);
void jpeg_close(struct jpeg *jpeg); /* NULL is fine */
/* Another limit than JPEG_BLOCK_VISITS_MAX, for tests. */
void jpeg_limit_work(struct jpeg *jpeg, uint64_t block_visits_max);
/* From now on libjpeg-turbo alone decodes (all), or not: the same rows, for tests. */
void jpeg_leave_to_libjpeg(struct jpeg *jpeg, bool all);
/* Whether the last picture's scan was decoded by our own code to its end. */
bool jpeg_scan_was_ours(const struct jpeg *jpeg);

/* ERR_FORMAT: damaged or cut off. ERR_UNSUPPORTED: a kind of JPEG that
 * libjpeg-turbo can't decode. ERR_LIMIT, ERR_NOMEM. After an error some rows
 * may have been delivered. */
MUST_USE int jpeg_decode(struct jpeg *jpeg, const void *bytes, size_t size, const struct jpeg_sink *sink,
			 struct err *err);
/* How often libjpeg complained about the last picture and went on. */
long jpeg_warnings(const struct jpeg *jpeg);

#endif
