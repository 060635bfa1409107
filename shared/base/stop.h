/*
 * stop.h - the signals that ask a program to stop: Ctrl-C, SIGTERM, a closed terminal (SIGHUP).
 *
 * Threads: any; stop_is_repeated() may be called by a signal handler.
 */
#ifndef SHARED_BASE_STOP_H
#define SHARED_BASE_STOP_H

#include <stdbool.h>

/* One that comes sooner is the same wish said twice: timeout(1) and service managers signal a process and then its group. */
enum { STOP_APART_MS = 500 };

/* As nohup leaves SIGHUP: then it is to stay so. */
bool stop_is_ignored(int number);
/* For each such signal: false for the first, and for what comes within STOP_APART_MS of it; true for those after that, which mean
 * "at once". */
bool stop_is_repeated(void);

#endif
