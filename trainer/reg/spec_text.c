/* The canonical text of a specification, and the list that `trainer reg` prints. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "trainer/reg/spec_terms.h"

struct writer {
	char *out;
	size_t used;
};

static void put(struct writer *w, const char *format, ...) PRINTF_LIKE(2, 3);

static void put(struct writer *w, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	w->used += (size_t)vsnprintf(w->out + w->used, REG_TEXT_BYTES - w->used, format, args);
	va_end(args);
	CHECK(w->used < REG_TEXT_BYTES);
}

static const void *field(const struct reg_spec *spec, size_t at)
{
	return (const char *)spec + at;
}

static void put_set(struct writer *w, const struct reg_option *option, unsigned bits)
{
	bool first = true;

	for (int i = 0; i < REG_CHOICES_MAX && option->choices[i] != NULL; i++)
		if (bits >> i & 1) {
			put(w, "%s%s", first ? "" : "+", option->choices[i]);
			first = false;
		}
}

static void put_value(struct writer *w, const struct reg_spec *spec, const struct reg_option *option)
{
	const void *at = field(spec, option->at);
	char number[32];

	switch (option->kind) {
	case REG_CHOICE:
		put(w, "%s", option->choices[*(const int *)at]);
		break;
	case REG_SET:
		put_set(w, option, *(const unsigned *)at);
		break;
	case REG_COUNT:
		put(w, "%lld", (long long)*(const int64_t *)at);
		break;
	default:
		put(w, "%s%s", reg_number(number, *(const double *)at),
		    option->kind == REG_WARMUP && spec->adv.warmup_steps ? "steps" : "");
		break;
	}
}

/* Options that do not apply, or say nothing. */
static bool left_out(const struct reg_spec *spec, const struct reg_option *option)
{
	const void *at = field(spec, option->at);

	if (option->methods != 0 && !(option->methods >> spec->adv.method & 1))
		return true;
	if ((option->kind == REG_EPS && spec->adv.relative) || (option->kind == REG_REL && !spec->adv.relative))
		return true;
	if (!option->quiet)
		return false;
	return option->kind == REG_COUNT ? (double)*(const int64_t *)at == option->neutral : *(const double *)at == option->neutral;
}

static void put_window(struct writer *w, struct reg_window when)
{
	if (when.until_epoch > 0)
		put(w, "@%u-%u", when.from_epoch, when.until_epoch);
	else if (when.from_epoch > 0)
		put(w, "@%u", when.from_epoch);
}

static void put_dropout(struct writer *w, const struct reg_spec *spec, const struct reg_term *term)
{
	char number[32];

	for (int site = 0; site < DROP_SITES; site++) {
		const struct reg_dropout *d = &spec->dropout[site];

		if (!d->on)
			continue;
		put(w, "%sdropout=%s", w->used > 0 ? "+" : "", reg_number(number, d->probability));
		if (site != DROP_FUSION)
			put(w, ":at=%s", term->options[1].choices[site]);
		put_window(w, d->when);
	}
}

static void put_term(struct writer *w, const struct reg_spec *spec, const struct reg_term *term)
{
	char separator = ':';

	if (!*(const bool *)field(spec, term->on))
		return;
	put(w, "%s%s", w->used > 0 ? "+" : "", term->name);
	for (int i = 0; i < term->option_count; i++) {
		const struct reg_option *option = &term->options[i];

		if (left_out(spec, option))
			continue;
		/* adv's number is eps or rel, so it is written by name. */
		if (strcmp(option->name, term->number) == 0 && option->kind != REG_EPS) {
			put(w, "=");
		} else {
			put(w, "%c%s=", separator, option->name);
			separator = ',';
		}
		put_value(w, spec, option);
	}
	put_window(w, *(const struct reg_window *)field(spec, term->when));
}

void reg_spec_text(const struct reg_spec *spec, char out[REG_TEXT_BYTES])
{
	struct writer w = { out, 0 };

	for (int i = 0; i < reg_term_count; i++) {
		if (strcmp(reg_terms[i].name, "dropout") == 0)
			put_dropout(&w, spec, &reg_terms[i]);
		else
			put_term(&w, spec, &reg_terms[i]);
	}
	if (w.used == 0)
		put(&w, "none");
}

void reg_spec_list(void)
{
	printf("--reg SPEC: none, or terms joined by +.  NAME[=NUMBER][:OPTION=VALUE,...][@E[-F]]\n"
	       "@E: from epoch E on (they count from 0); @E-F: in epochs E up to F - 1.\n");
	for (int i = 0; i < reg_term_count; i++) {
		const struct reg_term *term = &reg_terms[i];

		printf("\n%s - %s  (%s)\n", term->name, term->help, term->paper);
		for (int k = 0; k < term->option_count; k++) {
			const struct reg_option *option = &term->options[k];
			bool number = strcmp(option->name, term->number) == 0;

			printf("  %-8s  %s", option->name, option->help);
			if (option->methods != 0) {
				const char *separator = "; of ";

				for (int m = 0; m < ADV_METHODS; m++)
					if (option->methods >> m & 1) {
						printf("%s%s", separator, reg_method_names[m]);
						separator = ", ";
					}
			}
			printf("%s\n", number ? "; the number behind the name" : "");
		}
	}
	printf("\nadv alone means adv:%s; with eps or rel there is no warmup unless asked for.\n"
	       "noise is adv:method=noise.\n"
	       "Formulas, papers and costs: docs/training.md.\n", reg_adv_default);
}
