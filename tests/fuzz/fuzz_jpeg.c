/* Any bytes as a picture: the decoder ends, twice the same bytes give the same
 * result, and what our own decoding of scans gives is what libjpeg-turbo alone
 * does: rows, error, warnings. The first two bytes choose the transform, the rest
 * is the file. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "preprocessd/codec/jpeg.h"
#include "preprocessd/codec/picture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SIZE_MAX_HERE = 64, PIXELS_MAX_HERE = 1 << 20 };

struct rows {
	uint64_t hash; /* FNV-1a */
	size_t row_bytes;
	bool too_large;
};

static int on_begin(void *context, const struct jpeg_info *info, struct err *err)
{
	struct rows *rows = context;

	/* Large pictures are slow under a fuzzer and show nothing new. Asked of the decoder: it finds headers behind damage. */
	rows->too_large = (uint64_t)info->width * info->height > PIXELS_MAX_HERE;
	if (rows->too_large)
		return err_set(err, ERR_LIMIT, "too large here");
	rows->hash = 14695981039346656037U;
	rows->row_bytes = (size_t)info->width * (size_t)info->channels;
	return 0;
}

static void on_rows(void *context, const uint8_t *bytes, size_t stride, int count)
{
	struct rows *rows = context;

	for (int y = 0; y < count; y++)
		for (size_t x = 0; x < rows->row_bytes; x++)
			rows->hash = (rows->hash ^ bytes[(size_t)y * stride + x]) * 1099511628211U;
}

/* Both ways of decoding a scan. false: too large. */
static bool compare(const uint8_t *bytes, size_t size)
{
	static struct jpeg *jpeg[2];
	struct rows rows[2] = { { .too_large = false }, { .too_large = false } };
	struct err err[2];
	int code[2];

	for (int i = 0; i < 2; i++) {
		const struct jpeg_sink sink = { &rows[i], on_begin, on_rows };

		if (jpeg[i] == NULL) {
			CHECK(jpeg_open(&jpeg[i], &err[i]) == 0);
			jpeg_leave_to_libjpeg(jpeg[i], i == 1);
		}
		code[i] = jpeg_decode(jpeg[i], bytes, size, &sink, &err[i]);
	}
	CHECK(code[0] == code[1] && rows[0].hash == rows[1].hash && jpeg_warnings(jpeg[0]) == jpeg_warnings(jpeg[1]));
	CHECK(code[0] == 0 || strcmp(err[0].message, err[1].message) == 0);
	return !rows[0].too_large;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct picture_codec *codec;
	static uint8_t out[2][SIZE_MAX_HERE * SIZE_MAX_HERE * 3];
	struct transform transform;
	struct err err;
	int code[2];

	if (codec == NULL)
		CHECK(picture_codec_open(&codec, &err) == 0);
	if (size < 2 || !compare(data + 2, size - 2))
		return 0;
	transform.size = 1 + data[0] % SIZE_MAX_HERE;
	transform.exif = data[1] & 1 ? EXIF_APPLY : EXIF_IGNORE;
	for (int i = 0; i < 2; i++)
		code[i] = picture_prepare(codec, data + 2, size - 2, &transform, out[i], &err);
	CHECK(code[0] == code[1] && (code[0] == 0 || err.code == code[0]));
	if (code[0] == 0)
		CHECK(memcmp(out[0], out[1], (size_t)transform.size * transform.size * 3) == 0);
	return 0;
}
