/*
 * metrics.h - DIR/metrics.jsonl: one JSON object a line, appended as training goes.
 *
 * Threads:   one caller.
 * Ownership: opaque; lines are written at once with one write(2) each, so
 *            after a SIGKILL at most the last line is cut short.
 * Format:    schemas/run.md ("metrics.jsonl").
 */
#ifndef TRAINER_TRAIN_METRICS_H
#define TRAINER_TRAIN_METRICS_H

#include <stdint.h>

#include "shared/base/buf.h"
#include "shared/base/hash.h"

struct metrics;

struct metrics_train {
	uint64_t step, epoch;
	double loss, accuracy, pairs_per_s, data_wait_s;
	double lr, grad_norm;
	uint32_t samples;
	/* regularizers; each group is written where its flag is set */
	int objective_on, rdrop, sam, adv, adv_kl_on;
	unsigned targets;   /* of adv */
	double objective;   /* what is minimized, without l2 */
	double rdrop_kl, sam_loss;
	double adv_loss, adv_kl, adv_cost;
	double ratio[4];    /* ||delta|| / ||x||: text, feat, fused, pixel; the last two only where they are targets */
	struct hash digest; /* of the chain up to and including this step */
};

struct metrics_val {
	uint64_t step, epoch;
	double loss, accuracy, pairs_per_s, data_wait_s, seconds;
	uint64_t pairs;
	/* contrast, at 1, 5 and 10; written when recalls is set */
	int recalls;
	double image_to_text[3], text_to_image[3];
	struct hash digest; /* of the chain of the validation batches */
	int best;
};

/* Opens for appending after cutting the file: whole lines of optimizer steps
 * before next_step are kept; of a validation at the last of those steps only
 * when keep_last_val. A warning says how many steps have lost their line. */
MUST_USE int metrics_open(struct metrics **out, const char *path, uint64_t next_step, int keep_last_val, struct err *err);
void metrics_close(struct metrics *metrics); /* NULL is fine */
MUST_USE int metrics_add_train(struct metrics *metrics, const struct metrics_train *line, struct err *err);
MUST_USE int metrics_add_val(struct metrics *metrics, const struct metrics_val *line, struct err *err);
/* Makes all lines so far durable. */
MUST_USE int metrics_sync(struct metrics *metrics, struct err *err);

struct metrics_kept {
	bool prefix;          /* what is kept is how the content begins */
	uint64_t train_lines; /* among it */
};
/* Appends to kept the lines of a file's content that metrics_open() keeps. */
MUST_USE int metrics_keep(const char *data, size_t size, uint64_t next_step, int keep_last_val, struct buf *kept,
			  struct metrics_kept *report, struct err *err);

#endif
