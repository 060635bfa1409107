#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "preprocessd/dataset/reader.h"
#include "shared/base/mem.h"
#include "shared/base/utf8.h"

const char *const usual_image_names[] = { "image", "file", "filename", "file_name", "image_file", "image_name", "image_path",
					  "img", "img_path", "filepath", "path", "picture", "photo", NULL };
const char *const usual_caption_names[] = { "caption", "captions", "text", "sentence", "raw", "description", "comment", NULL };
const char *const usual_label_names[] = { "label", "class", "category", NULL };
const char *const usual_split_names[] = { "split", "subset", "partition", NULL };
const char *const usual_group_names[] = { "group", NULL };

/* --- items ------------------------------------------------------------------------- */

void item_clear(struct item *item)
{
	buf_clear(&item->image);
	buf_clear(&item->folder);
	buf_clear(&item->split);
	buf_clear(&item->label);
	buf_clear(&item->group);
	buf_clear(&item->texts);
	item->has_image = item->has_folder = item->has_split = item->has_label = item->has_group = false;
	item->caption_count = 0;
}

void item_free(struct item *item)
{
	buf_free(&item->image);
	buf_free(&item->folder);
	buf_free(&item->split);
	buf_free(&item->label);
	buf_free(&item->group);
	buf_free(&item->texts);
	mem_free(item->ends);
	*item = (struct item){ 0 };
}

int item_add_caption(struct item *item, const char *text, size_t bytes, struct err *err)
{
	int code;

	if (item->caption_count == item->caption_capacity) {
		uint32_t capacity = item->caption_capacity == 0 ? 8 : 2 * item->caption_capacity;
		size_t *grown = mem_realloc_array(item->ends, capacity, sizeof(*grown));

		if (grown == NULL)
			return err_nomem(err, capacity * sizeof(*grown));
		item->ends = grown;
		item->caption_capacity = capacity;
	}
	if ((code = buf_add(&item->texts, text, bytes, err)) != 0)
		return code;
	item->ends[item->caption_count++] = item->texts.size;
	return 0;
}

/* --- messages ------------------------------------------------------------------------ */

int reader_fail(const struct reader *reader, uint32_t number, struct err *err, const char *format, ...)
{
	char message[ERR_MESSAGE_BYTES];
	char place[LISTING_PLACE_BYTES];
	va_list args;

	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	listing_place(reader->listing, (struct place){ reader->file, number }, place);
	return err_set(err, ERR_FORMAT, "%s: %s", place, message);
}

int reader_bad_item(struct reader *reader, uint32_t number, struct err *err, const char *format, ...)
{
	char message[ERR_MESSAGE_BYTES];
	char place[LISTING_PLACE_BYTES];
	va_list args;

	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	listing_place(reader->listing, (struct place){ reader->file, number }, place);
	if (reader->listing->skip_bad)
		return listing_add_failure(reader->listing, place, message, err);
	return err_set(err, ERR_FORMAT, "%s: %s, or leave it out with --on-bad skip", place, message);
}

/* --- finding pictures ------------------------------------------------------------------ */

/* Appends a relative path without "." and empty components; ".." stays: what it means
 * depends on links. */
static int add_components(struct buf *path, const char *name, size_t bytes, struct err *err)
{
	size_t at = 0;
	int code = 0;

	while (at < bytes && code == 0) {
		const char *slash = memchr(name + at, '/', bytes - at);
		size_t length = slash == NULL ? bytes - at : (size_t)(slash - name) - at;

		if (length > 0 && !(length == 1 && name[at] == '.')) {
			code = buf_add_byte(path, '/', err);
			if (code == 0)
				code = buf_add(path, name + at, length, err);
		}
		at += length + 1;
	}
	return code;
}

/* reader->path cannot be looked at, for a reason that says nothing about the picture. With the daemon's own rights the folder
 * that refuses is named; what another user may not see is not told. */
static int cannot_look(struct reader *reader, int why, struct err *err)
{
	const struct rights *rights = reader->folders->rights;
	char *path = reader->path.data, *slash;
	struct stat info;

	if (rights != NULL && !rights->all && why == EACCES)
		return err_set(err, ERR_IO, "%.400s: is no file that user %u may read: Permission denied (its mode and that of every folder "
			       "above it count)", path, rights->uid);
	if (why != EACCES || lstat(path, &info) == 0)
		return err_errno(err, why, "%.400s", path);
	do {
		slash = strrchr(path, '/');
		*slash = '\0';
	} while (slash != path && stat(path, &info) != 0);
	return err_errno(err, why, "the folder %.400s", slash == path ? "/" : path);
}

/* *there: folder/inner/name is a regular file; its path is in reader->path. An absolute name
 * stands for itself. */
static int try_path(struct reader *reader, const char *folder, const struct buf *inner, const char *name, size_t bytes,
		    bool *there, struct err *err)
{
	struct buf *path = &reader->path;
	int code = 0, why;

	*there = false;
	buf_clear(path);
	if (bytes == 0 || memchr(name, '\0', bytes) != NULL)
		return 0;
	if (name[0] != '/' && strcmp(folder, "/") != 0)
		code = buf_add_text(path, folder, err);
	if (code == 0 && name[0] != '/' && inner != NULL)
		code = add_components(path, inner->data, inner->size, err);
	if (code == 0)
		code = add_components(path, name, bytes, err);
	if (code != 0 || path->size == 0 || path->size >= LISTING_PATH_BYTES)
		return code;
	why = reader->folders->trust ? 0 : rights_find_file(reader->folders->rights, path->data);
	switch (why) {
	case 0:
		*there = true;
		return 0;
	case ENOENT:
	case ENOTDIR:
		return 0;
	case EISDIR:
	case ELOOP:
	case ENAMETOOLONG:
	case RIGHTS_NO_FILE:
		if (reader->no_file == 0)
			reader->no_file = why;
		return 0;
	default:
		return cannot_look(reader, why, err);
	}
}

/* Bytes of name without a "#3" at its end: Flickr8k numbers its captions so. */
static size_t without_number(const char *name, size_t bytes)
{
	size_t at = bytes;

	while (at > 0 && name[at - 1] >= '0' && name[at - 1] <= '9')
		at--;
	return at > 1 && at < bytes && name[at - 1] == '#' ? at - 1 : bytes;
}

static int find_in_folders(struct reader *reader, int16_t split, const struct buf *inner, const char *name, size_t bytes,
			   bool *there, struct err *err)
{
	const struct folders *folders = reader->folders;

	*there = false;
	/* Folders of this split first, then those of every split. */
	for (int pass = 0; pass < 2; pass++) {
		for (int i = 0; i < folders->count; i++) {
			const struct folder *folder = &folders->items[i];
			int code = 0;

			if (pass == 0 ? split == NO_SPLIT || folder->split != split : folder->split != NO_SPLIT)
				continue;
			if (inner != NULL)
				code = try_path(reader, folder->path, inner, name, bytes, there, err);
			if (code == 0 && !*there)
				code = try_path(reader, folder->path, NULL, name, bytes, there, err);
			if (code != 0 || *there)
				return code;
		}
	}
	return 0;
}

int reader_find_picture(struct reader *reader, int16_t split, const struct buf *inner, const char *name, size_t bytes, bool *there,
			struct err *err)
{
	size_t shorter = without_number(name, bytes);
	int code;

	reader->no_file = 0;
	code = find_in_folders(reader, split, inner, name, bytes, there, err);
	if (code == 0 && !*there && shorter < bytes)
		code = find_in_folders(reader, split, inner, name, shorter, there, err);
	return code;
}

int reader_has_picture(struct reader *reader, const char *name, size_t bytes, bool *has, struct err *err)
{
	int code = 0;

	*has = false;
	for (int i = 0; i < reader->folders->count && !*has && code == 0; i++)
		code = reader_find_picture(reader, reader->folders->items[i].split, NULL, name, bytes, has, err);
	return code;
}

bool reader_looks_like_picture(const char *name, size_t bytes)
{
	static const char *const ends[] = { ".jpg", ".jpeg", ".jpe", ".mpo" };

	bytes = without_number(name, bytes);
	for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
		size_t length = strlen(ends[i]);

		if (bytes > length && strncasecmp(name + bytes - length, ends[i], length) == 0)
			return true;
	}
	return false;
}

size_t reader_number_bytes(const char *text, size_t bytes)
{
	size_t at = bytes > 0 && text[0] == '-', digits = at, end;

	while (at < bytes && text[at] >= '0' && text[at] <= '9')
		at++;
	if (at == digits || at == bytes || text[at] != '.')
		return bytes;
	for (end = at + 1; end < bytes && text[end] == '0'; end++)
		;
	return end == bytes && end > at + 1 ? at : bytes;
}

/* --- pictures into the listing ------------------------------------------------------------- */

static int conflict(const struct reader *reader, const struct item *item, struct place before, const char *what,
		    const char *here, const char *there, const char *remedy, struct err *err)
{
	char place[LISTING_PLACE_BYTES];

	listing_place(reader->listing, before, place);
	return reader_fail(reader, item->number, err, "picture %.200s has %s \"%.80s\" here and \"%.80s\" at %.300s; %s",
			   item->image.data, what, here, there, place, remedy);
}

static int merge_split(struct reader *reader, const struct item *item, struct picture *picture, int16_t split, struct err *err)
{
	const struct strings *names = &reader->listing->splits;

	if (picture->split == split)
		return 0;
	if (picture->split == NO_SPLIT || split == NO_SPLIT)
		return reader_fail(reader, item->number, err, "picture %.200s is in a split in one file and in none in another",
				   item->image.data);
	return conflict(reader, item, picture->place, "the split", strings_at(names, (uint32_t)split),
			strings_at(names, (uint32_t)picture->split), "a picture can be in one split only", err);
}

/* A label or a group: the first one counts, another one is an error. */
static int merge_name(struct reader *reader, const struct item *item, struct strings *names, const struct buf *text, bool label,
		      int32_t *current, struct place *place, struct err *err)
{
	uint32_t index;
	int code;

	if (text->size > MANIFEST_LABEL_BYTES_MAX || memchr(text->data, '\0', text->size) != NULL ||
	    utf8_valid_bytes(text->data, text->size) < text->size)
		return reader_fail(reader, item->number, err, "a %s must be valid UTF-8 without zero bytes, at most %d bytes long",
				   label ? "label" : "group", MANIFEST_LABEL_BYTES_MAX);
	if ((code = strings_add(names, text->data, text->size, &index, NULL, err)) != 0)
		return code;
	if (label && names->count > MANIFEST_LABELS_MAX)
		return err_set(err, ERR_LIMIT, "%s: more than %d different labels", reader->name, MANIFEST_LABELS_MAX);
	if (label && names->text.size > MANIFEST_LABEL_BYTES_SUM_MAX)
		return reader_fail(reader, item->number, err, "the %u different labels up to here have more than %d MiB of text in all; are "
				   "these labels? (--columns IMAGE,CAPTION leaves them out)", names->count, MANIFEST_LABEL_BYTES_SUM_MAX >> 20);
	if (*current < 0) {
		*current = (int32_t)index;
		*place = (struct place){ reader->file, item->number };
		return 0;
	}
	if (*current == (int32_t)index)
		return 0;
	return conflict(reader, item, *place, label ? "the label" : "the group", text->data, strings_at(names, (uint32_t)*current),
			label ? "a picture has one label (--columns IMAGE,CAPTION leaves labels out)" : "a picture is in one group",
			err);
}

static int grow_pictures(struct listing *listing, struct err *err)
{
	uint32_t capacity = listing->picture_capacity == 0 ? 64 : 2 * listing->picture_capacity;

	if (listing->picture_count < listing->picture_capacity)
		return 0;
	if (listing->picture_count >= MANIFEST_PICTURES_MAX)
		return err_set(err, ERR_LIMIT, "more than %d pictures", MANIFEST_PICTURES_MAX);
	struct picture *grown = mem_realloc_array(listing->pictures, capacity, sizeof(*grown));
	if (grown == NULL)
		return err_nomem(err, capacity * sizeof(*grown));
	listing->pictures = grown;
	listing->picture_capacity = capacity;
	return 0;
}

/* The picture of this path, or of what stands for one. */
static int add_picture(struct reader *reader, const struct item *item, int16_t split, const char *path, size_t bytes, uint32_t *picture,
		       bool *added, struct err *err)
{
	struct listing *listing = reader->listing;
	int code = grow_pictures(listing, err);

	if (code == 0)
		code = strings_add(&listing->paths, path, bytes, picture, added, err);
	if (code != 0 || !*added)
		return code;
	listing->pictures[*picture] = (struct picture){
		.place = { reader->file, item->number }, .label = -1, .group = -1, .split = split, .state = PICTURE_LISTED,
	};
	listing->picture_count++;
	return 0;
}

/* A missing one is listed, too: others are drawn as if it were there. What it is remembered by is no path, for it has a zero byte in it. */
static int add_missing(struct reader *reader, const struct item *item, int16_t split, uint32_t *picture, struct err *err)
{
	size_t bytes = reader->key.size - item->image.size + without_number(item->image.data, item->image.size);
	bool added;
	int code = add_picture(reader, item, split, reader->key.data, bytes, picture, &added, err);

	return code != 0 || !added ? code : missing_note(reader, item, &reader->listing->pictures[*picture], err);
}

static int at_item(const struct reader *reader, const struct item *item, int code, struct err *err)
{
	char place[LISTING_PLACE_BYTES];

	if (code == ERR_NOMEM)
		return code;
	listing_place(reader->listing, (struct place){ reader->file, item->number }, place);
	return err_prefix(err, "%.300s", place);
}

/* The picture of a name that this file has not had before. */
static int add_name(struct reader *reader, const struct item *item, int16_t split, uint32_t *picture, struct err *err)
{
	bool there, added;
	int code = reader_find_picture(reader, split, item->has_folder ? &item->folder : NULL, item->image.data, item->image.size, &there, err);

	if (code != 0)
		return at_item(reader, item, code, err);
	if (!there)
		return add_missing(reader, item, split, picture, err);
	return add_picture(reader, item, split, reader->path.data, reader->path.size, picture, &added, err);
}

static int split_of_item(struct reader *reader, const struct item *item, int16_t *split, struct err *err)
{
	struct err reason;
	int code;

	*split = reader->default_split;
	if (reader->by_ratio && item->has_split)
		return reader_fail(reader, item->number, err, "this says split \"%.*s\", so --split cannot be given; leave it out",
				   (int)(item->split.size > 80 ? 80 : item->split.size), item->split.data);
	if (reader->file_split != NO_SPLIT)
		*split = reader->file_split;
	else if (item->has_split && (code = listing_split(reader->listing, item->split.data, item->split.size, split, &reason)) != 0)
		return reader_fail(reader, item->number, err, "%s", reason.message);
	return 0;
}

/* The same name in another split may be another file: both are part of what is remembered. */
static int remember_name(struct reader *reader, const struct item *item, int16_t split, uint32_t *name, bool *added,
			 struct err *err)
{
	struct buf *key = &reader->key;
	int code;

	buf_clear(key);
	if ((code = buf_add_byte(key, (char)(split + 1), err)) != 0 ||
	    (item->has_folder && (code = buf_add(key, item->folder.data, item->folder.size, err)) != 0) ||
	    (code = buf_add_byte(key, '\0', err)) != 0 || (code = buf_add(key, item->image.data, item->image.size, err)) != 0 ||
	    (code = strings_add(&reader->names, key->data, key->size, name, added, err)) != 0)
		return code;
	if (reader->names.count > reader->name_capacity) {
		uint32_t capacity = reader->names.capacity;
		uint32_t *grown = mem_realloc_array(reader->name_picture, capacity, sizeof(*grown));

		if (grown == NULL)
			return err_nomem(err, capacity * sizeof(*grown));
		reader->name_picture = grown;
		reader->name_capacity = capacity;
	}
	return 0;
}

/* Only the picture; *picture is NO_PICTURE where the item is left out. */
static int find_or_add_picture(struct reader *reader, const struct item *item, uint32_t *picture, struct err *err)
{
	struct listing *listing = reader->listing;
	uint32_t name;
	int16_t split;
	bool added;
	int code;

	*picture = NO_PICTURE;
	if (item->image.size == 0)
		return reader_bad_item(reader, item->number, err, "the picture's name is empty; fill it in");
	if (memchr(item->image.data, '\0', item->image.size) != NULL ||
	    (item->has_folder && item->folder.size > 0 && memchr(item->folder.data, '\0', item->folder.size) != NULL))
		return reader_bad_item(reader, item->number, err, "the picture's name %.80s... has a zero byte in it, which no file's name has; "
				       "mend it", item->image.data);
	if ((code = split_of_item(reader, item, &split, err)) != 0 ||
	    (code = remember_name(reader, item, split, &name, &added, err)) != 0)
		return code;
	if (added && (code = add_name(reader, item, split, &reader->name_picture[name], err)) != 0)
		return code;
	*picture = reader->name_picture[name];
	struct picture *p = &listing->pictures[*picture];
	if (p->state == PICTURE_MISSING)
		return 0;
	if ((code = merge_split(reader, item, p, split, err)) != 0)
		return code;
	if (item->has_label)
		code = merge_name(reader, item, &listing->labels, &item->label, true, &p->label, &p->label_place, err);
	if (code == 0 && item->has_group)
		code = merge_name(reader, item, &listing->groups, &item->group, false, &p->group, &p->group_place, err);
	return code;
}

/* --- captions ---------------------------------------------------------------------------------- */

static int grow_captions(struct listing *listing, struct err *err)
{
	uint32_t capacity = listing->caption_capacity == 0 ? 256 : 2 * listing->caption_capacity;

	if (listing->caption_count < listing->caption_capacity)
		return 0;
	if (listing->caption_count >= MANIFEST_CAPTIONS_MAX)
		return err_set(err, ERR_LIMIT, "more than %d captions", MANIFEST_CAPTIONS_MAX);
	struct caption *grown = mem_realloc_array(listing->captions, capacity, sizeof(*grown));
	if (grown == NULL)
		return err_nomem(err, capacity * sizeof(*grown));
	listing->captions = grown;
	listing->caption_capacity = capacity;
	return 0;
}

/* As json.h hands on an escaped half of a pair. */
static bool is_surrogate(const char *text, size_t bytes)
{
	return bytes >= 3 && (unsigned char)text[0] == 0xED && ((unsigned char)text[1] & 0xE0) == 0xA0 &&
	       ((unsigned char)text[2] & 0xC0) == 0x80;
}

static int add_caption(struct reader *reader, uint32_t picture, uint32_t number, const char *text, size_t bytes, struct err *err)
{
	struct listing *listing = reader->listing;
	size_t valid = utf8_valid_bytes(text, bytes);
	int code;

	if (is_surrogate(text + valid, bytes - valid))
		return reader_bad_item(reader, number, err, "the caption has half of a surrogate pair at its byte %zu (\\u%04x in JSON), "
				       "which is no character; mend it where the file was written", valid + 1,
				       0xD000u | ((unsigned)text[valid + 1] & 0x3F) << 6 | ((unsigned)text[valid + 2] & 0x3F));
	if (valid < bytes)
		return reader_bad_item(reader, number, err, "the caption is no valid UTF-8 at its byte %zu (0x%02x); re-encode the "
				       "file as UTF-8, for example with iconv -f LATIN1 -t UTF-8", valid + 1,
				       (unsigned char)text[valid]);
	if (bytes > MANIFEST_CAPTION_BYTES_MAX)
		return reader_bad_item(reader, number, err, "a caption of %zu bytes, at most %d are allowed; shorten it", bytes,
				       MANIFEST_CAPTION_BYTES_MAX);
	if (picture == NO_PICTURE)
		return 0;
	if ((code = grow_captions(listing, err)) != 0 || (code = buf_add(&listing->caption_text, text, bytes, err)) != 0)
		return code;
	listing->captions[listing->caption_count++] = (struct caption){
		.end = listing->caption_text.size, .picture = picture, .place = { reader->file, number },
	};
	return 0;
}

int reader_item(struct reader *reader, const struct item *item, struct err *err)
{
	uint32_t picture;
	size_t begin = 0;
	int code = find_or_add_picture(reader, item, &picture, err);

	for (uint32_t i = 0; i < item->caption_count && code == 0; i++) {
		code = add_caption(reader, picture, item->number, item->texts.data + begin, item->ends[i] - begin, err);
		begin = item->ends[i];
	}
	return code;
}

void reader_close(struct reader *reader)
{
	strings_free(&reader->names);
	mem_free(reader->name_picture);
	buf_free(&reader->key);
	buf_free(&reader->path);
}
