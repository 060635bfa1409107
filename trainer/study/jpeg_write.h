/*
 * jpeg_write.h - small pictures as baseline JPEG, for data: URIs in a report.
 *
 * ITU-T T.81 with the quantization and Huffman tables of its annex K, YCbCr of
 * JFIF, no subsampling. For thumbnails: about 5 kB at 128 pixels. Nothing of
 * the daemon's exactness is at stake here.
 *
 * Threads: pure.
 */
#ifndef TRAINER_STUDY_JPEG_WRITE_H
#define TRAINER_STUDY_JPEG_WRITE_H

#include <stdint.h>

#include "shared/base/buf.h"

enum { JPEG_WRITE_SIDE_MAX = 4096 };

/* rgb: (height, width, 3). quality 1 to 100, on libjpeg's scale. Appends to out. */
MUST_USE int jpeg_write(const uint8_t *rgb, int width, int height, int quality, struct buf *out, struct err *err);

#endif
