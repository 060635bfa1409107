/*
 * draws.h - what a step drew at random, as tensors for `trainer probe --reg`.
 *
 * Masks are worked out here by name, element by element, from the definition in
 * kernels/dropout.h. Sizes are those of a probe's batch, so plain loops do.
 *
 * Threads: one caller. Ownership: draws_free() frees what draws_fill() took; memory
 * that cannot be had leaves a tensor out.
 * Format: schemas/probe.md.
 */
#ifndef TRAINER_PROBE_DRAWS_H
#define TRAINER_PROBE_DRAWS_H

#include "shared/io/tensorfile.h"
#include "trainer/reg/objective.h"

enum { DRAWS_MAX = 512, DRAW_NAME_BYTES = 64 };

struct draws {
	struct tensor_view views[DRAWS_MAX];
	char names[DRAWS_MAX][DRAW_NAME_BYTES];
	void *memory[DRAWS_MAX];
	int count;
};

/* objective_start_again() is called: the last perturbation is gone afterwards. */
void draws_fill(struct draws *draws, const struct reg_spec *spec, struct objective *objective, const struct stages *stages);
void draws_free(struct draws *draws);

#endif
