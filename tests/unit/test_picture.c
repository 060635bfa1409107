/* picture.h, jpeg.h, exif.h and format_name.h on files made here: what is
 * accepted, what is refused and with which words, limits, and that one picture
 * leaves nothing behind for the next. Pixels are held against Pillow in
 * tests/parity/test_pixels.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jpeglib.h>

#include "preprocessd/codec/exif.h"
#include "preprocessd/codec/jpeg.h"
#include "preprocessd/codec/jpeg_markers.h"
#include "preprocessd/codec/picture.h"

enum { SIZE = 16, OUT_BYTES = SIZE * SIZE * 3, MARKERS_MAX = 4 };

static const struct transform PLAIN = { .size = SIZE, .exif = EXIF_IGNORE };
static const struct transform ORIENTED = { .size = SIZE, .exif = EXIF_APPLY };

struct file {
	unsigned char *bytes;
	unsigned long size;
};

struct recipe {
	uint32_t width, height;
	J_COLOR_SPACE in, stored;
	int channels, quality;
	bool progressive, arithmetic, without_tables, marked; /* marked: the top left quarter is white */
	int restart_rows;
	const void *exif;
	unsigned exif_bytes;
};

static const struct recipe COLOR = { .width = 40, .height = 30, .in = JCS_RGB, .stored = JCS_YCbCr, .channels = 3, .quality = 90 };

static struct file encode(const struct recipe *recipe)
{
	struct jpeg_compress_struct c;
	struct jpeg_error_mgr errors;
	struct file file = { NULL, 0 };
	uint8_t *row = malloc((size_t)recipe->width * (size_t)recipe->channels);
	JSAMPROW rows[1] = { row };

	c.err = jpeg_std_error(&errors);
	jpeg_create_compress(&c);
	jpeg_mem_dest(&c, &file.bytes, &file.size);
	c.image_width = recipe->width;
	c.image_height = recipe->height;
	c.input_components = recipe->channels;
	c.in_color_space = recipe->in;
	jpeg_set_defaults(&c);
	jpeg_set_colorspace(&c, recipe->stored);
	jpeg_set_quality(&c, recipe->quality, TRUE);
	if (recipe->progressive)
		jpeg_simple_progression(&c);
	c.arith_code = recipe->arithmetic;
	c.restart_in_rows = recipe->restart_rows;
	if (recipe->without_tables)
		jpeg_suppress_tables(&c, TRUE);
	jpeg_start_compress(&c, !recipe->without_tables);
	if (recipe->exif != NULL)
		jpeg_write_marker(&c, JPEG_APP0 + 1, recipe->exif, recipe->exif_bytes);
	for (uint32_t y = 0; y < recipe->height; y++) {
		for (uint32_t x = 0; x < recipe->width * (uint32_t)recipe->channels; x++) {
			bool white = x / (uint32_t)recipe->channels < recipe->width / 2 && y < recipe->height / 2;

			row[x] = recipe->marked ? (white ? 255 : 0) : (uint8_t)(x * 7 + y * 13);
		}
		jpeg_write_scanlines(&c, rows, 1);
	}
	jpeg_finish_compress(&c);
	jpeg_destroy_compress(&c);
	free(row);
	return file;
}

/* A codec for the whole program, so that every test also finds out what the
 * ones before it left behind. */
static struct picture_codec *codec;

static int setup(void **state)
{
	struct err err;

	(void)state;
	return picture_codec_open(&codec, &err);
}

static int teardown(void **state)
{
	(void)state;
	picture_codec_close(codec);
	return 0;
}

static int prepare(const void *bytes, size_t size, const struct transform *transform, uint8_t *out, struct err *err)
{
	/* A copy of the exact size shows reads beyond the end. */
	void *copy = malloc(size == 0 ? 1 : size);
	int code;

	memcpy(copy, bytes, size);
	memset(out, 0x5A, (size_t)transform->size * transform->size * 3);
	err->message[0] = '\0';
	code = picture_prepare(codec, copy, size, transform, out, err);
	free(copy);
	return code;
}

static void accept(const void *bytes, size_t size, uint8_t *out)
{
	struct err err;

	if (prepare(bytes, size, &PLAIN, out, &err) != 0)
		fail_msg("refused: %s", err.message);
}

static void refuse(const void *bytes, size_t size, int code, const char *words)
{
	uint8_t out[OUT_BYTES];
	struct err err;
	int got = prepare(bytes, size, &PLAIN, out, &err);

	if (got != code || strstr(err.message, words) == NULL)
		fail_msg("%s expected with '%s', got %s: %s", err_name(code), words, err_name(got), err.message);
}

/* The same with zeros behind it, up to `size`: formats that are told by more than their first bytes. */
static void refuse_padded(const char *bytes, size_t count, size_t size, const char *words)
{
	uint8_t all[1024] = { 0 };

	assert_true(count <= size && size <= sizeof(all));
	memcpy(all, bytes, count);
	refuse(all, size, ERR_UNSUPPORTED, words);
}

static size_t find(const struct file *file, uint8_t marker)
{
	for (size_t i = 0; i + 1 < file->size; i++) {
		if (file->bytes[i] == 0xFF && file->bytes[i + 1] == marker)
			return i;
	}
	fail_msg("no marker %02x", marker);
	return 0;
}

static void test_kinds_that_decode(void **state)
{
	struct recipe recipes[] = {
		COLOR, COLOR, COLOR, COLOR, COLOR,
		{ .width = 40, .height = 30, .in = JCS_GRAYSCALE, .stored = JCS_GRAYSCALE, .channels = 1, .quality = 90 },
		{ .width = 40, .height = 30, .in = JCS_CMYK, .stored = JCS_CMYK, .channels = 4, .quality = 90 },
		{ .width = 40, .height = 30, .in = JCS_CMYK, .stored = JCS_YCCK, .channels = 4, .quality = 90 },
		{ .width = 1, .height = 1, .in = JCS_RGB, .stored = JCS_RGB, .channels = 3, .quality = 90 },
	};
	uint8_t out[OUT_BYTES], again[OUT_BYTES];

	(void)state;
	recipes[1].progressive = true;
	recipes[2].arithmetic = true;
	recipes[3].arithmetic = recipes[3].progressive = true;
	recipes[4].restart_rows = 1;
	for (size_t i = 0; i < ARRAY_LEN(recipes); i++) {
		struct file file = encode(&recipes[i]);

		accept(file.bytes, file.size, out);
		accept(file.bytes, file.size, again);
		assert_memory_equal(out, again, OUT_BYTES);
		/* The first four hold the same coefficients. */
		if (i == 0 || i >= 4) {
			struct file copy = encode(&COLOR);

			accept(copy.bytes, copy.size, again);
			free(copy.bytes);
		}
		if (i <= 4)
			assert_memory_equal(out, again, OUT_BYTES);
		free(file.bytes);
	}
}

/* All channels v, inverted as Adobe does: black ink 255 - v = 0 means white paper. */
static void test_cmyk_is_inverted(void **state)
{
	struct recipe recipe = { .width = 32, .height = 32, .in = JCS_CMYK, .stored = JCS_CMYK, .channels = 4, .quality = 100 };
	uint8_t out[OUT_BYTES];
	struct file file;

	(void)state;
	recipe.marked = true;
	file = encode(&recipe);
	accept(file.bytes, file.size, out);
	assert_int_equal(out[0], 255);                   /* 255 stored: no ink */
	assert_int_equal(out[OUT_BYTES - 1], 0);         /* 0 stored: all ink */
	free(file.bytes);
}

static void test_other_formats_are_named(void **state)
{
	static const struct {
		const char *bytes;
		size_t size;
		const char *words;
	} cases[] = {
		{ "\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 16, "a PNG file, not JPEG" },
		{ "GIF89a\1\0\1\0", 10, "a GIF file, not JPEG" },
		{ "RIFF\x24\0\0\0WEBPVP8 ", 16, "a WebP file, not JPEG" },
		{ "II*\0\x08\0\0\0", 8, "a TIFF file, not JPEG" },
		{ "MM\0*\0\0\0\x08", 8, "a TIFF file, not JPEG" },
		{ "BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\1\0\0\0\1\0\0\0", 26, "a BMP file, not JPEG" },
		{ "\0\0\0\x0cjP  \r\n\x87\n", 12, "a JPEG 2000 file, not JPEG" },
		{ "\xff\x4f\xff\x51\0\x2f", 6, "a JPEG 2000 codestream, not JPEG" },
		{ "\0\0\0\x0cJXL \r\n\x87\n", 12, "a JPEG XL file, not JPEG" },
		{ "\xff\x0a\x01", 3, "a JPEG XL codestream, not JPEG" },
		{ "\0\0\0\x18" "ftypheic", 12, "a HEIC file, not JPEG" },
		{ "\0\0\0\x18" "ftypavif", 12, "an AVIF file, not JPEG" },
		{ "8BPS\0\1", 6, "a Photoshop file, not JPEG" },
		{ "%PDF-1.7", 8, "a PDF file, not JPEG" },
		{ "P6\n1 1\n255\n\1\2\3", 14, "a PNM file, not JPEG" },
		{ "<!DOCTYPE html>", 15, "an HTML page, not JPEG" },
		{ "404 not found\n", 14, "a text file, not JPEG" },
		{ "version https://git-lfs.github.com/spec/v1\n", 43, "Git LFS pointer" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		refuse(cases[i].bytes, cases[i].size, ERR_UNSUPPORTED, cases[i].words);
	refuse("", 0, ERR_FORMAT, "empty file");
	refuse("\x01\x02\x03\x04", 4, ERR_FORMAT, "not a JPEG (starts with 01 02 03");
	refuse("\xff\xd8", 2, ERR_FORMAT, "not a JPEG (a file of 2 bytes)");
	refuse_padded("\x0a\x05\x01\x08", 4, 128, "a PCX file, not JPEG");
	refuse_padded("\x01\xda\x01\x01\x00\x03", 6, 512, "an SGI file, not JPEG");
	refuse("\0\0\2\0\0\0\0\0TRUEVISION-XFILE.", 26, ERR_UNSUPPORTED, "a TGA file, not JPEG");
	refuse("\xff\xd8\x00", 3, ERR_FORMAT, "not a JPEG");
	refuse("\xff", 1, ERR_FORMAT, "not a JPEG");
}

/* Whatever is cut off, the file is refused, be it a byte of the end marker
 * (Pillow too: the decoder looks for the marker behind the last bits). */
static void test_truncation(void **state)
{
	struct recipe recipes[3] = { COLOR, COLOR, COLOR };

	(void)state;
	recipes[1].progressive = true;
	recipes[2].arithmetic = true;
	for (size_t i = 0; i < ARRAY_LEN(recipes); i++) {
		struct file file = encode(&recipes[i]);

		for (size_t size = 3; size < file.size; size += size > file.size - 8 ? 1 : 1 + file.size / 60)
			refuse(file.bytes, size, ERR_FORMAT, "cut off");
		free(file.bytes);
	}
}

static void test_what_follows_does_not_matter(void **state)
{
	struct file file = encode(&COLOR);
	uint8_t want[OUT_BYTES], out[OUT_BYTES];
	unsigned char *longer = malloc(file.size + 100000);

	(void)state;
	accept(file.bytes, file.size, want);
	memcpy(longer, file.bytes, file.size);
	memset(longer + file.size, 0xFF, 100000);
	accept(longer, file.size + 100000, out);
	assert_memory_equal(out, want, OUT_BYTES);
	/* Unless it stands where the end marker should. */
	longer[file.size - 1] = 0xF0;
	refuse(longer, file.size + 100000, ERR_FORMAT, "damaged JPEG");
	free(longer);
	free(file.bytes);
}

/* Refused from the header: the file has no picture data at all. */
static void test_limits(void **state)
{
	struct file file = encode(&COLOR);
	size_t sof = find(&file, 0xC0), sos = find(&file, 0xDA);

	(void)state;
	file.bytes[sof + 5] = 13378 >> 8, file.bytes[sof + 6] = 13378 & 0xFF;
	file.bytes[sof + 7] = 13378 >> 8, file.bytes[sof + 8] = 13378 & 0xFF;
	refuse(file.bytes, sos + 14, ERR_LIMIT, "13378 x 13378 pixels; the limit is 178956970 pixels");
	file.bytes[sof + 5] = file.bytes[sof + 6] = 0xFF;
	refuse(file.bytes, sos + 14, ERR_LIMIT, "Maximum supported image dimension");
	file.bytes[sof + 5] = file.bytes[sof + 6] = 0;
	refuse(file.bytes, sos + 14, ERR_UNSUPPORTED, "no pixels");
	free(file.bytes);
}

static void test_kinds_that_do_not_decode(void **state)
{
	struct file file = encode(&COLOR);
	size_t sof = find(&file, 0xC0);
	static const struct {
		uint8_t marker;
		const char *words;
	} processes[] = {
		{ 0xC3, "the lossless process" }, { 0xC5, "the hierarchical process" }, { 0xC7, "hierarchical lossless" },
		{ 0xCB, "lossless arithmetic" }, { 0xCF, "hierarchical lossless arithmetic" },
	};

	(void)state;
	file.bytes[sof + 4] = 12;
	refuse(file.bytes, file.size, ERR_UNSUPPORTED, "12 bits a sample");
	file.bytes[sof + 4] = 8;
	for (size_t i = 0; i < ARRAY_LEN(processes); i++) {
		file.bytes[sof + 1] = processes[i].marker;
		refuse(file.bytes, file.size, ERR_UNSUPPORTED, processes[i].words);
	}
	file.bytes[sof + 1] = 0xF7;
	refuse(file.bytes, file.size, ERR_UNSUPPORTED, "JPEG-LS");
	file.bytes[sof + 1] = 0xC0;
	file.bytes[sof + 3] = 14, file.bytes[sof + 9] = 2; /* two components */
	memmove(file.bytes + sof + 16, file.bytes + sof + 19, file.size - sof - 19);
	size_t sos = find(&file, 0xDA);
	file.bytes[sos + 3] = 10, file.bytes[sos + 4] = 2;
	memmove(file.bytes + sos + 9, file.bytes + sos + 11, file.size - sos - 11);
	refuse(file.bytes, file.size - 5, ERR_UNSUPPORTED, "2 components");
	free(file.bytes);
}

/* Arithmetic decoding can't stop at the end of a piece of the file and go on
 * with the next, and Pillow hands out pieces of 64 KiB. */
static void test_long_arithmetic(void **state)
{
	struct recipe recipe = COLOR;
	struct file file;
	uint8_t out[OUT_BYTES];

	(void)state;
	recipe.arithmetic = true;
	recipe.width = recipe.height = 200;
	recipe.quality = 100;
	file = encode(&recipe);
	assert_in_range(file.size, 1000, 65536);
	accept(file.bytes, file.size, out);
	free(file.bytes);
	recipe.width = recipe.height = 2000;
	file = encode(&recipe);
	assert_true(file.size > 65536);
	refuse(file.bytes, file.size, ERR_UNSUPPORTED, "arithmetic-coded JPEG of more than 64 KiB");
	free(file.bytes);
}

/* A file without tables is refused also when the one before it had them. */
static void test_tables_do_not_leak(void **state)
{
	struct recipe bare = COLOR;
	struct file with = encode(&COLOR), without;
	uint8_t out[OUT_BYTES];

	(void)state;
	bare.without_tables = true;
	without = encode(&bare);
	accept(with.bytes, with.size, out);
	refuse(without.bytes, without.size, ERR_FORMAT, "damaged JPEG");
	free(with.bytes);
	free(without.bytes);
}

/* Pillow finds no marker in FF 01, libjpeg steps over it: fine for itself, but
 * not together with data that libjpeg has to guess at. */
static void test_illegible_header(void **state)
{
	struct file file = encode(&COLOR);
	unsigned char *bytes = malloc(file.size + 2);
	struct file odd = { bytes, file.size + 2 };
	uint8_t want[OUT_BYTES], out[OUT_BYTES];

	(void)state;
	accept(file.bytes, file.size, want);
	memcpy(bytes, "\xff\xd8\xff\x01", 4);
	memcpy(bytes + 4, file.bytes + 2, file.size - 2);
	assert_true(jpeg_header_is_sound(file.bytes, file.size));
	assert_false(jpeg_header_is_sound(odd.bytes, odd.size));
	accept(odd.bytes, odd.size, out);
	assert_memory_equal(out, want, OUT_BYTES);
	/* An end marker in the middle of the data: gray rows and a warning. */
	memcpy(odd.bytes + find(&odd, 0xDA) + 40, "\xff\xd9", 2);
	refuse(odd.bytes, odd.size, ERR_FORMAT, "illegible header");
	memcpy(file.bytes + find(&file, 0xDA) + 40, "\xff\xd9", 2);
	accept(file.bytes, file.size, out);
	free(bytes);
	free(file.bytes);
}

struct scan_count {
	int begun, rows;
};

static int count_begin(void *context, const struct jpeg_info *info, struct err *err)
{
	(void)info, (void)err;
	((struct scan_count *)context)->begun++;
	return 0;
}

static void count_rows(void *context, const uint8_t *rows, size_t stride, int count)
{
	(void)rows, (void)stride;
	((struct scan_count *)context)->rows += count;
}

static void test_work_limit(void **state)
{
	struct recipe recipe = COLOR;
	struct scan_count count = { 0, 0 };
	struct jpeg_sink sink = { &count, count_begin, count_rows };
	struct file file;
	struct jpeg *jpeg;
	struct err err;

	(void)state;
	recipe.progressive = true;
	file = encode(&recipe);
	assert_int_equal(jpeg_open(&jpeg, &err), 0);
	assert_int_equal(jpeg_decode(jpeg, file.bytes, file.size, &sink, &err), 0);
	assert_int_equal(count.rows, 30);
	jpeg_limit_work(jpeg, 6 * 4 * 5); /* ten scans of 6 x 4 blocks are ten times 24 */
	assert_int_equal(jpeg_decode(jpeg, file.bytes, file.size, &sink, &err), ERR_LIMIT);
	assert_non_null(strstr(err.message, "6 or more scans of 40 x 30 pixels"));
	assert_int_equal(count.begun, 2);
	assert_int_equal(count.rows, 30);
	jpeg_close(jpeg);
	free(file.bytes);
}

/* "Exif", a TIFF header, one directory with one entry. */
static unsigned exif_block(uint8_t *out, bool big, unsigned type, unsigned count, uint32_t value)
{
	static const uint8_t little_head[] = "Exif\0\0II*\0\x08\0\0\0\1\0\x12\1", big_head[] = "Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12";
	unsigned at = sizeof(big_head) - 1;

	memcpy(out, big ? big_head : little_head, at);
	for (unsigned i = 0; i < 2; i++)
		out[at++] = (uint8_t)(type >> (big ? 8 - 8 * i : 8 * i));
	for (unsigned i = 0; i < 4; i++)
		out[at++] = (uint8_t)(count >> (big ? 24 - 8 * i : 8 * i));
	for (unsigned i = 0; i < 4; i++)
		out[at++] = (uint8_t)(value >> (big ? 24 - 8 * i : 8 * i));
	memset(out + at, 0, 4);
	return at + 4;
}

static enum exif_orientation orientation(bool big, unsigned type, unsigned count, uint32_t value)
{
	struct recipe recipe = COLOR;
	uint8_t block[64];
	enum exif_orientation result;
	struct file file;

	recipe.exif = block;
	recipe.exif_bytes = exif_block(block, big, type, count, value);
	file = encode(&recipe);
	result = exif_orientation_of(file.bytes, file.size);
	free(file.bytes);
	return result;
}

static void test_exif_entries(void **state)
{
	(void)state;
	for (uint32_t value = 0; value < 12; value++) {
		enum exif_orientation want = value >= 2 && value <= 8 ? (enum exif_orientation)value : EXIF_UPRIGHT;

		assert_int_equal(orientation(false, 3, 1, value), want);
		assert_int_equal(orientation(true, 3, 1, value << 16), want);
		assert_int_equal(orientation(true, 4, 1, value), want);
	}
	assert_int_equal(orientation(false, 3, 2, 6 | 3 << 16), 6);   /* the first of several counts */
	assert_int_equal(orientation(false, 1, 1, 6), EXIF_UPRIGHT);  /* bytes are no number */
	assert_int_equal(orientation(false, 3, 0, 6), EXIF_UPRIGHT);  /* no value */
	assert_int_equal(orientation(false, 3, 9, 6), EXIF_UPRIGHT);  /* values outside the block */
	assert_int_equal(orientation(false, 99, 1, 6), EXIF_UPRIGHT); /* unknown type */
	assert_int_equal(orientation(false, 11, 1, 0x40C00000), 6);   /* 6.0f */
	assert_int_equal(orientation(false, 11, 1, 0x40C00001), EXIF_UPRIGHT);
	assert_int_equal(exif_orientation_of("\xff\xd8\xff\xe1\xff\xff" "Exif", 10), EXIF_UPRIGHT);
	assert_int_equal(exif_orientation_of("\xff\xd8", 2), EXIF_UPRIGHT);
}

/* A white quarter at the top left ends up where each orientation says. */
static void test_exif_is_applied(void **state)
{
	static const char *const corners[9] = { NULL, "top left", "top right", "bottom right", "bottom left", "top left",
						"top right", "bottom right", "bottom left" };

	(void)state;
	for (unsigned value = 1; value <= 8; value++) {
		struct recipe recipe = { .width = 64, .height = 32, .in = JCS_GRAYSCALE, .stored = JCS_GRAYSCALE, .channels = 1,
					 .quality = 100, .marked = true };
		uint8_t block[64], out[OUT_BYTES];
		struct file file;
		struct err err;

		recipe.exif = block;
		recipe.exif_bytes = exif_block(block, false, 3, 1, value);
		file = encode(&recipe);
		assert_int_equal(prepare(file.bytes, file.size, &ORIENTED, out, &err), 0);
		for (int right = 0; right < 2; right++) {
			for (int bottom = 0; bottom < 2; bottom++) {
				char name[32];

				snprintf(name, sizeof(name), "%s %s", bottom ? "bottom" : "top", right ? "right" : "left");
				assert_int_equal(out[3 * (SIZE * (bottom ? SIZE - 2 : 1) + (right ? SIZE - 2 : 1))],
						 strcmp(name, corners[value]) == 0 ? 255 : 0);
			}
		}
		accept(file.bytes, file.size, out);
		assert_int_equal(out[3 * (SIZE + 1)], 255); /* ignored: top left it is */
		free(file.bytes);
	}
}

static void test_fingerprints(void **state)
{
	const struct transform other = { .size = SIZE + 1, .exif = EXIF_IGNORE };
	struct hash a, b, c, again;
	char text[256];

	(void)state;
	transform_fingerprint(&PLAIN, &a);
	transform_fingerprint(&ORIENTED, &b);
	transform_fingerprint(&other, &c);
	transform_fingerprint(&PLAIN, &again);
	assert_true(hash_equal(&a, &again));
	assert_false(hash_equal(&a, &b));
	assert_false(hash_equal(&a, &c));
	transform_describe(&PLAIN, text, sizeof(text));
	assert_non_null(strstr(text, "decoder=libjpeg-turbo-"));
	assert_non_null(strstr(text, ";size=16;exif=ignore"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kinds_that_decode),
		cmocka_unit_test(test_cmyk_is_inverted),
		cmocka_unit_test(test_other_formats_are_named),
		cmocka_unit_test(test_truncation),
		cmocka_unit_test(test_what_follows_does_not_matter),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_kinds_that_do_not_decode),
		cmocka_unit_test(test_long_arithmetic),
		cmocka_unit_test(test_tables_do_not_leak),
		cmocka_unit_test(test_illegible_header),
		cmocka_unit_test(test_work_limit),
		cmocka_unit_test(test_exif_entries),
		cmocka_unit_test(test_exif_is_applied),
		cmocka_unit_test(test_fingerprints),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
