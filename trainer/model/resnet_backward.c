/*
 * resnet_backward.c - gradients of the image tower, from the last block to the stem.
 *
 * As forward, a loop over chunks runs from one batch norm to the one before:
 * the gradient of a convolution's output (second pass of its norm), its input
 * made again, both gradients of the convolution, and the sums (first pass) of
 * the norm before. The gradient of a block's output, once it has passed the
 * ReLU at its end, is that of both its branches and stays in place until the
 * first convolution adds its share: then it is the gradient of the block's input.
 */
#include "trainer/model/resnet_parts.h"

static int chunk_at(const struct unit *unit, int first, int pictures)
{
	return pictures - first < unit->chunk ? pictures - first : unit->chunk;
}

static void sums_end(const struct resnet *resnet, struct unit *unit)
{
	resnet->ops->bn_sums_end(unit->bn, resnet_wanted(resnet, unit->bn_weight), resnet_wanted(resnet, unit->bn_bias));
}

static void block_sums_begin(const struct resnet *resnet, struct block *block)
{
	resnet->ops->bn_sums_begin(block_last(block)->bn);
	if (block->has_down)
		resnet->ops->bn_sums_begin(block->down.bn);
}

/* g: gradient of the block's output, n pictures from number first on; the ReLU is applied in place. out: that output, of these pictures. */
static void block_sums_chunk(const struct resnet *resnet, struct block *block, const void *out, void *g, int first, int n)
{
	struct unit *last = block_last(block);
	size_t start = (size_t)first * unit_out_elements(last);
	const float *branch = resnet_branch(resnet, (int)(block - resnet->blocks));

	if (branch != NULL) {
		for (int i = first; i < first + n; i++) {
			size_t at = (size_t)i * unit_out_elements(last);

			resnet->ops->bn_branch(last->bn, branch[i]);
			resnet->ops->bn_add_relu_sums(last->bn, resnet_at(resnet, last->raw, at), block->has_down ? block->down.bn : NULL,
						      block->has_down ? resnet_at(resnet, block->down.raw, at) : NULL,
						      resnet_at(resnet, out, (size_t)(i - first) * unit_out_elements(last)),
						      resnet_at(resnet, g, at), unit_pixels(last));
		}
		resnet->ops->bn_branch(last->bn, 1.0f);
		return;
	}
	resnet->ops->bn_add_relu_sums(last->bn, resnet_at(resnet, last->raw, start),
				      block->has_down ? block->down.bn : NULL,
				      block->has_down ? resnet_at(resnet, block->down.raw, start) : NULL,
				      out, resnet_at(resnet, g, start), (size_t)n * unit_pixels(last));
}

static void head_backward(const struct resnet *resnet, const float *dv, void *g)
{
	const struct dense_ops *dense = resnet->kernels->dense;
	struct block *block = &resnet->blocks[resnet->block_count - 1];
	const struct unit *last = block_last(block);
	int features = resnet->features, out = resnet->config.out_features, pictures = resnet->pictures;
	struct linear_shape shape = { pictures, features, out, features, features, out };
	float *dfeatures = resnet->features_gradient;

	if (!resnet->inputs_only) {
		dense->linear_weights(resnet_grad(resnet, resnet->fc_weight), dv, resnet->features_out, shape);
		dense->sum_rows(resnet_grad(resnet, resnet->fc_bias), dv, pictures, out, out);
	}
	dense->linear_input(dfeatures, dv, resnet_value(resnet, resnet->fc_weight), shape, false);
	block_sums_begin(resnet, block);
	for (int first = 0, n; first < pictures; first += n) {
		n = chunk_at(last, first, pictures);
		resnet->ops->average_pool_backward(resnet->engine, dfeatures + (size_t)first * (size_t)features, n,
						   (int)unit_pixels(last), features,
						   resnet_at(resnet, g, (size_t)first * unit_out_elements(last)));
		block_sums_chunk(resnet, block, resnet_at(resnet, block->out, (size_t)first * unit_out_elements(last)), g, first, n);
	}
}

static void weight_gradient(const struct resnet *resnet, const struct unit *unit, const void *x, const void *dy, int n)
{
	if (!resnet->inputs_only)
		resnet->ops->conv_backward_weights(unit->conv, x, dy, n, resnet_grad(resnet, unit->weight));
}

/* The second pass of the norm at a branch's end, n pictures from number first on; branch: their factors, or NULL. */
static void branch_norm_backward(const struct resnet *resnet, struct unit *unit, const float *branch, const void *dy, int first, int n,
				 void *dx)
{
	size_t elements = unit_out_elements(unit), start = (size_t)first * elements;

	if (branch == NULL) {
		resnet->ops->bn_backward(unit->bn, false, resnet_at(resnet, dy, start), resnet_at(resnet, unit->raw, start),
					 (size_t)n * unit_pixels(unit), dx);
		return;
	}
	for (int i = 0; i < n; i++) {
		size_t at = start + (size_t)i * elements;

		resnet->ops->bn_branch(unit->bn, branch[first + i]);
		resnet->ops->bn_backward(unit->bn, false, resnet_at(resnet, dy, at), resnet_at(resnet, unit->raw, at), unit_pixels(unit),
					 resnet_at(resnet, dx, (size_t)i * elements));
	}
	resnet->ops->bn_branch(unit->bn, 1.0f);
}

/* What block number b reads, n pictures from number first on. */
static const void *input_chunk(const struct resnet *resnet, int b, int first, int n)
{
	if (b == 0 || !resnet->blocks[b - 1].out_is_remade)
		return resnet_at(resnet, block_input(resnet, b), (size_t)first * unit_in_elements(&resnet->blocks[b].unit[0]));
	resnet_block_end(resnet, b - 1, first, n, resnet->active);
	return resnet->active;
}

/*
 * One convolution inside a block and the norm before it. dy: gradient behind
 * the unit's own norm (relu: and behind its ReLU); dx: gradient of the ReLU's
 * output in front of the convolution.
 */
static void inner_backward(const struct resnet *resnet, struct unit *unit, struct unit *before, bool relu, const float *branch,
			   void *dy, void *dx)
{
	const struct image_ops *ops = resnet->ops;
	int pictures = resnet->pictures;

	sums_end(resnet, unit);
	ops->conv_begin(unit->conv, resnet_value(resnet, unit->weight));
	ops->bn_sums_begin(before->bn);
	for (int first = 0, n; first < pictures; first += n) {
		size_t out = (size_t)first * unit_out_elements(unit), in = (size_t)first * unit_in_elements(unit);
		/* What passed the block's end is needed again by the shortcut. */
		void *draw = relu ? resnet_at(resnet, dy, out) : resnet->gradient;
		const void *before_raw = resnet_at(resnet, before->raw, in);

		n = chunk_at(unit, first, pictures);
		if (relu)
			ops->bn_backward(unit->bn, true, resnet_at(resnet, dy, out), resnet_at(resnet, unit->raw, out),
					 (size_t)n * unit_pixels(unit), draw);
		else
			branch_norm_backward(resnet, unit, branch, dy, first, n, draw);
		ops->bn_relu(before->bn, before_raw, (size_t)n * unit_pixels(before), resnet->active);
		weight_gradient(resnet, unit, resnet->active, draw, n);
		ops->conv_backward_data(unit->conv, draw, n, resnet_at(resnet, dx, in), false);
		ops->bn_relu_sums(before->bn, resnet_at(resnet, dx, in), before_raw, (size_t)n * unit_pixels(before));
	}
}

/*
 * The convolutions that read the block's input. dy: gradient behind the first
 * unit's ReLU; g: of the block's output behind its ReLU; input_gradient: of
 * the block's input, g itself where the shortcut is the identity.
 */
static void entry_backward(const struct resnet *resnet, int b, void *dy, const void *g, void *input_gradient)
{
	const struct image_ops *ops = resnet->ops;
	struct block *block = &resnet->blocks[b], *before = b > 0 ? &resnet->blocks[b - 1] : NULL;
	struct unit *unit = &block->unit[0], *down = &block->down;
	int pictures = resnet->pictures;

	sums_end(resnet, unit);
	ops->conv_begin(unit->conv, resnet_value(resnet, unit->weight));
	if (block->has_down) {
		sums_end(resnet, down);
		ops->conv_begin(down->conv, resnet_value(resnet, down->weight));
	}
	if (before != NULL)
		block_sums_begin(resnet, before);
	for (int first = 0, n; first < pictures; first += n) {
		size_t in = (size_t)first * unit_in_elements(unit), out = (size_t)first * unit_out_elements(unit);
		void *draw = resnet_at(resnet, dy, out), *dx = resnet_at(resnet, input_gradient, in);
		const void *x;

		n = chunk_at(unit, first, pictures);
		x = input_chunk(resnet, b, first, n);
		ops->bn_backward(unit->bn, true, draw, resnet_at(resnet, unit->raw, out), (size_t)n * unit_pixels(unit), draw);
		weight_gradient(resnet, unit, x, draw, n);
		ops->conv_backward_data(unit->conv, draw, n, dx, !block->has_down);
		if (block->has_down) {
			size_t start = (size_t)first * unit_out_elements(down);

			ops->bn_backward(down->bn, false, resnet_at(resnet, g, start), resnet_at(resnet, down->raw, start),
					 (size_t)n * unit_pixels(down), resnet->gradient);
			weight_gradient(resnet, down, x, resnet->gradient, n);
			ops->conv_backward_data(down->conv, resnet->gradient, n, dx, true);
		}
		if (before != NULL)
			block_sums_chunk(resnet, before, x, input_gradient, first, n);
	}
}

/* The gradient of a block's output, behind its ReLU, becomes that of its input. */
static void block_backward(struct resnet *resnet, int b)
{
	struct block *block = &resnet->blocks[b];
	void *input_gradient = b > 0 ? resnet->blocks[b - 1].gradient : resnet->pooled_gradient, *dy = block->gradient;

	for (int i = block->units - 1; i > 0; i--) {
		void *dx = block->unit[i].input_gradient;

		inner_backward(resnet, &block->unit[i], &block->unit[i - 1], i < block->units - 1, resnet_branch(resnet, b), dy, dx);
		dy = dx;
	}
	if (b > 0 && resnet->blocks[b - 1].again && resnet->blocks[b - 1].segment_last == b - 1)
		resnet_make_again(resnet, b - 1);
	entry_backward(resnet, b, dy, block->gradient, input_gradient);
}

static void pixel_gradient(const struct resnet *resnet, const void *dy, int first, int n, float *dpixels)
{
	const struct unit *stem = &resnet->stem;
	float *to = dpixels + (size_t)first * unit_in_elements(stem);

	resnet->ops->conv_backward_data(stem->conv, dy, n, resnet->active, false);
	if (resnet->nhwc) {
		resnet->ops->to_floats(resnet->engine, resnet->active, (size_t)n * unit_in_elements(stem), to);
		return;
	}
	resnet->ops->to_nchw(resnet->engine, resnet->active, n, stem->shape.in_channels, stem->shape.in_height * stem->shape.in_width, to);
}

/* g: gradient of the pooled stem; other: room for that of what was pooled. */
static void stem_backward(struct resnet *resnet, const void *g, void *other, float *dpixels)
{
	const struct image_ops *ops = resnet->ops;
	struct unit *stem = &resnet->stem;
	size_t pooled = (size_t)resnet->pool_height * (size_t)resnet->pool_width * (size_t)resnet->config.width;
	int pictures = resnet->pictures;

	ops->bn_sums_begin(stem->bn);
	for (int first = 0, n; first < pictures; first += n) {
		size_t start = (size_t)first * unit_out_elements(stem);

		n = chunk_at(stem, first, pictures);
		ops->pool_backward(resnet->engine, resnet_at(resnet, g, (size_t)first * pooled),
				   resnet->pool_index + (size_t)first * pooled, n, stem->out_height, stem->out_width,
				   stem->shape.out_channels, resnet_at(resnet, other, start));
		ops->bn_relu_sums(stem->bn, resnet_at(resnet, other, start), resnet_at(resnet, stem->raw, start),
				  (size_t)n * unit_pixels(stem));
	}
	sums_end(resnet, stem);
	ops->conv_begin(stem->conv, resnet_value(resnet, stem->weight));
	for (int first = 0, n; first < pictures; first += n) {
		size_t start = (size_t)first * unit_out_elements(stem);
		void *draw = resnet_at(resnet, other, start);

		n = chunk_at(stem, first, pictures);
		ops->bn_backward(stem->bn, true, draw, resnet_at(resnet, stem->raw, start), (size_t)n * unit_pixels(stem), draw);
		weight_gradient(resnet, stem, resnet_at(resnet, resnet->stem_input, (size_t)first * unit_in_elements(stem)), draw, n);
		if (dpixels != NULL)
			pixel_gradient(resnet, draw, first, n, dpixels);
	}
}

void resnet_backward(struct resnet *resnet, const float *dv, float *dpixels)
{
	CHECK(resnet->training && resnet->pictures > 0);
	head_backward(resnet, dv, resnet->blocks[resnet->block_count - 1].gradient);
	for (int b = resnet->block_count - 1; b >= 0; b--)
		block_backward(resnet, b);
	if (resnet->blocks[0].again)
		resnet_make_stem_again(resnet);
	stem_backward(resnet, resnet->pooled_gradient, resnet->stem_gradient, dpixels);
	resnet->pictures = 0; /* gradients lie where activations were: each way back wants a pass of its own */
}
