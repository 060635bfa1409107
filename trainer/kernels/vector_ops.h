/*
 * vector_ops.h - operations on flat float32 arrays: optimizer steps, norms, perturbations.
 *
 * Every element of an output is computed by the same operations in the same
 * order in both tables, rounded after each (no fused multiply-add), so the
 * reference and the fast version agree bit for bit. Sums run in double over
 * chunks that depend on the length alone and are added in a fixed order, so
 * any thread count gives the same bits; the two tables' sums differ in the
 * last places of a double.
 *
 * Threads:   one caller; long arrays are divided among the OpenMP team.
 * Ownership: everything borrowed for the call. out may be the same array as an input, else no overlap.
 */
#ifndef TRAINER_KERNELS_VECTOR_OPS_H
#define TRAINER_KERNELS_VECTOR_OPS_H

#include <stddef.h>
#include <stdint.h>

/* Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019, in
 * the order of torch.optim.AdamW:
 *     value *= 1 - lr*decay
 *     m = beta1*m + (1-beta1)*g;  v = beta2*v + (1-beta2)*g*g
 *     value -= lr/correction1 * m / (sqrt(v)/sqrt(correction2) + eps)
 * The scalars are doubles because PyTorch computes them in Python. */
struct adamw_step {
	double lr, beta1, beta2, eps; /* eps > 0 */
	double decay;                 /* decoupled */
	double correction1, correction2; /* 1 - beta^t, t from 1 */
	float grad_scale;             /* multiplies the gradient first (clipping) */
	int clear;                    /* the gradient is zero afterwards: cheaper here, where it is in cache, than in a pass of its own */
};
/* torch.optim.SGD with dampening 0, no Nesterov; decay is decoupled here:
 *     value *= 1 - lr*decay;  buf = first ? g : momentum*buf + g;  value -= lr*buf */
struct sgd_step {
	double lr, momentum, decay;
	float grad_scale;
	int first;                /* the momentum buffer starts as the first gradient */
	int clear;                /* as above */
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
	/* out = x + scale[g] * sign(d), sign(0) = 0 */
	void (*group_axpy_sign)(float *out, const float *x, const float *d, const uint32_t *offsets, int groups, int width,
				const float *scale);
	/* logits (n, k): correct[i] = 1 where the first largest of row i is label[i], else 0 (also where a row has a NaN) */
	void (*row_correct)(const float *logits, const int32_t *label, int n, int k, uint8_t *correct);
	void (*adamw)(float *value, float *grad, float *m, float *v, size_t n, const struct adamw_step *step);
	void (*sgd)(float *value, float *grad, float *momentum, size_t n, const struct sgd_step *step);
};

const struct vector_ops *vector_ops_reference(void);
const struct vector_ops *vector_ops_fast(void);

#endif
