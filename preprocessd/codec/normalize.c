#include "preprocessd/codec/normalize.h"

#include <string.h>

#include "preprocessd/codec/normalize_x86.h"

const float NORMALIZE_IMAGENET_MEAN[3] = { 0.485f, 0.456f, 0.406f };
const float NORMALIZE_IMAGENET_STD[3] = { 0.229f, 0.224f, 0.225f };

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
		out->mean[c] = mean[c];
		out->std[c] = std[c];
	}
	out->computes = normalize_have_avx2() && normalize_computes_avx2(out);
}

void normalize_f32_chw_portable(const struct normalize_table *table, const uint8_t *pixels, size_t n, float *out)
{
	float *restrict red = out, *restrict green = out + n, *restrict blue = out + 2 * n;

	for (size_t i = 0; i < n; i++) {
		red[i] = table->value[0][pixels[3 * i]];
		green[i] = table->value[1][pixels[3 * i + 1]];
		blue[i] = table->value[2][pixels[3 * i + 2]];
	}
}

void normalize_u8_chw_portable(const uint8_t *pixels, size_t n, uint8_t *out)
{
	uint8_t *restrict red = out, *restrict green = out + n, *restrict blue = out + 2 * n;

	for (size_t i = 0; i < n; i++) {
		red[i] = pixels[3 * i];
		green[i] = pixels[3 * i + 1];
		blue[i] = pixels[3 * i + 2];
	}
}

void normalize_f32_hwc(const struct normalize_table *table, const uint8_t *pixels, size_t n, float *out)
{
	for (size_t i = 0; i < 3 * n; i += 3) {
		out[i] = table->value[0][pixels[i]];
		out[i + 1] = table->value[1][pixels[i + 1]];
		out[i + 2] = table->value[2][pixels[i + 2]];
	}
}

void normalize_f32_chw(const struct normalize_table *table, const uint8_t *pixels, size_t n, float *out)
{
	if (normalize_have_avx512())
		normalize_f32_chw_avx512(table, pixels, n, out);
	else if (table->computes)
		normalize_f32_chw_avx2(table, pixels, n, out);
	else
		normalize_f32_chw_portable(table, pixels, n, out);
}

void normalize_u8_chw(const uint8_t *pixels, size_t n, uint8_t *out)
{
	if (normalize_have_avx512())
		normalize_u8_chw_avx512(pixels, n, out);
	else if (normalize_have_avx2())
		normalize_u8_chw_avx2(pixels, n, out);
	else
		normalize_u8_chw_portable(pixels, n, out);
}
