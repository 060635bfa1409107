#include "trainer/reg/spec.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/args.h"
#include "trainer/reg/spec_terms.h"

enum { WORD_BYTES = 64, GIVEN_MAX = 32, SHOWN_BYTES = 208 };

const char reg_adv_default[] = "method=fgm,target=text+feat,rel=0.1,warmup=4";

const char reg_spec_help[] =
	"none, or a sum of: dropout[=0.3] in front of the fusion layer or elsewhere; l2[=0.01] weight decay; smooth[=0.1] label "
	"smoothing; mixup[=0.2]; depth[=0.1] stochastic depth; rdrop[=1]; sam[=0.05]; early[=3] early stopping; adv[=EPS] "
	"adversarial training (method=fgm|pgd|freelb|villa|smart|free|noise, target=text|feat|fused|pixel or a sum, eps=E "
	"or rel=R, norm=l2|linf ...); noise, its control. Options follow a colon; @E: from epoch E on, @E-F: up to F - 1. "
	"l2=0.05+dropout@3, adv:target=text,rel=0.1. `trainer reg` lists every option. Default: none.";

/* The text between two separators; `at` is where parsing goes on. */
struct cursor {
	const char *whole; /* the value of --reg */
	const char *at;
};

/* A term while it is read. */
struct reading {
	struct cursor *c;
	struct reg_spec *spec;   /* what is being filled; dropout goes into its first place */
	const struct reg_term *term;
	char name[WORD_BYTES];   /* as it was written */
	const struct reg_option *given[GIVEN_MAX];
	int given_count;
	unsigned sites;          /* of dropout */
};

static int fail(const struct cursor *c, struct err *err, const char *format, ...) PRINTF_LIKE(3, 4);

/* Bytes that would break the line or steer a terminal, as one would write them in a string; cut where out is full. */
static const char *visible(const char *text, char *out, size_t bytes)
{
	static const char names[] = "abtnvfr"; /* of 7 to 13 */
	size_t used = 0;

	for (const unsigned char *at = (const unsigned char *)text; *at != '\0' && used + 5 <= bytes; at++) {
		bool pair = at[0] == 0xC2 && at[1] >= 0x80 && at[1] < 0xA0; /* U+0080 to U+009F */

		if (*at >= 7 && *at <= 13)
			used += (size_t)snprintf(out + used, bytes - used, "\\%c", names[*at - 7]);
		else if (*at < ' ' || *at == 0x7F)
			used += (size_t)snprintf(out + used, bytes - used, "\\x%02x", *at);
		else if (pair)
			used += (size_t)snprintf(out + used, bytes - used, "\\x%02x", *++at);
		else
			out[used++] = (char)*at;
	}
	out[used] = '\0';
	return out;
}

static int refuse(const char *spec, struct err *err, const char *format, va_list args)
{
	char detail[512], shown_spec[SHOWN_BYTES], shown[2 * sizeof(detail)];

	vsnprintf(detail, sizeof(detail), format, args);
	return err_set(err, ERR_USAGE, "--reg %s: %s", visible(spec, shown_spec, sizeof(shown_spec)), visible(detail, shown, sizeof(shown)));
}

int reg_spec_refuse(const char *spec, struct err *err, const char *format, ...)
{
	va_list args;
	int code;

	va_start(args, format);
	code = refuse(spec, err, format, args);
	va_end(args);
	return code;
}

static int fail(const struct cursor *c, struct err *err, const char *format, ...)
{
	va_list args;
	int code;

	va_start(args, format);
	code = refuse(c->whole, err, format, args);
	va_end(args);
	return code;
}

/* Length of the word that starts at `from`. */
static size_t word_length(const char *from)
{
	return strcspn(from, "+=:,@");
}

static bool is_term(const char *from, size_t length)
{
	return (length == 4 && memcmp(from, "none", 4) == 0) || reg_term_find(from, length) != NULL;
}

size_t reg_term_length(const char *text)
{
	size_t bytes = strcspn(text, "+");

	while (text[bytes] == '+' && !is_term(text + bytes + 1, word_length(text + bytes + 1)))
		bytes += 1 + strcspn(text + bytes + 1, "+");
	return bytes;
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

/* ---- values ---- */

static void *field(const struct reading *r, const struct reg_option *option)
{
	return (char *)r->spec + option->at;
}

static void limits_text(const struct reg_option *o, char *out, size_t bytes)
{
	char low[32], high[32];

	snprintf(out, bytes, "%s %s%s%s%s", o->open_min ? "above" : "at least", reg_number(low, o->min),
		 isinf(o->max) ? "" : " and ", isinf(o->max) ? "" : o->open_max ? "below " : "at most ",
		 isinf(o->max) ? "" : reg_number(high, o->max));
}

static int take_real(const struct reading *r, const struct reg_option *o, const char *text, double *out, struct err *err)
{
	char limits[96];
	double value;

	if (args_parse_real(text, &value, NULL) != 0)
		return fail(r->c, err, "%s of %s is a number such as 0.1 or 1e-3, not '%s'", o->name, r->name, text);
	limits_text(o, limits, sizeof(limits));
	if (!(o->open_min ? value > o->min : value >= o->min) || !(o->open_max ? value < o->max : value <= o->max))
		return fail(r->c, err, "%s of %s is %s, not %s", o->name, r->name, limits, text);
	*out = value;
	return 0;
}

static int take_count(const struct reading *r, const struct reg_option *o, const char *text, int64_t *out, struct err *err)
{
	if (args_parse_int(text, (int64_t)o->min, (int64_t)o->max, out, NULL) != 0)
		return fail(r->c, err, "%s of %s is a whole number from %.0f to %.0f, not '%s'", o->name, r->name, o->min, o->max, text);
	return 0;
}

static int choice_of(const struct reg_option *o, const char *from, size_t length)
{
	for (int i = 0; i < REG_CHOICES_MAX && o->choices[i] != NULL; i++)
		if (strlen(o->choices[i]) == length && memcmp(o->choices[i], from, length) == 0)
			return i;
	return -1;
}

static int no_choice(const struct reading *r, const struct reg_option *o, const char *from, size_t length, struct err *err)
{
	char choices[160];

	reg_choices_text(o, choices, sizeof(choices));
	return fail(r->c, err, "'%.*s' is no choice for %s of %s; choose %s%s", (int)length, from, o->name, r->name, choices,
		    o->kind == REG_SET ? ", or several joined by +" : "");
}

/* "text", "feat", "text+feat"; the caller joined the words. */
static int take_set(const struct reading *r, const struct reg_option *o, const char *value, unsigned *out, struct err *err)
{
	unsigned bits = 0;

	for (const char *at = value;; at++) {
		size_t length = word_length(at);
		int choice = choice_of(o, at, length);

		if (choice < 0)
			return no_choice(r, o, at, length, err);
		if (bits >> choice & 1)
			return fail(r->c, err, "the %s %.*s stands twice", o->name, (int)length, at);
		bits |= 1u << choice;
		at += length;
		if (*at == '\0')
			break;
	}
	*out = bits;
	return 0;
}

static int take_warmup(const struct reading *r, const struct reg_option *o, const char *text, struct err *err)
{
	char number[WORD_BYTES];
	size_t length = strlen(text);
	bool steps = length > 5 && strcmp(text + length - 5, "steps") == 0;
	bool epochs = length > 6 && strcmp(text + length - 6, "epochs") == 0;

	snprintf(number, sizeof(number), "%.*s", (int)(length - (steps ? 5 : epochs ? 6 : 0)), text);
	r->spec->adv.warmup_steps = steps;
	return take_real(r, o, number, &r->spec->adv.warmup, err);
}

static int set_option(struct reading *r, const struct reg_option *o, const char *value, struct err *err)
{
	void *at = field(r, o);

	switch (o->kind) {
	case REG_REAL:
		return take_real(r, o, value, at, err);
	case REG_COUNT:
		return take_count(r, o, value, at, err);
	case REG_SET:
		return take_set(r, o, value, r->term == &reg_terms[0] ? &r->sites : at, err);
	case REG_EPS:
	case REG_REL:
		r->spec->adv.relative = o->kind == REG_REL;
		return take_real(r, o, value, at, err);
	case REG_INIT:
		if (strcmp(value, "zero") == 0 || strcmp(value, "random") == 0) {
			*(double *)at = value[0] == 'r';
			return 0;
		}
		return take_real(r, o, value, at, err);
	case REG_WARMUP:
		return take_warmup(r, o, value, err);
	case REG_CHOICE: {
		int choice = choice_of(o, value, strlen(value));

		if (choice < 0)
			return no_choice(r, o, value, strlen(value), err);
		*(int *)at = choice;
		return 0;
	}
	}
	return 0;
}

/* ---- options ---- */

static bool was_given(const struct reading *r, const char *name)
{
	for (int i = 0; i < r->given_count; i++)
		if (strcmp(r->given[i]->name, name) == 0)
			return true;
	return false;
}

static bool is_size(const struct reg_option *o)
{
	return o->kind == REG_EPS || o->kind == REG_REL;
}

static int note_given(struct reading *r, const struct reg_option *o, struct err *err)
{
	for (int i = 0; i < r->given_count; i++)
		if (r->given[i] == o || (is_size(o) && is_size(r->given[i])))
			return is_size(o) ? fail(r->c, err, "the size of adv stands twice; give eps=E or rel=R once") :
					    fail(r->c, err, "%s of %s stands twice", o->name, r->name);
	CHECK(r->given_count < GIVEN_MAX);
	r->given[r->given_count++] = o;
	return 0;
}

static const struct reg_option *option_find(const struct reg_term *term, const char *name)
{
	for (int i = 0; i < term->option_count; i++)
		if (strcmp(term->options[i].name, name) == 0)
			return &term->options[i];
	return NULL;
}

static int no_option(const struct reading *r, const char *name, struct err *err)
{
	char names[200];
	size_t used = 0;

	names[0] = '\0';
	for (int i = 0; i < r->term->option_count; i++)
		used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s",
					 i == 0 ? "" : i + 1 == r->term->option_count ? " and " : ", ", r->term->options[i].name);
	return fail(r->c, err, "%s has no option '%s'; it takes %s", r->name, name, names);
}

/* A value, with the words that a '+' joins to it where those are no terms. */
static int take_value(struct reading *r, const struct reg_option *o, char out[WORD_BYTES], struct err *err)
{
	struct cursor *c = r->c;
	char expected[WORD_BYTES + 32];
	size_t used;
	int code;

	snprintf(expected, sizeof(expected), "a value for %s", o->name);
	if ((code = take_word(c, out, expected, err)) != 0)
		return code;
	for (used = strlen(out); o->kind == REG_SET && *c->at == '+'; used = strlen(out)) {
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

static int parse_option(struct reading *r, struct err *err)
{
	struct cursor *c = r->c;
	const struct reg_option *o;
	char name[WORD_BYTES], value[WORD_BYTES];
	int code;

	if ((code = take_word(c, name, "an option", err)) != 0)
		return code;
	if ((o = option_find(r->term, name)) == NULL)
		return no_option(r, name, err);
	if (*c->at != '=')
		return fail(c, err, "the option '%s' of %s needs a value: %s=...", name, r->name, name);
	c->at++;
	if ((code = take_value(r, o, value, err)) != 0 || (code = note_given(r, o, err)) != 0)
		return code;
	return set_option(r, o, value, err);
}

static int parse_options(struct reading *r, struct err *err)
{
	int code = 0;

	for (char before = ':'; code == 0 && *r->c->at == before; before = ',') {
		r->c->at++;
		code = parse_option(r, err);
	}
	return code;
}

/* ---- terms ---- */

static int parse_window(struct reading *r, struct err *err)
{
	struct reg_window *when = (struct reg_window *)((char *)r->spec + r->term->when);
	char word[WORD_BYTES], *dash;
	int64_t from, until = 0;
	int code;

	r->c->at++;
	if ((code = take_word(r->c, word, "an epoch after @", err)) != 0)
		return code;
	dash = strchr(word + 1, '-');
	if (dash != NULL)
		*dash = '\0';
	if (args_parse_int(word, 0, REG_EPOCH_MAX, &from, NULL) != 0 ||
	    (dash != NULL && args_parse_int(dash + 1, 0, REG_EPOCH_MAX, &until, NULL) != 0)) {
		if (dash != NULL)
			*dash = '-';
		return fail(r->c, err, "after @ stands the epoch from which %s works, a whole number from 0, or as in @2-5 the epochs "
			    "from 2 up to 4, not '%s'", r->name, word);
	}
	if (dash != NULL && until <= from)
		return fail(r->c, err, "@%s-%s: %s would never work; the second epoch is the first without it", word, dash + 1, r->name);
	*when = (struct reg_window){ (uint32_t)from, (uint32_t)until };
	return 0;
}

static bool methods_know(const struct reg_option *o, int method)
{
	return o->methods == 0 || o->methods >> method & 1;
}

/* Options that the method does not know, and those that contradict each other. */
static int check_adv(struct reading *r, struct err *err)
{
	struct reg_adv *adv = &r->spec->adv;
	const char *method = reg_method_names[adv->method];
	bool noise = strcmp(r->name, "noise") == 0;

	if (noise && was_given(r, "method"))
		return fail(r->c, err, "noise is adv:method=noise; leave the method out, or write adv:method=...");
	if (noise)
		adv->method = ADV_NOISE;
	for (int i = 0; i < r->given_count; i++) {
		char list[80] = "";
		size_t used = 0;

		if (methods_know(r->given[i], adv->method))
			continue;
		for (int m = 0; m < ADV_METHODS; m++)
			if (methods_know(r->given[i], m))
				used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", used > 0 ? ", " : "", reg_method_names[m]);
		return fail(r->c, err, "method=%s has no option %s; %s belongs to %s", adv->method == ADV_NOISE ? "noise" : method,
			    r->given[i]->name, r->given[i]->name, list);
	}
	/* The default size grows into a run, since at once it would keep one from random weights at chance. A size that was asked for is that size. */
	if ((was_given(r, "eps") || was_given(r, "rel")) && !was_given(r, "warmup")) {
		adv->warmup = 0;
		adv->warmup_steps = false;
	}
	reg_adv_settle(adv);
	if (adv->method == ADV_SMART && adv->init == 0)
		return fail(r->c, err, "method=smart needs a random start (init above 0): at 0 the divergence has no gradient");
	if (adv->init > 0 && adv->method != ADV_FREELB && adv->k < 3)
		return fail(r->c, err, "k=%lld of %s leaves no pass to climb in: the clean pass, one at the random start and one at "
			    "the top are 3", (long long)adv->k, method);
	return 0;
}

/* Dropout was read into the first place; it belongs to those that `at` names. */
static int place_dropout(struct reading *r, const struct reg_dropout *before, struct err *err)
{
	struct reg_dropout term = r->spec->dropout[0];
	unsigned sites = r->sites == 0 ? 1u << DROP_FUSION : r->sites;

	r->spec->dropout[0] = *before;
	for (int site = 0; site < DROP_SITES; site++) {
		if (!(sites >> site & 1))
			continue;
		if (r->spec->dropout[site].on)
			return fail(r->c, err, "dropout stands twice at %s", option_find(r->term, "at")->choices[site]);
		r->spec->dropout[site] = term;
	}
	return 0;
}

static int parse_number(struct reading *r, struct err *err)
{
	const struct reg_option *o = option_find(r->term, r->term->number);
	char value[WORD_BYTES];
	int code;

	r->c->at++;
	if ((code = take_word(r->c, value, "a number", err)) != 0 || (code = note_given(r, o, err)) != 0)
		return code;
	return set_option(r, o, value, err);
}

/* What adv means before its own options are read. */
static void default_adv(struct reading *r)
{
	struct cursor c = { reg_adv_default, reg_adv_default };
	struct reading base = { .c = &c, .spec = r->spec, .term = r->term, .name = "adv" };
	char text[sizeof(reg_adv_default) + 1];

	snprintf(text, sizeof(text), ":%s", reg_adv_default);
	c.at = text;
	CHECK(parse_options(&base, NULL) == 0 && *c.at == '\0');
}

static int finish_term(struct reading *r, const struct reg_dropout *before, struct err *err)
{
	struct reg_spec *spec = r->spec;

	if (strcmp(r->term->name, "dropout") == 0)
		return place_dropout(r, before, err);
	if (strcmp(r->term->name, "adv") == 0)
		return check_adv(r, err);
	if (strcmp(r->term->name, "sam") == 0 && isnan(spec->sam.rho))
		spec->sam.rho = spec->sam.mode == SAM_ADAPTIVE ? 0.5 : 0.05;
	return 0;
}

static int no_term(const struct cursor *c, const char *name, struct err *err)
{
	char names[160] = "none";
	size_t used = strlen(names);

	for (int i = 0; i < reg_term_count; i++)
		used += (size_t)snprintf(names + used, sizeof(names) - used, ", %s", reg_terms[i].name);
	return fail(c, err, "'%s' is no regularizer; choose %s, noise or a sum of them such as dropout+l2", name, names);
}

static int parse_term(struct cursor *c, struct reg_spec *spec, struct err *err)
{
	struct reading r = { .c = c, .spec = spec };
	struct reg_dropout before = spec->dropout[0];
	bool *on;
	int code;

	if ((code = take_word(c, r.name, "none, dropout, l2 or adv, or another regularizer,", err)) != 0)
		return code;
	if (strcmp(r.name, "none") == 0)
		return fail(c, err, "none stands alone: it means no regularizer");
	if ((r.term = reg_term_find(r.name, strlen(r.name))) == NULL)
		return no_term(c, r.name, err);
	on = (bool *)((char *)spec + r.term->on);
	if (strcmp(r.term->name, "dropout") == 0)
		spec->dropout[0] = (struct reg_dropout){ .probability = 0.3 };
	else if (*on)
		return fail(c, err, strcmp(r.term->name, "adv") == 0 ? "%s stands twice (noise is adv:method=noise)" : "%s stands twice",
			    r.term->name);
	if (strcmp(r.term->name, "adv") == 0)
		default_adv(&r);
	*on = true;
	if (*c->at == '=' && (code = parse_number(&r, err)) != 0)
		return code;
	if ((code = parse_options(&r, err)) != 0 || (*c->at == '@' && (code = parse_window(&r, err)) != 0))
		return code;
	return finish_term(&r, &before, err);
}

static int check_together(const struct cursor *c, const struct reg_spec *spec, struct err *err)
{
	if (spec->adv.on && spec->adv.method == ADV_FREE && spec->sam.on)
		return fail(c, err, "sam and adv:method=free both decide where a step's gradient is taken; choose one of them");
	if (spec->adv.on && spec->adv.method == ADV_FREELB && spec->adv.init > 0 && spec->rdrop.on)
		return fail(c, err, "freelb from a random start has no clean pass for rdrop to compare; use init=zero");
	if (spec->adv.on && spec->adv.method == ADV_FREE && spec->rdrop.on)
		return fail(c, err, "rdrop compares two passes of a minibatch, adv:method=free updates the weights between them; choose one");
	return 0;
}

int reg_spec_parse(struct reg_spec *out, const char *text, struct err *err)
{
	struct cursor c = { text, text };
	int code;

	reg_spec_defaults(out);
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
	return check_together(&c, out, err);
}
