/*
 * options.h - the command line of `trainer` for training, as a table, and what other verbs share with it.
 *
 * Threads: one caller. Ownership: borrows argv. Defaults are filled in later,
 * by run_config_resolve(): on --resume what is not said comes from the run.
 */
#ifndef TRAINER_CLI_OPTIONS_H
#define TRAINER_CLI_OPTIONS_H

#include "shared/base/args.h"
#include "trainer/train/run.h"

struct train_options {
	struct run_options run;
	const char *cache; /* accepted by every program; the trainer itself does not touch the cache */
	const char *log_level;
	bool predictions; /* run.config.predictions */
	bool version;
};

/* *help is set when --help was asked for and printed. */
MUST_USE int train_options_parse(struct train_options *out, int argc, char *const argv[], bool *help, struct err *err);
/* Whether training would take these arguments: everything that can be checked without a daemon. */
MUST_USE int train_options_check(int argc, char *const argv[], struct err *err);
/* The options of a run as texts, with the headings of --help, for a verb that passes them on; values: one for each of
 * run_fields, where they go. Those in without (NULL-terminated) are left out. Returns how many of TRAIN_TEXTS_MAX it filled. */
enum { TRAIN_TEXTS_MAX = RUN_FIELDS_MAX + 8 };
int train_options_texts(struct args_option table[TRAIN_TEXTS_MAX], const char *values[RUN_FIELDS_MAX], const char *const without[]);
/* What the verbs beside training have in common, for their tables; o has socket, cache, log_level and quiet. */
#define VERB_OPTIONS(o, quiet_help) \
	{ .name = "socket", .kind = ARGS_TEXT, .value = &(o)->socket, .metavar = "PATH", .help = "Of preprocessd." }, \
	{ .name = "cache", .kind = ARGS_TEXT, .value = &(o)->cache, .metavar = "DIR", .help = "Accepted by every program." }, \
	{ .name = "quiet", .letter = 'q', .kind = ARGS_FLAG, .value = &(o)->quiet, .help = quiet_help }, \
	{ .name = "log-level", .kind = ARGS_TEXT, .value = &(o)->log_level, .metavar = "LEVEL", \
	  .help = "error, warn, info or debug. Default: info." }
/* --quiet and --log-level. */
MUST_USE int log_options_apply(const char *level, bool quiet, struct err *err);

#endif
