/*
 * normalize_x86.h - normalize.h's inner loops for processors with AVX-512 VBMI, and for those with AVX2.
 *
 * Call the functions only where normalize_have_avx512() or normalize_have_avx2()
 * is true, normalize_f32_*_avx2() only with a table whose `computes` is set. Same
 * results, bit by bit, as the portable ones.
 */
#ifndef PREPROCESSD_CODEC_NORMALIZE_X86_H
#define PREPROCESSD_CODEC_NORMALIZE_X86_H

#include <stdbool.h>

#include "preprocessd/codec/normalize.h"

bool normalize_have_avx512(void);
void normalize_f32_chw_avx512(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n,
			      float *out);
void normalize_u8_chw_avx512(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n,
			     uint8_t *out);

bool normalize_have_avx2(void);
/* Whether normalize_f32_*_avx2() give the table's values. */
bool normalize_computes_avx2(const struct normalize_table *table);
void normalize_f32_chw_avx2(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n,
			    float *out);
void normalize_f32_hwc_avx2(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n,
			    float *out);
void normalize_u8_chw_avx2(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n,
			   uint8_t *out);

enum { NORMALIZE_STREAM_BYTES_MIN = 128 * 1024 };

/* Whether three planes are to be written past the cache: all begin at multiples of a cache line, as does what is written
 * of them now, and there is much of it. Nobody here reads it again, and lines that are overwritten whole need not be fetched first. */
static inline bool normalize_may_stream(const void *out, size_t from_bytes, size_t plane_bytes)
{
	return ((uintptr_t)out | from_bytes | plane_bytes) % 64 == 0 && 3 * plane_bytes >= NORMALIZE_STREAM_BYTES_MIN;
}

#endif
