/* Which arms form a full factorial of regularizers, and the effects of these. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/mem.h"
#include "trainer/study/report_analysis.h"

enum { TERMS_MAX = 12, TERM_BYTES = 96 };

struct terms {
	char text[TERMS_MAX][TERM_BYTES];
	int count;
};

/* What may stand behind a '+' inside of target=...: the rest are terms of their own. */
static bool is_target(const char *at)
{
	static const char *const targets[] = { "text", "feat", "fused", "pixel", "image" };
	size_t bytes = strcspn(at, "+,@:");

	for (size_t i = 0; i < ARRAY_LEN(targets); i++)
		if (strlen(targets[i]) == bytes && memcmp(targets[i], at, bytes) == 0)
			return true;
	return false;
}

/* The length of the term at `at`. */
static size_t term_bytes(const char *at)
{
	size_t bytes = strcspn(at, "+");

	while (at[bytes] == '+' && is_target(at + bytes + 1))
		bytes += 1 + strcspn(at + bytes + 1, "+");
	return bytes;
}

/* Bit i of *out: the arm has term i. False where there are too many terms. */
static bool terms_of(const char *reg, struct terms *terms, unsigned *out)
{
	*out = 0;
	while (*reg != '\0') {
		size_t bytes = term_bytes(reg);
		int i = 0;

		if (bytes >= TERM_BYTES)
			return false;
		for (; i < terms->count && (strlen(terms->text[i]) != bytes || memcmp(terms->text[i], reg, bytes) != 0); i++)
			;
		if (i == terms->count && !(bytes == 4 && memcmp(reg, "none", 4) == 0) && bytes > 0) {
			if (terms->count == TERMS_MAX)
				return false;
			memcpy(terms->text[i], reg, bytes);
			terms->text[terms->count++][bytes] = '\0';
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

void report_factorial_find(struct report_analysis *analysis)
{
	const struct report_data *data = analysis->data;
	struct report_factorial *f = &analysis->factorial;
	unsigned has[REPORT_ARMS_MAX];
	struct terms terms = { .count = 0 };
	int arm[1 << STATS_FACTORS_MAX];

	for (int a = 0; a < data->arms; a++) {
		const char *reg = data->arm[a].reg != NULL ? data->arm[a].reg : data->arm[a].name;

		/* What has too many terms takes no part. */
		if (!terms_of(reg, &terms, &has[a]))
			has[a] = ~0u;
		/* Early stopping or other options are a difference that is no term. */
		if (data->arm[a].options != NULL)
			has[a] = ~0u;
	}
	for (unsigned set = 1; set < 1u << terms.count; set++) {
		int factors = __builtin_popcount(set);

		if (factors < 2 || factors > STATS_FACTORS_MAX || factors <= f->factors || !fill(has, data->arms, set, arm))
			continue;
		f->factors = factors;
		memcpy(f->arm, arm, sizeof(f->arm));
		for (int bit = 0, b = 0; bit < terms.count; bit++) {
			if (!(set >> bit & 1))
				continue;
			/* Short names where they tell the factors apart: the options stand in the table of arms. */
			size_t bytes = strcspn(terms.text[bit], ":=");

			snprintf(f->names[b], sizeof(f->names[b]), "%.*s", (int)bytes, terms.text[bit]);
			for (int other = 0; other < terms.count; other++)
				if (other != bit && (set >> other & 1) && strcspn(terms.text[other], ":=") == bytes &&
				    memcmp(terms.text[other], terms.text[bit], bytes) == 0)
					snprintf(f->names[b], sizeof(f->names[b]), "%s", terms.text[bit]);
			b++;
		}
	}
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
