/*
 * reg_step.h - one step of --reg on a batch file: gradients of the whole objective, and what was drawn.
 *
 * Tensors beside those of the plain probe (schemas/probe.md, "--reg"): values
 * of each term, perturbations, masks as the factors that elements were multiplied by.
 *
 * Threads: one caller. Ownership: opaque; model and batch are borrowed.
 */
#ifndef TRAINER_PROBE_REG_STEP_H
#define TRAINER_PROBE_REG_STEP_H

#include "shared/io/tensorfile.h"
#include "trainer/probe/batch_file.h"

struct reg_step;

MUST_USE int reg_step_open(struct reg_step **out, const char *text, enum model_task task, uint64_t seed, uint64_t step,
			   struct err *err);
void reg_step_close(struct reg_step *step); /* NULL is fine */
MUST_USE int reg_step_plan(struct reg_step *step, struct model *model, const struct model_limits *limits,
			   const struct batch_file *batch, struct err *err);
/* logits and the loss that is returned: of the clean pass. Gradients lie in the model. */
double reg_step_run(struct reg_step *step, enum model_mode mode, float *logits);
/* How many tensors there are at most; and they, after reg_step_run(). Names and data belong to step. */
int reg_step_tensors(const struct reg_step *step);
int reg_step_views(struct reg_step *step, struct tensor_view *out);

#endif
