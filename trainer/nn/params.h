/*
 * params.h - every parameter of a model by its PyTorch name, in two arenas.
 *
 * Layers register what they need, then params_allocate() lays out one
 * contiguous arena for values and one for gradients, in order of registration
 * (buffers, which have no gradient, lie behind the parameters, and everything
 * of frozen layers behind those). Names and
 * shapes are the script's state dict: `image_encoder.*` as in torchvision,
 * `text_encoder.*` as in Hugging Face's BertModel, `text_projector.*`,
 * `fusion_layer.1.*`, `fusion_layer.3.*`, `head.*`.
 *
 * Threads:   built by one thread; afterwards values change only in kernels.
 * Ownership: the struct owns names and arenas; struct param is read-only for users.
 * Limits:    PARAMS_MAX entries.
 */
#ifndef TRAINER_NN_PARAMS_H
#define TRAINER_NN_PARAMS_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/err.h"

enum { PARAMS_MAX = 2048, PARAM_NAME_BYTES = 96, PARAM_RANK_MAX = 4 };

enum param_kind {
	PARAM_WEIGHT,  /* matrices and convolution kernels: decayed */
	PARAM_EMBEDDING, /* decayed as a weight */
	PARAM_BIAS,    /* not decayed by default */
	PARAM_NORM,    /* batch norm's and LayerNorm's weight and bias: not decayed by default */
	PARAM_UNUSED,  /* carried along for strict loading, never trained (BERT's pooler): in the buffer region */
	PARAM_BUFFER,  /* running statistics: no gradient */
	PARAM_COUNTER, /* num_batches_tracked: an int64 scalar in .counter, no place in the arena */
};

enum param_init {
	INIT_ZERO, INIT_ONE,
	INIT_CONSTANT,       /* scale is the value */
	INIT_NORMAL,         /* scale = standard deviation */
	INIT_UNIFORM,        /* U(-scale, scale) */
	INIT_NORMAL_PAD_ZERO /* as INIT_NORMAL, row `pad` of the first dimension zero */
};

struct param {
	char name[PARAM_NAME_BYTES];
	enum param_kind kind;
	int rank;
	int64_t shape[PARAM_RANK_MAX];
	size_t count;       /* elements */
	size_t at;          /* offset in elements from the start of the value (and gradient) arena */
	bool joined;        /* begins where the entry before ends, so that both are one matrix; set before params_allocate() */
	bool frozen;        /* loaded and saved, never changed: no gradient */
	enum param_init init;
	float init_scale;
	int64_t pad;
	float *value;       /* after params_allocate(); 64-byte aligned, unless joined */
	float *grad;        /* NULL for UNUSED, BUFFER, COUNTER */
	int64_t counter;
};

struct params {
	struct param *all;  /* (count) */
	int count;
	float *values;      /* arena: trained_elements, then buffers */
	float *grads;       /* arena: trained_elements */
	size_t trained_elements; /* with the padding between entries, which stays zero */
	size_t buffer_elements;  /* behind them: what steps change without a gradient */
	size_t value_elements;
	bool freezing;      /* see params_freeze() */
};

MUST_USE int params_open(struct params **out, struct err *err);
void params_close(struct params *params); /* NULL is fine */
/* Adds one; index by which to find it after allocation. CHECKs on a duplicate name. */
MUST_USE int params_add(struct params *params, int *index, const char *name, enum param_kind kind, enum param_init init,
			float init_scale, int rank, const int64_t *shape, struct err *err);
/* What is added from now on is frozen, or no longer. */
void params_freeze(struct params *params, bool freezing);
MUST_USE int params_allocate(struct params *params, struct err *err);
/* Draws initial values: element e of parameter `name` depends on (seed, name, e) only. */
void params_init(struct params *params, uint64_t seed);
struct param *params_find(const struct params *params, const char *name); /* NULL: none */
struct param *params_at(const struct params *params, int index);
void params_zero_grads(struct params *params);

#endif
