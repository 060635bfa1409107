/*
 * reg_ops.h - operations that only regularizers need: soft targets, divergences,
 * mixing of rows, masks, random perturbations and their bounds, moves of weights.
 *
 * Groups are runs of rows of a (rows, width) array, given by offsets (groups + 1).
 * Random numbers are named (shared/base/rng.h): element (position, token,
 * channel) of a step is the same however a batch is packed or split.
 *
 * Losses and norms are summed in double in an order that depends on sizes
 * alone, so any number of threads gives the same bits.
 *
 * Threads:   one caller; long arrays are divided among the OpenMP team.
 * Ownership: everything borrowed for the call.
 */
#ifndef TRAINER_KERNELS_REG_OPS_H
#define TRAINER_KERNELS_REG_OPS_H

#include "trainer/kernels/dense_ops.h"

/* Targets that are not one class: share[i] of label[i] and the rest of other[i] (both NULL: label
 * alone), of which `smooth` is spread evenly over all classes. */
struct soft_labels {
	const int32_t *label, *other; /* (n) */
	const float *share;           /* (n) */
	double smooth;
};

enum random_kind { RANDOM_NORMAL, RANDOM_UNIFORM, RANDOM_SIGN }; /* N(0, 1); (-1, 1); -1 or 1 */

struct random_source {
	enum random_kind kind;
	uint64_t seed, step;
	uint32_t domain;              /* rng_domain */
	const uint32_t *position, *token; /* (rows) names; NULL: 0 */
};

/* Pictures as they are trained on: (n, 3, plane), or (n, plane, 3) when nhwc. */
struct pixel_rows {
	int n, plane;
	bool nhwc;
};

struct reg_ops {
	/* dlogits = weight * (softmax - target), weight NULL: 1/n; returns the sum of weight * cross-entropy */
	double (*soft_cross_entropy)(float *dlogits, const float *logits, const struct soft_labels *soft, const float *weight,
				     int n, int classes);
	/* sum of weight * (KL(p||q) + KL(q||p)) of p = softmax(a), q = softmax(b), and scale times its gradients: da +=, db +=
	 * (each NULL: not wanted) */
	double (*symmetric_kl)(float *da, float *db, const float *a, const float *b, const float *weight, double scale, int n,
			       int classes);

	/* out (n, width) row i = share[i] * x[row[i]] + (1 - share[i]) * x[other[i]]; share NULL: x[row[i]] */
	void (*mix_rows)(float *out, const float *x, const uint32_t *row, const uint32_t *other, const float *share, int n,
			 int width);
	/* Its transpose: dx (rows, width), overwritten */
	void (*mix_rows_backward)(float *dx, const float *dout, const uint32_t *row, const uint32_t *other, const float *share,
				  int n, int rows, int width);
	/* out (n, 2*width) = [a, b], and back */
	void (*join)(float *out, const float *a, const float *b, int n, int width);
	void (*split)(float *a, float *b, const float *x, int n, int width);

	/* out = mask * x; row i is named (position[i], token[i]), NULL: (i, 0). out may be x. */
	void (*drop_rows)(float *out, const float *x, int n, int width, const uint32_t *position, const uint32_t *token,
			  const struct dropout_spec *drop);

	void (*random_rows)(float *out, int rows, int width, const struct random_source *source);
	/* Pictures (layout), named by position and the element's place in (3, plane). */
	void (*random_pixels)(float *out, struct pixel_rows layout, const struct random_source *source);

	/* rows of group g *= scale[g] */
	void (*group_scale)(float *x, const uint32_t *offsets, int groups, int width, const float *scale);
	/* rows of group g brought into [-bound[g], bound[g]] */
	void (*group_clip)(float *x, const uint32_t *offsets, int groups, int width, const float *bound);

	/* out = x * by[channel] + add[channel] */
	void (*channel_affine)(float *out, const float *x, struct pixel_rows layout, const float by[3], const float add[3]);
	/* x normalized, delta in picture space, by = 1 / std: out = x + delta * by, and delta is cut so that no element leaves
	 * [low, high] of its channel; one that lies outside already is not moved further out. */
	void (*move_pixels)(float *out, float *delta, const float *x, struct pixel_rows layout, const float by[3],
			    const float low[3], const float high[3]);

	/* ASAM on one tensor: the sum of ((|w| + eta) g)^2, and w += factor * (|w| + eta)^2 * g */
	double (*asam_squares)(const float *w, const float *g, size_t n, double eta);
	void (*asam_move)(float *w, const float *g, size_t n, double eta, double factor);
};

const struct reg_ops *reg_ops_reference(void);
const struct reg_ops *reg_ops_fast(void);

#endif
