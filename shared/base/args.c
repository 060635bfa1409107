#include "shared/base/args.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES_MAX = 64 };

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* ---- values ---- */

static int int_error(const char *text, int64_t min, int64_t max, bool too_large, struct err *err)
{
	if (too_large && (max == INT64_MAX || (min == 0 && max == 0)))
		return err_set(err, ERR_USAGE, "expected a whole number of at most %lld, got '%s'", (long long)INT64_MAX, text);
	if (min == 0 && max == 0)
		return err_set(err, ERR_USAGE, "expected a whole number, got '%s'", text);
	if (max == INT64_MAX)
		return err_set(err, ERR_USAGE, "expected a whole number of at least %lld, got '%s'", (long long)min, text);
	return err_set(err, ERR_USAGE, "expected a whole number from %lld to %lld, got '%s'", (long long)min,
		       (long long)max, text);
}

int args_parse_int(const char *text, int64_t min, int64_t max, int64_t *out, struct err *err)
{
	const char *p = text + (text[0] == '-' || text[0] == '+');
	bool bounded = min != 0 || max != 0;
	char *end;

	if (!is_digit(*p))
		return int_error(text, min, max, false, err);
	errno = 0;
	long long value = strtoll(text, &end, 10);
	if (*end != '\0' || errno == ERANGE || (bounded && (value < min || value > max)))
		return int_error(text, min, max, *end == '\0' && errno == ERANGE && value > 0, err);
	*out = value;
	return 0;
}

int args_parse_real(const char *text, double *out, struct err *err)
{
	char *end = NULL;
	double value = NAN;

	/* strtod also takes leading blanks, hexadecimal, "inf" and "nan". */
	if (text[0] != '\0' && text[strspn(text, "0123456789+-.eE")] == '\0')
		value = strtod(text, &end);
	if (end == NULL || end == text || *end != '\0' || !isfinite(value))
		return err_set(err, ERR_USAGE, "expected a number such as 0.3 or 1e-4, got '%s'", text);
	*out = value;
	return 0;
}

/* 'K' to 10, ...; -1 for no unit of ours. Takes K, KB, KiB in either case. */
static int unit_shift(const char *unit)
{
	static const char letters[] = "KMGTkmgt";
	int shift = 0;

	if (*unit != '\0' && strchr(letters, *unit) != NULL) {
		shift = 10 * (1 + (int)((strchr(letters, *unit) - letters) % 4));
		unit++;
		if (*unit == 'i')
			unit++;
	}
	if (*unit == 'B' || *unit == 'b')
		unit++;
	return *unit == '\0' ? shift : -1;
}

int args_parse_size(const char *text, uint64_t *out, struct err *err)
{
	uint64_t whole = 0, part = 0;
	double fraction = 0, place = 1;
	bool overflow = false;
	const char *p = text;

	for (; is_digit(*p); p++)
		overflow |= __builtin_mul_overflow(whole, 10u, &whole) ||
			    __builtin_add_overflow(whole, (uint64_t)(*p - '0'), &whole);
	int shift = p == text ? -1 : 0;
	if (*p == '.')
		for (p++; is_digit(*p); p++)
			fraction += (*p - '0') * (place /= 10);
	if (shift == 0)
		shift = unit_shift(p);
	if (shift < 0)
		return err_set(err, ERR_USAGE, "expected a size such as 512M, 1.5G or 2T, got '%s'", text);
	part = (uint64_t)(fraction * (double)(UINT64_C(1) << shift));
	overflow |= __builtin_mul_overflow(whole, UINT64_C(1) << shift, &whole) ||
		    __builtin_add_overflow(whole, part, &whole);
	if (overflow)
		return err_set(err, ERR_USAGE, "the size '%s' is too large", text);
	*out = whole;
	return 0;
}

/* ---- names ---- */

static int min_int(int a, int b)
{
	return a < b ? a : b;
}

/* Edits (insert, delete, replace, swap of neighbours) from a to b. */
static int edit_distance(const char *a, const char *b)
{
	int rows[3][NAME_BYTES_MAX + 1];
	int *before = rows[0], *last = rows[1], *now = rows[2];
	int na = (int)strlen(a), nb = (int)strlen(b);

	if (na > NAME_BYTES_MAX || nb > NAME_BYTES_MAX)
		return NAME_BYTES_MAX;
	for (int j = 0; j <= nb; j++)
		last[j] = j;
	for (int i = 1; i <= na; i++) {
		now[0] = i;
		for (int j = 1; j <= nb; j++) {
			now[j] = min_int(min_int(last[j], now[j - 1]) + 1, last[j - 1] + (a[i - 1] != b[j - 1]));
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				now[j] = min_int(now[j], before[j - 2] + 1);
		}
		int *spare = before;
		before = last;
		last = now;
		now = spare;
	}
	return last[nb];
}

/* The known name that `name` was probably meant to be, or NULL. */
static const char *nearest_name(const struct args_spec *spec, const char *name)
{
	size_t length = strlen(name);
	const char *best = NULL;
	int best_distance = 1 + (int)length / 3;

	for (int i = 0; i <= spec->option_count; i++) {
		const char *known = i == spec->option_count ? "help" : spec->options[i].name;

		if (i < spec->option_count && spec->options[i].kind == ARGS_SECTION)
			continue;
		int distance = edit_distance(name, known);
		/* One that begins like the other is as near as one wrong letter. */
		size_t shorter = length < strlen(known) ? length : strlen(known);
		if (shorter >= 2 && distance > 1 && strncmp(name, known, shorter) == 0)
			distance = 1;
		if (distance <= best_distance && (best == NULL || distance < best_distance)) {
			best = known;
			best_distance = distance;
		}
	}
	return best;
}

static int unknown_option(const struct args_spec *spec, const char *arg, struct err *err)
{
	char name[NAME_BYTES_MAX + 1];
	size_t dashes = strspn(arg, "-"), length = strcspn(arg + dashes, "=");
	const char *meant = NULL;

	if (length > 1 && length <= NAME_BYTES_MAX) {
		memcpy(name, arg + dashes, length);
		name[length] = '\0';
		meant = nearest_name(spec, name);
	}
	if (meant != NULL)
		return err_set(err, ERR_USAGE, "unknown option %.*s (did you mean --%s?)", (int)(dashes + length), arg, meant);
	return err_set(err, ERR_USAGE, "unknown option %.*s; --help lists the options", (int)(dashes + length), arg);
}

static const struct args_option *find_name(const struct args_spec *spec, const char *name, size_t length)
{
	for (int i = 0; i < spec->option_count; i++) {
		const struct args_option *option = &spec->options[i];

		if (option->kind != ARGS_SECTION && strlen(option->name) == length && memcmp(option->name, name, length) == 0)
			return option;
	}
	return NULL;
}

static const struct args_option *find_letter(const struct args_spec *spec, char letter)
{
	for (int i = 0; i < spec->option_count; i++)
		if (spec->options[i].kind != ARGS_SECTION && spec->options[i].letter == letter && letter != 0)
			return &spec->options[i];
	return NULL;
}

/* Finds the option that arg names. *value: what is attached to it, or NULL. */
static const struct args_option *find_option(const struct args_spec *spec, const char *arg, const char **value)
{
	bool is_long = arg[1] == '-';
	const char *name = arg + 1 + is_long;
	size_t length = strcspn(name, "=");
	const struct args_option *option;

	*value = NULL;
	if (is_long) {
		option = find_name(spec, name, length);
		if (option != NULL && name[length] == '=')
			*value = name + length + 1;
		return option;
	}
	option = find_letter(spec, name[0]);
	if (option == NULL || name[1] == '\0')
		return option;
	/* "-spath" is -s with its value, but "-socket" lacks a dash. */
	if (option->kind == ARGS_FLAG || find_name(spec, name, length) != NULL)
		return NULL;
	*value = name + 1;
	return option;
}

/* ---- parsing ---- */

static int add_to_list(struct args_list *list, const char *value, struct err *err)
{
	if (list->count == ARGS_LIST_MAX)
		return err_set(err, ERR_USAGE, "given more than %d times", ARGS_LIST_MAX);
	list->items[list->count++] = value;
	return 0;
}

static int set_value(const struct args_option *option, const char *value, struct err *err)
{
	/* Nearly always a shell variable that is not set. */
	if (value[0] == '\0')
		return err_set(err, ERR_USAGE, "expected %s, got an empty text", option->metavar);
	switch (option->kind) {
	case ARGS_TEXT:
		*(const char **)option->value = value;
		return 0;
	case ARGS_LIST:
		return add_to_list(option->value, value, err);
	case ARGS_INT:
		return args_parse_int(value, option->min, option->max, option->value, err);
	case ARGS_REAL:
		return args_parse_real(value, option->value, err);
	case ARGS_SIZE:
		return args_parse_size(value, option->value, err);
	case ARGS_FLAG:
	case ARGS_SECTION:
		break;
	}
	CHECK(!"an option kind that takes a value");
	return 0;
}

static int take_option(const struct args_spec *spec, int argc, char *const argv[], int *at, struct err *err)
{
	const char *value, *unused;
	const struct args_option *option = find_option(spec, argv[*at], &value);

	if (option == NULL)
		return unknown_option(spec, argv[*at], err);
	if (option->given != NULL)
		*option->given = true;
	if (option->kind == ARGS_FLAG) {
		if (value != NULL)
			return err_set(err, ERR_USAGE, "--%s takes no value", option->name);
		*(bool *)option->value = true;
		return 0;
	}
	if (value == NULL) {
		const char *next = *at + 1 < argc ? argv[*at + 1] : NULL;

		/* "--out --force": the value was forgotten. "--out=--force" is
		 * there for those who mean it. */
		if (next == NULL || (next[0] == '-' && next[1] == '-' &&
				     (next[2] == '\0' || find_option(spec, next, &unused) != NULL)))
			return err_set(err, ERR_USAGE, "--%s needs a value (%s)", option->name, option->metavar);
		value = next;
		(*at)++;
	}
	int code = set_value(option, value, err);
	return code == 0 ? 0 : err_prefix(err, "--%s", option->name);
}

static bool asks_for_help(int argc, char *const argv[])
{
	for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			return true;
	return false;
}

/* "-" and "-5" are operands. */
static bool looks_like_option(const struct args_spec *spec, const char *arg)
{
	const char *unused;

	if (arg[0] != '-' || arg[1] == '\0')
		return false;
	return !(is_digit(arg[1]) || arg[1] == '.') || find_option(spec, arg, &unused) != NULL;
}

static int add_operand(const struct args_spec *spec, const char *arg, struct args_result *out, struct err *err)
{
	if (out->operand_count >= ARGS_OPERANDS_MAX)
		return err_set(err, ERR_USAGE, "more than %d arguments; give them in several calls", ARGS_OPERANDS_MAX);
	if (out->operand_count >= spec->operands_max)
		return err_set(err, ERR_USAGE, "unexpected argument '%s'; usage: %s", arg, spec->usage);
	out->operands[out->operand_count++] = arg;
	return 0;
}

int args_parse(const struct args_spec *spec, int argc, char *const argv[], struct args_result *out, struct err *err)
{
	bool options_end = false;
	int code = 0;

	CHECK(spec->operands_min <= spec->operands_max && spec->operands_max <= ARGS_OPERANDS_MAX);
	out->operand_count = 0;
	out->help = asks_for_help(argc, argv);
	if (out->help)
		return 0;
	for (int i = 0; i < argc && code == 0; i++) {
		if (options_end || !looks_like_option(spec, argv[i]))
			code = add_operand(spec, argv[i], out, err);
		else if (strcmp(argv[i], "--") == 0)
			options_end = true;
		else
			code = take_option(spec, argc, argv, &i, err);
	}
	if (code == 0 && out->operand_count < spec->operands_min)
		code = err_set(err, ERR_USAGE, "%s; usage: %s",
			       out->operand_count == 0 ? "an argument is missing" : "more arguments are needed", spec->usage);
	return code;
}
