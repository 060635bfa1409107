/* trainer study FILE, or --data NAME --arms ...: arms x folds x seeds. */
#include <stdio.h>
#include <string.h>

#include "shared/base/mem.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/options.h"
#include "trainer/cli/signals.h"
#include "trainer/study/report.h"
#include "trainer/study/study.h"

static const char usage[] = "trainer study FILE [--out DIR] | trainer study --data NAME --arms LIST [options]";
static const char description[] =
	"Compares regularizers: trains every arm on every fold with every seed, all from the same weights on the same batches in the same order, "
	"and measures them on the same pairs.\n"
	"\n"
	"    trainer study --data flowers --arms none,dropout,l2,adv --folds 5 --seeds 2 --preset small --epochs 10 --out studies/first\n"
	"    trainer study --data flowers --arms dropout,l2,adv --design factorial --folds 5 --preset small\n"
	"    trainer study --example > mine.json;  trainer study mine.json --out studies/mine\n"
	"    trainer study --out studies/first\n"
	"\n"
	"The last one goes on with a study that was stopped: by Ctrl-C, which lets the runs write a checkpoint, by a power cut, by kill -9. A run that "
	"is done is never repeated, and the numbers are those of a study that nobody stopped. Options of a run (below) are common to all arms.\n"
	"\n"
	"The folder holds study.json, runs/ARM/fK-sN/ with result.json and predictions.csv for each run, and the report.";

struct study_options_given {
	const char *data, *arms, *design, *baseline, *equal, *split, *seeds, *name, *keep, *fold_seed, *out, *socket, *cache, *log_level;
	int64_t folds, jobs, threads;
	bool robustness, example, quiet, dry_run;
	const char *common[RUN_FIELDS_MAX];
};

enum { OWN_MAX = 28 };

static int fill_table(struct study_options_given *o, struct args_option *table)
{
	static const char *const own_names[] = { "data", "reg", "seed", "train-split", "val-split", "threads", NULL };
	const struct args_option own[] = {
		{ .kind = ARGS_SECTION, .help = "The study" },
		{ .name = "data", .kind = ARGS_TEXT, .value = &o->data, .metavar = "NAME", .help = "The data set; prepctl datasets lists them." },
		{ .name = "arms", .kind = ARGS_TEXT, .value = &o->arms, .metavar = "LIST",
		  .help = "Regularizers to compare, each as --reg takes it, with commas between them: none,dropout,l2=0.05+dropout@2." },
		{ .name = "design", .kind = ARGS_TEXT, .value = &o->design, .metavar = "NAME",
		  .help = "listed: the arms as they are. With the arms as terms: factorial (every sum of them), add-one (none, and each alone), "
			  "leave-one-out (none, all, and all but each). Default: listed." },
		{ .name = "baseline", .kind = ARGS_TEXT, .value = &o->baseline, .metavar = "ARM",
		  .help = "What the others are compared with. Default: none, else the first arm." },
		{ .name = "folds", .kind = ARGS_INT, .value = &o->folds, .metavar = "K", .min = 1, .max = STUDY_FOLDS_MAX,
		  .help = "Cut --split into so many folds, each left out for validation once; 1: no folds, but the splits train and val (then "
			  "neither --split nor --fold-seed). Default: 5." },
		{ .name = "seeds", .kind = ARGS_TEXT, .value = &o->seeds, .metavar = "N",
		  .help = "How many seeds (0, 1, ...), or a list: 3,14,15. Default: 1." },
		{ .name = "split", .kind = ARGS_TEXT, .value = &o->split, .metavar = "SPLIT",
		  .help = "What the folds are made of; all others are never touched. Default: train+val, and train where the data has no val." },
		{ .name = "fold-seed", .kind = ARGS_TEXT, .value = &o->fold_seed, .metavar = "N",
		  .help = "Another way to cut. each: every seed cuts anew, by its own number; with --folds 2 --seeds 5 the report has the 5x2cv F "
			  "test. Default: 0." },
		{ .name = "equal", .kind = ARGS_TEXT, .value = &o->equal, .metavar = "WHAT",
		  .help = "epochs: all arms train as long. time: each gets the steps that fit into the baseline's time, by what its steps are "
			  "measured to cost. Default: epochs." },
		{ .name = "name", .kind = ARGS_TEXT, .value = &o->name, .metavar = "TEXT", .help = "Of the study. Default: the data set's." },
		{ .name = "out", .letter = 'o', .kind = ARGS_TEXT, .value = &o->out, .metavar = "DIR",
		  .help = "Folder of the study; one that is there is gone on with. Default: studies/NAME." },
		{ .name = "jobs", .kind = ARGS_INT, .value = &o->jobs, .metavar = "N", .min = 1, .max = 256,
		  .help = "Runs at a time. Default: one for each core that memory suffices for." },
		{ .name = "threads", .kind = ARGS_INT, .value = &o->threads, .metavar = "N", .min = 1, .max = 1024,
		  .help = "Of a run. Default: the cores shared out among the jobs." },
		{ .name = "keep", .kind = ARGS_TEXT, .value = &o->keep, .metavar = "WHAT",
		  .help = "Weights of finished runs: none, last, best, or all (checkpoints too). Default: none." },
		{ .name = "robustness", .kind = ARGS_FLAG, .value = &o->robustness,
		  .help = "At the end attack the arms, on fold 1 and the first seed (trainer robust --help). Not with --task contrast, which ranks and "
			  "decides nothing." },
		{ .name = "example", .kind = ARGS_FLAG, .value = &o->example, .help = "Print a FILE to start from and end." },
		{ .name = "dry-run", .kind = ARGS_FLAG, .value = &o->dry_run, .help = "Print the arms and what would run where, and end." },
		VERB_OPTIONS(o, "Warnings and errors only."),
	};
	int n = 0;

	for (size_t i = 0; i < ARRAY_LEN(own); i++)
		table[n++] = own[i];
	return n + train_options_texts(table + n, o->common, own_names);
}

static int set_text(char *out, size_t bytes, const char *option, const char *text, struct err *err)
{
	if (text == NULL)
		return 0;
	if (strlen(text) >= bytes)
		return err_set(err, ERR_USAGE, "--%s is longer than %zu bytes", option, bytes - 1);
	snprintf(out, bytes, "%s", text);
	return 0;
}

/* A study.json has its design's arms in place of its terms. */
static int set_design(struct study_spec *spec, const struct study_options_given *o, struct err *err)
{
	enum study_design before = spec->design;
	int code = o->design == NULL ? 0 : study_design_parse(&spec->design, o->design, err);

	if (code == 0 && spec->design != before && spec->expanded && o->arms == NULL)
		return err_set(err, ERR_USAGE, "--design %s: the file has the arms of another design, not the terms that they were made of; say these with "
			       "--arms", o->design);
	return code;
}

static bool is_given(const struct study_options_given *o, const char *option)
{
	for (int i = 0; i < run_field_count; i++)
		if (strcmp(run_fields[i].name, option) == 0)
			return o->common[i] != NULL;
	return false;
}

/* What the command line says goes before what the file says. */
static int fill_spec(struct study_spec *spec, const struct study_options_given *o, struct err *err)
{
	int code;

	/* A study.json says which version of its own data set it is of. */
	if (o->data != NULL && strcmp(o->data, spec->data) != 0)
		spec->has_version = false;
	if ((code = set_text(spec->data, sizeof(spec->data), "data", o->data, err)) != 0 ||
	    (code = set_text(spec->name, sizeof(spec->name), "name", o->name, err)) != 0 ||
	    (code = set_text(spec->split, sizeof(spec->split), "split", o->split, err)) != 0 ||
	    (code = set_text(spec->baseline, sizeof(spec->baseline), "baseline", o->baseline, err)) != 0 ||
	    (code = set_design(spec, o, err)) != 0 ||
	    (o->equal != NULL && (code = study_equal_parse(&spec->equal, o->equal, err)) != 0) ||
	    (o->keep != NULL && (code = study_keep_parse(&spec->keep, o->keep, err)) != 0) ||
	    (o->fold_seed != NULL && (code = study_fold_seed_parse(spec, o->fold_seed, err)) != 0) ||
	    (o->seeds != NULL && (code = study_spec_seeds(spec, o->seeds, err)) != 0))
		return code;
	if (o->arms != NULL) {
		spec->arm_count = 0;
		spec->expanded = false;
		if ((code = study_spec_add_arms(spec, o->arms, err)) != 0)
			return code;
	}
	spec->robust.on |= o->robustness;
	if (o->folds > 0)
		spec->folds = (int)o->folds;
	if (o->jobs > 0)
		spec->jobs = o->jobs;
	if (o->threads > 0)
		spec->threads = o->threads;
	/* Either says how long to train, and takes the place of both. */
	if (is_given(o, "epochs") || is_given(o, "steps")) {
		study_options_drop(&spec->common, "epochs");
		study_options_drop(&spec->common, "steps");
	}
	for (int i = 0; i < run_field_count; i++)
		if (o->common[i] != NULL && (code = study_options_set(&spec->common, run_fields[i].name, o->common[i], err)) != 0)
			return code;
	return 0;
}

static int read_files(struct study_spec *spec, const struct study_options_given *o, const char *file, struct err *err)
{
	char path[STUDY_DIR_BYTES + 16];

	if (file != NULL)
		return study_spec_read(spec, file, err);
	if (o->data != NULL || o->out == NULL)
		return 0;
	/* Nothing but a folder: the study in it. */
	snprintf(path, sizeof(path), "%s/study.json", o->out);
	int code = study_spec_read(spec, path, err);
	if (code == ERR_NOTFOUND)
		return err_set(err, ERR_USAGE, "--out %s: there is no study to go on with; say what to compare with --data and --arms", o->out);
	spec->threads = -1;
	return code;
}

/* What it found goes below the table of runs, and into the folder. */
static int write_report(const struct study_run_options *run, struct err *err)
{
	struct report_options options;
	struct buf answer = BUF_INIT;
	int code;

	report_options_init(&options);
	options.socket = run->socket;
	options.answer = &answer;
	options.cancelled = run->cancelled;
	code = report_study_write(run->dir, &options, err);
	if (code == 0 && !run->quiet)
		printf("\n%sReport: %s/report.html\n", answer.data, run->dir);
	if (code != 0)
		err_prefix(err, "the study is done, but its report failed (trainer report %s tries again)", run->dir);
	buf_free(&answer);
	return code;
}

int study_command(int argc, char *const argv[], struct err *err)
{
	struct study_options_given o = { .folds = -1, .jobs = -1, .threads = -1 };
	struct args_option table[OWN_MAX + TRAIN_TEXTS_MAX];
	const struct args_spec args = {
		.usage = usage, .description = description, .options = table, .option_count = fill_table(&o, table), .operands_max = 1,
	};
	struct study_run_options run = { .cancelled = signals_stop_asked, .check_run = train_options_check, .argc = argc, .argv = argv };
	struct study_spec *spec = mem_alloc(sizeof(*spec));
	char dir[STUDY_DIR_BYTES];
	struct args_result result;
	int code = spec == NULL ? err_nomem(err, sizeof(*spec)) : args_parse(&args, argc, argv, &result, err);

	if (code != 0)
		goto out;
	if (result.help || o.example) {
		if (result.help)
			args_print_help(&args);
		else
			fputs(study_example, stdout);
		goto out;
	}
	study_spec_init(spec);
	if ((code = log_options_apply(o.log_level, o.quiet, err)) != 0 ||
	    (code = read_files(spec, &o, result.operand_count > 0 ? result.operands[0] : NULL, err)) != 0 ||
	    (code = fill_spec(spec, &o, err)) != 0 || (o.out == NULL && (code = study_default_dir(spec, dir, err)) != 0))
		goto out;
	run.spec = spec;
	run.dir = o.out != NULL ? o.out : dir;
	run.socket = o.socket;
	run.quiet = o.quiet;
	run.dry_run = o.dry_run;
	signals_install();
	code = study_run(&run, err);
	if (code == 0 && !o.dry_run)
		code = write_report(&run, err);
out:
	mem_free(spec);
	return code;
}
