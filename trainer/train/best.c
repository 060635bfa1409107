#include "trainer/train/best.h"

#include "shared/base/mem.h"

struct best {
	const struct vector_ops *ops;
	size_t elements;         /* trained parameters and buffers */
	float *values, *swap;    /* (elements) */
	int64_t *counters, *swap_counters; /* (params->count) */
	struct checkpoint_progress progress;
	bool pending;
};

int best_open(struct best **out, const struct params *params, const struct vector_ops *ops, struct err *err)
{
	struct best *best = mem_zalloc(sizeof(*best));
	size_t elements = params->trained_elements + params->buffer_elements, bytes = 0;

	*out = NULL;
	if (best == NULL)
		return err_nomem(err, sizeof(*best));
	best->ops = ops;
	best->elements = elements;
	if (size_mul(elements + 1, sizeof(float), &bytes)) {
		best->values = mem_aligned(bytes);
		best->swap = mem_aligned(bytes);
	}
	best->counters = mem_array((size_t)params->count, sizeof(*best->counters));
	best->swap_counters = mem_array((size_t)params->count, sizeof(*best->swap_counters));
	if (best->values == NULL || best->swap == NULL || best->counters == NULL || best->swap_counters == NULL) {
		best_close(best);
		return err_nomem(err, 2 * bytes);
	}
	*out = best;
	return 0;
}

void best_close(struct best *best)
{
	if (best == NULL)
		return;
	mem_free(best->values);
	mem_free(best->swap);
	mem_free(best->counters);
	mem_free(best->swap_counters);
	mem_free(best);
}

static void copy_out(const struct best *best, const struct params *params, float *values, int64_t *counters)
{
	best->ops->copy(values, params->values, best->elements);
	for (int i = 0; i < params->count; i++)
		counters[i] = params->all[i].counter;
}

static void copy_in(const struct best *best, struct params *params, const float *values, const int64_t *counters)
{
	best->ops->copy(params->values, values, best->elements);
	for (int i = 0; i < params->count; i++)
		params->all[i].counter = counters[i];
}

void best_keep(struct best *best, const struct params *params, const struct checkpoint_progress *progress)
{
	copy_out(best, params, best->values, best->counters);
	best->progress = *progress;
	best->pending = true;
}

int best_write(struct best *best, const char *dir, struct params *params, uint64_t step, const struct checkpoint_about *about,
	       struct err *err)
{
	int code = 0;

	if (best->pending && best->progress.step != step) {
		copy_out(best, params, best->swap, best->swap_counters);
		copy_in(best, params, best->values, best->counters);
		code = checkpoint_write_best(dir, params, &best->progress, about, err);
		copy_in(best, params, best->swap, best->swap_counters);
	}
	best->pending = best->pending && code != 0;
	return code;
}
