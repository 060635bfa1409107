/*
 * layers.h - parameters that come together, registered under their PyTorch names, and linear layers on them.
 *
 * Threads, ownership: as params.h.
 */
#ifndef TRAINER_NN_LAYERS_H
#define TRAINER_NN_LAYERS_H

#include "trainer/kernels/dense_ops.h"
#include "trainer/nn/params.h"

/* Indices of NAME.weight and NAME.bias. */
struct layer {
	int weight, bias;
};

/* NAME.weight (out, in), NAME.bias (out). scale 0: torch.nn.Linear's default,
 * uniform within 1/sqrt(in) for both; else normal weights of that deviation and zero bias. */
MUST_USE int layer_add_linear(struct params *params, struct layer *layer, const char *name, int out, int in, float scale,
			      struct err *err);
/* NAME.weight, NAME.bias (width), 1 and 0. */
MUST_USE int layer_add_norm(struct params *params, struct layer *layer, const char *name, int width, struct err *err);

static inline const float *layer_weight(const struct params *params, struct layer layer)
{
	return params_at(params, layer.weight)->value;
}

static inline const float *layer_bias(const struct params *params, struct layer layer)
{
	return params_at(params, layer.bias)->value;
}

static inline float *layer_weight_grad(const struct params *params, struct layer layer)
{
	return params_at(params, layer.weight)->grad;
}

static inline float *layer_bias_grad(const struct params *params, struct layer layer)
{
	return params_at(params, layer.bias)->grad;
}

/* Rows without gaps: (rows, in) -> (rows, out). */
static inline struct linear_shape linear_packed(int rows, int in, int out)
{
	return (struct linear_shape){ rows, in, out, in, in, out };
}

#endif
