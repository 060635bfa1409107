/*
 * jpeg_markers.h - the segments in front of a JPEG file's first scan.
 *
 * Markers are walked as Pillow 9.4 walks them, which is laxer than the
 * standard in some places (junk between segments, restart and end markers are
 * passed over) and stricter in others.
 *
 * Format:  ITU-T T.81 annex B.
 * Threads: pure functions; everything borrows the file's bytes.
 */
#ifndef PREPROCESSD_CODEC_JPEG_MARKERS_H
#define PREPROCESSD_CODEC_JPEG_MARKERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum jpeg_marker {
	MARKER_SOF_FIRST = 0xC0, MARKER_DHT = 0xC4, MARKER_EXTENSION = 0xC8, MARKER_DAC = 0xCC, MARKER_SOF_LAST = 0xCF,
	MARKER_RST_FIRST = 0xD0, MARKER_EOI = 0xD9, MARKER_SOS = 0xDA, MARKER_DQT = 0xDB, MARKER_DHP = 0xDE, MARKER_APP0 = 0xE0,
	MARKER_APP1 = 0xE1, MARKER_APP2 = 0xE2, MARKER_APP13 = 0xED, MARKER_APP14 = 0xEE, MARKER_JPG0 = 0xF0, MARKER_JPG13 = 0xFD,
};

struct jpeg_walk {
	const uint8_t *bytes;
	size_t size, at;
};

struct jpeg_segment {
	uint8_t marker;
	const uint8_t *content; /* behind the length */
	size_t size;
};

enum jpeg_step {
	JPEG_STEP_SEGMENT, /* *segment is filled */
	JPEG_STEP_SCAN,    /* the first scan begins: the end of a sound header */
	JPEG_STEP_BROKEN,  /* the file ends, or something stands there that is no marker */
};

struct jpeg_walk jpeg_walk_start(const void *bytes, size_t size);
enum jpeg_step jpeg_walk_next(struct jpeg_walk *walk, struct jpeg_segment *segment);

/* False where Pillow's own look at the header would give up on the file:
 * markers that are none, segments that are too short for what they should hold. */
bool jpeg_header_is_sound(const void *bytes, size_t size);

#endif
