#include "preprocessd/codec/normalize_x86.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vbmi")))
#define AVX512_INLINE AVX512 __attribute__((always_inline)) static inline

enum {
	GROUP = 64,           /* pixels per turn: three registers of interleaved bytes */
	BLOCK = 32 * GROUP,   /* pixels per pass over the three channels: stays in the cache */
};

bool normalize_have_avx512(void)
{
	return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vbmi");
}

AVX512_INLINE __m512i pick_channel(const struct normalize_pick *pick, const uint8_t *pixels)
{
	__m512i a = _mm512_loadu_si512(pixels), b = _mm512_loadu_si512(pixels + 64), c = _mm512_loadu_si512(pixels + 128);
	__m512i low = _mm512_permutex2var_epi8(a, _mm512_load_si512(pick->low), b);

	return _mm512_mask_permutexvar_epi8(low, pick->third, _mm512_load_si512(pick->high), c);
}

/* 64 lookups in a table of 256 bytes that lies in four registers. */
AVX512_INLINE __m512i look_up(const __m512i table[4], __m512i index, __mmask64 upper_half)
{
	__m512i low = _mm512_permutex2var_epi8(table[0], index, table[1]);
	__m512i high = _mm512_permutex2var_epi8(table[2], index, table[3]);

	return _mm512_mask_blend_epi8(upper_half, low, high);
}

AVX512_INLINE void store(void *out, __m512i bytes, bool stream)
{
	if (stream)
		_mm512_stream_si512(out, bytes);
	else
		_mm512_storeu_si512(out, bytes);
}

/* stream is a constant where this is called. */
AVX512_INLINE void channel_f32(const struct normalize_table *table, int channel, const uint8_t *pixels, size_t groups, bool stream,
			       float *out)
{
	const struct normalize_pick *pick = &table->pick_f32[channel];
	__m512i planes[4][4];

	for (int b = 0; b < 4; b++) {
		for (int q = 0; q < 4; q++)
			planes[b][q] = _mm512_load_si512(table->plane[channel][b] + 64 * q);
	}
	for (; groups > 0; groups--, pixels += 3 * GROUP, out += GROUP) {
		__m512i index = pick_channel(pick, pixels);
		__mmask64 upper = _mm512_movepi8_mask(index);
		__m512i b0 = look_up(planes[0], index, upper), b1 = look_up(planes[1], index, upper);
		__m512i b2 = look_up(planes[2], index, upper), b3 = look_up(planes[3], index, upper);
		__m512i low01 = _mm512_unpacklo_epi8(b0, b1), high01 = _mm512_unpackhi_epi8(b0, b1);
		__m512i low23 = _mm512_unpacklo_epi8(b2, b3), high23 = _mm512_unpackhi_epi8(b2, b3);

		store(out, _mm512_unpacklo_epi16(low01, low23), stream);
		store(out + 16, _mm512_unpackhi_epi16(low01, low23), stream);
		store(out + 32, _mm512_unpacklo_epi16(high01, high23), stream);
		store(out + 48, _mm512_unpackhi_epi16(high01, high23), stream);
	}
}

static void tail_f32(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n, float *out)
{
	for (size_t i = from; i < to; i++) {
		for (size_t c = 0; c < 3; c++)
			out[c * n + i] = table->value[c][pixels[3 * i + c]];
	}
}

AVX512 static void block_f32(const struct normalize_table *table, const uint8_t *pixels, size_t groups, size_t n, bool stream,
			     float *out)
{
	for (int c = 0; c < 3; c++) {
		if (stream)
			channel_f32(table, c, pixels, groups, true, out + (size_t)c * n);
		else
			channel_f32(table, c, pixels, groups, false, out + (size_t)c * n);
	}
}

void normalize_f32_chw_avx512(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n,
			      float *out)
{
	const bool stream = normalize_may_stream(out, from * sizeof(float), n * sizeof(float));
	size_t at = from;

	while (to - at >= GROUP) {
		size_t groups = (to - at < BLOCK ? to - at : BLOCK) / GROUP;

		block_f32(table, pixels + 3 * at, groups, n, stream, out + at);
		at += groups * GROUP;
	}
	tail_f32(table, pixels, at, to, n, out);
	if (stream && to == n)
		_mm_sfence(); /* before anyone is told that the floats are there */
}

AVX512 void normalize_u8_chw_avx512(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n,
				    uint8_t *out)
{
	const bool stream = normalize_may_stream(out, from, n);
	size_t at = from;

	for (; to - at >= GROUP; at += GROUP) {
		for (int c = 0; c < 3; c++)
			store(out + (size_t)c * n + at, pick_channel(&table->pick[c], pixels + 3 * at), stream);
	}
	for (; at < to; at++) {
		for (size_t c = 0; c < 3; c++)
			out[c * n + at] = pixels[3 * at + c];
	}
	if (stream && to == n)
		_mm_sfence();
}

#else

#include "shared/base/check.h"

bool normalize_have_avx512(void)
{
	return false;
}

void normalize_f32_chw_avx512(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n,
			      float *out)
{
	(void)table, (void)pixels, (void)from, (void)to, (void)n, (void)out;
	CHECK(!"not on this processor");
}

void normalize_u8_chw_avx512(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n,
			     uint8_t *out)
{
	(void)table, (void)pixels, (void)from, (void)to, (void)n, (void)out;
	CHECK(!"not on this processor");
}

#endif
