/*
 * commands.h - the verbs of `trainer`; each takes the arguments behind its name
 * and fills err. Standard output carries results, standard error everything else.
 *
 * Threads: the main thread.
 */
#ifndef TRAINER_CLI_COMMANDS_H
#define TRAINER_CLI_COMMANDS_H

#include "shared/base/err.h"

MUST_USE int train_command(int argc, char *const argv[], struct err *err);
/* Lists every regularizer, option and default. */
MUST_USE int reg_command(int argc, char *const argv[], struct err *err);
MUST_USE int eval_command(int argc, char *const argv[], struct err *err);
MUST_USE int robust_command(int argc, char *const argv[], struct err *err);
MUST_USE int study_command(int argc, char *const argv[], struct err *err);
MUST_USE int report_command(int argc, char *const argv[], struct err *err);

/* Help of the program as a whole is that of training: trainer --help. */

#endif
