/* The plain version of vector_ops.h: one loop each, no threads. */
#include "trainer/kernels/vector_ops.h"

#include <math.h>
#include <string.h>

static void ref_fill(float *x, size_t n, float value)
{
	for (size_t i = 0; i < n; i++)
		x[i] = value;
}

static void ref_copy(float *out, const float *x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		out[i] = x[i];
}

static void ref_scale(float *x, size_t n, float by)
{
	for (size_t i = 0; i < n; i++)
		x[i] *= by;
}

static void ref_axpy(float *y, const float *x, size_t n, float a)
{
	for (size_t i = 0; i < n; i++)
		y[i] += a * x[i];
}

static void ref_add(float *out, const float *a, const float *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		out[i] = a[i] + b[i];
}

static double ref_dot(const float *a, const float *b, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += (double)a[i] * (double)b[i];
	return sum;
}

static double ref_sum_squares(const float *x, size_t n)
{
	return ref_dot(x, x, n);
}

static int ref_all_finite(const float *x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!isfinite(x[i]))
			return 0;
	return 1;
}

static void ref_group_sum_squares(const float *x, const uint32_t *offsets, int groups, int width, double *out)
{
	for (int g = 0; g < groups; g++)
		out[g] = ref_sum_squares(x + (size_t)offsets[g] * (size_t)width,
					 (size_t)(offsets[g + 1] - offsets[g]) * (size_t)width);
}

static void ref_group_axpy(float *out, const float *x, const float *d, const uint32_t *offsets, int groups, int width,
			   const float *scale)
{
	for (int g = 0; g < groups; g++)
		for (size_t i = (size_t)offsets[g] * (size_t)width; i < (size_t)offsets[g + 1] * (size_t)width; i++)
			out[i] = x[i] + scale[g] * d[i];
}

static void ref_group_axpy_sign(float *out, const float *x, const float *d, const uint32_t *offsets, int groups, int width,
				const float *scale)
{
	for (int g = 0; g < groups; g++)
		for (size_t i = (size_t)offsets[g] * (size_t)width; i < (size_t)offsets[g + 1] * (size_t)width; i++) {
			float sign = d[i] > 0 ? 1.0f : d[i] < 0 ? -1.0f : 0.0f;

			out[i] = x[i] + scale[g] * sign;
		}
}

static void ref_row_correct(const float *logits, const int32_t *label, int n, int k, uint8_t *correct)
{
	for (int i = 0; i < n; i++) {
		const float *row = logits + (size_t)i * (size_t)k;
		int best = 0, finite = 1;

		for (int c = 0; c < k; c++) {
			if (isnan(row[c]))
				finite = 0;
			if (row[c] > row[best])
				best = c;
		}
		correct[i] = finite && best == label[i];
	}
}

static void ref_adamw(float *value, float *grad, float *m, float *v, size_t n, const struct adamw_step *step)
{
	const float keep = (float)(1.0 - step->lr * step->decay);
	const float beta1 = (float)step->beta1, rest1 = (float)(1.0 - step->beta1);
	const float beta2 = (float)step->beta2, rest2 = (float)(1.0 - step->beta2);
	const float root2 = (float)sqrt(step->correction2), eps = (float)step->eps;
	const float rate = (float)(-(step->lr / step->correction1));

	for (size_t i = 0; i < n; i++) {
		float g = grad[i] * step->grad_scale;

		value[i] = value[i] * keep;
		m[i] = m[i] * beta1 + g * rest1;
		v[i] = v[i] * beta2 + rest2 * g * g;
		float denominator = sqrtf(v[i]) / root2 + eps;
		value[i] = value[i] + rate * m[i] / denominator;
		if (step->clear)
			grad[i] = 0.0f;
	}
}

static void ref_sgd(float *value, float *grad, float *momentum, size_t n, const struct sgd_step *step)
{
	const float keep = (float)(1.0 - step->lr * step->decay);
	const float by = (float)step->momentum, rate = (float)-step->lr;

	for (size_t i = 0; i < n; i++) {
		float g = grad[i] * step->grad_scale;

		momentum[i] = step->first ? g : momentum[i] * by + g;
		value[i] = value[i] * keep + rate * momentum[i];
		if (step->clear)
			grad[i] = 0.0f;
	}
}

const struct vector_ops *vector_ops_reference(void)
{
	static const struct vector_ops ops = {
		.fill = ref_fill,
		.copy = ref_copy,
		.scale = ref_scale,
		.axpy = ref_axpy,
		.add = ref_add,
		.sum_squares = ref_sum_squares,
		.dot = ref_dot,
		.all_finite = ref_all_finite,
		.group_sum_squares = ref_group_sum_squares,
		.group_axpy = ref_group_axpy,
		.group_axpy_sign = ref_group_axpy_sign,
		.row_correct = ref_row_correct,
		.adamw = ref_adamw,
		.sgd = ref_sgd,
	};

	return &ops;
}
