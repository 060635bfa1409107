/*
 * onednn_conv.c - convolutions by oneDNN; everything else as in the OpenBLAS table.
 *
 * For each number of pictures a primitive is planned when it is first needed
 * (the usual number at conv_open); onednn_plan.c says how. In floats, where the
 * library has only its reference code for a shape (and where planning fails for lack of
 * memory) blas_conv.c takes over. In bf16 there is nobody else: weights are rounded
 * while they are brought into the primitive's layout, products are summed in float.
 */
#include "trainer/kernels/onednn_parts.h"

#if defined(HAVE_ONEDNN_API)
#include <stdio.h>
#include <string.h>

#include "shared/base/mem.h"
#include "trainer/kernels/process.h"

struct onednn_conv {
	struct plan (*plans)[PASSES]; /* [pictures - 1][pass] */
	bool flipped;                 /* engine->flipped holds this convolution's weights */
	const struct plan *packed;    /* engine->packed[slot] is in its layout */
};

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

static bool in_floats(const struct conv *conv)
{
	return conv->engine->onednn->type == dnnl_f32;
}

/* Weight gradients in bf16 that are not oneDNN's: cold from memory, as in training, its kernels take longer. */
static bool weights_are_own(const struct conv *conv)
{
	return !in_floats(conv) && gemm_conv_does_bf16_weights(&conv->shape);
}

/* NULL: use OpenBLAS, if the activations are floats. */
static struct plan *try_plan(struct conv *conv, int n, enum pass pass)
{
	struct plan *plan = &conv->onednn->plans[n - 1][pass];

	CHECK(n >= 1 && n <= conv->pictures_max);
	if (plan->tried || (pass == PASS_WEIGHTS && in_floats(conv) && prefers_product(conv)))
		return plan->usable ? plan : NULL;
	if (plan_open(plan, conv, n, pass) != dnnl_success || !plan_reserve(conv, plan, pass)) {
		plan_destroy(plan);
		return NULL;
	}
	plan->tried = true;
	plan->usable = true;
	return plan;
}

static struct plan *plan_for(struct conv *conv, int n, enum pass pass)
{
	struct plan *plan = try_plan(conv, n, pass);

	CHECK(plan != NULL || in_floats(conv)); /* conv_open made one of this kind */
	return plan;
}

static void set_handle(dnnl_memory_t memory, const void *data, const struct onednn *library)
{
	CHECK(onednn_memory_set(memory, (void *)(uintptr_t)data, library->stream) == dnnl_success);
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
	    onednn_layout_equal(&own->packed->weights_layout, &plan->weights_layout))
		return;
	set_handle(plan->oihw, turned ? turned_weights(conv) : conv->weights, library);
	run_reorder(plan->reorder, library, plan->oihw, plan->weights);
	conv->packing = PACKED_ONEDNN;
	own->flipped = turned;
	own->packed = plan;
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

static void execute_product(struct plan *plan, const struct onednn *library, const void *x, const void *dy, float *grad)
{
	dnnl_exec_arg_t args[] = { { DNNL_ARG_SRC, plan->to }, { DNNL_ARG_WEIGHTS, plan->from }, { DNNL_ARG_DST, plan->weights } };

	set_handle(plan->from, x, library);
	set_handle(plan->to, dy, library);
	set_handle(plan->weights, grad, library);
	CHECK(dnnl_primitive_execute(plan->primitive, library->stream, 3, args) == dnnl_success);
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
			memset(dx, 0, elements * engine->rows->element_bytes);
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
	const struct onednn *library = conv->engine->onednn;
	struct plan *plan;

	if (weights_are_own(conv)) {
		gemm_conv_bf16_weights(conv, x, dy, n, grad);
		return;
	}
	plan = plan_for(conv, n, PASS_WEIGHTS);
	if (plan == NULL) {
		blas_conv_backward_weights(conv, x, dy, n, grad);
		return;
	}
	if (plan->product) {
		execute_product(plan, library, x, dy, grad);
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
	rc = in_floats(conv) ? blas_conv_reserve(conv, err) : 0;
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
				     (size_t)pictures_max * conv_in_elements(conv) * engine->rows->element_bytes, err);
	if (rc == 0 && weights_are_own(conv))
		rc = gemm_conv_reserve_bf16_weights(conv, err);
	if (rc < 0)
		goto out;
	for (int pass = 0; pass < PASSES; pass++) {
		bool own = pass == PASS_WEIGHTS && weights_are_own(conv);

		if (!(passes & 1u << pass) || own || try_plan(conv, pictures_max, (enum pass)pass) != NULL || in_floats(conv))
			continue; /* without a plan, OpenBLAS serves */
		rc = err_set(err, ERR_UNSUPPORTED,
			     "oneDNN cannot plan a convolution in bf16 from %d to %d channels, kernel %d, stride %d (or memory "
			     "is short); use --precision fp32",
			     shape->in_channels, shape->out_channels, shape->kernel, shape->stride);
		goto out;
	}
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

static int engine_open(struct image_engine **out, dnnl_data_type_t type, struct err *err)
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
	engine->onednn->type = type;
	if (type == dnnl_bf16)
		engine->rows = image_rows_bf16();
	CHECK(engine->rows != NULL); /* who takes the bf16 table has asked kernels_bf16_lacks() */
	*out = engine;
	return 0;
out:
	onednn_engine_close(engine);
	return rc;
}

static int onednn_engine_open(struct image_engine **out, struct err *err)
{
	return engine_open(out, dnnl_f32, err);
}

static int bf16_engine_open(struct image_engine **out, struct err *err)
{
	return engine_open(out, dnnl_bf16, err);
}

#define OPS_OF_BOTH_PRECISIONS \
	.engine_close = onednn_engine_close, \
	.engine_bytes = image_engine_bytes, \
	.engine_threads = image_engine_threads, \
	.conv_open = onednn_conv_open, \
	.conv_close = onednn_conv_close, \
	.conv_begin = conv_begin, \
	.conv_forward = onednn_conv_forward, \
	.conv_backward_data = onednn_conv_backward_data, \
	.conv_backward_weights = onednn_conv_backward_weights, \
	IMAGE_OPS_FAST_COMMON

const struct image_ops *image_ops_onednn(void)
{
	static const struct image_ops table = {
		.name = "onednn",
		.element_bytes = sizeof(float),
		.engine_open = onednn_engine_open,
		OPS_OF_BOTH_PRECISIONS,
	};

	return &table;
}

const struct image_ops *image_ops_bf16(void)
{
	static const struct image_ops table = {
		.name = "onednn-bf16",
		.element_bytes = sizeof(uint16_t),
		.engine_open = bf16_engine_open,
		OPS_OF_BOTH_PRECISIONS,
	};

	return image_rows_bf16() == NULL ? NULL : &table;
}

const char *image_library_version(void)
{
	static char text[64];
	const dnnl_version_t *version = dnnl_version();

	bool built_from_git = strcmp(version->hash, "N/A") != 0;

	snprintf(text, sizeof(text), "%d.%d.%d%s%.30s", version->major, version->minor, version->patch, built_from_git ? " " : "",
		 built_from_git ? version->hash : "");
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

const struct image_ops *image_ops_bf16(void)
{
	return NULL;
}

#endif
