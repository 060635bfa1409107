/*
 * onednn_conv.c - convolutions by oneDNN; everything else as in the OpenBLAS table.
 *
 * For each number of pictures a primitive is planned when it is first needed
 * (the usual number at conv_open). Input gradients of stride 1 run as forward
 * convolutions of the turned and transposed weights: the library's forward
 * kernels are its fastest for NHWC, and they can add to what is there. 1x1
 * convolutions of a larger stride do the same on the coarse grid and spread
 * the result. Forward convolutions run in blocked layout, between two
 * reorders: its kernels add up 16 channels at a time and only then add to the
 * total, where the NHWC ones carry one running sum. With 4,608 terms that is a
 * rounding error of 1.8e-7 instead of 7.5e-7, which decides how often a ReLU
 * falls on the other side than in exact arithmetic: the NHWC kernels made most
 * batches' gradients differ by half a percent, the blocked ones do not. The
 * reorders cost 2 to 4% of a step. Where the library has only its reference code for a shape (and
 * where planning fails for lack of memory) blas_conv.c takes over.
 *
 * Only this file knows oneDNN, and it is written for its 2.x C API; with
 * another major version the trainer is built on OpenBLAS alone.
 */
#include "trainer/kernels/image_engine.h"

#if defined(HAVE_ONEDNN)
#include <dnnl.h>
#endif

#if defined(HAVE_ONEDNN) && defined(DNNL_VERSION_MAJOR) && DNNL_VERSION_MAJOR == 2
#include <stdio.h>
#include <string.h>

#include "shared/base/mem.h"
#include "trainer/kernels/process.h"

enum pass { PASS_FORWARD, PASS_DATA, PASS_DATA_ADD, PASS_WEIGHTS, PASSES }; /* bit numbers of enum conv_passes */
_Static_assert(CONV_DATA_ADD == 1 << PASS_DATA_ADD && CONV_WEIGHTS == 1 << PASS_WEIGHTS, "passes and their bits");

struct onednn {
	dnnl_engine_t engine;
	dnnl_stream_t stream;
	bool products; /* OpenBLAS is as fast as this processor allows */
};

struct plan {
	bool tried, usable;
	dnnl_primitive_t primitive, reorder;    /* reorder: OIHW to what the primitive wants, or back, adding */
	dnnl_memory_t from, to, weights, oihw;  /* from: x, or dy for data passes; to: y, dx, or dy */
	dnnl_memory_t library;
	dnnl_memory_desc_t weights_desc;
	size_t weights_bytes, library_bytes;
	bool blocked;                           /* runs between two reorders, on the engine's blocked buffers */
	dnnl_primitive_t block, unblock;
	dnnl_memory_t blocked_from, blocked_to;
	size_t blocked_from_bytes, blocked_to_bytes;
};

struct onednn_conv {
	struct plan (*plans)[PASSES]; /* [pictures - 1][pass] */
	bool flipped;                 /* engine->flipped holds this convolution's weights */
	dnnl_memory_desc_t packed;    /* layout of engine->packed[slot] */
};

static void plan_destroy(struct plan *plan)
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

static bool wants_blocked(const struct conv_shape *s, enum pass pass)
{
	return pass == PASS_FORWARD && s->in_channels % BLOCK_CHANNELS == 0 && s->out_channels % BLOCK_CHANNELS == 0;
}

static bool runs_as_forward(const struct conv_shape *s)
{
	return s->stride == 1 || s->kernel == 1;
}

/* 1x1 with a stride: only the pixels on the coarse grid have a gradient. */
static bool is_spread(const struct conv_shape *s)
{
	return s->stride != 1 && s->kernel == 1;
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
				  wants_blocked(s, pass) };
}

static dnnl_status_t descriptor(dnnl_primitive_desc_t *out, const struct onednn *library, const struct geometry *g,
				enum pass pass, const_dnnl_primitive_attr_t attributes)
{
	dnnl_memory_desc_t in, weights, to;
	dnnl_convolution_desc_t desc;
	dnnl_primitive_desc_t hint;
	dnnl_format_tag_t layout = g->blocked ? dnnl_nChw16c : dnnl_nhwc;
	dnnl_status_t status;

	if ((status = dnnl_memory_desc_init_by_tag(&in, 4, g->in, dnnl_f32, layout)) != dnnl_success ||
	    (status = dnnl_memory_desc_init_by_tag(&to, 4, g->out, dnnl_f32, layout)) != dnnl_success ||
	    (status = dnnl_memory_desc_init_by_tag(&weights, 4, g->weights, dnnl_f32, dnnl_format_tag_any)) != dnnl_success)
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
	if (pass == PASS_WEIGHTS)
		status = dnnl_convolution_backward_weights_desc_init(&desc, dnnl_convolution_direct, &in, &weights, NULL, &to,
								     g->strides, g->pads, g->pads);
	else
		status = dnnl_convolution_backward_data_desc_init(&desc, dnnl_convolution_direct, &in, &weights, &to,
								  g->strides, g->pads, g->pads);
	if (status == dnnl_success)
		status = dnnl_primitive_desc_create(out, &desc, attributes, library->engine, hint);
	dnnl_primitive_desc_destroy(hint);
	return status;
}

/* Scratch memory is ours; a forward kernel may add to its output. */
static dnnl_status_t attributes_for(dnnl_primitive_attr_t *out, bool adds)
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
	dnnl_status_t status = attributes_for(&attributes, pass == PASS_WEIGHTS);

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

	if ((status = dnnl_memory_desc_init_by_tag(&in, 4, g->in, dnnl_f32, dnnl_nhwc)) != dnnl_success ||
	    (status = dnnl_memory_desc_init_by_tag(&out, 4, g->out, dnnl_f32, dnnl_nhwc)) != dnnl_success ||
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
	if ((status = dnnl_memory_desc_init_by_tag(&in, 4, g->in, dnnl_f32, dnnl_nhwc)) != dnnl_success ||
	    (status = dnnl_memory_desc_init_by_tag(&out, 4, g->out, dnnl_f32, dnnl_nhwc)) != dnnl_success ||
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

	status = attributes_for(&attributes, pass == PASS_DATA_ADD && g->transposed);
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
	status = is_reference_code(desc) ? dnnl_unimplemented : dnnl_primitive_create(&plan->primitive, desc);
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

/* Memory of the pass; what is packed now would be lost if a block moved, so that it is packed again. */
static bool plan_reserve(struct conv *conv, const struct plan *plan, enum pass pass)
{
	struct image_engine *engine = conv->engine;
	struct scratch *weights = pass == PASS_WEIGHTS ? &engine->weight_gradient : &engine->packed[conv->slot];

	if (plan->weights_bytes > weights->bytes && pass != PASS_WEIGHTS)
		conv->packing = PACKED_NOTHING;
	return scratch_reserve(weights, plan->weights_bytes, NULL) == 0 &&
	       scratch_reserve(&engine->blocked_from, plan->blocked_from_bytes, NULL) == 0 &&
	       scratch_reserve(&engine->blocked_to, plan->blocked_to_bytes, NULL) == 0 &&
	       scratch_reserve(&engine->library, plan->library_bytes, NULL) == 0;
}

/*
 * Weight gradients that OpenBLAS's products do faster than the library's
 * kernels: 1x1 (which then need no reordering into the gradient either), larger
 * strides, and small pictures. Measured with ResNet-50's shapes on AVX-512.
 */
static bool prefers_product(const struct conv *conv)
{
	const struct conv_shape *s = &conv->shape;

	return conv->engine->onednn->products && s->in_channels >= 32 &&
	       (s->kernel == 1 || s->stride > 1 || conv->out_height * conv->out_width <= 64);
}

/* NULL: use OpenBLAS. */
static struct plan *plan_for(struct conv *conv, int n, enum pass pass)
{
	struct plan *plan = &conv->onednn->plans[n - 1][pass];
	struct geometry g;

	CHECK(n >= 1 && n <= conv->pictures_max);
	if (plan->tried || (pass == PASS_WEIGHTS && prefers_product(conv)))
		return plan->usable ? plan : NULL;
	g = geometry_of(conv, n, pass);
	if (plan_create(plan, conv->engine->onednn, &g, pass) != dnnl_success || !plan_reserve(conv, plan, pass)) {
		plan_destroy(plan);
		return NULL;
	}
	plan->tried = true;
	plan->usable = true;
	return plan;
}

static void set_handle(dnnl_memory_t memory, const void *data, const struct onednn *library)
{
	CHECK(dnnl_memory_set_data_handle_v2(memory, (void *)(uintptr_t)data, library->stream) == dnnl_success);
}

/* The weights turned by 180 degrees, still (O,I,k,k); the reorder transposes them by its strides. */
static const float *turned_weights(struct conv *conv)
{
	const struct conv_shape *s = &conv->shape;
	size_t taps = (size_t)s->kernel * (size_t)s->kernel;
	float *turned = conv->engine->flipped.data;

	if (taps == 1)
		return conv->weights;
#pragma omp parallel for schedule(static)
	for (int o = 0; o < s->out_channels; o++) {
		size_t start = (size_t)o * (size_t)s->in_channels * taps;

		for (size_t i = start; i < start + (size_t)s->in_channels * taps; i += taps)
			for (size_t t = 0; t < taps; t++)
				turned[i + t] = conv->weights[i + taps - 1 - t];
	}
	return turned;
}

static void run_reorder(dnnl_primitive_t reorder, const struct onednn *library, dnnl_memory_t from, dnnl_memory_t to)
{
	dnnl_exec_arg_t args[] = { { DNNL_ARG_FROM, from }, { DNNL_ARG_TO, to } };

	CHECK(dnnl_primitive_execute(reorder, library->stream, 2, args) == dnnl_success);
}

/* Brings the weights into the plan's layout unless they are. */
static void pack_weights(struct conv *conv, struct plan *plan, bool turned)
{
	struct onednn_conv *own = conv->onednn;
	const struct onednn *library = conv->engine->onednn;

	CHECK(conv->engine->packed_by[conv->slot] == conv);
	set_handle(plan->weights, conv->engine->packed[conv->slot].data, library);
	if (conv->packing == PACKED_ONEDNN && own->flipped == turned &&
	    dnnl_memory_desc_equal(&own->packed, &plan->weights_desc))
		return;
	set_handle(plan->oihw, turned ? turned_weights(conv) : conv->weights, library);
	run_reorder(plan->reorder, library, plan->oihw, plan->weights);
	conv->packing = PACKED_ONEDNN;
	own->flipped = turned;
	own->packed = plan->weights_desc;
}

static void execute(const struct conv *conv, struct plan *plan, int from_arg, const void *from, int to_arg, const void *to,
		    int weights_arg)
{
	const struct onednn *library = conv->engine->onednn;
	dnnl_exec_arg_t args[] = { { from_arg, plan->from },
				   { to_arg, plan->to },
				   { weights_arg, plan->weights },
				   { DNNL_ARG_SCRATCHPAD, plan->library } };

	set_handle(plan->from, from, library);
	set_handle(plan->to, to, library);
	set_handle(plan->library, conv->engine->library.data, library);
	CHECK(dnnl_primitive_execute(plan->primitive, library->stream, 4, args) == dnnl_success);
}

static void execute_blocked(const struct conv *conv, struct plan *plan, const void *x, void *y)
{
	struct image_engine *engine = conv->engine;
	const struct onednn *library = engine->onednn;
	dnnl_exec_arg_t args[] = { { DNNL_ARG_SRC, plan->blocked_from },
				   { DNNL_ARG_DST, plan->blocked_to },
				   { DNNL_ARG_WEIGHTS, plan->weights },
				   { DNNL_ARG_SCRATCHPAD, plan->library } };

	set_handle(plan->from, x, library);
	set_handle(plan->to, y, library);
	set_handle(plan->blocked_from, engine->blocked_from.data, library);
	set_handle(plan->blocked_to, engine->blocked_to.data, library);
	set_handle(plan->library, engine->library.data, library);
	run_reorder(plan->block, library, plan->from, plan->blocked_from);
	CHECK(dnnl_primitive_execute(plan->primitive, library->stream, 4, args) == dnnl_success);
	run_reorder(plan->unblock, library, plan->blocked_to, plan->to);
}

static void onednn_conv_forward(struct conv *conv, const void *x, int n, void *y)
{
	struct plan *plan = plan_for(conv, n, PASS_FORWARD);

	if (plan == NULL) {
		blas_conv_forward(conv, x, n, y);
		return;
	}
	pack_weights(conv, plan, false);
	if (plan->blocked)
		execute_blocked(conv, plan, x, y);
	else
		execute(conv, plan, DNNL_ARG_SRC, x, DNNL_ARG_DST, y, DNNL_ARG_WEIGHTS);
}

static void onednn_conv_backward_data(struct conv *conv, const void *dy, int n, void *dx, bool add)
{
	const struct conv_shape *s = &conv->shape;
	struct image_engine *engine = conv->engine;
	bool adds_itself = s->stride == 1;
	struct plan *plan = plan_for(conv, n, add && adds_itself ? PASS_DATA_ADD : PASS_DATA);
	size_t elements = (size_t)n * conv_in_elements(conv);

	if (plan == NULL) {
		blas_conv_backward_data(conv, dy, n, dx, add);
		return;
	}
	pack_weights(conv, plan, runs_as_forward(s));
	if (is_spread(s)) {
		execute(conv, plan, DNNL_ARG_SRC, dy, DNNL_ARG_DST, engine->data_gradient.data, DNNL_ARG_WEIGHTS);
		if (!add)
			memset(dx, 0, elements * sizeof(float));
		fast_add_strided(engine, dx, engine->data_gradient.data, n, s, conv->out_height, conv->out_width);
	} else if (runs_as_forward(s)) {
		execute(conv, plan, DNNL_ARG_SRC, dy, DNNL_ARG_DST, dx, DNNL_ARG_WEIGHTS);
	} else {
		void *to = add ? engine->data_gradient.data : dx;

		execute(conv, plan, DNNL_ARG_DIFF_SRC, to, DNNL_ARG_DIFF_DST, dy, DNNL_ARG_WEIGHTS);
		if (add)
			fast_add(engine, dx, to, elements);
	}
}

static void onednn_conv_backward_weights(struct conv *conv, const void *x, const void *dy, int n, float *grad)
{
	struct plan *plan = plan_for(conv, n, PASS_WEIGHTS);
	const struct onednn *library = conv->engine->onednn;

	if (plan == NULL) {
		blas_conv_backward_weights(conv, x, dy, n, grad);
		return;
	}
	set_handle(plan->weights, conv->engine->weight_gradient.data, library);
	execute(conv, plan, DNNL_ARG_SRC, x, DNNL_ARG_DIFF_DST, dy, DNNL_ARG_DIFF_WEIGHTS);
	set_handle(plan->oihw, grad, library);
	run_reorder(plan->reorder, library, plan->weights, plan->oihw);
}

static void onednn_conv_close(struct conv *conv)
{
	if (conv == NULL)
		return;
	if (conv->onednn != NULL && conv->onednn->plans != NULL)
		for (int n = 0; n < conv->pictures_max; n++)
			for (int pass = 0; pass < PASSES; pass++)
				plan_destroy(&conv->onednn->plans[n][pass]);
	if (conv->onednn != NULL)
		mem_free(conv->onednn->plans);
	mem_free(conv->onednn);
	mem_free(conv);
}

static int onednn_conv_open(struct conv **out, struct image_engine *engine, const struct conv_shape *shape, int slot,
			    int pictures_max, unsigned passes, struct err *err)
{
	struct conv *conv;
	int rc = conv_create(&conv, engine, shape, slot, pictures_max, err);

	*out = NULL;
	if (rc < 0)
		return rc;
	rc = blas_conv_reserve(conv, err);
	if (rc < 0)
		goto out;
	conv->onednn = mem_zalloc(sizeof(*conv->onednn));
	if (conv->onednn != NULL)
		conv->onednn->plans = mem_array((size_t)pictures_max, sizeof(*conv->onednn->plans));
	if (conv->onednn == NULL || conv->onednn->plans == NULL) {
		rc = err_nomem(err, (size_t)pictures_max * sizeof(*conv->onednn->plans));
		goto out;
	}
	rc = scratch_reserve(&engine->flipped, conv_weight_elements(shape) * sizeof(float), err);
	if (rc == 0 && shape->stride != 1)
		rc = scratch_reserve(&engine->data_gradient,
				     (size_t)pictures_max * conv_in_elements(conv) * sizeof(float), err);
	if (rc < 0)
		goto out;
	for (int pass = 0; pass < PASSES; pass++)
		if (passes & 1u << pass)
			(void)plan_for(conv, pictures_max, (enum pass)pass); /* without one, OpenBLAS serves */
	*out = conv;
	return 0;
out:
	onednn_conv_close(conv);
	return rc;
}

static void onednn_engine_close(struct image_engine *engine)
{
	if (engine == NULL)
		return;
	if (engine->onednn != NULL) {
		if (engine->onednn->stream != NULL)
			dnnl_stream_destroy(engine->onednn->stream);
		if (engine->onednn->engine != NULL)
			dnnl_engine_destroy(engine->onednn->engine);
		mem_free(engine->onednn);
	}
	image_engine_close(engine);
}

static int onednn_engine_open(struct image_engine **out, struct err *err)
{
	struct image_engine *engine;
	int rc = image_engine_open(&engine, err);

	*out = NULL;
	if (rc < 0)
		return rc;
	engine->onednn = mem_zalloc(sizeof(*engine->onednn));
	if (engine->onednn == NULL) {
		rc = err_nomem(err, sizeof(*engine->onednn));
		goto out;
	}
	if (dnnl_engine_create(&engine->onednn->engine, dnnl_cpu, 0) != dnnl_success ||
	    dnnl_stream_create(&engine->onednn->stream, engine->onednn->engine, dnnl_stream_default_flags) != dnnl_success) {
		rc = err_set(err, ERR_UNSUPPORTED, "oneDNN: no processor engine; build with ONEDNN=0 to use OpenBLAS alone");
		goto out;
	}
	engine->onednn->products = kernels_blas_fits_processor();
	*out = engine;
	return 0;
out:
	onednn_engine_close(engine);
	return rc;
}

const struct image_ops *image_ops_onednn(void)
{
	static const struct image_ops table = {
		.name = "onednn",
		.element_bytes = sizeof(float),
		.engine_open = onednn_engine_open,
		.engine_close = onednn_engine_close,
		.engine_bytes = image_engine_bytes,
		.engine_threads = image_engine_threads,
		.conv_open = onednn_conv_open,
		.conv_close = onednn_conv_close,
		.conv_begin = conv_begin,
		.conv_forward = onednn_conv_forward,
		.conv_backward_data = onednn_conv_backward_data,
		.conv_backward_weights = onednn_conv_backward_weights,
		IMAGE_OPS_FAST_COMMON,
	};

	return &table;
}

const char *image_library_version(void)
{
	static char text[64];
	const dnnl_version_t *version = dnnl_version();

	snprintf(text, sizeof(text), "%d.%d.%d %.30s", version->major, version->minor, version->patch, version->hash);
	return text;
}

#else

const char *image_library_version(void)
{
	return "";
}

const struct image_ops *image_ops_onednn(void)
{
	return NULL;
}

#endif
