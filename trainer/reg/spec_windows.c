/* In which epochs which terms work, for those who plan a run rather than train it. */
#include "trainer/reg/spec_terms.h"

/* Of a term, and for dropout of each of its places. */
struct scheduled {
	bool *on;
	struct reg_window *when;
};

enum { SCHEDULED_MAX = 32 };

static int all_of(struct reg_spec *spec, struct scheduled out[SCHEDULED_MAX])
{
	int n = 0;

	for (int site = 0; site < DROP_SITES; site++)
		out[n++] = (struct scheduled){ &spec->dropout[site].on, &spec->dropout[site].when };
	for (int i = 0; i < reg_term_count; i++) {
		if (reg_terms[i].on == offsetof(struct reg_spec, dropout[0].on))
			continue;
		CHECK(n < SCHEDULED_MAX);
		out[n++] = (struct scheduled){ (bool *)((char *)spec + reg_terms[i].on),
					       (struct reg_window *)((char *)spec + reg_terms[i].when) };
	}
	return n;
}

void reg_spec_at(const struct reg_spec *spec, uint64_t epoch, struct reg_spec *out)
{
	struct scheduled all[SCHEDULED_MAX];

	*out = *spec;
	for (int i = 0, n = all_of(out, all); i < n; i++) {
		*all[i].on = reg_active(*all[i].on, *all[i].when, epoch);
		*all[i].when = (struct reg_window){ 0 };
	}
}

uint64_t reg_spec_next(const struct reg_spec *spec, uint64_t epoch)
{
	struct reg_spec copy = *spec;
	struct scheduled all[SCHEDULED_MAX];
	uint64_t next = 0;

	for (int i = 0, n = all_of(&copy, all); i < n; i++) {
		const uint64_t edges[] = { all[i].when->from_epoch, all[i].when->until_epoch };

		for (int k = 0; k < 2 && *all[i].on; k++)
			if (edges[k] > epoch && (next == 0 || edges[k] < next))
				next = edges[k];
	}
	return next;
}

bool reg_spec_too_late(const struct reg_spec *spec, uint64_t epochs, char out[REG_TEXT_BYTES])
{
	struct reg_spec copy = *spec;
	struct scheduled all[SCHEDULED_MAX];
	bool found = false;

	for (int i = 0, n = all_of(&copy, all); i < n; i++) {
		/* What is left is the first one. */
		*all[i].on = *all[i].on && !found && all[i].when->from_epoch >= epochs;
		found |= *all[i].on;
	}
	if (found)
		reg_spec_text(&copy, out);
	return found;
}
