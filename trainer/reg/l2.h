/*
 * l2.h - weight decay, decoupled or as a penalty in the loss.
 *
 * decoupled (the default): Loshchilov and Hutter, "Decoupled weight decay
 *   regularization", ICLR 2019. Each step multiplies a weight by 1 - lr*lambda
 *   before the optimizer moves it. Costs nothing: it is part of the update.
 * coupled: the textbook penalty lambda/2 * ||w||^2, whose gradient lambda*w is
 *   added to the loss gradient before clipping (the reported loss stays the
 *   task's alone). One pass over the weights a step. Under SGD the two are the
 *   same but for momentum; under Adam they are not: the penalty goes through
 *   the division by sqrt(v), so a weight whose loss gradient is small is pulled
 *   to zero at full rate whatever lambda is. lambda = 0.01, harmless when
 *   decoupled, can collapse a model that is still on its plateau.
 *
 * Default: lambda 0.01 (the original script's), matrices, kernels and embeddings only;
 * biases and the weights of batch norm and LayerNorm are left out unless on=all.
 *
 * Threads: one caller. Ownership: spans borrow nothing of params.
 */
#ifndef TRAINER_REG_L2_H
#define TRAINER_REG_L2_H

#include "trainer/kernels/vector_ops.h"
#include "trainer/nn/params.h"
#include "trainer/reg/spec.h"

/* A run of the parameter arena whose entries are all decayed, or all not.
 * Runs cover [0, trained_elements), padding included. */
struct decay_span {
	size_t at, count; /* elements */
	bool decayed;
};
struct decay_spans {
	struct decay_span *all;
	int count;
};

/* all: biases and norms too. */
MUST_USE int decay_spans_init(struct decay_spans *out, const struct params *params, bool all, struct err *err);
void decay_spans_free(struct decay_spans *spans);

/* Lambda of the kind in this epoch; 0: none. */
double reg_l2_decoupled(const struct reg_spec *spec, uint64_t epoch);
double reg_l2_coupled(const struct reg_spec *spec, uint64_t epoch);
/* grads += lambda * values on decayed spans. */
void reg_l2_add_gradient(const struct decay_spans *spans, double lambda, struct params *params, const struct vector_ops *ops);

#endif
