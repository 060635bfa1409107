/* What a study can be refused for before its first run, but not in a folder where it has long been done: there the runs are what they are. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trainer/study/report_data.h"
#include "trainer/study/spec.h"

/* Options of the command line that each run gets from the study, or that would make no run of it. */
static int check_options(const struct study_options *options, const char *whose, struct err *err)
{
	static const struct {
		const char *name, *instead;
	} own[] = {
		{ "out", "it chooses the folders of its runs; say where with --out of trainer study" },
		{ "resume", "it goes on with a run that was interrupted by itself" }, { "no-weights", "say keep" },
		{ "predictions", "its runs always write them" }, { "socket", "say --socket to trainer study" },
		{ "cache", "say --cache to trainer study" }, { "quiet", "say --quiet to trainer study" },
		{ "log-level", "say --log-level to trainer study" }, { "dry-run", "say --dry-run to trainer study" },
		{ "help", "it trains" }, { "version", "it trains" }, { "profile", "profile a run of its own with trainer --profile" },
		{ "recompute", "its results are the same without" },
	};

	for (int i = 0; i < options->count; i++)
		for (size_t k = 0; k < ARRAY_LEN(own); k++)
			if (strcmp(options->all[i].name, own[k].name) == 0)
				return err_set(err, ERR_USAGE, "%s: the option %s is the study's own: %s", whose, own[k].name, own[k].instead);
	return 0;
}

/* What makes other batches, other pairs or other initial weights of an arm, by which study_check_same() would say at the very end that
 * the arms cannot be compared. */
static int check_arm(const struct study_spec *spec, const struct study_arm *arm, struct err *err)
{
	static const char *const common[] = { "task", "preset", "image-size", "exif", "vocab", "max-len", "batch-size", "accumulate", "image-encoder",
					      "text-encoder", "text-config", "init", "image-weights", "text-weights" };

	for (int i = 0; i < arm->options.count; i++)
		for (size_t k = 0; k < ARRAY_LEN(common); k++) {
			const char *all = study_options_get(&spec->common, common[k]);

			if (strcmp(arm->options.all[i].name, common[k]) == 0 && (all == NULL || strcmp(all, arm->options.all[i].value) != 0))
				return err_set(err, ERR_USAGE, "arm %s: its option %s would give it other batches, pairs or initial weights than "
					       "the other arms have, and then it cannot be compared with them; give it to all arms, in "
					       "\"options\" of the study", arm->name, common[k]);
		}
	return 0;
}

/* The time decides how long an arm trains. */
static int check_length(const struct study_spec *spec, const struct study_arm *arm, struct err *err)
{
	static const char *const lengths[] = { "epochs", "steps" };

	for (size_t i = 0; i < ARRAY_LEN(lengths) && spec->equal == STUDY_TIME; i++)
		if (study_options_get(&arm->options, lengths[i]) != NULL)
			return err_set(err, ERR_USAGE, "arm %s: its option %s would be ignored, as with equal time each arm gets the steps that fit into the "
				       "baseline's time; leave it out, or say it in \"options\" of the study", arm->name, lengths[i]);
	return 0;
}

/* A run's epochs, the last of which it may end in; 0: not known, as it is so many steps long. */
static uint64_t epochs_of(const struct study_spec *spec, const struct study_arm *arm, int64_t steps_per_epoch)
{
	const struct study_options *from = study_options_get(&arm->options, "epochs") != NULL ||
					   study_options_get(&arm->options, "steps") != NULL ? &arm->options : &spec->common;
	const char *text = study_options_get(from, "steps"), *epochs = study_options_get(from, "epochs");
	int64_t steps = arm->steps > 0 ? arm->steps : text != NULL ? strtoll(text, NULL, 10) : 0;

	if (steps > 0)
		return steps_per_epoch > 0 ? (uint64_t)((steps - 1) / steps_per_epoch + 1) : 0;
	return epochs != NULL ? (uint64_t)strtoull(epochs, NULL, 10) : 10;
}

int study_check_schedules(const struct study_spec *spec, int64_t steps_per_epoch, struct err *err)
{
	char term[REG_TEXT_BYTES];
	struct reg_spec reg;
	int code;

	for (int i = 0; i < spec->arm_count; i++) {
		const struct study_arm *arm = &spec->arms[i];
		uint64_t epochs = epochs_of(spec, arm, steps_per_epoch);

		if ((code = reg_spec_parse(&reg, arm->reg, err)) != 0)
			return code;
		if (epochs > 0 && reg_spec_too_late(&reg, epochs, term))
			return err_set(err, ERR_USAGE, "arm %s: %.200s never works: epochs count from 0, and training is over after %" PRIu64 " of "
				       "them%s; let it begin earlier, or train longer", arm->name, term, epochs,
				       arm->steps > 0 ? " (so many fit into the baseline's time)" : "");
	}
	return 0;
}

/* What says how folds are made, where none are: it would be recorded, and do nothing. */
static int check_one_fold(const struct study_spec *spec, struct err *err)
{
	if (spec->folds > 1)
		return 0;
	if (strcmp(spec->split, STUDY_OWN_SPLITS) != 0)
		return err_set(err, ERR_USAGE, "--split %s: with --folds 1 nothing is made of it, as the runs train on the split train and are measured "
			       "on val; leave it out, or cut it with --folds 2 or more", spec->split);
	if (spec->fold_seed != 0)
		return err_set(err, ERR_USAGE, "--fold-seed %" PRId64 ": with --folds 1 there are no folds to cut; leave it out, or take --folds 2 or "
			       "more", spec->fold_seed);
	return 0;
}

int study_check_attacks(const struct study_spec *spec, struct err *err)
{
	if (spec->robust.on && study_ranks(spec))
		return err_set(err, ERR_USAGE, "--robustness: attacks are on pairs and labels, and --task contrast ranks and decides nothing; leave it "
			       "out (where a study.json has it, let \"robustness\" be false there)");
	return 0;
}

/* What no report could be made of. */
static int check_size(const struct study_spec *spec, struct err *err)
{
	const int64_t runs = (int64_t)spec->arm_count * spec->folds * spec->seed_count;

	if (runs <= REPORT_RUNS_MAX)
		return 0;
	return err_set(err, ERR_USAGE, "%d arms x %d folds x %d seeds are %" PRId64 " runs, and a report is on %d at most", spec->arm_count, spec->folds,
		       spec->seed_count, runs, REPORT_RUNS_MAX);
}

int study_spec_check(const struct study_spec *spec, struct err *err)
{
	int code = check_options(&spec->common, "options", err);

	if (code == 0)
		code = check_size(spec, err);
	if (code == 0)
		code = check_one_fold(spec, err);
	for (int i = 0; i < spec->arm_count && code == 0; i++)
		if ((code = check_options(&spec->arms[i].options, spec->arms[i].name, err)) == 0 &&
		    (code = check_arm(spec, &spec->arms[i], err)) == 0)
			code = check_length(spec, &spec->arms[i], err);
	return code != 0 ? code : study_check_schedules(spec, 0, err);
}
