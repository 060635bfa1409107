#include "trainer/reg/sam.h"

#include <math.h>
#include <string.h>

#include "shared/base/mem.h"

static const double eta = 0.01, norm_min = 1e-30;

struct sam {
	const struct reg_sam *spec;
	struct params *params;
	float *values; /* (trained_elements) w */
	float *grads;  /* (trained_elements) of earlier micro-batches, or NULL */
};

int sam_open(struct sam **out, const struct reg_sam *spec, struct params *params, bool accumulates, struct err *err)
{
	struct sam *sam = mem_zalloc(sizeof(*sam));

	*out = NULL;
	if (sam == NULL)
		return err_nomem(err, sizeof(*sam));
	sam->spec = spec;
	sam->params = params;
	sam->values = model_alloc(params->trained_elements);
	sam->grads = accumulates ? model_alloc(params->trained_elements) : NULL;
	if (sam->values == NULL || (accumulates && sam->grads == NULL)) {
		sam_close(sam);
		return err_nomem(err, params->trained_elements * sizeof(float));
	}
	*out = sam;
	return 0;
}

void sam_close(struct sam *sam)
{
	if (sam == NULL)
		return;
	model_release(sam->values);
	model_release(sam->grads);
	mem_free(sam);
}

static bool is_scaled(const struct param *param)
{
	const char *dot = strrchr(param->name, '.');

	return dot != NULL && strcmp(dot, ".weight") == 0;
}

/* w += e of ASAM, tensor by tensor. */
static void move_adaptively(const struct sam *sam)
{
	const struct kernels *k = kernels_fast();
	struct params *params = sam->params;
	double squares = 0;

	for (int i = 0; i < params->count; i++) {
		const struct param *p = &params->all[i];

		if (p->grad != NULL)
			squares += is_scaled(p) ? k->reg->asam_squares(p->value, p->grad, p->count, eta) :
						  k->vector->sum_squares(p->grad, p->count);
	}
	double factor = sqrt(squares) > norm_min ? sam->spec->rho / sqrt(squares) : 0.0;
	for (int i = 0; i < params->count; i++) {
		struct param *p = &params->all[i];

		if (p->grad == NULL)
			continue;
		if (is_scaled(p))
			k->reg->asam_move(p->value, p->grad, p->count, eta, factor);
		else
			k->vector->axpy(p->value, p->grad, p->count, (float)factor);
	}
}

static void climb(const struct sam *sam)
{
	const struct vector_ops *ops = kernels_fast()->vector;
	struct params *params = sam->params;
	size_t n = params->trained_elements;

	ops->copy(sam->values, params->values, n);
	if (sam->spec->mode == SAM_ADAPTIVE) {
		move_adaptively(sam);
		return;
	}
	double norm = sqrt(ops->sum_squares(params->grads, n));
	if (norm > norm_min)
		ops->axpy(params->values, params->grads, n, (float)(sam->spec->rho / norm));
}

double sam_run(struct sam *sam, struct objective *objective, struct stages *stages, enum model_mode image_mode,
	       struct objective_report *report)
{
	const struct vector_ops *ops = kernels_fast()->vector;
	struct params *params = sam->params;
	struct objective_report second;
	size_t n = params->trained_elements;

	if (sam->grads != NULL) {
		ops->copy(sam->grads, params->grads, n);
		ops->fill(params->grads, n, 0.0f);
	}
	objective_run(objective, stages, image_mode, report);
	climb(sam);
	ops->fill(params->grads, n, 0.0f);
	objective_run(objective, stages, image_mode == MODEL_EVAL ? MODEL_EVAL : MODEL_TRAIN_KEEP, &second);
	ops->copy(params->values, sam->values, n);
	if (sam->grads != NULL)
		ops->add(params->grads, params->grads, sam->grads, n);
	report->adv_seconds += second.adv_seconds;
	return second.clean.loss;
}
