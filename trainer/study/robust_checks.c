/* Whether attacks behave as they must where gradients are honest. */
#include <stdio.h>
#include <string.h>

#include "shared/base/json.h"
#include "trainer/study/robust_parts.h"

struct checks {
	const struct robust_all *all;
	struct buf *out;
	struct err *err;
	double slack; /* two pairs: an attack with random starts may miss one */
	int count, failed, code;
};

static void add(struct checks *c, const char *name, const struct robust_arm *arm, bool ok, const char *detail)
{
	const char *arm_name = c->all->options->spec->arms[arm->arm].name;

	if (c->code != 0)
		return;
	if ((c->code = buf_printf(c->out, c->err, "%s\n    {\"name\": \"%s\", \"arm\": ", c->count++ > 0 ? "," : "", name)) != 0 ||
	    (c->code = json_add_string(c->out, arm_name, strlen(arm_name), c->err)) != 0 ||
	    (c->code = buf_printf(c->out, c->err, ", \"ok\": %s, \"detail\": ", ok ? "true" : "false")) != 0 ||
	    (c->code = json_add_string(c->out, detail, strlen(detail), c->err)) != 0)
		return;
	c->code = buf_add_byte(c->out, '}', c->err);
	c->failed += !ok;
}

/* "2/255", "0.03", "2/255 and 0.03" */
static const char *eps_text(int target, int rung, char out[48])
{
	double pixel = 255 * robust_pixel_eps[rung], text = robust_text_eps[rung];

	if (robust_targets[target] == ATTACK_PIXEL)
		snprintf(out, 48, "%g/255", pixel);
	else if (robust_targets[target] == ATTACK_TEXT)
		snprintf(out, 48, "%g", text);
	else
		snprintf(out, 48, "%g/255 and %g", pixel, text);
	return out;
}

/* More room for the attack, never more accuracy. One step may overshoot where it goes far: a rise of FGSM says nothing as long
 * as PGD, which follows the same gradients in smaller steps, leaves no more than FGSM left before. */
static void monotone(struct checks *c, const struct robust_arm *arm, int target, enum attack_kind kind)
{
	char name[64], detail[200] = "accuracy never rises with epsilon", eps[2][48];
	bool ok = true;

	for (int rung = 1; rung < ROBUST_RUNGS; rung++) {
		double before = arm->at[kind][target][rung - 1].accuracy, now = arm->at[kind][target][rung].accuracy;

		if (kind == ATTACK_FGSM && arm->at[ATTACK_PGD][target][rung].accuracy <= before + c->slack)
			continue;
		if (now > before + c->slack) {
			snprintf(detail, sizeof(detail), "accuracy rises from %.3f at epsilon %s to %.3f at %s", before,
				 eps_text(target, rung - 1, eps[0]), now, eps_text(target, rung, eps[1]));
			ok = false;
		}
	}
	snprintf(name, sizeof(name), "monotone %s %s", robust_kind_names[kind], robust_target_names[target]);
	add(c, name, arm, ok, detail);
}

static void never_weaker(struct checks *c, const struct robust_arm *arm, int target, const char *what, enum attack_kind strong, enum attack_kind weak)
{
	char name[64], detail[200] = "at every epsilon", eps[48];
	bool ok = true;

	for (int rung = 1; rung < ROBUST_RUNGS; rung++) {
		double a = arm->at[strong][target][rung].accuracy, b = arm->at[weak][target][rung].accuracy;

		if (a > b + c->slack) {
			snprintf(detail, sizeof(detail), "at epsilon %s %s leaves %.3f, %s %.3f", eps_text(target, rung, eps),
				 robust_kind_names[strong], a, robust_kind_names[weak], b);
			ok = false;
		}
	}
	snprintf(name, sizeof(name), "%s %s", what, robust_target_names[target]);
	add(c, name, arm, ok, detail);
}

static void check_arm(struct checks *c, const struct robust_arm *arm)
{
	char name[64], detail[200];

	for (int t = 0; t < ROBUST_TARGETS; t++) {
		double base = arm->at[ATTACK_PGD][t][ROBUST_TRANSFER_RUNG].accuracy, end = arm->at[ATTACK_PGD][t][ROBUST_RUNGS - 1].accuracy;

		monotone(c, arm, t, ATTACK_PGD);
		monotone(c, arm, t, ATTACK_FGSM);
		never_weaker(c, arm, t, "pgd not weaker than fgsm", ATTACK_PGD, ATTACK_FGSM);
		never_weaker(c, arm, t, "pgd not weaker than noise", ATTACK_PGD, ATTACK_NOISE);
		snprintf(name, sizeof(name), "more steps not weaker %s", robust_target_names[t]);
		snprintf(detail, sizeof(detail), "%.3f, with twice the steps and restarts %.3f", base, arm->harder[t].accuracy);
		add(c, name, arm, arm->harder[t].accuracy <= base + c->slack, detail);
		snprintf(name, sizeof(name), "to zero %s", robust_target_names[t]);
		snprintf(detail, sizeof(detail), "pgd leaves %.3f at the largest epsilon (chance is %.3f)", end, 1.0 / c->all->classes);
		add(c, name, arm, end < 0.5 / c->all->classes, detail);
		for (int source = 0; source < c->all->count; source++) {
			const struct robust_arm *from = &c->all->arms[source];

			if (from == arm)
				continue;
			snprintf(name, sizeof(name), "transfer not stronger %s", robust_target_names[t]);
			snprintf(detail, sizeof(detail), "its own examples leave %.3f, those of %.60s %.3f", base,
				 c->all->options->spec->arms[from->arm].name, arm->transfer[t][source].accuracy);
			add(c, name, arm, arm->transfer[t][source].accuracy >= base - c->slack, detail);
		}
	}
}

int robust_add_checks(const struct robust_all *all, struct buf *out, int *failed, struct err *err)
{
	struct checks c = { .all = all, .out = out, .err = err, .slack = 2.0 / all->pairs + 1e-9 };

	for (int i = 0; i < all->count; i++)
		check_arm(&c, &all->arms[i]);
	*failed = c.failed;
	return c.code;
}
