/*
 * resnet_forward.c - pictures to features, layer by layer, chunk by chunk.
 *
 * A batch norm on batch statistics has to see the whole batch before anything
 * behind it can run; so a loop over chunks runs from one norm to the next:
 * the norm and ReLU of the layer before, the convolution, and the sums for its own norm.
 */
#include "trainer/model/resnet_parts.h"

static bool on_batch_statistics(const struct resnet *resnet)
{
	return resnet->mode != MODEL_EVAL;
}

static void unit_begin(const struct resnet *resnet, struct unit *unit)
{
	resnet->ops->conv_begin(unit->conv, resnet_value(resnet, unit->weight));
	if (!resnet->making_again)
		resnet->ops->bn_stats_begin(unit->bn);
}

/* n pictures from number first on. */
static void unit_run(const struct resnet *resnet, struct unit *unit, const void *x, int first, int n)
{
	void *raw = resnet_at(resnet, unit->raw, (size_t)first * unit_out_elements(unit));

	resnet->ops->conv_forward(unit->conv, x, n, raw);
	if (on_batch_statistics(resnet) && !resnet->making_again)
		resnet->ops->bn_stats(unit->bn, raw, (size_t)n * unit_pixels(unit));
}

static void unit_end(const struct resnet *resnet, struct unit *unit)
{
	const float *weight = resnet_value(resnet, unit->bn_weight), *bias = resnet_value(resnet, unit->bn_bias);
	float *mean = resnet_value(resnet, unit->bn_mean), *var = resnet_value(resnet, unit->bn_var);
	bool update = resnet->mode == MODEL_TRAIN;

	if (resnet->making_again) /* the norm has its statistics still */
		return;
	if (!on_batch_statistics(resnet)) {
		resnet->ops->bn_use_running(unit->bn, weight, bias, mean, var);
		return;
	}
	resnet->ops->bn_stats_end(unit->bn, weight, bias, update ? mean : NULL, update ? var : NULL);
	if (update)
		params_at(resnet->params, unit->bn_count)->counter++;
}

static int chunk_at(const struct unit *unit, int first, int pictures)
{
	return pictures - first < unit->chunk ? pictures - first : unit->chunk;
}

/* Pixels as the stem wants them, n pictures from number first on; floats that are stay where they are. */
static void bring_pixels(struct resnet *resnet, const float *pixels, bool nhwc, int first, int n)
{
	const struct conv_shape *s = &resnet->stem.shape;
	size_t picture = unit_in_elements(&resnet->stem);
	const float *from = pixels + (size_t)first * picture;
	void *to = resnet_at(resnet, resnet->pixels, (size_t)first * picture);

	if (resnet->stem_input != resnet->pixels)
		return;
	if (nhwc)
		resnet->ops->from_floats(resnet->engine, from, (size_t)n * picture, to);
	else
		resnet->ops->to_nhwc(resnet->engine, from, n, s->in_channels, s->in_height * s->in_width, to);
}

/* pixels NULL: they are there. */
static void stem_forward(struct resnet *resnet, const float *pixels, bool nhwc, int pictures)
{
	struct unit *stem = &resnet->stem;

	if (pixels != NULL)
		resnet->stem_input = nhwc && resnet->ops->element_bytes == sizeof(*pixels) ? (const void *)pixels : resnet->pixels;
	unit_begin(resnet, stem);
	for (int first = 0, n; first < pictures; first += n) {
		n = chunk_at(stem, first, pictures);
		if (pixels != NULL)
			bring_pixels(resnet, pixels, nhwc, first, n);
		unit_run(resnet, stem, resnet_at(resnet, resnet->stem_input, (size_t)first * unit_in_elements(stem)), first, n);
	}
	unit_end(resnet, stem);
}

/* Pooling behind the stem, n pictures from number first on. */
static void pool_chunk(const struct resnet *resnet, int first, int n)
{
	const struct unit *stem = &resnet->stem;
	size_t pooled = (size_t)resnet->pool_height * (size_t)resnet->pool_width * (size_t)resnet->config.width;

	resnet->ops->bn_relu_pool(stem->bn, resnet_at(resnet, stem->raw, (size_t)first * unit_out_elements(stem)), n,
				  stem->out_height, stem->out_width,
				  resnet_at(resnet, resnet->pooled, (size_t)first * pooled),
				  resnet->pool_index + (size_t)first * pooled);
}

void resnet_block_end(const struct resnet *resnet, int b, int first, int n, void *out)
{
	struct block *block = &resnet->blocks[b];
	struct unit *last = block_last(block);
	size_t start = (size_t)first * unit_out_elements(last);
	const void *shortcut = block->has_down ? block->down.raw : block_input(resnet, b);
	const float *branch = resnet_branch(resnet, b);

	if (branch != NULL) {
		for (int i = first; i < first + n; i++) {
			size_t at = (size_t)i * unit_out_elements(last);

			resnet->ops->bn_branch(last->bn, branch[i]);
			resnet->ops->bn_add_relu(last->bn, resnet_at(resnet, last->raw, at), block->has_down ? block->down.bn : NULL,
						 resnet_at(resnet, shortcut, at), unit_pixels(last),
						 resnet_at(resnet, out, (size_t)(i - first) * unit_out_elements(last)));
		}
		resnet->ops->bn_branch(last->bn, 1.0f);
		return;
	}
	resnet->ops->bn_add_relu(last->bn, resnet_at(resnet, last->raw, start), block->has_down ? block->down.bn : NULL,
				 resnet_at(resnet, shortcut, start), (size_t)n * unit_pixels(last), out);
}

static void block_end_chunk(const struct resnet *resnet, int b, int first, int n)
{
	const struct block *block = &resnet->blocks[b];

	resnet_block_end(resnet, b, first, n,
			 resnet_at(resnet, block->out, (size_t)first * unit_out_elements(&block->unit[block->units - 1])));
}

static void block_forward(const struct resnet *resnet, int b, int pictures)
{
	struct block *block = &resnet->blocks[b];
	struct unit *unit = &block->unit[0];
	const void *input = block_input(resnet, b);

	unit_begin(resnet, unit);
	if (block->has_down)
		unit_begin(resnet, &block->down);
	for (int first = 0, n; first < pictures; first += n) {
		const void *x = resnet_at(resnet, input, (size_t)first * unit_in_elements(unit));

		n = chunk_at(unit, first, pictures);
		if (resnet->making_again && b == block->segment_first)
			; /* its input was kept */
		else if (b == 0)
			pool_chunk(resnet, first, n);
		else
			block_end_chunk(resnet, b - 1, first, n);
		unit_run(resnet, unit, x, first, n);
		if (block->has_down)
			unit_run(resnet, &block->down, x, first, n);
	}
	unit_end(resnet, unit);
	if (block->has_down)
		unit_end(resnet, &block->down);
	for (int i = 1; i < block->units; i++) {
		const struct unit *before = unit;

		unit = &block->unit[i];
		unit_begin(resnet, unit);
		for (int first = 0, n; first < pictures; first += n) {
			n = chunk_at(unit, first, pictures);
			resnet->ops->bn_relu(before->bn,
					     resnet_at(resnet, before->raw, (size_t)first * unit_out_elements(before)),
					     (size_t)n * unit_pixels(before), resnet->active);
			unit_run(resnet, unit, resnet->active, first, n);
		}
		unit_end(resnet, unit);
	}
}

static void head_forward(const struct resnet *resnet, int pictures, float *v)
{
	int b = resnet->block_count - 1, features = resnet->features, out = resnet->config.out_features;
	const struct unit *last = block_last(&resnet->blocks[b]);
	struct linear_shape shape = { pictures, features, out, features, features, out };

	for (int first = 0, n; first < pictures; first += n) {
		n = chunk_at(last, first, pictures);
		block_end_chunk(resnet, b, first, n);
		resnet->ops->average_pool(resnet->engine,
					  resnet_at(resnet, resnet->blocks[b].out, (size_t)first * unit_out_elements(last)),
					  n, (int)unit_pixels(last), features,
					  resnet->features_out + (size_t)first * (size_t)features);
	}
	resnet->kernels->dense->linear(v, resnet->features_out, resnet_value(resnet, resnet->fc_weight),
				       resnet_value(resnet, resnet->fc_bias), shape, false);
}

void resnet_forward(struct resnet *resnet, enum model_mode mode, const float *pixels, bool nhwc, int B, float *v)
{
	CHECK(B >= 1 && B <= resnet->pictures_max);
	CHECK(resnet->training || mode == MODEL_EVAL); /* batch statistics need the whole batch kept */
	resnet->mode = mode;
	resnet->pictures = B;
	resnet->nhwc = nhwc;
	for (int first = 0; first < B; first += resnet->kept_max) {
		int n = B - first < resnet->kept_max ? B - first : resnet->kept_max;

		stem_forward(resnet, pixels + (size_t)first * unit_in_elements(&resnet->stem), nhwc, n);
		for (int b = 0; b < resnet->block_count; b++)
			block_forward(resnet, b, n);
		head_forward(resnet, n, v + (size_t)first * (size_t)resnet->config.out_features);
	}
}

void resnet_make_again(struct resnet *resnet, int b)
{
	resnet->making_again = true;
	for (int i = resnet->blocks[b].segment_first; i <= b; i++)
		block_forward(resnet, i, resnet->pictures);
	resnet->making_again = false;
}

void resnet_make_stem_again(struct resnet *resnet)
{
	resnet->making_again = true;
	stem_forward(resnet, NULL, false, resnet->pictures);
	resnet->making_again = false;
}
