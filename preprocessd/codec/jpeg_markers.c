#include "preprocessd/codec/jpeg_markers.h"

#include <string.h>

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

static bool segment_is_sound(const struct jpeg_segment *segment)
{
	switch (segment->marker) {
	case MARKER_DHT:
	case MARKER_DAC:
		return true;
	case MARKER_DQT:
		return quantization_is_sound(segment);
	case MARKER_APP0: /* the version is behind the name */
		return !starts_with(segment, "JFIF", 4) || segment->size >= 7;
	case MARKER_APP2: /* the numbers of the piece and of all pieces */
		return !starts_with(segment, "ICC_PROFILE", 12) || segment->size >= 14;
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
	enum jpeg_step step;

	while ((step = jpeg_walk_next(&walk, &segment)) == JPEG_STEP_SEGMENT) {
		if (!segment_is_sound(&segment))
			return false;
	}
	return step == JPEG_STEP_SCAN;
}
