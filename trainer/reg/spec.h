/*
 * spec.h - what `--reg` says: which regularizers, with which options, in which epochs.
 *
 *     spec   := "none" | term { "+" term }
 *     term   := name [ "=" number ] [ ":" option "=" value { "," option "=" value } ] [ "@" E [ "-" F ] ]
 *
 * "@E": the term works from epoch E on (epochs count from 0; no "@": from the
 * start); "@E-F": in epochs E up to F - 1. A "+" between target or place names
 * belongs to the value. Each name stands at most once, dropout once for each place.
 *
 *     none   dropout=0.3   l2:mode=coupled   l2+dropout@2   adv:target=text+feat,rel=0.1+l2=0.05@0-4
 *
 * Names, options, defaults and limits are one table (spec_terms.c), from which
 * come the parser, its messages, the canonical text and `trainer reg`. What
 * a term computes stands in the header of its own file (dropout.h, l2.h, ...).
 *
 * Threads: pure. Ownership: a plain value. Limits: REG_TEXT_BYTES.
 */
#ifndef TRAINER_REG_SPEC_H
#define TRAINER_REG_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/base/err.h"

enum { REG_TEXT_BYTES = 1024, REG_EPOCH_MAX = 1000000, REG_PASSES_MAX = 64 };

/* Epochs in which a term works. */
struct reg_window {
	uint32_t from_epoch;
	uint32_t until_epoch; /* exclusive; 0: to the end */
};

/* Places of dropout. */
enum reg_site { DROP_FUSION, DROP_HEAD, DROP_IMAGE, DROP_TEXT, DROP_BERT_HIDDEN, DROP_BERT_ATTENTION, DROP_SITES };

enum reg_l2_mode { L2_DECOUPLED, L2_COUPLED };
enum reg_sam_mode { SAM_PLAIN, SAM_ADAPTIVE };
enum reg_depth_place { DEPTH_IMAGE = 1, DEPTH_TEXT = 2 }; /* bits */
enum reg_adv_method { ADV_FGM, ADV_PGD, ADV_FREELB, ADV_VILLA, ADV_SMART, ADV_FREE, ADV_NOISE, ADV_METHODS };
enum reg_adv_norm { ADV_L2, ADV_LINF };
enum reg_adv_target { ADV_TEXT = 1, ADV_FEAT = 2, ADV_FUSED = 4, ADV_PIXEL = 8 }; /* bits */
enum { ADV_TARGETS = 4 };
enum reg_through { THROUGH_BOTH, THROUGH_ADV };

struct reg_dropout {
	bool on;
	struct reg_window when;
	double probability; /* [0, 1) */
};
struct reg_l2 {
	bool on;
	struct reg_window when;
	double lambda; /* >= 0 */
	int mode;      /* enum reg_l2_mode */
	int all;       /* norms and biases too */
};
struct reg_smooth {
	bool on;
	struct reg_window when;
	double share; /* [0, 1) */
};
struct reg_mixup {
	bool on;
	struct reg_window when;
	double alpha; /* > 0 */
};
struct reg_depth {
	bool on;
	struct reg_window when;
	double probability; /* of the last layer's branches; [0, 1) */
	unsigned places;    /* enum reg_depth_place */
};
struct reg_rdrop {
	bool on;
	struct reg_window when;
	double weight; /* > 0 */
};
struct reg_sam {
	bool on;
	struct reg_window when;
	double rho; /* > 0 */
	int mode;   /* enum reg_sam_mode */
};
struct reg_early {
	bool on;
	struct reg_window when;
	int64_t patience; /* validations, >= 1 */
};
struct reg_adv {
	bool on;
	struct reg_window when;
	int method;         /* enum reg_adv_method */
	unsigned targets;   /* enum reg_adv_target, at least one */
	int norm;           /* enum reg_adv_norm */
	bool relative;      /* eps is a fraction of the norm of what is perturbed */
	double eps;         /* > 0 */
	double weight;      /* of the adversarial term beside the clean loss; > 0 */
	int64_t k;          /* passes, the clean one included (free: replays) */
	double step;        /* length of an ascent step as a share of eps */
	double init;        /* norm of the first perturbation as a share of eps; 0: zero */
	double kl;          /* villa: weight of the divergence */
	int through;        /* enum reg_through */
	int64_t every;      /* steps */
	double warmup;      /* eps grows from 0 over so many epochs or steps */
	bool warmup_steps;
};
struct reg_spec {
	struct reg_dropout dropout[DROP_SITES];
	struct reg_l2 l2;
	struct reg_smooth smooth;
	struct reg_mixup mixup;
	struct reg_depth depth;
	struct reg_rdrop rdrop;
	struct reg_sam sam;
	struct reg_early early;
	struct reg_adv adv;
};

/* ERR_USAGE quotes the part that is wrong and lists what is allowed. */
MUST_USE int reg_spec_parse(struct reg_spec *out, const char *text, struct err *err);
/* ERR_USAGE: "--reg SPEC: " and the reason, as reg_spec_parse() does it, for what only somebody else can know.
 * Control characters are shown as \n or \x1b: the message stays one line, and a quoted part shows what is wrong with it. */
int reg_spec_refuse(const char *spec, struct err *err, const char *format, ...) PRINTF_LIKE(3, 4);
/* Bytes of the term that a specification begins with: up to a '+' in front of another term's name, as one between places or targets is
 * part of it. What stands there need not be right. */
size_t reg_term_length(const char *text);
/* The same specification with every option of its method written out, in a fixed order: two
 * specifications mean the same exactly when these texts are equal. */
void reg_spec_text(const struct reg_spec *spec, char out[REG_TEXT_BYTES]);
/* In short, for --help; `trainer reg` prints all of it. */
extern const char reg_spec_help[];
/* Every term and option with its default, its limits and its paper, to standard output. */
void reg_spec_list(void);
/* What `adv` alone means: the options in front of those that are given. */
extern const char reg_adv_default[];

/* What works in this epoch, as a specification without schedules. */
void reg_spec_at(const struct reg_spec *spec, uint64_t epoch, struct reg_spec *out);
/* The next epoch in which a term begins or ends; 0: from this one on nothing changes. */
uint64_t reg_spec_next(const struct reg_spec *spec, uint64_t epoch);
/* Whether a term begins when so many epochs are over: it never works. out: the first such term, its schedule with it. */
bool reg_spec_too_late(const struct reg_spec *spec, uint64_t epochs, char out[REG_TEXT_BYTES]);

/* Whether a term works in this epoch. */
static inline bool reg_active(bool on, struct reg_window when, uint64_t epoch)
{
	return on && epoch >= when.from_epoch && (when.until_epoch == 0 || epoch < when.until_epoch);
}

#endif
