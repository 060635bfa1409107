/*
 * pickle_parts.h - inside the pickle machine: its state, and what classes do.
 *
 * pickle.c runs opcodes, pickle_classes.c knows the classes. Indices into
 * `values` come from the machine itself and are valid; kinds are checked at
 * every use.
 *
 * Threads, ownership, limits: as pickle.h.
 */
#ifndef TRAINER_IO_PICKLE_PARTS_H
#define TRAINER_IO_PICKLE_PARTS_H

#include "trainer/io/pickle.h"

struct pickle {
	const char *name;
	/* all programs so far */
	struct pickle_value *values;
	uint32_t value_count, value_capacity;
	size_t item_count;
	struct pickle_storage *storages;
	uint32_t storage_count, storage_capacity;
	struct pickle_tensor *tensors;
	uint32_t tensor_count, tensor_capacity;
	/* the program that runs */
	const uint8_t *data;
	size_t bytes, at, opcode_at;
	uint32_t *stack;
	uint32_t depth, stack_capacity;
	uint32_t *marks;      /* depths */
	uint32_t mark_count, mark_capacity;
	uint32_t *memo;       /* UINT32_MAX: empty */
	uint32_t memo_used, memo_capacity;
};

/* Makes room for one more element of an array that doubles; CHECKs nothing that the input decides. */
MUST_USE int pickle_grow(struct pickle *p, void *array, uint32_t count, uint32_t *capacity, size_t size, uint32_t most,
			 const char *what, struct err *err);
MUST_USE int pickle_new(struct pickle *p, enum pickle_kind kind, uint32_t *out, struct err *err);
MUST_USE int pickle_add_items(struct pickle *p, uint32_t value, const uint32_t *items, uint32_t count, struct err *err);
/* ERR_FORMAT: "FILE: damaged pickle at byte N: ..." */
int pickle_damaged(const struct pickle *p, struct err *err, const char *what);

/* GLOBAL: the class of this name as a value. */
MUST_USE int pickle_name_class(struct pickle *p, const char *module, size_t module_bytes, const char *name, size_t name_bytes,
			       uint32_t *out, struct err *err);
/* REDUCE: what calling it with a tuple gives. */
MUST_USE int pickle_call(struct pickle *p, uint32_t callee, uint32_t arguments, uint32_t *out, struct err *err);
/* BINPERSID: what torch stores outside. */
MUST_USE int pickle_persistent(struct pickle *p, uint32_t id, uint32_t *out, struct err *err);

#endif
