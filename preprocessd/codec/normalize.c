#include "preprocessd/codec/normalize.h"

#include <string.h>

#include "preprocessd/codec/normalize_x86.h"

const float NORMALIZE_IMAGENET_MEAN[3] = { 0.485f, 0.456f, 0.406f };
const float NORMALIZE_IMAGENET_STD[3] = { 0.229f, 0.224f, 0.225f };

/* Where byte `position` of a channel's 64 comes from among the 192 interleaved bytes of 64 pixels. In order: pixel = position. For
 * floats the order is such that unpacking four byte planes leaves 16 pixels in a row in each of four registers: position
 * 16*lane + 4*k + i holds pixel 16*k + 4*lane + i. */
static uint8_t source_of(int position, int channel, bool for_floats)
{
	int lane = position / 16, k = position / 4 % 4, i = position % 4;
	int pixel = for_floats ? 16 * k + 4 * lane + i : position;

	return (uint8_t)(3 * pixel + channel);
}

static void pick_init(struct normalize_pick *pick, int channel, bool for_floats)
{
	pick->third = 0;
	for (int i = 0; i < 64; i++) {
		uint8_t source = source_of(i, channel, for_floats);

		pick->low[i] = source & 127;
		pick->high[i] = source & 63;
		if (source >= 128)
			pick->third |= (uint64_t)1 << i;
	}
}

static void spread_init(uint8_t spread[3][16], int channel)
{
	memset(spread, 0x80, 3 * 16); /* a shuffle's zero */
	for (int pixel = 0; pixel < 16; pixel++) {
		int at = 3 * pixel + channel;

		spread[at / 16][pixel] = (uint8_t)(at % 16);
	}
}

void normalize_table_init(struct normalize_table *out, const float mean[3], const float std[3])
{
	for (int c = 0; c < 3; c++) {
		for (int x = 0; x < 256; x++) {
			float value = (float)x / 255.0f;
			uint32_t bits;

			value = value - mean[c];
			value = value / std[c];
			out->value[c][x] = value;
			memcpy(&bits, &value, sizeof(bits));
			for (int b = 0; b < 4; b++)
				out->plane[c][b][x] = (uint8_t)(bits >> (8 * b));
		}
		pick_init(&out->pick[c], c, false);
		pick_init(&out->pick_f32[c], c, true);
		spread_init(out->spread[c], c);
		out->mean[c] = mean[c];
		out->std[c] = std[c];
	}
	out->computes = normalize_have_avx2() && normalize_computes_avx2(out);
}

void normalize_f32_chw_portable(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n,
				float *out)
{
	float *restrict red = out, *restrict green = out + n, *restrict blue = out + 2 * n;

	for (size_t i = from; i < to; i++) {
		red[i] = table->value[0][pixels[3 * i]];
		green[i] = table->value[1][pixels[3 * i + 1]];
		blue[i] = table->value[2][pixels[3 * i + 2]];
	}
}

void normalize_u8_chw_portable(const uint8_t *pixels, size_t from, size_t to, size_t n, uint8_t *out)
{
	uint8_t *restrict red = out, *restrict green = out + n, *restrict blue = out + 2 * n;

	for (size_t i = from; i < to; i++) {
		red[i] = pixels[3 * i];
		green[i] = pixels[3 * i + 1];
		blue[i] = pixels[3 * i + 2];
	}
}

void normalize_f32_hwc_portable(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, float *out)
{
	for (size_t i = 3 * from; i < 3 * to; i += 3) {
		out[i] = table->value[0][pixels[i]];
		out[i + 1] = table->value[1][pixels[i + 1]];
		out[i + 2] = table->value[2][pixels[i + 2]];
	}
}

void normalize_f32_chw(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n, float *out)
{
	if (normalize_have_avx512())
		normalize_f32_chw_avx512(table, pixels, from, to, n, out);
	else if (table->computes)
		normalize_f32_chw_avx2(table, pixels, from, to, n, out);
	else
		normalize_f32_chw_portable(table, pixels, from, to, n, out);
}

void normalize_f32_hwc(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n, float *out)
{
	if (table->computes)
		normalize_f32_hwc_avx2(table, pixels, from, to, n, out);
	else
		normalize_f32_hwc_portable(table, pixels, from, to, out);
}

void normalize_u8_chw(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n, uint8_t *out)
{
	if (normalize_have_avx512())
		normalize_u8_chw_avx512(table, pixels, from, to, n, out);
	else if (normalize_have_avx2())
		normalize_u8_chw_avx2(table, pixels, from, to, n, out);
	else
		normalize_u8_chw_portable(pixels, from, to, n, out);
}
