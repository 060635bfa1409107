/* trainer robust STUDY: attacks on the arms of a study. */
#include <stdio.h>
#include <string.h>

#include "shared/base/args.h"
#include "shared/base/mem.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/options.h"
#include "trainer/cli/signals.h"
#include "trainer/study/robust.h"
#include "trainer/study/study.h"

struct robust_given {
	const char *socket, *cache, *log_level;
	int64_t fold, seed, pairs, steps, restarts, threads;
	bool quiet;
};

static int parse(struct robust_given *o, int argc, char *const argv[], struct args_result *result, struct err *err)
{
	const struct args_option options[] = {
		{ .name = "fold", .kind = ARGS_INT, .value = &o->fold, .metavar = "K", .min = 1, .max = STUDY_FOLDS_MAX,
		  .help = "Of which the weights were kept. Default: 1." },
		{ .name = "seed", .kind = ARGS_INT, .value = &o->seed, .metavar = "N", .min = 0, .max = INT64_MAX,
		  .help = "Default: the first of the study." },
		{ .name = "pairs", .kind = ARGS_INT, .value = &o->pairs, .metavar = "N", .min = 2, .max = 1000000,
		  .help = "Validation pairs to attack, evenly over the fold; each has perturbations of its own. Default: 200." },
		{ .name = "steps", .kind = ARGS_INT, .value = &o->steps, .metavar = "N", .min = 1, .max = 1000, .help = "Of PGD. Default: 10." },
		{ .name = "restarts", .kind = ARGS_INT, .value = &o->restarts, .metavar = "N", .min = 1, .max = 100,
		  .help = "Of PGD, each from another random start. Default: 2." },
		{ .name = "threads", .kind = ARGS_INT, .value = &o->threads, .metavar = "N", .min = 1, .max = 1024,
		  .help = "Default: one for each core." },
		VERB_OPTIONS(o, "Warnings and errors only."),
	};
	const struct args_spec spec = {
		.usage = "trainer robust STUDY [options]",
		.description =
			"Attacks the arms of a study whose weights were kept (trainer study --robustness does this by itself, or --keep last) and writes "
			"STUDY/robustness.json: accuracy against epsilon for noise, FGSM and PGD on pixels (linf, in units of [0, 1]), on word embeddings "
			"(l2, as a share of the norm of a caption's words; [CLS] and [SEP] stay) and on both; examples made with one arm tried on every "
			"other; and the checks that show an arm which only hides its gradients.\n"
			"\n"
			"    trainer robust studies/first --pairs 100",
		.options = options, .option_count = (int)ARRAY_LEN(options), .operands_min = 1, .operands_max = 1,
	};
	int code = args_parse(&spec, argc, argv, result, err);

	if (code == 0 && result->help)
		args_print_help(&spec);
	return code;
}

static int find_seed(const struct study_spec *spec, int64_t seed, int *out, struct err *err)
{
	*out = 0;
	for (int i = 0; i < spec->seed_count && seed >= 0; i++) {
		if (spec->seeds[i] != seed)
			continue;
		*out = i;
		return 0;
	}
	return seed < 0 ? 0 : err_set(err, ERR_USAGE, "--seed %lld: the study has no such seed", (long long)seed);
}

int robust_command(int argc, char *const argv[], struct err *err)
{
	struct robust_given o = { .fold = 1, .seed = -1, .pairs = -1, .steps = -1, .restarts = -1, .threads = -1 };
	struct study_spec *spec = mem_alloc(sizeof(*spec));
	struct robust_options run = { .spec = spec, .cancelled = signals_stop_asked };
	char path[STUDY_DIR_BYTES + 16];
	struct args_result result;
	int code = spec == NULL ? err_nomem(err, sizeof(*spec)) : parse(&o, argc, argv, &result, err);

	if (code != 0 || result.help || (code = log_options_apply(o.log_level, o.quiet, err)) != 0)
		goto out;
	if (strlen(result.operands[0]) >= STUDY_DIR_BYTES) {
		code = err_set(err, ERR_USAGE, "the path of the study is longer than %d bytes", STUDY_DIR_BYTES - 1);
		goto out;
	}
	snprintf(path, sizeof(path), "%s/study.json", result.operands[0]);
	study_spec_init(spec);
	if ((code = study_spec_read(spec, path, err)) != 0 || (code = study_spec_resolve(spec, err)) != 0 ||
	    (code = find_seed(spec, o.seed, &run.seed, err)) != 0)
		goto out;
	if (o.fold > spec->folds) {
		code = err_set(err, ERR_USAGE, "--fold %lld: the study has %d", (long long)o.fold, spec->folds);
		goto out;
	}
	run.dir = result.operands[0];
	run.socket = o.socket;
	run.fold = (int)o.fold;
	run.pairs = (int)(o.pairs > 0 ? o.pairs : spec->robust.pairs);
	run.steps = (int)(o.steps > 0 ? o.steps : spec->robust.steps);
	run.restarts = (int)(o.restarts > 0 ? o.restarts : spec->robust.restarts);
	run.threads = (int)o.threads;
	run.quiet = o.quiet;
	signals_install();
	code = robust_run(&run, err);
out:
	mem_free(spec);
	return code;
}
