#include "trainer/cli/signals.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "shared/base/stop.h"
#include "trainer/study/child.h"

static volatile sig_atomic_t stop_asked;

static void on_signal(int number)
{
	static const char note[] = "\ntrainer: stopping after this step; once more to stop at once\n";

	int kept = errno; /* of the call that was interrupted */

	if (stop_is_repeated()) {
		signal(number, SIG_DFL);
		raise(number);
	}
	if (stop_asked)
		return;
	stop_asked = 1;
	/* Nothing can be done about a standard error that is gone. */
	ssize_t ignored = write(STDERR_FILENO, note, sizeof(note) - 1);
	(void)ignored;
	errno = kept;
}

void signals_install(void)
{
	struct sigaction action;

	memset(&action, 0, sizeof(action));
	action.sa_handler = on_signal;
	sigemptyset(&action.sa_mask);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	/* A terminal that is closed; nohup ignores that, and so it stays. */
	if (!stop_is_ignored(SIGHUP))
		sigaction(SIGHUP, &action, NULL);
	/* Where whoever started us ignores it, the system takes our children's ends away, and nobody would hear of them. */
	signal(SIGCHLD, SIG_DFL);
	/* A write to a pipe or socket whose reader is gone is an error like any other. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a limit on the size of files is an error like a full disk */
}

void signals_follow_parent(void)
{
	const char *parent = getenv(CHILD_PARENT_VARIABLE);

	if (parent == NULL)
		return;
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	/* It may have gone before we said so. */
	if (getppid() != (pid_t)strtol(parent, NULL, 10))
		raise(SIGTERM);
}

bool signals_stop_asked(void *context)
{
	(void)context;
	return stop_asked != 0;
}
