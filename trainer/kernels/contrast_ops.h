/*
 * contrast_ops.h - what the contrastive task computes on features: unit
 * vectors, the InfoNCE loss over a batch, ranks over a whole split.
 *
 * Matrices are row-major float32; sums run in double, in an order that depends
 * on sizes alone, so any number of threads gives the same bits.
 *
 * Two samples with the same picture or the same text are each other's neither
 * right nor wrong answer: they are left out of both softmaxes and of all ranks.
 *
 * Threads: one caller; the OpenMP team works inside.
 */
#ifndef TRAINER_KERNELS_CONTRAST_OPS_H
#define TRAINER_KERNELS_CONTRAST_OPS_H

#include <stddef.h>
#include <stdint.h>

enum { CONTRAST_WORK = 3 }; /* doubles for each sample that info_nce() needs */

/* A row's answer is beaten by a wrong one that is not at least so much farther:
 * equal vectors (a collapsed model) must not win by the rounding of a sum. */
#define CONTRAST_TIE 1e-6f

struct contrast_info {
	const uint32_t *picture, *text; /* (n) samples with an equal number have the same picture, the same text */
	int n;
	float log_scale;                /* logits are exp(log_scale) * scores */
};

/* One block of similarities, for ranks: row r is caption r of the block, column p picture p. */
struct contrast_block {
	float *scores;                /* (rows, pictures) */
	int rows, pictures;
	const uint32_t *related_at;   /* (rows + 1) into related */
	const uint32_t *related;      /* pictures that have the caption's text, its own among them */
	float scale;                  /* exp(log_scale) */
};

struct contrast_ops {
	/* y (rows, width) = x / max(|x|, 1e-12), as torch.nn.functional.normalize; length (rows) = that maximum. y may be x. */
	void (*unit_rows)(float *y, float *length, const float *x, int rows, int width);
	/* dx = (dy - y (y . dy)) / length; dx may be dy */
	void (*unit_rows_backward)(float *dx, const float *dy, const float *y, const float *length, int rows, int width);

	/* van den Oord, Li and Vinyals, "Representation learning with contrastive predictive coding", 2018, in both
	 * directions as in Radford et al., "Learning transferable visual models from natural language supervision", ICML
	 * 2021. scores (n, n): row i is picture i, column j caption j. With l = exp(log_scale) * scores and the sums over
	 * what is not left out,
	 *     loss = 1/(2n) * sum over i of (log sum_j exp(l_ij) - l_ii) + (log sum_j exp(l_ji) - l_ii)
	 * dscores = its gradient; *dlog_scale that of log_scale; *correct counts the rows and columns whose own one is
	 * larger than every other (0..2n). work: CONTRAST_WORK * n doubles. */
	double (*info_nce)(float *dscores, const float *scores, const struct contrast_info *info, double *work,
			   double *dlog_scale, int *correct);

	/* Takes the related out of a block (they become -infinity). */
	void (*rank_mask)(struct contrast_block block);
	/* For each row r of a masked block: beaten[r] counts the pictures that are not clearly farther than own[r],
	 * sum[r] = sum of exp(scale * (score - 1)). */
	void (*rank_rows)(struct contrast_block block, const float *own, uint32_t *beaten, double *sum);
	/* The same for each picture, added up from block to block, against best (pictures). */
	void (*rank_columns)(struct contrast_block block, const float *best, uint32_t *beaten, double *sum);
};

const struct contrast_ops *contrast_ops_reference(void);
const struct contrast_ops *contrast_ops_fast(void);

#endif
