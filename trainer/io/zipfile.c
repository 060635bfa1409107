#include "trainer/io/zipfile.h"

#include <stdlib.h>
#include <string.h>

#include "shared/base/mem.h"

enum {
	LOCAL_SIGNATURE = 0x04034B50, CENTRAL_SIGNATURE = 0x02014B50, END_SIGNATURE = 0x06054B50,
	END64_SIGNATURE = 0x06064B50, LOCATOR64_SIGNATURE = 0x07064B50,
	LOCAL_BYTES = 30, CENTRAL_BYTES = 46, END_BYTES = 22, END64_BYTES = 56, LOCATOR64_BYTES = 20,
	COMMENT_MAX = 65535,
	EXTRA_ZIP64 = 1,
	FLAG_ENCRYPTED = 1,
	CRC_SLICES = 8,
};

struct zipfile {
	const char *path;
	const uint8_t *data;
	uint64_t bytes;
	uint64_t directory_at, directory_bytes, directory_entries;
	struct zip_entry *entries; /* by name once opened */
	int count;
	char *names;
	uint32_t crc[CRC_SLICES][256];
};

static uint16_t u16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t u32(const uint8_t *p)
{
	return (uint32_t)u16(p) | (uint32_t)u16(p + 2) << 16;
}

static uint64_t u64(const uint8_t *p)
{
	return (uint64_t)u32(p) | (uint64_t)u32(p + 4) << 32;
}

static int damaged(const struct zipfile *zip, const char *what, struct err *err)
{
	return err_set(err, ERR_FORMAT, "%s: damaged zip archive: %s; copy or download it again", zip->path, what);
}

/* ---- CRC-32 ---- */

/* Slices of 8 bytes at a time: the table of byte k holds what 7 - k more zero bytes make of it. */
static void crc_tables(struct zipfile *zip)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int bit = 0; bit < 8; bit++)
			c = c & 1 ? 0xEDB88320u ^ c >> 1 : c >> 1;
		zip->crc[0][i] = c;
	}
	for (int slice = 1; slice < CRC_SLICES; slice++)
		for (int i = 0; i < 256; i++)
			zip->crc[slice][i] = zip->crc[slice - 1][i] >> 8 ^ zip->crc[0][zip->crc[slice - 1][i] & 255];
}

static uint32_t crc_of(const struct zipfile *zip, const uint8_t *p, uint64_t n)
{
	uint32_t c = 0xFFFFFFFFu;

	for (; n >= 8; n -= 8, p += 8) {
		uint64_t x = u64(p) ^ c;

		c = 0;
		for (int i = 0; i < CRC_SLICES; i++)
			c ^= zip->crc[CRC_SLICES - 1 - i][x >> (8 * i) & 255];
	}
	for (; n > 0; n--, p++)
		c = c >> 8 ^ zip->crc[0][(c ^ *p) & 255];
	return ~c;
}

int zip_verify(struct zipfile *zip, struct zip_entry *entry, struct err *err)
{
	if (entry->packed)
		return err_set(err, ERR_UNSUPPORTED, "%s: the zip entry %.200s is compressed, which torch.save() never does; unpack the "
			       "archive and pack it again without compression (zip -0 -r), or save it again with torch.save()",
			       zip->path, entry->name);
	if (entry->verified || entry->crc == 0)
		return 0;
	if (crc_of(zip, entry->data, entry->bytes) != entry->crc)
		return err_set(err, ERR_FORMAT, "%s: %.200s does not have its checksum: the file is damaged; copy or download it again",
			       zip->path, entry->name);
	entry->verified = true;
	return 0;
}

/* ---- the end of the archive, which says where the directory is ---- */

/* The record whose comment ends with the file; SIZE_MAX: none. */
static uint64_t find_end(const struct zipfile *zip)
{
	uint64_t last = zip->bytes < END_BYTES ? UINT64_MAX : zip->bytes - END_BYTES;
	uint64_t lowest = last == UINT64_MAX || last < COMMENT_MAX ? 0 : last - COMMENT_MAX;

	if (last == UINT64_MAX)
		return UINT64_MAX;
	for (uint64_t at = last;; at--) {
		const uint8_t *p = zip->data + at;

		if (u32(p) == (uint32_t)END_SIGNATURE && at + END_BYTES + u16(p + 20) == zip->bytes)
			return at;
		if (at == lowest)
			return UINT64_MAX;
	}
}

static int read_end64(struct zipfile *zip, uint64_t locator_at, struct err *err)
{
	const uint8_t *locator = zip->data + locator_at;
	uint64_t at = u64(locator + 8);

	if (u32(locator + 4) != 0 || u32(locator + 16) > 1)
		return err_set(err, ERR_UNSUPPORTED, "%s: a zip archive in several parts", zip->path);
	if (at > locator_at || locator_at - at < END64_BYTES || u32(zip->data + at) != (uint32_t)END64_SIGNATURE)
		return damaged(zip, "its zip64 end record is missing", err);
	/* what fits the old record stands in both */
	if ((zip->directory_entries != UINT16_MAX && zip->directory_entries != u64(zip->data + at + 32)) ||
	    (zip->directory_bytes != UINT32_MAX && zip->directory_bytes != u64(zip->data + at + 40)) ||
	    (zip->directory_at != UINT32_MAX && zip->directory_at != u64(zip->data + at + 48)))
		return damaged(zip, "its two end records do not agree on the directory", err);
	zip->directory_entries = u64(zip->data + at + 32);
	zip->directory_bytes = u64(zip->data + at + 40);
	zip->directory_at = u64(zip->data + at + 48);
	return 0;
}

static int read_end(struct zipfile *zip, struct err *err)
{
	uint64_t at = find_end(zip);
	const uint8_t *p;
	int code = 0;

	if (at == UINT64_MAX)
		return err_set(err, ERR_FORMAT, "%s: truncated: the zip archive has no directory at its end; copy or download it again",
			       zip->path);
	p = zip->data + at;
	if (u16(p + 4) != 0 || u16(p + 6) != 0)
		return err_set(err, ERR_UNSUPPORTED, "%s: a zip archive in several parts", zip->path);
	zip->directory_entries = u16(p + 10);
	zip->directory_bytes = u32(p + 12);
	zip->directory_at = u32(p + 16);
	if (at >= LOCATOR64_BYTES && u32(p - LOCATOR64_BYTES) == (uint32_t)LOCATOR64_SIGNATURE)
		code = read_end64(zip, at - LOCATOR64_BYTES, err);
	if (code != 0)
		return code;
	if (zip->directory_at > at || zip->directory_bytes > at - zip->directory_at)
		return damaged(zip, "its directory lies outside of it", err);
	if (zip->directory_entries == 0)
		return damaged(zip, "it is empty", err);
	if (zip->directory_entries > zip->directory_bytes / CENTRAL_BYTES)
		return damaged(zip, "its directory is shorter than its entries", err);
	if (zip->directory_entries > ZIP_ENTRIES_MAX)
		return err_set(err, ERR_LIMIT, "%s: a zip archive of %llu entries; at most %d", zip->path,
			       (unsigned long long)zip->directory_entries, ZIP_ENTRIES_MAX);
	return 0;
}

/* ---- the directory ---- */

/* Sizes and offset that do not fit 32 bits stand in an extra field, in this order, each only where it is needed. */
static bool read_zip64(const uint8_t *extra, size_t bytes, uint64_t *values[3])
{
	bool needed = *values[0] == UINT32_MAX || *values[1] == UINT32_MAX || *values[2] == UINT32_MAX;

	while (needed && bytes >= 4) {
		size_t id = u16(extra), size = u16(extra + 2);

		if (size > bytes - 4)
			return false;
		extra += 4;
		bytes -= 4;
		if (id == EXTRA_ZIP64) {
			for (int i = 0; i < 3; i++) {
				if (*values[i] != UINT32_MAX)
					continue;
				if (size < 8)
					return false;
				*values[i] = u64(extra);
				extra += 8;
				size -= 8;
			}
			return true;
		}
		extra += size;
		bytes -= size;
	}
	return !needed;
}

/* Finds the data behind the local header, whose name must be the directory's. */
static int locate(const struct zipfile *zip, struct zip_entry *entry, struct err *err)
{
	uint64_t at = entry->header_at, left;
	size_t name_bytes = strlen(entry->name), skip;
	const uint8_t *local;

	if (at > zip->directory_at || zip->directory_at - at < LOCAL_BYTES)
		return damaged(zip, "an entry lies outside of it", err);
	local = zip->data + at;
	left = zip->directory_at - at - LOCAL_BYTES;
	skip = (size_t)u16(local + 26) + u16(local + 28);
	if (u32(local) != (uint32_t)LOCAL_SIGNATURE || skip > left || u16(local + 26) != name_bytes ||
	    memcmp(local + LOCAL_BYTES, entry->name, name_bytes) != 0)
		return damaged(zip, "directory and entries do not agree", err);
	if (entry->bytes > left - skip)
		return damaged(zip, "an entry reaches beyond its end", err);
	entry->data = local + LOCAL_BYTES + skip;
	return 0;
}

/* One entry of the directory at p, which has `left` bytes; *used: its length. */
static int read_entry(struct zipfile *zip, const uint8_t *p, uint64_t left, uint64_t *used, char *name, struct err *err)
{
	struct zip_entry *entry = &zip->entries[zip->count];
	uint64_t packed, *values[3] = { &entry->bytes, &packed, &entry->header_at };
	size_t name_bytes, extra_bytes;

	if (left < CENTRAL_BYTES || u32(p) != (uint32_t)CENTRAL_SIGNATURE)
		return damaged(zip, "its directory is not whole", err);
	name_bytes = u16(p + 28);
	extra_bytes = u16(p + 30);
	*used = CENTRAL_BYTES + name_bytes + extra_bytes + u16(p + 32);
	if (*used > left)
		return damaged(zip, "its directory is not whole", err);
	if (name_bytes > ZIP_NAME_MAX || memchr(p + CENTRAL_BYTES, 0, name_bytes) != NULL)
		return damaged(zip, "an entry has an impossible name", err);
	memcpy(name, p + CENTRAL_BYTES, name_bytes);
	name[name_bytes] = '\0';
	*entry = (struct zip_entry){ .name = name, .bytes = u32(p + 24), .crc = u32(p + 16), .header_at = u32(p + 42) };
	packed = u32(p + 20);
	if (!read_zip64(p + CENTRAL_BYTES + name_bytes, extra_bytes, values))
		return damaged(zip, "an entry lacks its 64-bit sizes", err);
	if (u16(p + 8) & FLAG_ENCRYPTED)
		return err_set(err, ERR_UNSUPPORTED, "%s: the zip entry %.200s is encrypted", zip->path, name);
	entry->packed = u16(p + 10) != 0;
	if (entry->packed)
		entry->bytes = packed;
	if (packed != entry->bytes)
		return damaged(zip, "an uncompressed entry has two sizes", err);
	zip->count++;
	return locate(zip, entry, err);
}

static int by_place(const void *a, const void *b)
{
	const struct zip_entry *x = a, *y = b;

	return x->header_at < y->header_at ? -1 : x->header_at > y->header_at;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct zip_entry *)a)->name, ((const struct zip_entry *)b)->name);
}

static int check_entries(struct zipfile *zip, struct err *err)
{
	qsort(zip->entries, (size_t)zip->count, sizeof(*zip->entries), by_place);
	for (int i = 0; i + 1 < zip->count; i++) {
		const struct zip_entry *entry = &zip->entries[i];

		if (entry->data + entry->bytes > zip->data + zip->entries[i + 1].header_at)
			return damaged(zip, "two entries overlap", err);
	}
	qsort(zip->entries, (size_t)zip->count, sizeof(*zip->entries), by_name);
	for (int i = 0; i + 1 < zip->count; i++)
		if (strcmp(zip->entries[i].name, zip->entries[i + 1].name) == 0)
			return err_set(err, ERR_FORMAT, "%s: two zip entries are called %.200s", zip->path, zip->entries[i].name);
	return 0;
}

static int read_directory(struct zipfile *zip, struct err *err)
{
	const uint8_t *p = zip->data + zip->directory_at;
	uint64_t left = zip->directory_bytes, used = 0, count = zip->directory_entries;
	char *name;
	int code = 0;

	/* every name stands in the directory, which leaves room for its zero byte */
	zip->entries = mem_array((size_t)count, sizeof(*zip->entries));
	zip->names = name = mem_alloc((size_t)left + 1);
	if (zip->entries == NULL || zip->names == NULL)
		return err_nomem(err, (size_t)count * sizeof(*zip->entries) + (size_t)left);
	for (uint64_t i = 0; code == 0 && i < count; i++, p += used, left -= used) {
		code = read_entry(zip, p, left, &used, name, err);
		name += code == 0 ? strlen(name) + 1 : 0;
	}
	return code == 0 ? check_entries(zip, err) : code;
}

int zip_open(struct zipfile **out, const char *path, const void *data, size_t bytes, struct err *err)
{
	struct zipfile *zip = mem_zalloc(sizeof(*zip));
	int code;

	*out = NULL;
	if (zip == NULL)
		return err_nomem(err, sizeof(*zip));
	zip->path = path;
	zip->data = data;
	zip->bytes = bytes;
	crc_tables(zip);
	if ((code = read_end(zip, err)) != 0 || (code = read_directory(zip, err)) != 0) {
		zip_close(zip);
		return code;
	}
	*out = zip;
	return 0;
}

void zip_close(struct zipfile *zip)
{
	if (zip == NULL)
		return;
	mem_free(zip->entries);
	mem_free(zip->names);
	mem_free(zip);
}

int zip_count(const struct zipfile *zip)
{
	return zip->count;
}

struct zip_entry *zip_at(struct zipfile *zip, int index)
{
	CHECK(index >= 0 && index < zip->count);
	return &zip->entries[index];
}

struct zip_entry *zip_find(struct zipfile *zip, const char *name)
{
	int low = 0, high = zip->count;

	while (low < high) {
		int middle = low + (high - low) / 2, order = strcmp(name, zip->entries[middle].name);

		if (order == 0)
			return &zip->entries[middle];
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return NULL;
}
