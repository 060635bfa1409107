/*
 * read_csv.c - a picture and a caption a row.
 *
 * The file has a header exactly when its first row names no picture that
 * exists. Columns are found by --columns (names of the header or numbers from
 * 1), else by the usual names in the header, else by the existing picture in
 * the first row and the column behind it, else picture and caption come first.
 * A picture's captions may stand in any rows.
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "preprocessd/dataset/csv.h"
#include "preprocessd/dataset/reader.h"
#include "shared/base/plural.h"

#define NO_COLUMN UINT32_MAX

struct columns {
	uint32_t image, caption, label, split, group;
	uint32_t count; /* every row must have as many */
};

/* A number from 1, or 0. */
static uint32_t as_number(const char *text)
{
	uint32_t value = 0;

	for (; *text != '\0'; text++) {
		if (*text < '0' || *text > '9' || value > CSV_COLUMNS_MAX)
			return 0;
		value = value * 10 + (uint32_t)(*text - '0');
	}
	return value;
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

/* A field without the spaces around it: names of the header, labels, splits and groups. */
static const char *trimmed_field(const struct csv *csv, uint32_t column, size_t *bytes)
{
	const char *text = csv_field(csv, column, bytes);

	while (*bytes > 0 && is_blank(text[0])) {
		text++;
		--*bytes;
	}
	while (*bytes > 0 && is_blank(text[*bytes - 1]))
		--*bytes;
	return text;
}

/* The first column from `from` on that has this name. */
static uint32_t find_name(const struct csv *csv, uint32_t from, const char *wanted, bool any_case)
{
	for (uint32_t i = from; i < csv->count; i++) {
		size_t bytes;
		const char *name = trimmed_field(csv, i, &bytes);

		if (bytes == strlen(wanted) && (any_case ? strncasecmp(name, wanted, bytes) : memcmp(name, wanted, bytes)) == 0)
			return i;
	}
	return NO_COLUMN;
}

static uint32_t find_usual(const struct csv *csv, const char *const *usual)
{
	uint32_t column = NO_COLUMN;

	/* The order of the usual names decides, not that of the columns. */
	for (; *usual != NULL && column == NO_COLUMN; usual++)
		column = find_name(csv, 0, *usual, true);
	return column;
}

/* Programs differ in which of two columns of one name they take. */
static int check_once(const struct reader *reader, const struct csv *csv, uint32_t column, bool any_case, struct err *err)
{
	char name[200];
	size_t bytes;

	if (column == NO_COLUMN)
		return 0;
	const char *text = trimmed_field(csv, column, &bytes);
	snprintf(name, sizeof(name), "%.*s", (int)(bytes < sizeof(name) ? bytes : 0), text);
	uint32_t again = find_name(csv, column + 1, name, any_case);
	if (bytes == 0 || again == NO_COLUMN)
		return 0;
	return reader_fail(reader, csv->line, err, "columns %u and %u are both named \"%s\"; which one is meant? Rename one, or give --columns as "
			   "numbers", column + 1, again + 1, name);
}

/* One part of --columns. */
static int find_given(struct reader *reader, const struct csv *csv, bool header, const char *given, uint32_t *out,
		      struct err *err)
{
	uint32_t number = as_number(given), named = header ? find_name(csv, 0, given, false) : NO_COLUMN;

	/* pandas names columns 0, 1, 2 where they have no names. */
	if (named != NO_COLUMN && number > 0 && number <= csv->count && named != number - 1)
		return reader_fail(reader, csv->line, err, "--columns %s: column %u has that name and column %u that number; which one is meant? "
				   "Rename column %u", given, named + 1, number, named + 1);
	if (named != NO_COLUMN) {
		*out = named;
		return check_once(reader, csv, named, false, err);
	}
	if (number > 0 && number <= csv->count) {
		*out = number - 1;
		return 0;
	}
	if (number > 0)
		return reader_fail(reader, csv->line, err, "%s %u column%s, --columns asks for number %u", csv->count == 1 ? "there is" : "there are",
				   csv->count, plural(csv->count), number);
	return reader_fail(reader, csv->line, err, header ? "no column is named \"%s\"" :
			   "no column is named \"%s\": the first row names an existing picture, so there is no header; give "
			   "--columns as numbers", given);
}

/* The first column from `from` on, else from the left, that has no other meaning. */
static uint32_t first_free(const struct columns *columns, uint32_t from)
{
	for (uint32_t k = 0; k < columns->count; k++) {
		uint32_t i = (from + k) % columns->count;

		if (i != columns->image && i != columns->caption && i != columns->label && i != columns->split && i != columns->group)
			return i;
	}
	return NO_COLUMN;
}

/* The column of the current row that names an existing picture: the one --columns gives by
 * number, else any. */
static int picture_column(struct reader *reader, const struct csv *csv, uint32_t *column, struct err *err)
{
	const char *given = reader->columns[COLUMN_IMAGE];
	uint32_t number = given != NULL ? as_number(given) : 0;
	bool has = false;
	int code;

	*column = NO_COLUMN;
	for (uint32_t i = 0; i < csv->count; i++) {
		size_t bytes;
		const char *name = csv_field(csv, i, &bytes);

		if (number != 0 && number != i + 1)
			continue;
		if ((code = reader_has_picture(reader, name, bytes, &has, err)) != 0)
			return code;
		if (has) {
			*column = i;
			return 0;
		}
	}
	return 0;
}

/* Where --columns says nothing. */
static int find_usual_columns(struct reader *reader, const struct csv *csv, struct columns *out, struct err *err)
{
	uint32_t *const columns[] = { &out->image, &out->caption, &out->label, &out->split, &out->group };
	int code = 0;

	if (!reader->columns_given) {
		out->image = find_usual(csv, usual_image_names);
		out->caption = find_usual(csv, usual_caption_names);
		out->label = find_usual(csv, usual_label_names);
	}
	out->split = find_usual(csv, usual_split_names);
	out->group = find_usual(csv, usual_group_names);
	for (size_t i = reader->columns_given ? 3 : 0; i < ARRAY_LEN(columns) && code == 0; i++)
		code = check_once(reader, csv, *columns[i], true, err);
	return code;
}

/* A header that says which column has the pictures, or a row that shows it, and nothing that tells where the captions are. */
static int no_caption(const struct reader *reader, const struct csv *csv, bool header, const struct columns *columns, struct err *err)
{
	char names[200] = "";
	size_t used = 0;

	if (!header)
		return reader_fail(reader, csv->line, err, "the picture is named in column %u, and no column behind it can have the captions; say "
				   "which one has them: --columns %u,1, for example", columns->image + 1, columns->image + 1);
	for (uint32_t i = 0; i < csv->count && used < sizeof(names); i++) {
		size_t bytes;
		const char *name = trimmed_field(csv, i, &bytes);

		used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%.*s", i > 0 ? ", " : "", (int)(bytes > 40 ? 40 : bytes), name);
	}
	return reader_fail(reader, csv->line, err, "no column has a name that captions have (caption, text, sentence, ...); name it with --columns "
			   "IMAGE,CAPTION; there are: %s", names);
}

static int find_columns(struct reader *reader, const struct csv *csv, uint32_t picture, struct columns *out, struct err *err)
{
	bool header = picture == NO_COLUMN, known; /* which column has the pictures */
	uint32_t *given[COLUMN_COUNT] = { &out->image, &out->caption, &out->label };
	int code;

	*out = (struct columns){ NO_COLUMN, NO_COLUMN, NO_COLUMN, NO_COLUMN, NO_COLUMN, csv->count };
	for (int i = 0; i < COLUMN_COUNT; i++)
		if (reader->columns[i] != NULL && (code = find_given(reader, csv, header, reader->columns[i], given[i], err)) != 0)
			return code;
	if (out->image != NO_COLUMN && (out->image == out->caption || out->image == out->label))
		return reader_fail(reader, csv->line, err, "--columns: column %u has the pictures' names, so it cannot have the %s too", out->image + 1,
				   out->image == out->caption ? "captions" : "labels");
	if (header && (code = find_usual_columns(reader, csv, out, err)) != 0)
		return code;
	known = out->image != NO_COLUMN || !header;
	if (out->image == NO_COLUMN)
		out->image = header ? first_free(out, 0) : picture;
	if (out->caption == NO_COLUMN && (!known || csv->count == 2))
		out->caption = first_free(out, out->image == NO_COLUMN ? 0 : out->image);
	else if (out->caption == NO_COLUMN && !header && out->image + 1 < csv->count)
		out->caption = out->image + 1;
	if (out->caption == NO_COLUMN && known && csv->count > 1)
		return no_caption(reader, csv, header, out, err);
	if (out->image == NO_COLUMN || out->caption == NO_COLUMN)
		return reader_fail(reader, csv->line, err, "a picture and a caption are needed, so at least two columns; this row "
				   "has %u (separated by ',', ';', '|' or tabs)", csv->count);
	return 0;
}

/* A column of the supposed header that looks like a picture's name, where nothing else makes the row one. */
static uint32_t picture_in_header(const struct reader *reader, const struct csv *csv)
{
	static const char *const *const usual[] = { usual_image_names, usual_caption_names, usual_label_names, usual_split_names,
						    usual_group_names };
	const char *given = reader->columns[COLUMN_IMAGE];
	uint32_t number = given != NULL ? as_number(given) : 0;

	if (given != NULL && number == 0)
		return NO_COLUMN;
	for (size_t i = 0; i < ARRAY_LEN(usual); i++)
		if (find_usual(csv, usual[i]) != NO_COLUMN)
			return NO_COLUMN;
	for (uint32_t i = 0; i < csv->count; i++) {
		size_t bytes;
		const char *name = trimmed_field(csv, i, &bytes);

		if ((number == 0 || number == i + 1) && reader_looks_like_picture(name, bytes))
			return i;
	}
	return NO_COLUMN;
}

/* Most likely the first picture of a file without a header is missing; the row would be lost without a word. */
static int header_or_missing(struct reader *reader, const struct csv *csv, uint32_t column, struct err *err)
{
	size_t bytes;
	const char *name = trimmed_field(csv, column, &bytes);
	int shown = (int)(bytes > 200 ? 200 : bytes);

	if (reader->listing->skip_bad)
		return listing_add_note(reader->listing, err, "%s: its first row names %.*s, which does not exist, so it is taken as a header",
					reader->name, shown, name);
	return err_set(err, ERR_NOTFOUND, "%.300s:%u: %.*s is not there (looked in %.200s%s), and a first row that names no picture is taken "
		       "as a header; put the picture there, or, if this row is a header, name its columns with --columns or give --on-bad skip",
		       reader->name, csv->line, shown, name, reader->folders->items[0].path, reader->folders->count > 1 ? ", ..." : "");
}

/* What a person needs who wonders which column was taken. */
static int explain(struct reader *reader, const struct csv *csv, bool header, const struct columns *columns, struct err *err)
{
	size_t bytes;
	const char *name = csv_field(csv, columns->image, &bytes);

	snprintf(reader->hint, sizeof(reader->hint), " (names are taken from column %u%s%.*s%s; --columns says otherwise)",
		 columns->image + 1, header ? ", \"" : "", header ? (int)(bytes > 40 ? 40 : bytes) : 0, name, header ? "\"" : "");
	if (!header && (reader->columns_given || csv->count == 2))
		return 0;
	if (!header)
		return listing_add_note(reader->listing, err, "%s: there is no header; captions are taken from column %u, behind the pictures' names "
					"(--columns says otherwise)", reader->name, columns->caption + 1);
	const char *given = reader->columns[COLUMN_IMAGE];
	if ((given != NULL && as_number(given) == 0) || find_usual(csv, usual_caption_names) != NO_COLUMN)
		return 0;
	if (find_usual(csv, usual_image_names) != NO_COLUMN)
		return reader->columns_given ? 0 : listing_add_note(reader->listing, err, "%s: captions are taken from column %u, whose name "
								    "does not say so", reader->name, columns->caption + 1);
	uint32_t column = picture_in_header(reader, csv);
	if (column != NO_COLUMN)
		return header_or_missing(reader, csv, column, err);
	return listing_add_note(reader->listing, err, "%s: its first row names no picture that exists, so it is taken as a header, with pictures "
				"in column %u and captions in column %u", reader->name, columns->image + 1, columns->caption + 1);
}

/* An empty cell says nothing. */
static int take_optional(const struct csv *csv, uint32_t column, struct buf *out, bool *has, struct err *err)
{
	size_t bytes;

	if (column == NO_COLUMN)
		return 0;
	const char *text = trimmed_field(csv, column, &bytes);
	*has = bytes > 0;
	return buf_add(out, text, reader_number_bytes(text, bytes), err);
}

static int row(struct reader *reader, const struct csv *csv, const struct columns *columns, struct item *item, struct err *err)
{
	const char *image, *caption;
	size_t image_bytes, caption_bytes;
	int code;

	if (csv->count != columns->count)
		return reader_bad_item(reader, csv->line, err, "%u column%s where the first row has %u; put captions with separators "
				       "in quotes", csv->count, plural(csv->count), columns->count);
	item_clear(item);
	item->number = csv->line;
	image = csv_field(csv, columns->image, &image_bytes);
	caption = csv_field(csv, columns->caption, &caption_bytes);
	item->has_image = true;
	if ((code = buf_add(&item->image, image, image_bytes, err)) != 0 ||
	    (code = take_optional(csv, columns->label, &item->label, &item->has_label, err)) != 0 ||
	    (code = take_optional(csv, columns->split, &item->split, &item->has_split, err)) != 0 ||
	    (code = take_optional(csv, columns->group, &item->group, &item->has_group, err)) != 0 ||
	    (code = item_add_caption(item, caption, caption_bytes, err)) != 0)
		return code;
	if (columns->split != NO_COLUMN && !item->has_split && reader->file_split == NO_SPLIT)
		return reader_fail(reader, csv->line, err, "no split, while the file has a column of splits; fill it in");
	return reader_item(reader, item, err);
}

/* --- captions that are hardly meant as they stand ----------------------------------- */

struct oddities {
	uint32_t rows, lists, quoted;
};

/* As the CSV of flickr30k on Hugging Face has all captions of a picture in one cell: ["A dog.", "A brown dog."]. */
static bool is_list(const char *text, size_t bytes)
{
	return bytes >= 4 && text[0] == '[' && (text[1] == '"' || text[1] == '\'') && text[bytes - 1] == ']';
}

/* As writers of CSV put a field into quotes. */
static bool is_quoted(const char *text, size_t bytes)
{
	if (bytes < 2 || text[0] != '"' || text[bytes - 1] != '"')
		return false;
	for (size_t i = 1; i + 1 < bytes; i++)
		if (text[i] == '"' && (i + 2 == bytes || text[++i] != '"'))
			return false;
	return true;
}

static void look_at_caption(const struct csv *csv, uint32_t column, struct oddities *seen)
{
	size_t bytes;
	const char *text = csv_field(csv, column, &bytes);

	seen->rows++;
	seen->lists += is_list(text, bytes);
	seen->quoted += (csv->separator == '\t' || csv->separator == '|') && is_quoted(text, bytes);
}

static int note_oddities(const struct reader *reader, const struct oddities *seen, struct err *err)
{
	if (seen->quoted > 0)
		return listing_add_note(reader->listing, err, "%s: %u caption%s in quotes, which stay: between tabs or '|' quotes are ordinary "
					"characters; with ',' between the fields they would go", reader->name, seen->quoted,
					seen->quoted == 1 ? " stands" : "s stand");
	if (seen->lists == 0 || seen->lists < seen->rows)
		return 0;
	return listing_add_note(reader->listing, err, "%s: every caption is a list in brackets and taken as one text; give each a row of its own, or "
				"write the list as \"captions\" of JSONL", reader->name);
}

/* --- rows ----------------------------------------------------------------------------- */

static int csv_error(const struct reader *reader, const struct csv *csv, int code, struct err *err)
{
	struct err reason;

	if (code == ERR_NOMEM || err == NULL)
		return code;
	reason = *err;
	return reader_fail(reader, csv->line, err, "%s", reason.message);
}

static int read_rows(struct reader *reader, struct csv *csv, struct item *item, struct err *err)
{
	struct columns columns;
	struct oddities seen = { 0 };
	uint32_t picture;
	int code;

	if ((code = csv_next(csv, err)) != 0)
		return csv_error(reader, csv, code, err);
	if (csv->count == 0)
		return err_set(err, ERR_FORMAT, "%s: the file is empty", reader->name);
	if ((code = picture_column(reader, csv, &picture, err)) != 0)
		return err_prefix(err, "%s", reader->name);
	bool header = picture == NO_COLUMN;
	if ((code = find_columns(reader, csv, picture, &columns, err)) != 0 || (code = explain(reader, csv, header, &columns, err)) != 0)
		return code;
	for (; csv->count > 0; header = false) {
		if (!header && (code = row(reader, csv, &columns, item, err)) != 0)
			return code;
		if (!header && csv->count == columns.count)
			look_at_caption(csv, columns.caption, &seen);
		if ((code = csv_next(csv, err)) != 0)
			return csv_error(reader, csv, code, err);
	}
	return note_oddities(reader, &seen, err);
}

/* --- the separator ------------------------------------------------------------------ */

enum { SCORE_ONE_COLUMN, SCORE_FAULT, SCORE_COLUMNS, SCORE_NAMES, SCORE_PICTURE };

/* How much sense the first row makes: its picture exists, it has a header's names, it has two columns. */
static int score_first_row(struct reader *reader, const struct csv *csv, int *score, struct err *err)
{
	const char *given = reader->columns[COLUMN_IMAGE];
	uint32_t column;
	int code;

	*score = SCORE_ONE_COLUMN;
	if (csv->count < 2)
		return 0;
	if ((code = picture_column(reader, csv, &column, err)) != 0)
		return code;
	if (column != NO_COLUMN)
		*score = SCORE_PICTURE;
	else if (given != NULL && as_number(given) == 0)
		*score = find_name(csv, 0, given, false) != NO_COLUMN ? SCORE_NAMES : SCORE_COLUMNS;
	else
		*score = find_usual(csv, usual_image_names) != NO_COLUMN || find_usual(csv, usual_caption_names) != NO_COLUMN ?
				 SCORE_NAMES : SCORE_COLUMNS;
	return 0;
}

/* The one under which the first row makes most sense; a comma before the others. */
static int choose_separator(struct reader *reader, const char *bytes, size_t size, char *out, struct err *err)
{
	static const char separators[] = { ',', ';', '\t', '|' };
	int best = -1;

	for (size_t i = 0; i < ARRAY_LEN(separators); i++) {
		struct csv csv;
		int score = SCORE_ONE_COLUMN, code;

		csv_open(&csv, bytes, size, separators[i]);
		/* A fault of one reading of the row is none of another's: the winner's comes up again. */
		if ((code = csv_next(&csv, err)) == 0) {
			code = score_first_row(reader, &csv, &score, err);
		} else if (code != ERR_NOMEM) {
			score = csv.count > 0 ? SCORE_FAULT : SCORE_ONE_COLUMN;
			code = 0;
		}
		csv_close(&csv);
		if (code != 0)
			return code;
		if (score > best) {
			best = score;
			*out = separators[i];
		}
	}
	return 0;
}

int read_csv(struct reader *reader, const char *bytes, size_t size, struct err *err)
{
	struct item item = { 0 };
	struct csv csv;
	struct err reason;
	char separator;
	int code = choose_separator(reader, bytes, size, &separator, &reason);

	if (code != 0)
		return err_set(err, code, "%s: %s", reader->name, reason.message);
	csv_open(&csv, bytes, size, separator);
	code = read_rows(reader, &csv, &item, err);
	item_free(&item);
	csv_close(&csv);
	return code;
}
