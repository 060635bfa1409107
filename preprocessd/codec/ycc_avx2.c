/*
 * ycc_avx2.c - ycc.h on AVX2, 32 pixels at a time.
 *
 * Even and odd pixels are kept apart until they are bytes. Products of 16 bits
 * give libjpeg's factors of 17: 1.402 = 1 + 26345 / 2^16, 1.772 = 2 - 14942 / 2^16,
 * -0.71414 = 18734 / 2^16 - 1. To round, vpmulhw is fed twice the value and its
 * result halved.
 */
#include "preprocessd/codec/ycc.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx2")))
#define TARGET_INLINE TARGET __attribute__((always_inline)) static inline

enum {
	PIXELS = 32,          /* of a step */
	COLORS = PIXELS / 2,
	STRIP_COLORS = 512,   /* at a time, so that sums stay in the nearest cache */
	BEFORE = COLORS,      /* room in front of a strip's sums for the one before it */
	CENTER = 128,
	RED_OF_CR = 26345, BLUE_OF_CB = -14942, GREEN_OF_CB = -22554, GREEN_OF_CR = 18734,
};

/* A strip's sums of both rows, one beyond at both ends. */
struct sums {
	_Alignas(32) int16_t at[BEFORE + STRIP_COLORS + COLORS];
};

static inline int16_t sum(const uint8_t *const rows[2], size_t i)
{
	return (int16_t)(3 * rows[0][i] + rows[1][i]);
}

/* Of colors first to first + count. */
TARGET_INLINE void add_up(const uint8_t *const rows[2], size_t first, size_t count, size_t colors, struct sums *sums)
{
	int16_t *out = sums->at + BEFORE;
	size_t i = 0;

	out[-1] = sum(rows, first > 0 ? first - 1 : 0);
	for (; i + COLORS <= count; i += COLORS) {
		const __m256i near = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(rows[0] + first + i)));
		const __m256i far = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(rows[1] + first + i)));

		_mm256_store_si256((__m256i *)(void *)(out + i), _mm256_add_epi16(_mm256_add_epi16(near, far), _mm256_slli_epi16(near, 1)));
	}
	for (; i < count; i++)
		out[i] = sum(rows, first + i);
	out[count] = sum(rows, first + count < colors ? first + count : colors - 1);
}

/* 32 samples, less CENTER, the even and the odd ones. */
struct pair {
	__m256i even, odd;
};

TARGET_INLINE struct pair smooth(const int16_t *sums)
{
	const __m256i here = _mm256_load_si256((const __m256i *)(const void *)sums);
	const __m256i before = _mm256_loadu_si256((const __m256i *)(const void *)(sums - 1));
	const __m256i behind = _mm256_loadu_si256((const __m256i *)(const void *)(sums + 1));
	/* (x + 8) / 16 - 128 = (x + 8 - 2048) / 16, rounded down. */
	const __m256i three = _mm256_add_epi16(here, _mm256_slli_epi16(here, 1));
	const __m256i even = _mm256_add_epi16(_mm256_add_epi16(three, before), _mm256_set1_epi16(8 - 16 * CENTER));
	const __m256i odd = _mm256_add_epi16(_mm256_add_epi16(three, behind), _mm256_set1_epi16(7 - 16 * CENTER));

	return (struct pair){ _mm256_srai_epi16(even, 4), _mm256_srai_epi16(odd, 4) };
}

/* value * factor / 2^16, rounded. */
TARGET_INLINE __m256i fraction(__m256i twice, int factor)
{
	const __m256i product = _mm256_mulhi_epi16(twice, _mm256_set1_epi16((int16_t)factor));

	return _mm256_srai_epi16(_mm256_add_epi16(product, _mm256_set1_epi16(1)), 1);
}

TARGET_INLINE __m256i red_of(__m256i y, __m256i cr)
{
	return _mm256_add_epi16(_mm256_add_epi16(y, cr), fraction(_mm256_add_epi16(cr, cr), RED_OF_CR));
}

TARGET_INLINE __m256i blue_of(__m256i y, __m256i cb)
{
	const __m256i twice = _mm256_add_epi16(cb, cb);

	return _mm256_add_epi16(_mm256_add_epi16(y, twice), fraction(twice, BLUE_OF_CB));
}

TARGET_INLINE __m256i green_of(__m256i y, __m256i cb, __m256i cr)
{
	const __m256i factors = _mm256_set1_epi32((int)((uint32_t)GREEN_OF_CR << 16 | (uint16_t)GREEN_OF_CB));
	const __m256i half = _mm256_set1_epi32(1 << 15);
	const __m256i low = _mm256_add_epi32(_mm256_madd_epi16(_mm256_unpacklo_epi16(cb, cr), factors), half);
	const __m256i high = _mm256_add_epi32(_mm256_madd_epi16(_mm256_unpackhi_epi16(cb, cr), factors), half);
	const __m256i both = _mm256_packs_epi32(_mm256_srai_epi32(low, 16), _mm256_srai_epi32(high, 16));

	return _mm256_add_epi16(_mm256_sub_epi16(y, cr), both);
}

/* What takes 16 even-then-odd bytes of one color to their places in 48 bytes of RGB, where byte i of the result stands for
 * whichever of bytes i, i + 16 and i + 32 is that color's. */
#define PLACES(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p) \
	_mm256_setr_epi8(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)
/* Pixel n is byte n / 2 where even, 8 + n / 2 where odd. */
#define AT(n) ((n) % 2 * 8 + (n) / 2)

TARGET_INLINE void store_rgb(__m256i red, __m256i green, __m256i blue, uint8_t *out)
{
	/* The first 16 bytes have red at 0, 3, ..., 15, the second at 2, 5, ..., 14, the third at 1, 4, ..., 13. */
	const __m256i r = _mm256_shuffle_epi8(red, PLACES(AT(0), AT(11), AT(6), AT(1), AT(12), AT(7), AT(2), AT(13), AT(8), AT(3), AT(14),
							  AT(9), AT(4), AT(15), AT(10), AT(5)));
	const __m256i g = _mm256_shuffle_epi8(green, PLACES(AT(5), AT(0), AT(11), AT(6), AT(1), AT(12), AT(7), AT(2), AT(13), AT(8), AT(3),
							    AT(14), AT(9), AT(4), AT(15), AT(10)));
	const __m256i b = _mm256_shuffle_epi8(blue, PLACES(AT(10), AT(5), AT(0), AT(11), AT(6), AT(1), AT(12), AT(7), AT(2), AT(13), AT(8),
							   AT(3), AT(14), AT(9), AT(4), AT(15)));
	const __m256i at_0 = PLACES(-1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1);
	const __m256i at_1 = PLACES(0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0);
	const __m256i at_2 = PLACES(0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0);
	const __m256i first = _mm256_blendv_epi8(_mm256_blendv_epi8(b, r, at_0), g, at_1);
	const __m256i second = _mm256_blendv_epi8(_mm256_blendv_epi8(b, g, at_0), r, at_2);
	const __m256i third = _mm256_blendv_epi8(_mm256_blendv_epi8(g, b, at_0), r, at_1);
	__m256i *to = (__m256i *)(void *)out;

	_mm256_storeu_si256(to, _mm256_permute2x128_si256(first, second, 0x20));
	_mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(third, first, 0x30));
	_mm256_storeu_si256(to + 2, _mm256_permute2x128_si256(second, third, 0x31));
}

/* 32 pixels. */
TARGET_INLINE void convert(const uint8_t *y, const int16_t *cb_sums, const int16_t *cr_sums, uint8_t *out)
{
	const struct pair cb = smooth(cb_sums), cr = smooth(cr_sums);
	const __m256i both = _mm256_loadu_si256((const __m256i *)(const void *)y);
	const __m256i even = _mm256_and_si256(both, _mm256_set1_epi16(0xFF)), odd = _mm256_srli_epi16(both, 8);

	store_rgb(_mm256_packus_epi16(red_of(even, cr.even), red_of(odd, cr.odd)),
		  _mm256_packus_epi16(green_of(even, cb.even, cr.even), green_of(odd, cb.odd, cr.odd)),
		  _mm256_packus_epi16(blue_of(even, cb.even), blue_of(odd, cb.odd)), out);
}

TARGET static void row_avx2(const struct ycc_row *row, uint8_t *out)
{
	struct sums cb, cr;

	for (size_t first = 0; first < row->colors; first += STRIP_COLORS) {
		const size_t count = row->colors - first < STRIP_COLORS ? row->colors - first : STRIP_COLORS;
		const uint8_t *y = row->y + 2 * first;
		uint8_t *to = out + 6 * first;
		size_t left = row->width - 2 * first < 2 * count ? row->width - 2 * first : 2 * count;
		size_t at = BEFORE;

		add_up(row->cb, first, count, row->colors, &cb);
		add_up(row->cr, first, count, row->colors, &cr);
		for (; left >= PIXELS; left -= PIXELS, y += PIXELS, to += 3 * PIXELS, at += COLORS)
			convert(y, cb.at + at, cr.at + at, to);
		if (left > 0) {
			uint8_t last_y[PIXELS] = { 0 }, last[3 * PIXELS];

			memcpy(last_y, y, left);
			convert(last_y, cb.at + at, cr.at + at, last);
			memcpy(to, last, 3 * left);
		}
	}
}

ycc_row_fn *ycc_row_avx2(void)
{
	return __builtin_cpu_supports("avx2") ? row_avx2 : NULL;
}

#else

ycc_row_fn *ycc_row_avx2(void)
{
	return NULL;
}

#endif
