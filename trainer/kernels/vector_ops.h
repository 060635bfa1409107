/*
 * vector_ops.h - operations on flat float32 arrays: optimizer steps, norms, perturbations.
 *
 * All sums over an array are computed in fixed chunks added in a fixed order,
 * so the same thread count (in fact any) gives the same bits.
 */
#ifndef TRAINER_KERNELS_VECTOR_OPS_H
#define TRAINER_KERNELS_VECTOR_OPS_H

#include <stddef.h>
#include <stdint.h>

struct adamw_step {
	float lr, beta1, beta2, eps;
	float decay;              /* decoupled: value -= lr * decay * value, before the update (torch.optim.AdamW) */
	float correction1, correction2; /* 1 - beta^t */
	float grad_scale;         /* multiplies the gradient first (clipping) */
};
struct sgd_step {
	float lr, momentum, decay, grad_scale; /* torch.optim.SGD with decay decoupled or 0 */
	int first;                /* the momentum buffer starts as the first gradient */
};

struct vector_ops {
	void (*fill)(float *x, size_t n, float value);
	void (*copy)(float *out, const float *x, size_t n);
	void (*scale)(float *x, size_t n, float by);
	void (*axpy)(float *y, const float *x, size_t n, float a); /* y += a*x */
	void (*add)(float *out, const float *a, const float *b, size_t n);
	double (*sum_squares)(const float *x, size_t n);
	double (*dot)(const float *a, const float *b, size_t n);
	int (*all_finite)(const float *x, size_t n);
	/* rows of a (total, width) array grouped by offsets (groups+1): sum of squares of each group */
	void (*group_sum_squares)(const float *x, const uint32_t *offsets, int groups, int width, double *out);
	/* out = x + scale[g] * d for the rows of group g */
	void (*group_axpy)(float *out, const float *x, const float *d, const uint32_t *offsets, int groups, int width,
			   const float *scale);
	void (*adamw)(float *value, const float *grad, float *m, float *v, size_t n, const struct adamw_step *step);
	void (*sgd)(float *value, const float *grad, float *momentum, size_t n, const struct sgd_step *step);
};

const struct vector_ops *vector_ops_reference(void);
const struct vector_ops *vector_ops_fast(void);

#endif
