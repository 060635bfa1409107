/*
 * picture.h - JPEG bytes to prepared pixels: decode, resize, in one pass.
 *
 * Oracle: Pillow 9.4 `Image.open(f).convert("RGB")` and torchvision 0.14
 * `Resize((size, size))` on the PIL image (bilinear, antialias): bit-identical.
 *
 * Threads:   one codec, one thread at a time; any number of codecs.
 * Ownership: a codec keeps its scratch memory between pictures, so steady
 *            state allocates nothing; input and output belong to the caller.
 * Limits:    PICTURE_PIXELS_MAX pixels, PICTURE_FILE_BYTES_MAX bytes; a header
 *            that promises more is refused before memory is allocated.
 */
#ifndef PREPROCESSD_CODEC_PICTURE_H
#define PREPROCESSD_CODEC_PICTURE_H

#include <stdint.h>

#include "shared/base/err.h"
#include "shared/base/hash.h"

enum {
	PICTURE_SIZE_MAX = 2048,              /* output side, pixels */
	PICTURE_PIXELS_MAX = 178956970,       /* source; Pillow's decompression-bomb error limit is twice its 89,478,485 */
	PICTURE_FILE_BYTES_MAX = 512 << 20,
};

enum exif_policy { EXIF_IGNORE, EXIF_APPLY };

/* Everything that decides the uint8 result besides the source bytes. */
struct transform {
	uint32_t size;         /* side of the square output, 1..PICTURE_SIZE_MAX */
	enum exif_policy exif;
};

/* Hash of the transform and of decoder, resizer and color rules (their
 * versions are constants beside the code: bump one and old records are not found). */
void transform_fingerprint(const struct transform *transform, struct hash *out);
/* The fields of the fingerprint as "decoder=...;resize=...;size=224;..." for people. */
void transform_describe(const struct transform *transform, char *out, size_t out_bytes);

struct picture_codec;
MUST_USE int picture_codec_open(struct picture_codec **out, struct err *err);
void picture_codec_close(struct picture_codec *codec); /* NULL is fine */

/* out: (size, size, 3) uint8, rows top down, RGB.
 * ERR_UNSUPPORTED: another format (named) or a JPEG kind that libjpeg-turbo
 * lacks. ERR_FORMAT: damaged. ERR_LIMIT: too large. Messages carry no path:
 * the caller puts it in front. */
MUST_USE int picture_prepare(struct picture_codec *codec, const void *bytes, size_t size,
			     const struct transform *transform, uint8_t *out, struct err *err);

#endif
