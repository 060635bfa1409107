#include "trainer/train/optimizer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/mem.h"

enum { MOMENT_NAME_BYTES = PARAM_NAME_BYTES + 24, MOMENTS_MAX = 2 };

static const double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
static const char *const names[] = { [OPTIMIZER_ADAMW] = "adamw", [OPTIMIZER_SGD] = "sgd" };
static const char *const moment_names[][MOMENTS_MAX] = {
	[OPTIMIZER_ADAMW] = { "exp_avg", "exp_avg_sq" },
	[OPTIMIZER_SGD] = { "momentum_buffer", NULL },
};

struct optimizer {
	struct optimizer_config config;
	struct params *params;
	const struct decay_spans *spans;
	const struct vector_ops *ops;
	int moment_count;
	float *moments[MOMENTS_MAX]; /* (trained_elements) each */
	char *moment_text;           /* names for files: (moment_count * params->count) of MOMENT_NAME_BYTES */
	uint64_t steps;              /* taken */
	struct extra {
		const char *name;
		float *data;
		int64_t shape[2];
	} extras[OPTIMIZER_EXTRAS_MAX];
	int extra_count;
};

int optimizer_kind_parse(enum optimizer_kind *out, const char *name, struct err *err)
{
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (strcmp(names[i], name) == 0) {
			*out = (enum optimizer_kind)i;
			return 0;
		}
	return err_set(err, ERR_USAGE, "--optimizer: '%s' is no optimizer; choose adamw or sgd", name);
}

const char *optimizer_kind_name(enum optimizer_kind kind)
{
	return names[kind];
}

static char *moment_name(const struct optimizer *optimizer, int moment, int param)
{
	return optimizer->moment_text + ((size_t)moment * (size_t)optimizer->params->count + (size_t)param) * MOMENT_NAME_BYTES;
}

int optimizer_open(struct optimizer **out, const struct optimizer_config *config, struct params *params,
		   const struct decay_spans *spans, const struct vector_ops *ops, struct err *err)
{
	struct optimizer *optimizer = mem_zalloc(sizeof(*optimizer));
	size_t bytes = 0;

	*out = NULL;
	if (optimizer == NULL)
		return err_nomem(err, sizeof(*optimizer));
	optimizer->config = *config;
	optimizer->params = params;
	optimizer->spans = spans;
	optimizer->ops = ops;
	optimizer->moment_count = config->kind == OPTIMIZER_ADAMW ? 2 : 1;
	optimizer->moment_text = mem_array((size_t)optimizer->moment_count * (size_t)params->count + 1, MOMENT_NAME_BYTES);
	if (optimizer->moment_text == NULL || !size_mul(params->trained_elements + 1, sizeof(float), &bytes))
		goto failed;
	for (int k = 0; k < optimizer->moment_count; k++) {
		optimizer->moments[k] = mem_large(bytes);
		if (optimizer->moments[k] == NULL)
			goto failed;
		for (int i = 0; i < params->count; i++)
			snprintf(moment_name(optimizer, k, i), MOMENT_NAME_BYTES, "%s.%s", moment_names[config->kind][k],
				 params->all[i].name);
	}
	*out = optimizer;
	return 0;
failed:
	optimizer_close(optimizer);
	return err_nomem(err, bytes);
}

void optimizer_close(struct optimizer *optimizer)
{
	if (optimizer == NULL)
		return;
	for (int k = 0; k < MOMENTS_MAX; k++)
		mem_large_free(optimizer->moments[k], (optimizer->params->trained_elements + 1) * sizeof(float));
	mem_free(optimizer->moment_text);
	mem_free(optimizer);
}

static void step_adamw(struct optimizer *optimizer, double lr, double decay, float grad_scale)
{
	struct params *params = optimizer->params;
	struct adamw_step step = {
		.lr = lr, .beta1 = beta1, .beta2 = beta2, .eps = eps,
		.correction1 = 1.0 - pow(beta1, (double)optimizer->steps),
		.correction2 = 1.0 - pow(beta2, (double)optimizer->steps),
		.grad_scale = grad_scale, .clear = 1,
	};

	for (int i = 0; i < optimizer->spans->count; i++) {
		const struct decay_span *span = &optimizer->spans->all[i];

		step.decay = span->decayed ? decay : 0.0;
		optimizer->ops->adamw(params->values + span->at, params->grads + span->at, optimizer->moments[0] + span->at,
				      optimizer->moments[1] + span->at, span->count, &step);
	}
}

static void step_sgd(struct optimizer *optimizer, double lr, double decay, float grad_scale)
{
	struct params *params = optimizer->params;
	struct sgd_step step = {
		.lr = lr, .momentum = optimizer->config.momentum, .grad_scale = grad_scale, .first = optimizer->steps == 1,
		.clear = 1,
	};

	for (int i = 0; i < optimizer->spans->count; i++) {
		const struct decay_span *span = &optimizer->spans->all[i];

		step.decay = span->decayed ? decay : 0.0;
		optimizer->ops->sgd(params->values + span->at, params->grads + span->at, optimizer->moments[0] + span->at,
				    span->count, &step);
	}
}

void optimizer_step(struct optimizer *optimizer, double lr, double decay, float grad_scale)
{
	optimizer->steps++;
	if (optimizer->config.kind == OPTIMIZER_ADAMW)
		step_adamw(optimizer, lr, decay, grad_scale);
	else
		step_sgd(optimizer, lr, decay, grad_scale);
}

size_t optimizer_state_bytes(const struct optimizer *optimizer)
{
	return (size_t)optimizer->moment_count * optimizer->params->trained_elements * sizeof(float);
}

uint64_t optimizer_steps(const struct optimizer *optimizer)
{
	return optimizer->steps;
}

void optimizer_attach(struct optimizer *optimizer, const char *name, float *data, int64_t rows, int64_t width)
{
	CHECK(optimizer->extra_count < OPTIMIZER_EXTRAS_MAX);
	optimizer->extras[optimizer->extra_count++] = (struct extra){ name, data, { rows, width } };
}

void optimizer_set_steps(struct optimizer *optimizer, uint64_t steps)
{
	optimizer->steps = steps;
}

static bool has_moments(const struct param *param)
{
	return param->grad != NULL && param->count > 0;
}

int optimizer_views(const struct optimizer *optimizer, struct tensor_view **out, int *count, struct err *err)
{
	const struct params *params = optimizer->params;
	size_t most = (size_t)optimizer->moment_count * (size_t)params->count;
	struct tensor_view *views = mem_array(most + OPTIMIZER_EXTRAS_MAX, sizeof(*views));
	int n = 0;

	*out = NULL;
	*count = 0;
	if (views == NULL)
		return err_nomem(err, most * sizeof(*views));
	for (int k = 0; k < optimizer->moment_count; k++)
		for (int i = 0; i < params->count; i++) {
			const struct param *param = &params->all[i];
			struct tensor_view *view = &views[n];

			if (!has_moments(param))
				continue;
			view->name = moment_name(optimizer, k, i);
			view->dtype = TENSOR_F32;
			view->rank = param->rank;
			memcpy(view->shape, param->shape, (size_t)param->rank * sizeof(view->shape[0]));
			view->data = optimizer->moments[k] + param->at;
			view->bytes = param->count * sizeof(float);
			n++;
		}
	for (int i = 0; i < optimizer->extra_count; i++) {
		const struct extra *extra = &optimizer->extras[i];

		views[n++] = (struct tensor_view){ .name = extra->name, .dtype = TENSOR_F32, .rank = 2,
						   .shape = { extra->shape[0], extra->shape[1] }, .data = extra->data,
						   .bytes = (size_t)extra->shape[0] * (size_t)extra->shape[1] * sizeof(float) };
	}
	*out = views;
	*count = n;
	return 0;
}

static int check_moment(const struct tensorfile *file, const char *name, const struct param *param, struct err *err)
{
	const struct tensor_view *view = tensorfile_find(file, name);

	if (view == NULL)
		return err_set(err, ERR_MISMATCH, "%s: has no tensor %s; it belongs to another model or optimizer",
			       tensorfile_path(file), name);
	if (view->dtype != TENSOR_F32 || view->rank != param->rank ||
	    memcmp(view->shape, param->shape, (size_t)param->rank * sizeof(view->shape[0])) != 0)
		return err_set(err, ERR_MISMATCH, "%s: the tensor %s has another type or shape than the model's %s",
			       tensorfile_path(file), name, param->name);
	return 0;
}

static int restore_extras(struct optimizer *optimizer, const struct tensorfile *file, bool apply, struct err *err)
{
	int code = 0;

	for (int i = 0; i < optimizer->extra_count && code == 0; i++) {
		const struct extra *extra = &optimizer->extras[i];
		const struct tensor_view *view = tensorfile_find(file, extra->name);

		if (view == NULL || view->dtype != TENSOR_F32 || view->rank != 2 || view->shape[0] != extra->shape[0] ||
		    view->shape[1] != extra->shape[1])
			return err_set(err, ERR_MISMATCH, "%s: lacks the tensor %s, or has it in another shape", tensorfile_path(file),
				       extra->name);
		if (apply)
			code = tensor_to_f32(view, extra->data, err);
	}
	return code;
}

int optimizer_restore(struct optimizer *optimizer, const struct tensorfile *file, uint64_t steps, struct err *err)
{
	const struct params *params = optimizer->params;
	int code;

	/* All is checked before anything is overwritten. */
	for (int apply = 0; apply < 2; apply++) {
		if ((code = restore_extras(optimizer, file, apply, err)) != 0)
			return code;
		for (int k = 0; k < optimizer->moment_count; k++)
			for (int i = 0; i < params->count; i++) {
				const struct param *param = &params->all[i];
				const char *name = moment_name(optimizer, k, i);

				if (!has_moments(param))
					continue;
				if (!apply && (code = check_moment(file, name, param, err)) != 0)
					return code;
				if (apply && (code = tensor_to_f32(tensorfile_find(file, name),
								   optimizer->moments[k] + param->at, err)) != 0)
					return code;
			}
	}
	optimizer->steps = steps;
	return 0;
}
