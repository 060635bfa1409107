/*
 * resnet_parts.h - inside the image tower: its layers, and what is kept of a forward pass.
 *
 * A unit is a convolution and the batch norm behind it. In training only the
 * convolution's output is kept (`raw`); what follows (norm, ReLU) is computed
 * again, chunk by chunk, in front of the convolution that reads it, forward
 * and backward. With recompute not even that is kept (resnet_memory.c). The sums of blocks (`out`) are kept, as later blocks read them twice.
 *
 * Activations are of the type that the kernels' table says (image_ops.h): void *,
 * with resnet_at() to walk along them.
 *
 * A chunk is a number of pictures whose activations of one layer stay in the
 * cache: every loop over chunks does what surrounds its convolution too.
 */
#ifndef TRAINER_MODEL_RESNET_PARTS_H
#define TRAINER_MODEL_RESNET_PARTS_H

#include "trainer/kernels/kernels.h"
#include "trainer/model/resnet.h"
#include "trainer/nn/lifetimes.h"

enum {
	RESNET_STAGES = 4,
	RESNET_BLOCKS_MAX = 64,     /* of one stage; ResNet-152 has 36 */
	RESNET_UNITS_MAX = 3,       /* of one block */
	RESNET_PICTURES_MAX = 4096, /* of one forward call */
	RESNET_GROUP = 8,           /* pictures at a time where nothing is kept for backward */
};

struct unit {
	struct conv_shape shape;
	int out_height, out_width;
	int weight, bn_weight, bn_bias, bn_mean, bn_var, bn_count; /* indices into params */
	int chunk;             /* pictures */
	struct conv *conv;
	struct bn *bn;
	void *raw;             /* (B, out_height, out_width, out_channels) */
	void *input_gradient;  /* (B, in_height, in_width, in_channels); not of a block's first unit */
};

struct block {
	int units;             /* 2 or 3 */
	struct unit unit[RESNET_UNITS_MAX];
	bool has_down;
	struct unit down;      /* 1x1 on the shortcut */
	void *out;             /* (B, pixels, channels) of the last unit */
	void *gradient;        /* of out; the same for blocks whose shortcut is the identity and the one before */

	int forward_at, backward_at;       /* moments (resnet_memory.c) */
	int segment_first, segment_last;   /* numbers of blocks */
	bool again;            /* only segment_last's out is kept; the rest is made again */
	bool out_is_remade;    /* out is not kept: backward makes each chunk again from raw and shortcut, which is one addition */
};

struct resnet {
	struct resnet_config config;
	const struct kernels *kernels;
	const struct image_ops *ops;
	struct params *params;
	struct unit stem;
	int pool_height, pool_width;
	int block_count;
	struct block *blocks;
	int fc_weight, fc_bias;
	int features;          /* channels of the last block */

	bool training;
	int pictures_max;      /* of a call */
	int kept_max;          /* of a pass through the layers: pictures_max, or a group of them */
	struct image_engine *engine;
	char *arena;
	size_t arena_bytes;
	void *pixels;          /* (B, H, W, 3) */
	void *pooled;          /* (B, pool_height, pool_width, width): the stem's output */
	uint8_t *pool_index;   /* as pooled */
	float *features_out;   /* (B, features), floats */
	float *features_gradient; /* likewise */
	void *active, *gradient; /* one chunk each: a convolution's input made again; the gradient of its output */
	void *pooled_gradient, *stem_gradient; /* as pooled, as stem.raw */
	const void *stem_input;   /* pixels, or the caller's where they are as the stem wants them */

	bool recompute;        /* blocks' insides are made again in backward */
	bool making_again;     /* now */
	size_t other_bytes;    /* of an arena with recompute the other way */
	struct lifetimes *lifetimes;

	float depth;           /* stochastic depth: probability of the last block's branch */
	float *branch;         /* (blocks, pictures_max) factors of the last forward call; NULL: it was never drawn */
	bool drawn;            /* branch is in use */
	bool inputs_only;      /* backward leaves the parameters' gradients alone */

	int pictures;          /* of the last forward call */
	enum model_mode mode;
	bool nhwc;             /* layout of the pixels and of their gradient */
};

static inline size_t unit_in_elements(const struct unit *unit)
{
	return (size_t)unit->shape.in_height * (size_t)unit->shape.in_width * (size_t)unit->shape.in_channels;
}

static inline size_t unit_pixels(const struct unit *unit)
{
	return (size_t)unit->out_height * (size_t)unit->out_width;
}

static inline size_t unit_out_elements(const struct unit *unit)
{
	return unit_pixels(unit) * (size_t)unit->shape.out_channels;
}

static inline struct unit *block_last(struct block *block)
{
	return &block->unit[block->units - 1];
}

static inline float *resnet_value(const struct resnet *resnet, int index)
{
	return params_at(resnet->params, index)->value;
}

static inline float *resnet_grad(const struct resnet *resnet, int index)
{
	return params_at(resnet->params, index)->grad;
}

/* Element number `element` of activations. */
static inline void *resnet_at(const struct resnet *resnet, const void *activations, size_t element)
{
	return (char *)(uintptr_t)activations + element * resnet->ops->element_bytes;
}

/* Gradients of parameters, NULL where they are not wanted. */
static inline float *resnet_wanted(const struct resnet *resnet, int index)
{
	return resnet->inputs_only ? NULL : resnet_grad(resnet, index);
}

/* What the branch of block b is multiplied by for each picture; NULL: by 1. */
static inline const float *resnet_branch(const struct resnet *resnet, int b)
{
	return resnet->drawn ? resnet->branch + (size_t)b * (size_t)resnet->pictures_max : NULL;
}

/* What the convolutions of block number b read. */
static inline const void *block_input(const struct resnet *resnet, int b)
{
	return b == 0 ? resnet->pooled : resnet->blocks[b - 1].out;
}

/* resnet_memory.c. Engine and convolutions are open. */
MUST_USE int resnet_memory_open(struct resnet *resnet, bool recompute, struct err *err);

/* resnet_forward.c: the end of block number b, last norm, shortcut, ReLU, n pictures from number first on, to `out`. */
void resnet_block_end(const struct resnet *resnet, int b, int first, int n, void *out);
/* Makes again what block number b and those before it in its
 * segment have not kept, from their norms' statistics. b is a segment's last. */
void resnet_make_again(struct resnet *resnet, int b);
void resnet_make_stem_again(struct resnet *resnet);

#endif
