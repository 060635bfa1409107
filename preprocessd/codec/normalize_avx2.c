/*
 * normalize_avx2.c - normalize.h's inner loops on AVX2.
 *
 * 32 pixels are 96 interleaved bytes. Pixels 0-15 go into the lower halves of
 * three registers and 16-31 into the upper ones, so that one byte shuffle a
 * register takes a channel out of both halves at once.
 *
 * There is no byte table of 256 entries in a register here, and gathers are
 * slower than plain loads, so floats are computed: x / 255, minus mean, / std,
 * where a quotient is a product with the reciprocal and one step of Newton's
 * method on its remainder (Markstein, "Computation of elementary functions on
 * the IBM RISC System/6000 processor", 1990). That rounds as the division does for nearly
 * all divisors; normalize_table_init() tries the 256 values of each channel and
 * says in table->computes whether all of them do.
 */
#include "preprocessd/codec/normalize_x86.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx2,fma")))
#define TARGET_INLINE TARGET __attribute__((always_inline)) static inline

enum { GROUP = 32 };

bool normalize_have_avx2(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

/* Which byte of 16 goes to which pixel: three registers for each channel. */
struct spread {
	__m256i from[3][3]; /* [channel][register] */
};

TARGET_INLINE void spread_load(const struct normalize_table *table, struct spread *spread)
{
	for (int c = 0; c < 3; c++)
		for (int r = 0; r < 3; r++) {
			const void *bytes = table->spread[c][r];

			spread->from[c][r] = _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes));
		}
}

TARGET_INLINE __m256i load_halves(const uint8_t *low, const uint8_t *high)
{
	__m256i both = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)low));

	return _mm256_inserti128_si256(both, _mm_loadu_si128((const __m128i *)(const void *)high), 1);
}

/* 32 pixels, one register a channel, in order. */
TARGET_INLINE void split_channels(const struct spread *spread, const uint8_t *pixels, __m256i out[3])
{
	__m256i a = load_halves(pixels, pixels + 48), b = load_halves(pixels + 16, pixels + 64);
	__m256i c = load_halves(pixels + 32, pixels + 80);

	for (int channel = 0; channel < 3; channel++) {
		const __m256i *from = spread->from[channel];
		__m256i ab = _mm256_or_si256(_mm256_shuffle_epi8(a, from[0]), _mm256_shuffle_epi8(b, from[1]));

		out[channel] = _mm256_or_si256(ab, _mm256_shuffle_epi8(c, from[2]));
	}
}

/* --- uint8 --------------------------------------------------------------------- */

TARGET_INLINE void store_bytes(uint8_t *out, __m256i bytes, bool stream)
{
	if (stream)
		_mm256_stream_si256((__m256i *)(void *)out, bytes);
	else
		_mm256_storeu_si256((__m256i *)(void *)out, bytes);
}

/* Two groups at a time: a whole cache line of each plane. stream is a constant where this is called.
 * Returns up to which pixel it is done. */
TARGET_INLINE size_t groups_u8(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n,
			       bool stream, uint8_t *out)
{
	struct spread spread;
	size_t at = from;

	spread_load(table, &spread);
	for (; to - at >= 2 * GROUP; at += 2 * GROUP) {
		__m256i first[3], second[3];

		split_channels(&spread, pixels + 3 * at, first);
		split_channels(&spread, pixels + 3 * at + 3 * GROUP, second);
		for (size_t c = 0; c < 3; c++) {
			store_bytes(out + c * n + at, first[c], stream);
			store_bytes(out + c * n + at + GROUP, second[c], stream);
		}
	}
	return at;
}

TARGET void normalize_u8_chw_avx2(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n,
				  uint8_t *out)
{
	const bool stream = normalize_may_stream(out, from, n);
	size_t at = stream ? groups_u8(table, pixels, from, to, n, true, out) : groups_u8(table, pixels, from, to, n, false, out);

	for (; at < to; at++)
		for (size_t c = 0; c < 3; c++)
			out[c * n + at] = pixels[3 * at + c];
	if (stream && to == n)
		_mm_sfence();
}

/* --- float32 -------------------------------------------------------------------- */

/* a / divisor; see above. */
TARGET_INLINE __m256 quotient(__m256 a, __m256 divisor, __m256 reciprocal)
{
	__m256 near = _mm256_mul_ps(a, reciprocal);
	__m256 left = _mm256_fnmadd_ps(divisor, near, a);

	return _mm256_fmadd_ps(left, reciprocal, near);
}

struct constants {
	__m256 mean, std, of_std;
};

/* 8 bytes in the lower half of each lane's numbers to floats. */
TARGET_INLINE __m256 normalized(const struct constants *k, __m128i bytes)
{
	const __m256 full = _mm256_set1_ps(255.0f), of_full = _mm256_set1_ps(1.0f / 255.0f);
	__m256 value = quotient(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)), full, of_full);

	return quotient(_mm256_sub_ps(value, k->mean), k->std, k->of_std);
}

TARGET_INLINE void store_floats(float *out, __m256 value, bool stream)
{
	if (stream)
		_mm256_stream_ps(out, value);
	else
		_mm256_storeu_ps(out, value);
}

/* 32 floats of one channel. */
TARGET_INLINE void store_channel(const struct constants *k, __m256i bytes, bool stream, float *out)
{
	__m128i low = _mm256_castsi256_si128(bytes), high = _mm256_extracti128_si256(bytes, 1);

	store_floats(out, normalized(k, low), stream);
	store_floats(out + 8, normalized(k, _mm_srli_si128(low, 8)), stream);
	store_floats(out + 16, normalized(k, high), stream);
	store_floats(out + 24, normalized(k, _mm_srli_si128(high, 8)), stream);
}

/* stream is a constant where this is called. Returns up to which pixel it is done. */
TARGET_INLINE size_t groups_f32(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n,
				bool stream, float *out)
{
	struct constants k[3];
	struct spread spread;
	size_t at = from;

	spread_load(table, &spread);
	for (int c = 0; c < 3; c++)
		k[c] = (struct constants){ _mm256_set1_ps(table->mean[c]), _mm256_set1_ps(table->std[c]), _mm256_set1_ps(1.0f / table->std[c]) };
	for (; to - at >= GROUP; at += GROUP) {
		__m256i channel[3];

		split_channels(&spread, pixels + 3 * at, channel);
		for (size_t c = 0; c < 3; c++)
			store_channel(&k[c], channel[c], stream, out + c * n + at);
	}
	return at;
}

TARGET void normalize_f32_chw_avx2(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n,
				   float *out)
{
	const bool stream = normalize_may_stream(out, from * sizeof(float), n * sizeof(float));
	size_t at = stream ? groups_f32(table, pixels, from, to, n, true, out) : groups_f32(table, pixels, from, to, n, false, out);

	for (; at < to; at++)
		for (size_t c = 0; c < 3; c++)
			out[c * n + at] = table->value[c][pixels[3 * at + c]];
	if (stream && to == n)
		_mm_sfence(); /* before anyone is told that the floats are there */
}

/* Eight bytes at a time, in the order in which they lie: 24 are 8 pixels, and three registers of constants come round again. */
TARGET void normalize_f32_hwc_avx2(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n,
				   float *out)
{
	enum { LANES = 8, TURN = 3 * LANES };
	const bool stream = ((uintptr_t)out | from * 3 * sizeof(float)) % 32 == 0 && 3 * n * sizeof(float) >= NORMALIZE_STREAM_BYTES_MIN;
	struct constants k[3];
	size_t at = 3 * from;

	for (int r = 0; r < 3; r++) {
		float mean[LANES], std[LANES], of_std[LANES];

		for (int i = 0; i < LANES; i++) {
			int c = (LANES * r + i) % 3;

			mean[i] = table->mean[c];
			std[i] = table->std[c];
			of_std[i] = 1.0f / table->std[c];
		}
		k[r] = (struct constants){ _mm256_loadu_ps(mean), _mm256_loadu_ps(std), _mm256_loadu_ps(of_std) };
	}
	for (; 3 * to - at >= TURN; at += TURN)
		for (size_t r = 0; r < 3; r++) {
			__m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)(pixels + at + LANES * r));

			if (stream)
				store_floats(out + at + LANES * r, normalized(&k[r], bytes), true);
			else
				store_floats(out + at + LANES * r, normalized(&k[r], bytes), false);
		}
	for (; at < 3 * to; at++)
		out[at] = table->value[at % 3][pixels[at]];
	if (stream && to == n)
		_mm_sfence();
}

TARGET static float quotient_of(float a, float divisor)
{
	return _mm256_cvtss_f32(quotient(_mm256_set1_ps(a), _mm256_set1_ps(divisor), _mm256_set1_ps(1.0f / divisor)));
}

TARGET bool normalize_computes_avx2(const struct normalize_table *table)
{
	for (int c = 0; c < 3; c++)
		for (int x = 0; x < 256; x++) {
			float value = quotient_of(quotient_of((float)x, 255.0f) - table->mean[c], table->std[c]);

			if (memcmp(&value, &table->value[c][x], sizeof(value)) != 0)
				return false;
		}
	return true;
}

#else

#include "shared/base/check.h"

bool normalize_have_avx2(void)
{
	return false;
}

bool normalize_computes_avx2(const struct normalize_table *table)
{
	(void)table;
	return false;
}

void normalize_f32_chw_avx2(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n,
			    float *out)
{
	(void)table, (void)pixels, (void)from, (void)to, (void)n, (void)out;
	CHECK(!"not on this processor");
}

void normalize_f32_hwc_avx2(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n,
			    float *out)
{
	(void)table, (void)pixels, (void)from, (void)to, (void)n, (void)out;
	CHECK(!"not on this processor");
}

void normalize_u8_chw_avx2(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n,
			   uint8_t *out)
{
	(void)table, (void)pixels, (void)from, (void)to, (void)n, (void)out;
	CHECK(!"not on this processor");
}

#endif
