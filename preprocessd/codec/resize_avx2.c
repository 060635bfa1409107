/*
 * resize_avx2.c - the resizer's inner loops on AVX2.
 *
 * A weight w (0 .. 2^22) is split into two words, w = high * 2^11 + low, so
 * that vpmaddwd multiplies and adds two taps exactly; the two sums are put
 * together at the end.
 *
 * Horizontal:
 *   GROUPED: 8 output samples (pixel by pixel, channel by channel) and two
 *            taps at a time. Each half of a register loads 16 bytes of its own
 *            and vpshufb spreads them to words, for any layout of pixels; the
 *            two taps of a half's four samples lie within its 16 bytes up to
 *            fourfold reduction. No sum crosses a lane and none is wasted.
 *   PIXELS:  stronger reduction, one output pixel at a time. Three channels:
 *            four taps (12 bytes), two in each half. One channel: 16 taps.
 * Up to ROWS rows are done together, so that tables are read once for them.
 *
 * Vertical: two rows are interleaved, 32 samples at a time.
 */
#include "preprocessd/codec/resize_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "shared/base/mem.h"

#define TARGET __attribute__((target("avx2")))
#define TARGET_INLINE TARGET __attribute__((always_inline)) static inline

enum { SPLIT_BITS = 11, WORDS = 16, VECTOR = 32, ROWS = 4, LANE_BYTES = 16, LANE_SAMPLES = 4, GROUP = 8, PAIR = 2 };

enum kind { KIND_GROUPED, KIND_PIXELS };

/* Taps of one step of PIXELS. */
struct step {
	int16_t high[WORDS], low[WORDS];
};

/* Two taps of GROUP output samples. */
struct group_step {
	uint8_t place[VECTOR]; /* of each word's lower byte within its half's 16 bytes; upper bytes are cleared */
	int16_t high[WORDS], low[WORDS];
};

/* Where the two halves of a step load from, in bytes. */
struct group_base {
	int32_t half[2];
};

/* Two rows' weights, side by side. */
struct pair {
	int16_t high[2], low[2];
};

static void split(int32_t weight, int16_t *high, int16_t *low)
{
	*high = (int16_t)(weight >> SPLIT_BITS);
	*low = (int16_t)(weight & ((1 << SPLIT_BITS) - 1));
}

/* ---- horizontal, tables of GROUPED ---- */

/* The four output samples from `at` on, fewer at the end: their pixels and
 * channels, and the first byte that any of them looks at. */
struct half {
	int count;
	uint32_t pixel[LANE_SAMPLES];
	int32_t start[LANE_SAMPLES]; /* of the sample's first tap, from base */
	int32_t base, spread;        /* spread: the greatest start */
};

static void find_half(const struct resize_plan *plan, int channels, size_t at, struct half *half)
{
	const size_t samples = (size_t)plan->target * (size_t)channels;

	*half = (struct half){ .base = INT32_MAX };
	for (; half->count < LANE_SAMPLES && at < samples; at++) {
		int i = half->count++;

		half->pixel[i] = (uint32_t)(at / (size_t)channels);
		half->start[i] = plan->first[half->pixel[i]] * channels + (int32_t)(at % (size_t)channels);
		if (half->start[i] < half->base)
			half->base = half->start[i];
	}
	if (half->count == 0)
		half->base = 0;
	for (int i = 0; i < half->count; i++) {
		half->start[i] -= half->base;
		if (half->start[i] > half->spread)
			half->spread = half->start[i];
	}
}

static enum kind choose_kind(const struct resize_plan *plan, int channels)
{
	const size_t samples = (size_t)plan->target * (size_t)channels;
	struct half half;

	for (size_t at = 0; at < samples; at += LANE_SAMPLES) {
		find_half(plan, channels, at, &half);
		if (half.spread + channels >= LANE_BYTES)
			return KIND_PIXELS;
	}
	return KIND_GROUPED;
}

/* One half of all steps of a group; lane is 0 or 1. A step that no window of the half reaches loads where the first
 * one does, so that nothing is read far behind the row. */
static void fill_half(const struct resize_plan *plan, int channels, const struct half *half, int lane, int steps,
		      struct group_base *base, struct group_step *step)
{
	for (int s = 0; s < steps; s++)
		base[s].half[lane] = half->base;
	for (int i = 0; i < half->count; i++) {
		const uint32_t pixel = half->pixel[i];
		const int32_t *weight = plan->weight + (size_t)pixel * (size_t)plan->taps_max;

		for (int t = 0; t < plan->count[pixel]; t++) {
			struct group_step *at = &step[t / PAIR];
			int word = lane * GROUP + PAIR * i + t % PAIR;

			base[t / PAIR].half[lane] = half->base + t / PAIR * PAIR * channels;
			at->place[2 * word] = (uint8_t)(half->start[i] + t % PAIR * channels);
			split(weight[t], &at->high[word], &at->low[word]);
		}
	}
}

static size_t groups_of(const struct resize_plan *plan, int channels)
{
	return ((size_t)plan->target * (size_t)channels + GROUP - 1) / GROUP;
}

/* (groups, steps) struct group_base, then as many struct group_step. */
static int pack_grouped(struct resize_packed *packed, const struct resize_plan *plan, int channels, struct err *err)
{
	const size_t groups = groups_of(plan, channels);
	size_t count;
	int code;

	packed->steps = (plan->taps_max + PAIR - 1) / PAIR;
	count = groups * (size_t)packed->steps;
	packed->table = size_round_up(count * sizeof(struct group_base), MEM_ALIGN_BYTES);
	if ((code = resize_packed_reserve(packed, packed->table + count * sizeof(struct group_step), err)) != 0)
		return code;
	struct group_base *base = (struct group_base *)(void *)packed->bytes;
	struct group_step *step = (struct group_step *)(void *)(packed->bytes + packed->table);

	for (size_t i = 0; i < count; i++) {
		memset(step[i].place, 0x80, sizeof(step[i].place));
		memset(step[i].high, 0, sizeof(step[i].high));
		memset(step[i].low, 0, sizeof(step[i].low));
	}
	for (size_t g = 0; g < groups; g++, base += packed->steps, step += packed->steps) {
		for (int lane = 0; lane < 2; lane++) {
			struct half half;

			find_half(plan, channels, g * GROUP + (size_t)lane * LANE_SAMPLES, &half);
			fill_half(plan, channels, &half, lane, packed->steps, base, step);
		}
	}
	return 0;
}

/* ---- horizontal, tables of PIXELS ---- */

static int taps_of_step(int channels)
{
	return channels == 3 ? 4 : WORDS;
}

/* The words of a step that tap t goes into, `count` of them from `first`, 2 apart. */
static void word_places(int channels, int t, int *first, int *count)
{
	*first = channels == 3 ? t / 2 * 8 + t % 2 : t;
	*count = channels == 3 ? 3 : 1;
}

static void fill_step(const struct resize_plan *plan, int channels, uint32_t i, int s, struct step *step)
{
	const int32_t *weight = plan->weight + (size_t)i * (size_t)plan->taps_max;
	const int taps = taps_of_step(channels);

	memset(step, 0, sizeof(*step));
	for (int t = 0; t < taps && s * taps + t < plan->count[i]; t++) {
		int first, count;

		word_places(channels, t, &first, &count);
		for (int w = 0; w < count; w++)
			split(weight[s * taps + t], &step->high[first + 2 * w], &step->low[first + 2 * w]);
	}
}

static int pack_pixels(struct resize_packed *packed, const struct resize_plan *plan, int channels, struct err *err)
{
	const int taps = taps_of_step(channels);
	int code;

	packed->steps = (plan->taps_max + taps - 1) / taps;
	if ((code = resize_packed_reserve(packed, plan->target * (size_t)packed->steps * sizeof(struct step), err)) != 0)
		return code;
	struct step *step = (struct step *)(void *)packed->bytes;

	for (uint32_t i = 0; i < plan->target; i++) {
		for (int s = 0; s < packed->steps; s++)
			fill_step(plan, channels, i, s, step++);
	}
	return 0;
}

static int pack_vertical(struct resize_packed *packed, const struct resize_plan *plan, struct err *err)
{
	int code;

	packed->steps = (plan->taps_max + 1) / 2;
	if ((code = resize_packed_reserve(packed, plan->target * (size_t)packed->steps * sizeof(struct pair), err)) != 0)
		return code;
	struct pair *pair = (struct pair *)(void *)packed->bytes;

	memset(pair, 0, plan->target * (size_t)packed->steps * sizeof(*pair));
	for (uint32_t i = 0; i < plan->target; i++, pair += packed->steps) {
		const int32_t *weight = plan->weight + (size_t)i * (size_t)plan->taps_max;

		for (int t = 0; t < plan->count[i]; t++)
			split(weight[t], &pair[t / PAIR].high[t % PAIR], &pair[t / PAIR].low[t % PAIR]);
	}
	return 0;
}

static int pack(struct resize_packed *packed, const struct resize_plan *plan, int channels, struct err *err)
{
	if (channels == 0)
		return pack_vertical(packed, plan, err);
	packed->kind = (int)choose_kind(plan, channels);
	if (packed->kind == KIND_GROUPED)
		return pack_grouped(packed, plan, channels, err);
	return pack_pixels(packed, plan, channels, err);
}

/* ---- inner loops ---- */

/* The two sums of one register of outputs. */
struct sums {
	__m256i high, low;
};

TARGET_INLINE struct sums sums_start(void)
{
	return (struct sums){ _mm256_setzero_si256(), _mm256_setzero_si256() };
}

TARGET_INLINE void sums_add(struct sums *sums, __m256i words, __m256i high, __m256i low)
{
	sums->high = _mm256_add_epi32(sums->high, _mm256_madd_epi16(words, high));
	sums->low = _mm256_add_epi32(sums->low, _mm256_madd_epi16(words, low));
}

TARGET_INLINE __m256i sums_total(struct sums sums)
{
	return _mm256_add_epi32(_mm256_slli_epi32(sums.high, SPLIT_BITS), sums.low);
}

TARGET_INLINE __m256i rounded(__m256i total)
{
	return _mm256_srli_epi32(_mm256_add_epi32(total, _mm256_set1_epi32(RESIZE_ROUNDING)), RESIZE_PRECISION_BITS);
}

/* One pixel of two rows, in the lower and the upper half. */
TARGET_INLINE __m256i two_pixels(struct sums first, struct sums second)
{
	__m256i a = sums_total(first), b = sums_total(second);

	return rounded(_mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31)));
}

/* rows (a constant where this is called) is ROWS or 1. The fourth byte of
 * each store is beyond the pixel: the next one's, or slack. */
TARGET_INLINE void store_pixels(const struct sums *sums, int rows, uint8_t *out, size_t out_stride)
{
	const struct sums none = sums_start();
	__m256i rows01 = two_pixels(sums[0], rows == ROWS ? sums[1] : none);
	__m256i rows23 = rows == ROWS ? two_pixels(sums[2], sums[3]) : rows01;
	__m256i words = _mm256_packus_epi32(rows01, rows23);
	/* Lower half: rows 0 and 2; upper half: rows 1 and 3. */
	__m256i bytes = _mm256_packus_epi16(words, words);
	__m128i even = _mm256_castsi256_si128(bytes), odd = _mm256_extracti128_si256(bytes, 1);

	_mm_storeu_si32(out, even);
	if (rows != ROWS)
		return;
	_mm_storeu_si32(out + out_stride, odd);
	_mm_storeu_si32(out + 2 * out_stride, _mm_srli_si128(even, 4));
	_mm_storeu_si32(out + 3 * out_stride, _mm_srli_si128(odd, 4));
}

TARGET_INLINE __m256i spread_rgb(const uint8_t *from)
{
	const __m256i places = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, 6, -1, 9, -1, 7,
						-1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);

	return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)from)), places);
}

TARGET_INLINE void rgb_rows(const struct resize_plan *plan, const struct resize_packed *packed, const uint8_t *source,
			    size_t source_stride, uint8_t *out, size_t out_stride, int rows)
{
	const struct step *step = (const struct step *)(const void *)packed->bytes;

	for (uint32_t i = 0; i < plan->target; i++, step += packed->steps) {
		const uint8_t *window = source + (size_t)plan->first[i] * 3;
		struct sums sums[ROWS];

		for (int r = 0; r < rows; r++)
			sums[r] = sums_start();
		for (int s = 0; 4 * s < plan->count[i]; s++) {
			const __m256i high = _mm256_load_si256((const __m256i *)(const void *)step[s].high);
			const __m256i low = _mm256_load_si256((const __m256i *)(const void *)step[s].low);

			for (int r = 0; r < rows; r++)
				sums_add(&sums[r], spread_rgb(window + (size_t)r * source_stride + 12 * (size_t)s), high, low);
		}
		store_pixels(sums, rows, out + 3 * (size_t)i, out_stride);
	}
}

TARGET_INLINE uint32_t sum_of(__m256i v)
{
	__m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));

	s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
	s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1));
	return (uint32_t)_mm_cvtsi128_si32(s);
}

TARGET_INLINE void gray_row(const struct resize_plan *plan, const struct resize_packed *packed, const uint8_t *source,
			    uint8_t *out)
{
	const struct step *step = (const struct step *)(const void *)packed->bytes;

	for (uint32_t i = 0; i < plan->target; i++, step += packed->steps) {
		const uint8_t *window = source + plan->first[i];
		struct sums sums = sums_start();

		for (int s = 0; WORDS * s < plan->count[i]; s++) {
			__m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(window + WORDS * s));

			sums_add(&sums, _mm256_cvtepu8_epi16(bytes), _mm256_load_si256((const __m256i *)(const void *)step[s].high),
				 _mm256_load_si256((const __m256i *)(const void *)step[s].low));
		}
		out[i] = resize_round(sum_of(sums_total(sums)) + RESIZE_ROUNDING);
	}
}

/* The two halves' 16 bytes, as words. */
TARGET_INLINE __m256i spread_halves(const uint8_t *row, const struct group_base *base, __m256i place)
{
	__m128i first = _mm_loadu_si128((const __m128i *)(const void *)(row + base->half[0]));
	__m128i second = _mm_loadu_si128((const __m128i *)(const void *)(row + base->half[1]));

	return _mm256_shuffle_epi8(_mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1), place);
}

/* 8 samples of each row. */
TARGET_INLINE void store_group(const struct sums *sums, int rows, uint8_t *out, size_t out_stride)
{
	const __m256i by_row = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
	__m256i total[ROWS];

	for (int r = 0; r < ROWS; r++)
		total[r] = r < rows ? rounded(sums_total(sums[r])) : _mm256_setzero_si256();
	__m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(total[0], total[1]), _mm256_packus_epi32(total[2], total[3]));

	bytes = _mm256_permutevar8x32_epi32(bytes, by_row);
	__m128i rows01 = _mm256_castsi256_si128(bytes);

	_mm_storel_epi64((__m128i *)(void *)out, rows01);
	if (rows != ROWS)
		return;
	__m128i rows23 = _mm256_extracti128_si256(bytes, 1);

	_mm_storel_epi64((__m128i *)(void *)(out + out_stride), _mm_unpackhi_epi64(rows01, rows01));
	_mm_storel_epi64((__m128i *)(void *)(out + 2 * out_stride), rows23);
	_mm_storel_epi64((__m128i *)(void *)(out + 3 * out_stride), _mm_unpackhi_epi64(rows23, rows23));
}

/* One group of `rows` (ROWS or 1) rows. rows and steps are constants where this is called, or steps is packed->steps. */
TARGET_INLINE void group_of_rows(const struct group_base *base, const struct group_step *step, const uint8_t *source,
				 size_t source_stride, uint8_t *out, size_t out_stride, int rows, int steps)
{
	struct sums sums[ROWS];

	for (int r = 0; r < rows; r++)
		sums[r] = sums_start();
	for (int s = 0; s < steps; s++, base++, step++) {
		const __m256i place = _mm256_load_si256((const __m256i *)(const void *)step->place);
		const __m256i high = _mm256_load_si256((const __m256i *)(const void *)step->high);
		const __m256i low = _mm256_load_si256((const __m256i *)(const void *)step->low);

		for (int r = 0; r < rows; r++)
			sums_add(&sums[r], spread_halves(source + (size_t)r * source_stride, base, place), high, low);
	}
	store_group(sums, rows, out, out_stride);
}

/* Group by group, all rows of each: the tables may be larger than the nearest cache. */
TARGET_INLINE void grouped_rows(const struct resize_packed *packed, size_t groups, const uint8_t *source,
				size_t source_stride, int rows, uint8_t *out, size_t out_stride, int steps)
{
	const struct group_base *base = (const struct group_base *)(const void *)packed->bytes;
	const struct group_step *step = (const struct group_step *)(const void *)(packed->bytes + packed->table);

	for (size_t g = 0; g < groups; g++, base += steps, step += steps, out += GROUP) {
		const uint8_t *from = source;
		uint8_t *to = out;
		int left = rows;

		for (; left >= ROWS; left -= ROWS, from += ROWS * source_stride, to += ROWS * out_stride)
			group_of_rows(base, step, from, source_stride, to, out_stride, ROWS, steps);
		for (; left > 0; left--, from += source_stride, to += out_stride)
			group_of_rows(base, step, from, source_stride, to, out_stride, 1, steps);
	}
}

/* The usual numbers of steps (enlarging, and reducing up to threefold or so) are unrolled. */
TARGET static void horizontal_grouped(const struct resize_packed *packed, size_t groups, const uint8_t *source,
				      size_t source_stride, int rows, uint8_t *out, size_t out_stride)
{
	switch (packed->steps) {
	case 1:
		grouped_rows(packed, groups, source, source_stride, rows, out, out_stride, 1);
		break;
	case 2:
		grouped_rows(packed, groups, source, source_stride, rows, out, out_stride, 2);
		break;
	case 3:
		grouped_rows(packed, groups, source, source_stride, rows, out, out_stride, 3);
		break;
	case 4:
		grouped_rows(packed, groups, source, source_stride, rows, out, out_stride, 4);
		break;
	default:
		grouped_rows(packed, groups, source, source_stride, rows, out, out_stride, packed->steps);
		break;
	}
}

TARGET static void horizontal(const struct resize_plan *plan, const struct resize_packed *packed, int channels,
			      const uint8_t *source, size_t source_stride, int rows, uint8_t *out, size_t out_stride)
{
	if (packed->kind == KIND_GROUPED) {
		horizontal_grouped(packed, groups_of(plan, channels), source, source_stride, rows, out, out_stride);
		return;
	}
	for (; channels == 3 && rows >= ROWS; rows -= ROWS, source += ROWS * source_stride, out += ROWS * out_stride)
		rgb_rows(plan, packed, source, source_stride, out, out_stride, ROWS);
	for (; rows > 0; rows--, source += source_stride, out += out_stride) {
		if (channels == 3)
			rgb_rows(plan, packed, source, source_stride, out, out_stride, 1);
		else
			gray_row(plan, packed, source, out);
	}
}

/* 32 samples of two rows as four registers of word pairs. */
TARGET_INLINE void load_pair(const uint8_t *first, const uint8_t *second, __m256i out[4])
{
	const __m256i zero = _mm256_setzero_si256();
	__m256i a = _mm256_loadu_si256((const __m256i *)(const void *)first);
	__m256i b = _mm256_loadu_si256((const __m256i *)(const void *)second);
	__m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);

	out[0] = _mm256_unpacklo_epi8(low, zero);
	out[1] = _mm256_unpackhi_epi8(low, zero);
	out[2] = _mm256_unpacklo_epi8(high, zero);
	out[3] = _mm256_unpackhi_epi8(high, zero);
}

/* 32 output samples at x. */
TARGET_INLINE __m256i vertical_block(const struct pair *pair, const uint8_t *const *rows, int32_t count, size_t x)
{
	struct sums sums[4];

	for (int i = 0; i < 4; i++)
		sums[i] = sums_start();
	for (int32_t t = 0; t < count; t += PAIR, pair++) {
		int32_t high, low;
		__m256i words[4];

		memcpy(&high, pair->high, sizeof(high));
		memcpy(&low, pair->low, sizeof(low));
		/* The row behind the last one has weight 0. */
		load_pair(rows[t] + x, rows[t + 1 < count ? t + 1 : t] + x, words);
		for (int i = 0; i < 4; i++)
			sums_add(&sums[i], words[i], _mm256_set1_epi32(high), _mm256_set1_epi32(low));
	}
	return _mm256_packus_epi16(
		_mm256_packus_epi32(rounded(sums_total(sums[0])), rounded(sums_total(sums[1]))),
		_mm256_packus_epi32(rounded(sums_total(sums[2])), rounded(sums_total(sums[3]))));
}

TARGET static void vertical(const struct resize_plan *plan, const struct resize_packed *packed, uint32_t at,
			    const uint8_t *const *rows, size_t bytes, uint8_t *out)
{
	const struct pair *pair = (const struct pair *)(const void *)packed->bytes + (size_t)at * (size_t)packed->steps;
	size_t x = 0;

	for (; bytes - x >= VECTOR; x += VECTOR)
		_mm256_storeu_si256((__m256i *)(void *)(out + x), vertical_block(pair, rows, plan->count[at], x));
	if (x < bytes) {
		uint8_t last[VECTOR];

		_mm256_storeu_si256((__m256i *)(void *)last, vertical_block(pair, rows, plan->count[at], x));
		memcpy(out + x, last, bytes - x);
	}
}

static const struct resize_kernels AVX2 = {
	.name = "avx2", .pack = pack, .horizontal = horizontal, .vertical = vertical,
};

const struct resize_kernels *resize_kernels_avx2(void)
{
	return __builtin_cpu_supports("avx2") ? &AVX2 : NULL;
}

#else

const struct resize_kernels *resize_kernels_avx2(void)
{
	return NULL;
}

#endif
