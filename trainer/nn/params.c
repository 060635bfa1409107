#include "trainer/nn/params.h"

#include <string.h>

#include "shared/base/hash.h"
#include "shared/base/mem.h"
#include "trainer/kernels/random_fill.h"

enum { ALIGN_ELEMENTS = MEM_ALIGN_BYTES / sizeof(float) };

static bool is_trained(const struct param *param)
{
	return !param->frozen && param->kind != PARAM_UNUSED && param->kind != PARAM_BUFFER && param->kind != PARAM_COUNTER;
}

/* The parts of the arena of values, in this order. */
enum region { REGION_TRAINED, REGION_BUFFERS, REGION_FROZEN, REGIONS };

static enum region region_of(const struct param *param)
{
	return param->frozen ? REGION_FROZEN : is_trained(param) ? REGION_TRAINED : REGION_BUFFERS;
}

int params_open(struct params **out, struct err *err)
{
	struct params *params = mem_array(1, sizeof(*params));

	*out = NULL;
	if (params == NULL)
		return err_nomem(err, sizeof(*params));
	params->all = mem_array(PARAMS_MAX, sizeof(*params->all));
	if (params->all == NULL) {
		mem_free(params);
		return err_nomem(err, PARAMS_MAX * sizeof(*params->all));
	}
	*out = params;
	return 0;
}

void params_close(struct params *params)
{
	if (params == NULL)
		return;
	mem_large_free(params->values, params->value_elements * sizeof(float));
	mem_large_free(params->grads, params->trained_elements * sizeof(float));
	mem_free(params->all);
	mem_free(params);
}

int params_add(struct params *params, int *index, const char *name, enum param_kind kind, enum param_init init,
	       float init_scale, int rank, const int64_t *shape, struct err *err)
{
	struct param *param;
	size_t count = 1;

	CHECK(params->values == NULL && rank >= 0 && rank <= PARAM_RANK_MAX);
	CHECK(strlen(name) < PARAM_NAME_BYTES && params_find(params, name) == NULL);
	if (params->count == PARAMS_MAX)
		return err_set(err, ERR_LIMIT, "the model has more than %d parameters; choose fewer layers", PARAMS_MAX);
	param = &params->all[params->count];
	memset(param, 0, sizeof(*param));
	memcpy(param->name, name, strlen(name) + 1);
	param->kind = kind;
	param->frozen = params->freezing;
	param->init = init;
	param->init_scale = init_scale;
	param->rank = rank;
	for (int i = 0; i < rank; i++) {
		CHECK(shape[i] > 0);
		param->shape[i] = shape[i];
		if (!size_mul(count, (size_t)shape[i], &count) || count > ((size_t)1 << 40))
			return err_set(err, ERR_LIMIT, "%s: too large", name);
	}
	param->count = count;
	*index = params->count++;
	return 0;
}

static void zero(float *p, size_t elements)
{
	enum { PIECE = 1 << 20 };
	size_t pieces = (elements + PIECE - 1) / PIECE;

	#pragma omp parallel for schedule(static)
	for (size_t i = 0; i < pieces; i++) {
		size_t left = elements - i * PIECE;

		memset(p + i * PIECE, 0, (left < PIECE ? left : PIECE) * sizeof(float));
	}
}

void params_freeze(struct params *params, bool freezing)
{
	params->freezing = freezing;
}

int params_allocate(struct params *params, struct err *err)
{
	size_t at = 0, end = 0;

	CHECK(params->values == NULL);
	for (int pass = 0; pass < REGIONS; pass++) {
		for (int i = 0; i < params->count; i++) {
			struct param *param = &params->all[i];

			if (region_of(param) != (enum region)pass || param->kind == PARAM_COUNTER)
				continue;
			param->at = param->joined ? end : at;
			end = param->at + param->count;
			at = size_round_up(end, ALIGN_ELEMENTS);
		}
		if (pass == REGION_TRAINED)
			params->trained_elements = at;
		else if (pass == REGION_BUFFERS)
			params->buffer_elements = at - params->trained_elements;
	}
	params->value_elements = at;
	/* Large pages make the products that stream through hundreds of megabytes faster. Both are zero. */
	params->values = mem_large(params->value_elements * sizeof(float));
	params->grads = mem_large(params->trained_elements * sizeof(float));
	if (params->values == NULL || params->grads == NULL)
		return err_nomem(err, (params->value_elements + params->trained_elements) * sizeof(float));
	for (int i = 0; i < params->count; i++) {
		struct param *param = &params->all[i];

		if (param->kind != PARAM_COUNTER)
			param->value = params->values + param->at;
		if (is_trained(param))
			param->grad = params->grads + param->at;
	}
	return 0;
}

static void fill_constant(float *out, size_t count, float value)
{
	for (size_t i = 0; i < count; i++)
		out[i] = value;
}

static void init_one(struct param *param, uint64_t seed)
{
	struct rng_key key = rng_key(seed ^ hash_checksum(param->name, strlen(param->name)), RNG_INIT);
	size_t row;

	switch (param->init) {
	case INIT_ZERO:
		memset(param->value, 0, param->count * sizeof(float));
		break;
	case INIT_ONE:
		fill_constant(param->value, param->count, 1.0f);
		break;
	case INIT_CONSTANT:
		fill_constant(param->value, param->count, param->init_scale);
		break;
	case INIT_UNIFORM:
		random_fill_uniform(param->value, param->count, key, param->init_scale);
		break;
	case INIT_NORMAL:
		random_fill_normal(param->value, param->count, key, param->init_scale);
		break;
	case INIT_NORMAL_PAD_ZERO:
		random_fill_normal(param->value, param->count, key, param->init_scale);
		CHECK(param->rank > 0 && param->pad >= 0 && param->pad < param->shape[0]);
		row = param->count / (size_t)param->shape[0];
		memset(param->value + (size_t)param->pad * row, 0, row * sizeof(float));
		break;
	}
}

void params_init(struct params *params, uint64_t seed)
{
	for (int i = 0; i < params->count; i++) {
		if (params->all[i].kind == PARAM_COUNTER)
			params->all[i].counter = 0;
		else
			init_one(&params->all[i], seed);
	}
}

/* A few hundred names, looked up when weights are loaded: a scan is enough. */
struct param *params_find(const struct params *params, const char *name)
{
	for (int i = 0; i < params->count; i++) {
		if (strcmp(params->all[i].name, name) == 0)
			return &params->all[i];
	}
	return NULL;
}

struct param *params_at(const struct params *params, int index)
{
	CHECK(index >= 0 && index < params->count);
	return &params->all[index];
}

void params_zero_grads(struct params *params)
{
	zero(params->grads, params->trained_elements);
}
