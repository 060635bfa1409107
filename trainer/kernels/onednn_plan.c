/*
 * onednn_plan.c - plans of convolutions: which primitive computes a pass, in which layouts.
 *
 * Input gradients of stride 1 run as forward
 * convolutions of the turned and transposed weights: the library's forward
 * kernels are its fastest for NHWC, and they can add to what is there. 1x1
 * convolutions of a larger stride do the same on the coarse grid and spread
 * the result. Forward convolutions of floats run in blocked layout, between two
 * reorders: its kernels add up 16 channels at a time and only then add to the
 * total, where the NHWC ones carry one running sum. With 4,608 terms that is a
 * rounding error of 1.8e-7 instead of 7.5e-7, which decides how often a ReLU
 * falls on the other side than in exact arithmetic: the NHWC kernels made most
 * batches' gradients differ by half a percent, the blocked ones do not. The
 * reorders cost 2 to 4% of a step. In bf16 that difference drowns in the
 * rounding of the result, and everything runs in NHWC.
 */
#include "trainer/kernels/onednn_parts.h"

#if defined(HAVE_ONEDNN_API)
#include <string.h>

void plan_destroy(struct plan *plan)
{
	if (plan->primitive != NULL)
		dnnl_primitive_destroy(plan->primitive);
	if (plan->reorder != NULL)
		dnnl_primitive_destroy(plan->reorder);
	if (plan->block != NULL)
		dnnl_primitive_destroy(plan->block);
	if (plan->unblock != NULL)
		dnnl_primitive_destroy(plan->unblock);
	if (plan->blocked_from != NULL)
		dnnl_memory_destroy(plan->blocked_from);
	if (plan->blocked_to != NULL)
		dnnl_memory_destroy(plan->blocked_to);
	if (plan->from != NULL)
		dnnl_memory_destroy(plan->from);
	if (plan->to != NULL)
		dnnl_memory_destroy(plan->to);
	if (plan->weights != NULL)
		dnnl_memory_destroy(plan->weights);
	if (plan->oihw != NULL)
		dnnl_memory_destroy(plan->oihw);
	if (plan->library != NULL)
		dnnl_memory_destroy(plan->library);
	onednn_layout_free(&plan->weights_layout);
	*plan = (struct plan){ .tried = true };
}

/* Sizes of one pass as the library sees it. */
struct geometry {
	dnnl_dims_t in, out, weights; /* N,C,H,W; O,I,k,k */
	dnnl_dims_t strides, pads;
	dnnl_dims_t weight_strides;   /* of the OIHW array that the weights come from or go to */
	bool transposed;              /* a data pass run as a forward convolution */
	bool blocked;                 /* activations in nChw16c instead of NHWC */
};

enum { BLOCK_CHANNELS = 16 };

static bool wants_blocked(const struct conv *conv, enum pass pass)
{
	const struct conv_shape *s = &conv->shape;

	return conv->engine->onednn->type == dnnl_f32 && pass == PASS_FORWARD && s->in_channels % BLOCK_CHANNELS == 0 && s->out_channels % BLOCK_CHANNELS == 0;
}

static struct geometry geometry_of(const struct conv *conv, int n, enum pass pass)
{
	const struct conv_shape *s = &conv->shape;
	int64_t taps = (int64_t)s->kernel * s->kernel;
	bool transposed = (pass == PASS_DATA || pass == PASS_DATA_ADD) && runs_as_forward(s);

	if (transposed) {
		int64_t h = is_spread(s) ? conv->out_height : s->in_height, w = is_spread(s) ? conv->out_width : s->in_width;
		int64_t pad = s->kernel - 1 - s->pad;

		return (struct geometry){ { n, s->out_channels, conv->out_height, conv->out_width },
					  { n, s->in_channels, h, w },
					  { s->in_channels, s->out_channels, s->kernel, s->kernel },
					  { 1, 1 },
					  { pad, pad },
					  { taps, taps * s->in_channels, s->kernel, 1 },
					  true,
					  false };
	}
	return (struct geometry){ { n, s->in_channels, s->in_height, s->in_width },
				  { n, s->out_channels, conv->out_height, conv->out_width },
				  { s->out_channels, s->in_channels, s->kernel, s->kernel },
				  { s->stride, s->stride },
				  { s->pad, s->pad },
				  { taps * s->in_channels, taps, s->kernel, 1 },
				  false,
				  wants_blocked(conv, pass) };
}

static dnnl_status_t gradient_desc(dnnl_primitive_desc_t *out, const struct onednn *library, const struct onednn_conv_arrays *arrays,
				   const struct geometry *g, enum pass pass, const_dnnl_primitive_attr_t attributes)
{
	struct onednn_conv_arrays own = *arrays;
	struct onednn_layout floats = { 0 };
	dnnl_primitive_desc_t forward;
	dnnl_status_t status = onednn_conv_forward_desc(&forward, library->engine, arrays, NULL);

	if (status != dnnl_success)
		return status;
	if (pass == PASS_WEIGHTS) { /* their gradient is summed up in floats */
		status = onednn_layout_by_tag(&floats, 4, g->weights, dnnl_f32, dnnl_format_tag_any);
		own.weights = &floats;
		if (status == dnnl_success)
			status = onednn_conv_weights_desc(out, library->engine, &own, forward, attributes);
	} else {
		status = onednn_conv_data_desc(out, library->engine, &own, forward, attributes);
	}
	onednn_layout_free(&floats);
	dnnl_primitive_desc_destroy(forward);
	return status;
}

static dnnl_status_t descriptor(dnnl_primitive_desc_t *out, const struct onednn *library, const struct geometry *g,
				enum pass pass, const_dnnl_primitive_attr_t attributes)
{
	struct onednn_layout in = { 0 }, weights = { 0 }, to = { 0 };
	struct onednn_conv_arrays arrays = { &in, &weights, &to, g->strides, g->pads };
	dnnl_format_tag_t layout = g->blocked ? dnnl_nChw16c : dnnl_nhwc;
	dnnl_status_t status;

	if ((status = onednn_layout_by_tag(&in, 4, g->in, library->type, layout)) != dnnl_success ||
	    (status = onednn_layout_by_tag(&to, 4, g->out, library->type, layout)) != dnnl_success ||
	    (status = onednn_layout_by_tag(&weights, 4, g->weights, library->type, dnnl_format_tag_any)) != dnnl_success)
		goto out;
	status = pass == PASS_FORWARD || g->transposed ? onednn_conv_forward_desc(out, library->engine, &arrays, attributes) :
							 gradient_desc(out, library, &arrays, g, pass, attributes);
out:
	onednn_layout_free(&in);
	onednn_layout_free(&weights);
	onednn_layout_free(&to);
	return status;
}

/* Scratch memory is the caller's; with adds, the result is added to what is there. */
static dnnl_status_t attributes_of(dnnl_primitive_attr_t *out, bool adds)
{
	dnnl_post_ops_t ops = NULL;
	dnnl_status_t status = dnnl_primitive_attr_create(out);

	if (status != dnnl_success)
		return status;
	status = dnnl_primitive_attr_set_scratchpad_mode(*out, dnnl_scratchpad_mode_user);
	if (status != dnnl_success || !adds)
		return status;
	status = dnnl_post_ops_create(&ops);
	if (status != dnnl_success)
		return status;
	status = onednn_append_sum(ops);
	if (status == dnnl_success)
		status = dnnl_primitive_attr_set_post_ops(*out, ops);
	dnnl_post_ops_destroy(ops);
	return status;
}

/* Between OIHW and the layout of the primitive: into it before a run, or (weight gradients) out of it, adding. */
static dnnl_status_t plan_reorder(struct plan *plan, const struct onednn *library, const struct onednn_layout *oihw,
				  enum pass pass)
{
	dnnl_primitive_desc_t desc;
	dnnl_primitive_attr_t attributes = NULL;
	dnnl_status_t status = attributes_of(&attributes, pass == PASS_WEIGHTS);

	if (status == dnnl_success && pass == PASS_WEIGHTS)
		status = onednn_reorder_desc(&desc, library->engine, &plan->weights_layout, oihw, attributes);
	else if (status == dnnl_success)
		status = onednn_reorder_desc(&desc, library->engine, oihw, &plan->weights_layout, NULL);
	if (attributes != NULL)
		dnnl_primitive_attr_destroy(attributes);
	if (status != dnnl_success)
		return status;
	status = dnnl_primitive_create(&plan->reorder, desc);
	dnnl_primitive_desc_destroy(desc);
	return status;
}

static bool is_reference_code(const_dnnl_primitive_desc_t desc)
{
	const char *info = NULL;

	return dnnl_primitive_desc_query(desc, dnnl_query_impl_info_str, 0, &info) != dnnl_success || info == NULL ||
	       strncmp(info, "ref", 3) == 0;
}

/* The arrays of a pass as the caller has them, and their reorders to and from what the primitive wants. */
static dnnl_status_t plan_memories(struct plan *plan, const struct onednn *library, const struct geometry *g, enum pass pass)
{
	struct onednn_layout in = { 0 }, out = { 0 }, oihw = { 0 };
	dnnl_status_t status;

	if ((status = onednn_layout_by_tag(&in, 4, g->in, library->type, dnnl_nhwc)) != dnnl_success ||
	    (status = onednn_layout_by_tag(&out, 4, g->out, library->type, dnnl_nhwc)) != dnnl_success ||
	    (status = onednn_layout_by_strides(&oihw, 4, g->weights, dnnl_f32, g->weight_strides)) != dnnl_success ||
	    (status = onednn_memory(&plan->from, &in, library->engine, DNNL_MEMORY_NONE)) != dnnl_success ||
	    (status = onednn_memory(&plan->to, &out, library->engine, DNNL_MEMORY_NONE)) != dnnl_success ||
	    (status = onednn_memory(&plan->oihw, &oihw, library->engine, DNNL_MEMORY_NONE)) != dnnl_success ||
	    (status = onednn_memory(&plan->weights, &plan->weights_layout, library->engine, DNNL_MEMORY_NONE)) != dnnl_success)
		goto out;
	status = plan_reorder(plan, library, &oihw, pass);
out:
	onednn_layout_free(&in);
	onednn_layout_free(&out);
	onednn_layout_free(&oihw);
	return status;
}

static dnnl_status_t plan_copy(dnnl_primitive_t *out, const struct onednn *library, const struct onednn_layout *from,
			       const struct onednn_layout *to)
{
	dnnl_primitive_desc_t desc;
	dnnl_status_t status = onednn_reorder_desc(&desc, library->engine, from, to, NULL);

	if (status != dnnl_success)
		return status;
	status = dnnl_primitive_create(out, desc);
	dnnl_primitive_desc_destroy(desc);
	return status;
}

static dnnl_status_t plan_blocked(struct plan *plan, const struct onednn *library, const struct geometry *g)
{
	struct onednn_layout in = { 0 }, out = { 0 }, blocked_in = { 0 }, blocked_out = { 0 };
	dnnl_status_t status;

	if (!g->blocked)
		return dnnl_success;
	if ((status = onednn_layout_by_tag(&in, 4, g->in, library->type, dnnl_nhwc)) != dnnl_success ||
	    (status = onednn_layout_by_tag(&out, 4, g->out, library->type, dnnl_nhwc)) != dnnl_success ||
	    (status = onednn_layout_by_tag(&blocked_in, 4, g->in, dnnl_f32, dnnl_nChw16c)) != dnnl_success ||
	    (status = onednn_layout_by_tag(&blocked_out, 4, g->out, dnnl_f32, dnnl_nChw16c)) != dnnl_success ||
	    (status = plan_copy(&plan->block, library, &in, &blocked_in)) != dnnl_success ||
	    (status = plan_copy(&plan->unblock, library, &blocked_out, &out)) != dnnl_success ||
	    (status = onednn_memory(&plan->blocked_from, &blocked_in, library->engine, DNNL_MEMORY_NONE)) != dnnl_success ||
	    (status = onednn_memory(&plan->blocked_to, &blocked_out, library->engine, DNNL_MEMORY_NONE)) != dnnl_success)
		goto out;
	plan->blocked = true;
	plan->blocked_from_bytes = onednn_layout_bytes(&blocked_in);
	plan->blocked_to_bytes = onednn_layout_bytes(&blocked_out);
out:
	onednn_layout_free(&in);
	onednn_layout_free(&out);
	onednn_layout_free(&blocked_in);
	onednn_layout_free(&blocked_out);
	return status;
}

/* The primitive, and what it wants of its surroundings. */
static dnnl_status_t plan_primitive(struct plan *plan, const struct onednn *library, const_dnnl_primitive_desc_t desc, enum pass pass)
{
	struct onednn_layout scratch = { 0 };
	dnnl_status_t status;

	if (library->type == dnnl_f32 && is_reference_code(desc))
		return dnnl_unimplemented;
	if ((status = onednn_layout_of(&plan->weights_layout, desc,
				       pass == PASS_WEIGHTS ? dnnl_query_diff_weights_md : dnnl_query_weights_md)) != dnnl_success ||
	    (status = onednn_layout_of(&scratch, desc, dnnl_query_scratchpad_md)) != dnnl_success ||
	    (status = dnnl_primitive_create(&plan->primitive, desc)) != dnnl_success)
		goto out;
	plan->weights_bytes = onednn_layout_bytes(&plan->weights_layout);
	plan->library_bytes = onednn_layout_bytes(&scratch);
	status = onednn_memory(&plan->library, &scratch, library->engine, DNNL_MEMORY_NONE);
out:
	onednn_layout_free(&scratch);
	return status;
}

static dnnl_status_t plan_create(struct plan *plan, const struct onednn *library, const struct geometry *g, enum pass pass)
{
	dnnl_primitive_attr_t attributes = NULL;
	dnnl_primitive_desc_t desc = NULL;
	dnnl_status_t status;

	status = attributes_of(&attributes, pass == PASS_DATA_ADD && g->transposed);
	if (status == dnnl_success)
		status = descriptor(&desc, library, g, pass, attributes);
	if (attributes != NULL)
		dnnl_primitive_attr_destroy(attributes);
	if (status != dnnl_success)
		return status;
	status = plan_primitive(plan, library, desc, pass);
	dnnl_primitive_desc_destroy(desc);
	if (status == dnnl_success)
		status = plan_memories(plan, library, g, pass);
	return status == dnnl_success ? plan_blocked(plan, library, g) : status;
}

dnnl_status_t onednn_matrix(struct onednn_layout *out, dnnl_data_type_t type, int64_t rows, int64_t columns, int64_t row_step,
			    int64_t column_step)
{
	return onednn_layout_by_strides(out, 2, (dnnl_dims_t){ rows, columns }, type, (dnnl_dims_t){ row_step, column_step });
}

dnnl_status_t onednn_product(dnnl_primitive_t *out, dnnl_engine_t engine, const struct onednn_layout *left,
			     const struct onednn_layout *right, const struct onednn_layout *result, bool adds)
{
	dnnl_primitive_desc_t plan;
	dnnl_primitive_attr_t attributes = NULL;
	dnnl_status_t status = attributes_of(&attributes, adds);

	if (status == dnnl_success) /* how much it needs depends on the open sizes */
		status = dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_library);
	if (status == dnnl_success)
		status = onednn_product_desc(&plan, engine, left, right, result, attributes);
	if (attributes != NULL)
		dnnl_primitive_attr_destroy(attributes);
	if (status != dnnl_success)
		return status;
	status = dnnl_primitive_create(out, plan);
	dnnl_primitive_desc_destroy(plan);
	return status;
}

/*
 * The weight gradient of a 1x1 convolution in bf16, (O, pixels) times (pixels, I), straight into OIHW: a tenth faster
 * than the library's convolution with ResNet-50's shapes, and nothing is left to be reordered. Its product for an
 * open number of pixels is the faster one.
 */
static bool wants_product(const struct conv *conv, enum pass pass)
{
	const struct conv_shape *s = &conv->shape;

	return pass == PASS_WEIGHTS && conv->engine->onednn->type == dnnl_bf16 && s->kernel == 1 && s->stride == 1 && s->pad == 0;
}

static dnnl_status_t plan_product(struct plan *plan, const struct conv *conv, int n)
{
	const struct onednn *library = conv->engine->onednn;
	int64_t pixels = (int64_t)n * conv->out_height * conv->out_width, in = conv->shape.in_channels, out = conv->shape.out_channels;
	struct onednn_layout dy = { 0 }, x = { 0 }, open_dy = { 0 }, open_x = { 0 }, grad = { 0 };
	dnnl_status_t status;

	if ((status = onednn_matrix(&open_dy, library->type, out, DNNL_RUNTIME_DIM_VAL, 1, out)) != dnnl_success ||
	    (status = onednn_matrix(&open_x, library->type, DNNL_RUNTIME_DIM_VAL, in, in, 1)) != dnnl_success ||
	    (status = onednn_matrix(&grad, dnnl_f32, out, in, in, 1)) != dnnl_success ||
	    (status = onednn_product(&plan->primitive, library->engine, &open_dy, &open_x, &grad, true)) != dnnl_success ||
	    (status = onednn_matrix(&dy, library->type, out, pixels, 1, out)) != dnnl_success ||
	    (status = onednn_matrix(&x, library->type, pixels, in, in, 1)) != dnnl_success ||
	    (status = onednn_memory(&plan->to, &dy, library->engine, DNNL_MEMORY_NONE)) != dnnl_success ||
	    (status = onednn_memory(&plan->from, &x, library->engine, DNNL_MEMORY_NONE)) != dnnl_success)
		goto out;
	plan->product = true;
	status = onednn_memory(&plan->weights, &grad, library->engine, DNNL_MEMORY_NONE);
out:
	onednn_layout_free(&dy);
	onednn_layout_free(&x);
	onednn_layout_free(&open_dy);
	onednn_layout_free(&open_x);
	onednn_layout_free(&grad);
	return status;
}

dnnl_status_t plan_open(struct plan *plan, const struct conv *conv, int n, enum pass pass)
{
	struct geometry g;

	if (wants_product(conv, pass))
		return plan_product(plan, conv, n);
	g = geometry_of(conv, n, pass);
	return plan_create(plan, conv->engine->onednn, &g, pass);
}

#endif
