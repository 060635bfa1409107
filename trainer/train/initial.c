/* The weights that a run begins with: drawn from the seed, or from files, and their digest. */
#include <stdio.h>
#include <string.h>

#include "shared/base/log.h"
#include "trainer/io/weights.h"
#include "trainer/train/origin.h"
#include "trainer/train/outcome.h"
#include "trainer/train/session.h"

enum { NAMES_SHOWN = 12 };

static void log_names(const char *what, int count, const struct buf *names)
{
	const char *at = names->data;

	if (count == 0 || at == NULL)
		return;
	log_warn("%s: %d", what, count);
	for (int i = 0; i < NAMES_SHOWN && *at != '\0'; i++) {
		size_t length = strcspn(at, "\n");

		log_warn("    %.*s", (int)length, at);
		at += length + (at[length] == '\n');
	}
	if (*at != '\0')
		log_warn("    and more");
}

/* A tower that was trained elsewhere comes whole: with layers in between that start at random it would be none. */
static int check_whole(const struct weights_report *report, const char *path, enum weights_kind kind, struct err *err)
{
	const char *names = report->missing_names.data;

	if (kind == WEIGHTS_STATE || report->missing == 0)
		return 0;
	return err_set(err, ERR_MISMATCH, "%s lacks %d of the %s tower's tensors, first %.*s: it is of a smaller network, or a part of one; name its "
		       "sizes by --%s-encoder, or give what there is under the script's names to --init, which takes any part", path, report->missing,
		       kind == WEIGHTS_IMAGE ? "image" : "text", (int)strcspn(names, "\n"), names, kind == WEIGHTS_IMAGE ? "image" : "text");
}

/* Shapes fit, but each word would get the embedding of another one. */
static int check_vocab(const struct session *s, const char *path, const struct about_data *data, struct err *err)
{
	if (hash_equal(&data->vocab_hash, &s->vocab))
		return 0;
	if (strcmp(data->vocab, s->vocab_name) == 0)
		return err_set(err, ERR_MISMATCH, "%s: was trained with another vocabulary of the name %s, whose words have other numbers, so that their "
			       "embeddings would go to other words; add the data set with the file that it was trained with (prepctl add --vocab), or "
			       "start from other weights", path, data->vocab);
	return err_set(err, ERR_MISMATCH, "%s: was trained with the vocabulary %s, and %s gives words other numbers, so that their embeddings would go "
		       "to other words; choose that vocabulary with --vocab %s (prepctl add --vocab brings its file), or start from other weights",
		       path, data->vocab, s->vocab_name, data->vocab);
}

/* Of somebody else's tower config.json says them. */
static void say_assumed(const struct session *s, const char *path)
{
	char beside[RUN_CONFIG_PATH_BYTES];

	if (run_config_text_path(&s->config, beside) == NULL)
		log_info("no config.json beside %s: it is taken for a BERT of %d heads and an eps of %g (--text-encoder names others), which no shape "
			 "shows", path, s->model_config.text.heads, s->model_config.text.norm_eps);
}

/* As where the numbers of classes differ. After contrast there is no head. */
static int check_head(const struct session *s, const struct statefile *file, const struct origin *origin, struct err *err)
{
	static const char remedy[] = "start from other weights, or from a copy of the file without head.weight and head.bias (docs/training.md)";
	char difference[ABOUT_DIFFERENCE_BYTES];

	if (s->plan.task == TASK_CONTRAST || statefile_find(file, "head.weight") == NULL)
		return 0;
	if (origin->model.task != s->plan.task)
		return err_set(err, ERR_MISMATCH, "%s: its head was trained for --task %s, so its classes mean something else; %s", statefile_path(file),
			       model_task_name(origin->model.task), remedy);
	if (about_classes_differ(&origin->classes, &s->classes, difference))
		return err_set(err, ERR_MISMATCH, "%s: its head was trained on %s, which has other labels than %s, so its classes mean something else: %s; %s",
			       statefile_path(file), origin->data.name, s->config.data, difference, remedy);
	return 0;
}

/* What a file of ours says it was trained on: where that differs, shapes may fit and values mean something else. */
static int check_origin(const struct session *s, const struct statefile *file, enum weights_kind kind, struct err *err)
{
	struct origin origin;
	int code;

	if (kind == WEIGHTS_IMAGE)
		return 0;
	if ((code = origin_read(&origin, file, err)) == 0 && origin.ours)
		code = check_vocab(s, statefile_path(file), &origin.data, err);
	if (code == 0 && origin.ours)
		code = origin_check_text(&origin, statefile_path(file), &s->model_config.text, err);
	if (code == 0 && !origin.ours && kind == WEIGHTS_TEXT)
		say_assumed(s, statefile_path(file));
	if (code == 0 && origin.ours && kind == WEIGHTS_STATE)
		code = check_head(s, file, &origin, err);
	origin_free(&origin);
	return code;
}

static int load_weights(struct session *s, const char *path, enum weights_kind kind, const char *option, struct err *err)
{
	struct weights_report report = { 0 };
	struct statefile *file = NULL;
	int code;

	if (path == NULL)
		return 0;
	if ((code = statefile_open(&file, path, err)) != 0 || (code = check_origin(s, file, kind, err)) != 0 ||
	    (code = weights_take(s->params, file, kind, &report, err)) != 0) {
		err_prefix(err, "--%s", option);
		goto out;
	}
	if ((code = check_whole(&report, path, kind, err)) != 0) {
		err_prefix(err, "--%s", option);
		goto out;
	}
	log_info("%s: %d tensors loaded, %d missing, %d unexpected, %d left out on purpose", path, report.loaded, report.missing,
		 report.unexpected, report.skipped);
	log_names("missing in the file, left as they start without it", report.missing, &report.missing_names);
	log_names("unexpected in the file, ignored", report.unexpected, &report.unexpected_names);
out:
	statefile_close(file);
	weights_report_free(&report);
	return code;
}

/* A frozen tower stays what it is now, so what starts at random deserves a word. */
static void warn_of_random_towers(const struct session *s)
{
	if (s->config.init != NULL)
		return; /* what it lacks was listed */
	if (s->plan.freeze_image)
		log_warn("--freeze image: %s", s->config.image_weights == NULL ? "the image tower stays at random weights; start from some with "
										 "--init or --image-weights" :
										 "image_encoder.fc is this model's own and stays random");
	if (s->plan.freeze_text)
		log_warn("--freeze text: %s", s->config.text_weights == NULL ? "the text tower stays at random weights; start from some with "
									       "--init or --text-weights" :
									       "text_projector is this model's own and stays random");
}

static int load_all(struct session *s, struct err *err)
{
	int code;

	params_init(s->params, (uint64_t)s->config.seed);
	if (s->options->resume && checkpoint_exists(s->dir))
		return 0; /* all of them come from there */
	if ((code = load_weights(s, s->config.init, WEIGHTS_STATE, "init", err)) != 0 ||
	    (code = load_weights(s, s->config.image_weights, WEIGHTS_IMAGE, "image-weights", err)) != 0)
		return code;
	warn_of_random_towers(s);
	return load_weights(s, s->config.text_weights, WEIGHTS_TEXT, "text-weights", err);
}

/* A run that was stopped before its first checkpoint begins again, and must do so from the same weights. */
static int weights_changed(const struct session *s, struct err *err)
{
	const struct run_config *c = &s->config;
	const struct {
		const char *option, *path;
	} files[] = { { "init", c->init }, { "image-weights", c->image_weights }, { "text-weights", c->text_weights } };
	char named[900] = "";
	size_t used = 0;

	for (size_t i = 0; i < ARRAY_LEN(files); i++)
		if (files[i].path != NULL && used < sizeof(named))
			used += (size_t)snprintf(named + used, sizeof(named) - used, "%s--%s %.250s", used > 0 ? " or " : "", files[i].option, files[i].path);
	if (used == 0)
		return err_set(err, ERR_MISMATCH, "the run in %s has no checkpoint yet, and would begin again from other weights than it began with: this "
			       "version of the program draws others; begin a new run with another --out", s->dir);
	return err_set(err, ERR_MISMATCH, "the run in %s has no checkpoint yet, and would begin again from other weights than it began with: the file of %s "
		       "has changed since; bring the old one back, or begin a new run with another --out", s->dir, named);
}

/* What the run began with; a run that goes on has it in its checkpoint, where an older version wrote that in its record. */
static int name_weights(struct session *s, struct err *err)
{
	struct checkpoint_progress *p = &s->progress;
	struct hash recorded;
	bool found = false;
	int code;

	if (s->options->resume && record_read_init(s->dir, &recorded, &found, NULL) != 0)
		found = false;
	if (s->options->resume && checkpoint_exists(s->dir)) {
		if (found)
			p->init = recorded;
		p->has_init = found;
		return 0;
	}
	if ((code = outcome_weights_digest(s->params, &p->init, err)) != 0)
		return code;
	p->has_init = true;
	return found && !hash_equal(&recorded, &p->init) ? weights_changed(s, err) : 0;
}

int initial_weights(struct session *s, struct err *err)
{
	int code = load_all(s, err);

	return code != 0 ? code : name_weights(s, err);
}
