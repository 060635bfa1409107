/* main.c - trainer: picks the verb, prints what went wrong, ends the process. */
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared/base/fs.h"
#include "shared/base/log.h"
#include "trainer/cli/commands.h"
#include "trainer/kernels/process.h"
#include "trainer/probe/probe.h"

/* "help" is --help, "help study" and "--help study" are "study --help". Static memory. */
static void turn_help_round(int *argc, char **argv[])
{
	static char option[] = "--help";
	static char *turned[4];
	const char *word = *argc > 1 ? (*argv)[1] : "";
	bool with_verb = *argc == 3 && (*argv)[2][0] != '-';

	if (strcmp(word, "help") != 0 && !(with_verb && (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)))
		return;
	*argc = 0;
	turned[(*argc)++] = (*argv)[0];
	if (with_verb)
		turned[(*argc)++] = (*argv)[2];
	turned[(*argc)++] = option;
	*argv = turned;
}

static int run_verb(int argc, char *argv[], struct err *err)
{
	const char *verb = argc > 1 ? argv[1] : "";

	if (strcmp(verb, "eval") == 0)
		return eval_command(argc - 2, argv + 2, err);
	if (strcmp(verb, "study") == 0)
		return study_command(argc - 2, argv + 2, err);
	if (strcmp(verb, "robust") == 0)
		return robust_command(argc - 2, argv + 2, err);
	if (strcmp(verb, "report") == 0)
		return report_command(argc - 2, argv + 2, err);
	if (strcmp(verb, "probe") == 0)
		return trainer_probe(argc - 2, argv + 2, err);
	if (strcmp(verb, "reg") == 0)
		return reg_command(argc - 2, argv + 2, err);
	if (argc < 2)
		return err_set(err, ERR_USAGE, "nothing to do; trainer --help says how to train, study, robust, report, eval, probe and reg");
	if (verb[0] != '-' && verb[0] != '\0')
		return err_set(err, ERR_USAGE, "'%s' is no verb; trainer --data NAME trains, the verbs are study, robust, report, eval, probe and reg", verb);
	return train_command(argc - 1, argv + 1, err);
}

/* As with most programs, `trainer ... | head -1` is no error: whoever read has seen enough. */
static void end_with_reader(void)
{
	struct pollfd out = { .fd = STDOUT_FILENO, .events = POLLOUT };

	if (poll(&out, 1, 0) == 1 && (out.revents & POLLERR) != 0) {
		signal(SIGPIPE, SIG_DFL);
		raise(SIGPIPE);
	}
}

int main(int argc, char *argv[])
{
	struct err err = { 0 };
	int code;

	fs_take_standard();
	kernels_settle_process(argv);
	log_setup("trainer", LOG_INFO, 0);
	turn_help_round(&argc, &argv);
	code = run_verb(argc, argv, &err);
	if (code != 0)
		log_error("%s", err.message);
	/* Results that could not be written are no results. */
	if ((fflush(stdout) != 0 || ferror(stdout)) && code == 0) {
		end_with_reader();
		log_error("standard output: cannot be written");
		return EXIT_FAILURE;
	}
	return err_exit_code(code);
}
