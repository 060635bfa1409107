/*
 * profile.h - where the time of a step goes: per kind of operation and per part of the step.
 *
 * Two clocks are read around each operation of the kernel table, so every
 * moment of a step belongs to exactly one kind (or to none: "other") and to
 * exactly one part, and both sum up to the step. Nothing else is sampled or
 * estimated; arithmetic and bytes are counted from shapes (schemas/run.md,
 * "profile.json").
 *
 * Turned on before the first kernels_fast(), that function gives a table of
 * wrappers (profile_ops.c, profile_reg_ops.c). Turned off, kernels are called directly: no cost.
 *
 * Adding an operation to a kernel table: give it a wrapper in profile_ops.c or profile_reg_ops.c, or its time is "other"
 * (tests/unit/test_profile.c knows which ones do without).
 *
 * Threads: one caller, that of the kernels.
 */
#ifndef TRAINER_KERNELS_PROFILE_H
#define TRAINER_KERNELS_PROFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kernels;

enum profile_kind {
	KIND_CONV_FORWARD, KIND_CONV_DATA, KIND_CONV_WEIGHTS,
	KIND_BN_STATS, KIND_BN_FORWARD, KIND_BN_SUMS, KIND_BN_BACKWARD,
	KIND_POOL, KIND_LAYOUT,
	KIND_LINEAR_FORWARD, KIND_LINEAR_DATA, KIND_LINEAR_WEIGHTS, KIND_BIAS_GRADIENT,
	KIND_ATTENTION_FORWARD, KIND_ATTENTION_BACKWARD,
	KIND_NORM_FORWARD, KIND_NORM_BACKWARD,
	KIND_GELU_FORWARD, KIND_GELU_BACKWARD,
	KIND_EMBEDDING, KIND_PAIRS, KIND_LOSS,
	KIND_PERTURB, KIND_COPY, KIND_CLEAR, KIND_GRAD_NORM, KIND_OPTIMIZER,
	KIND_DATA_WAIT, KIND_CHOOSE,
	KIND_OTHER, /* of a step: no operation at all */
	PROFILE_KINDS
};

/* What the step is doing. The regularizer's part takes in the model's parts that it runs again. */
enum profile_part {
	PART_OTHER, PART_DATA, PART_IMAGE_FORWARD, PART_IMAGE_BACKWARD, PART_TEXT_FORWARD, PART_TEXT_BACKWARD, PART_FUSION,
	PART_REGULARIZER, PART_OPTIMIZER,
	PROFILE_PARTS
};

struct profile_cell {
	double seconds, flops, bytes;
	uint64_t calls;
};

enum { PROFILE_SHAPES_MAX = 512, PROFILE_SHAPE_NUMBERS = 6 };

/* Convolutions: pictures, in, out, kernel, stride, height. Products: rows, in, out. */
struct profile_shape {
	enum profile_kind kind;
	int number[PROFILE_SHAPE_NUMBERS];
	struct profile_cell cell;
};

struct profile {
	struct profile_cell cell[PROFILE_PARTS][PROFILE_KINDS]; /* sums over the steps; KIND_OTHER has seconds alone */
	double seconds;         /* of the steps */
	uint64_t steps;
	double first_seconds;   /* of the first step, which is left out as soon as there is a second; 0: not left out */
	struct profile_shape shapes[PROFILE_SHAPES_MAX];
	int shape_count;        /* what has no place any more is counted in cell alone */
};

/* Before the first kernels_fast(). */
void profile_turn_on(void);
bool profile_is_on(void);
const struct profile *profile_result(void);
const char *profile_kind_name(enum profile_kind kind);
const char *profile_part_name(enum profile_part part);

/* A step: only what runs between the two is counted. */
void profile_step_begin(void);
void profile_step_end(bool whole); /* false: the step was given up, forget it */

/* Time belongs to `part` until profile_leave() of what this returned. */
enum profile_part profile_enter(enum profile_part part);
void profile_leave(enum profile_part before);

/* What waits for something else than a kernel. */
uint64_t profile_begin(void);
void profile_end(uint64_t began, enum profile_kind kind);

/* For the wrappers. numbers NULL: no shape. */
void profile_count(uint64_t began, enum profile_kind kind, double flops, double bytes, const int *numbers);
/* The same table with clocks around it. */
const struct kernels *profile_wrap(const struct kernels *inner);

#endif
