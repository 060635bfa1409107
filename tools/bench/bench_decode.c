/*
 * bench_decode.c - what decoding alone takes, and what exact preparation adds to it.
 *
 *     bench_decode FILE.jpg...      prints one JSON object: pictures a second, median of ROUNDS
 *
 * decode   libjpeg-turbo alone, files in memory, rows to one buffer: RGB, its default (accurate integer) DCT and
 *          upsampling, which are Pillow's. The limit that a cold `prepctl add` is held against.
 * rows     the daemon's decoder on the same bytes, rows of RGB as they come, as libjpeg-turbo gives them
 * prepare  the daemon's codec: decoded and resized to 224 px, as Pillow does
 * hash     SHA-256 of the same bytes, which makes the key
 *
 * One thread. Files that libjpeg-turbo cannot decode are an error.
 */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

#include "preprocessd/codec/jpeg.h"
#include "preprocessd/codec/picture.h"
#include "shared/base/clock.h"
#include "shared/base/fs.h"
#include "shared/base/hash.h"
#include "shared/base/mem.h"

enum {
	ROUNDS = 5,
	SIZE = 224,
	/* An aligned row would be written past the cache by libjpeg-turbo, which takes longer, and where malloc() puts it is chance. */
	ROW_OFFSET_BYTES = 8,
};

struct file {
	const char *path;
	struct buf bytes;
};

static void decode(const struct file *file, struct buf *row)
{
	struct jpeg_decompress_struct jpeg;
	struct jpeg_error_mgr errors;
	JSAMPROW rows[1];
	struct err err;

	jpeg.err = jpeg_std_error(&errors); /* ends the program on an error */
	jpeg_create_decompress(&jpeg);
	jpeg_mem_src(&jpeg, (const unsigned char *)file->bytes.data, file->bytes.size);
	(void)jpeg_read_header(&jpeg, TRUE);
	if (jpeg.num_components == 3)
		jpeg.out_color_space = JCS_RGB;
	jpeg_start_decompress(&jpeg);
	buf_clear(row);
	if (buf_reserve(row, (size_t)jpeg.output_width * (size_t)jpeg.output_components + 2 * MEM_ALIGN_BYTES, &err) != 0)
		exit(1);
	rows[0] = (JSAMPROW)size_round_up((size_t)row->data, MEM_ALIGN_BYTES) + ROW_OFFSET_BYTES;
	while (jpeg.output_scanline < jpeg.output_height)
		jpeg_read_scanlines(&jpeg, rows, 1);
	jpeg_finish_decompress(&jpeg);
	jpeg_destroy_decompress(&jpeg);
}

static int on_begin(void *context, const struct jpeg_info *info, struct err *err)
{
	(void)context, (void)info, (void)err;
	return 0;
}

static void on_rows(void *context, const uint8_t *rows, size_t stride, int count)
{
	(void)context, (void)rows, (void)stride, (void)count;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

enum work { DECODE, ROWS, PREPARE, HASH, WORKS };

struct codecs {
	struct jpeg *jpeg;
	struct picture_codec *picture;
};

static double seconds_of(enum work work, const struct file *files, int count, const struct codecs *codecs, uint8_t *pixels)
{
	const struct jpeg_sink sink = { NULL, on_begin, on_rows };
	struct transform transform = { .size = SIZE };
	struct buf row = BUF_INIT;
	double began = clock_seconds();
	struct hash hash;
	struct err err;

	for (int i = 0; i < count; i++) {
		if (work == DECODE) {
			decode(&files[i], &row);
		} else if (work == HASH) {
			hash_bytes(&hash, files[i].bytes.data, files[i].bytes.size);
		} else {
			const void *bytes = files[i].bytes.data;
			const size_t size = files[i].bytes.size;
			const int code = work == ROWS ? jpeg_decode(codecs->jpeg, bytes, size, &sink, &err) :
							picture_prepare(codecs->picture, bytes, size, &transform, pixels, &err);

			if (code != 0) {
				fprintf(stderr, "%s: %s\n", files[i].path, err.message);
				exit(1);
			}
		}
	}
	buf_free(&row);
	return clock_seconds() - began;
}

int main(int argc, char *argv[])
{
	static const char *const names[] = { "decode", "rows", "prepare", "hash" };
	struct file *files = mem_array((size_t)argc, sizeof(*files));
	uint8_t *pixels = mem_aligned((size_t)SIZE * SIZE * 3);
	double seconds[WORKS][ROUNDS];
	struct codecs codecs;
	struct err err;
	int count = argc - 1;

	if (count == 0 || files == NULL || pixels == NULL || picture_codec_open(&codecs.picture, &err) != 0 || jpeg_open(&codecs.jpeg, &err) != 0) {
		fprintf(stderr, "usage: bench_decode FILE.jpg...\n");
		return 2;
	}
	for (int i = 0; i < count; i++) {
		files[i].path = argv[i + 1];
		if (fs_read(files[i].path, (size_t)1 << 30, &files[i].bytes, &err) != 0) {
			fprintf(stderr, "%s\n", err.message);
			return 1;
		}
	}
	/* Rounds alternate, so that a busy moment meets all. */
	for (int round = 0; round < ROUNDS; round++)
		for (enum work work = 0; work < WORKS; work++)
			seconds[work][round] = seconds_of(work, files, count, &codecs, pixels);
	printf("{\"pictures\": %d", count);
	for (enum work work = 0; work < WORKS; work++) {
		qsort(seconds[work], ROUNDS, sizeof(double), by_size);
		printf(", \"%s_per_s\": %.1f", names[work], count / seconds[work][ROUNDS / 2]);
	}
	printf("}\n");
	picture_codec_close(codecs.picture);
	jpeg_close(codecs.jpeg);
	return 0;
}
