#include "trainer/reg/l2.h"

#include "shared/base/mem.h"

/* A single number, which only the temperature of contrast is, never decays: 0 would be a temperature, not the lack of one. */
static bool is_decayed(const struct param *param, bool all)
{
	return (all && param->rank > 0) || param->kind == PARAM_WEIGHT || param->kind == PARAM_EMBEDDING;
}

int decay_spans_init(struct decay_spans *out, const struct params *params, bool all, struct err *err)
{
	struct decay_span *spans = mem_array((size_t)params->count + 1, sizeof(*spans));
	int count = 0;

	*out = (struct decay_spans){ 0 };
	if (spans == NULL)
		return err_nomem(err, (size_t)params->count * sizeof(*spans));
	for (int i = 0; i < params->count; i++) {
		const struct param *param = &params->all[i];
		bool decayed = is_decayed(param, all);

		if (param->grad == NULL || param->count == 0)
			continue;
		if (count > 0 && spans[count - 1].decayed == decayed)
			continue;
		spans[count].at = count == 0 ? 0 : param->at;
		spans[count].decayed = decayed;
		count++;
	}
	for (int i = 0; i < count; i++) {
		size_t end = i + 1 < count ? spans[i + 1].at : params->trained_elements;

		CHECK(end > spans[i].at && end <= params->trained_elements);
		spans[i].count = end - spans[i].at;
	}
	out->all = spans;
	out->count = count;
	return 0;
}

void decay_spans_free(struct decay_spans *spans)
{
	mem_free(spans->all);
	*spans = (struct decay_spans){ 0 };
}

static bool active(const struct reg_spec *spec, uint64_t epoch, int mode)
{
	return reg_active(spec->l2.on, spec->l2.when, epoch) && spec->l2.mode == mode;
}

double reg_l2_decoupled(const struct reg_spec *spec, uint64_t epoch)
{
	return active(spec, epoch, L2_DECOUPLED) ? spec->l2.lambda : 0.0;
}

double reg_l2_coupled(const struct reg_spec *spec, uint64_t epoch)
{
	return active(spec, epoch, L2_COUPLED) ? spec->l2.lambda : 0.0;
}

void reg_l2_add_gradient(const struct decay_spans *spans, double lambda, struct params *params, const struct vector_ops *ops)
{
	for (int i = 0; lambda > 0 && i < spans->count; i++)
		if (spans->all[i].decayed)
			ops->axpy(params->grads + spans->all[i].at, params->values + spans->all[i].at, spans->all[i].count,
				  (float)lambda);
}
