/* Plain versions of the regularizers' kernels: one thread, double arithmetic. */
#include <math.h>
#include <string.h>

#include "shared/base/check.h"
#include "trainer/kernels/dropout.h"
#include "trainer/kernels/reg_ops.h"

/* log(sum of e^x) of one row. */
static double log_sum(const float *x, int n)
{
	double most = x[0], total = 0;

	for (int k = 1; k < n; k++)
		most = x[k] > most ? x[k] : most;
	for (int k = 0; k < n; k++)
		total += exp(x[k] - most);
	return most + log(total);
}

static double target_of(const struct soft_labels *soft, int i, int k, int classes)
{
	double share = soft->share == NULL ? 1.0 : soft->share[i];
	double hard = share * (soft->label[i] == k);

	if (soft->other != NULL)
		hard += (1.0 - share) * (soft->other[i] == k);
	return (1.0 - soft->smooth) * hard + soft->smooth / classes;
}

static double soft_cross_entropy(float *dlogits, const float *logits, const struct soft_labels *soft, const float *weight, int n,
				 int classes)
{
	double loss = 0;

	for (int i = 0; i < n; i++) {
		const float *row = logits + (size_t)i * classes;
		double norm = log_sum(row, classes), w = weight == NULL ? 1.0 / n : weight[i], sum = 0;

		CHECK(soft->label[i] >= 0 && soft->label[i] < classes);
		for (int k = 0; k < classes; k++) {
			double target = target_of(soft, i, k, classes), log_p = row[k] - norm;

			sum -= target * log_p;
			dlogits[(size_t)i * classes + k] = (float)(w * (exp(log_p) - target));
		}
		loss += w * sum;
	}
	return loss;
}

/* With l = log p - log q: the sum is sum (p - q) l, its gradient in a_j is p_j (l_j - KL(p||q)) + p_j - q_j. */
static double symmetric_kl(float *da, float *db, const float *a, const float *b, const float *weight, double scale, int n,
			   int classes)
{
	double total = 0;

	for (int i = 0; i < n; i++) {
		size_t at = (size_t)i * classes;
		double norm_a = log_sum(a + at, classes), norm_b = log_sum(b + at, classes), w = weight == NULL ? 1.0 / n : weight[i];
		double forth = 0, back = 0;

		for (int k = 0; k < classes; k++) {
			double log_p = a[at + k] - norm_a, log_q = b[at + k] - norm_b;

			forth += exp(log_p) * (log_p - log_q);
			back += exp(log_q) * (log_q - log_p);
		}
		for (int k = 0; k < classes; k++) {
			double log_p = a[at + k] - norm_a, log_q = b[at + k] - norm_b, p = exp(log_p), q = exp(log_q);

			if (da != NULL)
				da[at + k] += (float)(scale * w * (p * (log_p - log_q - forth) + p - q));
			if (db != NULL)
				db[at + k] += (float)(scale * w * (q * (log_q - log_p - back) + q - p));
		}
		total += w * (forth + back);
	}
	return total;
}

static void mix_rows(float *out, const float *x, const uint32_t *row, const uint32_t *other, const float *share, int n, int width)
{
	for (int i = 0; i < n; i++)
		for (int d = 0; d < width; d++) {
			float value = x[(size_t)row[i] * width + d];

			if (share != NULL)
				value = share[i] * value + (1.0f - share[i]) * x[(size_t)other[i] * width + d];
			out[(size_t)i * width + d] = value;
		}
}

static void mix_rows_backward(float *dx, const float *dout, const uint32_t *row, const uint32_t *other, const float *share, int n,
			      int rows, int width)
{
	memset(dx, 0, (size_t)rows * width * sizeof(*dx));
	for (int i = 0; i < n; i++)
		for (int d = 0; d < width; d++) {
			float value = dout[(size_t)i * width + d];

			dx[(size_t)row[i] * width + d] += share == NULL ? value : share[i] * value;
			if (share != NULL)
				dx[(size_t)other[i] * width + d] += (1.0f - share[i]) * value;
		}
}

static void join(float *out, const float *a, const float *b, int n, int width)
{
	for (int i = 0; i < n; i++) {
		memcpy(out + (size_t)i * 2 * width, a + (size_t)i * width, (size_t)width * sizeof(*out));
		memcpy(out + (size_t)i * 2 * width + width, b + (size_t)i * width, (size_t)width * sizeof(*out));
	}
}

static void split(float *a, float *b, const float *x, int n, int width)
{
	for (int i = 0; i < n; i++) {
		memcpy(a + (size_t)i * width, x + (size_t)i * 2 * width, (size_t)width * sizeof(*a));
		memcpy(b + (size_t)i * width, x + (size_t)i * 2 * width + width, (size_t)width * sizeof(*b));
	}
}

static void drop_rows(float *out, const float *x, int n, int width, const uint32_t *position, const uint32_t *token,
		      const struct dropout_spec *drop)
{
	for (int i = 0; i < n; i++)
		for (int d = 0; d < width; d++) {
			size_t at = (size_t)i * width + d;
			struct rng_block block;

			if (!dropout_is_on(drop)) {
				out[at] = x[at];
				continue;
			}
			block = rng_philox(dropout_key(drop), dropout_block((uint32_t)d), position == NULL ? (uint32_t)i : position[i],
					   token == NULL ? 0 : token[i], (uint32_t)drop->step);
			out[at] = block.v[dropout_word((uint32_t)d)] < dropout_threshold(drop) ? 0.0f : x[at] * dropout_scale(drop);
		}
}

/* Elements 4b .. 4b + 3 of what (position, token) names. */
static void random_four(double out[4], struct rng_key key, enum random_kind kind, uint32_t b, uint32_t position, uint32_t token,
			uint32_t step)
{
	struct rng_block block = rng_philox(key, b, position, token, step);

	for (int w = 0; w < 4; w++)
		out[w] = kind == RANDOM_SIGN ? (block.v[w] >> 31 ? 1.0 : -1.0) : ((block.v[w] >> 8) + 0.5) / 8388608.0 - 1.0;
	for (int w = 0; kind == RANDOM_NORMAL && w < 4; w += 2) { /* Box and Muller, 1958 */
		double radius = sqrt(-2.0 * log((block.v[w] + 1.0) / 4294967296.0));
		double angle = 6.283185307179586 * (block.v[w + 1] / 4294967296.0);

		out[w] = radius * cos(angle);
		out[w + 1] = radius * sin(angle);
	}
}

static struct rng_key source_key(const struct random_source *source)
{
	struct rng_key key = rng_key(source->seed, source->domain);

	key.k1 ^= (uint32_t)(source->step >> 32);
	return key;
}

static void random_rows(float *out, int rows, int width, const struct random_source *source)
{
	struct rng_key key = source_key(source);

	for (int r = 0; r < rows; r++)
		for (int d = 0; d < width; d += 4) {
			double four[4];

			random_four(four, key, source->kind, (uint32_t)d / 4, source->position == NULL ? 0 : source->position[r],
				    source->token == NULL ? 0 : source->token[r], (uint32_t)source->step);
			for (int w = 0; w < 4 && d + w < width; w++)
				out[(size_t)r * width + d + w] = (float)four[w];
		}
}

static size_t pixel_at(struct pixel_rows layout, int picture, int channel, int pixel)
{
	return (size_t)picture * 3 * layout.plane +
	       (layout.nhwc ? (size_t)pixel * 3 + (size_t)channel : (size_t)channel * layout.plane + (size_t)pixel);
}

static void random_pixels(float *out, struct pixel_rows layout, const struct random_source *source)
{
	struct rng_key key = source_key(source);

	for (int n = 0; n < layout.n; n++)
		for (int e = 0; e < 3 * layout.plane; e += 4) {
			double four[4];

			random_four(four, key, source->kind, (uint32_t)e / 4, source->position == NULL ? 0 : source->position[n], 0,
				    (uint32_t)source->step);
			for (int w = 0; w < 4 && e + w < 3 * layout.plane; w++)
				out[pixel_at(layout, n, (e + w) / layout.plane, (e + w) % layout.plane)] = (float)four[w];
		}
}

static void group_scale(float *x, const uint32_t *offsets, int groups, int width, const float *scale)
{
	for (int g = 0; g < groups; g++)
		for (size_t i = (size_t)offsets[g] * width; i < (size_t)offsets[g + 1] * width; i++)
			x[i] = scale[g] == 0.0f ? 0.0f : x[i] * scale[g];
}

static void group_clip(float *x, const uint32_t *offsets, int groups, int width, const float *bound)
{
	for (int g = 0; g < groups; g++)
		for (size_t i = (size_t)offsets[g] * width; i < (size_t)offsets[g + 1] * width; i++)
			x[i] = x[i] > bound[g] ? bound[g] : x[i] < -bound[g] ? -bound[g] : x[i];
}

static void channel_affine(float *out, const float *x, struct pixel_rows layout, const float by[3], const float add[3])
{
	for (int n = 0; n < layout.n; n++)
		for (int c = 0; c < 3; c++)
			for (int p = 0; p < layout.plane; p++) {
				size_t at = pixel_at(layout, n, c, p);

				out[at] = x[at] * by[c] + add[c];
			}
}

static void move_pixels(float *out, float *delta, const float *x, struct pixel_rows layout, const float by[3], const float low[3],
			const float high[3])
{
	for (int n = 0; n < layout.n; n++)
		for (int c = 0; c < 3; c++)
			for (int p = 0; p < layout.plane; p++) {
				size_t at = pixel_at(layout, n, c, p);
				float moved = x[at] + delta[at] * by[c];

				/* What lies outside already (a picture that was not normalized so) is not pulled in. */
				if (moved > high[c] && delta[at] > 0)
					moved = x[at] > high[c] ? x[at] : high[c];
				if (moved < low[c] && delta[at] < 0)
					moved = x[at] < low[c] ? x[at] : low[c];
				if (moved != x[at] + delta[at] * by[c])
					delta[at] = (moved - x[at]) / by[c];
				out[at] = moved;
			}
}

static double asam_squares(const float *w, const float *g, size_t n, double eta)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++) {
		double t = (fabs((double)w[i]) + eta) * g[i];

		sum += t * t;
	}
	return sum;
}

static void asam_move(float *w, const float *g, size_t n, double eta, double factor)
{
	for (size_t i = 0; i < n; i++) {
		double t = fabs((double)w[i]) + eta;

		w[i] = (float)(w[i] + factor * t * t * g[i]);
	}
}

const struct reg_ops *reg_ops_reference(void)
{
	static const struct reg_ops ops = {
		.soft_cross_entropy = soft_cross_entropy, .symmetric_kl = symmetric_kl, .mix_rows = mix_rows,
		.mix_rows_backward = mix_rows_backward, .join = join, .split = split, .drop_rows = drop_rows,
		.random_rows = random_rows, .random_pixels = random_pixels, .group_scale = group_scale, .group_clip = group_clip,
		.channel_affine = channel_affine, .move_pixels = move_pixels, .asam_squares = asam_squares, .asam_move = asam_move,
	};

	return &ops;
}
