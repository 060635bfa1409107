/* DIR/run.json, and the texts about a run that checkpoints carry. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/fs.h"
#include "shared/base/mem.h"
#include "trainer/train/about.h"
#include "trainer/train/session.h"

#define RECORD_BYTES_MAX ((size_t)1 << 20)

static int64_t parameter_count(const struct params *params)
{
	int64_t count = 0;

	for (int i = 0; i < params->count; i++)
		if (params->all[i].kind != PARAM_BUFFER && params->all[i].kind != PARAM_COUNTER)
			count += (int64_t)params->all[i].count;
	return count;
}

int record_about(struct session *s, struct err *err)
{
	struct about_model model = {
		.task = s->plan.task, .image_size = s->config.image_size, .vocab_size = s->model_config.text.vocab_size,
		.classes = s->model_config.classes, .pad_id = s->model_config.text.pad_id, .features = s->model_config.features,
		.parameters = parameter_count(s->params),
	};
	struct about_data data = { .version = s->version, .vocab_hash = s->vocab };
	int code;

	image_encoder_text(&s->model_config.image, model.image_encoder);
	text_encoder_text(&s->model_config.text, model.text_encoder);
	snprintf(data.name, sizeof(data.name), "%s", s->config.data);
	snprintf(data.vocab, sizeof(data.vocab), "%s", s->vocab_name);
	buf_clear(&s->about_config);
	buf_clear(&s->about_model);
	buf_clear(&s->about_dataset);
	if ((code = run_config_write(&s->config, &s->about_config, err)) != 0 ||
	    (code = about_model_write(&model, &s->classes, &s->about_model, err)) != 0)
		return code;
	return about_data_write(&data, &s->about_dataset, err);
}

static int add_part(struct buf *out, const char *name, const struct part *part, struct err *err)
{
	int code;

	if ((code = buf_printf(out, err, ",\n  \"%s\": {\"split\": ", name)) != 0 ||
	    (code = json_add_string(out, part->split, strlen(part->split), err)) != 0)
		return code;
	return buf_printf(out, err, ", \"pictures\": %u, \"captions\": %u}", part->pictures, part->captions);
}

static int add_score(struct buf *out, const char *name, double accuracy, double loss, struct err *err)
{
	int code;

	if ((code = buf_printf(out, err, ", \"%s\": {\"accuracy\": ", name)) != 0 || (code = json_add_real(out, accuracy, err)) != 0 ||
	    (code = buf_add_text(out, ", \"loss\": ", err)) != 0 || (code = json_add_real(out, loss, err)) != 0)
		return code;
	return 0;
}

/* What outcome.c measured. */
static int add_final(const struct session *s, struct buf *out, struct err *err)
{
	const struct outcome *o = &s->outcome;
	/* Ranks have no probability that could be calibrated, and are of no list of pairs. */
	const bool val = s->validates, decides = s->plan.task != TASK_CONTRAST;
	const struct {
		const char *name;
		double value;
		bool there;
	} reals[] = {
		{ "accuracy", o->val.accuracy, val }, { "loss", o->val.loss, val }, { "ece", o->val.ece, val && decides },
		{ "train_accuracy", o->train.accuracy, true }, { "train_loss", o->train.loss, true }, { "train_ece", o->train.ece, decides },
	};
	char digest[HASH_HEX_BYTES];
	int code = buf_printf(out, err, ", \"final\": {\"train_pairs\": %" PRIu64 ", \"train_pictures\": %zu", o->train.pairs, o->train_pictures);

	for (size_t i = 0; i < ARRAY_LEN(reals) && code == 0; i++) {
		if (reals[i].there && (code = buf_printf(out, err, ", \"%s\": ", reals[i].name)) == 0)
			code = json_add_real(out, reals[i].value, err);
	}
	hash_to_hex(&o->val.chain, digest);
	if (code == 0 && val)
		code = buf_printf(out, err, ", \"pairs\": %" PRIu64 ", \"pictures\": %zu, \"val_digest\": \"%s\"", o->val.pairs, o->pictures, digest);
	hash_to_hex(&o->pairs_digest, digest);
	if (code == 0 && val && decides)
		code = buf_printf(out, err, ", \"pairs_digest\": \"%s\"", digest);
	return code != 0 ? code : buf_add_text(out, "}", err);
}

static int add_result(const struct session *s, struct buf *out, struct err *err)
{
	const struct checkpoint_progress *p = &s->progress;
	int code;

	if ((code = buf_printf(out, err, ",\n  \"result\": {\"steps\": %" PRIu64 ", \"train_seconds\": ", p->step)) != 0 ||
	    (code = json_add_real(out, p->train_seconds, err)) != 0)
		return code;
	if (p->has_val && ((code = add_score(out, "val", p->val_accuracy, p->val_loss, err)) != 0 ||
			   (code = buf_printf(out, err, ", \"pairs\": %" PRIu64 "}", p->val_pairs)) != 0))
		return code;
	if (p->has_best && ((code = add_score(out, "best", p->best_accuracy, p->best_loss, err)) != 0 ||
			    (code = buf_printf(out, err, ", \"steps\": %" PRIu64 "}", p->best_step)) != 0))
		return code;
	if (s->plan.reg.early.on && (code = buf_printf(out, err, ", \"stopped_early\": %s", loop_stopped_early(s) ? "true" : "false")) != 0)
		return code;
	if (s->outcome.measured && (code = add_final(s, out, err)) != 0)
		return code;
	return buf_add_text(out, "}", err);
}

static int add_digests(const struct session *s, struct buf *out, struct err *err)
{
	char digest[HASH_HEX_BYTES];
	int code;

	hash_to_hex(&s->progress.chain, digest);
	if ((code = buf_printf(out, err, ",\n  \"digest\": \"%s\"", digest)) != 0 || !s->progress.has_init)
		return code;
	hash_to_hex(&s->progress.init, digest);
	return buf_printf(out, err, ",\n  \"init_digest\": \"%s\"", digest);
}

int record_write(struct session *s, const char *state, struct err *err)
{
	char reg[REG_TEXT_BYTES], path[SESSION_PATH_BYTES + 16];
	struct buf out = BUF_INIT;
	int code;

	reg_spec_text(&s->plan.reg, reg);
	if ((code = buf_printf(&out, err, "{\n  \"program\": \"trainer\", \"format\": 1, \"state\": \"%s\",\n  \"config\": %s,\n", state,
			       s->about_config.data)) != 0 ||
	    (code = buf_printf(&out, err, "  \"reg\": \"%s\",\n  \"model\": %s,\n  \"dataset\": %s", reg, s->about_model.data,
			       s->about_dataset.data)) != 0 ||
	    (code = add_part(&out, "train", &s->train, err)) != 0 ||
	    (s->validates && (code = add_part(&out, "val", &s->val, err)) != 0) ||
	    (code = buf_printf(&out, err, ",\n  \"steps_per_epoch\": %" PRIu64 ", \"steps_total\": %" PRIu64 ", \"threads\": %d",
			       s->steps_per_epoch, s->steps_total, s->threads)) != 0 ||
	    (code = add_result(s, &out, err)) != 0 || (code = add_digests(s, &out, err)) != 0 ||
	    (code = buf_add_text(&out, "\n}\n", err)) != 0)
		goto out;
	snprintf(path, sizeof(path), "%s/run.json", s->dir);
	code = fs_write_atomic(path, out.data, out.size, err);
out:
	buf_free(&out);
	return code;
}

/* run.json is written anew again and again, so somebody may have lost it; checkpoints say the same. */
static int config_from_checkpoint(const char *dir, struct run_config *config, struct about_data *data, struct err *err)
{
	struct buf config_text = BUF_INIT, data_text = BUF_INIT;
	struct json_reader reader;
	int code = checkpoint_read_about(dir, &config_text, &data_text, err);

	if (code != 0)
		goto out;
	json_reader_init(&reader, "a checkpoint's config", config_text.data, config_text.size);
	code = run_config_read(config, &reader, err);
	json_reader_free(&reader);
	if (code != 0)
		goto out;
	json_reader_init(&reader, "a checkpoint's dataset", data_text.data, data_text.size);
	code = about_data_read(data, &reader, err);
	json_reader_free(&reader);
out:
	buf_free(&config_text);
	buf_free(&data_text);
	return code;
}

int record_read_config(const char *dir, struct run_config *config, struct about_data *data, bool *lost, struct err *err)
{
	char path[SESSION_PATH_BYTES + 16];
	struct buf content = BUF_INIT;
	struct json_reader reader;
	bool has_config = false, has_data = false;
	int code;

	snprintf(path, sizeof(path), "%s/run.json", dir);
	*lost = false;
	*data = (struct about_data){ .name = "" };
	run_config_init(config);
	if ((code = fs_read(path, RECORD_BYTES_MAX, &content, err)) != 0)
		goto out;
	json_reader_init(&reader, path, content.data, content.size);
	code = json_expect(&reader, JSON_OBJECT_BEGIN, err);
	while (code == 0) {
		if ((code = json_next(&reader, err)) != 0 || reader.kind == JSON_OBJECT_END)
			break;
		if (strcmp(reader.text.data, "config") == 0) {
			code = run_config_read(config, &reader, err);
			has_config = true;
		} else if (strcmp(reader.text.data, "dataset") == 0) {
			code = about_data_read(data, &reader, err);
			has_data = true;
		} else {
			code = json_skip(&reader, err);
		}
	}
	if (code == 0 && (!has_config || !has_data))
		code = json_fail(&reader, err, "no run's configuration in it");
	json_reader_free(&reader);
out:
	if (code != 0 && code != ERR_NOMEM && checkpoint_exists(dir)) {
		run_config_free(config);
		run_config_init(config);
		*data = (struct about_data){ .name = "" };
		*lost = true;
		code = config_from_checkpoint(dir, config, data, err);
	}
	buf_free(&content);
	return code;
}

/* A string at the top of run.json; *found: it is there. */
static int read_string(const char *dir, const char *name, struct buf *out, bool *found, struct err *err)
{
	char path[SESSION_PATH_BYTES + 16];
	struct buf content = BUF_INIT;
	struct json_reader reader;
	int code;

	*found = false;
	snprintf(path, sizeof(path), "%s/run.json", dir);
	if ((code = fs_read(path, RECORD_BYTES_MAX, &content, err)) != 0) {
		buf_free(&content);
		return code == ERR_NOTFOUND ? 0 : code;
	}
	json_reader_init(&reader, path, content.data, content.size);
	code = json_expect(&reader, JSON_OBJECT_BEGIN, err);
	while (code == 0) {
		if ((code = json_next(&reader, err)) != 0 || reader.kind == JSON_OBJECT_END)
			break;
		if (strcmp(reader.text.data, name) != 0) {
			code = json_skip(&reader, err);
		} else if ((code = json_expect(&reader, JSON_STRING, err)) == 0) {
			buf_clear(out);
			code = buf_add_text(out, reader.text.data, err);
			*found = code == 0;
		}
	}
	json_reader_free(&reader);
	buf_free(&content);
	return code;
}

int record_read_init(const char *dir, struct hash *out, bool *found, struct err *err)
{
	struct buf text = BUF_INIT;
	int code = read_string(dir, "init_digest", &text, found, err);

	if (code == 0 && *found)
		code = hash_from_hex(out, text.data, err);
	*found = *found && code == 0;
	buf_free(&text);
	return code;
}

bool record_is_finished(const char *dir)
{
	struct buf text = BUF_INIT;
	struct err ignored;
	bool found;
	bool finished = read_string(dir, "state", &text, &found, &ignored) == 0 && found && strcmp(text.data, "finished") == 0;

	buf_free(&text);
	return finished;
}
