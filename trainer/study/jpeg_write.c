#include "trainer/study/jpeg_write.h"

#include <math.h>
#include <string.h>

/* Annex K.1, in the order of rows. */
static const uint8_t luma_base[64] = {
	16, 11, 10, 16, 24,  40,  51,  61,  12, 12, 14, 19, 26,  58,  60,  55,  14, 13, 16, 24, 40,  57,
	69, 56, 14, 17, 22,  29,  51,  87,  80, 62, 18, 22, 37,  56,  68,  109, 103, 77, 24, 35, 55, 64,
	81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
};
static const uint8_t chroma_base[64] = {
	17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
	99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
};
static const uint8_t zigzag[64] = {
	0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
	35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
};

/* Annex K.3: how many codes of each length, then their values. One table of each class for all components keeps this short. */
static const uint8_t dc_counts[16] = { 0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0 };
static const uint8_t dc_values[12] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 };
static const uint8_t ac_counts[16] = { 0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7D };
static const uint8_t ac_values[162] = {
	0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07, 0x22, 0x71, 0x14, 0x32, 0x81,
	0x91, 0xA1, 0x08, 0x23, 0x42, 0xB1, 0xC1, 0x15, 0x52, 0xD1, 0xF0, 0x24, 0x33, 0x62, 0x72, 0x82, 0x09, 0x0A, 0x16, 0x17, 0x18,
	0x19, 0x1A, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2A, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
	0x49, 0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6A, 0x73, 0x74, 0x75,
	0x76, 0x77, 0x78, 0x79, 0x7A, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
	0x9A, 0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA, 0xC2, 0xC3,
	0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA, 0xE1, 0xE2, 0xE3, 0xE4, 0xE5,
	0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8, 0xF9, 0xFA,
};

struct code {
	uint16_t bits;
	uint8_t length;
};

struct writer {
	struct buf *out;
	struct err *err;
	int code;
	uint32_t held;
	int held_bits;
	uint8_t quant[2][64]; /* in the order of rows */
	struct code dc[256], ac[256];
	float cosine[8][8];   /* [frequency][sample], scaled to be orthonormal */
	int before[3];        /* the last DC of each component */
};

static void put(struct writer *w, const void *bytes, size_t size)
{
	if (w->code == 0)
		w->code = buf_add(w->out, bytes, size, w->err);
}

static void put_byte(struct writer *w, unsigned byte)
{
	uint8_t b = (uint8_t)byte;

	put(w, &b, 1);
}

static void put_bits(struct writer *w, unsigned bits, int count)
{
	w->held = w->held << count | (bits & ((1u << count) - 1));
	w->held_bits += count;
	while (w->held_bits >= 8) {
		unsigned byte = w->held >> (w->held_bits - 8) & 0xFF;

		put_byte(w, byte);
		if (byte == 0xFF)
			put_byte(w, 0);
		w->held_bits -= 8;
	}
}

static void make_codes(struct code out[256], const uint8_t counts[16], const uint8_t *values)
{
	unsigned bits = 0;
	int at = 0;

	for (int length = 1; length <= 16; length++) {
		for (int i = 0; i < counts[length - 1]; i++)
			out[values[at++]] = (struct code){ (uint16_t)bits++, (uint8_t)length };
		bits <<= 1;
	}
}

static void put_segment(struct writer *w, unsigned marker, size_t size)
{
	put_byte(w, 0xFF);
	put_byte(w, marker);
	put_byte(w, (unsigned)(size + 2) >> 8);
	put_byte(w, (unsigned)(size + 2) & 0xFF);
}

static void put_header(struct writer *w, int width, int height)
{
	static const uint8_t jfif[] = { 'J', 'F', 'I', 'F', 0, 1, 1, 0, 0, 1, 0, 1, 0, 0 };

	put(w, "\xFF\xD8", 2);
	put_segment(w, 0xE0, sizeof(jfif));
	put(w, jfif, sizeof(jfif));
	put_segment(w, 0xDB, 2 * 65);
	for (unsigned q = 0; q < 2; q++) {
		put_byte(w, q);
		for (int i = 0; i < 64; i++)
			put_byte(w, w->quant[q][zigzag[i]]);
	}
	const uint8_t frame[] = { 8, (uint8_t)(height >> 8), (uint8_t)height, (uint8_t)(width >> 8), (uint8_t)width, 3,
				  1, 0x11, 0, 2, 0x11, 1, 3, 0x11, 1 };
	put_segment(w, 0xC0, sizeof(frame));
	put(w, frame, sizeof(frame));
	put_segment(w, 0xC4, 1 + 16 + sizeof(dc_values) + 1 + 16 + sizeof(ac_values));
	put_byte(w, 0x00);
	put(w, dc_counts, 16);
	put(w, dc_values, sizeof(dc_values));
	put_byte(w, 0x10);
	put(w, ac_counts, 16);
	put(w, ac_values, sizeof(ac_values));
	static const uint8_t scan[] = { 3, 1, 0, 2, 0, 3, 0, 0, 63, 0 };
	put_segment(w, 0xDA, sizeof(scan));
	put(w, scan, sizeof(scan));
}

static int size_of(int value)
{
	int size = 0;

	for (unsigned v = (unsigned)(value < 0 ? -value : value); v > 0; v >>= 1)
		size++;
	return size;
}

static void put_value(struct writer *w, int value, int size)
{
	if (size > 0)
		put_bits(w, (unsigned)(value < 0 ? value + (1 << size) - 1 : value), size);
}

/* Samples less 128, transformed and quantized; out in zigzag order. */
static void transform(const struct writer *w, const float in[64], const uint8_t quant[64], int out[64])
{
	float rows[64], all[64];

	for (int y = 0; y < 8; y++) {
		for (int u = 0; u < 8; u++) {
			float sum = 0;

			for (int x = 0; x < 8; x++)
				sum += in[8 * y + x] * w->cosine[u][x];
			rows[8 * y + u] = sum;
		}
	}
	for (int v = 0; v < 8; v++) {
		for (int u = 0; u < 8; u++) {
			float sum = 0;

			for (int y = 0; y < 8; y++)
				sum += rows[8 * y + u] * w->cosine[v][y];
			all[8 * v + u] = sum;
		}
	}
	for (int i = 0; i < 64; i++)
		out[i] = (int)lrintf(all[zigzag[i]] / quant[zigzag[i]]);
}

static void put_block(struct writer *w, int component, const float samples[64])
{
	int values[64], run = 0;

	transform(w, samples, w->quant[component > 0], values);
	int difference = values[0] - w->before[component], size = size_of(difference);
	w->before[component] = values[0];
	put_bits(w, w->dc[size].bits, w->dc[size].length);
	put_value(w, difference, size);
	for (int i = 1; i < 64; i++) {
		if (values[i] == 0) {
			run++;
			continue;
		}
		for (; run > 15; run -= 16)
			put_bits(w, w->ac[0xF0].bits, w->ac[0xF0].length);
		size = size_of(values[i]);
		put_bits(w, w->ac[run << 4 | size].bits, w->ac[run << 4 | size].length);
		put_value(w, values[i], size);
		run = 0;
	}
	if (run > 0)
		put_bits(w, w->ac[0].bits, w->ac[0].length);
}

/* Beyond the edge the last column and row are repeated. */
static void put_mcu(struct writer *w, const uint8_t *rgb, int width, int height, int x0, int y0)
{
	float planes[3][64];

	for (int i = 0; i < 64; i++) {
		int x = x0 + i % 8, y = y0 + i / 8;
		const uint8_t *p = rgb + 3 * ((size_t)(y < height ? y : height - 1) * (size_t)width + (size_t)(x < width ? x : width - 1));
		float r = p[0], g = p[1], b = p[2];

		planes[0][i] = 0.299f * r + 0.587f * g + 0.114f * b - 128;
		planes[1][i] = -0.168736f * r - 0.331264f * g + 0.5f * b;
		planes[2][i] = 0.5f * r - 0.418688f * g - 0.081312f * b;
	}
	for (int c = 0; c < 3; c++)
		put_block(w, c, planes[c]);
}

static void set_quality(struct writer *w, int quality)
{
	int scale = quality < 50 ? 5000 / quality : 200 - 2 * quality;

	for (int i = 0; i < 64; i++) {
		int luma = (luma_base[i] * scale + 50) / 100, chroma = (chroma_base[i] * scale + 50) / 100;

		w->quant[0][i] = (uint8_t)(luma < 1 ? 1 : luma > 255 ? 255 : luma);
		w->quant[1][i] = (uint8_t)(chroma < 1 ? 1 : chroma > 255 ? 255 : chroma);
	}
}

int jpeg_write(const uint8_t *rgb, int width, int height, int quality, struct buf *out, struct err *err)
{
	struct writer w = { .out = out, .err = err };

	CHECK(width > 0 && height > 0 && width <= JPEG_WRITE_SIDE_MAX && height <= JPEG_WRITE_SIDE_MAX && quality >= 1 && quality <= 100);
	for (int u = 0; u < 8; u++)
		for (int x = 0; x < 8; x++)
			w.cosine[u][x] = (float)((u == 0 ? sqrt(0.125) : 0.5) * cos((2 * x + 1) * u * M_PI / 16));
	set_quality(&w, quality);
	make_codes(w.dc, dc_counts, dc_values);
	make_codes(w.ac, ac_counts, ac_values);
	put_header(&w, width, height);
	for (int y = 0; y < height; y += 8)
		for (int x = 0; x < width; x += 8)
			put_mcu(&w, rgb, width, height, x, y);
	/* Filled up with ones, as the standard wants. */
	put_bits(&w, 0x7F, w.held_bits > 0 ? 8 - w.held_bits : 0);
	put(&w, "\xFF\xD9", 2);
	return w.code;
}
