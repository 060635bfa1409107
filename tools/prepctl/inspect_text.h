/*
 * inspect_text.h - prepctl inspect text: token ids of the lines on standard
 * input, one line of ids each, without a daemon.
 */
#ifndef TOOLS_PREPCTL_INSPECT_TEXT_H
#define TOOLS_PREPCTL_INSPECT_TEXT_H

#include "shared/base/err.h"

/* argv without "prepctl inspect text". */
MUST_USE int prepctl_inspect_text(int argc, char *const argv[], struct err *err);

#endif
