/* The plain version of products in bf16: operands are rounded, the plain product of floats does the rest. An oracle;
 * every call allocates. */
#include "shared/base/mem.h"
#include "trainer/kernels/bf16.h"
#include "trainer/kernels/dense_ops.h"

/* x (rows, ld) with every element rounded to what bf16 can hold. */
static float *rounded(const float *x, int rows, int width, int ld)
{
	float *y = mem_array((size_t)rows * (size_t)ld + 1, sizeof(*y));

	CHECK(y != NULL);
	for (int r = 0; r < rows; r++)
		for (int i = 0; i < width; i++)
			y[(size_t)r * (size_t)ld + (size_t)i] = bf16_to_float(bf16_from_float(x[(size_t)r * (size_t)ld + (size_t)i]));
	return y;
}

static void linear(float *y, const float *x, const float *w, const float *bias, struct linear_shape s, bool accumulate)
{
	float *x16 = rounded(x, s.rows, s.in, s.ldx), *w16 = rounded(w, s.out, s.in, s.ldw);

	dense_ops_reference()->linear(y, x16, w16, bias, s, accumulate);
	mem_free(x16);
	mem_free(w16);
}

static void linear_input(float *dx, const float *dy, const float *w, struct linear_shape s, bool accumulate)
{
	float *dy16 = rounded(dy, s.rows, s.out, s.ldy), *w16 = rounded(w, s.out, s.in, s.ldw);

	dense_ops_reference()->linear_input(dx, dy16, w16, s, accumulate);
	mem_free(dy16);
	mem_free(w16);
}

static void linear_weights(float *dw, const float *dy, const float *x, struct linear_shape s)
{
	float *dy16 = rounded(dy, s.rows, s.out, s.ldy), *x16 = rounded(x, s.rows, s.in, s.ldx);

	dense_ops_reference()->linear_weights(dw, dy16, x16, s);
	mem_free(dy16);
	mem_free(x16);
}

const struct dense_ops *dense_ops_bf16_reference(void)
{
	static struct dense_ops ops;

	ops = *dense_ops_reference();
	ops.encoder_linear = linear;
	ops.encoder_linear_input = linear_input;
	ops.encoder_linear_weights = linear_weights;
	return &ops;
}
