/*
 * onednn_api.h - the calls of oneDNN's C API that differ between its releases 2 and 3, in one form for both.
 *
 * Release 2 describes arrays by values and makes a primitive's descriptor from
 * an operation's; release 3 has handles for arrays and makes it in one call. Here an
 * array's layout is a struct onednn_layout, which onednn_layout_free() ends in
 * either case, and each operation is one call. What both releases call alike (engines,
 * streams, executing) is called directly.
 *
 * Only the onednn_*.c files include this. With neither release HAVE_ONEDNN_API stays
 * undefined and they are empty.
 *
 * Ownership: what a function puts into *out is the caller's; *out needs no value before. Layouts that are zeros are none.
 * Errors:    the library's status; *out is none then.
 */
#ifndef TRAINER_KERNELS_ONEDNN_API_H
#define TRAINER_KERNELS_ONEDNN_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(HAVE_ONEDNN)
#include <dnnl.h>
#endif
#if defined(HAVE_ONEDNN) && defined(DNNL_VERSION_MAJOR) && (DNNL_VERSION_MAJOR == 2 || DNNL_VERSION_MAJOR == 3)
#define HAVE_ONEDNN_API 1

struct onednn_layout {
	dnnl_memory_desc_t desc;
};

/* dims and strides: `rank` of each, in elements. */
dnnl_status_t onednn_layout_by_tag(struct onednn_layout *out, int rank, const dnnl_dims_t dims, dnnl_data_type_t type,
				   dnnl_format_tag_t tag);
dnnl_status_t onednn_layout_by_strides(struct onednn_layout *out, int rank, const dnnl_dims_t dims, dnnl_data_type_t type,
				       const dnnl_dims_t strides);
/* What a primitive wants or gives. */
dnnl_status_t onednn_layout_of(struct onednn_layout *out, const_dnnl_primitive_desc_t primitive, dnnl_query_t what);
bool onednn_layout_equal(const struct onednn_layout *a, const struct onednn_layout *b);
size_t onednn_layout_bytes(const struct onednn_layout *layout);
void onednn_layout_free(struct onednn_layout *layout);

/* data may be DNNL_MEMORY_NONE, to be set before it is used. */
dnnl_status_t onednn_memory(dnnl_memory_t *out, const struct onednn_layout *layout, dnnl_engine_t engine, void *data);
dnnl_status_t onednn_memory_set(dnnl_memory_t memory, void *data, dnnl_stream_t stream);

/* A convolution without bias and dilation, computed directly. in and out are the forward pass's also for its gradients. */
struct onednn_conv_arrays {
	const struct onednn_layout *in, *weights, *out;
	const int64_t *strides, *pads; /* height, width; the same on both sides */
};
dnnl_status_t onednn_conv_forward_desc(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const struct onednn_conv_arrays *conv,
				       const_dnnl_primitive_attr_t attributes);
/* forward: the pass that these are the gradients of. */
dnnl_status_t onednn_conv_data_desc(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const struct onednn_conv_arrays *conv,
				    const_dnnl_primitive_desc_t forward, const_dnnl_primitive_attr_t attributes);
dnnl_status_t onednn_conv_weights_desc(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const struct onednn_conv_arrays *conv,
				       const_dnnl_primitive_desc_t forward, const_dnnl_primitive_attr_t attributes);
/* result = left right */
dnnl_status_t onednn_product_desc(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const struct onednn_layout *left,
				  const struct onednn_layout *right, const struct onednn_layout *result,
				  const_dnnl_primitive_attr_t attributes);
dnnl_status_t onednn_reorder_desc(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const struct onednn_layout *from,
				  const struct onednn_layout *to, const_dnnl_primitive_attr_t attributes);
/* The result is added to what is there. */
dnnl_status_t onednn_append_sum(dnnl_post_ops_t ops);

#endif
#endif
