#include "trainer/kernels/profile.h"

#include <string.h>

#include "shared/base/check.h"
#include "shared/base/clock.h"

static struct {
	bool on, in_step;
	uint64_t step_began;
	enum profile_part part;
	uint64_t part_began;
	double part_seconds[PROFILE_PARTS]; /* of the running step */
	struct profile sum, step;           /* whole steps; the running one */
} state;

static const char *const kind_names[PROFILE_KINDS] = {
	[KIND_CONV_FORWARD] = "convolution forward",
	[KIND_CONV_DATA] = "convolution input gradient",
	[KIND_CONV_WEIGHTS] = "convolution weight gradient",
	[KIND_BN_STATS] = "batch norm statistics",
	[KIND_BN_FORWARD] = "batch norm, add, ReLU",
	[KIND_BN_SUMS] = "batch norm, ReLU backward sums",
	[KIND_BN_BACKWARD] = "batch norm, ReLU backward",
	[KIND_POOL] = "pooling",
	[KIND_LAYOUT] = "pixel layout",
	[KIND_LINEAR_FORWARD] = "matrix product forward",
	[KIND_LINEAR_DATA] = "matrix product input gradient",
	[KIND_LINEAR_WEIGHTS] = "matrix product weight gradient",
	[KIND_BIAS_GRADIENT] = "bias gradient",
	[KIND_ATTENTION_FORWARD] = "attention forward",
	[KIND_ATTENTION_BACKWARD] = "attention backward",
	[KIND_NORM_FORWARD] = "dropout, add, LayerNorm",
	[KIND_NORM_BACKWARD] = "dropout, LayerNorm backward",
	[KIND_GELU_FORWARD] = "GELU forward",
	[KIND_GELU_BACKWARD] = "GELU backward",
	[KIND_EMBEDDING] = "embedding",
	[KIND_PAIRS] = "pairs of features",
	[KIND_LOSS] = "loss",
	[KIND_PERTURB] = "perturbation, penalty",
	[KIND_COPY] = "copy",
	[KIND_CLEAR] = "clear gradients",
	[KIND_GRAD_NORM] = "gradient norm",
	[KIND_OPTIMIZER] = "optimizer",
	[KIND_DATA_WAIT] = "data from the daemon",
	[KIND_CHOOSE] = "choosing pairs",
	[KIND_OTHER] = "other",
};

static const char *const part_names[PROFILE_PARTS] = {
	[PART_OTHER] = "other",
	[PART_DATA] = "data",
	[PART_IMAGE_FORWARD] = "image tower forward",
	[PART_IMAGE_BACKWARD] = "image tower backward",
	[PART_TEXT_FORWARD] = "text tower forward",
	[PART_TEXT_BACKWARD] = "text tower backward",
	[PART_FUSION] = "fusion and loss",
	[PART_REGULARIZER] = "regularizer",
	[PART_OPTIMIZER] = "optimizer",
};

void profile_turn_on(void)
{
	state.on = true;
}

bool profile_is_on(void)
{
	return state.on;
}

const struct profile *profile_result(void)
{
	return &state.sum;
}

const char *profile_kind_name(enum profile_kind kind)
{
	return kind_names[kind];
}

const char *profile_part_name(enum profile_part part)
{
	return part_names[part];
}

void profile_step_begin(void)
{
	if (!state.on)
		return;
	CHECK(!state.in_step);
	memset(&state.step, 0, sizeof(state.step));
	memset(state.part_seconds, 0, sizeof(state.part_seconds));
	state.part = PART_OTHER;
	state.in_step = true;
	state.step_began = state.part_began = clock_ns();
}

static void switch_part(enum profile_part part)
{
	uint64_t now = clock_ns();

	state.part_seconds[state.part] += (double)(now - state.part_began) * 1e-9;
	state.part_began = now;
	state.part = part;
}

static void add_cell(struct profile_cell *to, const struct profile_cell *from)
{
	to->seconds += from->seconds;
	to->flops += from->flops;
	to->bytes += from->bytes;
	to->calls += from->calls;
}

static struct profile_cell *shape_cell(struct profile *profile, enum profile_kind kind, const int *numbers)
{
	struct profile_shape *shape;

	for (int i = 0; i < profile->shape_count; i++) {
		shape = &profile->shapes[i];
		if (shape->kind == kind && memcmp(shape->number, numbers, sizeof(shape->number)) == 0)
			return &shape->cell;
	}
	if (profile->shape_count == PROFILE_SHAPES_MAX)
		return NULL;
	shape = &profile->shapes[profile->shape_count++];
	*shape = (struct profile_shape){ .kind = kind };
	memcpy(shape->number, numbers, sizeof(shape->number));
	return &shape->cell;
}

static void add_step(void)
{
	struct profile *sum = &state.sum;

	for (int p = 0; p < PROFILE_PARTS; p++)
		for (int k = 0; k < PROFILE_KINDS; k++)
			add_cell(&sum->cell[p][k], &state.step.cell[p][k]);
	for (int i = 0; i < state.step.shape_count; i++) {
		const struct profile_shape *shape = &state.step.shapes[i];
		struct profile_cell *cell = shape_cell(sum, shape->kind, shape->number);

		if (cell != NULL)
			add_cell(cell, &shape->cell);
	}
	sum->seconds += state.step.seconds;
	sum->steps++;
}

void profile_step_end(bool whole)
{
	if (!state.on || !state.in_step)
		return;
	switch_part(PART_OTHER);
	state.in_step = false;
	if (!whole)
		return;
	state.step.seconds = (double)(state.part_began - state.step_began) * 1e-9;
	for (int p = 0; p < PROFILE_PARTS; p++) {
		double counted = 0;

		for (int k = 0; k < KIND_OTHER; k++)
			counted += state.step.cell[p][k].seconds;
		state.step.cell[p][KIND_OTHER].seconds = state.part_seconds[p] - counted;
	}
	/* The first step touches its memory for the first time, and is no measure for the others. */
	if (state.sum.steps == 1 && state.sum.first_seconds == 0) {
		double first = state.sum.seconds;

		memset(&state.sum, 0, sizeof(state.sum));
		state.sum.first_seconds = first;
	}
	add_step();
}

enum profile_part profile_enter(enum profile_part part)
{
	enum profile_part before = state.part;

	if (state.in_step && before != PART_REGULARIZER)
		switch_part(part);
	return before;
}

void profile_leave(enum profile_part before)
{
	if (state.in_step && state.part != before)
		switch_part(before);
}

uint64_t profile_begin(void)
{
	return state.in_step ? clock_ns() : 0;
}

void profile_end(uint64_t began, enum profile_kind kind)
{
	profile_count(began, kind, 0, 0, NULL);
}

void profile_count(uint64_t began, enum profile_kind kind, double flops, double bytes, const int *numbers)
{
	struct profile_cell one, *shape;

	if (!state.in_step)
		return;
	one = (struct profile_cell){ (double)(clock_ns() - began) * 1e-9, flops, bytes, 1 };
	add_cell(&state.step.cell[state.part][kind], &one);
	shape = numbers != NULL ? shape_cell(&state.step, kind, numbers) : NULL;
	if (shape != NULL)
		add_cell(shape, &one);
}
