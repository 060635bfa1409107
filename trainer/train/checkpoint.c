#include "trainer/train/checkpoint.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared/base/fs.h"
#include "shared/base/json.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "trainer/io/checksum.h"
#include "trainer/io/weights.h"
#include "trainer/train/checkpoint_folder.h"

bool checkpoint_exists(const char *dir)
{
	char path[CHECKPOINT_PATH_BYTES];
	struct checkpoint_found *found = mem_zalloc(sizeof(*found));
	bool any = false;

	if (found != NULL && checkpoint_join(path, dir, "checkpoints", NULL) == 0) {
		checkpoint_list(path, found);
		any = found->count > 0;
	}
	mem_free(found);
	return any;
}

bool checkpoint_remove_all(const char *dir)
{
	static const char *const names[] = { "last.safetensors", "best.safetensors" };
	char folder[CHECKPOINT_PATH_BYTES], path[CHECKPOINT_PATH_BYTES], name[CHECKPOINT_NAME_BYTES];
	struct checkpoint_found *found = mem_zalloc(sizeof(*found));
	bool any = false;

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (checkpoint_join(path, dir, names[i], NULL) == 0)
			any |= unlink(path) == 0;
	if (found != NULL && checkpoint_join(folder, dir, "checkpoints", NULL) == 0) {
		checkpoint_tidy(folder);
		checkpoint_list(folder, found);
		any |= found->count > 0;
		for (int i = 0; i < found->count; i++) {
			checkpoint_step_name(found->steps[i], name);
			if (checkpoint_join(path, folder, name, NULL) == 0)
				checkpoint_remove(path);
		}
		(void)rmdir(folder);
	}
	mem_free(found);
	return any;
}

/* ---- links ---- */

static int point_all(const char *dir, const char *checkpoint, const struct checkpoint_progress *progress, struct err *err)
{
	char model_path[CHECKPOINT_PATH_BYTES];
	int code;

	if ((code = checkpoint_join(model_path, checkpoint, "model.safetensors", err)) != 0 ||
	    (code = checkpoint_point(dir, "last.safetensors", model_path, err)) != 0)
		return code;
	if (progress->has_best && progress->best_step == progress->step)
		code = checkpoint_point(dir, "best.safetensors", model_path, err);
	return code;
}

/* ---- progress as text ---- */

static int progress_write(const struct checkpoint_progress *p, struct buf *out, struct err *err)
{
	char hex[HASH_HEX_BYTES];
	int code;

	hash_to_hex(&p->chain, hex);
	if ((code = buf_printf(out, err, "{\"step\": %" PRIu64 ", \"epoch\": %" PRIu64 ", \"validated\": %s, \"digest\": \"%s\"",
			       p->step, p->epoch, p->validated ? "true" : "false", hex)) != 0)
		return code;
	if (p->has_best && ((code = buf_printf(out, err, ", \"best_step\": %" PRIu64 ", \"best_accuracy\": ", p->best_step)) != 0 ||
			    (code = json_add_real(out, p->best_accuracy, err)) != 0 ||
			    (code = buf_add_text(out, ", \"best_loss\": ", err)) != 0 ||
			    (code = json_add_real(out, p->best_loss, err)) != 0))
		return code;
	if (p->has_val && ((code = buf_printf(out, err, ", \"val_pairs\": %" PRIu64 ", \"val_accuracy\": ", p->val_pairs)) != 0 ||
			   (code = json_add_real(out, p->val_accuracy, err)) != 0 ||
			   (code = buf_add_text(out, ", \"val_loss\": ", err)) != 0 ||
			   (code = json_add_real(out, p->val_loss, err)) != 0))
		return code;
	hash_to_hex(&p->init, hex);
	if (p->has_init && (code = buf_printf(out, err, ", \"init_digest\": \"%s\"", hex)) != 0)
		return code;
	return buf_add_byte(out, '}', err);
}

static int read_count(struct json_reader *reader, uint64_t *out, struct err *err)
{
	int64_t value;
	int code = json_expect(reader, JSON_NUMBER, err);

	if (code != 0 || (code = json_int(reader, &value, err)) != 0)
		return code;
	if (value < 0)
		return json_fail(reader, err, "a negative count");
	*out = (uint64_t)value;
	return 0;
}

/* null is how json_add_real() writes what is not finite. */
static int read_real(struct json_reader *reader, double *out, struct err *err)
{
	int code = json_next(reader, err);

	if (code != 0)
		return code;
	if (reader->kind == JSON_NULL) {
		*out = NAN;
		return 0;
	}
	return reader->kind == JSON_NUMBER ? json_real(reader, out, err) : json_fail(reader, err, "not a number");
}

static int read_field(struct json_reader *reader, const char *key, struct checkpoint_progress *p, struct err *err)
{
	int code;

	if (strcmp(key, "step") == 0)
		return read_count(reader, &p->step, err);
	if (strcmp(key, "epoch") == 0)
		return read_count(reader, &p->epoch, err);
	if (strcmp(key, "best_step") == 0) {
		p->has_best = true;
		return read_count(reader, &p->best_step, err);
	}
	if (strcmp(key, "best_accuracy") == 0)
		return read_real(reader, &p->best_accuracy, err);
	if (strcmp(key, "best_loss") == 0)
		return read_real(reader, &p->best_loss, err);
	if (strcmp(key, "val_pairs") == 0) {
		p->has_val = true;
		return read_count(reader, &p->val_pairs, err);
	}
	if (strcmp(key, "val_accuracy") == 0)
		return read_real(reader, &p->val_accuracy, err);
	if (strcmp(key, "val_loss") == 0)
		return read_real(reader, &p->val_loss, err);
	if (strcmp(key, "digest") == 0) {
		if ((code = json_expect(reader, JSON_STRING, err)) != 0)
			return code;
		return hash_from_hex(&p->chain, reader->text.data, err);
	}
	if (strcmp(key, "init_digest") == 0) {
		if ((code = json_expect(reader, JSON_STRING, err)) != 0)
			return code;
		p->has_init = true;
		return hash_from_hex(&p->init, reader->text.data, err);
	}
	if (strcmp(key, "validated") == 0) {
		if ((code = json_next(reader, err)) != 0)
			return code;
		if (reader->kind != JSON_TRUE && reader->kind != JSON_FALSE)
			return json_fail(reader, err, "validated is true or false");
		p->validated = reader->kind == JSON_TRUE;
		return 0;
	}
	return json_skip(reader, err);
}

static int progress_read(const char *name, const char *text, struct checkpoint_progress *out, struct err *err)
{
	struct json_reader reader;
	int code;

	*out = (struct checkpoint_progress){ 0 };
	json_reader_init(&reader, name, text, strlen(text));
	code = json_expect(&reader, JSON_OBJECT_BEGIN, err);
	while (code == 0) {
		char key[CHECKPOINT_NAME_BYTES];

		if ((code = json_next(&reader, err)) != 0 || reader.kind == JSON_OBJECT_END)
			break;
		snprintf(key, sizeof(key), "%s", reader.text.data);
		code = read_field(&reader, key, out, err);
	}
	json_reader_free(&reader);
	return code;
}

/* ---- writing ---- */

static int write_file(const char *folder, const char *name, const struct tensor_view *views, int count,
		      const char *values[META_COUNT], char checksum[CHECKSUM_TEXT_BYTES], struct err *err)
{
	struct tensor_metadata metadata[META_COUNT + 1];
	char path[CHECKPOINT_PATH_BYTES];
	int n = 0, code;

	if ((code = checkpoint_join(path, folder, name, err)) != 0)
		return code;
	checksum_compute(views, count, values, checksum);
	for (int i = 0; i < META_COUNT; i++)
		if (values[i] != NULL)
			metadata[n++] = (struct tensor_metadata){ checksum_keys[i], values[i] };
	metadata[n++] = (struct tensor_metadata){ "checksum", checksum };
	return tensorfile_write(path, views, count, metadata, n, err);
}

static int write_both(const char *folder, const struct params *params, const struct optimizer *optimizer,
		      const struct checkpoint_progress *progress, const struct checkpoint_about *about, struct err *err)
{
	struct tensor_view *views = mem_array((size_t)params->count + 1, sizeof(*views)), *moments = NULL;
	struct buf text = BUF_INIT;
	char step[24], seconds[32], model_sum[CHECKSUM_TEXT_BYTES], moments_sum[CHECKSUM_TEXT_BYTES];
	int moment_count, code;

	if (views == NULL)
		return err_nomem(err, (size_t)params->count * sizeof(*views));
	snprintf(step, sizeof(step), "%" PRIu64, progress->step);
	/* Time stands in the other file: equal runs write equal weights, byte for byte. */
	snprintf(seconds, sizeof(seconds), "%.3f", progress->train_seconds);
	if ((code = progress_write(progress, &text, err)) != 0 || (code = optimizer_views(optimizer, &moments, &moment_count, err)) != 0)
		goto out;
	const char *values[META_COUNT] = { checksum_format, step, text.data, about->config, about->model, about->dataset, NULL, NULL };
	if ((code = write_file(folder, "model.safetensors", views, weights_views(params, views), values, model_sum, err)) != 0)
		goto out;
	const char *pair[META_COUNT] = { checksum_format, step, NULL, NULL, NULL, NULL, model_sum, seconds };
	code = write_file(folder, "optimizer.safetensors", moments, moment_count, pair, moments_sum, err);
out:
	buf_free(&text);
	mem_free(moments);
	mem_free(views);
	return code;
}

int checkpoint_write_best(const char *dir, const struct params *params, const struct checkpoint_progress *progress,
			  const struct checkpoint_about *about, struct err *err)
{
	struct tensor_view *views = mem_array((size_t)params->count + 1, sizeof(*views));
	struct buf text = BUF_INIT;
	char step[24], sum[CHECKSUM_TEXT_BYTES];
	int code;

	if (views == NULL)
		return err_nomem(err, (size_t)params->count * sizeof(*views));
	snprintf(step, sizeof(step), "%" PRIu64, progress->step);
	if ((code = progress_write(progress, &text, err)) == 0) {
		const char *values[META_COUNT] = { checksum_format, step, text.data, about->config, about->model, about->dataset, NULL, NULL };

		code = write_file(dir, "best.safetensors", views, weights_views(params, views), values, sum, err);
	}
	buf_free(&text);
	mem_free(views);
	return code == 0 ? 0 : err_prefix(err, "the best weights, of step %" PRIu64, progress->step);
}

int checkpoint_write(const char *dir, const struct params *params, const struct optimizer *optimizer,
		     const struct checkpoint_progress *progress, const struct checkpoint_about *about, struct err *err)
{
	char folder[CHECKPOINT_PATH_BYTES], hidden[CHECKPOINT_PATH_BYTES], final[CHECKPOINT_PATH_BYTES];
	char name[CHECKPOINT_NAME_BYTES], hidden_name[CHECKPOINT_NAME_BYTES + 8];
	int code;

	checkpoint_step_name(progress->step, name);
	snprintf(hidden_name, sizeof(hidden_name), ".new-%s", name);
	if ((code = checkpoint_join(folder, dir, "checkpoints", err)) != 0 ||
	    (code = checkpoint_join(hidden, folder, hidden_name, err)) != 0 ||
	    (code = checkpoint_join(final, folder, name, err)) != 0 || (code = fs_mkdirs(folder, 0777, err)) != 0)
		return code;
	checkpoint_remove(hidden);
	if ((code = fs_mkdirs(hidden, 0777, err)) != 0)
		goto failed;
	if ((code = write_both(hidden, params, optimizer, progress, about, err)) != 0)
		goto failed;
	/* A failure from here on removes nothing: what now has the hidden name may be the one before, and still the one on disk. The next
	 * checkpoint, or the next start, tidies up. */
	if ((code = checkpoint_place(folder, hidden, final, err)) != 0 || (code = point_all(dir, final, progress, err)) != 0)
		goto named;
	checkpoint_drop_old(folder, progress->step);
	return 0;
failed:
	checkpoint_remove(hidden);
named:
	err_prefix(err, "checkpoint of step %" PRIu64, progress->step);
	return code;
}

/* ---- reading ---- */

static int open_checked(struct tensorfile **out, const char *folder, const char *name, struct err *err)
{
	char path[CHECKPOINT_PATH_BYTES];
	bool ours;
	int code;

	*out = NULL;
	if ((code = checkpoint_join(path, folder, name, err)) != 0 || (code = tensorfile_open(out, path, err)) != 0)
		return code;
	if ((code = checksum_verify(*out, &ours, err)) == 0 && !ours)
		code = err_set(err, ERR_CORRUPT, "%s: carries no checksum", path);
	if (code != 0) {
		tensorfile_close(*out);
		*out = NULL;
	}
	return code;
}

struct opened {
	struct tensorfile *model, *moments;
	struct checkpoint_progress progress;
};

static void opened_close(struct opened *o)
{
	tensorfile_close(o->model);
	tensorfile_close(o->moments);
	*o = (struct opened){ 0 };
}

/* Both files whole, and of one another. */
static int open_pair(const char *folder, uint64_t step, struct opened *out, struct err *err)
{
	const char *progress, *sum, *partner;
	int code;

	*out = (struct opened){ 0 };
	if ((code = open_checked(&out->model, folder, "model.safetensors", err)) != 0 ||
	    (code = open_checked(&out->moments, folder, "optimizer.safetensors", err)) != 0)
		goto failed;
	sum = tensorfile_metadata(out->model, "checksum");
	partner = tensorfile_metadata(out->moments, "partner");
	progress = tensorfile_metadata(out->model, "progress");
	if (partner == NULL || strcmp(sum, partner) != 0) {
		code = err_set(err, ERR_CORRUPT, "%s: weights and optimizer state are not of the same step", folder);
		goto failed;
	}
	if (progress == NULL) {
		code = err_set(err, ERR_CORRUPT, "%s: does not say where the run stood", folder);
		goto failed;
	}
	if ((code = progress_read(folder, progress, &out->progress, err)) != 0)
		goto failed;
	const char *seconds = tensorfile_metadata(out->moments, "train_seconds");
	if (seconds != NULL)
		out->progress.train_seconds = strtod(seconds, NULL);
	if (out->progress.step != step) {
		code = err_set(err, ERR_CORRUPT, "%s: is of step %" PRIu64, folder, out->progress.step);
		goto failed;
	}
	return 0;
failed:
	opened_close(out);
	return code;
}

/* What is wrong with the files, not with this machine at this moment. */
static bool is_damage(int code)
{
	return code != ERR_NOMEM && code != ERR_CANCELLED;
}

/* The newest one that is whole; a warning names those that were passed over. ERR_NOTFOUND: there is none. */
static int open_newest(const char *folder, char path[CHECKPOINT_PATH_BYTES], struct opened *out, bool *passed_over, struct err *err)
{
	struct checkpoint_found *found = mem_zalloc(sizeof(*found));
	char name[CHECKPOINT_NAME_BYTES];
	int code = 0;

	*passed_over = false;
	if (found == NULL)
		return err_nomem(err, sizeof(*found));
	checkpoint_list(folder, found);
	for (int i = 0; i < found->count; i++) {
		checkpoint_step_name(found->steps[i], name);
		if ((code = checkpoint_join(path, folder, name, err)) != 0 ||
		    (code = open_pair(path, found->steps[i], out, err)) == 0 || !is_damage(code))
			goto out;
		log_warn("%s; %s", err->message,
			 i + 1 < found->count ? "using the checkpoint before it" : "no other checkpoint is left");
		*passed_over = true;
	}
	if (found->count > 0)
		code = err_set(err, ERR_CORRUPT, "%s: every checkpoint is damaged; start again with another --out", folder);
	else
		code = err_set(err, ERR_NOTFOUND, "%s: no checkpoint there", folder);
out:
	mem_free(found);
	return code;
}

/* Whether a file of weights is whole and of this step, or of a later one: after going back, the run gets there again. */
static bool is_of_step(const char *path, uint64_t step)
{
	struct tensorfile *file;
	bool ours, good = false;

	if (tensorfile_open(&file, path, NULL) != 0)
		return false;
	if (checksum_verify(file, &ours, NULL) == 0 && ours) {
		const char *text = tensorfile_metadata(file, "step");

		good = text != NULL && strtoull(text, NULL, 10) >= step;
	}
	tensorfile_close(file);
	return good;
}

/* The best weights may have been damaged or deleted since; where a checkpoint still has them they come back. */
static int repair_best(const char *dir, const char *folder, const struct checkpoint_progress *progress, struct err *err)
{
	char path[CHECKPOINT_PATH_BYTES], checkpoint[CHECKPOINT_PATH_BYTES], name[CHECKPOINT_NAME_BYTES];
	int code;

	if (!progress->has_best)
		return 0;
	if ((code = checkpoint_join(path, dir, "best.safetensors", err)) != 0 || is_of_step(path, progress->best_step))
		return code;
	checkpoint_step_name(progress->best_step, name);
	if ((code = checkpoint_join(checkpoint, folder, name, err)) != 0 ||
	    (code = checkpoint_join(path, checkpoint, "model.safetensors", err)) != 0)
		return code;
	if (is_of_step(path, progress->best_step))
		return checkpoint_point(dir, "best.safetensors", path, err);
	log_warn("%s/best.safetensors is missing or damaged, and no checkpoint has the weights of step %" PRIu64
		 " any more; the next validation that is better writes it again",
		 dir, progress->best_step);
	return 0;
}

int checkpoint_restore(const char *dir, struct params *params, struct optimizer *optimizer, struct checkpoint_progress *progress,
		       bool *found, struct err *err)
{
	char folder[CHECKPOINT_PATH_BYTES], path[CHECKPOINT_PATH_BYTES];
	struct opened opened = { 0 };
	struct statefile *weights = NULL;
	bool passed_over;
	int code;

	*found = false;
	if ((code = checkpoint_join(folder, dir, "checkpoints", err)) != 0)
		return code;
	checkpoint_tidy(folder);
	code = open_newest(folder, path, &opened, &passed_over, err);
	if (code == ERR_NOTFOUND)
		return 0;
	if (code != 0 || (code = statefile_borrow(&weights, opened.model, err)) != 0 ||
	    (code = weights_load_strict(params, weights, "", err)) != 0 ||
	    (code = optimizer_restore(optimizer, opened.moments, opened.progress.step, err)) != 0 ||
	    (code = point_all(dir, path, &opened.progress, err)) != 0 ||
	    (code = repair_best(dir, folder, &opened.progress, err)) != 0)
		goto out;
	/* A process that was killed may have left more than are kept. Damaged ones stay until there is another one. */
	if (!passed_over)
		checkpoint_drop_old(folder, opened.progress.step);
	*progress = opened.progress;
	*found = true;
out:
	statefile_close(weights);
	opened_close(&opened);
	return code;
}

int checkpoint_read_about(const char *dir, struct buf *config, struct buf *dataset, struct err *err)
{
	char folder[CHECKPOINT_PATH_BYTES], path[CHECKPOINT_PATH_BYTES];
	struct opened opened = { 0 };
	const char *texts[2];
	bool passed_over;
	int code;

	if ((code = checkpoint_join(folder, dir, "checkpoints", err)) != 0 || (code = open_newest(folder, path, &opened, &passed_over, err)) != 0)
		return code;
	texts[0] = tensorfile_metadata(opened.model, "config");
	texts[1] = tensorfile_metadata(opened.model, "dataset");
	if (texts[0] == NULL || texts[1] == NULL)
		code = err_set(err, ERR_CORRUPT, "%s: does not say what the run was configured to do", path);
	else if ((code = buf_add_text(config, texts[0], err)) == 0)
		code = buf_add_text(dataset, texts[1], err);
	opened_close(&opened);
	return code;
}
