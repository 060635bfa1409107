#include "shared/base/stop.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/base/clock.h"

enum { NS_PER_MS = 1000000 };

bool stop_is_ignored(int number)
{
	struct sigaction action;

	return sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

bool stop_is_repeated(void)
{
	static _Atomic uint64_t first_ns;
	uint64_t now = clock_ns(), first = 0;

	if (atomic_compare_exchange_strong(&first_ns, &first, now))
		return false;
	return now - first >= (uint64_t)STOP_APART_MS * NS_PER_MS;
}
