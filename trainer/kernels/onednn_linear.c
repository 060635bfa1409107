/*
 * onednn_linear.c - the text tower's matrix products in bf16: operands are
 * rounded into scratch memory, oneDNN multiplies them and sums in float.
 *
 * Weights are rounded for each product, which reads them once from memory, as a
 * product of floats would. A product's number of rows differs from batch to batch, so it
 * is left open when its primitive is made: nothing is generated anew for a batch
 * of another length, and the library's product for open sizes is as fast (500
 * of 510 GFLOP/s a core at BERT's shapes).
 *
 * There is one set of primitives and scratch memory for the whole program (one
 * caller, as everywhere in kernels/); encoder_reserve() adds to it, nothing is given back.
 */
#include "trainer/kernels/onednn_parts.h"

#include "trainer/kernels/dense_parts.h"

#if defined(HAVE_ONEDNN_API)
#include <string.h>

#include "trainer/kernels/image_rows.h"

enum product_kind { FORWARD, INPUT, WEIGHTS, KINDS };

enum { PRODUCTS_MAX = 256 };

/* One primitive: y = x w^T, dx = dy w, or dw += dy^T x. */
struct product {
	enum product_kind kind;
	int in, out, ld; /* ld: of the result */
	bool adds;
	dnnl_primitive_t primitive;
};

static struct {
	dnnl_engine_t engine;
	dnnl_stream_t stream;
	struct product products[PRODUCTS_MAX];
	int count;
	struct scratch left, right; /* operands in bf16 */
} own;

/* Matrices as the library sees them; the open size, DNNL_RUNTIME_DIM_VAL, until a call fills it in. */
struct matrices {
	struct onednn_layout left, right, result;
};

static void free_matrices(struct matrices *m)
{
	onednn_layout_free(&m->left);
	onednn_layout_free(&m->right);
	onednn_layout_free(&m->result);
}

static dnnl_status_t matrices_of(struct matrices *m, const struct product *p, int64_t rows)
{
	dnnl_status_t status;

	*m = (struct matrices){ 0 };
	switch (p->kind) {
	case FORWARD:
		if ((status = onednn_matrix(&m->left, dnnl_bf16, rows, p->in, p->in, 1)) != dnnl_success ||
		    (status = onednn_matrix(&m->right, dnnl_bf16, p->in, p->out, 1, p->in)) != dnnl_success)
			return status;
		return onednn_matrix(&m->result, dnnl_f32, rows, p->out, p->ld, 1);
	case INPUT:
		if ((status = onednn_matrix(&m->left, dnnl_bf16, rows, p->out, p->out, 1)) != dnnl_success ||
		    (status = onednn_matrix(&m->right, dnnl_bf16, p->out, p->in, p->in, 1)) != dnnl_success)
			return status;
		return onednn_matrix(&m->result, dnnl_f32, rows, p->in, p->ld, 1);
	default:
		if ((status = onednn_matrix(&m->left, dnnl_bf16, p->out, rows, 1, p->out)) != dnnl_success ||
		    (status = onednn_matrix(&m->right, dnnl_bf16, rows, p->in, p->in, 1)) != dnnl_success)
			return status;
		return onednn_matrix(&m->result, dnnl_f32, p->out, p->in, p->ld, 1);
	}
}

static dnnl_status_t make_primitive(struct product *p)
{
	struct matrices m;
	dnnl_status_t status = matrices_of(&m, p, DNNL_RUNTIME_DIM_VAL);

	if (status == dnnl_success)
		status = onednn_product(&p->primitive, own.engine, &m.left, &m.right, &m.result, p->adds);
	free_matrices(&m);
	return status;
}

static const struct product *find(struct product wanted)
{
	for (int i = 0; i < own.count; i++) {
		const struct product *p = &own.products[i];

		if (p->kind == wanted.kind && p->in == wanted.in && p->out == wanted.out && p->ld == wanted.ld &&
		    p->adds == wanted.adds)
			return p;
	}
	return NULL;
}

static int plan_product(struct product wanted, struct err *err)
{
	if (find(wanted) != NULL)
		return 0;
	if (own.count == PRODUCTS_MAX)
		return err_set(err, ERR_LIMIT, "a text tower with more than %d different products; use --precision fp32", PRODUCTS_MAX);
	if (own.engine == NULL && (dnnl_engine_create(&own.engine, dnnl_cpu, 0) != dnnl_success ||
				   dnnl_stream_create(&own.stream, own.engine, dnnl_stream_default_flags) != dnnl_success))
		return err_set(err, ERR_UNSUPPORTED, "oneDNN: no processor engine; use --precision fp32");
	if (make_primitive(&wanted) != dnnl_success)
		return err_set(err, ERR_UNSUPPORTED,
			       "oneDNN cannot plan a product in bf16 of %d by %d (or memory is short); use --precision fp32",
			       wanted.in, wanted.out);
	own.products[own.count++] = wanted;
	return 0;
}

static size_t max_of(size_t a, size_t b)
{
	return a > b ? a : b;
}

static int reserve(struct linear_shape s, struct err *err)
{
	size_t rows = (size_t)s.rows, in = (size_t)s.in, out = (size_t)s.out, widest = max_of(in, out);
	int rc = scratch_reserve(&own.left, rows * widest * sizeof(uint16_t), err);

	if (rc == 0)
		rc = scratch_reserve(&own.right, max_of(in * out, rows * in) * sizeof(uint16_t), err);
	for (int adds = 0; adds < 2 && rc == 0; adds++) {
		rc = plan_product((struct product){ FORWARD, s.in, s.out, s.ldy, adds, NULL }, err);
		if (rc == 0)
			rc = plan_product((struct product){ INPUT, s.in, s.out, s.ldx, adds, NULL }, err);
	}
	return rc < 0 ? rc : plan_product((struct product){ WEIGHTS, s.in, s.out, s.ldw, true, NULL }, err);
}

/* x (rows, width; ld) without gaps, rounded. */
static void round_rows(struct scratch *to, const float *x, int rows, int width, int ld)
{
	const struct image_rows *kernels = image_rows_bf16();

	CHECK((size_t)rows * (size_t)width * sizeof(uint16_t) <= to->bytes);
#pragma omp parallel for schedule(static) if (worth_threads(rows, width))
	for (int r = 0; r < rows; r++)
		kernels->store(x + (size_t)r * (size_t)ld, (size_t)width, (uint16_t *)to->data + (size_t)r * (size_t)width);
}

static void multiply(struct product wanted, int rows, float *result)
{
	const struct product *p = find(wanted);
	dnnl_memory_t left, right, to;
	struct matrices m;

	CHECK(p != NULL); /* encoder_reserve() has been asked for this shape */
	CHECK(matrices_of(&m, p, rows) == dnnl_success &&
	      onednn_memory(&left, &m.left, own.engine, own.left.data) == dnnl_success &&
	      onednn_memory(&right, &m.right, own.engine, own.right.data) == dnnl_success &&
	      onednn_memory(&to, &m.result, own.engine, result) == dnnl_success);
	dnnl_exec_arg_t args[] = { { DNNL_ARG_SRC, left }, { DNNL_ARG_WEIGHTS, right }, { DNNL_ARG_DST, to } };

	CHECK(dnnl_primitive_execute(p->primitive, own.stream, 3, args) == dnnl_success);
	dnnl_memory_destroy(left);
	dnnl_memory_destroy(right);
	dnnl_memory_destroy(to);
	free_matrices(&m);
}

static void linear(float *y, const float *x, const float *w, const float *bias, struct linear_shape s, bool accumulate)
{
	if (s.rows == 0)
		return;
	if (bias != NULL)
		dense_spread_bias(y, bias, s, accumulate);
	round_rows(&own.left, x, s.rows, s.in, s.ldx);
	round_rows(&own.right, w, s.out, s.in, s.ldw);
	multiply((struct product){ FORWARD, s.in, s.out, s.ldy, bias != NULL || accumulate, NULL }, s.rows, y);
}

static void linear_input(float *dx, const float *dy, const float *w, struct linear_shape s, bool accumulate)
{
	if (s.rows == 0)
		return;
	round_rows(&own.left, dy, s.rows, s.out, s.ldy);
	round_rows(&own.right, w, s.out, s.in, s.ldw);
	multiply((struct product){ INPUT, s.in, s.out, s.ldx, accumulate, NULL }, s.rows, dx);
}

static void linear_weights(float *dw, const float *dy, const float *x, struct linear_shape s)
{
	if (s.rows == 0)
		return;
	round_rows(&own.left, dy, s.rows, s.out, s.ldy);
	round_rows(&own.right, x, s.rows, s.in, s.ldx);
	multiply((struct product){ WEIGHTS, s.in, s.out, s.ldw, true, NULL }, s.rows, dw);
}

const struct dense_ops *dense_ops_bf16(void)
{
	static struct dense_ops ops;

	if (image_rows_bf16() == NULL)
		return NULL;
	ops = *dense_ops_fast();
	ops.encoder_reserve = reserve;
	ops.encoder_linear = linear;
	ops.encoder_linear_input = linear_input;
	ops.encoder_linear_weights = linear_weights;
	return &ops;
}

#else

const struct dense_ops *dense_ops_bf16(void)
{
	return NULL;
}

#endif
