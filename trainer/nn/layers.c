#include "trainer/nn/layers.h"

#include <math.h>
#include <stdio.h>

static int add_one(struct params *params, int *index, const char *name, const char *what, enum param_kind kind,
		   enum param_init init, float scale, int rank, const int64_t *shape, struct err *err)
{
	char full[2 * PARAM_NAME_BYTES];

	snprintf(full, sizeof(full), "%s.%s", name, what);
	return params_add(params, index, full, kind, init, scale, rank, shape, err);
}

int layer_add_linear(struct params *params, struct layer *layer, const char *name, int out, int in, float scale,
		     struct err *err)
{
	const int64_t shape[2] = { out, in };
	float bound = 1.0f / sqrtf((float)in);
	int code = add_one(params, &layer->weight, name, "weight", PARAM_WEIGHT, scale > 0 ? INIT_NORMAL : INIT_UNIFORM,
			   scale > 0 ? scale : bound, 2, shape, err);

	return code != 0 ? code
			 : add_one(params, &layer->bias, name, "bias", PARAM_BIAS, scale > 0 ? INIT_ZERO : INIT_UNIFORM,
				   bound, 1, shape, err);
}

int layer_add_norm(struct params *params, struct layer *layer, const char *name, int width, struct err *err)
{
	const int64_t shape[1] = { width };
	int code = add_one(params, &layer->weight, name, "weight", PARAM_NORM, INIT_ONE, 0, 1, shape, err);

	return code != 0 ? code : add_one(params, &layer->bias, name, "bias", PARAM_NORM, INIT_ZERO, 0, 1, shape, err);
}
