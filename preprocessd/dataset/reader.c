#include "preprocessd/dataset/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/base/fs.h"
#include "shared/base/mem.h"
#include "shared/base/plural.h"

struct reading {
	struct listing *listing;
	const struct reader_options *options;
	const char *format;
	reader_format read;
	struct folders folders;
	char *columns_text;
	const char *columns[COLUMN_COUNT];
};

/* --- options ---------------------------------------------------------------------- */

/* [SPLIT=]PATH: a prefix is one only if the whole names nothing that exists. */
static int cut_prefix(struct listing *listing, const char *text, const char **path, int16_t *split, struct err *err)
{
	const char *equals = strchr(text, '=');

	*path = text;
	*split = NO_SPLIT;
	if (equals == NULL || !listing_is_name(text, (size_t)(equals - text)) || fs_exists(text))
		return 0;
	*path = equals + 1;
	return listing_split(listing, text, (size_t)(equals - text), split, err);
}

static int find_format(struct reading *reading, struct err *err)
{
	static const struct {
		const char *name;
		reader_format read;
	} formats[] = { { "coco", read_coco }, { "karpathy", read_karpathy }, { "csv", read_csv }, { "jsonl", read_jsonl } };
	const char *name = reading->options->format;

	for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
		if (name != NULL && strcmp(formats[i].name, name) == 0) {
			reading->read = formats[i].read;
			reading->format = formats[i].name;
			return 0;
		}
	}
	return err_set(err, ERR_USAGE, "--format %s is not known; choose coco, karpathy, csv or jsonl", name == NULL ? "" : name);
}

static int cut_columns(struct reading *reading, struct err *err)
{
	const char *text = reading->options->columns;
	char *at, *rest;
	int count = 0;

	if (text == NULL)
		return 0;
	if (strcmp(reading->format, "csv") != 0 && strcmp(reading->format, "jsonl") != 0)
		return err_set(err, ERR_USAGE, "--columns is for csv and jsonl, not for %s", reading->format);
	if ((reading->columns_text = mem_strdup(text)) == NULL)
		return err_nomem(err, strlen(text));
	for (at = reading->columns_text; at != NULL; at = rest) {
		if ((rest = strchr(at, ',')) != NULL)
			*rest++ = '\0';
		if (at[0] == '\0' || count == COLUMN_COUNT)
			return err_set(err, ERR_USAGE, "--columns %s: IMAGE,CAPTION or IMAGE,CAPTION,LABEL is needed, as names or as "
				       "numbers from 1", text);
		reading->columns[count++] = at;
	}
	if (count < 2)
		return err_set(err, ERR_USAGE, "--columns %s: IMAGE,CAPTION or IMAGE,CAPTION,LABEL is needed", text);
	for (int i = COLUMN_IMAGE + 1; i < count; i++)
		if (strcmp(reading->columns[i], reading->columns[COLUMN_IMAGE]) == 0)
			return err_set(err, ERR_USAGE, "--columns %s: what has the pictures' names cannot have the %s too", text,
				       i == COLUMN_CAPTION ? "captions" : "labels");
	return 0;
}

static int add_folder(struct reading *reading, const char *path, int16_t split, struct err *err)
{
	const struct rights *rights = reading->options->rights;
	char *absolute;

	if (rights != NULL && !rights->all && !rights_is_dir(rights, path))
		return err_set(err, ERR_NOTFOUND, "the picture folder %s is no folder that user %u may search", path, rights->uid);
	absolute = realpath(path, NULL);
	if (absolute == NULL)
		return err_errno(err, errno, "the picture folder %s", path);
	if (!fs_is_dir(absolute)) {
		free(absolute);
		return err_set(err, ERR_NOTFOUND, "the picture folder %s is no folder", path);
	}
	/* Else every name in it would look as if it were missing. */
	if (faccessat(AT_FDCWD, absolute, X_OK, AT_EACCESS) != 0) {
		int code = err_errno(err, errno, "the picture folder %s", path);

		free(absolute);
		return code;
	}
	reading->folders.items[reading->folders.count++] = (struct folder){ absolute, split };
	return 0;
}

static int open_folders(struct reading *reading, struct err *err)
{
	const struct reader_options *options = reading->options;
	const char *path;
	int16_t split;
	int code;

	if (options->image_count > LISTING_FILES_MAX || options->caption_count > LISTING_FILES_MAX)
		return err_set(err, ERR_LIMIT, "more than %d --images or --captions", LISTING_FILES_MAX);
	if (options->caption_count == 0)
		return err_set(err, ERR_USAGE, "--captions is missing: which file has the captions?");
	reading->folders.rights = options->rights;
	reading->folders.items = mem_array((size_t)options->image_count + 1, sizeof(*reading->folders.items));
	if (reading->folders.items == NULL)
		return err_nomem(err, 0);
	for (int i = 0; i < options->image_count; i++)
		if ((code = cut_prefix(reading->listing, options->images[i], &path, &split, err)) != 0 ||
		    (code = add_folder(reading, path, split, err)) != 0)
			return code;
	return 0;
}

/* Without --images, the captions' own folder. */
static int folder_of_captions(struct reading *reading, const char *path, struct listing_file *file, struct err *err)
{
	const char *slash = strrchr(path, '/');
	char *folder = slash == NULL ? mem_strdup(".") : mem_strndup(path, slash == path ? 1 : (size_t)(slash - path));
	int code;

	if (folder == NULL)
		return err_nomem(err, strlen(path));
	if (reading->folders.count > 0)
		free(reading->folders.items[--reading->folders.count].path);
	code = add_folder(reading, folder, NO_SPLIT, err);
	mem_free(folder);
	if (code == 0 && (file->folder = mem_strdup(reading->folders.items[0].path)) == NULL)
		code = err_nomem(err, 0);
	return code;
}

/* --- splits by file name ------------------------------------------------------------- */

static bool is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* "captions_val2017.json": train, val or test as a word of the base name. */
static const char *split_in_name(const char *path)
{
	static const char *const words[] = { "train", "val", "test" };
	const char *slash = strrchr(path, '/');
	const char *base = slash == NULL ? path : slash + 1;

	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		const char *at = base;

		while ((at = strstr(at, words[i])) != NULL) {
			bool begins = at == base || !is_letter(at[-1]);

			at += strlen(words[i]);
			if (begins && !is_letter(*at))
				return words[i];
		}
	}
	return NULL;
}

static int default_split(struct reading *reading, const char *path, int16_t *split, struct err *err)
{
	const char *word = strcmp(reading->format, "coco") == 0 ? split_in_name(path) : NULL;
	int code;

	*split = NO_SPLIT;
	if (reading->listing->ratio.count > 0)
		return 0;
	if (word != NULL && (code = listing_add_note(reading->listing, err, "%s: split %s, from the file's name", path, word)) != 0)
		return code;
	if (word == NULL)
		word = "train";
	return listing_split(reading->listing, word, strlen(word), split, err);
}

/* --- one file ------------------------------------------------------------------------------ */

static int add_file(struct listing *listing, const char *path, uint32_t *file, struct err *err)
{
	struct listing_file *grown = mem_realloc_array(listing->files, listing->file_count + 1u, sizeof(*grown));

	if (grown == NULL)
		return err_nomem(err, sizeof(*grown));
	listing->files = grown;
	listing->files[listing->file_count] = (struct listing_file){ .name = mem_strdup(path) };
	if (listing->files[listing->file_count].name == NULL)
		return err_nomem(err, strlen(path));
	*file = listing->file_count++;
	return 0;
}

/* What no reader could make sense of, by its first bytes. They begin with an ASCII character, which has a zero byte in UTF-16. */
static int check_encoding(const char *path, const char *bytes, size_t size, struct err *err)
{
	const char *encoding = NULL;

	if (size >= 2 && memcmp(bytes, "\x1F\x8B", 2) == 0)
		return err_set(err, ERR_FORMAT, "%s: this is compressed with gzip; gunzip it first", path);
	if (size >= 4 && memcmp(bytes, "PK\3\4", 4) == 0)
		return err_set(err, ERR_FORMAT, "%s: this is a ZIP archive (a spreadsheet is one, too); unpack it, or export it as CSV", path);
	if (size >= 4 && (memcmp(bytes, "\xFF\xFE\0", 4) == 0 || memcmp(bytes, "\0\0\xFE\xFF", 4) == 0))
		encoding = "UTF-32";
	else if (size >= 2 && (memcmp(bytes, "\xFF\xFE", 2) == 0 || memcmp(bytes, "\xFE\xFF", 2) == 0))
		encoding = "UTF-16";
	else if (size >= 2 && (bytes[0] == '\0') != (bytes[1] == '\0'))
		encoding = bytes[0] == '\0' ? "UTF-16BE" : "UTF-16LE";
	if (encoding == NULL)
		return 0;
	return err_set(err, ERR_FORMAT, "%s: this is %s; re-encode it as UTF-8 (iconv -f %s -t UTF-8)", path, encoding, encoding);
}

/* By what is in it; NULL: cannot say. */
static const char *format_of(const char *bytes, size_t size)
{
	size_t at = size >= 3 && memcmp(bytes, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;

	while (at < size && strchr(" \t\r\n", bytes[at]) != NULL && bytes[at] != '\0')
		at++;
	if (at == size || (bytes[at] != '{' && bytes[at] != '['))
		return "csv";
	if (memmem(bytes, size, "\"sentences\"", 11) != NULL)
		return "karpathy";
	if (memmem(bytes, size, "\"annotations\"", 13) != NULL)
		return "coco";
	return memmem(bytes, size, "}\n{", 3) != NULL || memmem(bytes, size, "}\r\n{", 4) != NULL ? "jsonl" : NULL;
}

/* What a reader says of another format's file is true and no help. */
static int hint_format(const struct reading *reading, const char *bytes, size_t size, struct err *err)
{
	const char *seems = format_of(bytes, size);
	const struct err said = *err;

	if (seems == NULL || strcmp(seems, reading->format) == 0 || strstr(said.message, "--format") != NULL)
		return said.code;
	return err_set(err, said.code, "%s; is this a %s file? Then use --format %s", said.message,
		       strcmp(seems, "coco") == 0 ? "COCO" : strcmp(seems, "karpathy") == 0 ? "Karpathy" : strcmp(seems, "csv") == 0 ? "CSV" : "JSONL", seems);
}

static int read_bytes(struct reading *reading, struct reader *reader, const char *bytes, size_t size, struct err *err)
{
	int code = check_encoding(reader->name, bytes, size, err);

	if (code != 0)
		return code;
	code = reading->read(reader, bytes, size, err);
	return (code == ERR_FORMAT || code == ERR_LIMIT) && err != NULL && size > 0 ? hint_format(reading, bytes, size, err) : code;
}

/* It is read whole: what would fill the machine's memory is refused by its size. */
static size_t caption_file_limit(void)
{
	size_t half = (size_t)sysconf(_SC_PHYS_PAGES) / 2 * (size_t)sysconf(_SC_PAGESIZE);

	return half < CAPTION_FILE_BYTES_MAX ? half : CAPTION_FILE_BYTES_MAX;
}

/* The same captions twice would be twice as many, without a word; under another name, too. Two splits may share a file: each may have
 * a folder of its own with pictures of these names. */
static int check_once(struct listing *listing, uint32_t file, int16_t split, struct err *err)
{
	struct listing_file *own = &listing->files[file];
	struct stat info;

	if (stat(own->name, &info) != 0)
		return err_errno(err, errno, "%s", own->name);
	own->device = info.st_dev;
	own->inode = info.st_ino;
	own->split = split;
	for (uint32_t i = 0; i < file; i++) {
		const struct listing_file *other = &listing->files[i];

		if (other->device != own->device || other->inode != own->inode ||
		    (other->split != split && other->split != NO_SPLIT && split != NO_SPLIT))
			continue;
		if (strcmp(other->name, own->name) == 0)
			return err_set(err, ERR_USAGE, "--captions %s is given twice", own->name);
		return err_set(err, ERR_USAGE, "--captions %.400s and %.400s are the same file", other->name, own->name);
	}
	return 0;
}

static int read_file(struct reading *reading, const char *path, int16_t split, struct err *err)
{
	struct listing *listing = reading->listing;
	struct reader reader = {
		.listing = listing, .folders = &reading->folders, .name = path, .file_split = split, .default_split = NO_SPLIT,
		.by_ratio = listing->ratio.count > 0, .columns_given = reading->columns_text != NULL,
	};
	struct buf bytes = BUF_INIT;
	int code;

	memcpy(reader.columns, reading->columns, sizeof(reader.columns));
	if (split != NO_SPLIT && reader.by_ratio)
		return err_set(err, ERR_USAGE, "%s is given with a split, so --split cannot be given too", path);
	if ((code = add_file(listing, path, &reader.file, err)) != 0 ||
	    (split == NO_SPLIT && (code = default_split(reading, path, &reader.default_split, err)) != 0) ||
	    (reading->options->image_count == 0 && (code = folder_of_captions(reading, path, &listing->files[reader.file], err)) != 0))
		return code;
	if ((code = rights_read(reading->options->rights, path, caption_file_limit(), &bytes, err)) == 0 &&
	    (code = check_once(listing, reader.file, split, err)) == 0)
		code = read_bytes(reading, &reader, bytes.data == NULL ? "" : bytes.data, bytes.size, err);
	buf_free(&bytes);
	if (code == 0 && reader.hint[0] != '\0' && (listing->files[reader.file].hint = mem_strdup(reader.hint)) == NULL)
		code = err_nomem(err, sizeof(reader.hint));
	reader_close(&reader);
	return code;
}

/* --- all ------------------------------------------------------------------------------------- */

static void reading_close(struct reading *reading)
{
	for (int i = 0; i < reading->folders.count; i++)
		free(reading->folders.items[i].path);
	mem_free(reading->folders.items);
	mem_free(reading->columns_text);
}

/* What the reader noticed on the way (a row taken as a header, say) is the likely reason. */
static int nothing_left(const struct listing *listing, struct err *err)
{
	uint32_t notes = listing_note_count(listing);

	if (listing->failure_count > 0)
		return err_set(err, ERR_MISMATCH, "%s: no caption is left: every one is bad or its picture is missing",
			       listing->files[0].name);
	return err_set(err, ERR_MISMATCH, "%s: no caption is left in the file%s%s", listing->files[0].name,
		       notes > 0 ? "; " : "", notes > 0 ? listing_note_at(listing, notes - 1) : "");
}

int listing_read(struct listing *listing, const struct reader_options *options, struct err *err)
{
	struct reading reading = { .listing = listing, .options = options };
	const char *path;
	int16_t split;
	int code;

	CHECK(!listing->read);
	listing->read = true;
	listing->skip_bad = options->skip_bad;
	if ((code = find_format(&reading, err)) != 0 || (code = cut_columns(&reading, err)) != 0 ||
	    (options->split_ratio != NULL &&
	     (code = ratio_parse(listing, options->split_ratio, options->split_seed, err)) != 0) ||
	    (code = open_folders(&reading, err)) != 0)
		goto out;
	for (int i = 0; i < options->caption_count && code == 0; i++) {
		if ((code = cut_prefix(listing, options->captions[i], &path, &split, err)) == 0)
			code = read_file(&reading, path, split, err);
	}
	if (code == 0 && options->limit > 0 && listing->caption_count > 0)
		code = listing_draw(listing, options->limit, options->limit_seed, err);
	if (code == 0)
		code = missing_settle(listing, &reading.folders, options->limit > 0, err);
	if (code == 0 && listing->caption_count == 0)
		code = nothing_left(listing, err);
out:
	reading_close(&reading);
	return code;
}
