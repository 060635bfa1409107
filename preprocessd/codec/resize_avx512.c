/*
 * resize_avx512.c - the resizer's inner loops on AVX-512 with VBMI and VNNI.
 *
 * A weight w (0 .. 2^22) is split into signed bytes, w = a*2^16 + b*2^8 + c,
 * so that vpdpbusd multiplies four samples by four parts at a time and adds
 * them exactly; the three sums are put together at the end.
 *
 * Horizontal: the samples of four neighboring taps have to stand side by side.
 * vpermb arranges that from 64 loaded bytes, for any layout of pixels:
 *   SHORT: 16 output samples (pixel by pixel, channel by channel) share one
 *          load for every four taps; their windows lie within 64 bytes.
 *   WIDE:  the same with 128 bytes (stronger reduction).
 *   LONG:  windows of many taps, one output pixel at a time: 16 taps of three
 *          channels, or 64 of one, from each load.
 * Up to ROWS rows are done together, so that tables are read once for them.
 *
 * Vertical: four rows are interleaved byte by byte; 64 samples at a time.
 */
#include "preprocessd/codec/resize_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "shared/base/mem.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")))
#define TARGET_INLINE TARGET __attribute__((always_inline)) static inline

enum { VECTOR = 64, LANES = 16, QUAD = 4, ROWS = 4 };

enum kind { KIND_SHORT, KIND_WIDE, KIND_LONG, KIND_VERTICAL };

/* One step of SHORT and WIDE: four taps of 16 output samples. */
struct step {
	uint8_t index[VECTOR]; /* dword j: where the four samples of output j lie */
	int8_t a[VECTOR], b[VECTOR], c[VECTOR];
};

/* Four taps' parts, side by side as vpdpbusd wants them. */
struct quad {
	int8_t a[QUAD], b[QUAD], c[QUAD];
};

static void split(int32_t weight, int8_t *a, int8_t *b, int8_t *c)
{
	*c = (int8_t)(weight & 0xFF);
	weight = (weight - *c) >> 8;
	*b = (int8_t)(weight & 0xFF);
	*a = (int8_t)((weight - *b) >> 8);
}

/* Taps 4*quad .. of output i; zero where the window ends. */
static struct quad quad_of(const struct resize_plan *plan, uint32_t i, int quad)
{
	const int32_t *weight = plan->weight + (size_t)i * (size_t)plan->taps_max;
	struct quad parts = { { 0 }, { 0 }, { 0 } };

	for (int t = 0; t < QUAD && QUAD * quad + t < plan->count[i]; t++)
		split(weight[QUAD * quad + t], &parts.a[t], &parts.b[t], &parts.c[t]);
	return parts;
}

static int quads_max(const struct resize_plan *plan)
{
	return (plan->taps_max + QUAD - 1) / QUAD;
}

static size_t vectors_of(const struct resize_plan *plan, int channels)
{
	return ((size_t)plan->target * (size_t)channels + LANES - 1) / LANES;
}

/* ---- horizontal, tables ---- */

/* Pixels whose samples are in vector v: *from to *to, the last one included. */
static void vector_pixels(const struct resize_plan *plan, int channels, size_t v, uint32_t *from, uint32_t *to)
{
	size_t last = (v * LANES + LANES - 1) / (size_t)channels;

	*from = (uint32_t)(v * LANES / (size_t)channels);
	*to = last < plan->target ? (uint32_t)last : plan->target - 1;
}

/* The source pixels that a step looks at begin at first + 4 * step, where
 * first is the least of the vector's windows (they move one way only). */
static int32_t least_first(const struct resize_plan *plan, uint32_t from, uint32_t to)
{
	return plan->first[from] < plan->first[to] ? plan->first[from] : plan->first[to];
}

static enum kind choose_kind(const struct resize_plan *plan, int channels)
{
	int32_t widest = 0;

	for (size_t v = 0; v < vectors_of(plan, channels); v++) {
		uint32_t from, to;

		vector_pixels(plan, channels, v, &from, &to);
		int32_t apart = plan->first[from] - plan->first[to];

		apart = (apart < 0 ? -apart : apart) + QUAD;
		if (apart > widest)
			widest = apart;
	}
	widest *= channels;
	return widest <= VECTOR ? KIND_SHORT : widest <= 2 * VECTOR ? KIND_WIDE : KIND_LONG;
}

/* All steps of one vector. */
static void fill_steps(const struct resize_plan *plan, int channels, size_t v, int steps, int32_t *base, struct step *step)
{
	uint32_t pixel, to;
	int channel = (int)(v * LANES % (size_t)channels);

	vector_pixels(plan, channels, v, &pixel, &to);
	const int32_t low = least_first(plan, pixel, to);

	memset(step, 0, (size_t)steps * sizeof(*step));
	memset(base, 0, (size_t)steps * sizeof(*base));
	for (size_t lane = 0; lane < LANES && pixel <= to; lane++) {
		const int32_t start = (plan->first[pixel] - low) * channels + channel;

		for (int s = 0; QUAD * s < plan->count[pixel]; s++) {
			const struct quad parts = quad_of(plan, pixel, s);

			base[s] = (low + QUAD * s) * channels;
			memcpy(step[s].a + QUAD * lane, parts.a, QUAD);
			memcpy(step[s].b + QUAD * lane, parts.b, QUAD);
			memcpy(step[s].c + QUAD * lane, parts.c, QUAD);
			for (int t = 0; t < QUAD; t++)
				step[s].index[QUAD * lane + (size_t)t] = (uint8_t)(start + t * channels);
		}
		if (++channel == channels) {
			channel = 0;
			pixel++;
		}
	}
}

/* (vectors, steps) offsets, then as many struct step. A step that no window of
 * its vector reaches has weights of zero and offset 0. */
static int pack_grouped(struct resize_packed *packed, const struct resize_plan *plan, int channels, struct err *err)
{
	const size_t vectors = vectors_of(plan, channels);
	size_t count;
	int code;

	packed->steps = quads_max(plan);
	count = vectors * (size_t)packed->steps;
	packed->table = size_round_up(count * sizeof(int32_t), MEM_ALIGN_BYTES);
	if ((code = resize_packed_reserve(packed, packed->table + count * sizeof(struct step), err)) != 0)
		return code;
	int32_t *base = (int32_t *)(void *)packed->bytes;
	struct step *step = (struct step *)(void *)(packed->bytes + packed->table);

	for (size_t v = 0; v < vectors; v++, base += packed->steps, step += packed->steps)
		fill_steps(plan, channels, v, packed->steps, base, step);
	return 0;
}

/* (outputs, steps) records of a, b and c of `quads` quads each; LONG has 4
 * quads a record for three channels and 16 for one, the vertical pass 1. */
static int pack_quads(struct resize_packed *packed, const struct resize_plan *plan, int quads, struct err *err)
{
	const size_t part = (size_t)quads * QUAD;
	int code;

	packed->steps = (quads_max(plan) + quads - 1) / quads;
	packed->table = 0;
	if ((code = resize_packed_reserve(packed, plan->target * (size_t)packed->steps * 3 * part, err)) != 0)
		return code;
	uint8_t *record = packed->bytes;

	for (uint32_t i = 0; i < plan->target; i++) {
		for (int q = 0; q < packed->steps * quads; q++) {
			struct quad parts = quad_of(plan, i, q);
			uint8_t *at = record + (size_t)(q / quads) * 3 * part + (size_t)(q % quads) * QUAD;

			memcpy(at, parts.a, QUAD);
			memcpy(at + part, parts.b, QUAD);
			memcpy(at + 2 * part, parts.c, QUAD);
		}
		record += (size_t)packed->steps * 3 * part;
	}
	return 0;
}

static int pack(struct resize_packed *packed, const struct resize_plan *plan, int channels, struct err *err)
{
	packed->kind = channels == 0 ? KIND_VERTICAL : (int)choose_kind(plan, channels);
	if (packed->kind == KIND_VERTICAL)
		return pack_quads(packed, plan, 1, err);
	if (packed->kind == KIND_LONG)
		return pack_quads(packed, plan, channels == 3 ? 4 : 16, err);
	return pack_grouped(packed, plan, channels, err);
}

/* ---- inner loops ---- */

/* The three sums of one register of outputs. */
struct sums {
	__m512i a, b, c;
};

TARGET_INLINE struct sums sums_start(void)
{
	return (struct sums){ _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512() };
}

/* GCC 12 copies the accumulator of _mm512_dpbusd_epi32 before and after each
 * use in a loop; this way it stays in its register. */
TARGET_INLINE void dot(__m512i *sum, __m512i samples, __m512i weights)
{
#ifdef EMULATED_AVX512 /* tests/emulated */
	*sum = _mm512_dpbusd_epi32(*sum, samples, weights);
#else
	__asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(samples), "v"(weights));
#endif
}

TARGET_INLINE void sums_add(struct sums *sums, __m512i samples, __m512i a, __m512i b, __m512i c)
{
	dot(&sums->a, samples, a);
	dot(&sums->b, samples, b);
	dot(&sums->c, samples, c);
}

TARGET_INLINE __m512i sums_total(struct sums sums)
{
	__m512i high = _mm512_add_epi32(_mm512_slli_epi32(sums.a, 16), _mm512_slli_epi32(sums.b, 8));

	return _mm512_add_epi32(high, sums.c);
}

TARGET_INLINE __m512i rounded(__m512i total)
{
	return _mm512_srli_epi32(_mm512_add_epi32(total, _mm512_set1_epi32(RESIZE_ROUNDING)), RESIZE_PRECISION_BITS);
}

/* 16 output samples of each row. Narrowing conversions with a memory operand
 * are slow on some processors, so four rows are packed together instead. */
TARGET_INLINE void store_group(const struct sums *sums, int rows, uint8_t *out, size_t out_stride)
{
	if (rows != ROWS) {
		for (int r = 0; r < rows; r++) {
			__m128i bytes = _mm512_cvtusepi32_epi8(rounded(sums_total(sums[r])));

			_mm_storeu_si128((__m128i *)(void *)(out + (size_t)r * out_stride), bytes);
		}
		return;
	}
	const __m512i by_row = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
	__m512i rows01 = _mm512_packus_epi32(rounded(sums_total(sums[0])), rounded(sums_total(sums[1])));
	__m512i rows23 = _mm512_packus_epi32(rounded(sums_total(sums[2])), rounded(sums_total(sums[3])));
	__m512i bytes = _mm512_permutexvar_epi32(by_row, _mm512_packus_epi16(rows01, rows23));

	_mm_storeu_si128((__m128i *)(void *)out, _mm512_castsi512_si128(bytes));
	_mm_storeu_si128((__m128i *)(void *)(out + out_stride), _mm512_extracti32x4_epi32(bytes, 1));
	_mm_storeu_si128((__m128i *)(void *)(out + 2 * out_stride), _mm512_extracti32x4_epi32(bytes, 2));
	_mm_storeu_si128((__m128i *)(void *)(out + 3 * out_stride), _mm512_extracti32x4_epi32(bytes, 3));
}

/* rows and wide are constants where this is called. */
TARGET_INLINE void grouped_rows(const struct resize_plan *plan, const struct resize_packed *packed, int channels,
				const uint8_t *source, size_t source_stride, uint8_t *out, size_t out_stride, int rows,
				int wide)
{
	const int32_t *base = (const int32_t *)(const void *)packed->bytes;
	const struct step *step = (const struct step *)(const void *)(packed->bytes + packed->table);
	const size_t samples = (size_t)plan->target * (size_t)channels;

	for (size_t at = 0; at < samples; at += LANES) {
		struct sums sums[ROWS];

		for (int r = 0; r < rows; r++)
			sums[r] = sums_start();
		for (int s = 0; s < packed->steps; s++, step++, base++) {
			const __m512i index = _mm512_load_si512(step->index);
			const __m512i a = _mm512_load_si512(step->a), b = _mm512_load_si512(step->b);
			const __m512i c = _mm512_load_si512(step->c);

			for (int r = 0; r < rows; r++) {
				const uint8_t *from = source + (size_t)r * source_stride + *base;
				__m512i bytes = _mm512_loadu_si512(from);

				if (wide)
					bytes = _mm512_permutex2var_epi8(bytes, index, _mm512_loadu_si512(from + VECTOR));
				else
					bytes = _mm512_permutexvar_epi8(index, bytes);
				sums_add(&sums[r], bytes, a, b, c);
			}
		}
		store_group(sums, rows, out + at, out_stride);
	}
}

/* Sums over the four lanes of total: samples 0..2 are the pixel. */
TARGET_INLINE void store_pixel(__m512i total, uint8_t *out)
{
	__m256i half = _mm256_add_epi32(_mm512_castsi512_si256(total), _mm512_extracti64x4_epi64(total, 1));
	__m128i quarter = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
	__m512i value = rounded(_mm512_castsi128_si512(quarter));

	/* The fourth byte is beyond the pixel: the next one's, or slack. */
	_mm_storeu_si32(out, _mm512_cvtusepi32_epi8(value));
}

TARGET_INLINE void long_rows_rgb(const struct resize_plan *plan, const struct resize_packed *packed, const uint8_t *source,
				 size_t source_stride, uint8_t *out, size_t out_stride, int rows)
{
	const uint8_t *record = packed->bytes;
	/* Lane q: taps 4q..4q+3 of red, green, blue, and of red again, unused. */
	const __m512i in_lane = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, 0, 3, 6, 9));
	const __m512i lane_starts = _mm512_setr_epi32(0, 0, 0, 0, 0x0C0C0C0C, 0x0C0C0C0C, 0x0C0C0C0C, 0x0C0C0C0C, 0x18181818,
						      0x18181818, 0x18181818, 0x18181818, 0x24242424, 0x24242424,
						      0x24242424, 0x24242424);
	const __m512i index = _mm512_add_epi8(in_lane, lane_starts);
	const __m512i spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);

	for (uint32_t i = 0; i < plan->target; i++) {
		const uint8_t *window = source + (size_t)plan->first[i] * 3;
		struct sums sums[ROWS];

		for (int r = 0; r < rows; r++)
			sums[r] = sums_start();
		for (int s = 0; s < packed->steps; s++, record += 48) {
			const __m128i *parts = (const __m128i *)(const void *)record;
			const __m512i a = _mm512_permutexvar_epi32(spread, _mm512_castsi128_si512(_mm_load_si128(parts)));
			const __m512i b = _mm512_permutexvar_epi32(spread, _mm512_castsi128_si512(_mm_load_si128(parts + 1)));
			const __m512i c = _mm512_permutexvar_epi32(spread, _mm512_castsi128_si512(_mm_load_si128(parts + 2)));

			/* The longest window sets the number of steps; a shorter one at
			 * the end of the row must not read beyond the slack. */
			if (LANES * s >= plan->count[i])
				continue;
			for (int r = 0; r < rows; r++) {
				__m512i bytes = _mm512_loadu_si512(window + (size_t)r * source_stride + 48 * (size_t)s);

				sums_add(&sums[r], _mm512_permutexvar_epi8(index, bytes), a, b, c);
			}
		}
		for (int r = 0; r < rows; r++)
			store_pixel(sums_total(sums[r]), out + (size_t)r * out_stride + 3 * (size_t)i);
	}
}

TARGET_INLINE void long_rows_gray(const struct resize_plan *plan, const struct resize_packed *packed,
				  const uint8_t *source, size_t source_stride, uint8_t *out, size_t out_stride, int rows)
{
	const uint8_t *record = packed->bytes;

	for (uint32_t i = 0; i < plan->target; i++) {
		const uint8_t *window = source + plan->first[i];
		struct sums sums[ROWS];

		for (int r = 0; r < rows; r++)
			sums[r] = sums_start();
		for (int s = 0; s < packed->steps; s++, record += 3 * VECTOR) {
			const __m512i a = _mm512_load_si512(record), b = _mm512_load_si512(record + VECTOR);
			const __m512i c = _mm512_load_si512(record + 2 * VECTOR);

			if (VECTOR * s >= plan->count[i])
				continue;
			for (int r = 0; r < rows; r++)
				sums_add(&sums[r], _mm512_loadu_si512(window + (size_t)r * source_stride + VECTOR * (size_t)s), a, b, c);
		}
		for (int r = 0; r < rows; r++) {
			uint32_t total = (uint32_t)_mm512_reduce_add_epi32(sums_total(sums[r]));

			out[(size_t)r * out_stride + i] = resize_round(total + RESIZE_ROUNDING);
		}
	}
}

TARGET_INLINE void some_rows(const struct resize_plan *plan, const struct resize_packed *packed, int channels,
			     const uint8_t *source, size_t source_stride, uint8_t *out, size_t out_stride, int rows)
{
	if (packed->kind == KIND_SHORT)
		grouped_rows(plan, packed, channels, source, source_stride, out, out_stride, rows, 0);
	else if (packed->kind == KIND_WIDE)
		grouped_rows(plan, packed, channels, source, source_stride, out, out_stride, rows, 1);
	else if (channels == 3)
		long_rows_rgb(plan, packed, source, source_stride, out, out_stride, rows);
	else
		long_rows_gray(plan, packed, source, source_stride, out, out_stride, rows);
}

TARGET static void horizontal(const struct resize_plan *plan, const struct resize_packed *packed, int channels,
			      const uint8_t *source, size_t source_stride, int rows, uint8_t *out, size_t out_stride)
{
	for (; rows >= ROWS; rows -= ROWS, source += ROWS * source_stride, out += ROWS * out_stride)
		some_rows(plan, packed, channels, source, source_stride, out, out_stride, ROWS);
	for (; rows > 0; rows--, source += source_stride, out += out_stride)
		some_rows(plan, packed, channels, source, source_stride, out, out_stride, 1);
}

/* ---- vertical ---- */

/* The next quad of rows, clamped to the last one, whose further weights are 0. */
TARGET_INLINE void load_quad(const uint8_t *const *rows, int32_t count, int32_t first, size_t x, __m512i out[QUAD])
{
	__m512i row[QUAD];

	for (int t = 0; t < QUAD; t++)
		row[t] = _mm512_loadu_si512(rows[first + t < count ? first + t : count - 1] + x);
	__m512i low01 = _mm512_unpacklo_epi8(row[0], row[1]), high01 = _mm512_unpackhi_epi8(row[0], row[1]);
	__m512i low23 = _mm512_unpacklo_epi8(row[2], row[3]), high23 = _mm512_unpackhi_epi8(row[2], row[3]);

	out[0] = _mm512_unpacklo_epi16(low01, low23);
	out[1] = _mm512_unpackhi_epi16(low01, low23);
	out[2] = _mm512_unpacklo_epi16(high01, high23);
	out[3] = _mm512_unpackhi_epi16(high01, high23);
}

TARGET static void vertical(const struct resize_plan *plan, const struct resize_packed *packed, uint32_t at,
			    const uint8_t *const *rows, size_t bytes, uint8_t *out)
{
	const struct quad *quads = (const struct quad *)(const void *)packed->bytes + (size_t)at * (size_t)packed->steps;
	const int32_t count = plan->count[at];

	for (size_t x = 0; x < bytes; x += VECTOR) {
		struct sums sums[QUAD];

		for (int i = 0; i < QUAD; i++)
			sums[i] = sums_start();
		for (int32_t first = 0; first < count; first += QUAD) {
			const struct quad *quad = &quads[first / QUAD];
			__m512i samples[QUAD];
			int32_t parts[3];

			memcpy(parts, quad, sizeof(parts));
			load_quad(rows, count, first, x, samples);
			for (int i = 0; i < QUAD; i++)
				sums_add(&sums[i], samples[i], _mm512_set1_epi32(parts[0]), _mm512_set1_epi32(parts[1]),
					 _mm512_set1_epi32(parts[2]));
		}
		__m512i low = _mm512_packus_epi32(rounded(sums_total(sums[0])), rounded(sums_total(sums[1])));
		__m512i high = _mm512_packus_epi32(rounded(sums_total(sums[2])), rounded(sums_total(sums[3])));
		__mmask64 some = bytes - x >= VECTOR ? ~(__mmask64)0 : ((__mmask64)1 << (bytes - x)) - 1;

		_mm512_mask_storeu_epi8(out + x, some, _mm512_packus_epi16(low, high));
	}
}

static const struct resize_kernels AVX512 = {
	.name = "avx512", .pack = pack, .horizontal = horizontal, .vertical = vertical,
};

const struct resize_kernels *resize_kernels_avx512(void)
{
	return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
			       __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni")
		       ? &AVX512
		       : NULL;
}

#else

const struct resize_kernels *resize_kernels_avx512(void)
{
	return NULL;
}

#endif
