/* main.c - prepctl: the daemon's control tool. Each verb is a file of its own. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/fs.h"
#include "shared/base/log.h"
#include "shared/base/version.h"
#include "tools/prepctl/inspect.h"
#include "tools/prepctl/inspect_text.h"
#include "tools/prepctl/prepctl.h"

struct verb {
	const char *name;
	int (*run)(int argc, char *const argv[], struct err *err);
	const char *help;
};

static const struct verb VERBS[] = {
	{ "add", prepctl_add, "register a data set and prepare its pictures and captions" },
	{ "datasets", prepctl_datasets, "list the data sets" },
	{ "show", prepctl_show, "say everything about one data set" },
	{ "failures", prepctl_failures, "list what was left out of a data set, and why" },
	{ "samples", prepctl_samples, "say what samples are: caption, picture, label" },
	{ "rm", prepctl_rm, "remove a data set's name" },
	{ "batch", prepctl_batch, "write one batch to a safetensors file" },
	{ "digests", prepctl_digests, "read batches and print the digest of each" },
	{ "status", prepctl_status, "what the daemon has done, its cache and its clients" },
	{ "explain", prepctl_explain, "say whether a picture is in the cache, and under which key" },
	{ "verify", prepctl_verify, "read every record of the cache and check it" },
	{ "gc", prepctl_gc, "remove what no data set needs any more" },
	{ "shutdown", prepctl_shutdown, "let the daemon finish and end" },
};

static const struct verb INSPECT[] = {
	{ "image", prepctl_inspect_image, "write one prepared picture to a safetensors file" },
	{ "text", prepctl_inspect_text, "print the token ids of lines of text" },
};

static void print_help(void)
{
	printf("Usage: prepctl VERB ...\n\nTalks to preprocessd. prepctl VERB --help has the options of each:\n\n");
	for (size_t i = 0; i < ARRAY_LEN(VERBS); i++)
		printf("  %-14s %s\n", VERBS[i].name, VERBS[i].help);
	for (size_t i = 0; i < ARRAY_LEN(INSPECT); i++)
		printf("  inspect %-6s %s (needs no daemon)\n", INSPECT[i].name, INSPECT[i].help);
	printf("\nExample:\n"
	       "  preprocessd &\n"
	       "  prepctl add flowers --format csv --images photos/ --captions captions.csv --vocab vocab.txt\n"
	       "  prepctl status\n");
}

static void print_inspect_help(void)
{
	printf("Usage: prepctl inspect image|text ...\n\nDoes to one input what the daemon does, without a daemon. prepctl inspect KIND --help has "
	       "the options of each:\n\n");
	for (size_t i = 0; i < ARRAY_LEN(INSPECT); i++)
		printf("  %-6s %s\n", INSPECT[i].name, INSPECT[i].help);
	printf("\nExample:\n  prepctl inspect image cat.jpg --size 112 --dtype u8 --out cat.safetensors\n");
}

static bool asks_for_help(const char *word)
{
	return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
}

/* "help add" is "add --help", "inspect help" and "help inspect text" likewise. Static memory. */
static void turn_help_round(int *argc, char **argv[])
{
	static char option[] = "--help";
	static char *turned[5];
	int count = 1;

	if (*argc < 3 || !asks_for_help((*argv)[1]) || asks_for_help((*argv)[2]))
		return;
	turned[0] = (*argv)[0];
	turned[count++] = (*argv)[2];
	if (*argc > 3 && strcmp((*argv)[2], "inspect") == 0)
		turned[count++] = (*argv)[3];
	turned[count++] = option;
	*argc = count;
	*argv = turned;
}

static int run_verb(const struct verb *verbs, size_t count, const char *what, int argc, char *argv[], struct err *err)
{
	for (size_t i = 0; i < count && argc > 0; i++)
		if (strcmp(argv[0], verbs[i].name) == 0)
			return verbs[i].run(argc - 1, argv + 1, err);
	if (argc == 0)
		return err_set(err, ERR_USAGE, "%s is missing", what);
	return err_set(err, ERR_USAGE, "'%s' is no %s of prepctl", argv[0], what);
}

/* --socket and --cache may stand in front of the verb as well: what they say is
 * handed on as the environment would. Returns how many arguments that were. */
static int leading_options(int argc, char *argv[], struct err *err)
{
	static const char *const names[][2] = { { "--socket", "PREPROCESSD_SOCKET" }, { "--cache", "PREPROCESSD_CACHE" } };
	int used = 0;

	for (size_t i = 0; i < ARRAY_LEN(names) && used < argc; i++) {
		size_t bytes = strlen(names[i][0]);
		const char *value;

		if (strncmp(argv[used], names[i][0], bytes) != 0 || (argv[used][bytes] != '\0' && argv[used][bytes] != '='))
			continue;
		value = argv[used][bytes] == '=' ? argv[used] + bytes + 1 : used + 1 < argc ? argv[used + 1] : NULL;
		if (value == NULL)
			return err_set(err, ERR_USAGE, "%s needs a value", names[i][0]);
		if (setenv(names[i][1], value, 1) != 0)
			return err_nomem(err, strlen(value));
		used += argv[used][bytes] == '=' ? 1 : 2;
		i = (size_t)-1; /* either may come next */
	}
	return used;
}

/* What ends a message about a command line that was not understood. Static memory. */
static const char *hint_for(int argc, char *argv[])
{
	static char hint[80];

	for (size_t i = 0; i < ARRAY_LEN(VERBS) && argc > 1; i++)
		if (strcmp(argv[1], VERBS[i].name) == 0) {
			snprintf(hint, sizeof(hint), " (prepctl %s --help says what it takes)", VERBS[i].name);
			return hint;
		}
	for (size_t i = 0; i < ARRAY_LEN(INSPECT) && argc > 2 && strcmp(argv[1], "inspect") == 0; i++)
		if (strcmp(argv[2], INSPECT[i].name) == 0) {
			snprintf(hint, sizeof(hint), " (prepctl inspect %s --help says what it takes)", INSPECT[i].name);
			return hint;
		}
	return " (prepctl --help lists the verbs)";
}

int main(int argc, char *argv[])
{
	struct err err = { 0 };
	int code, leading;

	fs_take_standard();
	signal(SIGXFSZ, SIG_IGN); /* a limit on the size of files is an error like a full disk */
	log_setup("prepctl", LOG_INFO, 0);
	leading = leading_options(argc - 1, argv + 1, &err);
	if (leading < 0) {
		log_error("%s", err.message);
		return err_exit_code(leading);
	}
	argc -= leading;
	argv += leading;
	turn_help_round(&argc, &argv);
	code = 0;
	if (argc > 1 && asks_for_help(argv[1])) {
		print_help();
	} else if (argc > 2 && strcmp(argv[1], "inspect") == 0 && asks_for_help(argv[2])) {
		print_inspect_help();
	} else if (argc > 1 && strcmp(argv[1], "--version") == 0) {
		printf("prepctl " PRODUCT_VERSION "\n");
	} else if (argc > 1 && strcmp(argv[1], "inspect") == 0) {
		code = run_verb(INSPECT, ARRAY_LEN(INSPECT), "kind of input (image, text)", argc - 2, argv + 2, &err);
	} else {
		prepctl_watch_interrupt();
		code = run_verb(VERBS, ARRAY_LEN(VERBS), "verb", argc - 1, argv + 1, &err);
	}
	if (code == 0 && (fflush(stdout) != 0 || ferror(stdout)))
		code = err_set(&err, ERR_IO, "cannot write to standard output");
	if (code != 0)
		log_error("%s%s", err.message, code == ERR_USAGE ? hint_for(argc, argv) : "");
	return err_exit_code(code);
}
