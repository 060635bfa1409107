/*
 * resize.h - a picture to a square, row by row, as Pillow does it.
 *
 * Oracle: Pillow 9.4 `Image.resize((size, size), BILINEAR)` on an RGB picture
 * (what torchvision 0.14's Resize calls), after `Image.transpose` where an
 * orientation asks for it: bit-identical. Two passes with 8 bits between them,
 * the picture's horizontal direction first; a pass over an unchanged side is
 * left out.
 *
 * Source rows are consumed as they come, while they are in the cache; what is
 * kept is as many (reduced) rows as one output row needs. Orientations cost no
 * copy of the picture: mirroring is a mirrored plan, and a transposed picture
 * is resized along the source's columns first.
 *
 * Threads:   one resizer, one thread at a time; any number of resizers.
 * Ownership: a resizer keeps its scratch memory and its last plans.
 * Limits:    sides up to RESIZE_SOURCE_MAX and RESIZE_TARGET_MAX.
 */
#ifndef PREPROCESSD_CODEC_RESIZE_H
#define PREPROCESSD_CODEC_RESIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "preprocessd/codec/resize_kernels.h"
#include "shared/base/err.h"

struct resize_spec {
	uint32_t width, height; /* of the source */
	int channels;           /* of the source: 1 (gray, written three times) or 3 */
	uint32_t size;          /* side of the output */
	/* The wanted picture is the source mirrored in x, then in y, then transposed. */
	bool flip_x, flip_y, transpose;
};

struct resize;
/* kernels: NULL chooses the fastest for this processor. */
MUST_USE int resize_open(struct resize **out, const struct resize_kernels *kernels, struct err *err);
void resize_close(struct resize *resize); /* NULL is fine */

/* Starts a picture. out: (size, size, 3), written by the calls that follow. */
MUST_USE int resize_begin(struct resize *resize, const struct resize_spec *spec, uint8_t *out, struct err *err);
/* The next `count` source rows, top down; RESIZE_SLACK_BYTES behind the last
 * one must be readable. After spec.height rows the output is complete. */
void resize_rows(struct resize *resize, const uint8_t *rows, size_t stride, int count);

#endif
