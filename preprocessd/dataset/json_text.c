/* What every JSON format needs: a value as text, and walks over arrays and objects. */
#include <string.h>

#include "preprocessd/dataset/reader.h"

bool json_is_null(const struct json_reader *json)
{
	return json->kind == JSON_NULL || (json->kind == JSON_NUMBER && strcmp(json->text.data, "NaN") == 0);
}

int json_text(struct json_reader *json, struct buf *out, bool *has, const char *what, struct err *err)
{
	int code = json_next(json, err);

	if (code != 0 || json_is_null(json))
		return code;
	switch (json->kind) {
	case JSON_STRING:
	case JSON_NUMBER:
		buf_clear(out);
		*has = true;
		return buf_add(out, json->text.data, json->kind == JSON_NUMBER ? reader_number_bytes(json->text.data, json->text.size) : json->text.size, err);
	default:
		return json_fail(json, err, "%s must be a string or a number", what);
	}
}

int json_label(struct json_reader *json, struct buf *out, bool *has, const char *what, struct err *err)
{
	int code = json_text(json, out, has, what, err);

	*has = *has && out->size > 0;
	return code;
}

int json_once(const struct json_reader *json, bool *seen, const char *key, struct err *err)
{
	if (*seen)
		return json_fail(json, err, "the key \"%.80s\" stands more than once in this object; which one is meant?", key);
	*seen = true;
	return 0;
}

int json_array(struct json_reader *json, const char *what, json_element element, void *context, struct err *err)
{
	int code = json_next(json, err);

	if (code != 0)
		return code;
	if (json->kind != JSON_ARRAY_BEGIN)
		return json_fail(json, err, "%s must be an array", what);
	for (uint32_t number = 1;; number++) {
		if ((code = json_next(json, err)) != 0)
			return code;
		if (json->kind == JSON_ARRAY_END)
			return 0;
		if ((code = element(context, json, number, err)) != 0)
			return code;
	}
}

int json_object(struct json_reader *json, const char *what, json_field field, void *context, struct err *err)
{
	int code;

	if (json->kind != JSON_OBJECT_BEGIN)
		return json_fail(json, err, "%s must be an object", what);
	for (;;) {
		if ((code = json_next(json, err)) != 0)
			return code;
		if (json->kind == JSON_OBJECT_END)
			return 0;
		/* One with a zero byte in it is no key of ours, whatever stands in front of that. */
		bool whole = memchr(json->text.data, '\0', json->text.size) == NULL;

		if ((code = whole ? field(context, json, json->text.data, err) : json_skip(json, err)) != 0)
			return code;
	}
}
