/* json.h: what it accepts, what it refuses and where it says the fault lies. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shared/base/json.h"
#include "shared/base/utf8.h"

/* One letter per event, and the text of keys, strings and numbers: easy to compare. */
static int trace(const char *json, size_t size, bool lenient, struct buf *out, struct err *err)
{
	static const char letters[] = "{}[]ksntfz.";
	struct json_reader reader;
	int code;

	json_reader_init(&reader, "x.json", json, size);
	reader.lenient_utf8 = lenient;
	do {
		if ((code = json_next(&reader, err)) != 0)
			break;
		assert_int_equal(buf_add_byte(out, letters[reader.kind], err), 0);
		if (reader.kind == JSON_KEY || reader.kind == JSON_STRING || reader.kind == JSON_NUMBER) {
			assert_int_equal(buf_add(out, reader.text.data, reader.text.size, err), 0);
			assert_int_equal(buf_add_byte(out, ' ', err), 0);
		}
	} while (reader.kind != JSON_END);
	json_reader_free(&reader);
	return code;
}

static void accepts(const char *json, const char *want)
{
	struct buf out = BUF_INIT;
	struct err err = { 0 };
	int code = trace(json, strlen(json), false, &out, &err);

	if (code != 0)
		fail_msg("%s: %s", json, err.message);
	assert_string_equal(out.data, want);
	buf_free(&out);
}

static void refuses(const char *json, size_t size, const char *want)
{
	struct buf out = BUF_INIT;
	struct err err = { 0 };
	int code = trace(json, size, false, &out, &err);

	if (code == 0)
		fail_msg("%s: accepted as %s", json, out.data);
	assert_int_equal(code, ERR_FORMAT);
	if (strstr(err.message, want) == NULL)
		fail_msg("%s: the message is \"%s\", should have \"%s\"", json, err.message, want);
	buf_free(&out);
}

static void test_accepts(void **state)
{
	(void)state;
	accepts("{}", "{}.");
	accepts(" [ ] \r\n\t", "[].");
	accepts("\xEF\xBB\xBF[1]", "[n1 ].");
	accepts("null", "z.");
	accepts("\"a\"", "sa .");
	accepts("-0", "n-0 .");
	accepts("{\"a\":[1,2.5e-3,true,false,null],\"b\":{\"c\":\"d\"}}", "{ka [n1 n2.5e-3 tfz]kb {kc sd }}.");
	accepts("[NaN,Infinity,-Infinity]", "[nNaN nInfinity n-Infinity ].");
	accepts("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "s\"\\/\b\f\n\r\t .");
	accepts("\"\\u00e9\\u20AC\\ud83d\\ude00\"", "s\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80 .");
	accepts("\"\\ud7ff\\ue000\"", "s\xED\x9F\xBF\xEE\x80\x80 .");
	accepts("{\"a\":1,\"a\":2}", "{ka n1 ka n2 }.");
	accepts("\"\xE6\x97\xA5\xE6\x9C\xAC\x7F\"", "s\xE6\x97\xA5\xE6\x9C\xAC\x7F .");
}

#define REFUSES(json, want) refuses(json, sizeof(json) - 1, want)

static void test_refuses(void **state)
{
	(void)state;
	REFUSES("", "x.json:1:1: the file ends where a value");
	REFUSES("  \n ", "x.json:2:2: ");
	REFUSES("[1,]", "x.json:1:4: ']' where a value");
	REFUSES("{\"a\":1,}", "x.json:1:8: '}' where a key");
	REFUSES("{\"a\" 1}", "':' should be");
	REFUSES("{\"a\":}", "a value should be");
	REFUSES("{a:1}", "a key in quotes");
	REFUSES("{1:1}", "a key in quotes");
	REFUSES("[1 2]", "',' or ']'");
	REFUSES("[1}", "',' or ']'");
	REFUSES("{\"a\":1]", "',' or '}'");
	REFUSES("[1", "the file ends where ',' or ']'");
	REFUSES("1 2", "the end of the file");
	REFUSES("]", "a value should be");
	REFUSES("[01]", "begin with 0");
	REFUSES("[-]", "needs a digit");
	REFUSES("[1.]", "after its point");
	REFUSES("[.5]", "a value should be");
	REFUSES("[1e]", "exponent");
	REFUSES("[1e+]", "exponent");
	REFUSES("[+1]", "a value should be");
	REFUSES("[tru]", "a value should be");
	REFUSES("\"abc", "never ends");
	REFUSES("\"a\nb\"", "x.json:1:3: a control character");
	REFUSES("\"a\0b\"", "a control character");
	REFUSES("[\n \"\\x\"]", "x.json:2:3: unknown escape");
	REFUSES("\"\\u12g4\"", "four hexadecimal");
	REFUSES("\"\\u12", "four hexadecimal");
	REFUSES("\"\\", "ends inside a string");
	REFUSES("\"ab\xFF\"", "x.json:1:4: invalid UTF-8");
	REFUSES("\"\xC0\x80\"", "invalid UTF-8");
	REFUSES("\"\xED\xA0\x80\"", "invalid UTF-8");
	REFUSES("\"\xF4\x90\x80\x80\"", "invalid UTF-8");
	REFUSES("\"ab\\ud83d\"", "x.json:1:4: half of a surrogate pair");
	REFUSES("\"\\udc00\"", "x.json:1:2: half of a surrogate pair");
	REFUSES("\"\\ud83dx\\udc00\"", "x.json:1:2: half of a surrogate pair");
	REFUSES("\"\\ud83d\\ud83d\\ude00\"", "x.json:1:2: half of a surrogate pair");
	REFUSES("{\"\\ud83d\": 1}", "half of a surrogate pair");
	REFUSES("\"\xE2\x82\"", "invalid UTF-8");
	REFUSES("\0", "byte 0x00");
}

static void test_lenient_utf8(void **state)
{
	struct buf out = BUF_INIT;
	struct err err;

	(void)state;
	assert_int_equal(trace("[\"a\xFF\"]", 6, true, &out, &err), 0);
	assert_string_equal(out.data, "[sa\xFF ].");
	buf_free(&out);
	/* a lone surrogate is as invalid as the bytes that UTF-8 would have for it */
	static const char lone[] = "[\"\\ud800\\ud83d\\ude00\\udfffa\"]";
	assert_int_equal(trace(lone, strlen(lone), true, &out, &err), 0);
	assert_string_equal(out.data, "[s\xED\xA0\x80\xF0\x9F\x98\x80\xED\xBF\xBF" "a ].");
	buf_free(&out);
}

static void test_depth(void **state)
{
	char json[2 * (JSON_DEPTH_MAX + 1)];

	(void)state;
	memset(json, '[', sizeof(json));
	refuses(json, sizeof(json), "nested deeper than 64");
	for (int i = 0; i < JSON_DEPTH_MAX; i++) {
		json[i] = '[';
		json[2 * JSON_DEPTH_MAX - 1 - i] = ']';
	}
	struct buf out = BUF_INIT;
	struct err err;
	assert_int_equal(trace(json, 2 * JSON_DEPTH_MAX, false, &out, &err), 0);
	buf_free(&out);
}

static void test_skip_and_expect(void **state)
{
	static const char json[] = "{\"a\":{\"x\":[1,[2]],\"y\":\"z\"},\"b\":7,\n\"c\":\"s\"}";
	struct json_reader reader;
	struct err err;
	int64_t value = 0;

	(void)state;
	json_reader_init(&reader, "x.json", json, strlen(json));
	assert_int_equal(json_expect(&reader, JSON_OBJECT_BEGIN, &err), 0);
	assert_int_equal(json_expect(&reader, JSON_KEY, &err), 0);
	assert_int_equal(json_skip(&reader, &err), 0);
	assert_int_equal(json_expect(&reader, JSON_KEY, &err), 0);
	assert_string_equal(reader.text.data, "b");
	assert_int_equal(json_expect(&reader, JSON_NUMBER, &err), 0);
	assert_int_equal(json_int(&reader, &value, &err), 0);
	assert_int_equal(value, 7);
	assert_int_equal(json_expect(&reader, JSON_KEY, &err), 0);
	assert_int_equal(json_expect(&reader, JSON_NUMBER, &err), ERR_FORMAT);
	assert_string_equal(err.message, "x.json:2:5: a string where a number should be");
	assert_int_equal(json_expect(&reader, JSON_OBJECT_END, &err), 0);
	assert_int_equal(json_expect(&reader, JSON_END, &err), 0);
	assert_int_equal(json_expect(&reader, JSON_END, &err), 0);
	json_reader_free(&reader);
}

static int number(const char *text, int64_t *i, double *d, struct err *err)
{
	struct json_reader reader;

	json_reader_init(&reader, "n", text, strlen(text));
	assert_int_equal(json_next(&reader, err), 0);
	int code = i != NULL ? json_int(&reader, i, err) : json_real(&reader, d, err);
	json_reader_free(&reader);
	return code;
}

static void test_numbers(void **state)
{
	struct err err;
	int64_t i;
	double d;

	(void)state;
	assert_int_equal(number("-9223372036854775808", &i, NULL, &err), 0);
	assert_true(i == INT64_MIN);
	assert_int_equal(number("9223372036854775808", &i, NULL, &err), ERR_FORMAT);
	assert_int_equal(number("1.0", &i, NULL, &err), ERR_FORMAT);
	assert_int_equal(number("1e3", &i, NULL, &err), ERR_FORMAT);
	assert_int_equal(number("NaN", &i, NULL, &err), ERR_FORMAT);
	assert_int_equal(number("true", &i, NULL, &err), ERR_FORMAT);
	assert_int_equal(number("0.1", NULL, &d, &err), 0);
	assert_true(d == 0.1);
	assert_int_equal(number("-Infinity", NULL, &d, &err), 0);
	assert_true(isinf(d) && d < 0);
	assert_int_equal(number("NaN", NULL, &d, &err), 0);
	assert_true(isnan(d));
	assert_int_equal(number("1e999", NULL, &d, &err), ERR_FORMAT);
}

static void writes_string(const char *text, size_t size, const char *want)
{
	struct buf out = BUF_INIT;
	struct err err;

	assert_int_equal(json_add_string(&out, text, size, &err), 0);
	assert_string_equal(out.data, want);
	buf_free(&out);
}

static void test_write(void **state)
{
	static const double values[] = { 0.0, -0.0, 1.0, 0.1, 1.0 / 3, 1e300, 5e-324, 1.7976931348623157e308, 123456789012345678.0,
					 5.684341886080802e-14, -2.5 };
	struct buf out = BUF_INIT;
	struct err err;

	(void)state;
	writes_string("", 0, "\"\"");
	writes_string("a\"b\\c/\n\t\x01\x7F", 10, "\"a\\\"b\\\\c/\\n\\t\\u0001\\u007f\"");
	writes_string("\b\f\r\v", 4, "\"\\b\\f\\r\\u000b\"");
	writes_string("a\0b", 3, "\"a\\u0000b\"");
	writes_string("\xC3\xA9\xFFz\xE2\x82", 6, "\"\xC3\xA9\xEF\xBF\xBDz\xEF\xBF\xBD\"");
	for (size_t i = 0; i < ARRAY_LEN(values); i++) {
		buf_clear(&out);
		assert_int_equal(json_add_real(&out, values[i], &err), 0);
		assert_true(strtod(out.data, NULL) == values[i]);
	}
	buf_clear(&out);
	assert_int_equal(json_add_real(&out, 0.1, &err), 0);
	assert_string_equal(out.data, "0.1");
	buf_clear(&out);
	assert_int_equal(json_add_real(&out, NAN, &err), 0);
	assert_string_equal(out.data, "null");
	buf_free(&out);
}

static void test_utf8(void **state)
{
	char bytes[4];

	(void)state;
	/* Every scalar value survives; every surrogate is refused. */
	for (uint32_t point = 0; point <= 0x10FFFF; point++) {
		size_t n = utf8_put(bytes, point);

		if (utf8_char_bytes(bytes, n) != n)
			fail_msg("U+%04X", point);
		if (n > 1 && utf8_char_bytes(bytes, n - 1) != 0)
			fail_msg("U+%04X cut", point);
	}
	assert_int_equal(utf8_valid_bytes("abcdefgh\xC3\xA9\xFF", 11), 10);
	assert_int_equal(utf8_valid_bytes("abcdefghi", 9), 9);
	assert_int_equal(utf8_valid_bytes("", 0), 0);
	assert_int_equal(utf8_char_bytes("\xED\xA0\x80", 3), 0);
	assert_int_equal(utf8_char_bytes("\xF4\x90\x80\x80", 4), 0);
	assert_int_equal(utf8_char_bytes("\xE0\x80\x80", 3), 0);
	assert_int_equal(utf8_bad_bytes("\xE2\x82z", 3), 2);
	assert_int_equal(utf8_bad_bytes("\xF0\x80\x80", 3), 1);
	assert_int_equal(utf8_bad_bytes("\xF0\x9F\x98", 3), 3);
	assert_int_equal(utf8_bad_bytes("\x80\x80", 2), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_accepts),
		cmocka_unit_test(test_refuses),
		cmocka_unit_test(test_lenient_utf8),
		cmocka_unit_test(test_depth),
		cmocka_unit_test(test_skip_and_expect),
		cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_write),
		cmocka_unit_test(test_utf8),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
