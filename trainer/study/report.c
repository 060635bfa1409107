#include "trainer/study/report.h"

#include <stdio.h>
#include <string.h>

#include "shared/base/fs.h"
#include "shared/base/mem.h"
#include "trainer/study/report_words.h"

enum { SAMPLES_DEFAULT = 4 };

void report_options_init(struct report_options *out)
{
	*out = (struct report_options){ .formats = REPORT_ALL, .samples = SAMPLES_DEFAULT };
}

static int write_file(const char *folder, const char *name, const struct text *t, struct err *err)
{
	char *path = NULL;
	int code = fs_join(&path, folder, name, err);

	if (code == 0)
		code = fs_write_atomic(path, t->out.data, t->out.size, err);
	mem_free(path);
	return code;
}

static int write_one(const char *folder, const char *name, void (*make)(struct text *t, const struct report_analysis *analysis),
		     const struct report_analysis *analysis, struct err *err)
{
	struct text t;

	text_begin(&t, err);
	make(&t, analysis);
	int code = text_end(&t);
	if (code == 0)
		code = write_file(folder, name, &t, err);
	text_free(&t);
	return code;
}

static int write_html(const char *folder, const struct report_analysis *analysis, const struct report_options *options, struct err *err)
{
	struct report_samples *samples = NULL;
	struct text t;
	int code = report_samples_find(&samples, analysis, options->samples, err);

	text_begin(&t, err);
	if (code == 0 && options->samples > 0)
		code = report_samples_fetch(samples, analysis->data, options, err);
	if (code != 0)
		goto out;
	report_html(&t, analysis, samples);
	if ((code = text_end(&t)) == 0)
		code = write_file(folder, "report.html", &t, err);
out:
	text_free(&t);
	report_samples_free(samples);
	return code;
}

static int write_files(const char *folder, const struct report_analysis *a, const struct report_options *options, struct err *err)
{
	unsigned formats = options->formats != 0 ? options->formats : REPORT_ALL;
	int code = fs_mkdirs(folder, 0777, err);

	if (code == 0 && formats & REPORT_JSON)
		code = write_one(folder, "report.json", report_json, a, err);
	if (code == 0 && formats & REPORT_CSV)
		code = write_one(folder, "report.csv", report_csv, a, err);
	if (code == 0 && formats & REPORT_CSV)
		code = write_one(folder, "report-runs.csv", report_runs_csv, a, err);
	if (code == 0 && formats & REPORT_TEX)
		code = write_one(folder, "report.tex", report_tex, a, err);
	if (code == 0 && formats & REPORT_MD)
		code = write_one(folder, "report.md", report_md, a, err);
	if (code == 0 && formats & REPORT_HTML)
		code = write_html(folder, a, options, err);
	return code;
}

static void answer(struct text *t, const struct report_analysis *a)
{
	words_headline(t, a, text_plain);
	text_add(t, "\n");
	size_t before = t->out.size;
	words_factors(t, a, text_plain);
	text_add(t, t->out.size > before ? "\n" : "");
	before = t->out.size;
	words_incomplete(t, a, text_plain);
	words_plateau(t, a, text_plain);
	text_add(t, t->out.size > before ? "\n" : "");
	for (int i = 0; i < a->order_count; i++) {
		text_f(t, "  %s ", a->data->arm[a->order[i]].name);
		words_verdict(t, a, a->order[i], text_plain);
		text_add(t, ".\n");
	}
	if (!words_identities_hold(a)) {
		text_add(t, "Arms differ in more than the regularizer:\n");
		for (int i = 0; i < REPORT_IDENTITIES; i++) {
			if (a->identity[i].different == 0)
				continue;
			text_f(t, "  %s: ", a->identity[i].what);
			words_identity(t, &a->identity[i], text_plain);
			text_add(t, "\n");
		}
	}
}

static int add_text(struct buf *out, void (*make)(struct text *t, const struct report_analysis *a), const struct report_analysis *a,
		    struct err *err)
{
	struct text t;
	int code;

	if (out == NULL)
		return 0;
	text_begin(&t, err);
	make(&t, a);
	if ((code = text_end(&t)) == 0)
		code = buf_add(out, t.out.data, t.out.size, err);
	text_free(&t);
	return code;
}

int report_study_write(const char *dir, const struct report_options *options, struct err *err)
{
	struct report_data *data = NULL;
	struct report_analysis *analysis = NULL;
	int code = report_data_read(&data, dir, options->baseline, err);

	if (code == 0)
		code = report_analyse(&analysis, data, err);
	if (code == 0 && !options->no_files)
		code = write_files(options->out != NULL ? options->out : dir, analysis, options, err);
	if (code == 0)
		code = add_text(options->answer, answer, analysis, err);
	if (code == 0)
		code = add_text(options->json, report_json, analysis, err);
	report_analysis_free(analysis);
	report_data_free(data);
	return code;
}
