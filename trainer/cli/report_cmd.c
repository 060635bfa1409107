/* trainer report DIR...: what a study found, or how plain runs compare. */
#include <stdio.h>
#include <string.h>

#include "shared/base/args.h"
#include "shared/base/fs.h"
#include "shared/base/mem.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/options.h"
#include "trainer/cli/signals.h"
#include "trainer/study/report.h"

struct report_flags {
	const char *out, *format, *baseline, *socket, *cache, *log_level;
	int64_t samples;
	bool json, quiet;
};

static const char usage[] = "trainer report DIR... [--baseline ARM] [--out DIR] [--format LIST] [--json]";
static const char description[] =
	"Says what a study found: which arms are better or worse than the baseline, by how much, and what the study could have seen. "
	"DIR is a study's folder; it may still be running. The answer goes to standard output, and into the folder: report.html (one file "
	"that needs no network), report.md, report.tex, report.csv, report-runs.csv and report.json.\n"
	"\n"
	"    trainer report studies/rsicd\n"
	"    trainer report studies/rsicd --format md,json --out paper\n"
	"    trainer report studies/rsicd --baseline noise           # is adv better than noise of the same norm?\n"
	"\n"
	"With the folders of plain runs it prints a table of them; with --out it also writes report.html with their curves, report.md, "
	"report.csv, report.tex and report.json.\n"
	"\n"
	"    trainer report runs/none runs/dropout\n"
	"\n"
	"Sample pictures and captions come from the daemon that has the data set; without it the report does without.";

static int parse(struct report_flags *o, int argc, char *const argv[], struct args_result *result, struct err *err)
{
	const struct args_option options[] = {
		{ .name = "out", .kind = ARGS_TEXT, .value = &o->out, .metavar = "DIR", .help = "Folder for the files. Default: that of the study." },
		{ .name = "format", .kind = ARGS_TEXT, .value = &o->format, .metavar = "LIST",
		  .help = "Which files, with commas between: html, md, tex, csv, json. Default: all." },
		{ .name = "baseline", .kind = ARGS_TEXT, .value = &o->baseline, .metavar = "ARM",
		  .help = "Hold the other arms against this one; files are written only with --out or --format. Default: the study's, none." },
		{ .name = "json", .kind = ARGS_FLAG, .value = &o->json,
		  .help = "Print report.json in place of the answer; files are written only with --out or --format." },
		{ .name = "samples", .kind = ARGS_INT, .value = &o->samples, .metavar = "N", .min = 0, .max = 12,
		  .help = "Sample pictures for each arm. Default: 4." },
		VERB_OPTIONS(o, "Warnings and errors only; the answer where no file is written, or with --json."),
	};
	const struct args_spec spec = {
		.usage = usage, .description = description, .options = options, .option_count = (int)ARRAY_LEN(options),
		.operands_min = 1, .operands_max = REPORT_PLAIN_RUNS_MAX,
	};
	int code = args_parse(&spec, argc, argv, result, err);

	if (code == 0 && result->help)
		args_print_help(&spec);
	return code;
}

static int parse_formats(const char *text, unsigned *out, struct err *err)
{
	static const struct {
		const char *name;
		unsigned bit;
	} formats[] = { { "html", REPORT_HTML }, { "md", REPORT_MD }, { "tex", REPORT_TEX }, { "csv", REPORT_CSV }, { "json", REPORT_JSON } };

	*out = 0;
	for (const char *at = text; at != NULL;) {
		size_t bytes = strcspn(at, ","), i = 0;

		for (; i < ARRAY_LEN(formats) && (strlen(formats[i].name) != bytes || memcmp(formats[i].name, at, bytes) != 0); i++)
			;
		if (i == ARRAY_LEN(formats))
			return err_set(err, ERR_USAGE, "--format: '%.*s' is none of html, md, tex, csv, json", (int)(bytes > 40 ? 40 : bytes), at);
		*out |= formats[i].bit;
		at = at[bytes] == ',' ? at + bytes + 1 : NULL;
	}
	return 0;
}

static int has_file(const char *dir, const char *name, bool *out, struct err *err)
{
	char *path = NULL;
	int code = fs_join(&path, dir, name, err);

	*out = code == 0 && fs_exists(path);
	mem_free(path);
	return code;
}

/* A study, or runs: what the first folder is, and the others must be the same. */
static int find_kind(const struct args_result *result, bool *study, struct err *err)
{
	for (int i = 0; i < result->operand_count; i++) {
		const char *dir = result->operands[i];
		bool is_study, is_run;
		int code;

		if (!fs_is_dir(dir))
			return err_set(err, ERR_NOTFOUND, "%s: %s; name the folder of a study or of runs", dir,
				       fs_exists(dir) ? "not a folder" : "there is no such folder");
		if ((code = has_file(dir, "study.json", &is_study, err)) != 0 || (code = has_file(dir, "run.json", &is_run, err)) != 0)
			return code;
		if (!is_study && !is_run)
			return err_set(err, ERR_NOTFOUND, "%s: neither study.json nor run.json in it; name the folder of a study or of runs", dir);
		if (is_study && result->operand_count > 1)
			return err_set(err, ERR_USAGE, "%s is a study's folder: a report is on one study, or on plain runs", dir);
		*study = is_study;
	}
	return 0;
}

/* Plain runs have no folder in common: their files go where --out says. */
static bool writes_files(const struct report_options *options, bool study)
{
	return study ? !options->no_files : options->out != NULL;
}

int report_command(int argc, char *const argv[], struct err *err)
{
	struct report_flags o = { .samples = 4 };
	struct buf answer = BUF_INIT, json = BUF_INIT;
	struct report_options options;
	struct args_result result;
	bool study = false;
	int code = parse(&o, argc, argv, &result, err);

	if (code != 0 || result.help)
		return code;
	report_options_init(&options);
	if ((code = parse_formats(o.format, &options.formats, err)) != 0 || (code = log_options_apply(o.log_level, o.quiet, err)) != 0 ||
	    (code = find_kind(&result, &study, err)) != 0)
		return code;
	if (o.baseline != NULL && !study)
		return err_set(err, ERR_USAGE, "--baseline: plain runs are set beside the first of them; name that one first");
	signals_install();
	options.out = o.out;
	options.socket = o.socket;
	options.samples = (int)o.samples;
	options.cancelled = signals_stop_asked;
	options.baseline = o.baseline;
	options.no_files = (o.json || o.baseline != NULL) && o.out == NULL && o.format == NULL;
	if (o.json)
		options.json = &json;
	else
		options.answer = &answer;
	code = study ? report_study_write(result.operands[0], &options, err) :
		       report_runs_write(result.operands, result.operand_count, &options, err);
	/* Quiet, the files are the result; where none is written there is only what is printed. */
	if (code == 0 && (!o.quiet || o.json || !writes_files(&options, study))) {
		fputs(o.json ? json.data : answer.data, stdout);
		if (study && !o.json && !options.no_files)
			printf("Report: %s%s\n", o.out != NULL ? o.out : result.operands[0],
			       options.formats == 0 || options.formats & REPORT_HTML ? "/report.html" : "");
	}
	buf_free(&answer);
	buf_free(&json);
	return code;
}
