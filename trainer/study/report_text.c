#include "trainer/study/report_text.h"

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/json.h"
#include "shared/base/utf8.h"

void text_begin(struct text *t, struct err *err)
{
	*t = (struct text){ .out = BUF_INIT, .err = err };
}

int text_end(struct text *t)
{
	return t->code;
}

void text_free(struct text *t)
{
	buf_free(&t->out);
}

void text_bytes(struct text *t, const void *bytes, size_t size)
{
	if (t->code == 0 && size > 0)
		t->code = buf_add(&t->out, bytes, size, t->err);
}

void text_add(struct text *t, const char *literal)
{
	text_bytes(t, literal, strlen(literal));
}

void text_f(struct text *t, const char *format, ...)
{
	char small[512];
	va_list args;

	if (t->code != 0)
		return;
	va_start(args, format);
	int size = vsnprintf(small, sizeof(small), format, args);
	va_end(args);
	CHECK(size >= 0);
	if ((size_t)size < sizeof(small)) {
		text_bytes(t, small, (size_t)size);
		return;
	}
	if ((t->code = buf_reserve(&t->out, (size_t)size + 1, t->err)) != 0)
		return;
	va_start(args, format);
	vsnprintf(t->out.data + t->out.size, (size_t)size + 1, format, args);
	va_end(args);
	t->out.size += (size_t)size;
}

/* ---- escaping ---- */

/* Calls put() with each well-formed character; what is ill-formed is U+FFFD, a control character a space. */
static void each_char(struct text *t, const char *s, size_t size, void (*put)(struct text *t, const char *c, size_t bytes))
{
	while (size > 0 && t->code == 0) {
		size_t bytes = utf8_char_bytes(s, size);

		if (bytes == 0) {
			bytes = utf8_bad_bytes(s, size);
			put(t, "\xEF\xBF\xBD", 3);
		} else if (bytes == 1 && ((unsigned char)*s < 0x20 || *s == 0x7F)) {
			put(t, " ", 1);
		} else {
			put(t, s, bytes);
		}
		s += bytes;
		size -= bytes;
	}
}

struct escape {
	char c;
	const char *as;
};

static void put_escaped(struct text *t, const char *c, size_t bytes, const struct escape *table, size_t count)
{
	for (size_t i = 0; bytes == 1 && i < count; i++) {
		if (table[i].c == *c) {
			text_add(t, table[i].as);
			return;
		}
	}
	text_bytes(t, c, bytes);
}

static void put_html(struct text *t, const char *c, size_t bytes)
{
	static const struct escape table[] = { { '&', "&amp;" }, { '<', "&lt;" }, { '>', "&gt;" }, { '"', "&quot;" }, { '\'', "&#39;" } };

	put_escaped(t, c, bytes, table, ARRAY_LEN(table));
}

static void put_tex(struct text *t, const char *c, size_t bytes)
{
	static const struct escape table[] = {
		{ '\\', "\\textbackslash{}" }, { '{', "\\{" }, { '}', "\\}" }, { '$', "\\$" }, { '&', "\\&" }, { '#', "\\#" },
		{ '%', "\\%" }, { '_', "\\_" }, { '~', "\\textasciitilde{}" }, { '^', "\\textasciicircum{}" }, { '<', "\\textless{}" },
		{ '>', "\\textgreater{}" }, { '"', "\\textquotedbl{}" }, { '|', "\\textbar{}" }, { '\'', "\\textquotesingle{}" },
		{ '`', "\\textasciigrave{}" }, { '-', "{-}" },
	};

	/* Our own numbers have them. */
	if (bytes == 3 && memcmp(c, "\xE2\x88\x92", 3) == 0)
		text_add(t, "$-$");
	else if (bytes == 3 && memcmp(c, "\xE2\x80\x93", 3) == 0)
		text_add(t, "--");
	else
		put_escaped(t, c, bytes, table, ARRAY_LEN(table));
}

static void put_md(struct text *t, const char *c, size_t bytes)
{
	static const struct escape table[] = {
		{ '\\', "\\\\" }, { '|', "\\|" }, { '`', "\\`" }, { '*', "\\*" }, { '_', "\\_" }, { '[', "\\[" }, { ']', "\\]" },
		{ '<', "&lt;" }, { '>', "&gt;" }, { '&', "&amp;" }, { '#', "\\#" }, { '~', "\\~" },
	};

	put_escaped(t, c, bytes, table, ARRAY_LEN(table));
}

static void put_csv(struct text *t, const char *c, size_t bytes)
{
	static const struct escape table[] = { { '"', "\"\"" } };

	put_escaped(t, c, bytes, table, ARRAY_LEN(table));
}

static void put_html_name(struct text *t, const char *c, size_t bytes)
{
	put_html(t, c, bytes);
	if (bytes == 1 && strchr("+_/", *c) != NULL)
		text_add(t, "<wbr>");
}

void text_html_name(struct text *t, const char *s)
{
	each_char(t, s, strlen(s), put_html_name);
}

void text_html_bytes(struct text *t, const void *s, size_t size)
{
	each_char(t, s, size, put_html);
}

void text_html_cut(struct text *t, const char *s, int characters)
{
	size_t size = strlen(s), at = 0;

	for (int i = 0; i < characters && at < size; i++) {
		size_t bytes = utf8_char_bytes(s + at, size - at);

		at += bytes > 0 ? bytes : utf8_bad_bytes(s + at, size - at);
	}
	text_html_bytes(t, s, at);
	if (at < size)
		text_add(t, "\xE2\x80\xA6");
}

void text_html(struct text *t, const char *s)
{
	if (s != NULL)
		each_char(t, s, strlen(s), put_html);
}

void text_tex(struct text *t, const char *s)
{
	if (s != NULL)
		each_char(t, s, strlen(s), put_tex);
}

void text_md(struct text *t, const char *s)
{
	if (s != NULL)
		each_char(t, s, strlen(s), put_md);
}

void text_csv(struct text *t, const char *s)
{
	text_add(t, "\"");
	if (s != NULL)
		each_char(t, s, strlen(s), put_csv);
	text_add(t, "\"");
}

void text_json(struct text *t, const char *s)
{
	if (s == NULL)
		text_add(t, "null");
	else if (t->code == 0)
		t->code = json_add_string(&t->out, s, strlen(s), t->err);
}

void text_json_real(struct text *t, double value)
{
	if (t->code == 0)
		t->code = json_add_real(&t->out, value, t->err);
}

void text_csv_real(struct text *t, double value)
{
	if (isfinite(value))
		text_json_real(t, value);
}

void text_base64(struct text *t, const void *bytes, size_t size)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const unsigned char *b = bytes;
	char four[4];

	for (size_t i = 0; i < size; i += 3) {
		unsigned left = size - i < 3 ? (unsigned)(size - i) : 3;
		uint32_t v = (uint32_t)b[i] << 16 | (left > 1 ? (uint32_t)b[i + 1] << 8 : 0) | (left > 2 ? b[i + 2] : 0);

		for (unsigned k = 0; k < 4; k++)
			four[k] = k <= left ? digits[v >> (18 - 6 * k) & 63] : '=';
		text_bytes(t, four, 4);
	}
}

/* ---- numbers ---- */

static const char dash[] = "\xE2\x80\x93", minus[] = "\xE2\x88\x92";

/* A sign before zero would say what the digits do not show. */
static struct text_number number(double value, int digits, bool plus)
{
	struct text_number out;
	char plain[400];

	if (!isfinite(value)) {
		snprintf(out.s, sizeof(out.s), "%s", dash);
		return out;
	}
	if (fabs(value) >= 1e15) {
		snprintf(out.s, sizeof(out.s), "%.3g", value);
		return out;
	}
	snprintf(plain, sizeof(plain), "%.*f", digits, fabs(value));
	bool zero = strspn(plain, "0.") == strlen(plain);
	snprintf(out.s, sizeof(out.s), "%s%.32s", zero ? "" : value < 0 ? minus : plus ? "+" : "", plain);
	return out;
}

struct text_number text_percent(double share, int digits)
{
	return number(100 * share, digits, false);
}

struct text_number text_points(double difference, int digits)
{
	return number(100 * difference, digits, true);
}

struct text_number text_fixed(double value, int digits)
{
	return number(value, digits, false);
}

struct text_number text_p(double p)
{
	struct text_number out;

	if (isfinite(p) && p < 0.001)
		snprintf(out.s, sizeof(out.s), "< 0.001");
	else
		/* 0.0496 must not look like 0.05. */
		out = number(p, p < 0.1 ? 4 : 2, false);
	return out;
}

struct text_number text_seconds(double seconds)
{
	struct text_number out;

	if (!isfinite(seconds))
		return number(seconds, 0, false);
	if (seconds < 120)
		snprintf(out.s, sizeof(out.s), "%.1f s", seconds);
	else if (seconds < 7200)
		snprintf(out.s, sizeof(out.s), "%.1f min", seconds / 60);
	else
		snprintf(out.s, sizeof(out.s), "%.1f h", seconds / 3600);
	return out;
}
