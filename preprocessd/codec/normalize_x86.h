/*
 * normalize_x86.h - normalize.h's inner loops for processors with AVX-512 VBMI.
 *
 * Call the functions only where normalize_have_avx512() is true. Same results,
 * bit by bit, as the portable ones.
 */
#ifndef PREPROCESSD_CODEC_NORMALIZE_X86_H
#define PREPROCESSD_CODEC_NORMALIZE_X86_H

#include <stdbool.h>

#include "preprocessd/codec/normalize.h"

bool normalize_have_avx512(void);
void normalize_f32_chw_avx512(const struct normalize_table *table, const uint8_t *pixels, size_t n, float *out);
void normalize_u8_chw_avx512(const uint8_t *pixels, size_t n, uint8_t *out);

#endif
