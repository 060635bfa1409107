/*
 * child.h - runs of a study as processes of their own: this program, started
 * again with posix_spawn (an OpenMP program may hang after a fork).
 *
 * A child is its own process group, so that a Ctrl-C at the terminal reaches
 * the study alone, which passes it on once. It ends by itself with a
 * checkpoint when the study is gone (CHILD_PARENT_VARIABLE, cli/signals.h).
 *
 * Threads: the main thread.
 */
#ifndef TRAINER_STUDY_CHILD_H
#define TRAINER_STUDY_CHILD_H

#include <stdbool.h>
#include <sys/types.h>

#include "shared/base/err.h"

#define CHILD_PARENT_VARIABLE "TRAINER_PARENT"

/* Output is appended to log. argv[0] is a name for people. */
MUST_USE int child_start(pid_t *out, char *const argv[], const char *log, struct err *err);
/* Whether it has ended; *status as of waitpid(). */
bool child_ended(pid_t pid, int *status);
void child_wait(pid_t pid, int *status);
void child_stop(pid_t pid); /* asks for a checkpoint and the end */
/* The last line that says something, of a log; cut to bytes. */
void child_last_words(const char *log, char *out, size_t bytes);

#endif
