/*
 * The fast version of reg_ops.h. The reference is divided among the team: rows
 * and pictures are independent, so a range of them is a call of its own. Scores
 * (a few thousand logits) are left to one thread.
 */
#include <string.h>

#include "trainer/kernels/dense_parts.h"
#include "trainer/kernels/reg_ops.h"

enum { ELEMENTS = 16384 }; /* of a part that is worth a thread's turn */

static int rows_of_part(int width)
{
	return width >= ELEMENTS ? 1 : ELEMENTS / (width > 0 ? width : 1);
}

/* Runs body with first row `at` and `count` rows. */
#define FOR_ROWS(n, width, at, count, body)                                                      \
	do {                                                                                     \
		const int part_ = rows_of_part(width), parts_ = ((n) + part_ - 1) / part_;       \
		_Pragma("omp parallel for schedule(static) if (parts_ > 1)")                     \
		for (int p_ = 0; p_ < parts_; p_++) {                                            \
			const int at = p_ * part_, count = (n) - at < part_ ? (n) - at : part_;  \
			body;                                                                    \
		}                                                                                \
	} while (0)

static double soft_cross_entropy(float *dlogits, const float *logits, const struct soft_labels *soft, const float *weight, int n,
				 int classes)
{
	return reg_ops_reference()->soft_cross_entropy(dlogits, logits, soft, weight, n, classes);
}

static double symmetric_kl(float *da, float *db, const float *a, const float *b, const float *weight, double scale, int n,
			   int classes)
{
	return reg_ops_reference()->symmetric_kl(da, db, a, b, weight, scale, n, classes);
}

static void mix_rows(float *out, const float *x, const uint32_t *row, const uint32_t *other, const float *share, int n, int width)
{
	FOR_ROWS(n, width, at, count,
		 reg_ops_reference()->mix_rows(out + (size_t)at * width, x, row + at, other == NULL ? NULL : other + at,
					       share == NULL ? NULL : share + at, count, width));
}

/* Rows are summed, so columns are divided; the order of each sum is that of the pairs. */
static void mix_rows_backward(float *dx, const float *dout, const uint32_t *row, const uint32_t *other, const float *share, int n,
			      int rows, int width)
{
	memset(dx, 0, (size_t)rows * width * sizeof(*dx));
	#pragma omp parallel if (worth_threads(n, width))
	{
		struct column_range range = dense_columns_of_thread(width);

		for (int i = 0; i < n; i++) {
			float *a = dx + (size_t)row[i] * width, *b = share == NULL ? a : dx + (size_t)other[i] * width;
			const float *from = dout + (size_t)i * width;
			float first = share == NULL ? 1.0f : share[i], second = 1.0f - first;

			for (int d = range.first; d < range.last; d++)
				a[d] += first * from[d];
			for (int d = range.first; second != 0.0f && d < range.last; d++)
				b[d] += second * from[d];
		}
	}
}

static void join(float *out, const float *a, const float *b, int n, int width)
{
	FOR_ROWS(n, 2 * width, at, count,
		 reg_ops_reference()->join(out + (size_t)at * 2 * width, a + (size_t)at * width, b + (size_t)at * width, count, width));
}

static void split(float *a, float *b, const float *x, int n, int width)
{
	FOR_ROWS(n, 2 * width, at, count,
		 reg_ops_reference()->split(a + (size_t)at * width, b + (size_t)at * width, x + (size_t)at * 2 * width, count, width));
}

static void drop_rows(float *out, const float *x, int n, int width, const uint32_t *position, const uint32_t *token,
		      const struct dropout_spec *drop)
{
	struct mask_source mask = dense_mask(drop);

	if (!dropout_is_on(drop)) {
		if (out != x)
			memcpy(out, x, (size_t)n * width * sizeof(*out));
		return;
	}
	#pragma omp parallel for schedule(static) if (worth_threads(n, width))
	for (int i = 0; i < n; i++)
		for (int at = 0; at < width; at += DROPOUT_GROUP) {
			float factors[DROPOUT_GROUP];
			int count = width - at < DROPOUT_GROUP ? width - at : DROPOUT_GROUP;
			size_t from = (size_t)i * width + at;

			row_ops()->factors(factors, count, &mask, (uint32_t)at, position == NULL ? (uint32_t)i : position[i],
					   token == NULL ? 0 : token[i]);
			row_ops()->multiply(out + from, x + from, factors, count);
		}
}

static void random_rows(float *out, int rows, int width, const struct random_source *source)
{
	FOR_ROWS(rows, width, at, count, {
		struct random_source part = *source;

		part.position = source->position == NULL ? NULL : source->position + at;
		part.token = source->token == NULL ? NULL : source->token + at;
		reg_ops_reference()->random_rows(out + (size_t)at * width, count, width, &part);
	});
}

static void random_pixels(float *out, struct pixel_rows layout, const struct random_source *source)
{
	FOR_ROWS(layout.n, 3 * layout.plane, at, count, {
		struct random_source part = *source;

		part.position = source->position == NULL ? NULL : source->position + at;
		reg_ops_reference()->random_pixels(out + (size_t)at * 3 * layout.plane,
						   (struct pixel_rows){ count, layout.plane, layout.nhwc }, &part);
	});
}

static void group_scale(float *x, const uint32_t *offsets, int groups, int width, const float *scale)
{
	#pragma omp parallel for schedule(static) if (worth_threads(groups, width))
	for (int g = 0; g < groups; g++)
		reg_ops_reference()->group_scale(x, offsets + g, 1, width, scale + g);
}

static void group_clip(float *x, const uint32_t *offsets, int groups, int width, const float *bound)
{
	#pragma omp parallel for schedule(static) if (worth_threads(groups, width))
	for (int g = 0; g < groups; g++)
		reg_ops_reference()->group_clip(x, offsets + g, 1, width, bound + g);
}

static void channel_affine(float *out, const float *x, struct pixel_rows layout, const float by[3], const float add[3])
{
	FOR_ROWS(layout.n, 3 * layout.plane, at, count,
		 reg_ops_reference()->channel_affine(out + (size_t)at * 3 * layout.plane, x + (size_t)at * 3 * layout.plane,
						     (struct pixel_rows){ count, layout.plane, layout.nhwc }, by, add));
}

static void move_pixels(float *out, float *delta, const float *x, struct pixel_rows layout, const float by[3], const float low[3],
			const float high[3])
{
	FOR_ROWS(layout.n, 3 * layout.plane, at, count, {
		size_t from = (size_t)at * 3 * layout.plane;

		reg_ops_reference()->move_pixels(out + from, delta + from, x + from,
						 (struct pixel_rows){ count, layout.plane, layout.nhwc }, by, low, high);
	});
}

enum { SPAN = 1 << 16, SPANS_MAX = 4096 };

static double asam_squares(const float *w, const float *g, size_t n, double eta)
{
	double sums[SPANS_MAX], sum = 0;
	size_t span = SPAN;

	while ((n + span - 1) / span > SPANS_MAX)
		span *= 2;
	int spans = (int)((n + span - 1) / span);
	#pragma omp parallel for schedule(static) if (spans > 1)
	for (int s = 0; s < spans; s++) {
		size_t at = (size_t)s * span;

		sums[s] = reg_ops_reference()->asam_squares(w + at, g + at, n - at < span ? n - at : span, eta);
	}
	for (int s = 0; s < spans; s++)
		sum += sums[s];
	return sum;
}

static void asam_move(float *w, const float *g, size_t n, double eta, double factor)
{
	int spans = (int)((n + SPAN - 1) / SPAN);

	#pragma omp parallel for schedule(static) if (spans > 1)
	for (int s = 0; s < spans; s++) {
		size_t at = (size_t)s * SPAN;

		reg_ops_reference()->asam_move(w + at, g + at, n - at < SPAN ? n - at : SPAN, eta, factor);
	}
}

const struct reg_ops *reg_ops_fast(void)
{
	static const struct reg_ops ops = {
		.soft_cross_entropy = soft_cross_entropy, .symmetric_kl = symmetric_kl, .mix_rows = mix_rows,
		.mix_rows_backward = mix_rows_backward, .join = join, .split = split, .drop_rows = drop_rows,
		.random_rows = random_rows, .random_pixels = random_pixels, .group_scale = group_scale, .group_clip = group_clip,
		.channel_affine = channel_affine, .move_pixels = move_pixels, .asam_squares = asam_squares, .asam_move = asam_move,
	};

	return &ops;
}
