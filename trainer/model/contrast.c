#include "trainer/model/contrast.h"

#include <math.h>

#include "shared/base/mem.h"
#include "trainer/kernels/kernels.h"
#include "trainer/nn/arena.h"
#include "trainer/nn/layers.h"

static const double temperature = 0.07, scale_max = 100;

struct contrast {
	int F;
	const struct kernels *kernels;
	struct params *params;
	int scale;                     /* index of logit_scale */

	struct model_limits limits;
	struct arena arena;
	float *v, *t;                  /* (N, F) unit rows of the samples' pictures and captions */
	float *v_length, *t_length;    /* (N) */
	float *dv, *dt;                /* (N, F) */
	float *scores, *dscores;       /* (N, N) */
	double *work;                  /* (CONTRAST_WORK * N) */

	bool inputs_only;  /* backward leaves the temperature's gradient alone */
	/* the last forward call, for backward */
	int32_t *picture, *caption;    /* (N) rows of v and t */
	int B, C, N;
	double dlog_scale;
};

int contrast_open(struct contrast **out, int features, const struct kernels *kernels, struct params *params, struct err *err)
{
	struct contrast *contrast = mem_zalloc(sizeof(*contrast));
	int code;

	*out = NULL;
	if (contrast == NULL)
		return err_nomem(err, sizeof(*contrast));
	contrast->F = features;
	contrast->kernels = kernels;
	contrast->params = params;
	code = params_add(params, &contrast->scale, "logit_scale", PARAM_BIAS, INIT_CONSTANT, (float)log(1 / temperature), 0, NULL,
			  err);
	if (code != 0) {
		contrast_close(contrast);
		return code;
	}
	*out = contrast;
	return 0;
}

void contrast_close(struct contrast *contrast)
{
	if (contrast == NULL)
		return;
	arena_release(&contrast->arena);
	mem_free(contrast->work);
	mem_free(contrast->picture);
	mem_free(contrast->caption);
	mem_free(contrast);
}

size_t contrast_activation_bytes(const struct contrast *contrast)
{
	return contrast->arena.elements * sizeof(float);
}

static void plan(struct contrast *contrast)
{
	struct arena *arena = &contrast->arena;
	size_t N = (size_t)contrast->limits.pairs, F = (size_t)contrast->F;

	contrast->v = arena_take(arena, N * F);
	contrast->t = arena_take(arena, N * F);
	contrast->v_length = arena_take(arena, N);
	contrast->t_length = arena_take(arena, N);
	contrast->scores = arena_take(arena, N * N);
	contrast->dscores = arena_take(arena, N * N);
	if (!contrast->limits.training)
		return;
	contrast->dv = arena_take(arena, N * F);
	contrast->dt = arena_take(arena, N * F);
}

int contrast_plan(struct contrast *contrast, const struct model_limits *limits, struct err *err)
{
	size_t N = (size_t)limits->pairs;
	int code;

	CHECK(contrast->arena.memory == NULL && limits->pairs > 0);
	contrast->limits = *limits;
	contrast->work = mem_array(CONTRAST_WORK * N, sizeof(*contrast->work));
	contrast->picture = mem_array(N, sizeof(*contrast->picture));
	contrast->caption = mem_array(N, sizeof(*contrast->caption));
	if (contrast->work == NULL || contrast->picture == NULL || contrast->caption == NULL)
		return err_nomem(err, N * CONTRAST_WORK * sizeof(*contrast->work));
	plan(contrast);
	if ((code = arena_allocate(&contrast->arena, err)) != 0)
		return code;
	plan(contrast);
	return 0;
}

static void remember(struct contrast *contrast, int B, int C, const struct model_pairs *pairs)
{
	CHECK(pairs->count > 0 && pairs->count <= contrast->limits.pairs);
	CHECK(pairs->picture_group != NULL && pairs->caption_group != NULL);
	for (int i = 0; i < pairs->count; i++) {
		CHECK(pairs->picture[i] < (uint32_t)B && pairs->caption[i] < (uint32_t)C);
		contrast->picture[i] = (int32_t)pairs->picture[i];
		contrast->caption[i] = (int32_t)pairs->caption[i];
	}
	contrast->B = B;
	contrast->C = C;
	contrast->N = pairs->count;
}

static float *log_scale(const struct contrast *contrast)
{
	return params_at(contrast->params, contrast->scale)->value;
}

void contrast_forward(struct contrast *contrast, const float *v, int B, const float *t, int C, const struct model_pairs *pairs,
		      float *logits, struct model_result *result)
{
	const struct dense_ops *dense = contrast->kernels->dense;
	const struct contrast_ops *ops = contrast->kernels->contrast;
	struct contrast_info info = { pairs->picture_group, pairs->caption_group, pairs->count, *log_scale(contrast) };
	int N = pairs->count, F = contrast->F;

	remember(contrast, B, C, pairs);
	dense->gather_rows(contrast->v, v, contrast->picture, N, F);
	dense->gather_rows(contrast->t, t, contrast->caption, N, F);
	ops->unit_rows(contrast->v, contrast->v_length, contrast->v, N, F);
	ops->unit_rows(contrast->t, contrast->t_length, contrast->t, N, F);
	dense->linear(contrast->scores, contrast->v, contrast->t, NULL, linear_packed(N, F, N), false);
	result->loss = ops->info_nce(contrast->dscores, contrast->scores, &info, contrast->work, &contrast->dlog_scale,
				     &result->correct);
	if (logits != NULL) {
		contrast->kernels->vector->copy(logits, contrast->scores, (size_t)N * (size_t)N);
		contrast->kernels->vector->scale(logits, (size_t)N * (size_t)N, expf(*log_scale(contrast)));
	}
}

void contrast_backward(struct contrast *contrast, float scale, float *dv, float *dt)
{
	const struct dense_ops *dense = contrast->kernels->dense;
	const struct contrast_ops *ops = contrast->kernels->contrast;
	const struct vector_ops *vector = contrast->kernels->vector;
	size_t N = (size_t)contrast->N, F = (size_t)contrast->F;
	int n = contrast->N, f = contrast->F;
	float dlog_scale = (float)(scale * contrast->dlog_scale);

	CHECK(contrast->limits.training && n > 0);
	if (!contrast->inputs_only)
		vector->axpy(params_at(contrast->params, contrast->scale)->grad, &dlog_scale, 1, 1.0f);
	vector->scale(contrast->dscores, N * N, scale);
	dense->linear_input(contrast->dv, contrast->dscores, contrast->t, linear_packed(n, f, n), false);
	vector->fill(contrast->dt, N * F, 0.0f);
	dense->linear_weights(contrast->dt, contrast->dscores, contrast->v, linear_packed(n, f, n));
	ops->unit_rows_backward(contrast->dv, contrast->dv, contrast->v, contrast->v_length, n, f);
	ops->unit_rows_backward(contrast->dt, contrast->dt, contrast->t, contrast->t_length, n, f);
	vector->fill(dv, (size_t)contrast->B * F, 0.0f);
	vector->fill(dt, (size_t)contrast->C * F, 0.0f);
	dense->scatter_rows(dv, contrast->dv, contrast->picture, n, f, -1);
	dense->scatter_rows(dt, contrast->dt, contrast->caption, n, f, -1);
}

void contrast_inputs_only(struct contrast *contrast, bool inputs_only)
{
	contrast->inputs_only = inputs_only;
}

void contrast_settle(struct contrast *contrast)
{
	float *value = log_scale(contrast), most = (float)log(scale_max);

	*value = *value < 0 ? 0 : *value > most ? most : *value;
}

float contrast_log_scale(const struct contrast *contrast)
{
	return *log_scale(contrast);
}
