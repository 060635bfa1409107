/*
 * predictions.h - what a model said about each validation pair, and how well
 * its confidence fits (expected calibration error).
 *
 * ECE: Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural
 * networks", ICML 2017: pairs are put into 15 bins of equal width by the
 * probability of the class that the model chose; the error is the mean over pairs of
 * |share that is right - mean probability| of their bin.
 *
 * Threads:   one caller.
 * Ownership: predictions own their list; sized once.
 * Format:    schemas/study.md ("predictions.csv").
 */
#ifndef TRAINER_TRAIN_PREDICTIONS_H
#define TRAINER_TRAIN_PREDICTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/err.h"
#include "shared/base/hash.h"

enum { CALIBRATION_BINS = 15 };

struct calibration {
	uint64_t count[CALIBRATION_BINS], right[CALIBRATION_BINS];
	double confidence[CALIBRATION_BINS]; /* sums */
};
void calibration_add(struct calibration *calibration, double confidence, bool right);
/* NaN without a single pair. */
double calibration_error(const struct calibration *calibration);

struct prediction {
	uint64_t picture;  /* names the picture: id of its first sample in the part */
	uint64_t caption;  /* sample id */
	int32_t label;
	double p;          /* of class 1 for matching, of the true class for classification */
	bool correct;
};
struct predictions {
	struct prediction *all; /* (count) */
	size_t count, capacity;
};
MUST_USE int predictions_open(struct predictions *out, size_t most, struct err *err);
void predictions_close(struct predictions *predictions);
void predictions_add(struct predictions *predictions, const struct prediction *one); /* CHECKs the room */
/* SHA-256 over (picture, caption, label) of each, 8 bytes little-endian each: which pairs these are. */
MUST_USE int predictions_digest(const struct predictions *predictions, struct hash *out, struct err *err);
size_t predictions_pictures(const struct predictions *predictions); /* how many different ones */
MUST_USE int predictions_write(const struct predictions *predictions, const char *path, struct err *err);

/* One pair from its logits (classes): what the model chose (a tie is the lower class), how sure it was, and the
 * probability of a class. */
struct choice {
	int32_t chosen;
	double confidence, p;
};
struct choice choice_of(const float *logits, int classes, int32_t of);

#endif
