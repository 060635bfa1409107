/*
 * jpeg_out.h - an RGB picture as JPEG bytes, in the varieties that cameras and editors write.
 */
#ifndef TOOLS_DEMO_JPEG_OUT_H
#define TOOLS_DEMO_JPEG_OUT_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/buf.h"

struct jpeg_style {
	int quality;        /* 1..100 */
	int sampling;       /* 0: 4:4:4, 1: 4:2:2, 2: 4:2:0 */
	bool progressive;
};

/* rgb: (height, width, 3). Appends to out. */
MUST_USE int jpeg_encode(const uint8_t *rgb, int width, int height, const struct jpeg_style *style, struct buf *out, struct err *err);

#endif
