/*
 * run.h - one training run, from its configuration to its last checkpoint.
 *
 * DIR holds run.json (configuration, versions, results), metrics.jsonl,
 * checkpoints/, last.safetensors, best.safetensors and TensorBoard event
 * files. One process at a time: a lock file says so.
 *
 * Interrupted (cancelled, killed, out of disk, daemon gone for good), a run is
 * continued with resume: the same batches, the same random draws, the same
 * bits as if nothing had happened.
 *
 * Threads:   one caller.
 * Format:    schemas/run.md.
 */
#ifndef TRAINER_TRAIN_RUN_H
#define TRAINER_TRAIN_RUN_H

#include "trainer/train/config.h"
#include "trainer/train/validate.h"

struct run_options {
	struct run_config config;       /* taken over and resolved by run_train() */
	bool given[RUN_FIELDS_MAX];     /* options that were on the command line */
	const char *out;                /* NULL: runs/DATA-REG-seedS */
	const char *socket;             /* --socket, or NULL */
	bool resume, dry_run, quiet;
	bool no_weights;                /* none are left at the end: the run's numbers alone are wanted */
	bool recompute;                 /* less memory, more time, the same bits */
	bool profile;                   /* measure where the time goes; DIR/profile.json */
	bool (*cancelled)(void *context); /* asked after every step and while waiting; may be NULL */
	void *cancel_context;
};

struct run_result {
	char dir[1024];
	uint64_t steps, epochs;
	double train_seconds;
	bool has_val, has_best;
	double accuracy, loss;            /* of the last validation */
	double best_accuracy, best_loss;
	uint64_t best_step;
	bool no_weights;                  /* none are left in dir */
	bool early, stopped_early;        /* early stopping: the result is the best; the run ended before its last step */
};

/* Trains to the end. ERR_CANCELLED: stopped on request after writing a checkpoint. */
MUST_USE int run_train(struct run_options *options, struct run_result *result, struct err *err);

/* ERR_FORMAT: too few labels to classify. */
MUST_USE int run_check_labels(const char *data, uint32_t labels, struct err *err);

#endif
