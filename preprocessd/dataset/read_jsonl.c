/*
 * read_jsonl.c - one JSON object a line (or one array of such objects).
 *
 *     {"image": "a.jpg", "caption": "...", "label": "cat", "split": "train", "group": "7"}
 *     {"image": "b.jpg", "captions": ["...", "..."]}
 */
#include <string.h>
#include <strings.h>

#include "preprocessd/dataset/reader.h"

struct jsonl {
	struct reader *reader;
	struct item item;
	bool has_caption;
};

static bool is_key(const struct jsonl *jsonl, const char *key, int column, const char *const *usual)
{
	const char *given = jsonl->reader->columns[column];

	if (given != NULL)
		return strcmp(key, given) == 0;
	if (column == COLUMN_LABEL && jsonl->reader->columns_given)
		return false; /* --columns IMAGE,CAPTION leaves labels out */
	return name_in(key, strlen(key), usual);
}

static int caption_element(void *context, struct json_reader *json, uint32_t number, struct err *err)
{
	struct jsonl *jsonl = context;

	(void)number;
	if (json->kind != JSON_STRING)
		return json_fail(json, err, "a caption must be a string");
	return item_add_caption(&jsonl->item, json->text.data, json->text.size, err);
}

/* A string, or an array of strings. */
static int captions(struct jsonl *jsonl, struct json_reader *json, struct err *err)
{
	int code = json_next(json, err);

	if (code != 0)
		return code;
	jsonl->has_caption = true;
	if (json->kind == JSON_STRING)
		return caption_element(jsonl, json, 1, err);
	if (json->kind != JSON_ARRAY_BEGIN)
		return json_fail(json, err, "a caption must be a string or an array of strings");
	for (uint32_t number = 1;; number++) {
		if ((code = json_next(json, err)) != 0 || json->kind == JSON_ARRAY_END)
			return code;
		if ((code = caption_element(jsonl, json, number, err)) != 0)
			return code;
	}
}

static int field(void *context, struct json_reader *json, const char *key, struct err *err)
{
	struct jsonl *jsonl = context;
	struct item *item = &jsonl->item;

	if (!item->has_image && is_key(jsonl, key, COLUMN_IMAGE, usual_image_names))
		return json_text(json, &item->image, &item->has_image, "the picture's name", err);
	if (!jsonl->has_caption && is_key(jsonl, key, COLUMN_CAPTION, usual_caption_names))
		return captions(jsonl, json, err);
	if (!item->has_label && is_key(jsonl, key, COLUMN_LABEL, usual_label_names))
		return json_text(json, &item->label, &item->has_label, "the label", err);
	if (!item->has_split && name_in(key, strlen(key), usual_split_names))
		return json_text(json, &item->split, &item->has_split, "the split", err);
	if (!item->has_group && name_in(key, strlen(key), usual_group_names))
		return json_text(json, &item->group, &item->has_group, "the group", err);
	return json_skip(json, err);
}

/* json has just read the object's beginning. */
static int object(void *context, struct json_reader *json, uint32_t number, struct err *err)
{
	struct jsonl *jsonl = context;
	const char *const *columns = jsonl->reader->columns;
	int code;

	item_clear(&jsonl->item);
	jsonl->has_caption = false;
	jsonl->item.number = number;
	if ((code = json_object(json, "a line", field, jsonl, err)) != 0)
		return code;
	if (!jsonl->item.has_image)
		return json_fail(json, err, "no \"%s\"; --columns IMAGE,CAPTION names the keys",
				 columns[COLUMN_IMAGE] != NULL ? columns[COLUMN_IMAGE] : "image");
	if (!jsonl->has_caption)
		return json_fail(json, err, "no \"%s\"; --columns IMAGE,CAPTION names the keys",
				 columns[COLUMN_CAPTION] != NULL ? columns[COLUMN_CAPTION] : "caption");
	return reader_item(jsonl->reader, &jsonl->item, err);
}

static bool is_blank(const char *line, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r')
			return false;
	return true;
}

static int read_lines(struct jsonl *jsonl, const char *bytes, size_t size, struct err *err)
{
	struct json_reader json;
	size_t at = size >= 3 && memcmp(bytes, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
	uint32_t line = 0;
	int code = 0;

	while (at < size && code == 0) {
		const char *end = memchr(bytes + at, '\n', size - at);
		size_t length = end == NULL ? size - at : (size_t)(end - bytes) - at;

		line++;
		if (!is_blank(bytes + at, length)) {
			json_reader_init(&json, jsonl->reader->name, bytes + at, length);
			json.line = line;
			json.lenient_utf8 = true; /* captions are judged one by one */
			code = json_next(&json, err);
			if (code == 0)
				code = object(jsonl, &json, line, err);
			if (code == 0)
				code = json_expect(&json, JSON_END, err);
			json_reader_free(&json);
		}
		at += length + 1;
	}
	return code;
}

static int read_array(struct jsonl *jsonl, const char *bytes, size_t size, struct err *err)
{
	struct json_reader json;
	int code;

	jsonl->reader->listing->files[jsonl->reader->file].item = "object";
	json_reader_init(&json, jsonl->reader->name, bytes, size);
	json.lenient_utf8 = true;
	if ((code = json_array(&json, "the file", object, jsonl, err)) == 0)
		code = json_expect(&json, JSON_END, err);
	json_reader_free(&json);
	return code;
}

int read_jsonl(struct reader *reader, const char *bytes, size_t size, struct err *err)
{
	struct jsonl jsonl = { .reader = reader };
	size_t at = 0;
	int code;

	while (at < size && strchr(" \t\r\n\xEF\xBB\xBF", bytes[at]) != NULL && bytes[at] != '\0')
		at++;
	code = at < size && bytes[at] == '[' ? read_array(&jsonl, bytes, size, err) : read_lines(&jsonl, bytes, size, err);
	item_free(&jsonl.item);
	return code;
}
