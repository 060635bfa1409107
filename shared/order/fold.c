#include "shared/order/fold.h"

#include <string.h>

static int wrong(struct err *err, const char *split, const char *why)
{
	return err_set(err, ERR_USAGE, "split \"%.80s\": %s; folds are named as in train+val~fold=2/5 (the second of five), "
		       "~rest=2/5 (all but that one), ~fold=2/5,seed=7", split, why);
}

/* Digits alone; false where there are none or too many. */
static bool take_number(const char **at, uint64_t *out)
{
	const char *start = *at;
	uint64_t value = 0;

	while (**at >= '0' && **at <= '9') {
		if (__builtin_mul_overflow(value, (uint64_t)10, &value) ||
		    __builtin_add_overflow(value, (uint64_t)(**at - '0'), &value) || value > INT64_MAX)
			return false;
		(*at)++;
	}
	*out = value;
	return *at != start;
}

static bool take_text(const char **at, const char *text)
{
	size_t bytes = strlen(text);

	if (strncmp(*at, text, bytes) != 0)
		return false;
	*at += bytes;
	return true;
}

static int parse_cut(const char *split, const char **at, struct fold_spec *out, struct err *err)
{
	uint64_t index = 0, count = 0;

	out->rest = take_text(at, "rest=");
	if (!out->rest && !take_text(at, "fold="))
		return wrong(err, split, "behind '~' comes fold= or rest=");
	if (!take_number(at, &index) || !take_text(at, "/") || !take_number(at, &count))
		return wrong(err, split, "a fold is two numbers with a '/' between them");
	if (count < 2 || count > FOLD_COUNT_MAX)
		return wrong(err, split, "there must be 2 to 1000 folds");
	if (index < 1 || index > count)
		return wrong(err, split, "folds count from 1 to their number");
	if (take_text(at, ",seed=") && !take_number(at, &out->seed))
		return wrong(err, split, "a seed is a whole number from 0 on");
	out->index = (uint32_t)index;
	out->count = (uint32_t)count;
	return 0;
}

int fold_parse(const char *split, struct fold_chain *out, size_t *base_bytes, struct err *err)
{
	const char *at = split + strcspn(split, "~");
	int code;

	*out = (struct fold_chain){ 0 };
	*base_bytes = (size_t)(at - split);
	while (*at == '~') {
		at++;
		if (out->count == FOLD_DEPTH_MAX)
			return wrong(err, split, "folds of folds go three deep at most");
		if ((code = parse_cut(split, &at, &out->cut[out->count], err)) != 0)
			return code;
		out->count++;
	}
	if (*at != '\0')
		return wrong(err, split, "there is something behind the fold that is neither ',seed=N' nor '~' nor the end");
	return 0;
}

bool fold_overlap(const struct fold_chain *a, const struct fold_chain *b)
{
	for (int i = 0; i < a->count && i < b->count; i++) {
		const struct fold_spec *x = &a->cut[i], *y = &b->cut[i];

		if (x->count != y->count || x->seed != y->seed)
			return true;
		/* Two cuts of one kind: a fold and what is left of it have nothing in common, nor have two folds. */
		if (x->rest == y->rest && x->index == y->index)
			continue;
		return !(x->rest == y->rest ? !x->rest : x->index == y->index);
	}
	return true;
}
