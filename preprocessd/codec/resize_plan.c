#include "preprocessd/codec/resize_plan.h"

#include <math.h>
#include <string.h>

#include "shared/base/mem.h"

static int reserve(struct resize_plan *plan, size_t targets, size_t weights, struct err *err)
{
	void *p;

	if (targets > plan->targets_capacity) {
		plan->targets_capacity = 0;
		if ((p = mem_realloc_array(plan->first, targets, sizeof(*plan->first))) == NULL)
			return err_nomem(err, targets * sizeof(*plan->first));
		plan->first = p;
		if ((p = mem_realloc_array(plan->count, targets, sizeof(*plan->count))) == NULL)
			return err_nomem(err, targets * sizeof(*plan->count));
		plan->count = p;
		plan->targets_capacity = targets;
	}
	if (weights > plan->weights_capacity) {
		plan->weights_capacity = 0;
		if ((p = mem_realloc_array(plan->weight, weights, sizeof(*plan->weight))) == NULL)
			return err_nomem(err, weights * sizeof(*plan->weight));
		plan->weight = p;
		plan->weights_capacity = weights;
	}
	return 0;
}

static double triangle(double x)
{
	if (x < 0.0)
		x = -x;
	return x < 1.0 ? 1.0 - x : 0.0;
}

/* The geometry that all outputs of an axis share. */
struct axis {
	double scale;   /* source pixels per output pixel */
	double stretch; /* the filter is widened by this, never narrowed */
	double support;
};

static void window(const struct axis *axis, int32_t source, uint32_t output, double *center, int32_t *first, int32_t *end)
{
	*center = ((double)output + 0.5) * axis->scale;
	/* Rounded by truncation, so a start left of -0.5 is caught by its sign. */
	*first = (int32_t)(*center - axis->support + 0.5);
	if (*first < 0)
		*first = 0;
	*end = (int32_t)(*center + axis->support + 0.5);
	if (*end > source)
		*end = source;
}

/* Weights of one window, rounded to fixed point; needs two passes over the
 * filter, because Pillow divides by the sum before it rounds. */
static void weigh(const struct axis *axis, double center, int32_t first, int32_t count, bool flip, int32_t *weight)
{
	double inverse = 1.0 / axis->stretch;
	double sum = 0.0;

	for (int32_t i = 0; i < count; i++)
		sum += triangle(((double)(i + first) - center + 0.5) * inverse);
	for (int32_t i = 0; i < count; i++) {
		double w = triangle(((double)(i + first) - center + 0.5) * inverse);

		if (sum != 0.0)
			w /= sum;
		weight[flip ? count - 1 - i : i] = (int32_t)(0.5 + w * (double)(1 << RESIZE_PRECISION_BITS));
	}
}

int resize_plan_build(struct resize_plan *plan, uint32_t source, uint32_t target, bool flip, struct err *err)
{
	struct axis axis = { .scale = (double)source / target };
	size_t weights;
	int code;

	CHECK(source > 0 && source <= RESIZE_SOURCE_MAX && target > 0 && target <= RESIZE_TARGET_MAX);
	axis.stretch = axis.scale < 1.0 ? 1.0 : axis.scale;
	axis.support = axis.stretch;
	plan->source = 0; /* not usable until it is whole */
	plan->taps_max = source == target ? 1 : 0;
	for (uint32_t i = 0; i < target && source != target; i++) {
		double center;
		int32_t first, end;

		window(&axis, (int32_t)source, i, &center, &first, &end);
		if (end - first > plan->taps_max)
			plan->taps_max = end - first;
	}
	CHECK(size_mul(target, (size_t)plan->taps_max, &weights));
	if ((code = reserve(plan, target, weights, err)) != 0)
		return code;
	memset(plan->weight, 0, weights * sizeof(*plan->weight));
	for (uint32_t i = 0; i < target; i++) {
		int32_t *weight = plan->weight + (size_t)i * (size_t)plan->taps_max;
		int32_t first = (int32_t)i, end = first + 1;
		double center;

		if (source == target) {
			weight[0] = 1 << RESIZE_PRECISION_BITS;
		} else {
			window(&axis, (int32_t)source, i, &center, &first, &end);
			weigh(&axis, center, first, end - first, flip, weight);
		}
		plan->first[i] = flip ? (int32_t)source - end : first;
		plan->count[i] = end - first;
	}
	plan->source = source;
	plan->target = target;
	plan->flip = flip;
	plan->identity = source == target && !flip;
	return 0;
}

void resize_plan_free(struct resize_plan *plan)
{
	mem_free(plan->first);
	mem_free(plan->count);
	mem_free(plan->weight);
	*plan = (struct resize_plan){ 0 };
}
