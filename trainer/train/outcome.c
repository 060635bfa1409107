#include "trainer/train/outcome.h"

#include <stdio.h>
#include <string.h>

#include "shared/base/log.h"

int outcome_weights_digest(const struct params *params, struct hash *out, struct err *err)
{
	struct hash_stream *stream;
	int code = hash_stream_open(&stream, err);

	for (int i = 0; code == 0 && i < params->count; i++) {
		const struct param *p = &params->all[i];

		hash_stream_add_field(stream, p->name, strlen(p->name));
		hash_stream_add_u64(stream, p->value != NULL ? hash_checksum(p->value, p->count * sizeof(*p->value)) : 0);
		hash_stream_add_u64(stream, (uint64_t)p->counter);
	}
	if (code == 0)
		hash_stream_final(stream, out);
	return code;
}

static int measure_part(struct session *s, const struct part *part, struct predictions *predictions, struct validation *out,
			struct err *err)
{
	struct validator *validator = NULL;
	int code = validator_open(&validator, s->model, &s->limits, s->ops, part->pictures, part->captions,
				  (uint32_t)s->config.batch_size, err);

	if (code == 0) {
		validator_keep(validator, predictions);
		code = loop_validate(s, validator, part, out, err);
	}
	validator_close(validator);
	return code;
}

static int measure_val(struct session *s, struct err *err)
{
	struct outcome *o = &s->outcome;
	struct predictions predictions;
	char path[SESSION_PATH_BYTES + 32];
	int code;

	/* Ranks are no predictions of pairs, but they too are of every picture. */
	if (s->plan.task == TASK_CONTRAST) {
		o->pictures = s->val.pictures;
		log_info("no predictions.csv: a contrast model ranks and decides nothing");
		return measure_part(s, &s->val, NULL, &o->val, err);
	}
	code = predictions_open(&predictions, 2 * (size_t)s->val.captions, err);

	snprintf(path, sizeof(path), "%s/predictions.csv", s->dir);
	if (code == 0 && (code = measure_part(s, &s->val, &predictions, &o->val, err)) == 0 &&
	    (code = predictions_digest(&predictions, &o->pairs_digest, err)) == 0) {
		o->pictures = predictions_pictures(&predictions);
		code = predictions_write(&predictions, path, err);
	}
	predictions_close(&predictions);
	return code;
}

/* A picture without a label is no picture that was trained on. */
static int measure_train(struct session *s, struct err *err)
{
	struct outcome *o = &s->outcome;
	struct predictions labelled;
	int code;

	o->train_pictures = s->train.pictures;
	if (s->plan.task != TASK_CLASSIFY)
		return measure_part(s, &s->train, NULL, &o->train, err);
	if ((code = predictions_open(&labelled, s->train.captions, err)) == 0 &&
	    (code = measure_part(s, &s->train, &labelled, &o->train, err)) == 0)
		o->train_pictures = predictions_pictures(&labelled);
	predictions_close(&labelled);
	return code;
}

int outcome_measure(struct session *s, struct err *err)
{
	int code;

	if (s->validates && (code = measure_val(s, err)) != 0)
		return code;
	if ((code = measure_train(s, err)) != 0)
		return err_prefix(err, "accuracy on training pairs");
	s->outcome.measured = true;
	return 0;
}
