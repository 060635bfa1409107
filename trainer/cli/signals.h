/*
 * signals.h - Ctrl-C, SIGTERM and SIGHUP (unless ignored, as under nohup) ask a run to stop after the step it is in; a
 * second one (shared/base/stop.h) ends the process at once, as if nobody had asked to be told.
 *
 * Threads: signals_install() once, by the main thread.
 */
#ifndef TRAINER_CLI_SIGNALS_H
#define TRAINER_CLI_SIGNALS_H

#include <stdbool.h>

void signals_install(void);
/* For a run that a study started (study/child.h): to be asked to stop when the study is gone. */
void signals_follow_parent(void);
/* For `cancelled` callbacks; context is not used. */
bool signals_stop_asked(void *context);

#endif
