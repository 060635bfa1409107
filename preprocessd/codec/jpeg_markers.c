#include "preprocessd/codec/jpeg_markers.h"

#include <stdbool.h>
#include <string.h>

#include "shared/base/check.h"

struct jpeg_walk jpeg_walk_start(const void *bytes, size_t size)
{
	return (struct jpeg_walk){ .bytes = bytes, .size = size, .at = 2 /* behind SOI */ };
}

static bool has_segment(uint8_t marker)
{
	return marker != MARKER_EXTENSION && !(marker >= MARKER_RST_FIRST && marker <= MARKER_EOI) &&
	       !(marker >= MARKER_JPG0 && marker <= MARKER_JPG13);
}

enum jpeg_step jpeg_walk_next(struct jpeg_walk *walk, struct jpeg_segment *segment)
{
	const uint8_t *bytes = walk->bytes;

	while (walk->at + 1 < walk->size) {
		uint8_t marker = bytes[walk->at + 1];

		if (bytes[walk->at] != 0xFF || marker == 0xFF) {
			walk->at++;
			continue;
		}
		walk->at += 2;
		if (marker == 0x00)
			continue;
		if (marker < MARKER_SOF_FIRST)
			return JPEG_STEP_BROKEN;
		if (!has_segment(marker))
			continue;
		if (walk->size - walk->at < 2)
			return JPEG_STEP_BROKEN;
		size_t length = (size_t)bytes[walk->at] << 8 | bytes[walk->at + 1];

		walk->at += 2;
		*segment = (struct jpeg_segment){ marker, bytes + walk->at, length < 2 ? 0 : length - 2 };
		if (walk->size - walk->at < segment->size)
			return JPEG_STEP_BROKEN;
		walk->at += segment->size;
		return marker == MARKER_SOS ? JPEG_STEP_SCAN : JPEG_STEP_SEGMENT;
	}
	return JPEG_STEP_BROKEN;
}

static bool quantization_is_sound(const struct jpeg_segment *segment)
{
	size_t at = 0;

	while (at < segment->size) {
		size_t table = segment->content[at] >> 4 == 0 ? 1 + 64 : 1 + 128;

		if (segment->size - at < table)
			return false;
		at += table;
	}
	return true;
}

static bool frame_is_sound(const struct jpeg_segment *segment)
{
	return segment->size >= 6 && (segment->size - 6) % 3 == 0;
}

static bool starts_with(const struct jpeg_segment *segment, const char *text, size_t length)
{
	return segment->size >= length && memcmp(segment->content, text, length) == 0;
}

/* What Pillow knows by then. */
struct header {
	bool has_dpi, has_exif;
};

/* It looks into the first EXIF block for the resolution where JFIF has told none, and is thrown out of its own
 * parser by a TIFF header that begins as one and is shorter than 8 bytes, or that is BigTIFF's. */
static bool exif_is_sound(const struct jpeg_segment *segment)
{
	static const uint8_t starts[][4] = { "MM\0*", "II*\0", "MM*\0", "II\0*", "MM\0+", "II+\0" };
	const uint8_t *tiff = segment->content + 6;
	size_t size = segment->size - 6;

	for (size_t i = 0; size >= 4 && i < ARRAY_LEN(starts); i++)
		if (memcmp(tiff, starts[i], 4) == 0)
			return tiff[2] != '+' && size >= 8;
	return true;
}

/* Resources of Photoshop: 8BIM, a code of two bytes, a name with its length in front, a size of four bytes, so many bytes;
 * name and data are padded to even places. Pillow takes an end anywhere but in front of the name. */
static bool photoshop_is_sound(const struct jpeg_segment *segment)
{
	const uint8_t *s = segment->content;
	size_t at = 14;

	while (at + 4 <= segment->size && memcmp(s + at, "8BIM", 4) == 0) {
		at += 4;
		if (segment->size - at < 2)
			return true;
		bool resolution = s[at] == 0x03 && s[at + 1] == 0xED;

		at += 2;
		if (at == segment->size)
			return false;
		at += 1 + (size_t)s[at];
		at += at & 1;
		if (at + 4 > segment->size)
			return true;
		size_t size = (size_t)s[at] << 24 | (size_t)s[at + 1] << 16 | (size_t)s[at + 2] << 8 | s[at + 3];

		at += 4;
		if (resolution && (size < 14 || segment->size - at < 14))
			return true; /* it stops looking */
		at += size;
		at += at & 1;
	}
	return true;
}

static bool app1_is_sound(struct header *header, const struct jpeg_segment *segment)
{
	if (header->has_exif || !starts_with(segment, "Exif", 5))
		return true;
	header->has_exif = true;
	return header->has_dpi || !starts_with(segment, "Exif\0", 6) || exif_is_sound(segment);
}

static bool app0_is_sound(struct header *header, const struct jpeg_segment *segment)
{
	if (!starts_with(segment, "JFIF", 4))
		return true;
	header->has_dpi |= segment->size >= 12 && segment->content[7] == 1;
	return segment->size >= 7; /* the version is behind the name */
}

static bool segment_is_sound(struct header *header, const struct jpeg_segment *segment)
{
	switch (segment->marker) {
	case MARKER_DHT:
	case MARKER_DAC:
		return true;
	case MARKER_DQT:
		return quantization_is_sound(segment);
	case MARKER_APP0:
		return app0_is_sound(header, segment);
	case MARKER_APP1:
		return app1_is_sound(header, segment);
	case MARKER_APP2: /* the numbers of the piece and of all pieces */
		return !starts_with(segment, "ICC_PROFILE", 12) || segment->size >= 14;
	case MARKER_APP13:
		return !starts_with(segment, "Photoshop 3.0", 14) || photoshop_is_sound(segment);
	case MARKER_APP14:
		return !starts_with(segment, "Adobe", 5) || segment->size >= 7;
	default:
		if ((segment->marker >= MARKER_SOF_FIRST && segment->marker <= MARKER_SOF_LAST) || segment->marker == MARKER_DHP)
			return frame_is_sound(segment);
		return true;
	}
}

bool jpeg_header_is_sound(const void *bytes, size_t size)
{
	struct jpeg_walk walk = jpeg_walk_start(bytes, size);
	struct jpeg_segment segment;
	struct header header = { 0 };
	enum jpeg_step step;

	while ((step = jpeg_walk_next(&walk, &segment)) == JPEG_STEP_SEGMENT) {
		if (!segment_is_sound(&header, &segment))
			return false;
	}
	return step == JPEG_STEP_SCAN;
}
