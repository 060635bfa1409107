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

#include "shared/base/hash.h"

struct metrics;

struct metrics_train {
	uint64_t step, epoch;
	double loss, accuracy, pairs_per_s, data_wait_s;
	double lr, grad_norm;
	uint32_t samples;
	/* adversary; written when adv is set */
	int adv;
	double adv_loss, delta_over_embedding, delta_over_feature, adv_cost;
	struct hash digest; /* of the chain up to and including this step */
};

struct metrics_val {
	uint64_t step, epoch;
	double loss, accuracy, pairs_per_s, data_wait_s, seconds;
	uint64_t pairs;
	struct hash digest; /* of the chain of the validation batches */
	int best;
};

/* Opens for appending after cutting the file: lines are kept as long as they
 * are whole and belong to optimizer steps before next_step; of a validation
 * at the last of those steps only when keep_last_val. */
MUST_USE int metrics_open(struct metrics **out, const char *path, uint64_t next_step, int keep_last_val, struct err *err);
void metrics_close(struct metrics *metrics); /* NULL is fine */
MUST_USE int metrics_add_train(struct metrics *metrics, const struct metrics_train *line, struct err *err);
MUST_USE int metrics_add_val(struct metrics *metrics, const struct metrics_val *line, struct err *err);
/* Makes all lines so far durable. */
MUST_USE int metrics_sync(struct metrics *metrics, struct err *err);

/* How many leading bytes of a file's content metrics_open() keeps. */
size_t metrics_keep_bytes(const char *data, size_t size, uint64_t next_step, int keep_last_val);

#endif
