#include "shared/base/utf8.h"

#include <string.h>

size_t utf8_char_bytes(const char *text, size_t size)
{
	uint32_t code;
	size_t n = utf8_decode((const uint8_t *)text, (const uint8_t *)text + size, &code);

	return code != UTF8_INVALID ? n : 0;
}

size_t utf8_bad_bytes(const char *text, size_t size)
{
	uint32_t code;

	return utf8_decode((const uint8_t *)text, (const uint8_t *)text + size, &code);
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

size_t utf8_put(char out[UTF8_BYTES_MAX], uint32_t point)
{
	if (point > 0x10FFFF || (point >= 0xD800 && point <= 0xDFFF))
		point = 0xFFFD;
	return utf8_encode((uint8_t *)out, point);
}
