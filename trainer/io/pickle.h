/*
 * pickle.h - reads the pickles that torch.save() writes, without running any code.
 *
 * A pickle is a program for a stack machine. This one knows the opcodes that
 * build plain values, and of the classes and functions that a pickle may name
 * only those of a fixed list (pickle_classes.c): what state dicts consist of.
 * Naming one gives a number, calling one does what this file says, nothing
 * else. Everything else (INST, OBJ, NEWOBJ, any other class) is refused by
 * name. Values refer to each other by index; nothing here recurses, so depth
 * and cycles in the input are harmless.
 *
 * Threads:   one caller.
 * Ownership: texts are views of the input, which must outlive the pickle.
 * Limits:    the PICKLE_ maxima; memory stays within a small multiple of the input.
 * Format:    Python's Lib/pickletools.py, protocols 0 to 5; schemas/weights.md lists what is accepted.
 */
#ifndef TRAINER_IO_PICKLE_H
#define TRAINER_IO_PICKLE_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/io/tensorfile.h"

enum {
	PICKLE_BYTES_MAX = 64 << 20,   /* of the program; weights are stored elsewhere */
	PICKLE_VALUES_MAX = 4 << 20,
	PICKLE_ITEMS_MAX = 8 << 20,   /* members of all lists, tuples and dicts together */
	PICKLE_MEMO_MAX = 4 << 20,
	PICKLE_TENSORS_MAX = 1 << 18,
};

enum pickle_kind {
	PICKLE_NONE,    /* also what stands for an object of no interest, such as torch.device */
	PICKLE_BOOL, PICKLE_INT, PICKLE_REAL,
	PICKLE_BIG,     /* an integer beyond 64 bits, as its bytes */
	PICKLE_TEXT, PICKLE_BYTES, PICKLE_TUPLE, PICKLE_LIST, PICKLE_SET,
	PICKLE_DICT,    /* items: key, value, key, value ... in order of insertion */
	PICKLE_CLASS,   /* a class or function of the list, by number */
	PICKLE_STORAGE, PICKLE_TENSOR, /* by number */
};

struct pickle_value {
	enum pickle_kind kind;
	uint32_t count, capacity; /* of items, or bytes of text */
	union {
		int64_t integer;
		const char *text; /* not terminated */
		uint32_t *items;  /* values by index */
	};
};

/* Bytes that are not in the program: those of key `key`. */
struct pickle_storage {
	enum tensor_dtype dtype;
	const char *key, *view_key; /* not terminated; view_key NULL: the whole */
	uint32_t key_bytes, view_key_bytes;
	int64_t elements;           /* of the whole */
	int64_t view_at, view_elements;
};

struct pickle_tensor {
	uint32_t storage;
	int rank;
	int64_t offset; /* in elements */
	int64_t shape[TENSOR_RANK_MAX], strides[TENSOR_RANK_MAX];
};

struct pickle; /* the machine, and all values it made */
/* name: of the file, for messages; borrowed. */
MUST_USE int pickle_open(struct pickle **out, const char *name, struct err *err);
void pickle_close(struct pickle *pickle); /* NULL is fine */
/* Runs the program that begins at data[*at] and moves *at behind its end. The
 * memo is new, values of programs before stay. ERR_UNSUPPORTED: a class or
 * opcode that is not taken; ERR_FORMAT: not a pickle, or damaged; ERR_LIMIT. */
MUST_USE int pickle_run(struct pickle *pickle, const void *data, size_t bytes, size_t *at, uint32_t *result, struct err *err);

const struct pickle_value *pickle_value(const struct pickle *pickle, uint32_t index);
uint32_t pickle_storage_count(const struct pickle *pickle);
const struct pickle_storage *pickle_storage(const struct pickle *pickle, uint32_t index);
/* The tensor that this value is; NULL: it is none. */
const struct pickle_tensor *pickle_tensor(const struct pickle *pickle, uint32_t value);
bool pickle_is_text(const struct pickle *pickle, uint32_t value, const char *text);
/* The last value of a dict's key, UINT32_MAX: none, or not a dict. */
uint32_t pickle_get(const struct pickle *pickle, uint32_t dict, const char *key);
const char *pickle_kind_name(enum pickle_kind kind); /* "a list" */

/* What to do about a file that is refused: the end of a message. */
#define PICKLE_REMEDY "if you trust it, write its weights as safetensors in Python: m = torch.load(FILE, map_location='cpu', weights_only=False); " \
		      "d = m.state_dict() if hasattr(m, 'state_dict') else m; " \
		      "safetensors.torch.save_file({k: v.contiguous().clone() for k, v in d.items()}, 'weights.safetensors')"

#endif
