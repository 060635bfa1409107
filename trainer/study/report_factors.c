/* Which arms form a full factorial of regularizers, and the effects of these. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/mem.h"
#include "trainer/reg/spec.h"
#include "trainer/study/report_analysis.h"

enum { TERMS_MAX = 12 };
/* In place of an arm's terms where it has too many, or more than terms. */
#define NO_PART (~0u)

struct terms {
	struct {
		const char *at; /* in an arm's text */
		size_t bytes;
	} all[TERMS_MAX];
	int count;
};

static bool is_term(const struct terms *terms, int i, const char *at, size_t bytes)
{
	return terms->all[i].bytes == bytes && memcmp(terms->all[i].at, at, bytes) == 0;
}

/* Bit i of *out: the arm has term i. False where there are too many terms. */
static bool terms_of(const char *reg, struct terms *terms, unsigned *out)
{
	*out = 0;
	while (*reg != '\0') {
		size_t bytes = reg_term_length(reg);
		int i = 0;

		while (i < terms->count && !is_term(terms, i, reg, bytes))
			i++;
		if (i == terms->count && !(bytes == 4 && memcmp(reg, "none", 4) == 0) && bytes > 0) {
			if (terms->count == TERMS_MAX)
				return false;
			terms->all[i].at = reg;
			terms->all[terms->count++].bytes = bytes;
		}
		if (i < terms->count)
			*out |= 1u << i;
		reg += bytes + (reg[bytes] == '+');
	}
	return true;
}

/* Places bit b of `choice` at the b-th set bit of `set`. */
static unsigned spread(unsigned choice, unsigned set)
{
	unsigned out = 0;

	for (int bit = 0, b = 0; bit < TERMS_MAX; bit++)
		if (set >> bit & 1)
			out |= (choice >> b++ & 1) << bit;
	return out;
}

static bool fill(const unsigned *has, int arms, unsigned set, int *arm)
{
	for (unsigned choice = 0; choice < 1u << __builtin_popcount(set); choice++) {
		int a = 0;

		for (; a < arms && has[a] != spread(choice, set); a++)
			;
		if (a == arms)
			return false;
		arm[choice] = a;
	}
	return true;
}

enum { FACTOR_BYTES = sizeof(((struct report_factorial *)0)->names[0]) };

/* The terms' names without their options, which stand in the table of arms. */
static void short_name(const char *at, size_t bytes, char out[FACTOR_BYTES])
{
	size_t used = 0;

	out[0] = '\0';
	for (size_t from = 0; from < bytes && used < FACTOR_BYTES; from += reg_term_length(at + from) + 1)
		used += (size_t)snprintf(out + used, FACTOR_BYTES - used, "%s%.*s", from > 0 ? "+" : "", (int)strcspn(at + from, ":=+"), at + from);
}

static void name_factors(struct report_factorial *f, const struct terms *factors)
{
	char names[STATS_FACTORS_MAX][FACTOR_BYTES];

	for (int i = 0; i < f->factors; i++)
		short_name(factors->all[i].at, factors->all[i].bytes, names[i]);
	for (int i = 0; i < f->factors; i++) {
		memcpy(f->names[i], names[i], FACTOR_BYTES);
		for (int other = 0; other < f->factors; other++)
			if (other != i && strcmp(names[other], names[i]) == 0)
				snprintf(f->names[i], FACTOR_BYTES, "%.*s", (int)factors->all[i].bytes, factors->all[i].at);
	}
}

static const char *reg_of(const struct report_data *data, int arm)
{
	return data->arm[arm].reg != NULL ? data->arm[arm].reg : data->arm[arm].name;
}

/* How many factors a design had whose arms are there as it made them (arms.c): each the sum of the factors whose bits its place has. Such
 * factors may be sums of terms themselves. 0: it was none, or its arms have been changed. */
static int factors_of_design(const struct report_data *data, const unsigned *has)
{
	int factors = 0;

	if (data->design == NULL || strcmp(data->design, "factorial") != 0)
		return 0;
	while (factors < STATS_FACTORS_MAX && 1 << factors < data->arms)
		factors++;
	for (int arm = 0; arm < data->arms; arm++) {
		unsigned sum = 0;

		for (int i = 0; i < factors; i++)
			sum |= arm >> i & 1 ? has[1 << i] : 0;
		if (has[arm] != sum || has[arm] == NO_PART)
			return 0;
	}
	return data->arms == 1 << factors && factors >= 2 ? factors : 0;
}

static void find_among_terms(struct report_factorial *f, const struct report_data *data, const unsigned *has, const struct terms *terms,
			     struct terms *factors)
{
	int arm[1 << STATS_FACTORS_MAX];

	for (unsigned set = 1; set < 1u << terms->count; set++) {
		int count = __builtin_popcount(set);

		if (count < 2 || count > STATS_FACTORS_MAX || count <= f->factors || !fill(has, data->arms, set, arm))
			continue;
		f->factors = count;
		memcpy(f->arm, arm, sizeof(f->arm));
		factors->count = 0;
		for (int bit = 0; bit < terms->count; bit++)
			if (set >> bit & 1)
				factors->all[factors->count++] = terms->all[bit];
	}
}

void report_factorial_find(struct report_analysis *analysis)
{
	const struct report_data *data = analysis->data;
	struct report_factorial *f = &analysis->factorial;
	unsigned has[REPORT_ARMS_MAX];
	struct terms terms = { .count = 0 }, factors = { .count = 0 };

	for (int a = 0; a < data->arms; a++) {
		if (!terms_of(reg_of(data, a), &terms, &has[a]))
			has[a] = NO_PART;
		/* Early stopping or other options are a difference that is no term. */
		if (data->arm[a].options != NULL)
			has[a] = NO_PART;
	}
	f->factors = factors_of_design(data, has);
	for (int arm = 0; f->factors > 0 && arm < data->arms; arm++)
		f->arm[arm] = arm;
	for (int i = 0; i < f->factors; i++) {
		factors.all[i].at = reg_of(data, 1 << i);
		factors.all[i].bytes = strlen(factors.all[i].at);
	}
	if (f->factors == 0)
		find_among_terms(f, data, has, &terms, &factors);
	name_factors(f, &factors);
}

int report_factorial_compute(struct report_analysis *analysis, struct err *err)
{
	const struct report_data *data = analysis->data;
	struct report_factorial *f = &analysis->factorial;
	const int arms = 1 << f->factors, cells_max = data->folds_planned * data->seeds;
	double p[1 << STATS_FACTORS_MAX], *cells, *scratch;
	int code = 0;

	if (f->factors == 0)
		return 0;
	cells = mem_array((size_t)cells_max * (size_t)arms, sizeof(*cells));
	scratch = mem_array((size_t)cells_max, sizeof(*scratch));
	if (cells == NULL || scratch == NULL) {
		code = err_nomem(err, (size_t)cells_max * (size_t)arms * sizeof(*cells));
		goto out;
	}
	for (int fold = 0; fold < data->folds; fold++) {
		for (int seed = 0; seed < data->seeds; seed++) {
			int have = 0;

			for (int a = 0; a < arms; a++) {
				const struct report_run *run = report_run_at(data, f->arm[a], fold, seed);

				if (report_usable(run)) {
					cells[f->runs * arms + a] = run->accuracy;
					have++;
				}
			}
			f->runs += have == arms;
		}
	}
	f->count = arms - 1;
	stats_factorial(cells, f->runs, f->factors, analysis->ratio, REPORT_LEVEL, scratch, f->effect);
	for (int e = 0; e < f->count; e++)
		p[e] = f->effect[e].test.p;
	stats_holm(p, f->count, f->holm);
out:
	mem_free(cells);
	mem_free(scratch);
	return code;
}
