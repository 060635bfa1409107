/*
 * huffman.h - the entropy-coded data of a baseline JPEG scan to coefficients.
 *
 * Half of the time that a JPEG takes goes here, so this part of decoding is
 * ours: one table look-up gives the runs, values and lengths of as many as two
 * coefficients, as long as their codes and values fit HUFFMAN_LOOKUP_BITS
 * together, and the end of the block with them. The bits come from a window from
 * which stuffed bytes have been taken out already, eight bytes at a time and without
 * a branch (F. Giesen, "Reading bits in far too many ways", 2018, variant 4).
 *
 * Only sound data is decoded. At anything else (a code that is none, data
 * that ends too early or too late, a marker out of turn) these functions say
 * so, and the caller lets libjpeg-turbo decode the picture from its start: what
 * a damaged picture looks like is libjpeg's to say.
 *
 * Oracle: libjpeg-turbo's coefficients (tests/unit/test_jpeg_scan.c, fuzz_jpeg).
 * Format: ITU-T T.81, annexes C, F.1.2, F.2.2 and B.1.1.5.
 * Threads: no state but the caller's.
 */
#ifndef PREPROCESSD_CODEC_HUFFMAN_H
#define PREPROCESSD_CODEC_HUFFMAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	HUFFMAN_LOOKUP_BITS = 10,
	HUFFMAN_CODE_BITS_MAX = 16,
	HUFFMAN_BLOCK_COEFFICIENTS = 64,
	HUFFMAN_MCU_BLOCKS_MAX = 10,
	/* A block's first value takes 16 + 11 bits at most, each other one 16 + 10. */
	HUFFMAN_MCU_BYTES_MAX = HUFFMAN_MCU_BLOCKS_MAX * ((27 + 63 * 26) / 8 + 1),
	HUFFMAN_WINDOW_BYTES = 16384,
	HUFFMAN_SLACK_BYTES = HUFFMAN_MCU_BYTES_MAX + 16,
};

/* One table of a DHT segment, for DC or for AC values. */
struct huffman_table {
	/* By the next bits: value << 16 | step << 8 | bits, where the code and the
	 * value's own bits are all among them. step: 1 and the zeros in front of
	 * the value. An end of block has step HUFFMAN_BLOCK_COEFFICIENTS. 0: see code. */
	uint32_t whole[1 << HUFFMAN_LOOKUP_BITS];
	/* The same for one or two AC values of 8 bits, in half the cache:
	 * value << 24 | second value << 16 | second step << 12 | (step - 1) << 8 | end | bits
	 * For one alone the second is the same again, its step 0. end:
	 * HUFFMAN_BLOCK_COEFFICIENTS where the block ends behind them; for an end
	 * alone value is 0. 0: see whole. */
	uint32_t pair[1 << HUFFMAN_LOOKUP_BITS];
	/* By the next bits: symbol << 8 | length of the code; 0: a longer code. */
	uint16_t code[1 << HUFFMAN_LOOKUP_BITS];
	/* By length: the first 16 bits that are beyond codes of this length, and
	 * what to add to a code to find its symbol. */
	uint32_t limit[HUFFMAN_CODE_BITS_MAX + 1];
	int32_t offset[HUFFMAN_CODE_BITS_MAX + 1];
	/* As in the file, to know the table again. */
	uint8_t counts[HUFFMAN_CODE_BITS_MAX + 1], symbols[256];
	bool built, of_dc;
};

/* counts[1..16] codes of each length and their symbols. Does nothing where
 * table has been built of the same. False: the counts describe no prefix code. */
bool huffman_table_build(struct huffman_table *table, const uint8_t *counts, const uint8_t *symbols, bool of_dc);

/* The data between two markers, a window of it at a time. */
struct huffman_stream {
	const uint8_t *bytes; /* borrowed: the file */
	size_t size, at;      /* of the file; the first byte that was not looked at. At a marker: its 0xFF */
	uint8_t marker;       /* that ends this part of the data; 0: not reached yet */

	const uint8_t *next, *end; /* in window: bytes to load, the end of what there is */
	uint64_t bits;             /* the next bits, the first one on top */
	unsigned count;            /* how many of them count; those below it are a copy of what *next holds */
	uint8_t window[HUFFMAN_WINDOW_BYTES + HUFFMAN_SLACK_BYTES];
};

void huffman_stream_open(struct huffman_stream *stream, const void *bytes, size_t size, size_t at);
/* To be called before each MCU: makes sure that the window has all of it, or
 * all there is. False: no marker ends the data. */
bool huffman_stream_fill(struct huffman_stream *stream);
/* True where all has been decoded that lies in front of the marker, but for the bits that fill the last byte. */
bool huffman_stream_spent(struct huffman_stream *stream);
/* Goes on behind the marker, which must be restart marker number `restart`. */
bool huffman_stream_restart(struct huffman_stream *stream, unsigned restart);

/* The next block into coefficients (64, cleared before, in the order of rows).
 * *dc: the DC value before, then this one. Returns the places (8 * row + column)
 * of all other coefficients that are not 0, or-ed together, or -1 where the data
 * is not sound. */
int huffman_block(struct huffman_stream *stream, const struct huffman_table *dc_table, const struct huffman_table *ac_table,
		  int *dc, int16_t *coefficients);

#endif
