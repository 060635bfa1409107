/*
 * resnet.c - builds the image tower: layers and names. Memory is planned in
 * resnet_memory.c, the passes are in resnet_forward.c and resnet_backward.c.
 */
#include "trainer/model/resnet_parts.h"

#include <math.h>
#include <stdio.h>

#include "shared/base/mem.h"
#include "trainer/kernels/dropout.h"

/* Bytes of a convolution's input and output that a chunk may have: what the
 * last-level cache holds beside its weights. */
static const size_t CHUNK_BYTES = (size_t)8 << 20;

static int config_check(const struct resnet_config *config, struct err *err)
{
	if (config->width < 1 || config->width > 1024)
		return err_set(err, ERR_LIMIT, "an image tower of width %d; 1 to 1024 are possible", config->width);
	if (config->image_size < 16 || config->image_size > CONV_SIZE_MAX)
		return err_set(err, ERR_LIMIT, "pictures of %d pixels a side; the image tower takes 16 to %d", config->image_size,
			       CONV_SIZE_MAX);
	if (config->out_features < 1 || config->out_features > IMAGE_CHANNELS_MAX)
		return err_set(err, ERR_LIMIT, "an image tower of %d features; 1 to %d are possible", config->out_features,
			       IMAGE_CHANNELS_MAX);
	for (int stage = 0; stage < RESNET_STAGES; stage++)
		if (config->blocks[stage] < 1 || config->blocks[stage] > RESNET_BLOCKS_MAX)
			return err_set(err, ERR_LIMIT, "%d blocks in stage %d of the image tower; 1 to %d are possible",
				       config->blocks[stage], stage + 1, RESNET_BLOCKS_MAX);
	return 0;
}

static int add_vector(struct params *params, int *index, const char *prefix, const char *suffix, enum param_kind kind,
		      enum param_init init, int channels, struct err *err)
{
	char name[PARAM_NAME_BYTES];
	int64_t shape = channels;

	snprintf(name, sizeof(name), "image_encoder.%s.%s", prefix, suffix);
	return params_add(params, index, name, kind, init, 0, kind == PARAM_COUNTER ? 0 : 1, &shape, err);
}

/* conv and bn: names below image_encoder. */
static int register_unit(struct params *params, struct unit *unit, const char *conv, const char *bn, struct err *err)
{
	const struct conv_shape *s = &unit->shape;
	int64_t shape[4] = { s->out_channels, s->in_channels, s->kernel, s->kernel };
	char name[PARAM_NAME_BYTES];
	float deviation = sqrtf(2.0f / (float)(s->out_channels * s->kernel * s->kernel)); /* kaiming, fan_out, relu */
	int rc;

	snprintf(name, sizeof(name), "image_encoder.%s.weight", conv);
	rc = params_add(params, &unit->weight, name, PARAM_WEIGHT, INIT_NORMAL, deviation, 4, shape, err);
	if (rc == 0)
		rc = add_vector(params, &unit->bn_weight, bn, "weight", PARAM_NORM, INIT_ONE, s->out_channels, err);
	if (rc == 0)
		rc = add_vector(params, &unit->bn_bias, bn, "bias", PARAM_NORM, INIT_ZERO, s->out_channels, err);
	if (rc == 0)
		rc = add_vector(params, &unit->bn_mean, bn, "running_mean", PARAM_BUFFER, INIT_ZERO, s->out_channels, err);
	if (rc == 0)
		rc = add_vector(params, &unit->bn_var, bn, "running_var", PARAM_BUFFER, INIT_ONE, s->out_channels, err);
	if (rc == 0)
		rc = add_vector(params, &unit->bn_count, bn, "num_batches_tracked", PARAM_COUNTER, INIT_ZERO, 1, err);
	return rc;
}

static void shape_unit(struct unit *unit, int in_channels, int out_channels, int kernel, int stride, int height, int width)
{
	unit->shape = (struct conv_shape){ in_channels, out_channels, kernel, stride, kernel / 2, height, width };
	unit->out_height = conv_out_size(height, kernel, stride, kernel / 2);
	unit->out_width = conv_out_size(width, kernel, stride, kernel / 2);
}

/* One block on (height, width, in) pixels: torchvision's BasicBlock or Bottleneck (stride in the 3x3). */
static void shape_block(struct block *block, bool bottleneck, int in, int width, int stride, int height, int width_px)
{
	struct unit *u = block->unit;
	int out = bottleneck ? 4 * width : width;

	if (bottleneck) {
		block->units = 3;
		shape_unit(&u[0], in, width, 1, 1, height, width_px);
		shape_unit(&u[1], width, width, 3, stride, height, width_px);
		shape_unit(&u[2], width, out, 1, 1, u[1].out_height, u[1].out_width);
	} else {
		block->units = 2;
		shape_unit(&u[0], in, width, 3, stride, height, width_px);
		shape_unit(&u[1], width, width, 3, 1, u[0].out_height, u[0].out_width);
	}
	block->has_down = stride != 1 || in != out;
	if (block->has_down)
		shape_unit(&block->down, in, out, 1, stride, height, width_px);
}

static int register_block(struct resnet *resnet, struct block *block, int stage, int number, struct err *err)
{
	char conv[32], bn[32];
	int rc = 0;

	for (int i = 0; i < block->units && rc == 0; i++) {
		snprintf(conv, sizeof(conv), "layer%d.%d.conv%d", stage + 1, number, i + 1);
		snprintf(bn, sizeof(bn), "layer%d.%d.bn%d", stage + 1, number, i + 1);
		rc = register_unit(resnet->params, &block->unit[i], conv, bn, err);
	}
	if (rc == 0 && block->has_down) {
		snprintf(conv, sizeof(conv), "layer%d.%d.downsample.0", stage + 1, number);
		snprintf(bn, sizeof(bn), "layer%d.%d.downsample.1", stage + 1, number);
		rc = register_unit(resnet->params, &block->down, conv, bn, err);
	}
	return rc;
}

static int build_blocks(struct resnet *resnet, struct err *err)
{
	const struct resnet_config *config = &resnet->config;
	int channels = config->width, height = resnet->pool_height, width = resnet->pool_width, b = 0, rc = 0;

	for (int stage = 0; stage < RESNET_STAGES; stage++) {
		for (int i = 0; i < config->blocks[stage] && rc == 0; i++, b++) {
			struct block *block = &resnet->blocks[b];

			shape_block(block, config->bottleneck, channels, config->width << stage, stage > 0 && i == 0 ? 2 : 1,
				    height, width);
			rc = register_block(resnet, block, stage, i, err);
			channels = block_last(block)->shape.out_channels;
			height = block_last(block)->out_height;
			width = block_last(block)->out_width;
		}
	}
	resnet->features = channels;
	return rc;
}

static int register_fc(struct resnet *resnet, struct err *err)
{
	int64_t shape[2] = { resnet->config.out_features, resnet->features };
	float bound = 1.0f / sqrtf((float)resnet->features);
	int rc = params_add(resnet->params, &resnet->fc_weight, "image_encoder.fc.weight", PARAM_WEIGHT, INIT_UNIFORM, bound, 2,
			    shape, err);

	if (rc < 0)
		return rc;
	return params_add(resnet->params, &resnet->fc_bias, "image_encoder.fc.bias", PARAM_BIAS, INIT_UNIFORM, bound, 1, shape,
			  err);
}

int resnet_open(struct resnet **out, const struct resnet_config *config, const struct kernels *kernels, struct params *params,
		struct err *err)
{
	struct resnet *resnet;
	int rc = config_check(config, err);

	*out = NULL;
	if (rc < 0)
		return rc;
	resnet = mem_zalloc(sizeof(*resnet));
	if (resnet == NULL)
		return err_nomem(err, sizeof(*resnet));
	resnet->config = *config;
	resnet->kernels = kernels;
	resnet->ops = kernels->image;
	resnet->params = params;
	for (int stage = 0; stage < RESNET_STAGES; stage++)
		resnet->block_count += config->blocks[stage];
	rc = lifetimes_open(&resnet->lifetimes, err);
	if (rc < 0)
		goto out;
	resnet->blocks = mem_array((size_t)resnet->block_count, sizeof(*resnet->blocks));
	if (resnet->blocks == NULL) {
		rc = err_nomem(err, (size_t)resnet->block_count * sizeof(*resnet->blocks));
		goto out;
	}
	shape_unit(&resnet->stem, 3, config->width, 7, 2, config->image_size, config->image_size);
	resnet->pool_height = conv_out_size(resnet->stem.out_height, 3, 2, 1);
	resnet->pool_width = conv_out_size(resnet->stem.out_width, 3, 2, 1);
	rc = register_unit(params, &resnet->stem, "conv1", "bn1", err);
	if (rc == 0)
		rc = build_blocks(resnet, err);
	if (rc == 0)
		rc = register_fc(resnet, err);
out:
	if (rc < 0)
		resnet_close(resnet);
	else
		*out = resnet;
	return rc;
}

static void unit_close(const struct resnet *resnet, struct unit *unit)
{
	resnet->ops->conv_close(unit->conv);
	resnet->ops->bn_close(unit->bn);
}

void resnet_close(struct resnet *resnet)
{
	if (resnet == NULL)
		return;
	unit_close(resnet, &resnet->stem);
	for (int b = 0; resnet->blocks != NULL && b < resnet->block_count; b++) {
		for (int i = 0; i < RESNET_UNITS_MAX; i++)
			unit_close(resnet, &resnet->blocks[b].unit[i]);
		unit_close(resnet, &resnet->blocks[b].down);
	}
	resnet->ops->engine_close(resnet->engine);
	lifetimes_close(resnet->lifetimes);
	mem_large_free(resnet->arena, resnet->arena_bytes);
	mem_free(resnet->pixels);
	mem_free(resnet->pool_index);
	mem_free(resnet->branch);
	mem_free(resnet->blocks);
	mem_free(resnet);
}

/* The largest power of two whose activations fit in CHUNK_BYTES, but a picture for each thread. */
static int chunk_of(const struct resnet *resnet, const struct unit *unit)
{
	size_t bytes = (unit_in_elements(unit) + unit_out_elements(unit)) * resnet->ops->element_bytes;
	int chunk = 1, threads = resnet->ops->engine_threads(resnet->engine);

	while (2 * chunk <= resnet->kept_max && 2 * chunk <= CONV_PICTURES_MAX &&
	       (chunk < threads || 2 * (size_t)chunk * bytes <= CHUNK_BYTES))
		chunk *= 2;
	return chunk;
}

static int open_unit(struct resnet *resnet, struct unit *unit, int chunk, int slot, unsigned backward, struct err *err)
{
	unsigned passes = CONV_FORWARD | (resnet->training ? backward : 0);
	int rc;

	unit->chunk = chunk;
	rc = resnet->ops->conv_open(&unit->conv, resnet->engine, &unit->shape, slot, unit->chunk, passes, err);
	return rc < 0 ? rc : resnet->ops->bn_open(&unit->bn, resnet->engine, unit->shape.out_channels, err);
}

static int open_units(struct resnet *resnet, struct err *err)
{
	int rc = open_unit(resnet, &resnet->stem, chunk_of(resnet, &resnet->stem), 0, CONV_WEIGHTS, err);

	for (int b = 0; b < resnet->block_count && rc == 0; b++) {
		struct block *block = &resnet->blocks[b];

		for (int i = 0; i < block->units && rc == 0; i++) {
			struct unit *unit = &block->unit[i];
			bool adds = i == 0 && !block->has_down;

			rc = open_unit(resnet, unit, chunk_of(resnet, unit), 0,
				       CONV_WEIGHTS | (adds ? CONV_DATA_ADD : CONV_DATA), err);
		}
		if (rc == 0 && block->has_down) /* one loop runs both, so they have the same chunk */
			rc = open_unit(resnet, &block->down, block->unit[0].chunk, 1, CONV_WEIGHTS | CONV_DATA_ADD, err);
	}
	return rc;
}

int resnet_plan(struct resnet *resnet, int pictures_max, bool training, bool recompute, struct err *err)
{
	int rc;

	CHECK(resnet->engine == NULL);
	if (pictures_max < 1 || pictures_max > RESNET_PICTURES_MAX)
		return err_set(err, ERR_LIMIT, "%d pictures at a time; the image tower takes 1 to %d", pictures_max,
			       RESNET_PICTURES_MAX);
	resnet->training = training;
	resnet->pictures_max = pictures_max;
	resnet->kept_max = training || pictures_max < RESNET_GROUP ? pictures_max : RESNET_GROUP;
	rc = resnet->ops->engine_open(&resnet->engine, err);
	if (rc == 0)
		rc = open_units(resnet, err);
	return rc < 0 ? rc : resnet_memory_open(resnet, training && recompute, err);
}

void resnet_set_depth(struct resnet *resnet, double probability)
{
	CHECK(probability == 0 || resnet->branch != NULL);
	resnet->depth = (float)probability;
}

void resnet_inputs_only(struct resnet *resnet, bool inputs_only)
{
	resnet->inputs_only = inputs_only;
}

void resnet_draw(struct resnet *resnet, const struct model_call *call, int B)
{
	resnet->drawn = resnet->depth > 0.0f && call->dropout;
	for (int b = 0; resnet->drawn && b < resnet->block_count; b++)
		for (int i = 0; i < B; i++)
			resnet->branch[(size_t)b * (size_t)resnet->pictures_max + (size_t)i] = branch_factor(
				resnet->depth * (float)(b + 1) / (float)resnet->block_count, DEPTH_SITE_IMAGE + (uint32_t)b, call->seed,
				call->step, call->positions == NULL ? (uint32_t)i : call->positions[i]);
}
