/* Arms of a study: lists of regularizers, and the designs made of their terms. */
#include <stdio.h>
#include <string.h>

#include "shared/base/fs.h"
#include "trainer/study/spec.h"

void study_arm_name(const char *reg, char out[STUDY_NAME_BYTES])
{
	char name[REG_TEXT_BYTES];

	snprintf(name, sizeof(name), "%s", reg);
	fs_shorten_name(name, STUDY_NAME_BYTES - 1);
	snprintf(out, STUDY_NAME_BYTES, "%s", name);
	for (char *c = out; *c != '\0'; c++)
		if (strchr("/:, \t\"'\\", *c) != NULL || (unsigned char)*c < ' ')
			*c = '_';
}

static int add_arm(struct study_spec *spec, const char *reg, struct err *err)
{
	struct study_arm *arm = &spec->arms[spec->arm_count];

	if (spec->arm_count == STUDY_ARMS_MAX)
		return err_set(err, ERR_USAGE, "a study has at most %d arms", STUDY_ARMS_MAX);
	if (strlen(reg) >= sizeof(arm->reg))
		return err_set(err, ERR_USAGE, "the arm '%.40s...' is longer than %d bytes", reg, REG_TEXT_BYTES - 1);
	*arm = (struct study_arm){ .cost = 0 };
	snprintf(arm->reg, sizeof(arm->reg), "%s", reg);
	study_arm_name(reg, arm->name);
	spec->arm_count++;
	return 0;
}

int study_spec_add_arms(struct study_spec *spec, const char *list, struct err *err)
{
	char arm[REG_TEXT_BYTES] = "", piece[REG_TEXT_BYTES], both[2 * REG_TEXT_BYTES];
	const char *at = list;
	struct reg_spec parsed;
	int code;

	for (;;) {
		size_t bytes = strcspn(at, ",");

		if (bytes == 0 || bytes >= sizeof(piece))
			return err_set(err, ERR_USAGE, "--arms %.80s: %s", list, bytes == 0 ? "an arm is empty" : "an arm is too long");
		snprintf(piece, sizeof(piece), "%.*s", (int)bytes, at);
		snprintf(both, sizeof(both), "%s,%s", arm, piece);
		/* What says nothing by itself belongs to an arm that it completes, or that what follows may complete: adv:k=4,method=pgd. */
		if (arm[0] != '\0' && strlen(both) < sizeof(arm) && reg_spec_parse(&parsed, piece, NULL) != 0 &&
		    (reg_spec_parse(&parsed, both, NULL) == 0 || reg_spec_parse(&parsed, arm, NULL) != 0)) {
			snprintf(arm, sizeof(arm), "%s", both);
		} else {
			if (arm[0] != '\0' && (code = add_arm(spec, arm, err)) != 0)
				return code;
			snprintf(arm, sizeof(arm), "%s", piece);
		}
		if (at[bytes] == '\0')
			return add_arm(spec, arm, err);
		at += bytes + 1;
	}
}

/* ---- designs ---- */

struct terms {
	char text[STUDY_TERMS_MAX][REG_TEXT_BYTES];
	int count;
};

static int take_terms(const struct study_spec *spec, struct terms *terms, struct err *err)
{
	terms->count = 0;
	for (int i = 0; i < spec->arm_count; i++) {
		if (strcmp(spec->arms[i].reg, "none") == 0)
			continue; /* part of every design */
		if (spec->arms[i].options.count > 0)
			return err_set(err, ERR_USAGE, "the arm %s has options of its own: that is for listed arms", spec->arms[i].name);
		if (terms->count == STUDY_TERMS_MAX)
			return err_set(err, ERR_USAGE, "a design has at most %d terms", STUDY_TERMS_MAX);
		snprintf(terms->text[terms->count++], REG_TEXT_BYTES, "%s", spec->arms[i].reg);
	}
	if (terms->count == 0)
		return err_set(err, ERR_USAGE, "--design: its terms are the arms, as in --arms dropout,l2,adv --design factorial");
	return 0;
}

/* The sum of the terms whose bits are set. */
static int add_set(struct study_spec *spec, const struct terms *terms, unsigned set, struct err *err)
{
	char reg[REG_TEXT_BYTES] = "";
	size_t used = 0;

	for (int i = 0; i < terms->count; i++)
		if ((set >> i & 1) != 0 && used < sizeof(reg))
			used += (size_t)snprintf(reg + used, sizeof(reg) - used, "%s%s", used > 0 ? "+" : "", terms->text[i]);
	if (used >= sizeof(reg))
		return err_set(err, ERR_USAGE, "the sum of all terms is longer than %d bytes", REG_TEXT_BYTES - 1);
	return add_arm(spec, set == 0 ? "none" : reg, err);
}

int study_arms_expand(struct study_spec *spec, struct err *err)
{
	struct terms terms;
	unsigned all;
	int code = 0;

	if (spec->expanded || spec->design == STUDY_LISTED) {
		spec->expanded = true;
		return 0;
	}
	if ((code = take_terms(spec, &terms, err)) != 0)
		return code;
	all = (1u << terms.count) - 1;
	spec->arm_count = 0;
	spec->expanded = true;
	if ((code = add_set(spec, &terms, 0, err)) != 0)
		return code;
	if (spec->design == STUDY_FACTORIAL) {
		for (unsigned set = 1; set <= all && code == 0; set++)
			code = add_set(spec, &terms, set, err);
		return code;
	}
	if (spec->design == STUDY_LEAVE_ONE_OUT)
		code = add_set(spec, &terms, all, err);
	for (int i = 0; i < terms.count && code == 0; i++) {
		unsigned set = spec->design == STUDY_ADD_ONE ? 1u << i : all & ~(1u << i);

		/* With one term, all but it is none, which is there. */
		if (set != 0)
			code = add_set(spec, &terms, set, err);
	}
	return code;
}
