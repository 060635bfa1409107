/*
 * normalize.h - uint8 pixels to what a client asked for, through a table.
 *
 * Oracle: torchvision ToTensor then Normalize in float32: ((x / 255) - mean) / std,
 * each operation rounded to float32. 256 values a channel, so a table is exact.
 *
 * Threads: pure functions; a table is built once and then only read. Versions
 * for the processor at hand are chosen at run time and give the same bits.
 */
#ifndef PREPROCESSD_CODEC_NORMALIZE_H
#define PREPROCESSD_CODEC_NORMALIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Which of 192 interleaved bytes make a channel, for instructions that permute bytes: normalize_x86.c. */
struct normalize_pick {
	_Alignas(64) uint8_t low[64];  /* into the first 128 */
	_Alignas(64) uint8_t high[64]; /* into the last 64, where that is set in `third` */
	uint64_t third;
};

struct normalize_table {
	float value[3][256];
	/* The same values by byte: plane[c][b][x] is byte b (from the lowest) of
	 * value[c][x], which is what byte-permuting instructions look up. */
	_Alignas(64) uint8_t plane[3][4][256];
	struct normalize_pick pick[3], pick_f32[3]; /* [channel]; for bytes, and in the order that floats want */
	uint8_t spread[3][3][16];                   /* [channel][register]: as pick, 16 bytes at a time: normalize_avx2.c */
	float mean[3], std[3];
	bool computes; /* this processor's arithmetic without divisions gives the same values: normalize_avx2.c */
};

extern const float NORMALIZE_IMAGENET_MEAN[3]; /* 0.485 0.456 0.406 */
extern const float NORMALIZE_IMAGENET_STD[3];  /* 0.229 0.224 0.225 */

void normalize_table_init(struct normalize_table *out, const float mean[3], const float std[3]);

/* pixels: (n, 3) uint8 interleaved; n = height * width. Does those of [from, to), each to its place in out. Whoever does a
 * picture by parts ends with the one that has to == n: until then others may not see what was written. Fast where from is a
 * multiple of 64. */
void normalize_f32_chw(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n,
		       float *out); /* (3, n) */
void normalize_f32_hwc(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n,
		       float *out); /* (n, 3) */
void normalize_u8_chw(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n,
		      uint8_t *out); /* (3, n), values unchanged */

/* The plain versions, kept as the oracle of the fast ones. */
void normalize_f32_chw_portable(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, size_t n,
				float *out);
void normalize_f32_hwc_portable(const struct normalize_table *table, const uint8_t *pixels, size_t from, size_t to, float *out);
void normalize_u8_chw_portable(const uint8_t *pixels, size_t from, size_t to, size_t n, uint8_t *out);

#endif
