/*
 * row_ops.h - the vector loops of the dense kernels over one row or segment.
 *
 * One body (row_body.h) is compiled for AVX-512, AVX2 with FMA and the
 * compiler's default; row_ops() picks by what the processor has. Lengths are
 * arbitrary; nothing needs alignment. Private to kernels/.
 */
#ifndef TRAINER_KERNELS_ROW_OPS_H
#define TRAINER_KERNELS_ROW_OPS_H

#include "trainer/kernels/dropout.h"

/* A dropout site with its key and scale worked out once. */
struct mask_source {
	struct rng_key key;
	uint32_t step;
	uint32_t threshold; /* words below it are dropped; all are when scale is 0 */
	float scale;
};

/* One head of one caption. Pointers are at the head's first column. */
struct attend_args {
	int queries, length, width; /* width: of the head */
	int ldq, ldkv, ldctx;
	size_t ldprobs;             /* from one query's probabilities to the next one's */
	float scale;                /* 1 / sqrt(width) */
	const struct mask_source *mask; /* NULL: no dropout */
	uint32_t position, head;
};

struct row_ops {
	const char *name;
	/* out (n rounded up to DROPOUT_GROUP): 0 or mask->scale; channel is a multiple of DROPOUT_GROUP */
	void (*factors)(float *out, int n, const struct mask_source *mask, uint32_t channel, uint32_t position,
			uint32_t token);
	void (*bias_gelu)(float *y, float *pre, const float *bias, int n);
	void (*gelu_backward)(float *dy, float *y, const float *pre, int n);
	/* sum = (sum + bias) * factors + residual; each of the three may be NULL */
	void (*residual)(float *sum, const float *bias, const float *factors, const float *residual, int n);
	void (*norm)(float *y, float *mean, float *rstd, const float *x, const float *gamma, const float *beta, float eps,
		     int n);
	void (*norm_backward)(float *dx, const float *dy, const float *x, float mean, float rstd, const float *gamma, int n);
	/* dgamma += dy * (x - mean) * rstd; dbeta += dy */
	void (*norm_columns)(float *dgamma, float *dbeta, const float *dy, const float *x, float mean, float rstd, int n);
	void (*add)(float *y, const float *x, int n);                  /* y += x */
	void (*sum2)(float *y, const float *a, const float *b, int n); /* y = a + b */
	void (*sum3)(float *y, const float *a, const float *b, const float *c, int n);
	void (*multiply)(float *y, const float *a, const float *b, int n);     /* y = a * b */
	void (*multiply_add)(float *y, const float *a, const float *b, int n); /* y += a * b */
	void (*bias_relu)(float *z, const float *bias, int n); /* bias NULL: none */
	void (*relu_mask)(float *dz, const float *z, int n);   /* dz = 0 where z is not positive */
	void (*attend)(float *ctx, float *probs, const float *q, const float *k, const float *v,
		       const struct attend_args *args);
	/* overwrites dq, dk, dv */
	void (*attend_backward)(float *dq, float *dk, float *dv, const float *dctx, const float *ctx, const float *probs,
				const float *q, const float *k, const float *v, const struct attend_args *args);
};

extern const struct row_ops row_ops_avx512, row_ops_avx2, row_ops_plain;
/* The best one this processor runs. */
const struct row_ops *row_ops(void);
/* Takes the one named avx512, avx2 or plain from now on, for tests; false: not on this processor. */
bool row_ops_use(const char *name);

#endif
