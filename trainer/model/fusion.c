#include "trainer/model/fusion.h"

#include <string.h>

#include "shared/base/mem.h"
#include "trainer/kernels/kernels.h"
#include "trainer/nn/arena.h"
#include "trainer/nn/layers.h"

#define NORM_EPS 1e-5f

struct fusion {
	int F, K;
	const struct kernels *kernels;
	struct params *params;
	struct layer linear, norm, head;

	struct model_limits limits;
	bool may_drop;
	struct arena arena;
	float *v, *t;          /* (B, F), (C, F) copies */
	float *a, *b;          /* (B, F), (C, F): Wv v, Wt t; their gradients in backward */
	float *x, *dx;         /* (N, 2F) masked pairs and their gradient, with dropout */
	float *z, *y, *dz;     /* (N, F) after ReLU, after LayerNorm (and dropout), gradient */
	float *mean, *rstd;    /* (N) */
	float *logits, *dlogits, *dscaled; /* (N, K) */

	/* the last forward call, for backward */
	uint32_t *picture, *caption;                     /* (N) */
	uint32_t *picture_positions, *caption_positions; /* (B), (C) */
	int B, C, N;
	struct dropout_spec drop, head_drop;
	uint32_t *pair_picture, *pair_caption; /* (N) positions, names of the pairs' masks */

	float head_probability; /* dropout behind the LayerNorm */
	bool inputs_only;       /* backward leaves the parameters' gradients alone */
};

int fusion_open(struct fusion **out, int features, int classes, const struct kernels *kernels, struct params *params,
		struct err *err)
{
	struct fusion *fusion = mem_array(1, sizeof(*fusion));
	int code;

	*out = NULL;
	if (fusion == NULL)
		return err_nomem(err, sizeof(*fusion));
	fusion->F = features;
	fusion->K = classes;
	fusion->kernels = kernels;
	fusion->params = params;
	if ((code = layer_add_linear(params, &fusion->linear, "fusion_layer.1", features, 2 * features, 0, err)) != 0 ||
	    (code = layer_add_norm(params, &fusion->norm, "fusion_layer.3", features, err)) != 0 ||
	    (code = layer_add_linear(params, &fusion->head, "head", classes, features, 0, err)) != 0) {
		fusion_close(fusion);
		return code;
	}
	*out = fusion;
	return 0;
}

void fusion_close(struct fusion *fusion)
{
	if (fusion == NULL)
		return;
	arena_release(&fusion->arena);
	mem_free(fusion->picture);
	mem_free(fusion->caption);
	mem_free(fusion->picture_positions);
	mem_free(fusion->caption_positions);
	mem_free(fusion->pair_picture);
	mem_free(fusion->pair_caption);
	mem_free(fusion);
}

/* For the buffers of one call, or of the largest. */
static void plan(struct fusion *fusion, size_t B, size_t C, size_t N)
{
	struct arena *arena = &fusion->arena;
	size_t F = (size_t)fusion->F, K = (size_t)fusion->K;

	fusion->a = arena_take(arena, B * F);
	fusion->b = arena_take(arena, C * F);
	fusion->z = arena_take(arena, N * F);
	fusion->y = arena_take(arena, N * F);
	fusion->mean = arena_take(arena, N);
	fusion->rstd = arena_take(arena, N);
	fusion->logits = arena_take(arena, N * K);
	fusion->dlogits = arena_take(arena, N * K);
	if (fusion->may_drop)
		fusion->x = arena_take(arena, N * 2 * F);
	if (!fusion->limits.training)
		return;
	fusion->v = arena_take(arena, B * F);
	fusion->t = arena_take(arena, C * F);
	fusion->dz = arena_take(arena, N * F);
	fusion->dscaled = arena_take(arena, N * K);
	if (fusion->may_drop)
		fusion->dx = arena_take(arena, N * 2 * F);
}

static void plan_most(struct fusion *fusion)
{
	plan(fusion, (size_t)fusion->limits.pictures, (size_t)fusion->limits.captions, (size_t)fusion->limits.pairs);
}

size_t fusion_activation_bytes(const struct fusion *fusion, const struct model_limits *batch)
{
	struct fusion counting = *fusion;

	counting.arena = (struct arena){ NULL, 0, 0 };
	plan(&counting, (size_t)batch->pictures, (size_t)batch->captions, (size_t)batch->pairs);
	return counting.arena.used * sizeof(float);
}

int fusion_plan(struct fusion *fusion, const struct model_limits *limits, bool dropout, struct err *err)
{
	CHECK(fusion->arena.memory == NULL && limits->pictures > 0 && limits->captions > 0 && limits->pairs > 0);
	fusion->limits = *limits;
	fusion->may_drop = dropout;
	fusion->picture = mem_array((size_t)limits->pairs, sizeof(uint32_t));
	fusion->caption = mem_array((size_t)limits->pairs, sizeof(uint32_t));
	fusion->picture_positions = mem_array((size_t)limits->pictures, sizeof(uint32_t));
	fusion->caption_positions = mem_array((size_t)limits->captions, sizeof(uint32_t));
	fusion->pair_picture = mem_array((size_t)limits->pairs, sizeof(uint32_t));
	fusion->pair_caption = mem_array((size_t)limits->pairs, sizeof(uint32_t));
	if (fusion->picture == NULL || fusion->caption == NULL || fusion->picture_positions == NULL ||
	    fusion->caption_positions == NULL || fusion->pair_picture == NULL || fusion->pair_caption == NULL)
		return err_nomem(err, (size_t)limits->pairs * sizeof(uint32_t));
	plan_most(fusion);
	return arena_allocate(&fusion->arena, err);
}

static void copy_positions(uint32_t *to, const uint32_t *from, int n)
{
	for (int i = 0; i < n; i++)
		to[i] = from == NULL ? (uint32_t)i : from[i];
}

static void remember(struct fusion *fusion, const struct model_call *call, float dropout, int B, int C,
		     const struct model_pairs *pairs, const uint32_t *picture_positions, const uint32_t *caption_positions)
{
	CHECK(B > 0 && B <= fusion->limits.pictures && C > 0 && C <= fusion->limits.captions);
	CHECK(pairs->count > 0 && pairs->count <= fusion->limits.pairs);
	for (int i = 0; i < pairs->count; i++)
		CHECK(pairs->picture[i] < (uint32_t)B && pairs->caption[i] < (uint32_t)C);
	memcpy(fusion->picture, pairs->picture, (size_t)pairs->count * sizeof(uint32_t));
	memcpy(fusion->caption, pairs->caption, (size_t)pairs->count * sizeof(uint32_t));
	copy_positions(fusion->picture_positions, picture_positions, B);
	copy_positions(fusion->caption_positions, caption_positions, C);
	fusion->B = B;
	fusion->C = C;
	fusion->N = pairs->count;
	/* Side by side as this call needs them, so that memory of larger ones is not touched. */
	fusion->arena.used = 0;
	plan(fusion, (size_t)B, (size_t)C, (size_t)pairs->count);
	fusion->drop = (struct dropout_spec){
		.probability = call->dropout ? dropout : 0.0f, .layer = SITE_FUSION, .seed = call->seed, .step = call->step,
	};
	fusion->head_drop = fusion->drop;
	fusion->head_drop.layer = SITE_HEAD;
	fusion->head_drop.probability = call->dropout ? fusion->head_probability : 0.0f;
	for (int i = 0; i < pairs->count; i++) {
		fusion->pair_picture[i] = fusion->picture_positions[pairs->picture[i]];
		fusion->pair_caption[i] = fusion->caption_positions[pairs->caption[i]];
	}
	CHECK(fusion->drop.probability == 0.0f || fusion->may_drop);
}

/* Wv or Wt lie side by side in rows of 2F. */
static struct linear_shape half_of(const struct fusion *fusion, int rows)
{
	return (struct linear_shape){ rows, fusion->F, fusion->F, fusion->F, 2 * fusion->F, fusion->F };
}

static void first_product(struct fusion *fusion, const float *v, const float *t)
{
	const struct dense_ops *ops = fusion->kernels->dense;
	const float *weight = layer_weight(fusion->params, fusion->linear);
	int F = fusion->F;

	if (fusion->drop.probability > 0.0f) {
		ops->pair_concat(fusion->x, v, t, fusion->picture, fusion->caption, fusion->picture_positions,
				 fusion->caption_positions, fusion->N, F, &fusion->drop);
		ops->linear(fusion->z, fusion->x, weight, NULL, linear_packed(fusion->N, 2 * F, F), false);
		return;
	}
	ops->linear(fusion->a, v, weight, NULL, half_of(fusion, fusion->B), false);
	ops->linear(fusion->b, t, weight + F, NULL, half_of(fusion, fusion->C), false);
	ops->pair_sum(fusion->z, fusion->a, fusion->b, fusion->picture, fusion->caption, fusion->N, F);
}

static struct norm_weights norm_of(const struct fusion *fusion)
{
	return (struct norm_weights){ layer_weight(fusion->params, fusion->norm), layer_bias(fusion->params, fusion->norm),
				      NORM_EPS };
}

/* Its own transpose: forward on y, backward on its gradient. */
static void drop_head(const struct fusion *fusion, float *y)
{
	if (fusion->head_drop.probability > 0.0f)
		fusion->kernels->reg->drop_rows(y, y, fusion->N, fusion->F, fusion->pair_picture, fusion->pair_caption,
						&fusion->head_drop);
}

void fusion_forward(struct fusion *fusion, const struct model_call *call, float dropout, const float *v, int B,
		    const float *t, int C, const struct model_pairs *pairs, const uint32_t *picture_positions,
		    const uint32_t *caption_positions, float *logits, struct model_result *result)
{
	const struct dense_ops *ops = fusion->kernels->dense;
	int F = fusion->F, K = fusion->K, N = pairs->count;

	remember(fusion, call, dropout, B, C, pairs, picture_positions, caption_positions);
	first_product(fusion, v, t);
	ops->relu_norm(fusion->y, fusion->z, fusion->mean, fusion->rstd, layer_bias(fusion->params, fusion->linear),
		       norm_of(fusion), N, F);
	drop_head(fusion, fusion->y);
	ops->linear(fusion->logits, fusion->y, layer_weight(fusion->params, fusion->head),
		    layer_bias(fusion->params, fusion->head), linear_packed(N, F, K), false);
	result->loss = ops->cross_entropy(fusion->dlogits, fusion->logits, pairs->label, pairs->weight, N, K, &result->correct);
	if (logits != NULL)
		fusion->kernels->vector->copy(logits, fusion->logits, (size_t)N * (size_t)K);
	if (fusion->limits.training) {
		fusion->kernels->vector->copy(fusion->v, v, (size_t)B * (size_t)F);
		fusion->kernels->vector->copy(fusion->t, t, (size_t)C * (size_t)F);
	}
}

static void first_product_backward(struct fusion *fusion, float *dv, float *dt)
{
	const struct dense_ops *ops = fusion->kernels->dense;
	const float *weight = layer_weight(fusion->params, fusion->linear);
	float *dweight = layer_weight_grad(fusion->params, fusion->linear);
	int F = fusion->F, N = fusion->N;

	if (fusion->drop.probability > 0.0f) {
		if (!fusion->inputs_only)
			ops->linear_weights(dweight, fusion->dz, fusion->x, linear_packed(N, 2 * F, F));
		if (dv == NULL)
			return;
		ops->linear_input(fusion->dx, fusion->dz, weight, linear_packed(N, 2 * F, F), false);
		ops->pair_concat_backward(dv, dt, fusion->dx, fusion->picture, fusion->caption, fusion->picture_positions,
					  fusion->caption_positions, N, fusion->B, fusion->C, F, &fusion->drop);
		return;
	}
	ops->pair_sum_backward(fusion->a, fusion->b, fusion->dz, fusion->picture, fusion->caption, N, fusion->B, fusion->C, F);
	if (!fusion->inputs_only) {
		ops->linear_weights(dweight, fusion->a, fusion->v, half_of(fusion, fusion->B));
		ops->linear_weights(dweight + F, fusion->b, fusion->t, half_of(fusion, fusion->C));
	}
	if (dv == NULL)
		return;
	ops->linear_input(dv, fusion->a, weight, half_of(fusion, fusion->B), false);
	ops->linear_input(dt, fusion->b, weight + F, half_of(fusion, fusion->C), false);
}

/* From the gradient of the logits in dscaled. */
static void backward_scores(struct fusion *fusion, float *dv, float *dt)
{
	const struct dense_ops *ops = fusion->kernels->dense;
	struct params *params = fusion->params;
	int F = fusion->F, K = fusion->K, N = fusion->N;
	bool inputs_only = fusion->inputs_only;

	if (!inputs_only) {
		ops->linear_weights(layer_weight_grad(params, fusion->head), fusion->dscaled, fusion->y, linear_packed(N, F, K));
		ops->sum_rows(layer_bias_grad(params, fusion->head), fusion->dscaled, N, K, K);
	}
	ops->linear_input(fusion->dz, fusion->dscaled, layer_weight(params, fusion->head), linear_packed(N, F, K), false);
	drop_head(fusion, fusion->dz);
	ops->relu_norm_backward(fusion->dz, inputs_only ? NULL : layer_weight_grad(params, fusion->norm),
				inputs_only ? NULL : layer_bias_grad(params, fusion->norm),
				inputs_only ? NULL : layer_bias_grad(params, fusion->linear), fusion->dz, fusion->z, fusion->mean,
				fusion->rstd, norm_of(fusion), N, F);
	first_product_backward(fusion, dv, dt);
}

void fusion_backward(struct fusion *fusion, float scale, float *dv, float *dt)
{
	size_t scores = (size_t)fusion->N * (size_t)fusion->K;

	CHECK(fusion->limits.training && fusion->N > 0 && (dv == NULL) == (dt == NULL));
	fusion->kernels->vector->copy(fusion->dscaled, fusion->dlogits, scores);
	fusion->kernels->vector->scale(fusion->dscaled, scores, scale);
	backward_scores(fusion, dv, dt);
}

void fusion_backward_from(struct fusion *fusion, const float *dlogits, float *dv, float *dt)
{
	CHECK(fusion->limits.training && fusion->N > 0 && (dv == NULL) == (dt == NULL));
	fusion->kernels->vector->copy(fusion->dscaled, dlogits, (size_t)fusion->N * (size_t)fusion->K);
	backward_scores(fusion, dv, dt);
}

void fusion_set_head_dropout(struct fusion *fusion, double probability)
{
	fusion->head_probability = (float)probability;
}

void fusion_inputs_only(struct fusion *fusion, bool inputs_only)
{
	fusion->inputs_only = inputs_only;
}
