#include <assert.h>
#include <string.h>

#include "preprocessd/dataset/blob.h"
#include "shared/base/mem.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "manifests are little-endian and read in place"
#endif

#define BLOB_MAGIC "manifest"
#define VERSION_DOMAIN "preprocessd manifest 1"

enum { BLOB_LAYOUT = 1, SECTION_ALIGN = 8 };

struct blob_header {
	char magic[8];           /*  0 */
	uint32_t layout;         /*  8 */
	uint32_t reserved;       /* 12 */
	struct hash version;     /* 16 */
	uint32_t pictures;       /* 48 */
	uint32_t captions;       /* 52 */
	uint32_t splits;         /* 56 */
	uint32_t labels;         /* 60 */
	uint32_t groups;         /* 64 */
	uint32_t reserved2;      /* 68 */
	uint64_t source_bytes;   /* 72 */
	uint64_t caption_bytes;  /* 80 */
	uint64_t name_bytes;     /* 88 */
};
static_assert(sizeof(struct blob_header) == 96, "manifest header");
static_assert(offsetof(struct blob_header, version) == 16, "manifest header");
static_assert(offsetof(struct blob_header, pictures) == 48, "manifest header");
static_assert(offsetof(struct blob_header, source_bytes) == 72, "manifest header");
static_assert(MANIFEST_SPLITS_MAX <= 64, "a part is a 64-bit set of splits");

/* --- layout ------------------------------------------------------------------------ */

static int check_counts(const struct blob_counts *n, struct err *err)
{
	if (n->pictures > MANIFEST_PICTURES_MAX || n->captions > MANIFEST_CAPTIONS_MAX || n->splits > MANIFEST_SPLITS_MAX ||
	    n->labels > MANIFEST_LABELS_MAX || n->groups > n->pictures)
		return err_set(err, ERR_LIMIT, "a data set of %u pictures, %u captions, %u splits, %u labels and %u groups; at most "
			       "%d, %d, %d and %d are allowed, and no more groups than pictures", n->pictures, n->captions,
			       n->splits, n->labels, n->groups, MANIFEST_PICTURES_MAX, MANIFEST_CAPTIONS_MAX, MANIFEST_SPLITS_MAX,
			       MANIFEST_LABELS_MAX);
	/* Far above anything real and far below where sums could wrap. */
	if (n->source_bytes >> 48 != 0 || n->caption_bytes >> 48 != 0 || n->name_bytes >> 48 != 0)
		return err_set(err, ERR_LIMIT, "a data set with more than 2^48 bytes of text");
	return 0;
}

enum section {
	PICTURE_HASH, SOURCE_AT, CAPTION_AT, PICTURE_LABEL, PICTURE_GROUP, CAPTION_PICTURE, CAPTIONS_OF_AT, CAPTIONS_OF,
	PICTURE_SPLIT, NAME_TEXT, SOURCE_TEXT, CAPTION_TEXT, SECTION_COUNT
};

/* Where each section begins; returns the size of all. */
static size_t lay_out(const struct blob_counts *n, size_t begins[SECTION_COUNT])
{
	size_t p = n->pictures, c = n->captions;
	const size_t bytes[SECTION_COUNT] = {
		[PICTURE_HASH] = p * sizeof(struct hash), [SOURCE_AT] = (p + 1) * 8, [CAPTION_AT] = (c + 1) * 8,
		[PICTURE_LABEL] = p * 4, [PICTURE_GROUP] = p * 4, [CAPTION_PICTURE] = c * 4, [CAPTIONS_OF_AT] = (p + 1) * 4,
		[CAPTIONS_OF] = c * 4, [PICTURE_SPLIT] = p, [NAME_TEXT] = n->name_bytes, [SOURCE_TEXT] = n->source_bytes,
		[CAPTION_TEXT] = n->caption_bytes,
	};
	size_t at = sizeof(struct blob_header);

	for (int i = 0; i < SECTION_COUNT; i++) {
		begins[i] = at;
		at = size_round_up(at + bytes[i], SECTION_ALIGN);
	}
	return at;
}

static void set_pointers(struct blob *b, const size_t begins[SECTION_COUNT])
{
	b->picture_hash = (struct hash *)(b->bytes + begins[PICTURE_HASH]);
	b->source_at = (uint64_t *)(b->bytes + begins[SOURCE_AT]);
	b->caption_at = (uint64_t *)(b->bytes + begins[CAPTION_AT]);
	b->picture_label = (int32_t *)(b->bytes + begins[PICTURE_LABEL]);
	b->picture_group = (uint32_t *)(b->bytes + begins[PICTURE_GROUP]);
	b->caption_picture = (uint32_t *)(b->bytes + begins[CAPTION_PICTURE]);
	b->captions_of_at = (uint32_t *)(b->bytes + begins[CAPTIONS_OF_AT]);
	b->captions_of = (uint32_t *)(b->bytes + begins[CAPTIONS_OF]);
	b->picture_split = b->bytes + begins[PICTURE_SPLIT];
	b->name_text = (char *)b->bytes + begins[NAME_TEXT];
	b->source_text = (char *)b->bytes + begins[SOURCE_TEXT];
	b->caption_text = (char *)b->bytes + begins[CAPTION_TEXT];
}

static void set_view(struct blob *b, const struct blob_counts *n)
{
	b->view = (struct manifest){
		.version = ((const struct blob_header *)b->bytes)->version,
		.picture_count = n->pictures,
		.caption_count = n->captions,
		.split_count = n->splits,
		.label_count = n->labels,
		.group_count = n->groups,
		.picture_hash = b->picture_hash,
		.source_at = b->source_at,
		.source_text = b->source_text,
		.picture_split = b->picture_split,
		.picture_label = b->picture_label,
		.picture_group = b->picture_group,
		.caption_picture = b->caption_picture,
		.caption_at = b->caption_at,
		.caption_text = b->caption_text,
		.captions_of_at = b->captions_of_at,
		.captions_of = b->captions_of,
		.split_name = b->names,
		.label_name = b->names + n->splits,
	};
}

int blob_open(struct blob **out, const struct blob_counts *n, struct err *err)
{
	size_t begins[SECTION_COUNT];
	int code = check_counts(n, err);
	struct blob *b;

	*out = NULL;
	if (code != 0)
		return code;
	size_t size = lay_out(n, begins);
	if ((b = mem_zalloc(sizeof(*b))) == NULL)
		return err_nomem(err, sizeof(*b));
	b->size = size;
	b->bytes = mem_aligned(size);
	b->names = mem_array((size_t)n->splits + n->labels + 1, sizeof(*b->names));
	if (b->bytes == NULL || b->names == NULL) {
		manifest_free(&b->view);
		return err_nomem(err, size);
	}
	memset(b->bytes, 0, size);
	set_pointers(b, begins);
	struct blob_header header = {
		.magic = BLOB_MAGIC, .layout = BLOB_LAYOUT, .pictures = n->pictures, .captions = n->captions,
		.splits = n->splits, .labels = n->labels, .groups = n->groups, .source_bytes = n->source_bytes,
		.caption_bytes = n->caption_bytes, .name_bytes = n->name_bytes,
	};
	memcpy(b->bytes, &header, sizeof(header));
	set_view(b, n);
	*out = b;
	return 0;
}

void manifest_free(struct manifest *manifest)
{
	struct blob *b = (struct blob *)manifest;

	if (b == NULL)
		return;
	mem_free(b->names);
	mem_free(b->bytes);
	mem_free(b);
}

/* --- building ------------------------------------------------------------------------- */

void blob_group_captions(struct blob *b)
{
	uint32_t p = b->view.picture_count, c = b->view.caption_count;

	memset(b->captions_of_at, 0, ((size_t)p + 1) * sizeof(uint32_t));
	for (uint32_t i = 0; i < c; i++)
		b->captions_of_at[b->caption_picture[i] + 1]++;
	for (uint32_t i = 0; i < p; i++)
		b->captions_of_at[i + 1] += b->captions_of_at[i];
	/* Filling moves each begin to the next one's; moving them back is cheaper than a copy. */
	for (uint32_t i = 0; i < c; i++)
		b->captions_of[b->captions_of_at[b->caption_picture[i]]++] = i;
	for (uint32_t i = p; i > 0; i--)
		b->captions_of_at[i] = b->captions_of_at[i - 1];
	b->captions_of_at[0] = 0;
}

bool blob_find_names(struct blob *b)
{
	const struct blob_header *header = (const struct blob_header *)b->bytes;
	const char *at = b->name_text, *end = at + header->name_bytes;

	for (uint32_t i = 0; i < header->splits + header->labels; i++) {
		const char *stop = at == end ? NULL : memchr(at, '\0', (size_t)(end - at));

		if (stop == NULL)
			return false;
		b->names[i] = at;
		at = stop + 1;
	}
	return at == end;
}

static int compute_version(const struct blob *b, struct hash *out, struct err *err)
{
	const struct manifest *m = &b->view;
	const struct blob_header *header = (const struct blob_header *)b->bytes;
	struct hash_stream *stream;
	int code = hash_stream_open(&stream, err);

	if (code != 0)
		return code;
	size_t p = m->picture_count, c = m->caption_count;
	hash_stream_add_field(stream, VERSION_DOMAIN, strlen(VERSION_DOMAIN));
	hash_stream_add_u64(stream, m->split_count);
	hash_stream_add_u64(stream, m->label_count);
	hash_stream_add_u64(stream, m->group_count);
	hash_stream_add_field(stream, b->name_text, header->name_bytes);
	hash_stream_add_field(stream, m->picture_hash, p * sizeof(struct hash));
	hash_stream_add_field(stream, m->picture_split, p);
	hash_stream_add_field(stream, m->picture_label, p * 4);
	hash_stream_add_field(stream, m->picture_group, p * 4);
	hash_stream_add_field(stream, m->caption_picture, c * 4);
	hash_stream_add_field(stream, m->caption_at, (c + 1) * 8);
	hash_stream_add_field(stream, m->caption_text, header->caption_bytes);
	hash_stream_final(stream, out);
	return 0;
}

int blob_set_version(struct blob *b, struct err *err)
{
	int code = compute_version(b, &b->view.version, err);

	if (code == 0)
		((struct blob_header *)b->bytes)->version = b->view.version;
	return code;
}

/* --- in and out ---------------------------------------------------------------------------- */

int manifest_encode(const struct manifest *manifest, struct buf *out, struct err *err)
{
	const struct blob *b = (const struct blob *)manifest;

	return buf_add(out, b->bytes, b->size, err);
}

static int corrupt(struct err *err, const char *what)
{
	return err_set(err, ERR_CORRUPT, "a damaged manifest: %s", what);
}

/* Offsets that begin at 0, never fall and end at the text's end. */
static bool rises(const uint64_t *at, uint64_t count, uint64_t end)
{
	if (at[0] != 0 || at[count] != end)
		return false;
	for (uint64_t i = 0; i < count; i++)
		if (at[i] > at[i + 1])
			return false;
	return true;
}

static int check_pictures(const struct blob *b, struct err *err)
{
	const struct manifest *m = &b->view;
	const struct blob_header *header = (const struct blob_header *)b->bytes;

	if (!rises(m->source_at, m->picture_count, header->source_bytes))
		return corrupt(err, "the offsets of its paths");
	for (uint32_t p = 0; p < m->picture_count; p++) {
		uint64_t begin = m->source_at[p], end = m->source_at[p + 1];

		if (begin == end || memchr(m->source_text + begin, '\0', end - begin) != m->source_text + end - 1)
			return corrupt(err, "a path without its end");
		if (m->picture_split[p] >= m->split_count)
			return corrupt(err, "a split that is not there");
		if (m->picture_label[p] < -1 || m->picture_label[p] >= (int64_t)m->label_count)
			return corrupt(err, "a label that is not there");
		if (m->picture_group[p] >= m->group_count)
			return corrupt(err, "a group that is not there");
	}
	return 0;
}

static int check_captions(const struct blob *b, struct err *err)
{
	const struct manifest *m = &b->view;
	const struct blob_header *header = (const struct blob_header *)b->bytes;

	if (!rises(m->caption_at, m->caption_count, header->caption_bytes))
		return corrupt(err, "the offsets of its captions");
	for (uint32_t c = 0; c < m->caption_count; c++)
		if (m->caption_picture[c] >= m->picture_count)
			return corrupt(err, "a caption of a picture that is not there");
	if (m->captions_of_at[0] != 0 || m->captions_of_at[m->picture_count] != m->caption_count)
		return corrupt(err, "the captions of its pictures");
	for (uint32_t p = 0; p < m->picture_count; p++) {
		uint32_t begin = m->captions_of_at[p], end = m->captions_of_at[p + 1];

		if (begin >= end || end > m->caption_count)
			return corrupt(err, "a picture without captions");
		for (uint32_t i = begin; i < end; i++) {
			uint32_t c = m->captions_of[i];

			if (c >= m->caption_count || m->caption_picture[c] != p || (i > begin && c <= m->captions_of[i - 1]))
				return corrupt(err, "the captions of a picture");
		}
	}
	return 0;
}

int blob_decode(struct blob **out, const void *bytes, size_t size, struct hash *version, struct err *err)
{
	struct blob_header header;
	size_t begins[SECTION_COUNT];
	struct blob *b = NULL;
	int code;

	*out = NULL;
	if (size < sizeof(header))
		return corrupt(err, "it is shorter than its header");
	memcpy(&header, bytes, sizeof(header));
	if (memcmp(header.magic, BLOB_MAGIC, sizeof(header.magic)) != 0)
		return corrupt(err, "it does not begin as one");
	if (header.layout != BLOB_LAYOUT)
		return err_set(err, ERR_CORRUPT, "a manifest of layout %u, this version knows %d; add the data set again",
			       header.layout, BLOB_LAYOUT);
	struct blob_counts counts = { header.pictures, header.captions, header.splits, header.labels, header.groups,
				      header.source_bytes, header.caption_bytes, header.name_bytes };
	/* The size is checked before memory of that size is asked for. */
	if ((code = check_counts(&counts, err)) != 0)
		return corrupt(err, "its counts are beyond the limits");
	if (lay_out(&counts, begins) != size)
		return corrupt(err, "its length differs from what its counts say");
	if ((code = blob_open(&b, &counts, err)) != 0)
		return code;
	memcpy(b->bytes, bytes, size);
	b->view.version = header.version;
	if (!blob_find_names(b))
		code = corrupt(err, "the names of its splits and labels");
	if (code == 0)
		code = check_pictures(b, err);
	if (code == 0)
		code = check_captions(b, err);
	if (code == 0)
		code = compute_version(b, version, err);
	if (code != 0)
		manifest_free(&b->view);
	else
		*out = b;
	return code;
}

int manifest_decode(struct manifest **out, const void *bytes, size_t size, struct err *err)
{
	struct hash version;
	struct blob *b;
	int code = blob_decode(&b, bytes, size, &version, err);

	*out = NULL;
	if (code != 0)
		return code;
	if (!hash_equal(&version, &b->view.version)) {
		manifest_free(&b->view);
		return corrupt(err, "its content differs from its version");
	}
	*out = &b->view;
	return 0;
}
