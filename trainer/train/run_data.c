/* What a run trains and measures on: the parts of the data set, opened, compared and checked before the model is made. */
#include <stdio.h>
#include <string.h>

#include "shared/base/log.h"
#include "shared/base/paths.h"
#include "shared/order/fold.h"
#include "trainer/train/session.h"

/* Of the validation part nothing is looked at here but names: pixels stay where they are. */
static int open_feed(struct session *s, const char *split, bool training, struct feed **out, struct err *err)
{
	struct feed_options options = {
		.socket = s->socket, .client_name = s->client_name, .dataset = s->config.data, .split = split,
		.vocab = s->vocab_name[0] != '\0' ? s->vocab_name : s->config.vocab, .training = training, .seed = (uint64_t)s->config.seed,
		.no_pixels = !training || (s->plan.freeze_image && s->plan.feature_cache),
		.batch_size = (uint32_t)s->config.batch_size, .image_size = (uint32_t)s->config.image_size,
		.exif_apply = s->plan.exif_apply,
		.max_len = (uint32_t)s->config.max_len, .cancelled = s->options->cancelled,
		.cancel_context = s->options->cancel_context,
	};

	return feed_open(out, &options, err);
}

static int note_part(struct part *part, const char *split, const struct stream_info *info, struct err *err)
{
	if (snprintf(part->split, sizeof(part->split), "%s", split) >= (int)sizeof(part->split))
		return err_set(err, ERR_USAGE, "the split name '%.40s...' is too long", split);
	part->pictures = info->picture_count;
	part->captions = info->caption_count;
	part->steps = info->steps;
	return 0;
}

/* Whether a '+' list of splits holds the other's whole or in part. */
static bool lists_overlap(const char *a, const char *b)
{
	char list[SESSION_NAME_BYTES], *rest = list;
	const char *name;

	if (strcmp(a, "all") == 0 || strcmp(b, "all") == 0)
		return true;
	snprintf(list, sizeof(list), "%s", a);
	while ((name = strsep(&rest, "+")) != NULL) {
		char other[SESSION_NAME_BYTES], *rest_b = other;
		const char *name_b;

		snprintf(other, sizeof(other), "%s", b);
		while ((name_b = strsep(&rest_b, "+")) != NULL)
			if (strcmp(name, name_b) == 0)
				return true;
	}
	return false;
}

static bool splits_overlap(const char *a, const char *b)
{
	char base_a[SESSION_NAME_BYTES], base_b[SESSION_NAME_BYTES];
	struct fold_chain fold_a, fold_b;
	size_t bytes_a, bytes_b;

	if (fold_parse(a, &fold_a, &bytes_a, NULL) != 0 || fold_parse(b, &fold_b, &bytes_b, NULL) != 0)
		return false; /* the daemon has refused such a name */
	snprintf(base_a, sizeof(base_a), "%.*s", (int)bytes_a, a);
	snprintf(base_b, sizeof(base_b), "%.*s", (int)bytes_b, b);
	if (!lists_overlap(base_a, base_b))
		return false;
	return strcmp(base_a, base_b) != 0 || fold_overlap(&fold_a, &fold_b);
}

/* Whether a sample of the split can be scored: found out before training, not at its first validation. Nearly always the first can. */
static int check_scored(const struct session *s, struct feed *feed, struct err *err)
{
	const struct batch *batch;
	int code = feed_seek(feed, 0, 0, err);

	while (code == 0 && (code = feed_next(feed, &batch, err)) == 0 && batch != NULL)
		for (uint32_t i = 0; i < batch->count; i++)
			if (s->plan.task == TASK_CLASSIFY ? batch->labels[i] >= 0 : batch->wrong_pictures[i] != UINT32_MAX)
				return 0;
	if (code != 0)
		return code;
	return err_set(err, ERR_FORMAT, "the split %s of %s has nothing to measure: %s; name another with --val-split, or train without "
		       "validation (--val-split none)", s->config.val_split, s->config.data,
		       s->plan.task == TASK_CLASSIFY ? "no sample of it has a label" : "it needs two pictures with different captions");
}

static int open_val(struct session *s, struct err *err)
{
	struct feed *feed = NULL;
	int code;

	if (strcmp(s->config.val_split, "none") == 0)
		return 0;
	code = open_feed(s, s->config.val_split, false, &feed, err);
	if (code == 0 && feed_info(feed)->caption_count == 0)
		code = err_set(err, ERR_NOTFOUND, "the split %s of %s is empty", s->config.val_split, s->config.data);
	if (code == ERR_NOTFOUND && s->plan.validate_default) {
		if (s->plan.reg.early.on)
			return err_set(err, ERR_USAGE, "data set %s has no val split, and early stopping needs a validation; name one with "
				       "--val-split", s->config.data);
		log_warn("data set %s has no val split: training without validation (--val-split names another)", s->config.data);
		s->config.val_split = "none";
		code = 0;
	} else if (code == 0) {
		s->validates = true;
		code = note_part(&s->val, s->config.val_split, feed_info(feed), err);
		if (code == 0)
			code = check_scored(s, feed, err);
	}
	feed_close(feed);
	if (code == 0 && s->validates && splits_overlap(s->train.split, s->val.split))
		log_warn("the split %s is part of what is trained on (%s): its accuracy says nothing about other pictures", s->val.split,
			 s->train.split);
	return code;
}

int run_check_labels(const char *data, uint32_t labels, struct err *err)
{
	if (labels >= 2)
		return 0;
	return err_set(err, ERR_FORMAT, "data set %s has %s; --task classify needs at least two classes (prepctl add --columns "
		       "IMAGE,CAPTION,LABEL), or use --task match", data, labels == 0 ? "no labels" : "one label");
}

static int check_task(const struct session *s, struct err *err)
{
	if (s->train.steps == 0 || s->train.pictures == 0)
		return err_set(err, ERR_NOTFOUND, "the split %s of %s is empty", s->train.split, s->config.data);
	if (s->plan.task != TASK_CLASSIFY && s->train.pictures < 2)
		return err_set(err, ERR_FORMAT, "the split %s of %s has one picture; --task %s needs at least two", s->train.split,
			       s->config.data, s->config.task);
	return s->plan.task == TASK_CLASSIFY ? run_check_labels(s->config.data, s->label_count, err) : 0;
}

int run_data_open(struct session *s, struct err *err)
{
	const struct stream_info *info;
	int code;

	snprintf(s->client_name, sizeof(s->client_name), "trainer %.60s %.50s", s->config.data, s->config.reg);
	if ((code = paths_socket(&s->socket, s->options->socket, false, err)) != 0)
		return code;
	code = open_feed(s, s->config.train_split, true, &s->feed, err);
	if (code == ERR_NOTFOUND && s->vocab_name[0] != '\0' && s->config.vocab == NULL) {
		s->vocab_name[0] = '\0'; /* with another cache the same words may have another name: check_same_data() compares them */
		code = open_feed(s, s->config.train_split, true, &s->feed, err);
	}
	if (code != 0)
		return code;
	info = feed_info(s->feed);
	s->version = info->version;
	s->vocab = info->vocab;
	s->transform = info->transform;
	s->vocab_size = info->vocab_size;
	s->pad_id = info->pad_id;
	s->label_count = info->label_count;
	snprintf(s->vocab_name, sizeof(s->vocab_name), "%s", info->vocab_name);
	if (s->plan.task == TASK_CLASSIFY && (code = about_classes_set(&s->classes, info->label_names, info->label_count, err)) != 0)
		return code;
	if ((code = note_part(&s->train, s->config.train_split, info, err)) != 0 || (code = check_task(s, err)) != 0)
		return code;
	return open_val(s, err);
}
