/*
 * dense_ops.h - matrix products, text-tower and fusion operations on float32.
 *
 * Matrices are row-major. A text batch is packed: T token rows, caption c in
 * rows offsets[c] .. offsets[c+1]. "+=" marks outputs that are added to
 * (parameter gradients); everything else is overwritten.
 *
 * Determinism: every sum runs in an order that depends on sizes alone or on
 * sizes and the number of threads; the same input on the same number of
 * threads gives the same bits.
 *
 * Dropout draws by name, not by place (struct dropout_spec), so masks are
 * never stored: backward draws them again. A kept element is multiplied by
 * 1 / (1 - probability) as in torch.nn.Dropout.
 *
 * Gradients of parameters are passed as NULL where they are not wanted (dgamma and dbeta together).
 *
 * Threads: one caller; the OpenMP team works inside.
 * Limits:  widths and leading dimensions fit an int; attention heads are at
 *          most DENSE_HEAD_MAX wide.
 */
#ifndef TRAINER_KERNELS_DENSE_OPS_H
#define TRAINER_KERNELS_DENSE_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/base/err.h"

enum { DENSE_HEAD_MAX = 256, DENSE_SCORE_ALIGN = 16 };

/* probability and branch 0: no dropout, nothing else is read. */
struct dropout_spec {
	float probability;
	uint32_t layer;            /* added to RNG_DROPOUT */
	uint64_t seed, step;
	const uint32_t *positions; /* of each group (caption) in the global batch; NULL: 0, 1, 2 ... */
	float branch;              /* residual_norm: probability that a group's whole branch is dropped (stochastic depth) */
};

/* y (rows, out) = x (rows, in) w (out, in)^T + bias (out). */
struct linear_shape {
	int rows, in, out;
	int ldx, ldw, ldy; /* elements from one row to the next: >= in, in, out */
};

/* The packed batch of a text operation. */
struct packed_rows {
	const uint32_t *offsets; /* (groups + 1) */
	int groups;
	bool first_only;         /* the operation's rows are the first of each group: row c is token 0 of group c */
};

struct attention_shape {
	const uint32_t *offsets; /* (captions + 1) */
	int captions, heads, head_width;
	int ldq, ldkv;           /* of q and dq; of k, v, dk, dv */
	int ldctx;
	int ldprobs;             /* >= longest caption, multiple of DENSE_SCORE_ALIGN */
	bool first_only;         /* queries (and ctx, probs) have one row per caption: its first token */
};

struct norm_weights {
	const float *gamma, *beta; /* (width) */
	float eps;
};

struct dense_ops {
	/* bias NULL: none. accumulate: y += */
	void (*linear)(float *y, const float *x, const float *w, const float *bias, struct linear_shape s, bool accumulate);
	/* dx (rows, in) = dy (rows, out) w; accumulate: dx += */
	void (*linear_input)(float *dx, const float *dy, const float *w, struct linear_shape s, bool accumulate);
	/* dw (out, in) += dy^T x */
	void (*linear_weights)(float *dw, const float *dy, const float *x, struct linear_shape s);
	/* The same three for the text tower's encoder layers: in a bf16 table the operands are rounded to bf16, products
	 * and sums stay float. encoder_reserve: before the first of them of a shape, rows being the most there will be. */
	int (*encoder_reserve)(struct linear_shape s, struct err *err);
	void (*encoder_linear)(float *y, const float *x, const float *w, const float *bias, struct linear_shape s,
			       bool accumulate);
	void (*encoder_linear_input)(float *dx, const float *dy, const float *w, struct linear_shape s, bool accumulate);
	void (*encoder_linear_weights)(float *dw, const float *dy, const float *x, struct linear_shape s);
	/* out (width) += sum of rows of x (rows, width; ldx) */
	void (*sum_rows)(float *out, const float *x, int rows, int width, int ldx);

	/* pre += bias, in place; y = gelu(pre), the erf form. (rows, width) */
	void (*bias_gelu)(float *y, float *pre, const float *bias, int rows, int width);
	/* dy becomes the gradient of pre; y (may be NULL) is computed again from pre */
	void (*gelu_backward)(float *dy, float *y, const float *pre, int rows, int width);

	/* sum (rows, width) = dropout(sum + bias) + residual; y = LayerNorm(sum); mean, rstd (rows).
	 * bias, residual NULL: none. Rows are named by `rows_of` for dropout. */
	void (*residual_norm)(float *y, float *sum, float *mean, float *rstd, const float *bias, const float *residual,
			      struct norm_weights norm, int width, struct packed_rows rows, const struct dropout_spec *drop);
	/* dsum (rows, width) = gradient of sum from dy; dgamma, dbeta +=. dinner = dropout mask * dsum, the gradient
	 * before dropout, and dbias += its column sums. dinner, dbias NULL: not wanted. dsum may be dy. */
	void (*residual_norm_backward)(float *dsum, float *dinner, float *dgamma, float *dbeta, float *dbias,
				       const float *dy, const float *sum, const float *mean, const float *rstd,
				       struct norm_weights norm, int width, struct packed_rows rows,
				       const struct dropout_spec *drop);

	/* BERT's input: sum = word + type + position[token]; y = dropout(LayerNorm(sum)). first_only is not used. */
	void (*embed_norm)(float *y, float *sum, float *mean, float *rstd, const float *word, const float *position,
			   const float *type, struct norm_weights norm, int width, struct packed_rows rows,
			   const struct dropout_spec *drop);
	/* dy is overwritten. dsum (T, width) is the gradient of word; dposition, dtype, dgamma, dbeta += */
	void (*embed_norm_backward)(float *dsum, float *dposition, float *dtype, float *dgamma, float *dbeta, float *dy,
				    const float *sum, const float *mean, const float *rstd, struct norm_weights norm,
				    int width, struct packed_rows rows, const struct dropout_spec *drop);

	/* Per caption and head: probs = softmax(q k^T / sqrt(head_width)), ctx = dropout(probs) v.
	 * q (rows, ldq), k, v (T, ldkv): head h is columns h*head_width ...; probs (rows, heads, ldprobs). */
	void (*attention)(float *ctx, float *probs, const float *q, const float *k, const float *v,
			  struct attention_shape s, const struct dropout_spec *drop);
	/* ctx: the forward call's result */
	void (*attention_backward)(float *dq, float *dk, float *dv, const float *dctx, const float *ctx,
				   const float *probs, const float *q, const float *k, const float *v,
				   struct attention_shape s, const struct dropout_spec *drop);

	/* out (n, width) = rows ids[i] of table */
	void (*gather_rows)(float *out, const float *table, const int32_t *ids, int n, int width);
	/* row ids[i] of table += row i of x, in order of i; ids[i] == skip_id is left out (-1: none is) */
	void (*scatter_rows)(float *table, const float *x, const int32_t *ids, int n, int width, int32_t skip_id);
	/* out (groups, width) = first row of each group; and its reverse, += into x */
	void (*gather_first)(float *out, const float *x, struct packed_rows rows, int width);
	void (*scatter_first)(float *x, const float *rows_of, struct packed_rows rows, int width);

	/* x (N, 2*width) = dropout([v[picture], t[caption]]): one mask per pair, named by the positions
	 * (picture's, caption's; NULL: row numbers) and the column. */
	void (*pair_concat)(float *x, const float *v, const float *t, const uint32_t *picture, const uint32_t *caption,
			    const uint32_t *picture_positions, const uint32_t *caption_positions, int n, int width,
			    const struct dropout_spec *drop);
	/* dv (B, width), dt (C, width) = sums over the pairs of mask * dx */
	void (*pair_concat_backward)(float *dv, float *dt, const float *dx, const uint32_t *picture,
				     const uint32_t *caption, const uint32_t *picture_positions,
				     const uint32_t *caption_positions, int n, int pictures, int captions, int width,
				     const struct dropout_spec *drop);
	/* out (N, width) = a[picture] + b[caption] */
	void (*pair_sum)(float *out, const float *a, const float *b, const uint32_t *picture, const uint32_t *caption, int n,
			 int width);
	/* da (B, width), db (C, width) = sums of dout over the pairs */
	void (*pair_sum_backward)(float *da, float *db, const float *dout, const uint32_t *picture,
				  const uint32_t *caption, int n, int pictures, int captions, int width);

	/* z = relu(z + bias) in place; y = LayerNorm(z); (rows, width). bias NULL: none */
	void (*relu_norm)(float *y, float *z, float *mean, float *rstd, const float *bias, struct norm_weights norm, int rows,
			  int width);
	/* dz = gradient before relu (and of the bias: dbias +=); dgamma, dbeta +=. dz may be dy. */
	void (*relu_norm_backward)(float *dz, float *dgamma, float *dbeta, float *dbias, const float *dy, const float *z,
				   const float *mean, const float *rstd, struct norm_weights norm, int rows, int width);

	/* Softmax cross-entropy of logits (n, classes). dlogits = weight * (softmax - one-hot), weight NULL: 1/n.
	 * Returns the sum of weight * loss; *correct counts argmax == label, the lowest class winning ties. */
	double (*cross_entropy)(float *dlogits, const float *logits, const int32_t *labels, const float *weight, int n,
				int classes, int *correct);
};

const struct dense_ops *dense_ops_reference(void);
const struct dense_ops *dense_ops_fast(void);
/* The fast table with encoder layers in bf16, by oneDNN. NULL: not built in, or the processor lacks the instructions. */
const struct dense_ops *dense_ops_bf16(void);
/* The plain version of that. */
const struct dense_ops *dense_ops_bf16_reference(void);

/* Threads of OpenBLAS's products; kernels_set_threads() calls it. Warns when
 * the library is not its OpenMP build, and tells when the environment slows it down. */
void dense_set_threads(int threads);

#endif
