#include "preprocessd/store/guard.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

_Thread_local struct guard *guard_now;

static struct sigaction before_bus, before_segv;

static void on_fault(int number)
{
	guard_escape();
	/* Not ours: back to what was there, which meets the same instruction again. */
	sigaction(number, number == SIGBUS ? &before_bus : &before_segv, NULL);
}

static bool is_ours(int number)
{
	struct sigaction now;

	return sigaction(number, NULL, &now) == 0 && now.sa_handler == on_fault;
}

void guard_install(void)
{
	/* SA_NODEFER: the handler is left by a jump, which would leave the signal blocked. */
	struct sigaction action = { .sa_handler = on_fault, .sa_flags = SA_NODEFER };

	sigemptyset(&action.sa_mask);
	if (!is_ours(SIGBUS))
		sigaction(SIGBUS, &action, &before_bus);
	if (!is_ours(SIGSEGV))
		sigaction(SIGSEGV, &action, &before_segv);
}
