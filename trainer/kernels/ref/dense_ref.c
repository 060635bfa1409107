/* Plain versions of the dense kernels: one thread, sums in double, no tricks.
 * They define what the fast ones must compute and are kept as their oracle. */
#include <math.h>
#include <string.h>

#include "shared/base/check.h"
#include "trainer/kernels/dropout.h"

/* The factor of one element: 0, or the scale of those that are kept. */
static float factor(const struct dropout_spec *spec, uint32_t position, uint32_t token, uint32_t channel)
{
	if (!dropout_is_on(spec))
		return 1.0f;
	struct rng_block block = rng_philox(dropout_key(spec), dropout_block(channel), position, token, (uint32_t)spec->step);

	return block.v[dropout_word(channel)] < dropout_threshold(spec) ? 0.0f : dropout_scale(spec);
}

static float group_factor(const struct dropout_spec *spec, int group, uint32_t token, uint32_t channel)
{
	return dropout_is_on(spec) ? factor(spec, dropout_position(spec, group), token, channel) : 1.0f;
}

static int rows_of_group(const struct packed_rows *rows, int g)
{
	return rows->first_only ? 1 : (int)(rows->offsets[g + 1] - rows->offsets[g]);
}

static int first_row(const struct packed_rows *rows, int g)
{
	return rows->first_only ? g : (int)rows->offsets[g];
}

static void linear(float *y, const float *x, const float *w, const float *bias, struct linear_shape s, bool accumulate)
{
	for (int r = 0; r < s.rows; r++) {
		for (int o = 0; o < s.out; o++) {
			float *out = &y[(size_t)r * s.ldy + o];
			double sum = (accumulate ? *out : 0.0) + (bias == NULL ? 0.0 : bias[o]);

			for (int i = 0; i < s.in; i++)
				sum += (double)x[(size_t)r * s.ldx + i] * w[(size_t)o * s.ldw + i];
			*out = (float)sum;
		}
	}
}

static void linear_input(float *dx, const float *dy, const float *w, struct linear_shape s, bool accumulate)
{
	for (int r = 0; r < s.rows; r++) {
		for (int i = 0; i < s.in; i++) {
			float *out = &dx[(size_t)r * s.ldx + i];
			double sum = accumulate ? *out : 0.0;

			for (int o = 0; o < s.out; o++)
				sum += (double)dy[(size_t)r * s.ldy + o] * w[(size_t)o * s.ldw + i];
			*out = (float)sum;
		}
	}
}

static void linear_weights(float *dw, const float *dy, const float *x, struct linear_shape s)
{
	for (int o = 0; o < s.out; o++) {
		for (int i = 0; i < s.in; i++) {
			double sum = dw[(size_t)o * s.ldw + i];

			for (int r = 0; r < s.rows; r++)
				sum += (double)dy[(size_t)r * s.ldy + o] * x[(size_t)r * s.ldx + i];
			dw[(size_t)o * s.ldw + i] = (float)sum;
		}
	}
}

static void sum_rows(float *out, const float *x, int rows, int width, int ldx)
{
	for (int i = 0; i < width; i++) {
		double sum = out[i];

		for (int r = 0; r < rows; r++)
			sum += x[(size_t)r * ldx + i];
		out[i] = (float)sum;
	}
}

static double normal_cdf(double x)
{
	return 0.5 * erfc(-x * 0.70710678118654752440);
}

static void bias_gelu(float *y, float *pre, const float *bias, int rows, int width)
{
	for (int r = 0; r < rows; r++) {
		for (int i = 0; i < width; i++) {
			size_t at = (size_t)r * width + i;

			pre[at] += bias[i];
			y[at] = (float)(pre[at] * normal_cdf(pre[at]));
		}
	}
}

static void gelu_backward(float *dy, float *y, const float *pre, int rows, int width)
{
	for (size_t at = 0; at < (size_t)rows * width; at++) {
		double x = pre[at], cdf = normal_cdf(x), density = 0.39894228040143267794 * exp(-0.5 * x * x);

		dy[at] = (float)(dy[at] * (cdf + x * density));
		if (y != NULL)
			y[at] = (float)(x * cdf);
	}
}

static void norm_row(float *y, float *mean, float *rstd, const float *x, const struct norm_weights *norm, int width)
{
	double sum = 0, squares = 0;

	for (int i = 0; i < width; i++)
		sum += x[i];
	double centre = sum / width;
	for (int i = 0; i < width; i++)
		squares += (x[i] - centre) * (x[i] - centre);
	double inverse = 1.0 / sqrt(squares / width + norm->eps);
	for (int i = 0; i < width; i++)
		y[i] = (float)((x[i] - centre) * inverse * norm->gamma[i] + norm->beta[i]);
	*mean = (float)centre;
	*rstd = (float)inverse;
}

/* dx may be dy */
static void norm_row_backward(float *dx, float *dgamma, float *dbeta, const float *dy, const float *x, double mean,
			      double rstd, const struct norm_weights *norm, int width)
{
	double mean_g = 0, mean_gx = 0;

	for (int i = 0; i < width; i++) {
		double unit = (x[i] - mean) * rstd, g = (double)dy[i] * norm->gamma[i];

		mean_g += g / width;
		mean_gx += g * unit / width;
		if (dgamma == NULL)
			continue;
		dgamma[i] += (float)(dy[i] * unit);
		dbeta[i] += dy[i];
	}
	for (int i = 0; i < width; i++) {
		double unit = (x[i] - mean) * rstd, g = (double)dy[i] * norm->gamma[i];

		dx[i] = (float)(rstd * (g - mean_g - unit * mean_gx));
	}
}

static void residual_norm(float *y, float *sum, float *mean, float *rstd, const float *bias, const float *residual,
			  struct norm_weights norm, int width, struct packed_rows rows, const struct dropout_spec *drop)
{
	for (int g = 0; g < rows.groups; g++) {
		for (int k = 0; k < rows_of_group(&rows, g); k++) {
			int row = first_row(&rows, g) + k;
			float *s = sum + (size_t)row * width;

			for (int i = 0; i < width; i++) {
				float inner = bias == NULL ? s[i] : s[i] + bias[i];

				inner *= group_factor(drop, g, (uint32_t)k, (uint32_t)i) * dropout_branch(drop, g);
				s[i] = residual == NULL ? inner : inner + residual[(size_t)row * width + i];
			}
			norm_row(y + (size_t)row * width, &mean[row], &rstd[row], s, &norm, width);
		}
	}
}

static void residual_norm_backward(float *dsum, float *dinner, float *dgamma, float *dbeta, float *dbias, const float *dy,
				   const float *sum, const float *mean, const float *rstd, struct norm_weights norm,
				   int width, struct packed_rows rows, const struct dropout_spec *drop)
{
	for (int g = 0; g < rows.groups; g++) {
		for (int k = 0; k < rows_of_group(&rows, g); k++) {
			int row = first_row(&rows, g) + k;
			size_t at = (size_t)row * width;

			norm_row_backward(dsum + at, dgamma, dbeta, dy + at, sum + at, mean[row], rstd[row], &norm, width);
			for (int i = 0; i < width; i++) {
				float inner = dsum[at + i] * (group_factor(drop, g, (uint32_t)k, (uint32_t)i) * dropout_branch(drop, g));

				if (dinner != NULL)
					dinner[at + i] = inner;
				if (dbias != NULL)
					dbias[i] += inner;
			}
		}
	}
}

static void embed_norm(float *y, float *sum, float *mean, float *rstd, const float *word, const float *position,
		       const float *type, struct norm_weights norm, int width, struct packed_rows rows,
		       const struct dropout_spec *drop)
{
	for (int g = 0; g < rows.groups; g++) {
		for (uint32_t k = 0; rows.offsets[g] + k < rows.offsets[g + 1]; k++) {
			size_t row = rows.offsets[g] + k, at = row * width;

			for (int i = 0; i < width; i++)
				sum[at + i] = word[at + i] + type[i] + position[(size_t)k * width + i];
			norm_row(y + at, &mean[row], &rstd[row], sum + at, &norm, width);
			for (int i = 0; i < width; i++)
				y[at + i] *= group_factor(drop, g, k, (uint32_t)i);
		}
	}
}

static void embed_norm_backward(float *dsum, float *dposition, float *dtype, float *dgamma, float *dbeta, float *dy,
				const float *sum, const float *mean, const float *rstd, struct norm_weights norm, int width,
				struct packed_rows rows, const struct dropout_spec *drop)
{
	for (int g = 0; g < rows.groups; g++) {
		for (uint32_t k = 0; rows.offsets[g] + k < rows.offsets[g + 1]; k++) {
			size_t row = rows.offsets[g] + k, at = row * width;

			for (int i = 0; i < width; i++)
				dy[at + i] *= group_factor(drop, g, k, (uint32_t)i);
			norm_row_backward(dsum + at, dgamma, dbeta, dy + at, sum + at, mean[row], rstd[row], &norm, width);
			for (int i = 0; dposition != NULL && i < width; i++) {
				dposition[(size_t)k * width + i] += dsum[at + i];
				dtype[i] += dsum[at + i];
			}
		}
	}
}

static void softmax_scores(float *probs, const float *q, const float *k, const struct attention_shape *s, int length)
{
	double largest = -INFINITY, total = 0;

	for (int j = 0; j < length; j++) {
		double score = 0;

		for (int d = 0; d < s->head_width; d++)
			score += (double)q[d] * k[(size_t)j * s->ldkv + d];
		probs[j] = (float)(score / sqrt(s->head_width));
		largest = probs[j] > largest ? probs[j] : largest;
	}
	for (int j = 0; j < length; j++)
		total += exp(probs[j] - largest);
	for (int j = 0; j < length; j++)
		probs[j] = (float)(exp(probs[j] - largest) / total);
}

static void attention(float *ctx, float *probs, const float *q, const float *k, const float *v, struct attention_shape s,
		      const struct dropout_spec *drop)
{
	for (int c = 0; c < s.captions; c++) {
		size_t first = s.offsets[c];
		int length = (int)(s.offsets[c + 1] - s.offsets[c]), queries = s.first_only ? 1 : length;

		for (int h = 0; h < s.heads; h++) {
			size_t column = (size_t)h * s.head_width;

			for (int i = 0; i < queries; i++) {
				size_t row = (s.first_only ? (size_t)c : first) + (size_t)i;
				float *p = probs + (row * s.heads + h) * s.ldprobs;

				softmax_scores(p, q + row * s.ldq + column, k + first * s.ldkv + column, &s, length);
				for (int d = 0; d < s.head_width; d++) {
					double sum = 0;

					for (int j = 0; j < length; j++)
						sum += (double)p[j] *
						       group_factor(drop, c, (uint32_t)i,
								    ((uint32_t)h << DROPOUT_HEAD_SHIFT) + (uint32_t)j) *
						       v[(first + j) * s.ldkv + column + d];
					ctx[row * s.ldctx + column + d] = (float)sum;
				}
			}
		}
	}
}

/* One query row: adds to dk, dv (zeroed by the caller), writes dq. */
static void attention_row_backward(float *dq, float *dk, float *dv, const float *dctx, const float *p, const float *q,
				   const float *k, const float *v, const struct attention_shape *s, int length,
				   const struct dropout_spec *drop, int caption, int token, int head)
{
	double inner = 0, scale = 1.0 / sqrt(s->head_width);

	for (int pass = 0; pass < 2; pass++) {
		for (int j = 0; j < length; j++) {
			size_t at = (size_t)j * s->ldkv;
			float f = group_factor(drop, caption, (uint32_t)token,
					       ((uint32_t)head << DROPOUT_HEAD_SHIFT) + (uint32_t)j);
			double dp = 0;

			for (int d = 0; d < s->head_width; d++)
				dp += (double)dctx[d] * v[at + d] * f;
			if (pass == 0) {
				inner += p[j] * dp;
				continue;
			}
			double ds = p[j] * (dp - inner) * scale;
			for (int d = 0; d < s->head_width; d++) {
				dv[at + d] += p[j] * f * dctx[d];
				dq[d] = (float)((j == 0 ? 0.0 : dq[d]) + ds * k[at + d]);
				dk[at + d] += (float)(ds * q[d]);
			}
		}
	}
}

static void attention_backward(float *dq, float *dk, float *dv, const float *dctx, const float *ctx, const float *probs,
			       const float *q, const float *k, const float *v, struct attention_shape s,
			       const struct dropout_spec *drop)
{
	(void)ctx; /* the fast version's short cut */
	for (int c = 0; c < s.captions; c++) {
		size_t first = s.offsets[c];
		int length = (int)(s.offsets[c + 1] - s.offsets[c]), queries = s.first_only ? 1 : length;

		for (int j = 0; j < length; j++) {
			for (int d = 0; d < s.heads * s.head_width; d++)
				dk[(first + j) * s.ldkv + d] = dv[(first + j) * s.ldkv + d] = 0.0f;
		}
		for (int h = 0; h < s.heads; h++) {
			size_t column = (size_t)h * s.head_width, kv = first * s.ldkv + column;

			for (int i = 0; i < queries; i++) {
				size_t row = (s.first_only ? (size_t)c : first) + (size_t)i;

				attention_row_backward(dq + row * s.ldq + column, dk + kv, dv + kv,
						       dctx + row * s.ldctx + column,
						       probs + (row * s.heads + h) * s.ldprobs, q + row * s.ldq + column,
						       k + kv, v + kv, &s, length, drop, c, i, h);
			}
		}
	}
}

static void gather_rows(float *out, const float *table, const int32_t *ids, int n, int width)
{
	for (int i = 0; i < n; i++)
		memcpy(out + (size_t)i * width, table + (size_t)ids[i] * width, (size_t)width * sizeof(float));
}

static void scatter_rows(float *table, const float *x, const int32_t *ids, int n, int width, int32_t skip_id)
{
	for (int i = 0; i < n; i++) {
		for (int d = 0; d < width && ids[i] != skip_id; d++)
			table[(size_t)ids[i] * width + d] += x[(size_t)i * width + d];
	}
}

static void gather_first(float *out, const float *x, struct packed_rows rows, int width)
{
	for (int g = 0; g < rows.groups; g++)
		memcpy(out + (size_t)g * width, x + (size_t)rows.offsets[g] * width, (size_t)width * sizeof(float));
}

static void scatter_first(float *x, const float *rows_of, struct packed_rows rows, int width)
{
	for (int g = 0; g < rows.groups; g++) {
		for (int d = 0; d < width; d++)
			x[(size_t)rows.offsets[g] * width + d] += rows_of[(size_t)g * width + d];
	}
}

static float pair_factor(const struct dropout_spec *drop, uint32_t picture, uint32_t caption, const uint32_t *pictures,
			 const uint32_t *captions, int column)
{
	return factor(drop, pictures == NULL ? picture : pictures[picture], captions == NULL ? caption : captions[caption],
		      (uint32_t)column);
}

static void pair_concat(float *x, const float *v, const float *t, const uint32_t *picture, const uint32_t *caption,
			const uint32_t *picture_positions, const uint32_t *caption_positions, int n, int width,
			const struct dropout_spec *drop)
{
	for (int i = 0; i < n; i++) {
		for (int d = 0; d < 2 * width; d++) {
			float value = d < width ? v[(size_t)picture[i] * width + d] : t[(size_t)caption[i] * width + d - width];

			x[(size_t)i * 2 * width + d] =
				value * pair_factor(drop, picture[i], caption[i], picture_positions, caption_positions, d);
		}
	}
}

static void pair_concat_backward(float *dv, float *dt, const float *dx, const uint32_t *picture, const uint32_t *caption,
				 const uint32_t *picture_positions, const uint32_t *caption_positions, int n, int pictures,
				 int captions, int width, const struct dropout_spec *drop)
{
	memset(dv, 0, (size_t)pictures * width * sizeof(float));
	memset(dt, 0, (size_t)captions * width * sizeof(float));
	for (int i = 0; i < n; i++) {
		for (int d = 0; d < 2 * width; d++) {
			float *to = d < width ? &dv[(size_t)picture[i] * width + d] : &dt[(size_t)caption[i] * width + d - width];

			*to += dx[(size_t)i * 2 * width + d] *
			       pair_factor(drop, picture[i], caption[i], picture_positions, caption_positions, d);
		}
	}
}

static void pair_sum(float *out, const float *a, const float *b, const uint32_t *picture, const uint32_t *caption, int n,
		     int width)
{
	for (int i = 0; i < n; i++) {
		for (int d = 0; d < width; d++)
			out[(size_t)i * width + d] = a[(size_t)picture[i] * width + d] + b[(size_t)caption[i] * width + d];
	}
}

static void pair_sum_backward(float *da, float *db, const float *dout, const uint32_t *picture, const uint32_t *caption,
			      int n, int pictures, int captions, int width)
{
	memset(da, 0, (size_t)pictures * width * sizeof(float));
	memset(db, 0, (size_t)captions * width * sizeof(float));
	for (int i = 0; i < n; i++) {
		for (int d = 0; d < width; d++) {
			da[(size_t)picture[i] * width + d] += dout[(size_t)i * width + d];
			db[(size_t)caption[i] * width + d] += dout[(size_t)i * width + d];
		}
	}
}

static void relu_norm(float *y, float *z, float *mean, float *rstd, const float *bias, struct norm_weights norm, int rows,
		      int width)
{
	for (int r = 0; r < rows; r++) {
		float *row = z + (size_t)r * width;

		for (int i = 0; i < width; i++) {
			float value = bias == NULL ? row[i] : row[i] + bias[i];

			row[i] = value < 0.0f ? 0.0f : value; /* keeps a NaN */
		}
		norm_row(y + (size_t)r * width, &mean[r], &rstd[r], row, &norm, width);
	}
}

static void relu_norm_backward(float *dz, float *dgamma, float *dbeta, float *dbias, const float *dy, const float *z,
			       const float *mean, const float *rstd, struct norm_weights norm, int rows, int width)
{
	for (int r = 0; r < rows; r++) {
		size_t at = (size_t)r * width;

		norm_row_backward(dz + at, dgamma, dbeta, dy + at, z + at, mean[r], rstd[r], &norm, width);
		for (int i = 0; i < width; i++) {
			if (!(z[at + i] > 0.0f))
				dz[at + i] = 0.0f;
			if (dbias != NULL)
				dbias[i] += dz[at + i];
		}
	}
}

static double cross_entropy(float *dlogits, const float *logits, const int32_t *labels, const float *weight, int n,
			    int classes, int *correct)
{
	double loss = 0;

	*correct = 0;
	for (int r = 0; r < n; r++) {
		const float *row = logits + (size_t)r * classes;
		double total = 0, share = weight == NULL ? 1.0 / n : weight[r];
		int best = 0;

		CHECK(labels[r] >= 0 && labels[r] < classes);
		for (int k = 1; k < classes; k++)
			best = row[k] > row[best] ? k : best;
		for (int k = 0; k < classes; k++)
			total += exp((double)row[k] - row[best]);
		for (int k = 0; k < classes; k++)
			dlogits[(size_t)r * classes + k] =
				(float)(share * (exp((double)row[k] - row[best]) / total - (k == labels[r])));
		loss += share * (log(total) - ((double)row[labels[r]] - row[best]));
		*correct += best == labels[r];
	}
	return loss;
}

static int encoder_reserve(struct linear_shape s, struct err *err)
{
	(void)s;
	(void)err;
	return 0;
}

const struct dense_ops *dense_ops_reference(void)
{
	static const struct dense_ops ops = {
		.linear = linear,
		.linear_input = linear_input,
		.linear_weights = linear_weights,
		.encoder_reserve = encoder_reserve,
		.encoder_linear = linear,
		.encoder_linear_input = linear_input,
		.encoder_linear_weights = linear_weights,
		.sum_rows = sum_rows,
		.bias_gelu = bias_gelu,
		.gelu_backward = gelu_backward,
		.residual_norm = residual_norm,
		.residual_norm_backward = residual_norm_backward,
		.embed_norm = embed_norm,
		.embed_norm_backward = embed_norm_backward,
		.attention = attention,
		.attention_backward = attention_backward,
		.gather_rows = gather_rows,
		.scatter_rows = scatter_rows,
		.gather_first = gather_first,
		.scatter_first = scatter_first,
		.pair_concat = pair_concat,
		.pair_concat_backward = pair_concat_backward,
		.pair_sum = pair_sum,
		.pair_sum_backward = pair_sum_backward,
		.relu_norm = relu_norm,
		.relu_norm_backward = relu_norm_backward,
		.cross_entropy = cross_entropy,
	};

	return &ops;
}
