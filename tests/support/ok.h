/* ok.h - OK(call): the test fails with the call's name and its error where a call that takes `err` fails. After cmocka.h. */
#ifndef TESTS_SUPPORT_OK_H
#define TESTS_SUPPORT_OK_H

#include "shared/base/err.h"

#define OK(call)                                                        \
	do {                                                            \
		struct err err_ = { 0 };                                \
		struct err *err = &err_;                                \
		if ((call) != 0)                                        \
			fail_msg("%s: %s", #call, err_.message);        \
	} while (0)

#endif
