/*
 * spec.h - what `--reg` says: which regularizers, with which options, from which epoch on.
 *
 *     spec   := "none" | term { "+" term }
 *     term   := name [ "=" number ] [ ":" option "=" value { "," option "=" value } ] [ "@" epoch ]
 *     dropout=P                 probability in front of the fusion layer (0.3)
 *     l2=LAMBDA                 weight decay (0.01); mode=decoupled|coupled, on=weights|all
 *     adv=EPS                   adversarial training; method=fgm, target=text+feat|text|feat,
 *                               eps=E or rel=R, norm=l2|linf, weight=W
 * "@E": the term works from epoch E on (epochs count from 0; no "@": from the
 * start). A "+" between target names belongs to the value. Each name stands
 * at most once.
 *
 *     none   dropout=0.3   l2:mode=coupled   l2+dropout@2   adv:target=text+feat,rel=0.1+l2=0.05
 *
 * Threads: pure. Ownership: a plain value. Limits: REG_TEXT_BYTES.
 */
#ifndef TRAINER_REG_SPEC_H
#define TRAINER_REG_SPEC_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/err.h"

enum { REG_TEXT_BYTES = 512, REG_EPOCH_MAX = 1000000 };

enum reg_l2_mode { L2_DECOUPLED, L2_COUPLED };
enum reg_adv_method { ADV_FGM };
enum reg_adv_norm { ADV_L2, ADV_LINF };
enum reg_adv_target { ADV_TEXT = 1, ADV_FEAT = 2 }; /* bits */

struct reg_dropout {
	bool on;
	uint32_t from_epoch;
	double probability; /* [0, 1) */
};
struct reg_l2 {
	bool on;
	uint32_t from_epoch;
	double lambda; /* >= 0 */
	enum reg_l2_mode mode;
	bool all; /* norms and biases too */
};
struct reg_adv {
	bool on;
	uint32_t from_epoch;
	enum reg_adv_method method;
	unsigned targets; /* enum reg_adv_target, at least one */
	enum reg_adv_norm norm;
	bool relative;  /* eps is a fraction of the norm of what is perturbed */
	double eps;     /* > 0 */
	double weight;  /* of the adversarial loss beside the clean one; > 0 */
};
struct reg_spec {
	struct reg_dropout dropout;
	struct reg_l2 l2;
	struct reg_adv adv;
};

/* ERR_USAGE quotes the part that is wrong and lists what is allowed. */
MUST_USE int reg_spec_parse(struct reg_spec *out, const char *text, struct err *err);
/* The same specification with every option written out, in a fixed order: two
 * specifications mean the same exactly when these texts are equal. */
void reg_spec_text(const struct reg_spec *spec, char out[REG_TEXT_BYTES]);
/* Every option, its default and its meaning, for --help. */
extern const char reg_spec_help[];

/* Whether a term works in this epoch. */
static inline bool reg_active(bool on, uint32_t from_epoch, uint64_t epoch)
{
	return on && epoch >= from_epoch;
}

#endif
