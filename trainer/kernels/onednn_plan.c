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

#if defined(HAVE_ONEDNN_2)
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

static dnnl_status_t descriptor(dnnl_primitive_desc_t *out, const struct onednn *library, const struct geometry *g,
				enum pass pass, const_dnnl_primitive_attr_t attributes)
{
	dnnl_memory_desc_t in, weights, to;
	dnnl_convolution_desc_t desc;
	dnnl_primitive_desc_t hint;
	dnnl_format_tag_t layout = g->blocked ? dnnl_nChw16c : dnnl_nhwc;
	dnnl_status_t status;

	if ((status = dnnl_memory_desc_init_by_tag(&in, 4, g->in, library->type, layout)) != dnnl_success ||
	    (status = dnnl_memory_desc_init_by_tag(&to, 4, g->out, library->type, layout)) != dnnl_success ||
	    (status = dnnl_memory_desc_init_by_tag(&weights, 4, g->weights, library->type, dnnl_format_tag_any)) != dnnl_success)
		return status;
	status = dnnl_convolution_forward_desc_init(&desc, dnnl_forward_training, dnnl_convolution_direct, &in, &weights, NULL,
						    &to, g->strides, g->pads, g->pads);
	if (status != dnnl_success)
		return status;
	if (pass == PASS_FORWARD || g->transposed)
		return dnnl_primitive_desc_create(out, &desc, attributes, library->engine, NULL);
	status = dnnl_primitive_desc_create(&hint, &desc, NULL, library->engine, NULL);
	if (status != dnnl_success)
		return status;
	if (pass == PASS_WEIGHTS) /* their gradient is summed up in floats */
		status = dnnl_memory_desc_init_by_tag(&weights, 4, g->weights, dnnl_f32, dnnl_format_tag_any);
	if (status == dnnl_success && pass == PASS_WEIGHTS)
		status = dnnl_convolution_backward_weights_desc_init(&desc, dnnl_convolution_direct, &in, &weights, NULL, &to,
								     g->strides, g->pads, g->pads);
	else if (status == dnnl_success)
		status = dnnl_convolution_backward_data_desc_init(&desc, dnnl_convolution_direct, &in, &weights, &to,
								  g->strides, g->pads, g->pads);
	if (status == dnnl_success)
		status = dnnl_primitive_desc_create(out, &desc, attributes, library->engine, hint);
	dnnl_primitive_desc_destroy(hint);
	return status;
}

dnnl_status_t onednn_attributes(dnnl_primitive_attr_t *out, bool adds)
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
	status = dnnl_post_ops_append_sum(ops, 1.0f);
	if (status == dnnl_success)
		status = dnnl_primitive_attr_set_post_ops(*out, ops);
	dnnl_post_ops_destroy(ops);
	return status;
}

/* Between OIHW and the layout of the primitive: into it before a run, or (weight gradients) out of it, adding. */
static dnnl_status_t plan_reorder(struct plan *plan, const struct onednn *library, const dnnl_memory_desc_t *oihw,
				  enum pass pass)
{
	dnnl_primitive_desc_t desc;
	dnnl_primitive_attr_t attributes = NULL;
	dnnl_status_t status = onednn_attributes(&attributes, pass == PASS_WEIGHTS);

	if (status == dnnl_success) {
		if (pass == PASS_WEIGHTS)
			status = dnnl_reorder_primitive_desc_create(&desc, &plan->weights_desc, library->engine, oihw,
								    library->engine, attributes);
		else
			status = dnnl_reorder_primitive_desc_create(&desc, oihw, library->engine, &plan->weights_desc,
								    library->engine, NULL);
	}
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

static dnnl_status_t plan_memories(struct plan *plan, const struct onednn *library, const struct geometry *g)
{
	dnnl_memory_desc_t in, out, oihw;
	dnnl_status_t status;

	if ((status = dnnl_memory_desc_init_by_tag(&in, 4, g->in, library->type, dnnl_nhwc)) != dnnl_success ||
	    (status = dnnl_memory_desc_init_by_tag(&out, 4, g->out, library->type, dnnl_nhwc)) != dnnl_success ||
	    (status = dnnl_memory_desc_init_by_strides(&oihw, 4, g->weights, dnnl_f32, g->weight_strides)) != dnnl_success ||
	    (status = dnnl_memory_create(&plan->from, &in, library->engine, DNNL_MEMORY_NONE)) != dnnl_success ||
	    (status = dnnl_memory_create(&plan->to, &out, library->engine, DNNL_MEMORY_NONE)) != dnnl_success ||
	    (status = dnnl_memory_create(&plan->oihw, &oihw, library->engine, DNNL_MEMORY_NONE)) != dnnl_success)
		return status;
	return dnnl_memory_create(&plan->weights, &plan->weights_desc, library->engine, DNNL_MEMORY_NONE);
}

static dnnl_status_t plan_copy(dnnl_primitive_t *out, const struct onednn *library, const dnnl_memory_desc_t *from,
			       const dnnl_memory_desc_t *to)
{
	dnnl_primitive_desc_t desc;
	dnnl_status_t status = dnnl_reorder_primitive_desc_create(&desc, from, library->engine, to, library->engine, NULL);

	if (status != dnnl_success)
		return status;
	status = dnnl_primitive_create(out, desc);
	dnnl_primitive_desc_destroy(desc);
	return status;
}

static dnnl_status_t plan_blocked(struct plan *plan, const struct onednn *library, const struct geometry *g)
{
	dnnl_memory_desc_t in, out, blocked_in, blocked_out;
	dnnl_status_t status;

	if (!g->blocked)
		return dnnl_success;
	if ((status = dnnl_memory_desc_init_by_tag(&in, 4, g->in, library->type, dnnl_nhwc)) != dnnl_success ||
	    (status = dnnl_memory_desc_init_by_tag(&out, 4, g->out, library->type, dnnl_nhwc)) != dnnl_success ||
	    (status = dnnl_memory_desc_init_by_tag(&blocked_in, 4, g->in, dnnl_f32, dnnl_nChw16c)) != dnnl_success ||
	    (status = dnnl_memory_desc_init_by_tag(&blocked_out, 4, g->out, dnnl_f32, dnnl_nChw16c)) != dnnl_success ||
	    (status = plan_copy(&plan->block, library, &in, &blocked_in)) != dnnl_success ||
	    (status = plan_copy(&plan->unblock, library, &blocked_out, &out)) != dnnl_success ||
	    (status = dnnl_memory_create(&plan->blocked_from, &blocked_in, library->engine, DNNL_MEMORY_NONE)) != dnnl_success ||
	    (status = dnnl_memory_create(&plan->blocked_to, &blocked_out, library->engine, DNNL_MEMORY_NONE)) != dnnl_success)
		return status;
	plan->blocked = true;
	plan->blocked_from_bytes = dnnl_memory_desc_get_size(&blocked_in);
	plan->blocked_to_bytes = dnnl_memory_desc_get_size(&blocked_out);
	return dnnl_success;
}

static dnnl_status_t plan_create(struct plan *plan, const struct onednn *library, const struct geometry *g, enum pass pass)
{
	dnnl_primitive_attr_t attributes = NULL;
	dnnl_primitive_desc_t desc = NULL;
	const dnnl_memory_desc_t *scratch;
	dnnl_memory_desc_t oihw;
	dnnl_status_t status;

	status = onednn_attributes(&attributes, pass == PASS_DATA_ADD && g->transposed);
	if (status == dnnl_success)
		status = descriptor(&desc, library, g, pass, attributes);
	if (attributes != NULL)
		dnnl_primitive_attr_destroy(attributes);
	if (status != dnnl_success)
		return status;
	plan->weights_desc = *dnnl_primitive_desc_query_md(
		desc, pass == PASS_WEIGHTS ? dnnl_query_diff_weights_md : dnnl_query_weights_md, 0);
	plan->weights_bytes = dnnl_memory_desc_get_size(&plan->weights_desc);
	scratch = dnnl_primitive_desc_query_md(desc, dnnl_query_scratchpad_md, 0);
	plan->library_bytes = dnnl_memory_desc_get_size(scratch);
	status = library->type == dnnl_f32 && is_reference_code(desc) ? dnnl_unimplemented : dnnl_primitive_create(&plan->primitive, desc);
	if (status == dnnl_success)
		status = dnnl_memory_create(&plan->library, scratch, library->engine, DNNL_MEMORY_NONE);
	dnnl_primitive_desc_destroy(desc);
	if (status == dnnl_success)
		status = plan_memories(plan, library, g);
	if (status == dnnl_success)
		status = plan_blocked(plan, library, g);
	if (status == dnnl_success)
		status = dnnl_memory_desc_init_by_strides(&oihw, 4, g->weights, dnnl_f32, g->weight_strides);
	return status == dnnl_success ? plan_reorder(plan, library, &oihw, pass) : status;
}

dnnl_status_t onednn_matrix(dnnl_memory_desc_t *out, dnnl_data_type_t type, int64_t rows, int64_t columns, int64_t row_step,
			    int64_t column_step)
{
	return dnnl_memory_desc_init_by_strides(out, 2, (dnnl_dims_t){ rows, columns }, type,
						(dnnl_dims_t){ row_step, column_step });
}

dnnl_status_t onednn_product(dnnl_primitive_t *out, dnnl_engine_t engine, const dnnl_memory_desc_t *left,
			     const dnnl_memory_desc_t *right, const dnnl_memory_desc_t *result, bool adds)
{
	dnnl_matmul_desc_t desc;
	dnnl_primitive_desc_t plan;
	dnnl_primitive_attr_t attributes = NULL;
	dnnl_status_t status = onednn_attributes(&attributes, adds);

	if (status == dnnl_success) /* how much it needs depends on the open sizes */
		status = dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_library);
	if (status == dnnl_success)
		status = dnnl_matmul_desc_init(&desc, left, right, NULL, result);
	if (status == dnnl_success)
		status = dnnl_primitive_desc_create(&plan, &desc, attributes, engine, NULL);
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
	dnnl_memory_desc_t dy, x, grad;
	dnnl_status_t status;

	if ((status = onednn_matrix(&dy, library->type, out, DNNL_RUNTIME_DIM_VAL, 1, out)) != dnnl_success ||
	    (status = onednn_matrix(&x, library->type, DNNL_RUNTIME_DIM_VAL, in, in, 1)) != dnnl_success ||
	    (status = onednn_matrix(&grad, dnnl_f32, out, in, in, 1)) != dnnl_success ||
	    (status = onednn_product(&plan->primitive, library->engine, &dy, &x, &grad, true)) != dnnl_success ||
	    (status = onednn_matrix(&dy, library->type, out, pixels, 1, out)) != dnnl_success ||
	    (status = onednn_matrix(&x, library->type, pixels, in, in, 1)) != dnnl_success ||
	    (status = dnnl_memory_create(&plan->to, &dy, library->engine, DNNL_MEMORY_NONE)) != dnnl_success ||
	    (status = dnnl_memory_create(&plan->from, &x, library->engine, DNNL_MEMORY_NONE)) != dnnl_success)
		return status;
	plan->product = true;
	return dnnl_memory_create(&plan->weights, &grad, library->engine, DNNL_MEMORY_NONE);
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
