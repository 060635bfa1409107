/*
 * exif.h - the orientation of a picture from its EXIF block.
 *
 * Oracle: what PIL.ImageOps.exif_transpose of Pillow 9.4 acts on: tag 0x0112
 * of the first image directory of the first "Exif" APP1 segment in front of
 * the first scan; the last entry of that tag counts, any numeric type whose
 * value is a whole number 2..8, and a directory that breaks off counts up to
 * there. An EXIF block that can't be read at all (Pillow raises an error) is
 * taken as none.
 *
 * Format:  Exif 2.3 (JEITA CP-3451C) section 4.6, TIFF 6.0 section 2.
 * Threads: a pure function.
 */
#ifndef PREPROCESSD_CODEC_EXIF_H
#define PREPROCESSD_CODEC_EXIF_H

#include <stddef.h>

enum exif_orientation {
	EXIF_UPRIGHT = 1,
	EXIF_MIRRORED = 2,       /* left and right change places */
	EXIF_ROTATED_180 = 3,
	EXIF_FLIPPED = 4,        /* top and bottom change places */
	EXIF_TRANSPOSED = 5,     /* mirrored along the main diagonal */
	EXIF_NEEDS_CLOCKWISE = 6,
	EXIF_TRANSVERSED = 7,    /* mirrored along the other diagonal */
	EXIF_NEEDS_COUNTERCLOCKWISE = 8,
};

/* EXIF_UPRIGHT where the JPEG file says nothing, or nothing that is legible. */
enum exif_orientation exif_orientation_of(const void *jpeg_bytes, size_t size);

#endif
