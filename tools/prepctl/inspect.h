/*
 * inspect.h - the verbs of prepctl that look at one input without a daemon.
 *
 * argv comes without "prepctl inspect image". Results go to the file that
 * --out names; standard output is for --help alone.
 */
#ifndef TOOLS_PREPCTL_INSPECT_H
#define TOOLS_PREPCTL_INSPECT_H

#include "shared/base/err.h"

/* prepctl inspect image PICTURE [--size N] [--dtype u8|f32] [--exif ignore|apply] --out FILE */
MUST_USE int prepctl_inspect_image(int argc, char *const argv[], struct err *err);

#endif
