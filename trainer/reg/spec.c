#include "trainer/reg/spec.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/args.h"

enum { WORD_BYTES = 64 };

const char reg_spec_help[] =
	"none, or a sum of:  dropout[=0.3]  in front of the fusion layer;  l2[=0.01]  weight decay "
	"(mode=decoupled|coupled, on=weights|all);  adv[=EPS]  adversarial training (method=fgm, target=text+feat|text|feat, "
	"eps=E absolute or rel=R of the perturbed norm, norm=l2|linf, weight=1). Options follow a colon, @E lets a term start at "
	"epoch E: l2=0.05+dropout@3, adv:target=text,rel=0.1. Default: none.";

/* The text between two separators; `at` is where parsing goes on. */
struct cursor {
	const char *whole; /* the value of --reg */
	const char *at;
};

static int fail(const struct cursor *c, struct err *err, const char *format, ...) PRINTF_LIKE(3, 4);

static int fail(const struct cursor *c, struct err *err, const char *format, ...)
{
	char detail[512];
	va_list args;

	va_start(args, format);
	vsnprintf(detail, sizeof(detail), format, args);
	va_end(args);
	return err_set(err, ERR_USAGE, "--reg %.200s: %s", c->whole, detail);
}

/* Length of the word that starts at `from`. */
static size_t word_length(const char *from)
{
	return strcspn(from, "+=:,@");
}

static bool word_is(const char *from, size_t length, const char *name)
{
	return strlen(name) == length && memcmp(from, name, length) == 0;
}

static bool is_term(const char *from, size_t length)
{
	return word_is(from, length, "none") || word_is(from, length, "dropout") || word_is(from, length, "l2") ||
	       word_is(from, length, "adv");
}

static int take_word(struct cursor *c, char out[WORD_BYTES], const char *expected, struct err *err)
{
	size_t length = word_length(c->at);

	if (length == 0)
		return fail(c, err, "expected %s %s%.40s", expected, *c->at == '\0' ? "at the end" : "before ", c->at);
	if (length >= WORD_BYTES)
		return fail(c, err, "'%.40s...' is too long", c->at);
	memcpy(out, c->at, length);
	out[length] = '\0';
	c->at += length;
	return 0;
}

static int parse_real(const struct cursor *c, const char *term, const char *what, const char *text, double *out, struct err *err)
{
	if (args_parse_real(text, out, NULL) != 0)
		return fail(c, err, "%s of %s is a number such as 0.1 or 1e-3, not '%s'", what, term, text);
	return 0;
}

/* ---- the main value and the options of each term ---- */

static int set_probability(const struct cursor *c, struct reg_spec *spec, const char *text, struct err *err)
{
	double p;
	int code = parse_real(c, "dropout", "the probability", text, &p, err);

	if (code == 0 && !(p >= 0 && p < 1))
		code = fail(c, err, "the probability of dropout is at least 0 and below 1, not %s", text);
	if (code == 0)
		spec->dropout.probability = p;
	return code;
}

static int set_lambda(const struct cursor *c, struct reg_spec *spec, const char *text, struct err *err)
{
	double lambda;
	int code = parse_real(c, "l2", "lambda", text, &lambda, err);

	if (code == 0 && !(lambda >= 0))
		code = fail(c, err, "lambda of l2 is not negative, so not %s", text);
	if (code == 0)
		spec->l2.lambda = lambda;
	return code;
}

static int set_positive(const struct cursor *c, const char *term, const char *what, const char *text, double *out,
			struct err *err)
{
	double value;
	int code = parse_real(c, term, what, text, &value, err);

	if (code == 0 && !(value > 0))
		code = fail(c, err, "%s of %s is above 0, so not %s", what, term, text);
	if (code == 0)
		*out = value;
	return code;
}

static int dropout_option(const struct cursor *c, struct reg_spec *spec, const char *name, const char *value, struct err *err)
{
	if (strcmp(name, "p") == 0)
		return set_probability(c, spec, value, err);
	return fail(c, err, "dropout has no option '%s'; it takes p", name);
}

static int l2_option(const struct cursor *c, struct reg_spec *spec, const char *name, const char *value, struct err *err)
{
	struct reg_l2 *l2 = &spec->l2;

	if (strcmp(name, "lambda") == 0)
		return set_lambda(c, spec, value, err);
	if (strcmp(name, "mode") == 0) {
		if (strcmp(value, "decoupled") != 0 && strcmp(value, "coupled") != 0)
			return fail(c, err, "'%s' is no mode of l2; choose decoupled (as AdamW) or coupled (a penalty in the loss)",
				    value);
		l2->mode = value[0] == 'c' ? L2_COUPLED : L2_DECOUPLED;
		return 0;
	}
	if (strcmp(name, "on") == 0) {
		if (strcmp(value, "weights") != 0 && strcmp(value, "all") != 0)
			return fail(c, err, "l2 works on=weights or on=all (norms and biases too), not on '%s'", value);
		l2->all = value[0] == 'a';
		return 0;
	}
	return fail(c, err, "l2 has no option '%s'; it takes lambda, mode and on", name);
}

static int adv_method(const struct cursor *c, struct reg_spec *spec, const char *value, struct err *err)
{
	if (strcmp(value, "fgm") == 0) {
		spec->adv.method = ADV_FGM;
		return 0;
	}
	if (strcmp(value, "pgd") == 0 || strcmp(value, "freelb") == 0)
		return fail(c, err, "the method %s is not available in this version; use method=fgm", value);
	return fail(c, err, "'%s' is no method of adv; choose fgm", value);
}

/* "text", "feat", "text+feat"; the caller joined the words. */
static int adv_targets(const struct cursor *c, struct reg_spec *spec, const char *value, struct err *err)
{
	unsigned targets = 0;

	for (const char *at = value;; at++) {
		size_t length = word_length(at);
		unsigned bit = word_is(at, length, "text") ? ADV_TEXT : word_is(at, length, "feat") ? ADV_FEAT : 0;

		if (bit == 0)
			return fail(c, err, "'%.*s' is no target of adv; choose text (word embeddings), feat (image features) or text+feat",
				    (int)length, at);
		if (targets & bit)
			return fail(c, err, "the target %.*s stands twice", (int)length, at);
		targets |= bit;
		at += length;
		if (*at == '\0')
			break;
	}
	spec->adv.targets = targets;
	return 0;
}

static int adv_option(const struct cursor *c, struct reg_spec *spec, const char *name, const char *value, struct err *err)
{
	struct reg_adv *adv = &spec->adv;

	if (strcmp(name, "method") == 0)
		return adv_method(c, spec, value, err);
	if (strcmp(name, "target") == 0)
		return adv_targets(c, spec, value, err);
	if (strcmp(name, "eps") == 0 || strcmp(name, "rel") == 0) {
		adv->relative = name[0] == 'r';
		return set_positive(c, "adv", name, value, &adv->eps, err);
	}
	if (strcmp(name, "weight") == 0)
		return set_positive(c, "adv", "the weight", value, &adv->weight, err);
	if (strcmp(name, "norm") == 0) {
		if (strcmp(value, "l2") != 0 && strcmp(value, "linf") != 0)
			return fail(c, err, "'%s' is no norm of adv; choose l2 or linf", value);
		adv->norm = value[2] == '\0' ? ADV_L2 : ADV_LINF;
		return 0;
	}
	if (strcmp(name, "k") == 0)
		return fail(c, err, "the option k is for methods with several passes, which are not available in this version");
	return fail(c, err, "adv has no option '%s'; it takes method, target, eps, rel, norm and weight", name);
}

/* ---- terms ---- */

static bool *term_switch(struct reg_spec *spec, const char *name)
{
	if (strcmp(name, "dropout") == 0)
		return &spec->dropout.on;
	return strcmp(name, "l2") == 0 ? &spec->l2.on : &spec->adv.on;
}

static uint32_t *term_epoch(struct reg_spec *spec, const char *name)
{
	if (strcmp(name, "dropout") == 0)
		return &spec->dropout.from_epoch;
	return strcmp(name, "l2") == 0 ? &spec->l2.from_epoch : &spec->adv.from_epoch;
}

static int main_value(const struct cursor *c, struct reg_spec *spec, const char *name, const char *value, struct err *err)
{
	if (strcmp(name, "dropout") == 0)
		return set_probability(c, spec, value, err);
	if (strcmp(name, "l2") == 0)
		return set_lambda(c, spec, value, err);
	return adv_option(c, spec, "eps", value, err);
}

/* A value, with the words that a '+' joins to it where those are no terms. */
static int take_value(struct cursor *c, char out[WORD_BYTES], const char *option, struct err *err)
{
	char expected[WORD_BYTES + 32];
	size_t used;
	int code;

	snprintf(expected, sizeof(expected), "a value for %s", option);
	if ((code = take_word(c, out, expected, err)) != 0)
		return code;
	for (used = strlen(out); strcmp(option, "target") == 0 && *c->at == '+'; used = strlen(out)) {
		size_t length = word_length(c->at + 1);

		if (is_term(c->at + 1, length))
			break;
		if (used + length + 2 > WORD_BYTES)
			return fail(c, err, "'%s' is too long", out);
		memcpy(out + used, c->at, length + 1);
		out[used + length + 1] = '\0';
		c->at += length + 1;
	}
	return 0;
}

static int parse_option(struct cursor *c, struct reg_spec *spec, const char *term, unsigned *eps_given, struct err *err)
{
	char name[WORD_BYTES], value[WORD_BYTES];
	int code;

	if ((code = take_word(c, name, "an option", err)) != 0)
		return code;
	if (*c->at != '=')
		return fail(c, err, "the option '%s' of %s needs a value: %s=...", name, term, name);
	c->at++;
	if ((code = take_value(c, value, name, err)) != 0)
		return code;
	if (strcmp(term, "dropout") == 0)
		return dropout_option(c, spec, name, value, err);
	if (strcmp(term, "l2") == 0)
		return l2_option(c, spec, name, value, err);
	if ((strcmp(name, "eps") == 0 || strcmp(name, "rel") == 0) && (*eps_given)++ > 0)
		return fail(c, err, "the size of adv stands twice; give eps=E or rel=R once");
	return adv_option(c, spec, name, value, err);
}

static int parse_term(struct cursor *c, struct reg_spec *spec, struct err *err)
{
	char name[WORD_BYTES], value[WORD_BYTES];
	unsigned eps_given = 0;
	bool *on;
	int code;

	if ((code = take_word(c, name, "none, dropout, l2 or adv", err)) != 0)
		return code;
	if (strcmp(name, "none") == 0)
		return fail(c, err, "none stands alone: it means no regularizer");
	if (!is_term(name, strlen(name)))
		return fail(c, err, "'%s' is no regularizer; choose none, dropout, l2, adv or a sum of them such as dropout+l2", name);
	on = term_switch(spec, name);
	if (*on)
		return fail(c, err, "%s stands twice", name);
	*on = true;
	if (*c->at == '=') {
		c->at++;
		if ((code = take_word(c, value, "a number", err)) != 0 || (code = main_value(c, spec, name, value, err)) != 0)
			return code;
		eps_given = strcmp(name, "adv") == 0;
	}
	for (char before = ':'; *c->at == before; before = ',') {
		c->at++;
		if ((code = parse_option(c, spec, name, &eps_given, err)) != 0)
			return code;
	}
	if (*c->at == '@') {
		int64_t epoch;

		c->at++;
		if ((code = take_word(c, value, "an epoch after @", err)) != 0)
			return code;
		if (args_parse_int(value, 0, REG_EPOCH_MAX, &epoch, NULL) != 0)
			return fail(c, err, "after @ stands the epoch from which %s works, a whole number from 0, not '%s'", name, value);
		*term_epoch(spec, name) = (uint32_t)epoch;
	}
	return 0;
}

static void set_defaults(struct reg_spec *out)
{
	*out = (struct reg_spec){
		.dropout = { .probability = 0.3 },
		.l2 = { .lambda = 0.01, .mode = L2_DECOUPLED },
		.adv = { .method = ADV_FGM, .targets = ADV_TEXT | ADV_FEAT, .norm = ADV_L2, .relative = true, .eps = 0.03,
			 .weight = 1.0 },
	};
}

int reg_spec_parse(struct reg_spec *out, const char *text, struct err *err)
{
	struct cursor c = { text, text };
	int code;

	set_defaults(out);
	if (strcmp(text, "none") == 0)
		return 0;
	for (;;) {
		if ((code = parse_term(&c, out, err)) != 0)
			return code;
		if (*c.at == '\0')
			break;
		if (*c.at != '+')
			return fail(&c, err, "cannot read from '%.40s' on; terms are joined by '+', options follow ':' as name=value", c.at);
		c.at++;
	}
	return 0;
}

static size_t add_term(char out[REG_TEXT_BYTES], size_t used, uint32_t from_epoch, const char *format, ...) PRINTF_LIKE(4, 5);

static size_t add_term(char out[REG_TEXT_BYTES], size_t used, uint32_t from_epoch, const char *format, ...)
{
	va_list args;

	if (used > 0)
		used += (size_t)snprintf(out + used, REG_TEXT_BYTES - used, "+");
	va_start(args, format);
	used += (size_t)vsnprintf(out + used, REG_TEXT_BYTES - used, format, args);
	va_end(args);
	if (from_epoch > 0)
		used += (size_t)snprintf(out + used, REG_TEXT_BYTES - used, "@%u", from_epoch);
	CHECK(used < REG_TEXT_BYTES);
	return used;
}

/* The shortest decimal that reads back as the same number, without a '+' in the exponent. */
static const char *number(char out[32], double value)
{
	for (int digits = 1; digits <= 17; digits++) {
		snprintf(out, 32, "%.*g", digits, value);
		if (strtod(out, NULL) == value)
			break;
	}
	char *plus = strchr(out, '+');
	if (plus != NULL)
		memmove(plus, plus + 1, strlen(plus));
	return out;
}

void reg_spec_text(const struct reg_spec *spec, char out[REG_TEXT_BYTES])
{
	const struct reg_adv *adv = &spec->adv;
	size_t used = 0;
	char a[32], b[32];

	snprintf(out, REG_TEXT_BYTES, "none");
	if (spec->dropout.on)
		used = add_term(out, used, spec->dropout.from_epoch, "dropout=%s", number(a, spec->dropout.probability));
	if (spec->l2.on)
		used = add_term(out, used, spec->l2.from_epoch, "l2=%s:mode=%s,on=%s", number(a, spec->l2.lambda),
				spec->l2.mode == L2_COUPLED ? "coupled" : "decoupled", spec->l2.all ? "all" : "weights");
	if (adv->on)
		used = add_term(out, used, adv->from_epoch, "adv:method=fgm,target=%s%s%s,%s=%s,norm=%s,weight=%s",
				adv->targets & ADV_TEXT ? "text" : "", adv->targets == (ADV_TEXT | ADV_FEAT) ? "+" : "",
				adv->targets & ADV_FEAT ? "feat" : "", adv->relative ? "rel" : "eps", number(a, adv->eps),
				adv->norm == ADV_LINF ? "linf" : "l2", number(b, adv->weight));
}
