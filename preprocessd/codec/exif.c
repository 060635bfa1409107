#include "preprocessd/codec/exif.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "preprocessd/codec/jpeg_markers.h"

enum { TAG_ORIENTATION = 0x0112, IFD_ENTRY_BYTES = 12 };

enum tiff_type {
	TIFF_BYTE = 1, TIFF_ASCII, TIFF_SHORT, TIFF_LONG, TIFF_RATIONAL, TIFF_SBYTE, TIFF_UNDEFINED, TIFF_SSHORT,
	TIFF_SLONG, TIFF_SRATIONAL, TIFF_FLOAT, TIFF_DOUBLE, TIFF_IFD, TIFF_LONG8 = 16, TIFF_TYPE_COUNT
};

static const uint8_t TIFF_TYPE_BYTES[TIFF_TYPE_COUNT] = {
	[TIFF_BYTE] = 1, [TIFF_ASCII] = 1, [TIFF_SHORT] = 2, [TIFF_LONG] = 4, [TIFF_RATIONAL] = 8, [TIFF_SBYTE] = 1,
	[TIFF_UNDEFINED] = 1, [TIFF_SSHORT] = 2, [TIFF_SLONG] = 4, [TIFF_SRATIONAL] = 8, [TIFF_FLOAT] = 4,
	[TIFF_DOUBLE] = 8, [TIFF_IFD] = 4, [TIFF_LONG8] = 8,
};

/* A TIFF file inside an APP1 segment. */
struct tiff {
	const uint8_t *bytes;
	size_t size;
	bool big_endian;
};

static uint64_t get_uint(const struct tiff *tiff, const uint8_t *at, int bytes)
{
	uint64_t value = 0;

	for (int i = 0; i < bytes; i++)
		value |= (uint64_t)at[i] << (8 * (tiff->big_endian ? bytes - 1 - i : i));
	return value;
}

/* The content of the first APP1 that starts with "Exif\0". */
static bool find_exif(const void *bytes, size_t size, struct jpeg_segment *segment)
{
	struct jpeg_walk walk = jpeg_walk_start(bytes, size);

	while (jpeg_walk_next(&walk, segment) == JPEG_STEP_SEGMENT) {
		if (segment->marker == MARKER_APP1 && segment->size >= 5 && memcmp(segment->content, "Exif", 5) == 0)
			return true;
	}
	return false;
}

/* The eight bytes in front of a TIFF file; the odd byte orders are ones that
 * Pillow lets pass. */
static bool tiff_header(struct tiff *tiff)
{
	static const uint8_t magics[][4] = {
		{ 'M', 'M', 0, 42 }, { 'I', 'I', 42, 0 }, { 'M', 'M', 42, 0 }, { 'I', 'I', 0, 42 }, { 'M', 'M', 0, 43 },
	};

	if (tiff->size < 8)
		return false;
	for (size_t i = 0; i < sizeof(magics) / sizeof(magics[0]); i++) {
		if (memcmp(tiff->bytes, magics[i], 4) == 0) {
			tiff->big_endian = tiff->bytes[0] == 'M';
			return true;
		}
	}
	return false;
}

/* numerator / denominator if that is a whole number of a byte's size, else 0. */
static int whole_quotient(int64_t numerator, int64_t denominator)
{
	if (denominator == 0 || numerator % denominator != 0)
		return 0;
	int64_t value = numerator / denominator;
	return value >= 0 && value <= 255 ? (int)value : 0;
}

static int whole_real(double value)
{
	return value >= 0 && value <= 255 && floor(value) == value ? (int)value : 0;
}

/* The first value of an entry, or 0 where it is no small whole number. */
static int entry_value(const struct tiff *tiff, unsigned type, const uint8_t *data)
{
	uint64_t bits;
	float single;
	double real;

	switch (type) {
	case TIFF_SHORT:
	case TIFF_LONG:
	case TIFF_IFD:
	case TIFF_LONG8:
	case TIFF_SBYTE:
	case TIFF_SSHORT:
	case TIFF_SLONG:
		bits = get_uint(tiff, data, TIFF_TYPE_BYTES[type]);
		/* A negative number has its top bit set, so it is out of range here too. */
		return bits <= 127 ? (int)bits : 0;
	case TIFF_RATIONAL:
		return whole_quotient((int64_t)get_uint(tiff, data, 4), (int64_t)get_uint(tiff, data + 4, 4));
	case TIFF_SRATIONAL:
		return whole_quotient((int32_t)get_uint(tiff, data, 4), (int32_t)get_uint(tiff, data + 4, 4));
	case TIFF_FLOAT:
		bits = get_uint(tiff, data, 4);
		memcpy(&single, &(uint32_t){ (uint32_t)bits }, sizeof(single));
		return whole_real((double)single);
	case TIFF_DOUBLE:
		bits = get_uint(tiff, data, 8);
		memcpy(&real, &bits, sizeof(real));
		return whole_real(real);
	default: /* text and bytes are no numbers */
		return 0;
	}
}

static int directory_orientation(const struct tiff *tiff)
{
	uint64_t at = get_uint(tiff, tiff->bytes + 4, 4);
	int orientation = 0;

	if (at > tiff->size || tiff->size - at < 2)
		return 0;
	unsigned entries = (unsigned)get_uint(tiff, tiff->bytes + at, 2);

	at += 2;
	for (; entries > 0 && tiff->size - at >= IFD_ENTRY_BYTES; entries--, at += IFD_ENTRY_BYTES) {
		const uint8_t *entry = tiff->bytes + at;
		unsigned tag = (unsigned)get_uint(tiff, entry, 2);
		unsigned type = (unsigned)get_uint(tiff, entry + 2, 2);
		uint64_t count = get_uint(tiff, entry + 4, 4);
		const uint8_t *data = entry + 8;

		if (type >= TIFF_TYPE_COUNT || TIFF_TYPE_BYTES[type] == 0 || count == 0)
			continue;
		uint64_t bytes = count * TIFF_TYPE_BYTES[type];

		if (bytes > 4) {
			uint64_t offset = get_uint(tiff, data, 4);

			/* Pillow stops reading the directory at such an entry. */
			if (offset > tiff->size || tiff->size - offset < bytes)
				break;
			data = tiff->bytes + offset;
		}
		if (tag == TAG_ORIENTATION)
			orientation = entry_value(tiff, type, data);
	}
	return orientation;
}

enum exif_orientation exif_orientation_of(const void *jpeg_bytes, size_t size)
{
	struct jpeg_segment segment;
	struct tiff tiff = { 0 };
	int orientation;

	if (!find_exif(jpeg_bytes, size, &segment) || segment.size < 6 || segment.content[5] != 0)
		return EXIF_UPRIGHT;
	tiff.bytes = segment.content + 6;
	tiff.size = segment.size - 6;
	if (!tiff_header(&tiff))
		return EXIF_UPRIGHT;
	orientation = directory_orientation(&tiff);
	return orientation >= EXIF_MIRRORED && orientation <= EXIF_NEEDS_COUNTERCLOCKWISE ? (enum exif_orientation)orientation
											 : EXIF_UPRIGHT;
}
