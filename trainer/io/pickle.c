/* The opcodes. */
#include "trainer/io/pickle_parts.h"

#include <stdio.h>
#include <string.h>

#include "shared/base/args.h"
#include "shared/base/mem.h"

enum { FIRST_CAPACITY = 64, LINE_MAX_BYTES = 1024, INT64_BYTES = 8 };

enum opcode {
	OP_MARK = '(', OP_STOP = '.', OP_POP = '0', OP_POP_MARK = '1', OP_DUP = '2', OP_INT = 'I', OP_BININT = 'J',
	OP_BININT1 = 'K', OP_LONG = 'L', OP_BININT2 = 'M', OP_NONE = 'N', OP_BINPERSID = 'Q', OP_REDUCE = 'R',
	OP_BINSTRING = 'T', OP_SHORT_BINSTRING = 'U', OP_BINUNICODE = 'X', OP_APPEND = 'a', OP_BUILD = 'b', OP_GLOBAL = 'c',
	OP_DICT = 'd', OP_APPENDS = 'e', OP_GET = 'g', OP_BINGET = 'h', OP_LONG_BINGET = 'j', OP_LIST = 'l', OP_PUT = 'p',
	OP_BINPUT = 'q', OP_LONG_BINPUT = 'r', OP_SETITEM = 's', OP_TUPLE = 't', OP_SETITEMS = 'u', OP_EMPTY_DICT = '}',
	OP_EMPTY_LIST = ']', OP_EMPTY_TUPLE = ')', OP_BINFLOAT = 'G', OP_BINBYTES = 'B', OP_SHORT_BINBYTES = 'C', OP_PROTO = 0x80,
	OP_TUPLE1 = 0x85, OP_TUPLE2, OP_TUPLE3, OP_NEWTRUE, OP_NEWFALSE, OP_LONG1, OP_LONG4,
	OP_SHORT_BINUNICODE = 0x8C, OP_BINUNICODE8, OP_BINBYTES8, OP_EMPTY_SET, OP_ADDITEMS, OP_FROZENSET,
	OP_STACK_GLOBAL = 0x93, OP_MEMOIZE, OP_FRAME,
};

/* Those that are known but not taken, to be called by name. */
static const struct {
	uint8_t code;
	const char *name;
} refused[] = {
	{ 'i', "INST" }, { 'o', "OBJ" }, { 0x81, "NEWOBJ" }, { 0x92, "NEWOBJ_EX" }, { 0x82, "EXT1" }, { 0x83, "EXT2" }, { 0x84, "EXT4" },
	{ 'P', "PERSID" }, { 'S', "STRING" }, { 'V', "UNICODE" }, { 'F', "FLOAT" }, { 0x96, "BYTEARRAY8" }, { 0x97, "NEXT_BUFFER" },
	{ 0x98, "READONLY_BUFFER" },
};

/* ---- memory ---- */

int pickle_damaged(const struct pickle *p, struct err *err, const char *what)
{
	return err_set(err, ERR_FORMAT, "%s: damaged pickle at byte %zu: %s; copy or download it again", p->name, p->opcode_at, what);
}

int pickle_grow(struct pickle *p, void *array, uint32_t count, uint32_t *capacity, size_t size, uint32_t most, const char *what,
		struct err *err)
{
	uint32_t wanted = *capacity == 0 ? FIRST_CAPACITY : 2 * *capacity;
	void *old, *grown;

	if (count < *capacity)
		return 0;
	if (count >= most)
		return err_set(err, ERR_LIMIT, "%s: its pickle has more than %u %s", p->name, most, what);
	memcpy(&old, array, sizeof(old)); /* array points to a pointer of any type */
	if ((grown = mem_realloc_array(old, wanted, size)) == NULL)
		return err_nomem(err, (size_t)wanted * size);
	memcpy(array, &grown, sizeof(grown));
	*capacity = wanted;
	return 0;
}

int pickle_new(struct pickle *p, enum pickle_kind kind, uint32_t *out, struct err *err)
{
	int code = pickle_grow(p, &p->values, p->value_count, &p->value_capacity, sizeof(*p->values), PICKLE_VALUES_MAX, "values", err);

	*out = 0;
	if (code != 0)
		return code;
	*out = p->value_count++;
	p->values[*out] = (struct pickle_value){ .kind = kind };
	return 0;
}

int pickle_add_items(struct pickle *p, uint32_t value, const uint32_t *items, uint32_t count, struct err *err)
{
	struct pickle_value *v = &p->values[value];
	uint32_t *grown, wanted = v->capacity;

	if (count > PICKLE_ITEMS_MAX - p->item_count)
		return err_set(err, ERR_LIMIT, "%s: its pickle has more than %d members of lists and dicts", p->name, PICKLE_ITEMS_MAX);
	if (count > v->capacity - v->count) {
		while (wanted - v->count < count)
			wanted = wanted == 0 ? count : 2 * wanted;
		if ((grown = mem_realloc_array(v->items, wanted, sizeof(*grown))) == NULL)
			return err_nomem(err, (size_t)wanted * sizeof(*grown));
		v->items = grown;
		v->capacity = wanted;
	}
	if (count > 0)
		memcpy(v->items + v->count, items, count * sizeof(*items));
	v->count += count;
	p->item_count += count;
	return 0;
}

/* ---- the stack ---- */

static int push(struct pickle *p, uint32_t value, struct err *err)
{
	int code = pickle_grow(p, &p->stack, p->depth, &p->stack_capacity, sizeof(*p->stack), PICKLE_ITEMS_MAX, "values on its stack", err);

	if (code == 0)
		p->stack[p->depth++] = value;
	return code;
}

static int push_new(struct pickle *p, struct pickle_value value, struct err *err)
{
	uint32_t index;
	int code = pickle_new(p, value.kind, &index, err);

	if (code != 0)
		return code;
	p->values[index] = value;
	return push(p, index, err);
}

/* What may be popped: nothing below the last mark. */
static uint32_t available(const struct pickle *p)
{
	return p->depth - (p->mark_count == 0 ? 0 : p->marks[p->mark_count - 1]);
}

static int need(const struct pickle *p, uint32_t count, struct err *err)
{
	return available(p) < count ? pickle_damaged(p, err, "its stack is too short") : 0;
}

static int pop_mark(struct pickle *p, uint32_t *base, struct err *err)
{
	*base = 0;
	if (p->mark_count == 0)
		return pickle_damaged(p, err, "a mark is missing");
	*base = p->marks[--p->mark_count];
	return 0;
}

static uint32_t top(const struct pickle *p)
{
	return p->stack[p->depth - 1];
}

/* ---- arguments of opcodes ---- */

static int take(struct pickle *p, size_t count, const uint8_t **out, struct err *err)
{
	*out = NULL;
	if (count > p->bytes - p->at)
		return err_set(err, ERR_FORMAT, "%s: its pickle is cut short; copy or download it again", p->name);
	*out = p->data + p->at;
	p->at += count;
	return 0;
}

static int take_number(struct pickle *p, int bytes, uint64_t *out, struct err *err)
{
	const uint8_t *from;
	int code = take(p, (size_t)bytes, &from, err);

	*out = 0;
	for (int i = 0; code == 0 && i < bytes; i++)
		*out |= (uint64_t)from[i] << (8 * i);
	return code;
}

/* A line without its end. */
static int take_line(struct pickle *p, const char **out, size_t *length, struct err *err)
{
	const uint8_t *start = p->data + p->at, *end = memchr(start, '\n', p->bytes - p->at);

	*out = NULL;
	*length = 0;
	if (end == NULL || end - start > LINE_MAX_BYTES)
		return pickle_damaged(p, err, "a line has no end");
	*out = (const char *)start;
	*length = (size_t)(end - start);
	p->at += *length + 1;
	return 0;
}

static int push_text(struct pickle *p, enum pickle_kind kind, int length_bytes, struct err *err)
{
	struct pickle_value value = { .kind = kind };
	const uint8_t *text;
	uint64_t length;
	int code;

	if ((code = take_number(p, length_bytes, &length, err)) != 0 || (code = take(p, (size_t)length, &text, err)) != 0)
		return code;
	if (length > PICKLE_BYTES_MAX)
		return pickle_damaged(p, err, "a text is too long");
	value.text = (const char *)text;
	value.count = (uint32_t)length;
	return push_new(p, value, err);
}

static int push_integer(struct pickle *p, enum pickle_kind kind, int64_t number, struct err *err)
{
	return push_new(p, (struct pickle_value){ .kind = kind, .integer = number }, err);
}

/* Two's complement, little-endian, of any length. */
static int push_long(struct pickle *p, int length_bytes, struct err *err)
{
	const uint8_t *from;
	uint64_t length, bits = 0;
	int code;

	if ((code = take_number(p, length_bytes, &length, err)) != 0 || (code = take(p, (size_t)length, &from, err)) != 0)
		return code;
	if (length > PICKLE_BYTES_MAX)
		return pickle_damaged(p, err, "a number is too long");
	if (length > INT64_BYTES)
		return push_new(p, (struct pickle_value){ .kind = PICKLE_BIG, .text = (const char *)from, .count = (uint32_t)length }, err);
	for (uint64_t i = 0; i < length; i++)
		bits |= (uint64_t)from[i] << (8 * i);
	if (length > 0 && length < INT64_BYTES && (from[length - 1] & 0x80) != 0)
		bits |= ~(uint64_t)0 << (8 * length);
	return push_integer(p, PICKLE_INT, (int64_t)bits, err);
}

/* "12", "12L", and as INT "00" and "01" for the two truths. */
static int push_decimal(struct pickle *p, bool truth, struct err *err)
{
	char text[32];
	const char *line;
	size_t length;
	int64_t number;
	int code = take_line(p, &line, &length, err);

	if (code != 0)
		return code;
	if (truth && length == 2 && line[0] == '0' && (line[1] == '0' || line[1] == '1'))
		return push_integer(p, PICKLE_BOOL, line[1] - '0', err);
	if (!truth && length > 0 && line[length - 1] == 'L')
		length--;
	snprintf(text, sizeof(text), "%.*s", (int)(length < sizeof(text) ? length : sizeof(text) - 1), line);
	if (length >= sizeof(text) || args_parse_int(text, INT64_MIN, INT64_MAX, &number, NULL) != 0)
		return pickle_damaged(p, err, "a number cannot be read");
	return push_integer(p, PICKLE_INT, number, err);
}

/* ---- memo ---- */

static int memo_put(struct pickle *p, uint64_t index, struct err *err)
{
	int code = need(p, 1, err);

	if (code != 0)
		return code;
	if (index >= PICKLE_MEMO_MAX)
		return err_set(err, ERR_LIMIT, "%s: its pickle memorizes more than %d values", p->name, PICKLE_MEMO_MAX);
	while (index >= p->memo_capacity) {
		uint32_t before = p->memo_capacity;

		code = pickle_grow(p, &p->memo, before, &p->memo_capacity, sizeof(*p->memo), UINT32_MAX / 2, "memorized values", err);
		if (code != 0)
			return code;
		memset(p->memo + before, 0xFF, (p->memo_capacity - before) * sizeof(*p->memo));
	}
	p->memo_used += p->memo[index] == UINT32_MAX;
	p->memo[index] = top(p);
	return 0;
}

static int memo_get(struct pickle *p, uint64_t index, struct err *err)
{
	if (index >= p->memo_capacity || p->memo[index] == UINT32_MAX)
		return pickle_damaged(p, err, "it refers to a value that it has not memorized");
	return push(p, p->memo[index], err);
}

static int memo_text(struct pickle *p, bool put, struct err *err)
{
	char text[16];
	const char *line;
	size_t length;
	int64_t index;
	int code = take_line(p, &line, &length, err);

	if (code != 0)
		return code;
	snprintf(text, sizeof(text), "%.*s", (int)(length < sizeof(text) ? length : sizeof(text) - 1), line);
	if (length >= sizeof(text) || args_parse_int(text, 0, PICKLE_MEMO_MAX, &index, NULL) != 0)
		return pickle_damaged(p, err, "a number cannot be read");
	return put ? memo_put(p, (uint64_t)index, err) : memo_get(p, (uint64_t)index, err);
}

static int memo_binary(struct pickle *p, bool put, int bytes, struct err *err)
{
	uint64_t index;
	int code = take_number(p, bytes, &index, err);

	if (code != 0)
		return code;
	return put ? memo_put(p, index, err) : memo_get(p, index, err);
}

/* ---- containers ---- */

/* The values above `base` become one container. */
static int collect(struct pickle *p, enum pickle_kind kind, uint32_t base, struct err *err)
{
	uint32_t made, count = p->depth - base;
	int code;

	if (kind == PICKLE_DICT && count % 2 != 0)
		return pickle_damaged(p, err, "a dict has a key without a value");
	if ((code = pickle_new(p, kind, &made, err)) != 0 || (code = pickle_add_items(p, made, p->stack + base, count, err)) != 0)
		return code;
	p->depth = base;
	return push(p, made, err);
}

static int collect_to_mark(struct pickle *p, enum pickle_kind kind, struct err *err)
{
	uint32_t base;
	int code = pop_mark(p, &base, err);

	return code != 0 ? code : collect(p, kind, base, err);
}

static int collect_last(struct pickle *p, uint32_t count, struct err *err)
{
	int code = need(p, count, err);

	return code != 0 ? code : collect(p, PICKLE_TUPLE, p->depth - count, err);
}

/* The values above `base` join the container below them. */
static int extend(struct pickle *p, enum pickle_kind kind, uint32_t base, struct err *err)
{
	uint32_t count = p->depth - base, container;
	int code;

	p->depth = base;
	if ((code = need(p, 1, err)) != 0)
		return code;
	container = top(p);
	if (p->values[container].kind != kind || (kind == PICKLE_DICT && count % 2 != 0))
		return pickle_damaged(p, err, "members for something that has none");
	return pickle_add_items(p, container, p->stack + base, count, err);
}

static int extend_to_mark(struct pickle *p, enum pickle_kind kind, struct err *err)
{
	uint32_t base;
	int code = pop_mark(p, &base, err);

	return code != 0 ? code : extend(p, kind, base, err);
}

static int extend_last(struct pickle *p, enum pickle_kind kind, uint32_t count, struct err *err)
{
	int code = need(p, count + 1, err);

	return code != 0 ? code : extend(p, kind, p->depth - count, err);
}

/* ---- classes ---- */

static int do_global(struct pickle *p, struct err *err)
{
	const char *module, *name;
	size_t module_bytes, name_bytes;
	uint32_t made;
	int code;

	if ((code = take_line(p, &module, &module_bytes, err)) != 0 || (code = take_line(p, &name, &name_bytes, err)) != 0 ||
	    (code = pickle_name_class(p, module, module_bytes, name, name_bytes, &made, err)) != 0)
		return code;
	return push(p, made, err);
}

static int do_stack_global(struct pickle *p, struct err *err)
{
	const struct pickle_value *module, *name;
	uint32_t made;
	int code = need(p, 2, err);

	if (code != 0)
		return code;
	module = &p->values[p->stack[p->depth - 2]];
	name = &p->values[p->stack[p->depth - 1]];
	if (module->kind != PICKLE_TEXT || name->kind != PICKLE_TEXT)
		return pickle_damaged(p, err, "the name of a class is not text");
	if ((code = pickle_name_class(p, module->text, module->count, name->text, name->count, &made, err)) != 0)
		return code;
	p->depth -= 2;
	return push(p, made, err);
}

static int do_reduce(struct pickle *p, struct err *err)
{
	uint32_t made;
	int code = need(p, 2, err);

	if (code != 0 || (code = pickle_call(p, p->stack[p->depth - 2], p->stack[p->depth - 1], &made, err)) != 0)
		return code;
	p->depth -= 2;
	return push(p, made, err);
}

/* Attributes of an object. Only state dicts have some (_metadata), which are dropped. */
static int do_build(struct pickle *p, struct err *err)
{
	int code = need(p, 2, err);

	if (code != 0)
		return code;
	if (p->values[p->stack[p->depth - 2]].kind != PICKLE_DICT)
		return err_set(err, ERR_UNSUPPORTED, "%s: its pickle uses the opcode BUILD at byte %zu on %s; a pickle can run code, so only "
			       "plain state dicts are read; " PICKLE_REMEDY, p->name, p->opcode_at,
			       pickle_kind_name(p->values[p->stack[p->depth - 2]].kind));
	p->depth--;
	return 0;
}

static int do_persistent(struct pickle *p, struct err *err)
{
	uint32_t made;
	int code = need(p, 1, err);

	if (code != 0 || (code = pickle_persistent(p, top(p), &made, err)) != 0)
		return code;
	p->depth--;
	return push(p, made, err);
}

static int refuse(const struct pickle *p, uint8_t opcode, struct err *err)
{
	for (size_t i = 0; i < ARRAY_LEN(refused); i++)
		if (refused[i].code == opcode)
			return err_set(err, ERR_UNSUPPORTED, "%s: its pickle uses the opcode %s at byte %zu; a pickle can run code, so only "
				       "those that plain state dicts need are taken; " PICKLE_REMEDY, p->name, refused[i].name, p->opcode_at);
	return err_set(err, ERR_FORMAT, "%s: damaged pickle at byte %zu: there is no opcode 0x%02x; copy or download it again", p->name,
		       p->opcode_at, opcode);
}

/* ---- the machine ---- */

static int do_number(struct pickle *p, uint8_t opcode, struct err *err)
{
	uint64_t bits;
	int code = take_number(p, opcode == OP_BININT1 ? 1 : opcode == OP_BININT2 ? 2 : opcode == OP_BINFLOAT ? 8 : 4, &bits, err);

	if (code != 0)
		return code;
	if (opcode == OP_BINFLOAT) /* its value is of no interest */
		return push_integer(p, PICKLE_REAL, 0, err);
	return push_integer(p, PICKLE_INT, opcode == OP_BININT ? (int64_t)(int32_t)(uint32_t)bits : (int64_t)bits, err);
}

static int do_mark(struct pickle *p, struct err *err)
{
	int code = pickle_grow(p, &p->marks, p->mark_count, &p->mark_capacity, sizeof(*p->marks), PICKLE_ITEMS_MAX, "marks", err);

	if (code == 0)
		p->marks[p->mark_count++] = p->depth;
	return code;
}

static int do_skip(struct pickle *p, size_t bytes, struct err *err)
{
	const uint8_t *skipped;

	return take(p, bytes, &skipped, err);
}

static int do_pop(struct pickle *p, struct err *err)
{
	int code;

	if (available(p) == 0 && p->mark_count > 0) {
		p->mark_count--;
		return 0;
	}
	if ((code = need(p, 1, err)) == 0)
		p->depth--;
	return code;
}

static int do_pop_mark(struct pickle *p, struct err *err)
{
	uint32_t base;
	int code = pop_mark(p, &base, err);

	if (code == 0)
		p->depth = base;
	return code;
}

static int do_dup(struct pickle *p, struct err *err)
{
	int code = need(p, 1, err);

	return code != 0 ? code : push(p, top(p), err);
}

static int step(struct pickle *p, uint8_t opcode, struct err *err)
{
	switch (opcode) {
	case OP_PROTO: return do_skip(p, 1, err);
	case OP_FRAME: return do_skip(p, 8, err);
	case OP_MARK: return do_mark(p, err);
	case OP_POP: return do_pop(p, err);
	case OP_POP_MARK: return do_pop_mark(p, err);
	case OP_DUP: return do_dup(p, err);
	case OP_NONE: return push_integer(p, PICKLE_NONE, 0, err);
	case OP_NEWTRUE: return push_integer(p, PICKLE_BOOL, 1, err);
	case OP_NEWFALSE: return push_integer(p, PICKLE_BOOL, 0, err);
	case OP_BININT: case OP_BININT1: case OP_BININT2: case OP_BINFLOAT: return do_number(p, opcode, err);
	case OP_INT: return push_decimal(p, true, err);
	case OP_LONG: return push_decimal(p, false, err);
	case OP_LONG1: return push_long(p, 1, err);
	case OP_LONG4: return push_long(p, 4, err);
	case OP_SHORT_BINSTRING: case OP_SHORT_BINUNICODE: return push_text(p, PICKLE_TEXT, 1, err);
	case OP_BINSTRING: case OP_BINUNICODE: return push_text(p, PICKLE_TEXT, 4, err);
	case OP_BINUNICODE8: return push_text(p, PICKLE_TEXT, 8, err);
	case OP_SHORT_BINBYTES: return push_text(p, PICKLE_BYTES, 1, err);
	case OP_BINBYTES: return push_text(p, PICKLE_BYTES, 4, err);
	case OP_BINBYTES8: return push_text(p, PICKLE_BYTES, 8, err);
	case OP_EMPTY_TUPLE: return push_integer(p, PICKLE_TUPLE, 0, err);
	case OP_EMPTY_LIST: return push_integer(p, PICKLE_LIST, 0, err);
	case OP_EMPTY_DICT: return push_integer(p, PICKLE_DICT, 0, err);
	case OP_EMPTY_SET: return push_integer(p, PICKLE_SET, 0, err);
	case OP_TUPLE1: return collect_last(p, 1, err);
	case OP_TUPLE2: return collect_last(p, 2, err);
	case OP_TUPLE3: return collect_last(p, 3, err);
	case OP_TUPLE: return collect_to_mark(p, PICKLE_TUPLE, err);
	case OP_LIST: return collect_to_mark(p, PICKLE_LIST, err);
	case OP_DICT: return collect_to_mark(p, PICKLE_DICT, err);
	case OP_FROZENSET: return collect_to_mark(p, PICKLE_SET, err);
	case OP_APPEND: return extend_last(p, PICKLE_LIST, 1, err);
	case OP_APPENDS: return extend_to_mark(p, PICKLE_LIST, err);
	case OP_SETITEM: return extend_last(p, PICKLE_DICT, 2, err);
	case OP_SETITEMS: return extend_to_mark(p, PICKLE_DICT, err);
	case OP_ADDITEMS: return extend_to_mark(p, PICKLE_SET, err);
	case OP_PUT: return memo_text(p, true, err);
	case OP_BINPUT: return memo_binary(p, true, 1, err);
	case OP_LONG_BINPUT: return memo_binary(p, true, 4, err);
	case OP_MEMOIZE: return memo_put(p, p->memo_used, err);
	case OP_GET: return memo_text(p, false, err);
	case OP_BINGET: return memo_binary(p, false, 1, err);
	case OP_LONG_BINGET: return memo_binary(p, false, 4, err);
	case OP_GLOBAL: return do_global(p, err);
	case OP_STACK_GLOBAL: return do_stack_global(p, err);
	case OP_REDUCE: return do_reduce(p, err);
	case OP_BUILD: return do_build(p, err);
	case OP_BINPERSID: return do_persistent(p, err);
	default: return refuse(p, opcode, err);
	}
}

int pickle_run(struct pickle *p, const void *data, size_t bytes, size_t *at, uint32_t *result, struct err *err)
{
	const uint8_t *opcode;
	int code;

	p->data = data;
	p->bytes = bytes;
	p->at = *at;
	p->depth = p->mark_count = p->memo_used = 0;
	if (p->memo != NULL)
		memset(p->memo, 0xFF, p->memo_capacity * sizeof(*p->memo));
	for (;;) {
		p->opcode_at = p->at;
		if (p->at - *at > PICKLE_BYTES_MAX)
			return err_set(err, ERR_LIMIT, "%s: its pickle is larger than %d MiB", p->name, PICKLE_BYTES_MAX >> 20);
		if ((code = take(p, 1, &opcode, err)) != 0)
			return code;
		if (*opcode == OP_STOP)
			break;
		if ((code = step(p, *opcode, err)) != 0)
			return code;
	}
	if ((code = need(p, 1, err)) != 0)
		return code;
	*result = top(p);
	*at = p->at;
	return 0;
}

int pickle_open(struct pickle **out, const char *name, struct err *err)
{
	struct pickle *p = mem_zalloc(sizeof(*p));
	int code;

	*out = NULL;
	if (p == NULL)
		return err_nomem(err, sizeof(*p));
	p->name = name;
	/* the stack is never NULL, so that its base is an address */
	if ((code = pickle_grow(p, &p->stack, 0, &p->stack_capacity, sizeof(*p->stack), PICKLE_ITEMS_MAX, "values on its stack", err)) != 0) {
		pickle_close(p);
		return code;
	}
	*out = p;
	return 0;
}

void pickle_close(struct pickle *p)
{
	if (p == NULL)
		return;
	for (uint32_t i = 0; i < p->value_count; i++)
		if (p->values[i].capacity > 0)
			mem_free(p->values[i].items);
	mem_free(p->values);
	mem_free(p->storages);
	mem_free(p->tensors);
	mem_free(p->stack);
	mem_free(p->marks);
	mem_free(p->memo);
	mem_free(p);
}

/* ---- looking at values ---- */

const struct pickle_value *pickle_value(const struct pickle *p, uint32_t index)
{
	CHECK(index < p->value_count);
	return &p->values[index];
}

uint32_t pickle_storage_count(const struct pickle *p)
{
	return p->storage_count;
}

const struct pickle_storage *pickle_storage(const struct pickle *p, uint32_t index)
{
	CHECK(index < p->storage_count);
	return &p->storages[index];
}

const struct pickle_tensor *pickle_tensor(const struct pickle *p, uint32_t value)
{
	const struct pickle_value *v = pickle_value(p, value);

	return v->kind == PICKLE_TENSOR ? &p->tensors[v->integer] : NULL;
}

bool pickle_is_text(const struct pickle *p, uint32_t value, const char *text)
{
	const struct pickle_value *v = pickle_value(p, value);

	return v->kind == PICKLE_TEXT && v->count == strlen(text) && memcmp(v->text, text, v->count) == 0;
}

uint32_t pickle_get(const struct pickle *p, uint32_t dict, const char *key)
{
	const struct pickle_value *v = pickle_value(p, dict);
	uint32_t found = UINT32_MAX;

	for (uint32_t i = 0; v->kind == PICKLE_DICT && i + 1 < v->count; i += 2)
		if (pickle_is_text(p, v->items[i], key))
			found = v->items[i + 1];
	return found;
}

const char *pickle_kind_name(enum pickle_kind kind)
{
	static const char *const names[] = {
		[PICKLE_NONE] = "None", [PICKLE_BOOL] = "a truth value", [PICKLE_INT] = "a number", [PICKLE_REAL] = "a number",
		[PICKLE_BIG] = "a large number", [PICKLE_TEXT] = "a text", [PICKLE_BYTES] = "bytes", [PICKLE_TUPLE] = "a tuple",
		[PICKLE_LIST] = "a list", [PICKLE_SET] = "a set", [PICKLE_DICT] = "a dict", [PICKLE_CLASS] = "a class",
		[PICKLE_STORAGE] = "a storage", [PICKLE_TENSOR] = "a tensor",
	};

	return names[kind];
}
