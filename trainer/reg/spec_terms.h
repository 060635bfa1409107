/*
 * spec_terms.h - the table of `--reg`: every term, every option, its limits and its meaning.
 *
 * Private to spec*.c. Offsets are into struct reg_spec; those of dropout are
 * into its first place, and the parser copies it to the places that `at` names.
 *
 * Threads: constant data.
 */
#ifndef TRAINER_REG_SPEC_TERMS_H
#define TRAINER_REG_SPEC_TERMS_H

#include <stddef.h>

#include "trainer/reg/spec.h"

enum reg_option_kind {
	REG_REAL,    /* double */
	REG_COUNT,   /* int64_t */
	REG_CHOICE,  /* int: number of the choice */
	REG_SET,     /* unsigned: bits of the choices, joined by '+' */
	REG_EPS, REG_REL, /* double eps, bool relative */
	REG_INIT,    /* double, or the words zero and random */
	REG_WARMUP,  /* double and its unit */
};

enum { REG_CHOICES_MAX = 8 };

struct reg_option {
	const char *name;
	enum reg_option_kind kind;
	size_t at;
	double min, max;     /* numbers */
	bool open_min, open_max; /* the limit itself is not allowed */
	const char *choices[REG_CHOICES_MAX];
	const char *help;
	unsigned methods;    /* adv: bits of the methods that know it; 0: all */
	bool quiet;          /* left out of the canonical text where it is neutral */
	double neutral;
};

struct reg_term {
	const char *name;
	size_t on, when;     /* bool, struct reg_window */
	const char *number;  /* the option that NAME=NUMBER means */
	const struct reg_option *options;
	int option_count;
	const char *help, *paper;
};

extern const struct reg_term reg_terms[];
extern const int reg_term_count;
extern const char *const reg_method_names[ADV_METHODS];
/* By name or alias; NULL: no such term. noise: adv with that method. */
const struct reg_term *reg_term_find(const char *name, size_t length);
/* Choices of an option, as "a, b or c". */
void reg_choices_text(const struct reg_option *option, char *out, size_t bytes);

/* Neutral values, and those of every option that has a fixed default. */
void reg_spec_defaults(struct reg_spec *out);
/* What depends on the method and was not given. given: names of options of adv, joined by spaces. */
void reg_adv_settle(struct reg_adv *adv);
/* The shortest decimal that reads back as the same number, without a '+' in the exponent. */
const char *reg_number(char out[32], double value);

#endif
