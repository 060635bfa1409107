/*
 * onednn_parts.h - inside what oneDNN computes: the library's handles, and plans.
 *
 * A plan is everything that one pass of one convolution over one number of
 * pictures needs: the primitive, memory descriptors, the reorders of its weights.
 * Making one generates code and takes milliseconds; running one allocates nothing.
 *
 * Only the onednn_*.c files include this.
 */
#ifndef TRAINER_KERNELS_ONEDNN_PARTS_H
#define TRAINER_KERNELS_ONEDNN_PARTS_H

#include "trainer/kernels/image_engine.h"
#include "trainer/kernels/onednn_api.h"

#if defined(HAVE_ONEDNN_API)

enum pass { PASS_FORWARD, PASS_DATA, PASS_DATA_ADD, PASS_WEIGHTS, PASSES }; /* bit numbers of enum conv_passes */
_Static_assert(CONV_DATA_ADD == 1 << PASS_DATA_ADD && CONV_WEIGHTS == 1 << PASS_WEIGHTS, "passes and their bits");

struct onednn {
	dnnl_engine_t engine;
	dnnl_stream_t stream;
	dnnl_data_type_t type; /* of activations: dnnl_f32 or dnnl_bf16 */
	bool products;         /* OpenBLAS is as fast as this processor allows */
};

struct plan {
	bool tried, usable;
	bool product;                           /* a matrix product that adds to the gradient in place */
	dnnl_primitive_t primitive, reorder;    /* reorder: OIHW to what the primitive wants, or back, adding */
	dnnl_memory_t from, to, weights, oihw;  /* from: x, or dy for data passes; to: y, dx, or dy */
	dnnl_memory_t library;
	struct onednn_layout weights_layout;
	size_t weights_bytes, library_bytes;
	bool blocked;                           /* runs between two reorders, on the engine's blocked buffers */
	dnnl_primitive_t block, unblock;
	dnnl_memory_t blocked_from, blocked_to;
	size_t blocked_from_bytes, blocked_to_bytes;
};

/* Fills *plan for n pictures. dnnl_unimplemented where the library has only its reference code and OpenBLAS can do it. */
dnnl_status_t plan_open(struct plan *plan, const struct conv *conv, int n, enum pass pass);
void plan_destroy(struct plan *plan);

/* Rows and columns, elements from one to the next. */
dnnl_status_t onednn_matrix(struct onednn_layout *out, dnnl_data_type_t type, int64_t rows, int64_t columns, int64_t row_step,
			    int64_t column_step);
/* The primitive of result = left right, or +=; sizes of left and right may be left open (DNNL_RUNTIME_DIM_VAL). */
dnnl_status_t onednn_product(dnnl_primitive_t *out, dnnl_engine_t engine, const struct onednn_layout *left,
			     const struct onednn_layout *right, const struct onednn_layout *result, bool adds);

/* The input gradient is computed as a forward convolution of the turned weights. */
static inline bool runs_as_forward(const struct conv_shape *s)
{
	return s->stride == 1 || s->kernel == 1;
}

/* 1x1 with a stride: only the pixels on the coarse grid have a gradient. */
static inline bool is_spread(const struct conv_shape *s)
{
	return s->stride != 1 && s->kernel == 1;
}

#endif
#endif
