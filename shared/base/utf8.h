/*
 * utf8.h - is this valid UTF-8, and where does it stop being so?
 *
 * Valid means the Unicode standard's table 3-7: no overlong forms, no
 * surrogates, nothing above U+10FFFF. Pure functions, any thread.
 */
#ifndef SHARED_BASE_UTF8_H
#define SHARED_BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Offset of the first ill-formed byte sequence, or size where there is none. */
size_t utf8_valid_bytes(const char *text, size_t size);

/* Length of the well-formed character at text (1 to 4), or 0 where it is
 * ill-formed or cut off. size > 0. */
size_t utf8_char_bytes(const char *text, size_t size);

/* The maximal subpart of an ill-formed sequence at text: how many bytes one
 * U+FFFD stands for (at least 1). size > 0. */
size_t utf8_bad_bytes(const char *text, size_t size);

/* Writes a scalar value; returns 1 to 4. Surrogates and values beyond
 * U+10FFFF are written as U+FFFD. */
size_t utf8_put(char out[4], uint32_t point);

#endif
