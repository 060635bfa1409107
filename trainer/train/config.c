#include "trainer/train/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/args.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "trainer/kernels/kernels.h"
#include "trainer/model/encoders.h"
#include "trainer/model/hf_config.h"
#include "trainer/reg/objective.h"
#include "trainer/train/pairs.h"


#define FIELD(option, kind, member, free) { option, kind, offsetof(struct run_config, member), free }

const struct run_field run_fields[] = {
	FIELD("data", RUN_TEXT, data, false),
	FIELD("reg", RUN_TEXT, reg, false),
	FIELD("task", RUN_TEXT, task, false),
	FIELD("preset", RUN_TEXT, preset, false),
	FIELD("image-size", RUN_INT, image_size, false),
	FIELD("exif", RUN_TEXT, exif, false),
	FIELD("vocab", RUN_TEXT, vocab, false),
	FIELD("max-len", RUN_INT, max_len, false),
	FIELD("train-split", RUN_TEXT, train_split, false),
	FIELD("val-split", RUN_TEXT, val_split, false),
	FIELD("batch-size", RUN_INT, batch_size, false),
	FIELD("accumulate", RUN_INT, accumulate, false),
	FIELD("negatives", RUN_TEXT, negatives, false),
	FIELD("epochs", RUN_INT, epochs, false),
	FIELD("steps", RUN_INT, steps, false),
	FIELD("seed", RUN_INT, seed, false),
	FIELD("optimizer", RUN_TEXT, optimizer, false),
	FIELD("lr", RUN_REAL, lr, false),
	FIELD("momentum", RUN_REAL, momentum, false),
	FIELD("schedule", RUN_TEXT, schedule, false),
	FIELD("warmup", RUN_INT, warmup, false),
	FIELD("clip", RUN_REAL, clip, false),
	FIELD("image-encoder", RUN_TEXT, image_encoder, false),
	FIELD("text-encoder", RUN_TEXT, text_encoder, false),
	FIELD("text-config", RUN_TEXT, text_config, false),
	FIELD("bert-dropout", RUN_REAL, bert_dropout, false),
	FIELD("precision", RUN_TEXT, precision, false),
	FIELD("init", RUN_TEXT, init, false),
	FIELD("freeze", RUN_TEXT, freeze, false),
	FIELD("feature-cache", RUN_TEXT, feature_cache, true),
	FIELD("image-weights", RUN_TEXT, image_weights, false),
	FIELD("text-weights", RUN_TEXT, text_weights, false),
	FIELD("eval-every", RUN_INT, eval_every, false),
	FIELD("checkpoint-every", RUN_INT, checkpoint_every, true),
	FIELD("threads", RUN_INT, threads, true),
	FIELD("predictions", RUN_INT, predictions, true),
};
const int run_field_count = ARRAY_LEN(run_fields);
_Static_assert(ARRAY_LEN(run_fields) <= RUN_FIELDS_MAX, "RUN_FIELDS_MAX");

int run_field_index(const char *name)
{
	for (int i = 0; i < run_field_count; i++)
		if (strcmp(run_fields[i].name, name) == 0)
			return i;
	CHECK(!"a field of this name");
	return -1;
}

void *run_field_value(const struct run_config *config, int field)
{
	return (char *)(uintptr_t)config + run_fields[field].offset;
}

static const char **text_of(const struct run_config *config, int field)
{
	return run_field_value(config, field);
}

static int64_t *int_of(const struct run_config *config, int field)
{
	return run_field_value(config, field);
}

static double *real_of(const struct run_config *config, int field)
{
	return run_field_value(config, field);
}

void run_config_init(struct run_config *config)
{
	memset(config, 0, sizeof(*config));
	for (int i = 0; i < run_field_count; i++)
		switch (run_fields[i].kind) {
		case RUN_TEXT: *text_of(config, i) = NULL; break;
		case RUN_INT: *int_of(config, i) = -1; break;
		case RUN_REAL: *real_of(config, i) = NAN; break;
		}
}

void run_config_free(struct run_config *config)
{
	for (int i = 0; i < RUN_FIELDS_MAX; i++)
		mem_free(config->owned[i]);
	memset(config, 0, sizeof(*config));
}

/* ---- what was not said ---- */

static void default_text(const char **value, const char *text)
{
	if (*value == NULL)
		*value = text;
}

static void default_int(int64_t *value, int64_t number)
{
	if (*value < 0)
		*value = number;
}

static void default_real(double *value, double number)
{
	if (isnan(*value))
		*value = number;
}

static void fill_in(struct run_config *c)
{
	default_text(&c->reg, "none");
	default_text(&c->task, "match");
	default_text(&c->preset, "full");
	default_text(&c->train_split, "train");
	default_text(&c->val_split, "val");
	default_text(&c->negatives, "all");
	default_text(&c->optimizer, "adamw");
	default_text(&c->schedule, "cosine");
	default_text(&c->precision, "fp32");
	default_text(&c->freeze, "none");
	default_text(&c->feature_cache, "on");
	default_text(&c->exif, "ignore");
	default_int(&c->max_len, 64);
	default_int(&c->batch_size, 32);
	default_int(&c->accumulate, 1);
	default_int(&c->seed, 0);
	default_int(&c->eval_every, 0);
	default_int(&c->checkpoint_every, 0);
	default_int(&c->threads, 0);
	default_int(&c->predictions, 0);
	default_real(&c->momentum, 0.9);
	default_real(&c->clip, 1.0);
	default_real(&c->lr, strcmp(c->optimizer, "sgd") == 0 ? 0.01 : 3e-4);
	if (c->steps < 0)
		default_int(&c->epochs, 10);
}

static int parse_negatives(const struct run_config *c, enum model_task task, int *out, struct err *err)
{
	int64_t count;

	if (strcmp(c->negatives, "all") == 0) {
		*out = NEGATIVES_ALL;
	} else {
		if (args_parse_int(c->negatives, 1, RUN_BATCH_MAX, &count, NULL) != 0)
			return err_set(err, ERR_USAGE, "--negatives: '%s' is neither 'all' nor a number from 1 on", c->negatives);
		*out = (int)count;
	}
	if (task != TASK_CLASSIFY && c->batch_size < 2)
		return err_set(err, ERR_USAGE,
			       "--batch-size 1 leaves %s without negatives, which come from the other captions of a batch; "
			       "use at least 2", task == TASK_MATCH ? "matching" : "contrast");
	if (task == TASK_CONTRAST && *out != NEGATIVES_ALL)
		return err_set(err, ERR_USAGE, "--negatives %s: --task contrast always compares with the whole batch; leave it out, and "
			       "choose --batch-size", c->negatives);
	return 0;
}

int run_exif_parse(const char *text, bool *apply, struct err *err)
{
	*apply = strcmp(text, "apply") == 0;
	if (!*apply && strcmp(text, "ignore") != 0)
		return err_set(err, ERR_USAGE, "--exif: '%s' is neither ignore nor apply", text);
	return 0;
}

static int parse_freeze(const struct run_config *c, struct run_plan *plan, struct err *err)
{
	bool cached = strcmp(c->feature_cache, "on") == 0;

	plan->freeze_image = strcmp(c->freeze, "image") == 0;
	plan->freeze_text = strcmp(c->freeze, "text") == 0;
	if (strcmp(c->freeze, "image,text") == 0 || strcmp(c->freeze, "text,image") == 0)
		plan->freeze_image = plan->freeze_text = true;
	else if (!plan->freeze_image && !plan->freeze_text && strcmp(c->freeze, "none") != 0)
		return err_set(err, ERR_USAGE, "--freeze: '%s' is no tower; choose image, text, image,text or none", c->freeze);
	if (!cached && strcmp(c->feature_cache, "off") != 0)
		return err_set(err, ERR_USAGE, "--feature-cache: '%s' is neither on nor off", c->feature_cache);
	plan->feature_cache = cached && (plan->freeze_image || plan->freeze_text);
	return 0;
}

/* What a frozen tower cannot take part in. */
static int check_freeze(const struct run_config *c, const struct run_plan *plan, struct err *err)
{
	if (plan->task == TASK_CONTRAST && plan->freeze_image && plan->freeze_text)
		return err_set(err, ERR_USAGE, "--freeze %s with --task contrast leaves nothing to train but a temperature; freeze one tower "
			       "at most", c->freeze);
	if (plan->freeze_text && plan->reg.adv.on && (plan->reg.adv.targets & ADV_TEXT))
		return err_set(err, ERR_USAGE, "--reg %s: a frozen text tower is not run in training, so word embeddings (target=text) cannot "
			       "be perturbed; use adv:target=feat, or freeze the image tower alone", c->reg);
	if (plan->freeze_image && plan->reg.adv.on && (plan->reg.adv.targets & ADV_PIXEL))
		return err_set(err, ERR_USAGE, "--reg %s: a frozen image tower is not run in training, so pictures (target=pixel) cannot be "
			       "perturbed; use adv:target=feat, or freeze the text tower alone", c->reg);
	if (plan->freeze_text && (plan->reg.dropout[DROP_BERT_HIDDEN].on || plan->reg.dropout[DROP_BERT_ATTENTION].on))
		return err_set(err, ERR_USAGE, "--reg %s: a frozen text tower runs without dropout; dropout:at=text drops its features", c->reg);
	if (plan->reg.depth.on && !((plan->reg.depth.places & DEPTH_IMAGE && !plan->freeze_image) ||
				    (plan->reg.depth.places & DEPTH_TEXT && !plan->freeze_text)))
		return err_set(err, ERR_USAGE, "--reg %s: frozen towers drop no branches", c->reg);
	return 0;
}

static int check_numbers(const struct run_config *c, struct err *err)
{
	if (c->steps == 0 || c->epochs == 0)
		return err_set(err, ERR_USAGE, "--%s 0 would train nothing", c->steps == 0 ? "steps" : "epochs");
	if (!(c->lr > 0))
		return err_set(err, ERR_USAGE, "--lr is above 0, so not %g", c->lr);
	if (!(c->momentum >= 0 && c->momentum < 1))
		return err_set(err, ERR_USAGE, "--momentum is at least 0 and below 1, so not %g", c->momentum);
	if (!(c->clip >= 0))
		return err_set(err, ERR_USAGE, "--clip is a norm, or 0 for no clipping, so not %g", c->clip);
	if (!isnan(c->bert_dropout) && !(c->bert_dropout >= 0 && c->bert_dropout < 1))
		return err_set(err, ERR_USAGE, "--bert-dropout is at least 0 and below 1, so not %g", c->bert_dropout);
	return 0;
}

static int check_reg(const struct run_config *c, const struct run_plan *plan, struct err *err)
{
	const struct reg_spec *reg = &plan->reg;

	if (reg->adv.on && reg->adv.method == ADV_FREE && c->accumulate > 1)
		return err_set(err, ERR_USAGE, "--reg %s: method=free updates the weights after every replay of a batch, so it needs "
			       "--accumulate 1", c->reg);
	if (reg->early.on && strcmp(c->val_split, "none") == 0)
		return err_set(err, ERR_USAGE, "--reg %s: early stopping needs a validation; name a split with --val-split", c->reg);
	return objective_check(reg, c->reg, plan->task, err);
}

int run_config_resolve(struct run_config *c, struct run_plan *plan, struct err *err)
{
	int code;

	*plan = (struct run_plan){ .validate_default = c->val_split == NULL };
	if (c->data == NULL)
		return err_set(err, ERR_USAGE, "--data NAME says what to train on; prepctl datasets lists what there is");
	if (c->steps >= 0 && c->epochs >= 0)
		return err_set(err, ERR_USAGE, "--epochs and --steps both say how long to train; give one of them");
	fill_in(c);
	if ((code = kernels_check_precision(c->precision, err)) != 0 ||
	    (code = reg_spec_parse(&plan->reg, c->reg, err)) != 0 || (code = model_task_parse(&plan->task, c->task, err)) != 0 ||
	    (code = schedule_kind_parse(&plan->schedule, c->schedule, err)) != 0 ||
	    (code = optimizer_kind_parse(&plan->optimizer, c->optimizer, err)) != 0 ||
	    (code = run_exif_parse(c->exif, &plan->exif_apply, err)) != 0 ||
	    (code = parse_negatives(c, plan->task, &plan->negatives, err)) != 0)
		return code;
	if ((code = check_reg(c, plan, err)) != 0 || (code = parse_freeze(c, plan, err)) != 0 || (code = check_freeze(c, plan, err)) != 0)
		return code;
	return check_numbers(c, err);
}

/* ---- the model ---- */

const char *run_config_text_path(const struct run_config *c, char beside[RUN_CONFIG_PATH_BYTES])
{
	if (c->text_config != NULL)
		return c->text_config;
	return c->text_weights != NULL && hf_config_beside(c->text_weights, beside, RUN_CONFIG_PATH_BYTES) ? beside : NULL;
}

/* The sizes in a config.json, where one is named or lies beside the weights. Dropout that was asked for stays. */
static int read_text_config(struct run_config *c, struct bert_config *text, struct err *err)
{
	char beside[RUN_CONFIG_PATH_BYTES];
	const char *path = run_config_text_path(c, beside);
	int code;

	if (path == NULL)
		return 0;
	if ((code = hf_config_read(text, path, err)) != 0)
		return path == beside ? err_prefix(err, "--text-weights (name another file with --text-config)") :
					err_prefix(err, "--text-config");
	if (isnan(c->bert_dropout))
		c->bert_dropout = text->dropout;
	else
		text->attention_dropout = -1;
	return 0;
}

static int record_text_encoder(struct run_config *c, const struct bert_config *text, struct err *err)
{
	char canonical[ENCODER_TEXT_BYTES];
	int field = run_field_index("text-encoder");
	char *copy = mem_strdup(text_encoder_text(text, canonical));

	if (copy == NULL)
		return err_nomem(err, sizeof(canonical));
	mem_free(c->owned[field]);
	c->text_encoder = c->owned[field] = copy;
	return 0;
}

int run_config_model(struct run_config *c, enum model_task task, bool recorded, struct model_config *out, struct err *err)
{
	struct bert_config *text = &out->text;
	int code;

	if ((code = model_preset(out, c->preset, c->image_size < 0 ? 0 : (int)c->image_size, err)) != 0 ||
	    (c->image_encoder != NULL && (code = image_encoder_set(&out->image, c->image_encoder, err)) != 0))
		return code;
	text->vocab_size = 0;
	if ((!recorded && (code = read_text_config(c, text, err)) != 0) ||
	    (c->text_encoder != NULL && (code = text_encoder_set(text, c->text_encoder, err)) != 0))
		return code;
	default_real(&c->bert_dropout, 0.1);
	text->dropout = c->bert_dropout;
	if (text->attention_dropout == text->dropout)
		text->attention_dropout = -1;
	out->task = task;
	c->image_size = out->image.image_size;
	return record_text_encoder(c, text, err);
}

/* ---- JSON ---- */

int run_config_write(const struct run_config *config, struct buf *out, struct err *err)
{
	int code = buf_add_byte(out, '{', err);

	for (int i = 0; code == 0 && i < run_field_count; i++) {
		const char *text;

		code = buf_printf(out, err, "%s\"%s\": ", i > 0 ? ", " : "", run_fields[i].name);
		if (code != 0)
			break;
		switch (run_fields[i].kind) {
		case RUN_TEXT:
			text = *text_of(config, i);
			code = text == NULL ? buf_add_text(out, "null", err) : json_add_string(out, text, strlen(text), err);
			break;
		case RUN_INT:
			code = *int_of(config, i) < 0 ? buf_add_text(out, "null", err) :
							buf_printf(out, err, "%lld", (long long)*int_of(config, i));
			break;
		case RUN_REAL:
			code = json_add_real(out, *real_of(config, i), err);
			break;
		}
	}
	return code != 0 ? code : buf_add_byte(out, '}', err);
}

static int read_value(struct run_config *config, int field, struct json_reader *reader, struct err *err)
{
	int code = json_next(reader, err);

	if (code != 0 || reader->kind == JSON_NULL)
		return code;
	switch (run_fields[field].kind) {
	case RUN_TEXT:
		if (reader->kind != JSON_STRING)
			return json_fail(reader, err, "the field %s is a text", run_fields[field].name);
		mem_free(config->owned[field]);
		config->owned[field] = mem_strndup(reader->text.data, reader->text.size);
		if (config->owned[field] == NULL)
			return err_nomem(err, reader->text.size);
		*text_of(config, field) = config->owned[field];
		return 0;
	case RUN_INT:
	case RUN_REAL:
		if (reader->kind != JSON_NUMBER)
			return json_fail(reader, err, "the field %s is a number", run_fields[field].name);
		return run_fields[field].kind == RUN_INT ? json_int(reader, int_of(config, field), err) :
							   json_real(reader, real_of(config, field), err);
	}
	return 0;
}

int run_config_read(struct run_config *config, struct json_reader *reader, struct err *err)
{
	int code = json_expect(reader, JSON_OBJECT_BEGIN, err);

	while (code == 0) {
		int field = -1;

		if ((code = json_next(reader, err)) != 0 || reader->kind == JSON_OBJECT_END)
			break;
		for (int i = 0; i < run_field_count; i++)
			if (strcmp(run_fields[i].name, reader->text.data) == 0)
				field = i;
		code = field < 0 ? json_skip(reader, err) : read_value(config, field, reader, err);
	}
	default_text(&config->exif, "ignore"); /* what a run did that knew no such option */
	return code;
}

/* ---- --resume ---- */

static bool same_text(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static bool same_reg(const char *a, const char *b)
{
	char one[REG_TEXT_BYTES], other[REG_TEXT_BYTES];
	struct reg_spec spec;

	/* A text that cannot be read is reported by run_config_resolve(). */
	if (a == NULL || b == NULL || reg_spec_parse(&spec, a, NULL) != 0)
		return same_text(a, b);
	reg_spec_text(&spec, one);
	if (reg_spec_parse(&spec, b, NULL) != 0)
		return false;
	reg_spec_text(&spec, other);
	return strcmp(one, other) == 0;
}

bool run_config_same_text_encoder(const char *again, const char *recorded)
{
	char one[ENCODER_TEXT_BYTES], other[ENCODER_TEXT_BYTES];
	struct bert_config config = { .attention_dropout = -1 };

	if (again == NULL || recorded == NULL || text_encoder_set(&config, recorded, NULL) != 0)
		return same_text(again, recorded);
	text_encoder_text(&config, one);
	return text_encoder_set(&config, again, NULL) == 0 && strcmp(text_encoder_text(&config, other), one) == 0;
}

static bool same_field(const struct run_config *a, const struct run_config *b, int field)
{
	switch (run_fields[field].kind) {
	case RUN_TEXT:
		if (strcmp(run_fields[field].name, "reg") == 0)
			return same_reg(*text_of(a, field), *text_of(b, field));
		if (strcmp(run_fields[field].name, "text-encoder") == 0)
			return run_config_same_text_encoder(*text_of(a, field), *text_of(b, field));
		return same_text(*text_of(a, field), *text_of(b, field));
	case RUN_INT:
		return *int_of(a, field) == *int_of(b, field);
	case RUN_REAL:
		return *real_of(a, field) == *real_of(b, field);
	}
	return false;
}

static void field_text(const struct run_config *config, int field, char *out, size_t bytes)
{
	switch (run_fields[field].kind) {
	case RUN_TEXT:
		snprintf(out, bytes, "%.200s", *text_of(config, field) == NULL ? "(none)" : *text_of(config, field));
		break;
	case RUN_INT:
		if (*int_of(config, field) < 0)
			snprintf(out, bytes, "(none)");
		else
			snprintf(out, bytes, "%lld", (long long)*int_of(config, field));
		break;
	case RUN_REAL:
		snprintf(out, bytes, "%.15g", *real_of(config, field)); /* a difference that was found must be seen */
		break;
	}
}

int run_config_adopt(struct run_config *config, const struct run_config *recorded, const bool given[RUN_FIELDS_MAX],
		     const char *where, struct err *err)
{
	for (int i = 0; i < run_field_count; i++) {
		char now[256], then[256];

		if (given[i] && !run_fields[i].free_to_change && !same_field(config, recorded, i)) {
			field_text(config, i, now, sizeof(now));
			field_text(recorded, i, then, sizeof(then));
			return err_set(err, ERR_MISMATCH,
				       "--%s %s: the run in %s was started with %s; leave the option out to go on with that run, "
				       "or choose another --out",
				       run_fields[i].name, now, where, then);
		}
		if (given[i] && run_fields[i].free_to_change)
			continue;
		switch (run_fields[i].kind) {
		case RUN_TEXT:
			if (*text_of(recorded, i) == NULL) {
				*text_of(config, i) = NULL;
				break;
			}
			mem_free(config->owned[i]);
			config->owned[i] = mem_strdup(*text_of(recorded, i));
			if (config->owned[i] == NULL)
				return err_nomem(err, strlen(*text_of(recorded, i)));
			*text_of(config, i) = config->owned[i];
			break;
		case RUN_INT: *int_of(config, i) = *int_of(recorded, i); break;
		case RUN_REAL: *real_of(config, i) = *real_of(recorded, i); break;
		}
	}
	return 0;
}
