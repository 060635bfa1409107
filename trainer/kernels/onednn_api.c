#include "trainer/kernels/onednn_api.h"

#if defined(HAVE_ONEDNN_API)

#if DNNL_VERSION_MAJOR == 2

/* ---- release 2 ---- */

typedef const dnnl_memory_desc_t *desc_pointer;

static desc_pointer desc_of(const struct onednn_layout *layout)
{
	return &layout->desc;
}

dnnl_status_t onednn_layout_by_tag(struct onednn_layout *out, int rank, const dnnl_dims_t dims, dnnl_data_type_t type,
				   dnnl_format_tag_t tag)
{
	return dnnl_memory_desc_init_by_tag(&out->desc, rank, dims, type, tag);
}

dnnl_status_t onednn_layout_by_strides(struct onednn_layout *out, int rank, const dnnl_dims_t dims, dnnl_data_type_t type,
				       const dnnl_dims_t strides)
{
	return dnnl_memory_desc_init_by_strides(&out->desc, rank, dims, type, strides);
}

dnnl_status_t onednn_layout_of(struct onednn_layout *out, const_dnnl_primitive_desc_t primitive, dnnl_query_t what)
{
	desc_pointer found = dnnl_primitive_desc_query_md(primitive, what, 0);

	*out = (struct onednn_layout){ 0 };
	if (found == NULL)
		return dnnl_invalid_arguments;
	out->desc = *found;
	return dnnl_success;
}

void onednn_layout_free(struct onednn_layout *layout)
{
	*layout = (struct onednn_layout){ 0 };
}

dnnl_status_t onednn_memory_set(dnnl_memory_t memory, void *data, dnnl_stream_t stream)
{
	return dnnl_memory_set_data_handle_v2(memory, data, stream);
}

dnnl_status_t onednn_conv_forward_desc(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const struct onednn_conv_arrays *conv,
				       const_dnnl_primitive_attr_t attributes)
{
	dnnl_convolution_desc_t desc;
	dnnl_status_t status = dnnl_convolution_forward_desc_init(&desc, dnnl_forward_training, dnnl_convolution_direct,
								  desc_of(conv->in), desc_of(conv->weights), NULL,
								  desc_of(conv->out), conv->strides, conv->pads, conv->pads);

	return status == dnnl_success ? dnnl_primitive_desc_create(out, &desc, attributes, engine, NULL) : status;
}

dnnl_status_t onednn_conv_data_desc(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const struct onednn_conv_arrays *conv,
				    const_dnnl_primitive_desc_t forward, const_dnnl_primitive_attr_t attributes)
{
	dnnl_convolution_desc_t desc;
	dnnl_status_t status = dnnl_convolution_backward_data_desc_init(&desc, dnnl_convolution_direct, desc_of(conv->in),
									desc_of(conv->weights), desc_of(conv->out),
									conv->strides, conv->pads, conv->pads);

	return status == dnnl_success ? dnnl_primitive_desc_create(out, &desc, attributes, engine, forward) : status;
}

dnnl_status_t onednn_conv_weights_desc(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const struct onednn_conv_arrays *conv,
				       const_dnnl_primitive_desc_t forward, const_dnnl_primitive_attr_t attributes)
{
	dnnl_convolution_desc_t desc;
	dnnl_status_t status = dnnl_convolution_backward_weights_desc_init(&desc, dnnl_convolution_direct, desc_of(conv->in),
									   desc_of(conv->weights), NULL, desc_of(conv->out),
									   conv->strides, conv->pads, conv->pads);

	return status == dnnl_success ? dnnl_primitive_desc_create(out, &desc, attributes, engine, forward) : status;
}

dnnl_status_t onednn_product_desc(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const struct onednn_layout *left,
				  const struct onednn_layout *right, const struct onednn_layout *result,
				  const_dnnl_primitive_attr_t attributes)
{
	dnnl_matmul_desc_t desc;
	dnnl_status_t status = dnnl_matmul_desc_init(&desc, desc_of(left), desc_of(right), NULL, desc_of(result));

	return status == dnnl_success ? dnnl_primitive_desc_create(out, &desc, attributes, engine, NULL) : status;
}

dnnl_status_t onednn_append_sum(dnnl_post_ops_t ops)
{
	return dnnl_post_ops_append_sum(ops, 1.0f);
}

#else

/* ---- release 3 ---- */

typedef const_dnnl_memory_desc_t desc_pointer;

static const dnnl_dims_t NO_DILATION = { 0, 0 };

static desc_pointer desc_of(const struct onednn_layout *layout)
{
	return layout->desc;
}

dnnl_status_t onednn_layout_by_tag(struct onednn_layout *out, int rank, const dnnl_dims_t dims, dnnl_data_type_t type,
				   dnnl_format_tag_t tag)
{
	out->desc = NULL;
	return dnnl_memory_desc_create_with_tag(&out->desc, rank, dims, type, tag);
}

dnnl_status_t onednn_layout_by_strides(struct onednn_layout *out, int rank, const dnnl_dims_t dims, dnnl_data_type_t type,
				       const dnnl_dims_t strides)
{
	out->desc = NULL;
	return dnnl_memory_desc_create_with_strides(&out->desc, rank, dims, type, strides);
}

dnnl_status_t onednn_layout_of(struct onednn_layout *out, const_dnnl_primitive_desc_t primitive, dnnl_query_t what)
{
	desc_pointer found = dnnl_primitive_desc_query_md(primitive, what, 0); /* the primitive's, and gone with it */

	out->desc = NULL;
	return found == NULL ? dnnl_invalid_arguments : dnnl_memory_desc_clone(&out->desc, found);
}

void onednn_layout_free(struct onednn_layout *layout)
{
	if (layout->desc != NULL)
		dnnl_memory_desc_destroy(layout->desc);
	layout->desc = NULL;
}

dnnl_status_t onednn_memory_set(dnnl_memory_t memory, void *data, dnnl_stream_t stream)
{
	(void)stream; /* release 2 wrote zeros behind channels that fill no block; release 3 leaves that to primitives */
	return dnnl_memory_set_data_handle(memory, data);
}

dnnl_status_t onednn_conv_forward_desc(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const struct onednn_conv_arrays *conv,
				       const_dnnl_primitive_attr_t attributes)
{
	return dnnl_convolution_forward_primitive_desc_create(out, engine, dnnl_forward_training, dnnl_convolution_direct,
							      desc_of(conv->in), desc_of(conv->weights), NULL,
							      desc_of(conv->out), conv->strides, NO_DILATION, conv->pads,
							      conv->pads, attributes);
}

dnnl_status_t onednn_conv_data_desc(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const struct onednn_conv_arrays *conv,
				    const_dnnl_primitive_desc_t forward, const_dnnl_primitive_attr_t attributes)
{
	return dnnl_convolution_backward_data_primitive_desc_create(out, engine, dnnl_convolution_direct, desc_of(conv->in),
								    desc_of(conv->weights), desc_of(conv->out),
								    conv->strides, NO_DILATION, conv->pads, conv->pads,
								    forward, attributes);
}

dnnl_status_t onednn_conv_weights_desc(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const struct onednn_conv_arrays *conv,
				       const_dnnl_primitive_desc_t forward, const_dnnl_primitive_attr_t attributes)
{
	return dnnl_convolution_backward_weights_primitive_desc_create(out, engine, dnnl_convolution_direct, desc_of(conv->in),
								       desc_of(conv->weights), NULL, desc_of(conv->out),
								       conv->strides, NO_DILATION, conv->pads, conv->pads,
								       forward, attributes);
}

dnnl_status_t onednn_product_desc(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const struct onednn_layout *left,
				  const struct onednn_layout *right, const struct onednn_layout *result,
				  const_dnnl_primitive_attr_t attributes)
{
	return dnnl_matmul_primitive_desc_create(out, engine, desc_of(left), desc_of(right), NULL, desc_of(result), attributes);
}

dnnl_status_t onednn_append_sum(dnnl_post_ops_t ops)
{
	return dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef); /* undef: the result's type */
}

#endif

/* ---- either ---- */

bool onednn_layout_equal(const struct onednn_layout *a, const struct onednn_layout *b)
{
	return dnnl_memory_desc_equal(desc_of(a), desc_of(b)) != 0;
}

size_t onednn_layout_bytes(const struct onednn_layout *layout)
{
	return dnnl_memory_desc_get_size(desc_of(layout));
}

dnnl_status_t onednn_memory(dnnl_memory_t *out, const struct onednn_layout *layout, dnnl_engine_t engine, void *data)
{
	return dnnl_memory_create(out, desc_of(layout), engine, data);
}

dnnl_status_t onednn_reorder_desc(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const struct onednn_layout *from,
				  const struct onednn_layout *to, const_dnnl_primitive_attr_t attributes)
{
	return dnnl_reorder_primitive_desc_create(out, desc_of(from), engine, desc_of(to), engine, attributes);
}

#endif
