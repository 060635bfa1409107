/*
 * format_name.h - what a file that is not a JPEG seems to be, from its first bytes.
 *
 * Threads: a pure function; the result is static text such as "a PNG file".
 */
#ifndef PREPROCESSD_CODEC_FORMAT_NAME_H
#define PREPROCESSD_CODEC_FORMAT_NAME_H

#include <stddef.h>

/* NULL: nothing that is known here. */
const char *format_name(const void *bytes, size_t size);

#endif
