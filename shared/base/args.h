/*
 * args.h - command-line options from a table, with --help made from it.
 *
 * Accepts --name VALUE, --name=VALUE, --flag, single-letter aliases, `--` and
 * operands anywhere. An unknown option is an ERR_USAGE that names the nearest
 * known one. A value is checked when it is parsed and the message says what
 * was expected. Everything borrows argv.
 */
#ifndef SHARED_BASE_ARGS_H
#define SHARED_BASE_ARGS_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/buf.h"

enum args_kind {
	ARGS_FLAG,   /* bool *                     */
	ARGS_TEXT,   /* const char **              */
	ARGS_LIST,   /* struct args_list *, repeatable */
	ARGS_INT,    /* int64_t *, within [min, max] */
	ARGS_REAL,   /* double *, finite           */
	ARGS_SIZE,   /* uint64_t *, bytes with K, M, G, T (powers of 1024) */
	ARGS_SECTION /* no option: a heading in --help, text in help */
};

enum { ARGS_LIST_MAX = 64 };

struct args_list {
	const char *items[ARGS_LIST_MAX];
	int count;
};

struct args_option {
	const char *name;  /* without dashes */
	char letter;       /* 0: none */
	enum args_kind kind;
	void *value;       /* see args_kind; holds the default before parsing */
	const char *metavar; /* "N", "DIR"; NULL for flags */
	const char *help;  /* one or more sentences, says the default */
	int64_t min, max;  /* ARGS_INT only; both 0: no bounds */
	bool *given;       /* set when the option appears; may be NULL */
};

struct args_spec {
	const char *usage;       /* "trainer --data NAME --reg SPEC [options]" */
	const char *description; /* what it does, and an example or two */
	const struct args_option *options;
	int option_count;
	int operands_min, operands_max;
};

enum { ARGS_OPERANDS_MAX = 4096 };

struct args_result {
	const char *operands[ARGS_OPERANDS_MAX];
	int operand_count;
	bool help; /* --help or -h was given: nothing else was checked */
};

/* argv without the program and verb names. */
MUST_USE int args_parse(const struct args_spec *spec, int argc, char *const argv[], struct args_result *out, struct err *err);
/* The whole help text on standard output. */
void args_print_help(const struct args_spec *spec);
/* "12.5G" to bytes. */
MUST_USE int args_parse_size(const char *text, uint64_t *out, struct err *err);
MUST_USE int args_parse_int(const char *text, int64_t min, int64_t max, int64_t *out, struct err *err);
MUST_USE int args_parse_real(const char *text, double *out, struct err *err);

#endif
