#include "shared/base/utf8.h"

#include <string.h>

/* What a lead byte allows: how long the character is, and the range of its
 * second byte, which is what rules out overlong forms and surrogates. */
struct lead {
	size_t bytes;
	uint8_t low, high;
};

static struct lead lead_of(uint8_t c)
{
	if (c >= 0xC2 && c <= 0xDF)
		return (struct lead){ 2, 0x80, 0xBF };
	if (c >= 0xE0 && c <= 0xEF)
		return (struct lead){ 3, c == 0xE0 ? 0xA0 : 0x80, c == 0xED ? 0x9F : 0xBF };
	if (c >= 0xF0 && c <= 0xF4)
		return (struct lead){ 4, c == 0xF0 ? 0x90 : 0x80, c == 0xF4 ? 0x8F : 0xBF };
	return (struct lead){ 0, 0, 0 };
}

/* How many leading bytes can begin a character; *whole: they are one. */
static size_t prefix_bytes(const uint8_t *p, size_t size, int *whole)
{
	struct lead lead = lead_of(p[0]);
	size_t n = 1;

	*whole = 0;
	if (p[0] < 0x80) {
		*whole = 1;
		return 1;
	}
	if (lead.bytes == 0)
		return 1;
	while (n < lead.bytes && n < size) {
		uint8_t low = n == 1 ? lead.low : 0x80, high = n == 1 ? lead.high : 0xBF;

		if (p[n] < low || p[n] > high)
			return n;
		n++;
	}
	*whole = n == lead.bytes;
	return n;
}

size_t utf8_char_bytes(const char *text, size_t size)
{
	int whole;
	size_t n = prefix_bytes((const uint8_t *)text, size, &whole);

	return whole ? n : 0;
}

size_t utf8_bad_bytes(const char *text, size_t size)
{
	int whole;

	return prefix_bytes((const uint8_t *)text, size, &whole);
}

size_t utf8_valid_bytes(const char *text, size_t size)
{
	size_t at = 0;

	while (at < size) {
		uint64_t eight;

		/* Captions are nearly all ASCII: look at eight bytes at a time. */
		while (at + 8 <= size) {
			memcpy(&eight, text + at, 8);
			if (eight & 0x8080808080808080u)
				break;
			at += 8;
		}
		if (at == size)
			break;
		size_t n = utf8_char_bytes(text + at, size - at);
		if (n == 0)
			return at;
		at += n;
	}
	return size;
}

size_t utf8_put(char out[4], uint32_t point)
{
	uint8_t *p = (uint8_t *)out;

	if (point > 0x10FFFF || (point >= 0xD800 && point <= 0xDFFF))
		point = 0xFFFD;
	if (point < 0x80) {
		p[0] = (uint8_t)point;
		return 1;
	}
	if (point < 0x800) {
		p[0] = (uint8_t)(0xC0 | point >> 6);
		p[1] = (uint8_t)(0x80 | (point & 63));
		return 2;
	}
	if (point < 0x10000) {
		p[0] = (uint8_t)(0xE0 | point >> 12);
		p[1] = (uint8_t)(0x80 | (point >> 6 & 63));
		p[2] = (uint8_t)(0x80 | (point & 63));
		return 3;
	}
	p[0] = (uint8_t)(0xF0 | point >> 18);
	p[1] = (uint8_t)(0x80 | (point >> 12 & 63));
	p[2] = (uint8_t)(0x80 | (point >> 6 & 63));
	p[3] = (uint8_t)(0x80 | (point & 63));
	return 4;
}
