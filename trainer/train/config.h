/*
 * config.h - everything that decides what a run computes, by the names of the
 * options on the command line.
 *
 * One table describes the fields; options, run.json, checkpoint metadata and
 * the comparison on --resume are all made from it, so that none can be forgotten.
 *
 * Threads:   plain data.
 * Ownership: texts are borrowed from argv or owned by the config (those that
 *            run_config_read() made); run_config_free() frees the latter.
 * Format:    schemas/run.md ("config").
 */
#ifndef TRAINER_TRAIN_CONFIG_H
#define TRAINER_TRAIN_CONFIG_H

#include "shared/base/buf.h"
#include "shared/base/json.h"
#include "trainer/model/model.h"
#include "trainer/reg/spec.h"
#include "trainer/train/optimizer.h"
#include "trainer/train/schedule.h"

enum { RUN_FIELDS_MAX = 48, RUN_BATCH_MAX = 4096, RUN_ACCUMULATE_MAX = 4096, RUN_LEN_MAX = 512, RUN_IMAGE_MAX = 1024 };

/* -1 (or a NaN for reals, NULL for texts) means "not said": run_config_resolve() fills in. */
struct run_config {
	const char *data, *reg, *task, *preset, *vocab;
	const char *train_split, *val_split;
	const char *optimizer, *schedule, *precision;
	const char *image_encoder, *text_encoder, *text_config; /* text_encoder: canonical once the model is configured */
	const char *image_weights, *text_weights, *init;
	const char *freeze;      /* "image", "text", both with a comma, or "none" */
	const char *feature_cache; /* "on" or "off" */
	const char *exif;        /* "ignore" or "apply" */
	const char *negatives;   /* a number or "all" */
	int64_t image_size, batch_size, epochs, steps, seed, max_len;
	int64_t warmup, accumulate, eval_every, checkpoint_every, threads;
	int64_t predictions; /* 1: outcome.h at the end */
	double lr, momentum, clip, bert_dropout;
	char *owned[RUN_FIELDS_MAX]; /* texts to free */
};

enum run_field_kind { RUN_TEXT, RUN_INT, RUN_REAL };

struct run_field {
	const char *name;   /* of the option, without dashes */
	enum run_field_kind kind;
	size_t offset;      /* in struct run_config */
	bool free_to_change; /* on --resume: has no influence on what is computed */
};
extern const struct run_field run_fields[];
extern const int run_field_count;
/* Index of the field of that name. CHECKs that there is one. */
int run_field_index(const char *name);
void *run_field_value(const struct run_config *config, int field);

/* What a checked config means. */
struct run_plan {
	struct reg_spec reg;
	enum model_task task;
	enum schedule_kind schedule;
	enum optimizer_kind optimizer;
	bool freeze_image, freeze_text;
	bool feature_cache;
	bool exif_apply;
	int negatives;      /* NEGATIVES_ALL or a count */
	bool validate_default; /* nobody named the split: its absence is no error */
};

/* The value of --exif. */
MUST_USE int run_exif_parse(const char *text, bool *apply, struct err *err);

void run_config_init(struct run_config *config);
void run_config_free(struct run_config *config);
/* Checks every value and fills in what was not said, except what depends on
 * the data (warmup). ERR_USAGE names the option. */
MUST_USE int run_config_resolve(struct run_config *config, struct run_plan *plan, struct err *err);

/* The model that a resolved config describes; classes depend on the data, and
 * so does text.vocab_size where it is 0. The text tower's sizes are the
 * preset's, or those of text-config (else of the config.json beside
 * text-weights), changed by text-encoder. What comes out is put into
 * text_encoder and bert_dropout, so that a record is enough to build the model
 * again: with `recorded`, no file is looked at. ERR_USAGE names the option. */
MUST_USE int run_config_model(struct run_config *config, enum model_task task, bool recorded, struct model_config *out,
			      struct err *err);

/* The config.json that a run without a record takes its text tower's sizes from; NULL: none. Borrowed, or in `beside`. */
enum { RUN_CONFIG_PATH_BYTES = 4096 };
const char *run_config_text_path(const struct run_config *config, char beside[RUN_CONFIG_PATH_BYTES]);

/* The JSON object of all fields. */
MUST_USE int run_config_write(const struct run_config *config, struct buf *out, struct err *err);
/* From such an object; the reader stands before its '{'. Unknown fields are skipped. */
MUST_USE int run_config_read(struct run_config *config, struct json_reader *reader, struct err *err);

/* Whether sizes of the BERT that are named again, some or all of them, change nothing of those recorded. */
bool run_config_same_text_encoder(const char *again, const char *recorded);

/* For --resume: every field that `given` marks must be the recorded one (ERR_MISMATCH
 * names the option and both values), apart from those that are free to change, which
 * are taken over; all others become the recorded ones. */
MUST_USE int run_config_adopt(struct run_config *config, const struct run_config *recorded, const bool given[RUN_FIELDS_MAX],
			      const char *where, struct err *err);

#endif
