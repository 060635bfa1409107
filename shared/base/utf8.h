/*
 * utf8.h - UTF-8, one code point at a time, and where a text stops being valid.
 *
 * Valid means the Unicode standard's table 3-7: no overlong forms, no
 * surrogates, nothing above U+10FFFF. Ill-formed input is consumed as its
 * table 3-8 recommends and Rust's from_utf8_lossy does: each maximal part that
 * could have begun a character counts as one. Pure functions, any thread.
 */
#ifndef SHARED_BASE_UTF8_H
#define SHARED_BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

#define UTF8_INVALID UINT32_MAX

enum { UTF8_BYTES_MAX = 4 };

/* Reads one code point, or UTF8_INVALID, from [p, end), which is not empty.
 * Returns the bytes consumed, at least 1. */
static inline size_t utf8_decode(const uint8_t *p, const uint8_t *end, uint32_t *code)
{
	size_t left = (size_t)(end - p), length;
	uint8_t low = 0x80, high = 0xBF; /* what the second byte may be */
	uint32_t value;

	*code = UTF8_INVALID;
	if (p[0] < 0x80) {
		*code = p[0];
		return 1;
	}
	if (p[0] < 0xC2 || p[0] > 0xF4)
		return 1;
	if (p[0] < 0xE0) {
		length = 2;
		value = p[0] & 0x1Fu;
	} else if (p[0] < 0xF0) {
		length = 3;
		value = p[0] & 0x0Fu;
		low = p[0] == 0xE0 ? 0xA0 : 0x80;  /* shorter forms exist */
		high = p[0] == 0xED ? 0x9F : 0xBF; /* surrogates */
	} else {
		length = 4;
		value = p[0] & 0x07u;
		low = p[0] == 0xF0 ? 0x90 : 0x80;
		high = p[0] == 0xF4 ? 0x8F : 0xBF; /* beyond U+10FFFF */
	}
	for (size_t i = 1; i < length; i++) {
		if (i == left || p[i] < low || p[i] > high)
			return i;
		value = value << 6 | (p[i] & 0x3Fu);
		low = 0x80;
		high = 0xBF;
	}
	*code = value;
	return length;
}

/* code: a Unicode scalar value. Returns the bytes written. */
static inline size_t utf8_encode(uint8_t out[UTF8_BYTES_MAX], uint32_t code)
{
	if (code < 0x80) {
		out[0] = (uint8_t)code;
		return 1;
	}
	if (code < 0x800) {
		out[0] = (uint8_t)(0xC0 | code >> 6);
		out[1] = (uint8_t)(0x80 | (code & 0x3F));
		return 2;
	}
	if (code < 0x10000) {
		out[0] = (uint8_t)(0xE0 | code >> 12);
		out[1] = (uint8_t)(0x80 | (code >> 6 & 0x3F));
		out[2] = (uint8_t)(0x80 | (code & 0x3F));
		return 3;
	}
	out[0] = (uint8_t)(0xF0 | code >> 18);
	out[1] = (uint8_t)(0x80 | (code >> 12 & 0x3F));
	out[2] = (uint8_t)(0x80 | (code >> 6 & 0x3F));
	out[3] = (uint8_t)(0x80 | (code & 0x3F));
	return 4;
}

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
size_t utf8_put(char out[UTF8_BYTES_MAX], uint32_t point);

#endif
