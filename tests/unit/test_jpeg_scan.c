/* Our own decoding of JPEG scans (huffman.h, idct.h, ycc.h, jpeg_scan.h) against the
 * oracle, libjpeg-turbo alone: the same rows or the same error, and as many
 * warnings, for pictures of every form, for coefficients and quantizers that no
 * picture has, and for data that are damaged in every way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jpeglib.h>

#include "preprocessd/codec/huffman.h"
#include "preprocessd/codec/jpeg.h"

enum { MANY = 300, PIECE = 65536 };

/* splitmix64 */
struct dice {
	uint64_t state;
};

static uint64_t roll(struct dice *dice)
{
	uint64_t z = dice->state += 0x9E3779B97F4A7C15;

	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
	z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
	return z ^ (z >> 31);
}

struct file {
	unsigned char *bytes;
	unsigned long size;
};

struct form {
	uint32_t width, height;
	J_COLOR_SPACE stored;
	int channels, quality, h, v; /* h, v: sampling of the first component */
	int restart_mcus;
	bool optimized, noise;
};

/* What a decoder told of one file. */
struct rows {
	uint8_t *bytes;
	size_t size, capacity, row_bytes;
	int code, begun;
	long warnings;
	bool ours;
	char message[512];
};

static struct jpeg *ours, *oracle;

static int setup(void **state)
{
	struct err err;

	(void)state;
	if (jpeg_open(&ours, &err) != 0 || jpeg_open(&oracle, &err) != 0)
		return -1;
	jpeg_leave_to_libjpeg(oracle, true);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	jpeg_close(ours);
	jpeg_close(oracle);
	return 0;
}

static void no_caution(j_common_ptr common)
{
	(void)common;
}

static int on_begin(void *context, const struct jpeg_info *info, struct err *err)
{
	struct rows *rows = context;

	(void)err;
	rows->begun++;
	rows->size = 0;
	rows->row_bytes = (size_t)info->width * (size_t)info->channels;
	return 0;
}

static void on_rows(void *context, const uint8_t *bytes, size_t stride, int count)
{
	struct rows *rows = context;

	for (int y = 0; y < count; y++) {
		if (rows->size + rows->row_bytes > rows->capacity) {
			rows->capacity = 2 * (rows->size + rows->row_bytes);
			rows->bytes = realloc(rows->bytes, rows->capacity);
			assert_non_null(rows->bytes);
		}
		memcpy(rows->bytes + rows->size, bytes + (size_t)y * stride, rows->row_bytes);
		rows->size += rows->row_bytes;
	}
}

static void decode(struct jpeg *jpeg, const void *bytes, size_t size, struct rows *rows)
{
	const struct jpeg_sink sink = { rows, on_begin, on_rows };
	void *copy = malloc(size == 0 ? 1 : size); /* of the exact size, for tools that see reads beyond */
	struct err err = { .code = 0 };

	memcpy(copy, bytes, size);
	rows->size = 0;
	rows->begun = 0;
	rows->code = jpeg_decode(jpeg, copy, size, &sink, &err);
	rows->warnings = jpeg_warnings(jpeg);
	rows->ours = jpeg_scan_was_ours(jpeg);
	snprintf(rows->message, sizeof(rows->message), "%s", rows->code == 0 ? "" : err.message);
	free(copy);
}

/* Decodes both ways. Returns whether our own code did it. */
static bool same(const void *bytes, size_t size, const char *what)
{
	static struct rows mine, theirs;

	decode(ours, bytes, size, &mine);
	decode(oracle, bytes, size, &theirs);
	if (theirs.ours)
		fail_msg("%s: the oracle is not libjpeg alone", what);
	if (mine.code != theirs.code || strcmp(mine.message, theirs.message) != 0)
		fail_msg("%s: '%s', libjpeg '%s'", what, mine.message, theirs.message);
	if (mine.warnings != theirs.warnings)
		fail_msg("%s: %ld warnings, libjpeg %ld", what, mine.warnings, theirs.warnings);
	if (mine.size != theirs.size)
		fail_msg("%s: %zu bytes of rows, libjpeg %zu", what, mine.size, theirs.size);
	for (size_t i = 0; i < mine.size; i++) {
		if (mine.bytes[i] != theirs.bytes[i])
			fail_msg("%s: row %zu, sample %zu: %d, libjpeg %d", what, i / mine.row_bytes, i % mine.row_bytes,
				 mine.bytes[i], theirs.bytes[i]);
	}
	assert_true(mine.begun <= (mine.ours ? 1 : 2));
	return mine.ours;
}

static void open_file(struct jpeg_compress_struct *c, struct jpeg_error_mgr *errors, struct file *file)
{
	*file = (struct file){ NULL, 0 };
	c->err = jpeg_std_error(errors);
	errors->output_message = no_caution; /* "quantization tables are too coarse" */
	jpeg_create_compress(c);
	jpeg_mem_dest(c, &file->bytes, &file->size);
}

static struct file encode(const struct form *form, struct dice *dice)
{
	struct jpeg_compress_struct c;
	struct jpeg_error_mgr errors;
	struct file file;
	const size_t samples = (size_t)form->width * (size_t)form->channels;
	uint8_t *row = malloc(samples);
	JSAMPROW rows[1] = { row };

	open_file(&c, &errors, &file);
	c.image_width = form->width;
	c.image_height = form->height;
	c.input_components = form->channels;
	c.in_color_space = form->channels == 1 ? JCS_GRAYSCALE : form->channels == 3 ? JCS_RGB : JCS_CMYK;
	jpeg_set_defaults(&c);
	jpeg_set_colorspace(&c, form->stored);
	jpeg_set_quality(&c, form->quality, TRUE);
	c.comp_info[0].h_samp_factor = form->h;
	c.comp_info[0].v_samp_factor = form->v;
	c.restart_interval = (unsigned)form->restart_mcus;
	c.optimize_coding = form->optimized;
	jpeg_start_compress(&c, TRUE);
	for (uint32_t y = 0; y < form->height; y++) {
		for (size_t x = 0; x < samples; x++)
			row[x] = form->noise ? (uint8_t)roll(dice) : (uint8_t)(128 + (x * y / 50 + 3 * y) % 90 + roll(dice) % 9);
		jpeg_write_scanlines(&c, rows, 1);
	}
	jpeg_finish_compress(&c);
	jpeg_destroy_compress(&c);
	free(row);
	return file;
}

static struct form any_form(struct dice *dice)
{
	static const J_COLOR_SPACE stored[] = { JCS_YCbCr, JCS_YCbCr, JCS_YCbCr, JCS_RGB, JCS_GRAYSCALE, JCS_CMYK, JCS_YCCK };
	struct form form = {
		.width = 1 + (uint32_t)(roll(dice) % 90), .height = 1 + (uint32_t)(roll(dice) % 90),
		.stored = stored[roll(dice) % 7], .quality = 1 + (int)(roll(dice) % 100),
		.h = 1 + (int)(roll(dice) % 2), .v = 1 + (int)(roll(dice) % 2),
		.restart_mcus = roll(dice) % 3 == 0 ? 1 + (int)(roll(dice) % 9) : 0,
		.optimized = roll(dice) % 2 == 0, .noise = roll(dice) % 3 == 0,
	};

	form.channels = form.stored == JCS_GRAYSCALE ? 1 : form.stored == JCS_CMYK || form.stored == JCS_YCCK ? 4 : 3;
	return form;
}

static void describe(const struct form *form, char *out, size_t size)
{
	snprintf(out, size, "%u x %u, color space %d, quality %d, sampling %d x %d, restart %d%s%s", form->width, form->height, form->stored,
		 form->quality, form->h, form->v, form->restart_mcus, form->optimized ? ", optimized" : "", form->noise ? ", noise" : "");
}

static void test_forms(void **state)
{
	struct dice dice = { 1 };
	int by_us = 0;

	(void)state;
	for (int i = 0; i < MANY; i++) {
		struct form form = any_form(&dice);
		struct file file = encode(&form, &dice);
		char what[200];

		describe(&form, what, sizeof(what));
		by_us += same(file.bytes, file.size, what);
		free(file.bytes);
	}
	/* Without libjpeg's internals nothing is ours. */
	if (by_us != 0)
		assert_int_equal(by_us, MANY);
	else
		print_message("libjpeg decoded every scan by itself: is jpegint.h there?\n");
}

/* Rows wider than what is done at a time, of every width around it. */
static void test_wide(void **state)
{
	struct dice dice = { 9 };

	(void)state;
	for (uint32_t width = 1000; width < 2200; width += width % 7 == 0 ? 13 : width > 1015 && width < 1060 ? 1 : 101) {
		struct form form = { .width = width, .height = 1 + width % 5, .stored = JCS_YCbCr, .channels = 3, .quality = 80, .h = 2, .v = 2,
				     .noise = true };
		struct file file = encode(&form, &dice);
		char what[200];

		describe(&form, what, sizeof(what));
		same(file.bytes, file.size, what);
		free(file.bytes);
	}
}

/* Every pair of colors, at every brightness that matters: blocks of one value each. */
static void test_colors(void **state)
{
	struct jpeg_compress_struct c;
	struct jpeg_error_mgr errors;
	struct file file;
	uint8_t row[3 * 512];
	JSAMPROW rows[1] = { row };

	(void)state;
	open_file(&c, &errors, &file);
	c.image_width = 512;
	c.image_height = 512;
	c.input_components = 3;
	c.in_color_space = JCS_YCbCr;
	jpeg_set_defaults(&c); /* 4:2:0 */
	jpeg_set_quality(&c, 100, TRUE);
	jpeg_start_compress(&c, TRUE);
	for (unsigned y = 0; y < 512; y++) {
		for (unsigned x = 0; x < 512; x++) {
			row[3 * x] = (uint8_t)((x & 1) * 255 + (y & 1) * 77 + x / 5);
			row[3 * x + 1] = (uint8_t)(x / 2);
			row[3 * x + 2] = (uint8_t)(y / 2);
		}
		jpeg_write_scanlines(&c, rows, 1);
	}
	jpeg_finish_compress(&c);
	jpeg_destroy_compress(&c);
	same(file.bytes, file.size, "all colors");
	free(file.bytes);
}

/* A picture of many windows; markers behind the scan near the end of a piece of the source. */
static void test_large(void **state)
{
	struct form form = { .width = 700, .height = 500, .stored = JCS_YCbCr, .channels = 3, .quality = 95, .h = 2, .v = 2, .noise = true };
	struct dice dice = { 2 };
	struct file file = encode(&form, &dice);
	int given_up = 0;

	(void)state;
	same(file.bytes, file.size, "a large picture");
	free(file.bytes);
	form.width = form.height = 290;
	form.quality = 90;
	file = encode(&form, &dice);
	if (file.size < PIECE || file.size > 2 * PIECE - 1000)
		fail_msg("a file of %lu bytes", file.size);
	/* Comments in front move the end of the scan over the end of a piece. */
	for (int shift = 0; shift < 80; shift++) {
		const size_t pad = 2 * PIECE - file.size - 40 + (size_t)shift - 2;
		const size_t first = pad > 60000 ? 60000 : pad - 10, second = pad - first - 2;
		uint8_t *longer = malloc(file.size + pad + 8), *at = longer;
		size_t size;

		memcpy(at, file.bytes, 2);
		at += 2;
		for (int part = 0; part < 2; part++) {
			const size_t length = part == 0 ? first : second;

			at[0] = 0xFF;
			at[1] = 0xFE;
			at[2] = (uint8_t)(length >> 8);
			at[3] = (uint8_t)length;
			memset(at + 4, 'x', length);
			at += 2 + length;
		}
		memcpy(at, file.bytes + 2, file.size - 2);
		size = (size_t)(at - longer) + file.size - 2;
		given_up += !same(longer, size, "a marker near the end of a piece");
		/* The same with what libjpeg refuses, if it gets to see it. */
		longer[size - 1] = 0xD8;
		same(longer, size, "a second start near the end of a piece");
		free(longer);
	}
	assert_true(given_up < 60 || given_up == 80); /* 80: libjpeg's internals are not there */
	free(file.bytes);
}

/* A file of coefficients as they come, with quantizers as they come. */
static struct file write_coefficients(struct dice *dice, int range, int quantizer, int kind, int restart)
{
	struct jpeg_compress_struct c;
	struct jpeg_error_mgr errors;
	struct file file;
	jvirt_barray_ptr arrays[1];

	open_file(&c, &errors, &file);
	c.image_width = 64;
	c.image_height = 64;
	c.input_components = 1;
	c.in_color_space = JCS_GRAYSCALE;
	jpeg_set_defaults(&c);
	c.optimize_coding = TRUE;
	c.restart_interval = (unsigned)restart;
	for (int i = 0; i < 64; i++)
		c.quant_tbl_ptrs[0]->quantval[i] = (UINT16)(1 + roll(dice) % (unsigned)quantizer);
#if JPEG_LIB_VERSION >= 70 /* what jpeg_copy_critical_parameters() would do */
	c.jpeg_width = c.image_width;
	c.jpeg_height = c.image_height;
	c.min_DCT_h_scaled_size = c.min_DCT_v_scaled_size = DCTSIZE;
#endif
	c.comp_info[0].width_in_blocks = c.comp_info[0].height_in_blocks = 8;
	arrays[0] = (*c.mem->request_virt_barray)((j_common_ptr)&c, JPOOL_IMAGE, TRUE, 8, 8, 8);
	jpeg_write_coefficients(&c, arrays);
	for (unsigned row = 0; row < 8; row++) {
		JBLOCKARRAY blocks = (*c.mem->access_virt_barray)((j_common_ptr)&c, arrays[0], row, 1, TRUE);

		for (int column = 0; column < 8; column++) {
			JCOEF *block = blocks[0][column];
			const unsigned extent = kind == 0 ? 8 : kind == 1 ? 4 : 1 + (unsigned)(roll(dice) % 8);

			for (unsigned y = 0; y < extent; y++) {
				for (unsigned x = 0; x < extent; x++) {
					const unsigned bits = (unsigned)(roll(dice) % (unsigned)range);
					const int value = (int)(roll(dice) & ((1U << bits) - 1));

					block[8 * y + x] = (JCOEF)(roll(dice) % 4 == 0 ? 0 : roll(dice) % 2 == 0 ? value : -value);
				}
			}
		}
	}
	jpeg_finish_compress(&c);
	jpeg_destroy_compress(&c);
	return file;
}

static void test_coefficients(void **state)
{
	/* Up to what a file of 8 bits can hold, with quantizers that make it overflow. */
	static const int quantizers[] = { 1, 2, 16, 99, 255, 32767 };
	struct dice dice = { 3 };

	(void)state;
	for (int i = 0; i < MANY; i++) {
		const int range = 1 + i % 11, quantizer = quantizers[roll(&dice) % 6], kind = (int)(roll(&dice) % 3);
		struct file file = write_coefficients(&dice, range, quantizer, kind, i % 5 == 0 ? 3 : 0);
		char what[100];

		snprintf(what, sizeof(what), "coefficients below 2^%d, quantizers to %d, kind %d", range - 1, quantizer, kind);
		same(file.bytes, file.size, what);
		free(file.bytes);
	}
}

static void test_flat(void **state)
{
	struct dice dice = { 4 };

	(void)state;
	for (int quantizer = 1; quantizer < 3000; quantizer = quantizer * 3 / 2 + 1) {
		struct file file = write_coefficients(&dice, 11, quantizer, 3, 0);

		same(file.bytes, file.size, "small blocks");
		free(file.bytes);
	}
}

/* One change of any kind somewhere behind the first marker. */
static size_t damage(uint8_t *bytes, size_t size, struct dice *dice)
{
	static const uint8_t markers[] = { 0xD0, 0xD1, 0xD3, 0xD7, 0xD8, 0xD9, 0xDA, 0xC4, 0xC9, 0xFF, 0x00, 0x01, 0xFE };
	size_t at = 2 + (size_t)(roll(dice) % (size - 4)), count;

	if (roll(dice) % 4 != 0)
		at = size / 3 + at * 2 / 3; /* the scan more often than the header */
	if (at > size - 3)
		at = size - 3;
	switch (roll(dice) % 6) {
	case 0:
		bytes[at] ^= (uint8_t)(1U << roll(dice) % 8);
		return size;
	case 1:
		bytes[at] = (uint8_t)roll(dice);
		return size;
	case 2:
		bytes[at] = 0xFF;
		bytes[at + 1] = markers[roll(dice) % sizeof(markers)];
		return size;
	case 3: /* cut off */
		return at;
	case 4: /* something is missing */
		count = 1 + (size_t)(roll(dice) % 20);
		if (at + count > size)
			count = size - at;
		memmove(bytes + at, bytes + at + count, size - at - count);
		return size - count;
	default: /* something is there twice */
		count = 1 + (size_t)(roll(dice) % 3);
		memmove(bytes + at + count, bytes + at, size - at - count);
		return size;
	}
}

static void test_damage(void **state)
{
	struct dice dice = { 5 };
	int by_us = 0, total = 0;

	(void)state;
	for (int i = 0; i < 60; i++) {
		struct form form = any_form(&dice);
		struct file file = encode(&form, &dice);
		uint8_t *bytes = malloc(file.size);

		for (int j = 0; j < 40; j++, total++) {
			char what[240];
			size_t size = file.size;

			memcpy(bytes, file.bytes, size);
			for (unsigned k = 0; k <= roll(&dice) % 2; k++)
				size = size > 10 ? damage(bytes, size, &dice) : size;
			describe(&form, what, 200);
			snprintf(what + strlen(what), 40, ", damage %d of %d", j, i);
			by_us += same(bytes, size, what);
		}
		free(bytes);
		free(file.bytes);
	}
	/* A changed bit often leaves a sound scan: both ways must have been met. */
	if (by_us != 0)
		assert_true(by_us > total / 20 && by_us < total * 19 / 20);
}

/* What may stand between and behind sound data. */
static void test_endings(void **state)
{
	static const struct {
		const char *name;
		uint8_t bytes[8];
		int count;
	} endings[] = {
		{ "nothing", { 0 }, 0 }, { "half a marker", { 0xFF }, 1 }, { "an end", { 0xFF, 0xD9 }, 2 },
		{ "fill bytes", { 0xFF, 0xFF, 0xFF, 0xD9 }, 4 }, { "a restart and an end", { 0xFF, 0xD0, 0xFF, 0xD9 }, 4 },
		{ "a byte too many", { 0x55, 0xFF, 0xD9 }, 3 }, { "bytes too many", { 1, 2, 3, 4, 5, 0xFF, 0xD9 }, 7 },
		{ "zeros", { 0, 0, 0, 0 }, 4 }, { "a stuffed byte", { 0xFF, 0x00, 0xFF, 0xD9 }, 4 },
		{ "a second picture", { 0xFF, 0xD8, 0xFF, 0xD9 }, 4 }, { "a second frame", { 0xFF, 0xC0, 0x00, 0x02 }, 4 },
		{ "a comment", { 0xFF, 0xFE, 0x00, 0x03, 'x', 0xFF, 0xD9 }, 7 }, { "a scan", { 0xFF, 0xDA, 0x00, 0x08, 1, 1, 0, 0 }, 8 },
	};
	struct dice dice = { 6 };

	(void)state;
	for (int restart = 0; restart < 2; restart++) {
		struct form form = { .width = 33, .height = 47, .stored = JCS_YCbCr, .channels = 3, .quality = 90, .h = 2, .v = 1,
				     .restart_mcus = restart };
		struct file file = encode(&form, &dice);

		for (size_t i = 0; i < sizeof(endings) / sizeof(endings[0]); i++) {
			uint8_t *bytes = malloc(file.size + 8);

			memcpy(bytes, file.bytes, file.size - 2);
			memcpy(bytes + file.size - 2, endings[i].bytes, (size_t)endings[i].count);
			same(bytes, file.size - 2 + (size_t)endings[i].count, endings[i].name);
			free(bytes);
		}
		free(file.bytes);
	}
}

/* Bytes in front of restart markers, restart markers out of turn. */
static void test_restarts(void **state)
{
	struct form form = { .width = 64, .height = 64, .stored = JCS_YCbCr, .channels = 3, .quality = 90, .h = 2, .v = 2, .restart_mcus = 2 };
	struct dice dice = { 8 };
	struct file file = encode(&form, &dice);
	uint8_t *bytes = malloc(file.size + 2);
	int markers = 0;

	(void)state;
	for (size_t at = 0; at + 1 < file.size; at++) {
		if (file.bytes[at] != 0xFF || (file.bytes[at + 1] & 0xF8) != 0xD0)
			continue;
		markers++;
		for (size_t count = 1; count <= 2; count++) {
			memcpy(bytes, file.bytes, at);
			memset(bytes + at, 0xA5, count);
			memcpy(bytes + at + count, file.bytes + at, file.size - at);
			same(bytes, file.size + count, "a byte in front of a restart");
		}
		memcpy(bytes, file.bytes, file.size);
		bytes[at + 1] = 0xD0 | ((bytes[at + 1] + 3) & 7);
		same(bytes, file.size, "a restart out of turn");
	}
	assert_int_equal(markers, 7);
	free(bytes);
	free(file.bytes);
}

/* Codes of every length to 16, values of every length, runs up to the block's end and beyond. */
static void test_long_codes(void **state)
{
	/* One code of each length from 1, but for the last one of all bits 1. */
	uint8_t counts[17] = { 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 }, symbols[256] = { 0 }, ac_symbols[256] = { 0 };
	static const uint8_t ac[16] = { 0x01, 0x00, 0xF0, 0x11, 0x02, 0x0A, 0xFA, 0x33, 0x28, 0x51, 0x09, 0xF1, 0x04, 0x19, 0x78, 0xA3 };
	static struct huffman_table dc_table, ac_table;
	static struct huffman_stream stream;
	struct dice dice = { 7 };
	int blocks = 0;

	(void)state;
	for (unsigned i = 0; i < 16; i++)
		symbols[i] = (uint8_t)(i % 12);
	memcpy(ac_symbols, ac, sizeof(ac));
	assert_true(huffman_table_build(&dc_table, counts, symbols, true));
	assert_true(huffman_table_build(&ac_table, counts, ac_symbols, false));
	for (int round = 0; round < MANY; round++) {
		uint8_t bytes[600];
		int dc = 0, plain_dc = 0, result = 0;

		/* Of any bits, few of which are no code. */
		for (size_t i = 0; i < sizeof(bytes) - 2; i++)
			bytes[i] = (uint8_t)(roll(&dice) & (roll(&dice) % 3 == 0 ? 0xFE : 0x7E));
		bytes[sizeof(bytes) - 2] = 0xFF;
		bytes[sizeof(bytes) - 1] = 0xD9;
		huffman_stream_open(&stream, bytes, sizeof(bytes), 0);
		assert_true(huffman_stream_fill(&stream));
		while (result >= 0 && stream.next <= stream.end) {
			int16_t block[64] = { 0 };
			const size_t from = (size_t)(stream.next - stream.window) * 8 - stream.count;
			size_t bit = from, place = 0;
			int16_t plain[64] = { 0 };
			bool sound = true;

			result = huffman_block(&stream, &dc_table, &ac_table, &dc, block);
			if (result < 0)
				break;
			/* The same by the letter of T.81, bit by bit. */
			for (bool first = true; sound && (first || place < 63); first = false) {
				unsigned length = 0, symbol, size, value = 0;

				while (length < 16 && (bit / 8 >= 598 ? 0 : bytes[bit / 8] >> (7 - bit % 8) & 1) == 1)
					length++, bit++;
				bit++;
				sound = length < 16;
				if (!sound)
					break;
				symbol = first ? symbols[length] : ac_symbols[length];
				size = symbol & 15;
				for (unsigned i = 0; i < size; i++, bit++)
					value = value << 1 | (bit / 8 >= 598 ? 0 : bytes[bit / 8] >> (7 - bit % 8) & 1);
				if (!first && size == 0) {
					if (symbol != 0xF0)
						break;
					place += 16;
					continue;
				}
				const int signed_value = size == 0 || value >> (size - 1) != 0 ? (int)value : (int)value - (1 << size) + 1;

				if (first) {
					plain_dc += signed_value;
				} else {
					place += (symbol >> 4) + 1;
					static const uint8_t rows[64] = {
						0, 0, 1, 2, 1, 0, 0, 1, 2, 3, 4, 3, 2, 1, 0, 0, 1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1, 0, 0, 1, 2, 3,
						4, 5, 6, 7, 7, 6, 5, 4, 3, 2, 1, 2, 3, 4, 5, 6, 7, 7, 6, 5, 4, 3, 4, 5, 6, 7, 7, 6, 5, 6, 7, 7,
					};
					static const uint8_t columns[64] = {
						0, 1, 0, 0, 1, 2, 3, 2, 1, 0, 0, 1, 2, 3, 4, 5, 4, 3, 2, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 6, 5, 4,
						3, 2, 1, 0, 1, 2, 3, 4, 5, 6, 7, 7, 6, 5, 4, 3, 2, 3, 4, 5, 6, 7, 7, 6, 5, 4, 5, 6, 7, 7, 6, 7,
					};
					const size_t at = place > 63 ? 63 : place;

					plain[8 * rows[at] + columns[at]] = (int16_t)signed_value;
				}
			}
			assert_true(sound);
			plain[0] = (int16_t)plain_dc;
			assert_memory_equal(block, plain, sizeof(block));
			assert_int_equal((size_t)(stream.next - stream.window) * 8 - stream.count, bit);
			blocks++;
		}
	}
	assert_true(blocks > 2 * MANY);
	/* Not prefix codes. */
	counts[1] = 3;
	assert_false(huffman_table_build(&dc_table, counts, symbols, true));
	memset(counts, 255, sizeof(counts));
	assert_false(huffman_table_build(&dc_table, counts, symbols, false));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_forms), cmocka_unit_test(test_wide), cmocka_unit_test(test_colors), cmocka_unit_test(test_large),
		 cmocka_unit_test(test_coefficients), cmocka_unit_test(test_flat),
		cmocka_unit_test(test_damage), cmocka_unit_test(test_endings),
		cmocka_unit_test(test_restarts), cmocka_unit_test(test_long_codes),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
