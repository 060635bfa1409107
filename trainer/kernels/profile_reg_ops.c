/* profile_reg_ops.c - clocks around the operations of regularizers and of --task contrast; counted as in profile_ops.c. */
#include "trainer/kernels/profile_parts.h"

static const struct reg_ops *reg;
static const struct contrast_ops *contrast;

/* ---- losses on scores ---- */

static double timed_soft_cross_entropy(float *dlogits, const float *logits, const struct soft_labels *soft, const float *weight, int n,
				       int classes)
{
	double loss;

	TIMED(KIND_LOSS, 7.0 * n * classes, 2.0 * F * n * classes,
	      loss = reg->soft_cross_entropy(dlogits, logits, soft, weight, n, classes));
	return loss;
}

static double timed_symmetric_kl(float *da, float *db, const float *a, const float *b, const float *weight, double scale, int n,
				 int classes)
{
	int gradients = (da != NULL) + (db != NULL);
	double kl;

	TIMED(KIND_LOSS, (10.0 + 4 * gradients) * n * classes, (2.0 + 2 * gradients) * F * n * classes,
	      kl = reg->symmetric_kl(da, db, a, b, weight, scale, n, classes));
	return kl;
}

/* ---- rows of features ---- */

static void timed_mix_rows(float *out, const float *x, const uint32_t *row, const uint32_t *other, const float *share, int n, int width)
{
	TIMED(KIND_PAIRS, share != NULL ? 3.0 * n * width : 0, (share != NULL ? 3.0 : 2.0) * F * n * width,
	      reg->mix_rows(out, x, row, other, share, n, width));
}

static void timed_mix_rows_backward(float *dx, const float *dout, const uint32_t *row, const uint32_t *other, const float *share, int n,
				    int rows, int width)
{
	int terms = share != NULL ? 2 : 1;

	TIMED(KIND_PAIRS, (2.0 * terms - 1) * n * width, F * ((double)terms * n + rows) * width,
	      reg->mix_rows_backward(dx, dout, row, other, share, n, rows, width));
}

static void timed_join(float *out, const float *a, const float *b, int n, int width)
{
	TIMED(KIND_COPY, 0, 4.0 * F * n * width, reg->join(out, a, b, n, width));
}

static void timed_split(float *a, float *b, const float *x, int n, int width)
{
	TIMED(KIND_COPY, 0, 4.0 * F * n * width, reg->split(a, b, x, n, width));
}

static void timed_drop_rows(float *out, const float *x, int n, int width, const uint32_t *position, const uint32_t *token,
			    const struct dropout_spec *drop)
{
	TIMED(KIND_NORM_FORWARD, (double)n * width, 2.0 * F * n * width, reg->drop_rows(out, x, n, width, position, token, drop));
}

/* ---- perturbations ---- */

static double pixels(struct pixel_rows layout)
{
	return 3.0 * layout.n * layout.plane;
}

static void timed_random_rows(float *out, int rows, int width, const struct random_source *source)
{
	TIMED(KIND_PERTURB, 0, F * rows * width, reg->random_rows(out, rows, width, source));
}

static void timed_random_pixels(float *out, struct pixel_rows layout, const struct random_source *source)
{
	TIMED(KIND_PERTURB, 0, F * pixels(layout), reg->random_pixels(out, layout, source));
}

static void timed_group_scale(float *x, const uint32_t *offsets, int groups, int width, const float *scale)
{
	double n = (double)offsets[groups] * width;

	TIMED(KIND_PERTURB, n, 2 * F * n, reg->group_scale(x, offsets, groups, width, scale));
}

static void timed_group_clip(float *x, const uint32_t *offsets, int groups, int width, const float *bound)
{
	double n = (double)offsets[groups] * width;

	TIMED(KIND_PERTURB, 2 * n, 2 * F * n, reg->group_clip(x, offsets, groups, width, bound));
}

static void timed_channel_affine(float *out, const float *x, struct pixel_rows layout, const float by[3], const float add[3])
{
	TIMED(KIND_PERTURB, 2 * pixels(layout), 2 * F * pixels(layout), reg->channel_affine(out, x, layout, by, add));
}

static void timed_move_pixels(float *out, float *delta, const float *x, struct pixel_rows layout, const float by[3], const float low[3],
			      const float high[3])
{
	TIMED(KIND_PERTURB, 6 * pixels(layout), 4 * F * pixels(layout), reg->move_pixels(out, delta, x, layout, by, low, high));
}

static double timed_asam_squares(const float *w, const float *g, size_t n, double eta)
{
	double sum;

	TIMED(KIND_PERTURB, 4 * (double)n, 2 * F * (double)n, sum = reg->asam_squares(w, g, n, eta));
	return sum;
}

static void timed_asam_move(float *w, const float *g, size_t n, double eta, double factor)
{
	TIMED(KIND_PERTURB, 5 * (double)n, 3 * F * (double)n, reg->asam_move(w, g, n, eta, factor));
}

/* ---- contrast ---- */

static void timed_unit_rows(float *y, float *length, const float *x, int rows, int width)
{
	TIMED(KIND_PAIRS, 3.0 * rows * width, 2.0 * F * rows * width, contrast->unit_rows(y, length, x, rows, width));
}

static void timed_unit_rows_backward(float *dx, const float *dy, const float *y, const float *length, int rows, int width)
{
	TIMED(KIND_PAIRS, 5.0 * rows * width, 3.0 * F * rows * width, contrast->unit_rows_backward(dx, dy, y, length, rows, width));
}

static double timed_info_nce(float *dscores, const float *scores, const struct contrast_info *info, double *work, double *dlog_scale,
			     int *correct)
{
	double squares = (double)info->n * info->n, loss;

	TIMED(KIND_LOSS, 10 * squares, 2 * F * squares, loss = contrast->info_nce(dscores, scores, info, work, dlog_scale, correct));
	return loss;
}

/* ---- the tables ---- */

const struct reg_ops *profile_wrap_reg(const struct reg_ops *inner)
{
	static const struct reg_ops timed = {
		.soft_cross_entropy = timed_soft_cross_entropy, .symmetric_kl = timed_symmetric_kl,
		.mix_rows = timed_mix_rows, .mix_rows_backward = timed_mix_rows_backward, .join = timed_join, .split = timed_split,
		.drop_rows = timed_drop_rows, .random_rows = timed_random_rows, .random_pixels = timed_random_pixels,
		.group_scale = timed_group_scale, .group_clip = timed_group_clip, .channel_affine = timed_channel_affine,
		.move_pixels = timed_move_pixels, .asam_squares = timed_asam_squares, .asam_move = timed_asam_move,
	};

	reg = inner;
	return &timed;
}

const struct contrast_ops *profile_wrap_contrast(const struct contrast_ops *inner)
{
	static struct contrast_ops timed;

	contrast = inner;
	timed = *inner; /* ranks are of validations, which are no steps */
	timed.unit_rows = timed_unit_rows;
	timed.unit_rows_backward = timed_unit_rows_backward;
	timed.info_nce = timed_info_nce;
	return &timed;
}
