#include "preprocessd/codec/format_name.h"

#include <string.h>

#include "shared/base/check.h"

/* Up to two byte strings at fixed places; the first line that fits wins, so
 * special containers stand in front of general ones. */
static const struct signature {
	const char *name;
	size_t at, length;
	const char *bytes;
	size_t second_at, second_length;
	const char *second;
} SIGNATURES[] = {
	{ "a PNG file", 0, 8, "\x89PNG\r\n\x1a\n", 0, 0, NULL },
	{ "a PNG file (MNG)", 0, 4, "\x8aMNG", 0, 0, NULL },
	{ "a GIF file", 0, 4, "GIF8", 0, 0, NULL },
	{ "a WebP file", 0, 4, "RIFF", 8, 4, "WEBP" },
	{ "an AVI video", 0, 4, "RIFF", 8, 4, "AVI " },
	{ "a BigTIFF file", 0, 4, "II+\0", 0, 0, NULL },
	{ "a BigTIFF file", 0, 4, "MM\0+", 0, 0, NULL },
	{ "a TIFF file", 0, 4, "II*\0", 0, 0, NULL },
	{ "a TIFF file", 0, 4, "MM\0*", 0, 0, NULL },
	{ "a JPEG 2000 file", 0, 12, "\0\0\0\x0cjP  \r\n\x87\n", 0, 0, NULL },
	{ "a JPEG 2000 codestream", 0, 4, "\xff\x4f\xff\x51", 0, 0, NULL },
	{ "a JPEG XL file", 0, 12, "\0\0\0\x0cJXL \r\n\x87\n", 0, 0, NULL },
	{ "a JPEG XL codestream", 0, 2, "\xff\x0a", 0, 0, NULL },
	{ "a JPEG XR file", 0, 3, "II\xbc", 0, 0, NULL },
	{ "an AVIF file", 4, 8, "ftypavif", 0, 0, NULL },
	{ "an AVIF file", 4, 8, "ftypavis", 0, 0, NULL },
	{ "a HEIC file", 4, 7, "ftyphei", 0, 0, NULL },
	{ "a HEIC file", 4, 7, "ftyphev", 0, 0, NULL },
	{ "a HEIF file", 4, 7, "ftypmif", 0, 0, NULL },
	{ "a HEIF file", 4, 8, "ftypmsf1", 0, 0, NULL },
	{ "an MP4 or QuickTime video", 4, 4, "ftyp", 0, 0, NULL },
	{ "a Photoshop file", 0, 4, "8BPS", 0, 0, NULL },
	{ "a GIMP file", 0, 8, "gimp xcf", 0, 0, NULL },
	{ "a Windows icon", 0, 4, "\0\0\1\0", 0, 0, NULL },
	{ "a Radiance HDR file", 0, 6, "#?RADI", 0, 0, NULL },
	{ "an OpenEXR file", 0, 4, "\x76\x2f\x31\x01", 0, 0, NULL },
	{ "a DDS texture", 0, 4, "DDS ", 0, 0, NULL },
	{ "a QOI file", 0, 4, "qoif", 0, 0, NULL },
	{ "a PDF file", 0, 5, "%PDF-", 0, 0, NULL },
	{ "a PostScript file", 0, 4, "%!PS", 0, 0, NULL },
	{ "an SVG drawing", 0, 4, "<svg", 0, 0, NULL },
	{ "an XML document", 0, 5, "<?xml", 0, 0, NULL },
	{ "an HTML page", 0, 5, "<html", 0, 0, NULL },
	{ "an HTML page", 0, 5, "<!DOC", 0, 0, NULL },
	{ "an HTML page", 0, 5, "<!doc", 0, 0, NULL },
	{ "a Matroska or WebM video", 0, 4, "\x1a\x45\xdf\xa3", 0, 0, NULL },
	{ "a ZIP archive", 0, 4, "PK\3\4", 0, 0, NULL },
	{ "a gzip file", 0, 2, "\x1f\x8b", 0, 0, NULL },
	{ "an xz file", 0, 6, "\xfd" "7zXZ\0", 0, 0, NULL },
	{ "a Zstandard file", 0, 4, "\x28\xb5\x2f\xfd", 0, 0, NULL },
	{ "a tar archive", 257, 5, "ustar", 0, 0, NULL },
	{ "a Git LFS pointer, not the file itself (git lfs pull fetches it)", 0, 24, "version https://git-lfs.", 0, 0, NULL },
};

static int matches(const unsigned char *bytes, size_t size, size_t at, const char *wanted, size_t length)
{
	return at <= size && size - at >= length && memcmp(bytes + at, wanted, length) == 0;
}

/* Formats whose signature is too short to be trusted alone. */
static const char *by_plausibility(const unsigned char *bytes, size_t size)
{
	static const char targa[] = "TRUEVISION-XFILE."; /* at the end, with its zero byte */

	if (size >= 26 && matches(bytes, size, 0, "BM", 2) && matches(bytes, size, 6, "\0\0\0\0", 4))
		return "a BMP file";
	if (size >= 3 && bytes[0] == 'P' && bytes[1] >= '1' && bytes[1] <= '7' && (bytes[2] == '\n' || bytes[2] == ' '))
		return "a PNM file";
	if (size >= 128 && bytes[0] == 10 && bytes[1] <= 5 && bytes[2] == 1 && bytes[3] <= 8)
		return "a PCX file";
	if (size >= 512 && matches(bytes, size, 0, "\x01\xda", 2) && bytes[2] <= 1 && (bytes[3] == 1 || bytes[3] == 2))
		return "an SGI file";
	if (size >= sizeof(targa) && memcmp(bytes + size - sizeof(targa), targa, sizeof(targa)) == 0)
		return "a TGA file";
	for (size_t i = 0; i < size && i < 64; i++) {
		if (bytes[i] != '\t' && bytes[i] != '\n' && bytes[i] != '\r' && (bytes[i] < 0x20 || bytes[i] > 0x7E))
			return NULL;
	}
	return size > 0 ? "a text file" : NULL;
}

const char *format_name(const void *bytes, size_t size)
{
	for (size_t i = 0; i < ARRAY_LEN(SIGNATURES); i++) {
		const struct signature *s = &SIGNATURES[i];

		if (matches(bytes, size, s->at, s->bytes, s->length) &&
		    (s->second == NULL || matches(bytes, size, s->second_at, s->second, s->second_length)))
			return s->name;
	}
	return by_plausibility(bytes, size);
}
