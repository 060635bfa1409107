/*
 * idct.h - the inverse DCT of blocks that have few coefficients, to the bit
 * what libjpeg-turbo's accurate integer transform (JDCT_ISLOW) gives.
 *
 * Most blocks of most pictures have coefficients in their corner of 4 x 4
 * alone, for which a third of the arithmetic is enough. For all others
 * libjpeg-turbo's own is as good as any.
 *
 * Algorithm: C. Loeffler, A. Ligtenberg, G. Moschytz, "Practical fast 1-D DCT
 *            algorithms with 11 multiplications", ICASSP 1989, with the
 *            constants of 13 bits and the two roundings of libjpeg's jidctint.c.
 *            Between roundings it is linear in integers, so the zeros can be
 *            left out and sums taken in another order.
 * Oracle:    libjpeg-turbo with its SIMD code (tests/unit/test_jpeg_scan.c).
 *            Its C code (JSIMD_FORCENONE=1) gives the same for what pictures of
 *            8 bits come to, and wraps where the SIMD code clamps beyond that.
 * Threads:   pure functions.
 */
#ifndef PREPROCESSD_CODEC_IDCT_H
#define PREPROCESSD_CODEC_IDCT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	IDCT_SIDE = 8,
	/* In the place of a coefficient, 8 * row + column, what says that row or column is 4 or beyond. */
	IDCT_BEYOND_CORNER = 4 * IDCT_SIDE | 4,
};

/* Dequantizes coefficients (64, of which those with row or column of 4 and
 * beyond are 0) and writes 8 x 8 samples to rows[0..7] + column. False, and
 * nothing written: products of 2^13 and more, which no picture of 8 bits has and
 * where libjpeg-turbo's shortcuts overflow differently from its main path. */
typedef bool idct_fn(const int16_t *coefficients, const uint16_t *quantization, uint8_t *const *rows, size_t column);

/* NULL where this processor can't run it. */
idct_fn *idct_corner_avx2(void);

#endif
