/*
 * read_jsonl.c - one JSON object a line (or one array of such objects).
 *
 *     {"image": "a.jpg", "caption": "...", "label": "cat", "split": "train", "group": "7"}
 *     {"image": "b.jpg", "captions": ["...", "..."]}
 */
#include <string.h>
#include <strings.h>

#include "preprocessd/dataset/reader.h"

enum part { PART_IMAGE, PART_CAPTION, PART_LABEL, PART_SPLIT, PART_GROUP, PART_COUNT };
enum { NO_RANK = 32 };

/* Which key of an object has one part of it: the first of the usual names that is there, wherever it stands. */
struct choice {
	uint32_t rank;           /* in the list of usual names; NO_RANK: none is there */
	uint32_t seen, repeated; /* a bit for each rank */
	bool null;               /* some key of it was there and null, which is as if it were not */
};

struct jsonl {
	struct reader *reader;
	struct item item;
	struct choice choices[PART_COUNT];
};

/* The place of a key among the names that mean this part, or NO_RANK. */
static uint32_t rank_of(const struct jsonl *jsonl, enum part part, const char *key)
{
	static const char *const *const usual[PART_COUNT] = { usual_image_names, usual_caption_names, usual_label_names,
							      usual_split_names, usual_group_names };
	const struct reader *reader = jsonl->reader;
	const char *given = (int)part < COLUMN_COUNT ? reader->columns[part] : NULL;

	if (given != NULL)
		return strcmp(key, given) == 0 ? 0 : NO_RANK;
	if (part == PART_LABEL && reader->columns_given)
		return NO_RANK; /* --columns IMAGE,CAPTION leaves labels out */
	for (uint32_t rank = 0; usual[part][rank] != NULL; rank++)
		if (strcasecmp(key, usual[part][rank]) == 0)
			return rank;
	return NO_RANK;
}

/* Looks at a key and passes over its value. */
static int look(void *context, struct json_reader *json, const char *key, struct err *err)
{
	struct jsonl *jsonl = context;
	uint32_t ranks[PART_COUNT];
	int code;

	for (int part = 0; part < PART_COUNT; part++)
		ranks[part] = rank_of(jsonl, (enum part)part, key);
	if ((code = json_skip(json, err)) != 0)
		return code;
	for (int part = 0; part < PART_COUNT; part++) {
		struct choice *choice = &jsonl->choices[part];
		uint32_t bit = ranks[part] == NO_RANK ? 0 : (uint32_t)1 << ranks[part];

		choice->repeated |= choice->seen & bit;
		choice->seen |= bit;
		if (bit != 0 && json_is_null(json))
			choice->null = true;
		else if (ranks[part] < choice->rank)
			choice->rank = ranks[part];
	}
	return 0;
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

static int take(struct jsonl *jsonl, enum part part, struct json_reader *json, struct err *err)
{
	struct item *item = &jsonl->item;

	switch (part) {
	case PART_IMAGE:
		return json_text(json, &item->image, &item->has_image, "the picture's name", err);
	case PART_CAPTION:
		return captions(jsonl, json, err);
	case PART_LABEL:
		return json_label(json, &item->label, &item->has_label, "the label", err);
	case PART_SPLIT:
		return json_text(json, &item->split, &item->has_split, "the split", err);
	default:
		return json_label(json, &item->group, &item->has_group, "the group", err);
	}
}

/* A key may have several parts: --columns pic,kind,kind. */
static int field(void *context, struct json_reader *json, const char *key, struct err *err)
{
	struct jsonl *jsonl = context;
	const struct json_mark value = json_mark(json);
	bool has[PART_COUNT], any = false;
	int code = 0;

	/* Before a value is read: that ends the key. */
	for (int part = 0; part < PART_COUNT && code == 0; part++) {
		const struct choice *choice = &jsonl->choices[part];

		has[part] = choice->rank != NO_RANK && rank_of(jsonl, (enum part)part, key) == choice->rank;
		bool repeated = has[part] && (choice->repeated >> choice->rank & 1) != 0;
		if (has[part])
			code = json_once(json, &repeated, key, err);
		any = any || has[part];
	}
	if (!any)
		return json_skip(json, err);
	for (int part = 0; part < PART_COUNT && code == 0; part++) {
		if (!has[part])
			continue;
		json_return(json, &value);
		code = take(jsonl, (enum part)part, json, err);
	}
	return code;
}

static int lacks(const struct jsonl *jsonl, const struct json_reader *json, int column, const char *usual, struct err *err)
{
	const char *given = jsonl->reader->columns[column];

	return json_fail(json, err, "no \"%s\"%s; --columns IMAGE,CAPTION names the keys", given != NULL ? given : usual,
			 jsonl->choices[column].null ? " (it is null)" : "");
}

/* json has just read the object's beginning. Twice, so that the order of the keys does not matter. */
static int object(void *context, struct json_reader *json, uint32_t number, struct err *err)
{
	struct jsonl *jsonl = context;
	struct json_mark mark = json_mark(json);
	int code;

	item_clear(&jsonl->item);
	for (int part = 0; part < PART_COUNT; part++)
		jsonl->choices[part] = (struct choice){ .rank = NO_RANK };
	jsonl->item.number = number;
	if ((code = json_object(json, "a line", look, jsonl, err)) != 0)
		return code;
	if (jsonl->choices[PART_IMAGE].rank == NO_RANK)
		return lacks(jsonl, json, COLUMN_IMAGE, "image", err);
	if (jsonl->choices[PART_CAPTION].rank == NO_RANK)
		return lacks(jsonl, json, COLUMN_CAPTION, "caption", err);
	json_return(json, &mark);
	if ((code = json_object(json, "a line", field, jsonl, err)) != 0)
		return code;
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
			json.whole = "line";
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
