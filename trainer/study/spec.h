/*
 * spec.h - what a study compares, and on what: arms x folds x seeds.
 *
 * Comes from a JSON file, from the command line, or from the study.json of a
 * study that is being gone on with; study.json is written from it, and is
 * itself a file that can be read as one.
 *
 * Threads:   plain data.
 * Limits:    below. Texts have room in the struct; a longer one is an error.
 * Format:    schemas/study.md ("study.json", "The file of a study").
 */
#ifndef TRAINER_STUDY_SPEC_H
#define TRAINER_STUDY_SPEC_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/buf.h"
#include "shared/base/hash.h"
#include "shared/base/json.h"
#include "trainer/reg/spec.h"

enum {
	STUDY_ARMS_MAX = 64, STUDY_TERMS_MAX = 6, STUDY_SEEDS_MAX = 100, STUDY_FOLDS_MAX = 100, STUDY_OPTIONS_MAX = 40,
	STUDY_NAME_BYTES = 128, STUDY_VALUE_BYTES = 512, STUDY_OPTION_BYTES = 40,
};

enum study_design { STUDY_LISTED, STUDY_FACTORIAL, STUDY_ADD_ONE, STUDY_LEAVE_ONE_OUT };
enum study_equal { STUDY_EPOCHS, STUDY_TIME };
enum study_keep { STUDY_KEEP_NONE, STUDY_KEEP_LAST, STUDY_KEEP_BEST, STUDY_KEEP_ALL };

struct study_options {
	struct {
		char name[STUDY_OPTION_BYTES], value[STUDY_VALUE_BYTES];
	} all[STUDY_OPTIONS_MAX];
	int count;
};
struct study_arm {
	char name[STUDY_NAME_BYTES]; /* also of its folder */
	char reg[REG_TEXT_BYTES];
	struct study_options options; /* of this arm alone */
	double cost;    /* equal time: a step as a multiple of the baseline's; 0: not measured */
	int64_t steps;  /* equal time: of this arm; 0: as many epochs as all */
};

struct study_spec {
	char name[STUDY_NAME_BYTES], data[STUDY_NAME_BYTES], split[STUDY_NAME_BYTES];
	char baseline[STUDY_NAME_BYTES];
	bool split_default;      /* nobody named the split: where there is no val, train alone will do */
	enum study_design design;
	enum study_equal equal;
	enum study_keep keep;
	int folds;               /* 1: no folds, but the train and val splits of the data set */
	int64_t fold_seed;
	bool recut;              /* each seed cuts the folds anew, by its own number */
	int64_t seeds[STUDY_SEEDS_MAX];
	int seed_count;
	struct study_arm arms[STUDY_ARMS_MAX];
	int arm_count;
	bool expanded;           /* arms are arms, no longer the terms of a design */
	struct study_options common;
	int64_t threads;         /* of a run; -1: not said */
	int64_t jobs;            /* runs at a time; -1: not said. Not kept */
	struct study_robust {
		bool on;
		int64_t pairs, steps, restarts;
	} robust;
	/* found out, kept in study.json */
	struct hash version;     /* of the data set */
	bool has_version;
	char init_hash[HASH_HEX_BYTES]; /* SHA-256 of --init's file; "": none */
};

/* What `split` is with one fold: the data set's own two. */
#define STUDY_OWN_SPLITS "train and val"

void study_spec_init(struct study_spec *spec);
/* spec_file.c: adds to what is set already. Keys that begin with '#' are comments. ERR_FORMAT and ERR_USAGE name line and key. */
MUST_USE int study_spec_read(struct study_spec *spec, const char *path, struct err *err);
/* "none,dropout,adv:target=text,rel=0.1": a comma that continues the options of a term does not separate. */
MUST_USE int study_spec_add_arms(struct study_spec *spec, const char *list, struct err *err);
MUST_USE int study_spec_seeds(struct study_spec *spec, const char *text, struct err *err); /* "3" (0, 1, 2) or "4,7,11" */
MUST_USE int study_design_parse(enum study_design *out, const char *name, struct err *err);
MUST_USE int study_equal_parse(enum study_equal *out, const char *name, struct err *err);
MUST_USE int study_keep_parse(enum study_keep *out, const char *name, struct err *err);
const char *study_design_name(enum study_design design);
const char *study_equal_name(enum study_equal equal);
const char *study_keep_name(enum study_keep keep);
/* Replaces an option of the same name. */
MUST_USE int study_options_set(struct study_options *options, const char *name, const char *value, struct err *err);
const char *study_options_get(const struct study_options *options, const char *name); /* NULL: not set */
void study_options_drop(struct study_options *options, const char *name); /* where it is set */

/* Whether its runs rank and decide nothing (task contrast): no predictions, no calibration, nothing to attack. */
bool study_ranks(const struct study_spec *spec);

/* Fills in what was not said, makes the arms of a design, checks everything that can be checked without a daemon. */
MUST_USE int study_spec_resolve(struct study_spec *spec, struct err *err);
/* spec_check.c: what a study that has not begun is refused for, of a resolved one: options that are the study's own, or that make an arm
 * incomparable, terms that would never work, what to make folds of where there are none, and more runs than a report can be on. */
MUST_USE int study_spec_check(const struct study_spec *spec, struct err *err);
/* The same of one that has begun, too: attacks may be asked for later. */
MUST_USE int study_check_attacks(const struct study_spec *spec, struct err *err);
/* ERR_USAGE names a term that begins when its arm's training is over. steps_per_epoch 0: not known, arms of so many steps are passed over. */
MUST_USE int study_check_schedules(const struct study_spec *spec, int64_t steps_per_epoch, struct err *err);
/* spec_file.c: the object of study.json without its braces' closing part: from `{` to the last of the fields that make up the study. */
MUST_USE int study_spec_write(const struct study_spec *spec, struct buf *out, struct err *err);
/* spec_same.c: ERR_MISMATCH names the first thing that differs between a study that exists and what is wanted now. */
MUST_USE int study_spec_same(const struct study_spec *there, const struct study_spec *now, const char *dir, struct err *err);

/* "7", or "each". */
MUST_USE int study_fold_seed_parse(struct study_spec *spec, const char *text, struct err *err);
/* The splits of a fold (from 1) for the runs of a seed (an index); out: STUDY_SPLIT_BYTES. */
enum { STUDY_SPLIT_BYTES = STUDY_NAME_BYTES + 64 };
void study_split(const struct study_spec *spec, int fold, int seed, bool training, char out[STUDY_SPLIT_BYTES]);

/* arms.c: from terms to arms. */
MUST_USE int study_arms_expand(struct study_spec *spec, struct err *err);
/* What a folder's name should not hold is replaced; a long text is shortened so that two that differ stay two (fs_shorten_name()). */
void study_arm_name(const char *reg, char out[STUDY_NAME_BYTES]);

extern const char study_example[]; /* spec_file.c: one to start from */

#endif
