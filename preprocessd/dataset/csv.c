#include "preprocessd/dataset/csv.h"

#include <string.h>

#include "shared/base/mem.h"

static bool has_quotes(const struct csv *csv)
{
	return csv->separator == ',' || csv->separator == ';';
}

static void pass_line_end(struct csv *csv)
{
	if (csv->data[csv->at] == '\r' && csv->at + 1 < csv->size && csv->data[csv->at + 1] == '\n')
		csv->at++;
	csv->at++;
	csv->next_line++;
}

static int too_long(uint32_t line, struct err *err)
{
	return err_set(err, ERR_LIMIT, "a field of more than %d MiB begins in line %u; is this a CSV file, and no quote missing?",
		       CSV_FIELD_BYTES_MAX >> 20, line);
}

/* at stands behind the opening quote; leaves it behind the closing one. */
static int quoted(struct csv *csv, struct err *err)
{
	uint32_t begin_line = csv->next_line;
	size_t length = 0;
	int code;

	for (;;) {
		size_t begin = csv->at;

		while (csv->at < csv->size && csv->data[csv->at] != '"' && csv->at - begin <= CSV_FIELD_BYTES_MAX) {
			char c = csv->data[csv->at++];

			csv->next_line += c == '\n' || (c == '\r' && !(csv->at < csv->size && csv->data[csv->at] == '\n'));
		}
		length += csv->at - begin + 1;
		if (length > CSV_FIELD_BYTES_MAX)
			return too_long(begin_line, err);
		if ((code = buf_add(&csv->text, csv->data + begin, csv->at - begin, err)) != 0)
			return code;
		if (csv->at >= csv->size)
			return err_set(err, ERR_FORMAT, "a quote that begins in line %u never ends", begin_line);
		csv->at++;
		if (csv->at >= csv->size || csv->data[csv->at] != '"')
			return 0;
		csv->at++; /* a doubled quote is one */
		if ((code = buf_add_byte(&csv->text, '"', err)) != 0)
			return code;
	}
}

static bool ends_field(const struct csv *csv, size_t at)
{
	return at >= csv->size || csv->data[at] == csv->separator || csv->data[at] == '\n' || csv->data[at] == '\r';
}

static int plain(struct csv *csv, struct err *err)
{
	size_t begin = csv->at, end;

	while (!ends_field(csv, csv->at) && csv->at - begin <= CSV_FIELD_BYTES_MAX)
		csv->at++;
	end = csv->at;
	if (end - begin > CSV_FIELD_BYTES_MAX)
		return too_long(csv->next_line, err);
	if (csv->separator == '|') {
		while (begin < end && csv->data[begin] == ' ')
			begin++;
		while (end > begin && csv->data[end - 1] == ' ')
			end--;
	}
	return buf_add(&csv->text, csv->data + begin, end - begin, err);
}

static int grow(struct csv *csv, struct err *err)
{
	uint32_t capacity = csv->capacity == 0 ? 16 : 2 * csv->capacity;

	if (csv->count < csv->capacity)
		return 0;
	if (csv->count == CSV_COLUMNS_MAX)
		return err_set(err, ERR_LIMIT, "more than %d columns", CSV_COLUMNS_MAX);
	size_t *grown = mem_realloc_array(csv->ends, capacity, sizeof(*grown));
	if (grown == NULL)
		return err_nomem(err, capacity * sizeof(*grown));
	csv->ends = grown;
	csv->capacity = capacity;
	return 0;
}

static int field(struct csv *csv, struct err *err)
{
	int code = grow(csv, err);

	if (code != 0)
		return code;
	if (has_quotes(csv) && csv->at < csv->size && csv->data[csv->at] == '"') {
		csv->at++;
		if ((code = quoted(csv, err)) != 0)
			return code;
		if (!ends_field(csv, csv->at))
			return err_set(err, ERR_FORMAT, "text behind a closing quote (column %u); a quote inside a quoted field is "
				       "written twice", csv->count + 1);
	} else if ((code = plain(csv, err)) != 0) {
		return code;
	}
	csv->ends[csv->count++] = csv->text.size;
	return 0;
}

int csv_next(struct csv *csv, struct err *err)
{
	int code;

	while (csv->at < csv->size && (csv->data[csv->at] == '\n' || csv->data[csv->at] == '\r'))
		pass_line_end(csv);
	csv->line = csv->next_line;
	csv->count = 0;
	buf_clear(&csv->text);
	if (csv->at >= csv->size)
		return 0;
	for (;;) {
		if ((code = field(csv, err)) != 0)
			return code;
		if (csv->at >= csv->size)
			return 0;
		if (csv->data[csv->at] != csv->separator) {
			pass_line_end(csv);
			return 0;
		}
		csv->at++;
	}
}

const char *csv_field(const struct csv *csv, uint32_t column, size_t *bytes)
{
	size_t begin = column == 0 ? 0 : csv->ends[column - 1];

	*bytes = csv->ends[column] - begin;
	return csv->text.data + begin;
}

void csv_open(struct csv *csv, const char *data, size_t size, char separator)
{
	size_t begin = size >= 3 && memcmp(data, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;

	*csv = (struct csv){ .data = data, .size = size, .at = begin, .next_line = 1, .separator = separator };
}

void csv_close(struct csv *csv)
{
	buf_free(&csv->text);
	mem_free(csv->ends);
}
