#include "trainer/kernels/image_engine.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "shared/base/mem.h"

int scratch_reserve(struct scratch *scratch, size_t bytes, struct err *err)
{
	void *data;

	if (bytes <= scratch->bytes)
		return 0;
	data = mem_aligned(bytes);
	if (data == NULL)
		return err_nomem(err, bytes);
	mem_free(scratch->data);
	scratch->data = data;
	scratch->bytes = bytes;
	return 0;
}

int image_engine_open(struct image_engine **out, struct err *err)
{
	struct image_engine *engine = mem_zalloc(sizeof(*engine));

	*out = NULL;
	if (engine == NULL)
		return err_nomem(err, sizeof(*engine));
	engine->threads = omp_get_max_threads();
	engine->rows = image_rows();
	*out = engine;
	return 0;
}

void image_engine_close(struct image_engine *engine)
{
	if (engine == NULL)
		return;
	for (int slot = 0; slot < CONV_SLOTS; slot++)
		mem_free(engine->packed[slot].data);
	mem_free(engine->weight_gradient.data);
	mem_free(engine->columns.data);
	mem_free(engine->data_gradient.data);
	mem_free(engine->flipped.data);
	mem_free(engine->winograd.data);
	mem_free(engine->blocked_from.data);
	mem_free(engine->blocked_to.data);
	mem_free(engine->library.data);
	mem_free(engine->sums.data);
	mem_free(engine);
}

size_t image_engine_bytes(const struct image_engine *engine)
{
	size_t bytes = engine->weight_gradient.bytes + engine->columns.bytes + engine->data_gradient.bytes +
		       engine->flipped.bytes + engine->blocked_from.bytes + engine->blocked_to.bytes +
		       engine->library.bytes + engine->sums.bytes + engine->winograd.bytes;

	for (int slot = 0; slot < CONV_SLOTS; slot++)
		bytes += engine->packed[slot].bytes;
	return bytes;
}

int image_engine_threads(const struct image_engine *engine)
{
	return engine->threads;
}

static int conv_check(const struct conv_shape *s, int slot, int pictures_max, struct err *err)
{
	CHECK(slot >= 0 && slot < CONV_SLOTS);
	if (s->in_channels < 1 || s->out_channels < 1 || s->in_channels > IMAGE_CHANNELS_MAX ||
	    s->out_channels > IMAGE_CHANNELS_MAX)
		return err_set(err, ERR_LIMIT, "a convolution from %d to %d channels; 1 to %d are possible", s->in_channels,
			       s->out_channels, IMAGE_CHANNELS_MAX);
	if (s->kernel < 1 || s->kernel > CONV_KERNEL_MAX || s->stride < 1 || s->pad < 0 || s->pad >= s->kernel)
		return err_set(err, ERR_LIMIT, "a convolution with kernel %d, stride %d, pad %d; kernels of 1 to %d are possible",
			       s->kernel, s->stride, s->pad, CONV_KERNEL_MAX);
	if (s->in_height > CONV_SIZE_MAX || s->in_width > CONV_SIZE_MAX || s->in_height + 2 * s->pad < s->kernel ||
	    s->in_width + 2 * s->pad < s->kernel)
		return err_set(err, ERR_LIMIT, "a convolution on %d x %d pixels with kernel %d, pad %d", s->in_height,
			       s->in_width, s->kernel, s->pad);
	if (pictures_max < 1 || pictures_max > CONV_PICTURES_MAX)
		return err_set(err, ERR_LIMIT, "a convolution of %d pictures at a time; 1 to %d are possible", pictures_max,
			       CONV_PICTURES_MAX);
	return 0;
}

int conv_create(struct conv **out, struct image_engine *engine, const struct conv_shape *shape, int slot, int pictures_max,
		struct err *err)
{
	struct conv *conv;
	int rc = conv_check(shape, slot, pictures_max, err);

	*out = NULL;
	if (rc < 0)
		return rc;
	conv = mem_zalloc(sizeof(*conv));
	if (conv == NULL)
		return err_nomem(err, sizeof(*conv));
	conv->engine = engine;
	conv->shape = *shape;
	conv->out_height = conv_out_size(shape->in_height, shape->kernel, shape->stride, shape->pad);
	conv->out_width = conv_out_size(shape->in_width, shape->kernel, shape->stride, shape->pad);
	conv->slot = slot;
	conv->pictures_max = pictures_max;
	*out = conv;
	return 0;
}

void conv_begin(struct conv *conv, const float *weights)
{
	conv->weights = weights;
	conv->packing = PACKED_NOTHING;
	conv->engine->packed_by[conv->slot] = conv;
}

enum { BN_FLOATS = 8 };

int bn_open(struct bn **out, struct image_engine *engine, int channels, struct err *err)
{
	struct bn *bn;
	size_t stride, floats;
	int rc;

	*out = NULL;
	if (channels < 1 || channels > IMAGE_CHANNELS_MAX)
		return err_set(err, ERR_LIMIT, "batch norm over %d channels; 1 to %d are possible", channels,
			       IMAGE_CHANNELS_MAX);
	if (channels > engine->channels_max) {
		rc = scratch_reserve(&engine->sums,
				     (size_t)engine->threads * (size_t)channels * 3 * (sizeof(double) + sizeof(float)), err);
		if (rc < 0)
			return rc;
		engine->channels_max = channels;
	}
	stride = size_round_up((size_t)channels * sizeof(float), MEM_ALIGN_BYTES) / sizeof(float);
	floats = stride * BN_FLOATS;
	bn = mem_zalloc(sizeof(*bn));
	if (bn == NULL)
		return err_nomem(err, sizeof(*bn));
	bn->memory = mem_aligned(floats * sizeof(float) + 2 * stride * sizeof(double));
	if (bn->memory == NULL) {
		mem_free(bn);
		return err_nomem(err, floats * sizeof(float) + 2 * stride * sizeof(double));
	}
	bn->engine = engine;
	bn->channels = channels;
	bn->sum = bn->memory;
	bn->square = bn->sum + stride;
	bn->mean = (float *)(bn->square + stride);
	bn->invstd = bn->mean + stride;
	bn->scale = bn->invstd + stride;
	bn->pivot = bn->scale + stride;
	bn->mean_term = bn->pivot + stride;
	bn->x_term = bn->mean_term + stride;
	bn->branch_scale = bn->x_term + stride;
	bn->branch_bias = bn->branch_scale + stride;
	bn->plain_scale = bn->scale;
	bn->factor = 1.0f;
	*out = bn;
	return 0;
}

void bn_close(struct bn *bn)
{
	if (bn == NULL)
		return;
	mem_free(bn->memory);
	mem_free(bn);
}

void bn_stats_begin(struct bn *bn)
{
	bn->rows = 0;
	memset(bn->sum, 0, (size_t)bn->channels * sizeof(*bn->sum));
	memset(bn->square, 0, (size_t)bn->channels * sizeof(*bn->square));
}

void bn_stats_end(struct bn *bn, const float *weight, const float *bias, float *running_mean, float *running_var)
{
	double rows = (double)bn->rows;

	CHECK(bn->rows > 0);
	bn->weight = weight;
	bn->bias = bias;
	bn->batch_stats = true;
	for (int c = 0; c < bn->channels; c++) {
		double offset = bn->sum[c] / rows;
		double mean = bn->pivot[c] + offset;
		double var = bn->square[c] / rows - offset * offset;

		if (var < 0)
			var = 0;
		bn->mean[c] = (float)mean;
		bn->invstd[c] = (float)(1.0 / sqrt(var + BN_EPSILON));
		bn->scale[c] = weight[c] * bn->invstd[c];
		if (running_mean != NULL) {
			/* PyTorch divides by n - 1 here; a single row has no unbiased variance and gives NaN there. */
			double unbiased = bn->rows > 1 ? var * (rows / (rows - 1)) : var;

			running_mean[c] = (float)((1.0 - BN_MOMENTUM) * running_mean[c] + BN_MOMENTUM * mean);
			running_var[c] = (float)((1.0 - BN_MOMENTUM) * running_var[c] + BN_MOMENTUM * unbiased);
		}
	}
}

void bn_use_running(struct bn *bn, const float *weight, const float *bias, const float *running_mean,
		    const float *running_var)
{
	bn->weight = weight;
	bn->bias = bias;
	bn->batch_stats = false;
	for (int c = 0; c < bn->channels; c++) {
		bn->mean[c] = running_mean[c];
		bn->invstd[c] = (float)(1.0 / sqrt((double)running_var[c] + BN_EPSILON));
		bn->scale[c] = weight[c] * bn->invstd[c];
	}
}

void bn_branch(struct bn *bn, float factor)
{
	if (bn->factor == 1.0f)
		bn->plain_bias = bn->bias;
	bn->factor = factor;
	bn->scale = factor == 1.0f ? bn->plain_scale : bn->branch_scale;
	bn->bias = factor == 1.0f ? bn->plain_bias : bn->branch_bias;
	for (int c = 0; factor != 1.0f && c < bn->channels; c++) {
		bn->branch_scale[c] = factor * bn->plain_scale[c];
		bn->branch_bias[c] = factor * bn->plain_bias[c];
	}
}

void bn_sums_begin(struct bn *bn)
{
	bn_stats_begin(bn);
}

void bn_sums_end(struct bn *bn, float *dweight, float *dbias)
{
	double rows = (double)bn->rows;

	CHECK(bn->rows > 0 && bn->factor == 1.0f);
	for (int c = 0; c < bn->channels; c++) {
		double invstd = bn->invstd[c];

		if (dweight != NULL) {
			dweight[c] += (float)(bn->square[c] * invstd);
			dbias[c] += (float)bn->sum[c];
		}
		if (bn->batch_stats) {
			bn->mean_term[c] = (float)(bn->scale[c] * bn->sum[c] / rows);
			bn->x_term[c] = (float)(bn->scale[c] * invstd * invstd * bn->square[c] / rows);
		} else {
			bn->mean_term[c] = 0;
			bn->x_term[c] = 0;
		}
	}
}
