#include "preprocessd/codec/picture.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "preprocessd/codec/exif.h"
#include "preprocessd/codec/format_name.h"
#include "preprocessd/codec/jpeg.h"
#include "preprocessd/codec/jpeg_markers.h"
#include "preprocessd/codec/resize.h"
#include "shared/base/mem.h"
#include "shared/base/plural.h"

/* Versions of our own rules: raise one when it changes any bit of a result. */
enum { COLOR_RULES_VERSION = 1, RESIZE_RULES_VERSION = 1 };

struct picture_codec {
	struct jpeg *jpeg;
	struct resize *resize;
	/* The picture under way. */
	const struct transform *transform;
	enum exif_orientation orientation;
	uint8_t *out;
};

_Static_assert((int)JPEG_SLACK_BYTES >= (int)RESIZE_SLACK_BYTES, "the resizer reads beyond the decoder's rows");
_Static_assert((int)RESIZE_TARGET_MAX >= (int)PICTURE_SIZE_MAX, "the resizer must make every size");

void transform_describe(const struct transform *transform, char *out, size_t out_bytes)
{
	snprintf(out, out_bytes, "decoder=%s;color=rgb/%d;resize=pillow-bilinear/%d;size=%" PRIu32 ";exif=%s",
		 jpeg_decoder_name(), COLOR_RULES_VERSION, RESIZE_RULES_VERSION, transform->size,
		 transform->exif == EXIF_APPLY ? "apply" : "ignore");
}

void transform_fingerprint(const struct transform *transform, struct hash *out)
{
	char text[256];

	transform_describe(transform, text, sizeof(text));
	hash_bytes(out, text, strlen(text));
}

int picture_codec_open(struct picture_codec **out, struct err *err)
{
	struct picture_codec *codec = mem_zalloc(sizeof(*codec));
	int code;

	*out = NULL;
	if (codec == NULL)
		return err_nomem(err, sizeof(*codec));
	if ((code = jpeg_open(&codec->jpeg, err)) != 0 || (code = resize_open(&codec->resize, NULL, err)) != 0) {
		picture_codec_close(codec);
		return code;
	}
	*out = codec;
	return 0;
}

void picture_codec_close(struct picture_codec *codec)
{
	if (codec == NULL)
		return;
	jpeg_close(codec->jpeg);
	resize_close(codec->resize);
	mem_free(codec);
}

/* The signature decides, as in Pillow; what follows is the decoder's affair. */
static int check_file(const uint8_t *bytes, size_t size, struct err *err)
{
	const char *name;

	if (size > PICTURE_FILE_BYTES_MAX)
		return err_set(err, ERR_LIMIT, "a file of %zu bytes; the limit is %d", size, PICTURE_FILE_BYTES_MAX);
	if (size == 0)
		return err_set(err, ERR_FORMAT, "an empty file, not JPEG");
	if (size >= 3 && bytes[0] == 0xFF && bytes[1] == 0xD8 && bytes[2] == 0xFF)
		return 0;
	if ((name = format_name(bytes, size)) != NULL)
		return err_set(err, ERR_UNSUPPORTED, "%s, not JPEG", name);
	if (size < 3)
		return err_set(err, ERR_FORMAT, "not a JPEG (a file of %zu byte%s)", size, plural(size));
	return err_set(err, ERR_FORMAT, "not a JPEG (starts with %02x %02x %02x, not ff d8 ff)", bytes[0], bytes[1], bytes[2]);
}

/* Each orientation as mirroring of the source, then transposition. */
static void orient(struct resize_spec *spec, enum exif_orientation orientation)
{
	spec->flip_x = orientation == EXIF_MIRRORED || orientation == EXIF_ROTATED_180 ||
		       orientation == EXIF_TRANSVERSED || orientation == EXIF_NEEDS_COUNTERCLOCKWISE;
	spec->flip_y = orientation == EXIF_FLIPPED || orientation == EXIF_ROTATED_180 ||
		       orientation == EXIF_TRANSVERSED || orientation == EXIF_NEEDS_CLOCKWISE;
	spec->transpose = orientation >= EXIF_TRANSPOSED;
}

static int on_header(void *context, const struct jpeg_info *info, struct err *err)
{
	struct picture_codec *codec = context;
	struct resize_spec spec = {
		.width = info->width, .height = info->height, .channels = info->channels, .size = codec->transform->size,
	};

	if ((uint64_t)info->width * info->height > PICTURE_PIXELS_MAX)
		return err_set(err, ERR_LIMIT, "%" PRIu32 " x %" PRIu32 " pixels; the limit is %d pixels", info->width,
			       info->height, PICTURE_PIXELS_MAX);
	orient(&spec, codec->orientation);
	return resize_begin(codec->resize, &spec, codec->out, err);
}

static void on_rows(void *context, const uint8_t *rows, size_t stride, int count)
{
	struct picture_codec *codec = context;

	resize_rows(codec->resize, rows, stride, count);
}

int picture_prepare(struct picture_codec *codec, const void *bytes, size_t size, const struct transform *transform,
		    uint8_t *out, struct err *err)
{
	const struct jpeg_sink sink = { .context = codec, .begin = on_header, .rows = on_rows };
	int code;

	CHECK(transform->size > 0 && transform->size <= PICTURE_SIZE_MAX);
	if ((code = check_file(bytes, size, err)) != 0)
		return code;
	codec->transform = transform;
	codec->out = out;
	codec->orientation = transform->exif == EXIF_APPLY ? exif_orientation_of(bytes, size) : EXIF_UPRIGHT;
	if ((code = jpeg_decode(codec->jpeg, bytes, size, &sink, err)) != 0)
		return code;
	/* Pillow doesn't open a file with an illegible header. Where libjpeg reads
	 * it without complaint we do; with data that is damaged as well, we don't. */
	if (jpeg_warnings(codec->jpeg) > 0 && !jpeg_header_is_sound(bytes, size))
		return err_set(err, ERR_FORMAT, "damaged JPEG: an illegible header and corrupt data");
	return 0;
}
