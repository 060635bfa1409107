/* The classes and functions that a pickle may name, and what they stand for here. */
#include "trainer/io/pickle_parts.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

enum role {
	ROLE_DICT,      /* called: a dict, empty or of pairs */
	ROLE_SIZE,      /* called: the tuple that it is given */
	ROLE_TENSOR,    /* called: a view of a storage */
	ROLE_PARAMETER, /* called: the tensor that it wraps */
	ROLE_DROPPED,   /* called: an object of no interest */
	ROLE_STORAGE,   /* named in a storage's id */
	ROLE_VALUE,     /* named alone, such as torch.float32 */
};

static const struct {
	const char *module, *name;
	enum role role;
	enum tensor_dtype dtype; /* of a storage */
} classes[] = {
	{ "collections", "OrderedDict", ROLE_DICT, 0 },
	{ "collections", "Counter", ROLE_DICT, 0 },
	{ "torch", "Size", ROLE_SIZE, 0 },
	{ "torch._utils", "_rebuild_tensor", ROLE_TENSOR, 0 },
	{ "torch._utils", "_rebuild_tensor_v2", ROLE_TENSOR, 0 },
	{ "torch._utils", "_rebuild_parameter", ROLE_PARAMETER, 0 },
	{ "torch", "device", ROLE_DROPPED, 0 },
	{ "_codecs", "encode", ROLE_DROPPED, 0 }, /* bytes, as Python 3 writes them for protocol 2 */
	{ "__builtin__", "set", ROLE_DROPPED, 0 },
	{ "builtins", "set", ROLE_DROPPED, 0 },
	{ "torch", "FloatStorage", ROLE_STORAGE, TENSOR_F32 },
	{ "torch", "DoubleStorage", ROLE_STORAGE, TENSOR_F64 },
	{ "torch", "HalfStorage", ROLE_STORAGE, TENSOR_F16 },
	{ "torch", "BFloat16Storage", ROLE_STORAGE, TENSOR_BF16 },
	{ "torch", "LongStorage", ROLE_STORAGE, TENSOR_I64 },
	{ "torch", "IntStorage", ROLE_STORAGE, TENSOR_I32 },
	{ "torch", "ShortStorage", ROLE_STORAGE, TENSOR_I16 },
	{ "torch", "CharStorage", ROLE_STORAGE, TENSOR_I8 },
	{ "torch", "ByteStorage", ROLE_STORAGE, TENSOR_U8 },
	{ "torch", "BoolStorage", ROLE_STORAGE, TENSOR_BOOL },
	{ "torch", "float32", ROLE_VALUE, 0 }, { "torch", "float64", ROLE_VALUE, 0 }, { "torch", "float16", ROLE_VALUE, 0 },
	{ "torch", "bfloat16", ROLE_VALUE, 0 }, { "torch", "int64", ROLE_VALUE, 0 }, { "torch", "int32", ROLE_VALUE, 0 },
	{ "torch", "int16", ROLE_VALUE, 0 }, { "torch", "int8", ROLE_VALUE, 0 }, { "torch", "uint8", ROLE_VALUE, 0 },
	{ "torch", "bool", ROLE_VALUE, 0 },
};

enum { SHOWN_BYTES = 80 };

static bool is(const char *text, size_t bytes, const char *known)
{
	return bytes == strlen(known) && memcmp(text, known, bytes) == 0;
}

/* A name from the file, fit for a terminal. */
static const char *shown(char out[SHOWN_BYTES], const char *text, size_t bytes)
{
	size_t n = bytes < SHOWN_BYTES - 1 ? bytes : SHOWN_BYTES - 1;

	for (size_t i = 0; i < n; i++)
		out[i] = isprint((unsigned char)text[i]) ? text[i] : '?';
	out[n] = '\0';
	return out;
}

int pickle_name_class(struct pickle *p, const char *module, size_t module_bytes, const char *name, size_t name_bytes, uint32_t *out,
		      struct err *err)
{
	char shown_module[SHOWN_BYTES], shown_name[SHOWN_BYTES];
	int code;

	for (size_t i = 0; i < ARRAY_LEN(classes); i++) {
		if (!is(module, module_bytes, classes[i].module) || !is(name, name_bytes, classes[i].name))
			continue;
		if ((code = pickle_new(p, PICKLE_CLASS, out, err)) == 0)
			p->values[*out].integer = (int64_t)i;
		return code;
	}
	return err_set(err, ERR_UNSUPPORTED,
		       "%s: its pickle names %s.%s; a pickle can run code, so beyond state dicts of plain tensors nothing is read (of a whole "
		       "module save module.state_dict()); " PICKLE_REMEDY,
		       p->name, shown(shown_module, module, module_bytes), shown(shown_name, name, name_bytes));
}

/* ---- what is called ---- */

/* OrderedDict(), OrderedDict([(key, value), ...]), OrderedDict({...}) */
static int call_dict(struct pickle *p, uint32_t count, const uint32_t *arguments, uint32_t *out, struct err *err)
{
	uint32_t list;
	int code = 0;

	if (count == 0)
		return pickle_new(p, PICKLE_DICT, out, err);
	list = arguments[0];
	if (count == 1 && p->values[list].kind == PICKLE_DICT) {
		*out = list;
		return 0;
	}
	if (count != 1 || p->values[list].kind != PICKLE_LIST)
		return pickle_damaged(p, err, "a dict is made of something else than pairs");
	code = pickle_new(p, PICKLE_DICT, out, err);
	for (uint32_t i = 0; code == 0 && i < p->values[list].count; i++) {
		const struct pickle_value *pair = &p->values[p->values[list].items[i]];

		if ((pair->kind != PICKLE_TUPLE && pair->kind != PICKLE_LIST) || pair->count != 2)
			return pickle_damaged(p, err, "a dict is made of something else than pairs");
		code = pickle_add_items(p, *out, pair->items, 2, err);
	}
	return code;
}

static bool integers(const struct pickle *p, uint32_t tuple, int64_t *out, int *count)
{
	const struct pickle_value *v = &p->values[tuple];

	if ((v->kind != PICKLE_TUPLE && v->kind != PICKLE_LIST) || v->count > TENSOR_RANK_MAX)
		return false;
	for (uint32_t i = 0; i < v->count; i++) {
		const struct pickle_value *number = &p->values[v->items[i]];

		if (number->kind != PICKLE_INT || number->integer < 0)
			return false;
		out[i] = number->integer;
	}
	*count = (int)v->count;
	return true;
}

/* storage, offset, shape, strides, two that only training cares about, and in PyTorch 2 what is still to be done to the values
 * (neg, conj), where there is something. */
static int call_tensor(struct pickle *p, uint32_t count, const uint32_t *arguments, uint32_t *out, struct err *err)
{
	struct pickle_tensor tensor = { .rank = 0 };
	const struct pickle_value *storage, *offset;
	int strides = 0, code;

	if (count < 4)
		return pickle_damaged(p, err, "a tensor lacks shape or strides");
	if (count > 6 && p->values[arguments[6]].count > 0)
		return err_set(err, ERR_UNSUPPORTED, "%s: its pickle at byte %zu has a tensor whose values are to be negated when they are read, or "
			       "something like that; " PICKLE_REMEDY, p->name, p->opcode_at);
	storage = &p->values[arguments[0]];
	offset = &p->values[arguments[1]];
	if (storage->kind != PICKLE_STORAGE || offset->kind != PICKLE_INT || offset->integer < 0 ||
	    !integers(p, arguments[2], tensor.shape, &tensor.rank) || !integers(p, arguments[3], tensor.strides, &strides) ||
	    strides != tensor.rank)
		return pickle_damaged(p, err, "a tensor's storage, offset, shape or strides cannot be (at most 8 dimensions are read)");
	tensor.storage = (uint32_t)storage->integer;
	tensor.offset = offset->integer;
	if ((code = pickle_grow(p, &p->tensors, p->tensor_count, &p->tensor_capacity, sizeof(*p->tensors), PICKLE_TENSORS_MAX, "tensors",
				err)) != 0 ||
	    (code = pickle_new(p, PICKLE_TENSOR, out, err)) != 0)
		return code;
	p->values[*out].integer = p->tensor_count;
	p->tensors[p->tensor_count++] = tensor;
	return 0;
}

int pickle_call(struct pickle *p, uint32_t callee, uint32_t tuple, uint32_t *out, struct err *err)
{
	const struct pickle_value *function = &p->values[callee], *arguments = &p->values[tuple];
	uint32_t count = arguments->count;

	if (function->kind != PICKLE_CLASS || arguments->kind != PICKLE_TUPLE)
		return pickle_damaged(p, err, "a call of something that cannot be called");
	switch (classes[function->integer].role) {
	case ROLE_DICT:
		return call_dict(p, count, arguments->items, out, err);
	case ROLE_SIZE:
		if (count != 1 || p->values[arguments->items[0]].kind != PICKLE_TUPLE)
			return pickle_damaged(p, err, "a torch.Size of something else than a tuple");
		*out = arguments->items[0];
		return 0;
	case ROLE_TENSOR:
		return call_tensor(p, count, arguments->items, out, err);
	case ROLE_PARAMETER:
		if (count < 1 || p->values[arguments->items[0]].kind != PICKLE_TENSOR)
			return pickle_damaged(p, err, "a parameter of something else than a tensor");
		*out = arguments->items[0];
		return 0;
	case ROLE_DROPPED:
		return pickle_new(p, PICKLE_NONE, out, err);
	default:
		return err_set(err, ERR_UNSUPPORTED, "%s: its pickle calls %s.%s, which no state dict does; " PICKLE_REMEDY, p->name,
			       classes[function->integer].module, classes[function->integer].name);
	}
}

/* ---- storages ---- */

static bool key_of(const struct pickle *p, uint32_t value, const char **out, uint32_t *bytes)
{
	const struct pickle_value *v = &p->values[value];

	*out = v->text;
	*bytes = v->count;
	return v->kind == PICKLE_TEXT && v->count > 0;
}

/* (key, offset, length) of the part of a storage that the legacy format names on its own */
static bool read_view(const struct pickle *p, uint32_t value, struct pickle_storage *storage)
{
	const struct pickle_value *v = &p->values[value], *offset, *length;

	if (v->kind == PICKLE_NONE)
		return true;
	if (v->kind != PICKLE_TUPLE || v->count != 3 || !key_of(p, v->items[0], &storage->view_key, &storage->view_key_bytes))
		return false;
	offset = &p->values[v->items[1]];
	length = &p->values[v->items[2]];
	if (offset->kind != PICKLE_INT || length->kind != PICKLE_INT || offset->integer < 0 || length->integer < 0 ||
	    offset->integer > storage->elements || length->integer > storage->elements - offset->integer)
		return false;
	storage->view_at = offset->integer;
	storage->view_elements = length->integer;
	return true;
}

/* ('storage', class, key, device, elements[, view]) */
int pickle_persistent(struct pickle *p, uint32_t id, uint32_t *out, struct err *err)
{
	const struct pickle_value *tuple = &p->values[id];
	struct pickle_storage storage = { .key = NULL };
	const struct pickle_value *class, *elements;
	int code;

	if (tuple->kind == PICKLE_TUPLE && tuple->count > 0 && pickle_is_text(p, tuple->items[0], "module"))
		return err_set(err, ERR_UNSUPPORTED, "%s: holds a whole module, not a state dict; a pickle can run code, so save "
			       "module.state_dict(); " PICKLE_REMEDY, p->name);
	if (tuple->kind != PICKLE_TUPLE || tuple->count < 5 || tuple->count > 6 || !pickle_is_text(p, tuple->items[0], "storage"))
		return pickle_damaged(p, err, "the id of a storage cannot be read");
	class = &p->values[tuple->items[1]];
	elements = &p->values[tuple->items[4]];
	if (class->kind != PICKLE_CLASS || classes[class->integer].role != ROLE_STORAGE || elements->kind != PICKLE_INT ||
	    elements->integer < 0 || !key_of(p, tuple->items[2], &storage.key, &storage.key_bytes))
		return pickle_damaged(p, err, "the id of a storage cannot be read");
	storage.dtype = classes[class->integer].dtype;
	storage.elements = storage.view_elements = elements->integer;
	if (tuple->count == 6 && !read_view(p, tuple->items[5], &storage))
		return pickle_damaged(p, err, "a part of a storage lies outside of it");
	if ((code = pickle_grow(p, &p->storages, p->storage_count, &p->storage_capacity, sizeof(*p->storages), PICKLE_TENSORS_MAX,
				"storages", err)) != 0 ||
	    (code = pickle_new(p, PICKLE_STORAGE, out, err)) != 0)
		return code;
	p->values[*out].integer = p->storage_count;
	p->storages[p->storage_count++] = storage;
	return 0;
}
