/*
 * jpeg_scan.h - puts our own entropy decoding (huffman.h), inverse DCT of
 * sparse blocks (idct.h) and colors of 4:2:0 (ycc.h) into a libjpeg-turbo
 * decompressor, for the scan of a baseline JPEG.
 *
 * libjpeg keeps the header, the inverse DCT of other blocks, the order of rows
 * and the colors of other pictures. Of its internals (jpegint.h) the places of
 * the functions that decode a row of MCUs, transform a block and upsample rows
 * are used, which have not moved since 1991. Where a picture is of another kind, or the library another one, nothing
 * happens, and libjpeg decodes by itself.
 *
 * When the data turn out not to be sound, gave_up is set and libjpeg's error
 * exit is taken, which must not return. The caller then decodes the picture from
 * the start without this.
 *
 * Threads: one decoder, one thread at a time.
 */
#ifndef PREPROCESSD_CODEC_JPEG_SCAN_H
#define PREPROCESSD_CODEC_JPEG_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jpeglib.h>

#include "preprocessd/codec/huffman.h"
#include "preprocessd/codec/idct.h"
#include "preprocessd/codec/ycc.h"

/* d->client_data must point to this. */
struct jpeg_scan {
	bool took_over, gave_up;
	/* Called when the last MCU is decoded, with the place of the marker behind
	 * the scan; false gives up. */
	bool (*ended)(struct jpeg_scan *scan, size_t marker_at);

	JDIMENSION mcus_to_restart;
	unsigned restarts;
	int dc[MAX_COMPS_IN_SCAN]; /* of the block before, by component */
	int blocks;                /* of an MCU */
	struct jpeg_scan_block {
		const struct huffman_table *dc_table, *ac_table;
		jpeg_component_info *component;
		int dc;          /* place in dc above */
		int row, column; /* within its component's part of the MCU, in blocks */
	} block[HUFFMAN_MCU_BLOCKS_MAX];
	_Alignas(64) int16_t coefficients[HUFFMAN_MCU_BLOCKS_MAX][HUFFMAN_BLOCK_COEFFICIENTS]; /* of an MCU */

	idct_fn *corner;                   /* or NULL */
	ycc_row_fn *ycc_row;               /* or NULL */
	JDIMENSION rows_left, row_of_pair; /* for ycc_row */
	struct huffman_table dc_tables[NUM_HUFF_TBLS], ac_tables[NUM_HUFF_TBLS];
	struct huffman_stream stream;
};

/* To be called behind jpeg_start_decompress(), before any row is read. bytes
 * (size): the file, the data of the scan begin at `at`. */
void jpeg_scan_take_over(struct jpeg_scan *scan, j_decompress_ptr d, const void *bytes, size_t size, size_t at);

#endif
