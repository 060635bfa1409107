#include "shared/base/json.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/utf8.h"

/* What may come next. */
enum state {
	STATE_VALUE,
	STATE_VALUE_OR_END, /* after '[' */
	STATE_KEY,          /* after a comma in an object */
	STATE_KEY_OR_END,   /* after '{' */
	STATE_COLON,
	STATE_COMMA_OR_END,
	STATE_DONE
};

enum { MESSAGE_EXCERPT_BYTES = 40 };

void json_reader_init(struct json_reader *reader, const char *name, const void *data, size_t size)
{
	*reader = (struct json_reader){ .name = name, .whole = "file", .data = data, .size = size, .line = 1, .state = STATE_VALUE,
					.kind = JSON_NULL, .text = BUF_INIT };
	if (size >= 3 && memcmp(data, "\xEF\xBB\xBF", 3) == 0)
		reader->at = reader->line_start = 3;
	reader->token_at = reader->at;
}

void json_reader_free(struct json_reader *reader)
{
	if (reader != NULL)
		buf_free(&reader->text);
}

int json_fail(const struct json_reader *reader, struct err *err, const char *format, ...)
{
	char message[ERR_MESSAGE_BYTES];
	va_list args;

	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	return err_set(err, ERR_FORMAT, "%s:%zu:%zu: %s", reader->name, reader->line,
		       reader->token_at - reader->line_start + 1, message);
}

static int fail_at(struct json_reader *reader, size_t at, struct err *err, const char *message)
{
	reader->token_at = at;
	return json_fail(reader, err, "%s", message);
}

static int fail_inside_string(struct json_reader *reader, size_t at, struct err *err)
{
	reader->token_at = at;
	return json_fail(reader, err, "the %s ends inside a string", reader->whole);
}

static int fail_wanted(struct json_reader *reader, struct err *err, const char *wanted)
{
	reader->token_at = reader->at;
	if (reader->at >= reader->size)
		return json_fail(reader, err, "the %s ends where %s should be", reader->whole, wanted);
	unsigned char c = (unsigned char)reader->data[reader->at];
	if (c > 0x20 && c < 0x7F)
		return json_fail(reader, err, "'%c' where %s should be", c, wanted);
	return json_fail(reader, err, "byte 0x%02x where %s should be", c, wanted);
}

static void skip_space(struct json_reader *reader)
{
	while (reader->at < reader->size) {
		char c = reader->data[reader->at];

		if (c == '\n') {
			reader->line++;
			reader->line_start = reader->at + 1;
		} else if (c != ' ' && c != '\t' && c != '\r') {
			break;
		}
		reader->at++;
	}
	reader->token_at = reader->at;
}

/* --- strings ------------------------------------------------------------ */

static int hex4(const struct json_reader *reader, size_t at, uint32_t *out)
{
	uint32_t value = 0;

	if (reader->size - at < 4)
		return -1;
	for (size_t i = at; i < at + 4; i++) {
		char c = reader->data[i];
		int digit = c >= '0' && c <= '9' ? c - '0' :
			    c >= 'a' && c <= 'f' ? c - 'a' + 10 :
			    c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;

		if (digit < 0)
			return -1;
		value = value << 4 | (uint32_t)digit;
	}
	*out = value;
	return 0;
}

/* *at stands behind "\u". A surrogate pair is two such escapes; half of one is no character. */
static int unicode_escape(struct json_reader *reader, size_t *at, uint32_t *point, struct err *err)
{
	uint32_t low;

	if (hex4(reader, *at, point) != 0)
		return fail_at(reader, *at - 2, err, "\\u needs four hexadecimal digits");
	*at += 4;
	if (*point < 0xD800 || *point > 0xDFFF)
		return 0;
	if (*point < 0xDC00 && reader->size - *at >= 6 && reader->data[*at] == '\\' && reader->data[*at + 1] == 'u' &&
	    hex4(reader, *at + 2, &low) == 0 && low >= 0xDC00 && low <= 0xDFFF) {
		*point = 0x10000 + ((*point - 0xD800) << 10) + (low - 0xDC00);
		*at += 6;
		return 0;
	}
	if (!reader->lenient_utf8)
		return fail_at(reader, *at - 6, err, "half of a surrogate pair in a string (\\ud800 to \\udfff alone), which is no character");
	return 0;
}

/* utf8_put() would make it U+FFFD, and whoever judges the bytes could not tell it from one that was written. */
static size_t put_surrogate(char out[4], uint32_t point)
{
	out[0] = (char)0xED;
	out[1] = (char)(0x80 | (point >> 6 & 0x3F));
	out[2] = (char)(0x80 | (point & 0x3F));
	return 3;
}

/* *at stands on the backslash. */
static int escape(struct json_reader *reader, size_t *at, struct err *err)
{
	static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
	char bytes[4];
	uint32_t point = 0;
	int code;

	if (*at + 1 >= reader->size)
		return fail_inside_string(reader, *at, err);
	char c = reader->data[*at + 1];
	const char *found = c == '\0' ? NULL : strchr(names, c);
	if (found != NULL) {
		*at += 2;
		return buf_add_byte(&reader->text, values[found - names], err);
	}
	if (c != 'u')
		return fail_at(reader, *at, err, "unknown escape in a string; a backslash is written \\\\");
	*at += 2;
	if ((code = unicode_escape(reader, at, &point, err)) != 0)
		return code;
	return buf_add(&reader->text, bytes, point >= 0xD800 && point <= 0xDFFF ? put_surrogate(bytes, point) : utf8_put(bytes, point), err);
}

/* reader->at stands on the opening quote. */
static int read_string(struct json_reader *reader, struct err *err)
{
	size_t at = reader->at + 1, run;
	int code;

	buf_clear(&reader->text);
	for (;;) {
		for (run = at; at < reader->size; at++) {
			unsigned char c = (unsigned char)reader->data[at];

			if (c == '"' || c == '\\' || c < 0x20)
				break;
		}
		if (!reader->lenient_utf8) {
			size_t good = utf8_valid_bytes(reader->data + run, at - run);

			if (good < at - run)
				return fail_at(reader, run + good, err,
					       "invalid UTF-8 in a string; re-encode the file as UTF-8 (for example with iconv)");
		}
		if ((code = buf_add(&reader->text, reader->data + run, at - run, err)) != 0)
			return code;
		if (at >= reader->size)
			return fail_at(reader, reader->at, err, "a string that never ends");
		if (reader->data[at] == '"')
			break;
		if (reader->data[at] != '\\')
			return fail_at(reader, at, err, "a control character or line end inside a string; write it as an escape");
		if ((code = escape(reader, &at, err)) != 0)
			return code;
	}
	reader->at = at + 1;
	return 0;
}

/* --- numbers and words --------------------------------------------------- */

static size_t digits(const struct json_reader *reader, size_t at)
{
	while (at < reader->size && reader->data[at] >= '0' && reader->data[at] <= '9')
		at++;
	return at;
}

static bool has_word(const struct json_reader *reader, size_t at, const char *word)
{
	size_t length = strlen(word);

	return reader->size - at >= length && memcmp(reader->data + at, word, length) == 0;
}

static int read_number(struct json_reader *reader, struct err *err)
{
	size_t begin = reader->at, at = begin, next;

	if (reader->data[at] == '-')
		at++;
	if (has_word(reader, at, "Infinity")) {
		at += strlen("Infinity");
		goto done;
	}
	next = digits(reader, at);
	if (next == at)
		return fail_at(reader, begin, err, "a number needs a digit");
	if (reader->data[at] == '0' && next > at + 1)
		return fail_at(reader, begin, err, "a number must not begin with 0");
	at = next;
	if (at < reader->size && reader->data[at] == '.') {
		next = digits(reader, at + 1);
		if (next == at + 1)
			return fail_at(reader, begin, err, "a number needs a digit after its point");
		at = next;
	}
	if (at < reader->size && (reader->data[at] == 'e' || reader->data[at] == 'E')) {
		at++;
		if (at < reader->size && (reader->data[at] == '+' || reader->data[at] == '-'))
			at++;
		next = digits(reader, at);
		if (next == at)
			return fail_at(reader, begin, err, "a number needs a digit in its exponent");
		at = next;
	}
done:
	reader->at = at;
	buf_clear(&reader->text);
	return buf_add(&reader->text, reader->data + begin, at - begin, err);
}

static int read_word(struct json_reader *reader, struct err *err)
{
	static const struct {
		const char *word;
		enum json_kind kind;
	} words[] = { { "true", JSON_TRUE }, { "false", JSON_FALSE }, { "null", JSON_NULL }, { "NaN", JSON_NUMBER },
		      { "Infinity", JSON_NUMBER } };

	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		if (!has_word(reader, reader->at, words[i].word))
			continue;
		reader->at += strlen(words[i].word);
		reader->kind = words[i].kind;
		buf_clear(&reader->text);
		return words[i].kind == JSON_NUMBER ? buf_add_text(&reader->text, words[i].word, err) : 0;
	}
	return fail_wanted(reader, err, "a value");
}

/* --- structure ----------------------------------------------------------- */

static bool in_object(const struct json_reader *reader)
{
	return reader->depth > 0 && (reader->closers >> (reader->depth - 1) & 1) != 0;
}

static void value_done(struct json_reader *reader)
{
	reader->state = reader->depth == 0 ? STATE_DONE : STATE_COMMA_OR_END;
}

static int open_container(struct json_reader *reader, bool object, struct err *err)
{
	if (reader->depth == JSON_DEPTH_MAX)
		return json_fail(reader, err, "nested deeper than %d levels", JSON_DEPTH_MAX);
	uint64_t bit = (uint64_t)1 << reader->depth;
	reader->closers = object ? reader->closers | bit : reader->closers & ~bit;
	reader->depth++;
	reader->at++;
	reader->kind = object ? JSON_OBJECT_BEGIN : JSON_ARRAY_BEGIN;
	reader->state = object ? STATE_KEY_OR_END : STATE_VALUE_OR_END;
	return 0;
}

static int close_container(struct json_reader *reader)
{
	reader->kind = in_object(reader) ? JSON_OBJECT_END : JSON_ARRAY_END;
	reader->at++;
	reader->depth--;
	value_done(reader);
	return 0;
}

static int read_value(struct json_reader *reader, struct err *err)
{
	int code;
	char c = reader->at < reader->size ? reader->data[reader->at] : '\0';

	if (c == '{' || c == '[')
		return open_container(reader, c == '{', err);
	if (c == '"') {
		code = read_string(reader, err);
		reader->kind = JSON_STRING;
	} else if (c == '-' || (c >= '0' && c <= '9')) {
		code = read_number(reader, err);
		reader->kind = JSON_NUMBER;
	} else {
		code = reader->at < reader->size ? read_word(reader, err) : fail_wanted(reader, err, "a value");
	}
	if (code == 0)
		value_done(reader);
	return code;
}

static int read_key(struct json_reader *reader, struct err *err)
{
	int code;

	if (reader->at >= reader->size || reader->data[reader->at] != '"')
		return fail_wanted(reader, err, "a key in quotes");
	if ((code = read_string(reader, err)) != 0)
		return code;
	reader->kind = JSON_KEY;
	reader->state = STATE_COLON;
	return 0;
}

/* Passes the comma or colon that must stand before the next event. */
static int separator(struct json_reader *reader, char mark, enum state then, struct err *err)
{
	if (reader->at >= reader->size || reader->data[reader->at] != mark)
		return fail_wanted(reader, err, mark == ':' ? "':'" : in_object(reader) ? "',' or '}'" : "',' or ']'");
	reader->at++;
	reader->state = then;
	skip_space(reader);
	return 0;
}

int json_next(struct json_reader *reader, struct err *err)
{
	int code = 0;

	skip_space(reader);
	char c = reader->at < reader->size ? reader->data[reader->at] : '\0';
	bool closes = c == (in_object(reader) ? '}' : ']');
	switch ((enum state)reader->state) {
	case STATE_DONE:
		if (reader->at < reader->size)
			return fail_wanted(reader, err, "the end of the file");
		reader->kind = JSON_END;
		return 0;
	case STATE_COMMA_OR_END:
		if (closes)
			return close_container(reader);
		code = separator(reader, ',', in_object(reader) ? STATE_KEY : STATE_VALUE, err);
		break;
	case STATE_KEY_OR_END:
	case STATE_VALUE_OR_END:
		if (closes)
			return close_container(reader);
		reader->state = reader->state == STATE_KEY_OR_END ? STATE_KEY : STATE_VALUE;
		break;
	case STATE_COLON:
		code = separator(reader, ':', STATE_VALUE, err);
		break;
	case STATE_KEY:
	case STATE_VALUE:
		break;
	}
	if (code != 0)
		return code;
	return reader->state == STATE_KEY ? read_key(reader, err) : read_value(reader, err);
}

int json_skip(struct json_reader *reader, struct err *err)
{
	int depth = reader->depth;
	int code;

	do {
		if ((code = json_next(reader, err)) != 0)
			return code;
	} while (reader->depth > depth);
	return 0;
}

struct json_mark json_mark(const struct json_reader *reader)
{
	return (struct json_mark){ reader->at, reader->token_at, reader->line, reader->line_start, reader->closers, reader->depth,
				   reader->state, reader->kind };
}

void json_return(struct json_reader *reader, const struct json_mark *mark)
{
	reader->at = mark->at;
	reader->token_at = mark->token_at;
	reader->line = mark->line;
	reader->line_start = mark->line_start;
	reader->closers = mark->closers;
	reader->depth = mark->depth;
	reader->state = mark->state;
	reader->kind = mark->kind;
}

/* --- typed reading --------------------------------------------------------- */

static const char *kind_name(enum json_kind kind)
{
	static const char *const names[] = { "an object", "the end of an object", "an array", "the end of an array",
					     "a key", "a string", "a number", "true", "false", "null",
					     "the end of the file" };

	return names[kind];
}

int json_expect(struct json_reader *reader, enum json_kind kind, struct err *err)
{
	int code = json_next(reader, err);

	if (code == 0 && reader->kind != kind)
		code = json_fail(reader, err, "%s where %s should be", kind_name(reader->kind), kind_name(kind));
	return code;
}

int json_int(const struct json_reader *reader, int64_t *out, struct err *err)
{
	char *end;

	if (reader->kind != JSON_NUMBER)
		return json_fail(reader, err, "%s where a whole number should be", kind_name(reader->kind));
	errno = 0;
	long long value = strtoll(reader->text.data, &end, 10);
	if (*end != '\0' || end == reader->text.data)
		return json_fail(reader, err, "%.*s is not a whole number", MESSAGE_EXCERPT_BYTES, reader->text.data);
	if (errno == ERANGE)
		return json_fail(reader, err, "%.*s is beyond 64 bits", MESSAGE_EXCERPT_BYTES, reader->text.data);
	*out = value;
	return 0;
}

int json_real(const struct json_reader *reader, double *out, struct err *err)
{
	if (reader->kind != JSON_NUMBER)
		return json_fail(reader, err, "%s where a number should be", kind_name(reader->kind));
	double value = strtod(reader->text.data, NULL);
	/* Infinity spelled out is meant; a literal that overflows is not. */
	if (isinf(value) && strchr(reader->text.data, 'I') == NULL)
		return json_fail(reader, err, "%.*s is beyond a double", MESSAGE_EXCERPT_BYTES, reader->text.data);
	*out = value;
	return 0;
}

/* --- writing --------------------------------------------------------------- */

/* Adds the byte at text, or the character that begins there; returns how many bytes it took. */
static int add_char(struct buf *out, const char *text, size_t size, size_t *taken, struct err *err)
{
	static const char names[] = "btnvfr";
	unsigned char c = (unsigned char)text[0];
	size_t bytes = utf8_char_bytes(text, size);

	*taken = bytes;
	if (bytes == 0) {
		*taken = utf8_bad_bytes(text, size);
		return buf_add_text(out, "\xEF\xBF\xBD", err);
	}
	if (c == '"' || c == '\\')
		return buf_printf(out, err, "\\%c", c);
	if (c >= 8 && c <= 13 && c != 11)
		return buf_printf(out, err, "\\%c", names[c - 8]);
	if (c < 0x20 || c == 0x7F)
		return buf_printf(out, err, "\\u%04x", c);
	return buf_add(out, text, bytes, err);
}

int json_add_string(struct buf *out, const char *text, size_t size, struct err *err)
{
	size_t before = out->size, at = 0, run;
	int code = buf_add_byte(out, '"', err);

	while (code == 0 && at < size) {
		for (run = at; at < size; at++) {
			unsigned char c = (unsigned char)text[at];

			if (c < 0x20 || c >= 0x7F || c == '"' || c == '\\')
				break;
		}
		code = buf_add(out, text + run, at - run, err);
		if (code == 0 && at < size) {
			size_t taken;

			code = add_char(out, text + at, size - at, &taken, err);
			at += taken;
		}
	}
	if (code == 0)
		code = buf_add_byte(out, '"', err);
	if (code != 0 && out->data != NULL)
		out->data[out->size = before] = '\0';
	return code;
}

int json_add_real(struct buf *out, double value, struct err *err)
{
	char text[40];

	if (!isfinite(value))
		return buf_add_text(out, "null", err);
	for (int precision = 15; precision <= 17; precision++) {
		snprintf(text, sizeof(text), "%.*g", precision, value);
		if (strtod(text, NULL) == value)
			break;
	}
	return buf_add_text(out, text, err);
}
