/*
 * ycc.h - rows of a picture whose colors have half the width and height (4:2:0)
 * to RGB, in one pass: to the bit what libjpeg-turbo's smooth ("fancy")
 * upsampling and color conversion give one after the other.
 *
 * Upsampling: a color sample is 9/16 of the nearest, 3/16 of the next one
 *             beside and of the one above or below, 1/16 of the one across.
 *             With sums = 3 * near row + far row, output 2i is
 *             (3 sums[i] + sums[i - 1] + 8) / 16, output 2i + 1 is
 *             (3 sums[i] + sums[i + 1] + 7) / 16; at an end the missing
 *             neighbor is the sample itself (libjpeg's jdsample.c).
 * Colors:     JFIF 1.02's, with libjpeg's 16 bits of fraction and its rounding
 *             (jdcolor.c).
 * Oracle:     libjpeg-turbo (tests/unit/test_jpeg_scan.c).
 * Threads:    pure functions.
 */
#ifndef PREPROCESSD_CODEC_YCC_H
#define PREPROCESSD_CODEC_YCC_H

#include <stddef.h>
#include <stdint.h>

/* One row of 4:2:0. */
struct ycc_row {
	const uint8_t *y;                  /* (width) */
	const uint8_t *cb[2], *cr[2];      /* (colors): the near row and the far one */
	size_t width, colors;              /* colors: (width + 1) / 2, 2 at least */
};

/* Writes width RGB pixels to out, nothing beyond. */
typedef void ycc_row_fn(const struct ycc_row *row, uint8_t *out);

/* NULL where this processor can't run it. */
ycc_row_fn *ycc_row_avx2(void);

#endif
