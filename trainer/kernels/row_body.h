/*
 * row_body.h - the body of row_ops.h for vectors of LANES floats.
 *
 * Included once by each row_*.c, which defines LANES and ROW_OPS and has set
 * the instruction set. No guard: it is a body. GCC's vector extension keeps one
 * text for all sets; only the 32x32->64 bit product needs intrinsics.
 */
typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t veci __attribute__((vector_size(LANES * 4)));
typedef uint32_t vecu __attribute__((vector_size(LANES * 4)));

enum { GROUP = DROPOUT_GROUP };

#define INLINE static inline __attribute__((always_inline))

INLINE vec splat(float x)
{
	return x - (vec){ 0 };
}

INLINE vecu splat_u(uint32_t x)
{
	return x - (vecu){ 0 };
}

INLINE vec load(const float *p)
{
	vec v;

	memcpy(&v, p, sizeof(v));
	return v;
}

INLINE void store(float *p, vec v)
{
	memcpy(p, &v, sizeof(v));
}

/* The first n of LANES elements; the rest are zero. */
INLINE vec load_n(const float *p, int n)
{
	vec v = { 0 };

	if (n >= LANES)
		return load(p);
	memcpy(&v, p, (size_t)n * sizeof(float));
	return v;
}

INLINE void store_n(float *p, vec v, int n)
{
	if (n >= LANES)
		store(p, v);
	else
		memcpy(p, &v, (size_t)n * sizeof(float));
}

INLINE vec select_vec(veci condition, vec a, vec b)
{
	return (vec)((condition & (veci)a) | (~condition & (veci)b));
}

INLINE veci lane_numbers(void)
{
	veci v;

	for (int i = 0; i < LANES; i++)
		v[i] = i;
	return v;
}

/* v in the first n lanes, `other` behind. */
INLINE vec keep_n(vec v, int n, float other)
{
	if (n >= LANES)
		return v;
	return select_vec(lane_numbers() < (n - (veci){ 0 }), v, splat(other));
}

INLINE float sum_lanes(vec v)
{
	float lanes[LANES];

	memcpy(lanes, &v, sizeof(v));
	for (int half = LANES / 2; half > 0; half /= 2) {
		for (int i = 0; i < half; i++)
			lanes[i] += lanes[i + half];
	}
	return lanes[0];
}

INLINE float max_lanes(vec v)
{
	float best = v[0];

	for (int i = 1; i < LANES; i++)
		best = v[i] > best ? v[i] : best;
	return best;
}

/* e^x with relative error below 2e-7 for x <= 88; 1e-38 for all x below -87.3; NaN stays NaN. */
INLINE vec exp_vec(vec x)
{
	const vec round = splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer in the low bits */

	x = select_vec(x < splat(-87.3f), splat(-87.3f), x);
	x = select_vec(x > splat(88.0f), splat(88.0f), x);
	vec shifted = x * 1.44269504f + round, n = shifted - round;
	vec r = x - n * 0.693359375f + n * 2.12194440e-4f; /* ln 2 in two parts, the first exact in products with n */
	vec p = splat(1.383683971e-3f);

	p = p * r + 8.374815769e-3f;
	p = p * r + 4.166822568e-2f;
	p = p * r + 1.666642017e-1f;
	p = p * r + 4.999999208e-1f;
	p = p * r + 1.000000036f;
	p = p * r + 1.0f;
	return p * (vec)(((veci)shifted + 127) << 23);
}

/* Phi(x) of the normal distribution, and e^(-x^2/2) which its derivative needs.
 * With z = |x|/sqrt 2 and t = 1/(1 + 0.375 z): erfc(z) = t Q(t) e^(-z^2); Q is a
 * least-squares fit of degree 8 to erfcx(z)/t on [0, 9.5], relative error 1.2e-8. */
INLINE vec normal_cdf(vec x, vec *gauss)
{
	vec size = (vec)((veci)x & 0x7FFFFFFF);
	vec t = 1.0f / (1.0f + size * (0.375f * 0.70710678f));
	vec e = exp_vec(x * x * -0.5f), q = splat(6.169704672e-2f);

	q = q * t - 2.880774878e-1f;
	q = q * t + 4.338981397e-1f;
	q = q * t - 2.310814021e-1f;
	q = q * t + 2.748475370e-1f;
	q = q * t + 1.210375280e-1f;
	q = q * t + 2.054307803e-1f;
	q = q * t + 2.106334516e-1f;
	q = q * t + 2.116144179e-1f;
	vec tail = q * t * e * 0.5f;

	*gauss = e;
	return select_vec(x < splat(0.0f), tail, 1.0f - tail);
}

/* High and low words of a * b, lane by lane. */
INLINE void multiply_wide(vecu a, uint32_t b, vecu *high, vecu *low)
{
#if LANES == 16 && defined(__AVX512F__)
	__m512i x = (__m512i)a, y = _mm512_set1_epi32((int)b);
	__m512i even = _mm512_mul_epu32(x, y), odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), y);

	*high = (vecu)_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
	*low = (vecu)_mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
#elif LANES == 8 && defined(__AVX2__)
	__m256i x = (__m256i)a, y = _mm256_set1_epi32((int)b);
	__m256i even = _mm256_mul_epu32(x, y), odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), y);

	*high = (vecu)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
	*low = (vecu)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
#else
	for (int i = 0; i < LANES; i++) {
		uint64_t product = (uint64_t)a[i] * b;

		(*high)[i] = (uint32_t)(product >> 32);
		(*low)[i] = (uint32_t)product;
	}
#endif
}

/* rng_philox() of LANES counters (c0 + lane, c1, c2, c3). */
INLINE void philox_vec(vecu out[4], struct rng_key key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3)
{
	vecu x0 = splat_u(c0) + (vecu)lane_numbers(), x1 = splat_u(c1), x2 = splat_u(c2), x3 = splat_u(c3);

	for (int round = 0; round < 10; round++) {
		vecu h0, l0, h1, l1;

		multiply_wide(x0, 0xD2511F53u, &h0, &l0);
		multiply_wide(x2, 0xCD9E8D57u, &h1, &l1);
		x0 = h1 ^ x1 ^ key.k0;
		x2 = h0 ^ x3 ^ key.k1;
		x1 = l1;
		x3 = l0;
		key.k0 += 0x9E3779B9u;
		key.k1 += 0xBB67AE85u;
	}
	out[0] = x0;
	out[1] = x1;
	out[2] = x2;
	out[3] = x3;
}

static void factors(float *out, int n, const struct mask_source *mask, uint32_t channel, uint32_t position, uint32_t token)
{
	for (int at = 0; at < n; at += GROUP) {
		for (int half = 0; half < 16; half += LANES) {
			vecu words[4];

			philox_vec(words, mask->key, (channel + (uint32_t)at) / 4 + (uint32_t)half, position, token, mask->step);
			for (int w = 0; w < 4; w++)
				store(out + at + 16 * w + half,
				      (vec)((veci)(words[w] >= splat_u(mask->threshold)) & (veci)splat(mask->scale)));
		}
	}
}

static void bias_gelu(float *y, float *pre, const float *bias, int n)
{
	for (int i = 0; i < n; i += LANES) {
		vec x = load_n(pre + i, n - i) + load_n(bias + i, n - i), gauss;

		store_n(pre + i, x, n - i);
		store_n(y + i, x * normal_cdf(x, &gauss), n - i);
	}
}

static void gelu_backward(float *dy, float *y, const float *pre, int n)
{
	for (int i = 0; i < n; i += LANES) {
		vec x = load_n(pre + i, n - i), gauss, cdf = normal_cdf(x, &gauss);

		store_n(dy + i, load_n(dy + i, n - i) * (cdf + x * gauss * 0.39894228f), n - i);
		if (y != NULL)
			store_n(y + i, x * cdf, n - i);
	}
}

static void residual(float *sum, const float *bias, const float *factor, const float *rest, int n)
{
	for (int i = 0; i < n; i += LANES) {
		vec x = load_n(sum + i, n - i);

		if (bias != NULL)
			x += load_n(bias + i, n - i);
		if (factor != NULL)
			x *= load_n(factor + i, n - i);
		if (rest != NULL)
			x += load_n(rest + i, n - i);
		store_n(sum + i, x, n - i);
	}
}

static void norm(float *y, float *mean, float *rstd, const float *x, const float *gamma, const float *beta, float eps, int n)
{
	vec total = { 0 }, squares = { 0 };

	for (int i = 0; i < n; i += LANES)
		total += load_n(x + i, n - i);
	float centre = sum_lanes(total) / (float)n;
	for (int i = 0; i < n; i += LANES) {
		vec d = keep_n(load_n(x + i, n - i) - centre, n - i, 0.0f);

		squares += d * d;
	}
	float inverse = 1.0f / __builtin_sqrtf(sum_lanes(squares) / (float)n + eps);
	for (int i = 0; i < n; i += LANES) {
		vec unit = (load_n(x + i, n - i) - centre) * inverse;

		store_n(y + i, unit * load_n(gamma + i, n - i) + load_n(beta + i, n - i), n - i);
	}
	*mean = centre;
	*rstd = inverse;
}

static void norm_backward(float *dx, const float *dy, const float *x, float mean, float rstd, const float *gamma, int n)
{
	vec sum_g = { 0 }, sum_gx = { 0 };

	for (int i = 0; i < n; i += LANES) {
		vec g = load_n(dy + i, n - i) * load_n(gamma + i, n - i); /* zero behind the end */

		sum_g += g;
		sum_gx += g * ((load_n(x + i, n - i) - mean) * rstd);
	}
	float mean_g = sum_lanes(sum_g) / (float)n, mean_gx = sum_lanes(sum_gx) / (float)n;
	for (int i = 0; i < n; i += LANES) {
		vec g = load_n(dy + i, n - i) * load_n(gamma + i, n - i);
		vec unit = (load_n(x + i, n - i) - mean) * rstd;

		store_n(dx + i, (g - mean_g - unit * mean_gx) * rstd, n - i);
	}
}

static void norm_columns(float *dgamma, float *dbeta, const float *dy, const float *x, float mean, float rstd, int n)
{
	for (int i = 0; i < n; i += LANES) {
		vec d = load_n(dy + i, n - i), unit = (load_n(x + i, n - i) - mean) * rstd;

		store_n(dgamma + i, load_n(dgamma + i, n - i) + d * unit, n - i);
		store_n(dbeta + i, load_n(dbeta + i, n - i) + d, n - i);
	}
}

static void add(float *y, const float *x, int n)
{
	for (int i = 0; i < n; i += LANES)
		store_n(y + i, load_n(y + i, n - i) + load_n(x + i, n - i), n - i);
}

static void sum2(float *y, const float *a, const float *b, int n)
{
	for (int i = 0; i < n; i += LANES)
		store_n(y + i, load_n(a + i, n - i) + load_n(b + i, n - i), n - i);
}

static void sum3(float *y, const float *a, const float *b, const float *c, int n)
{
	for (int i = 0; i < n; i += LANES)
		store_n(y + i, load_n(a + i, n - i) + load_n(b + i, n - i) + load_n(c + i, n - i), n - i);
}

static void multiply(float *y, const float *a, const float *b, int n)
{
	for (int i = 0; i < n; i += LANES)
		store_n(y + i, load_n(a + i, n - i) * load_n(b + i, n - i), n - i);
}

static void multiply_add(float *y, const float *a, const float *b, int n)
{
	for (int i = 0; i < n; i += LANES)
		store_n(y + i, load_n(y + i, n - i) + load_n(a + i, n - i) * load_n(b + i, n - i), n - i);
}

static void bias_relu(float *z, const float *bias, int n)
{
	for (int i = 0; i < n; i += LANES) {
		vec x = load_n(z + i, n - i);

		if (bias != NULL)
			x += load_n(bias + i, n - i);
		store_n(z + i, select_vec(x < splat(0.0f), splat(0.0f), x), n - i); /* keeps a NaN */
	}
}

static void relu_mask(float *dz, const float *z, int n)
{
	for (int i = 0; i < n; i += LANES)
		store_n(dz + i, (vec)((veci)load_n(dz + i, n - i) & (veci)(load_n(z + i, n - i) > splat(0.0f))), n - i);
}

INLINE float dot(const float *a, const float *b, int n)
{
	vec sum = { 0 };

	for (int i = 0; i < n; i += LANES)
		sum += load_n(a + i, n - i) * load_n(b + i, n - i);
	return sum_lanes(sum);
}

/* Scores times scale become probabilities, in place; p has room for whole
 * vectors, and what lies behind n becomes zero. */
INLINE void softmax(float *p, int n, float scale)
{
	vec largest = splat(-__builtin_inff()), total = { 0 };

	for (int i = 0; i < n; i += LANES) {
		vec x = keep_n(load(p + i), n - i, -__builtin_inff());

		largest = select_vec(x > largest, x, largest);
	}
	float top = max_lanes(largest);
	for (int i = 0; i < n; i += LANES) {
		vec e = keep_n(exp_vec((load(p + i) - top) * scale), n - i, 0.0f);

		store(p + i, e);
		total += e;
	}
	float inverse = 1.0f / sum_lanes(total);
	for (int i = 0; i < n; i += LANES)
		store(p + i, load(p + i) * inverse);
}

/* One tile of c (+)= a b: `rows` rows times `vecs` vectors of columns, the last one with `last` columns. */
INLINE void product_tile(float *c, size_t ldc, const float *a, size_t a_row, size_t a_step, const float *b, size_t ldb, int depth,
			 const int rows, const int vecs, int last, bool accumulate)
{
	vec sum[8];

	for (int r = 0; r < rows; r++) {
		for (int v = 0; v < vecs; v++)
			sum[r * vecs + v] = accumulate ? load_n(c + r * ldc + v * LANES, v == vecs - 1 ? last : LANES) : (vec){ 0 };
	}
	for (int k = 0; k < depth; k++) {
		vec line[2];

		for (int v = 0; v < vecs; v++)
			line[v] = load_n(b + (size_t)k * ldb + v * LANES, v == vecs - 1 ? last : LANES);
		for (int r = 0; r < rows; r++) {
			for (int v = 0; v < vecs; v++)
				sum[r * vecs + v] += a[r * a_row + k * a_step] * line[v];
		}
	}
	for (int r = 0; r < rows; r++) {
		for (int v = 0; v < vecs; v++)
			store_n(c + r * ldc + v * LANES, sum[r * vecs + v], v == vecs - 1 ? last : LANES);
	}
}

/* A matrix whose element (i, k) lies at i * row + k * step. */
struct operand {
	const float *at;
	size_t row, step;
};

INLINE int least(int a, int b)
{
	return a < b ? a : b;
}

/* All rows of `vecs` vectors of columns, in tiles of 8 sums while there are rows. */
INLINE void product_columns(float *c, size_t ldc, struct operand a, const float *b, size_t ldb, int m, int depth, const int vecs,
			    int last, bool accumulate)
{
	int i = 0;

	for (; i + 8 / vecs <= m; i += 8 / vecs)
		product_tile(c + i * ldc, ldc, a.at + i * a.row, a.row, a.step, b, ldb, depth, 8 / vecs, vecs, last, accumulate);
	for (; i + 4 / vecs <= m; i += 4 / vecs)
		product_tile(c + i * ldc, ldc, a.at + i * a.row, a.row, a.step, b, ldb, depth, 4 / vecs, vecs, last, accumulate);
	for (; i < m; i++)
		product_tile(c + i * ldc, ldc, a.at + i * a.row, a.row, a.step, b, ldb, depth, 1, vecs, last, accumulate);
}

/* c (m, n) (+)= a (m, depth) b (depth, n). */
static void product(float *c, size_t ldc, struct operand a, const float *b, size_t ldb, int m, int n, int depth,
		    bool accumulate)
{
	int j = 0;

	for (; j + LANES < n; j += 2 * LANES)
		product_columns(c + j, ldc, a, b + j, ldb, m, depth, 2, least(LANES, n - j - LANES), accumulate);
	if (j < n)
		product_columns(c + j, ldc, a, b + j, ldb, m, depth, 1, n - j, accumulate);
}

/* Attention works on tiles of this many queries and GROUP keys. */
enum { QUERIES = 16 };

struct key_columns {
	float at[DENSE_HEAD_MAX][GROUP];
};

/* A square of LANES rows, rows turned to columns, by interleaving halves log2(LANES) times. */
INLINE void transpose_square(vec x[LANES])
{
#ifndef __clang__
	veci low, high;

	for (int i = 0; i < LANES; i++) {
		low[i] = i / 2 + i % 2 * LANES;
		high[i] = low[i] + LANES / 2;
	}
	for (int stage = 1; stage < LANES; stage *= 2) {
		vec y[LANES];

		for (int i = 0; i < LANES / 2; i++) {
			y[2 * i] = __builtin_shuffle(x[i], x[i + LANES / 2], low);
			y[2 * i + 1] = __builtin_shuffle(x[i], x[i + LANES / 2], high);
		}
		memcpy(x, y, sizeof(y));
	}
#else
	for (int i = 0; i < LANES; i++) {
		for (int j = 0; j < i; j++) {
			float kept = x[i][j];

			x[i][j] = x[j][i];
			x[j][i] = kept;
		}
	}
#endif
}

/* Columns of up to GROUP rows of k or v; unused places of the last vector are zero. */
static void transpose_rows(struct key_columns *out, const float *x, size_t ld, int rows, int width)
{
	for (int j = 0; j < rows; j += LANES) {
		for (int d = 0; d < width; d += LANES) {
			vec square[LANES];

			for (int r = 0; r < LANES; r++)
				square[r] = j + r < rows ? load_n(x + (j + r) * ld + d, width - d) : (vec){ 0 };
			transpose_square(square);
			for (int r = 0; r < LANES && d + r < width; r++)
				store(&out->at[d + r][j], square[r]);
		}
	}
}

/* Dropout factors of queries [i, i + m) and keys [j, j + n). */
static void mask_tile(float out[QUERIES][GROUP], const struct attend_args *a, int i, int m, int j, int n)
{
	for (int r = 0; r < m; r++)
		factors(out[r], n, a->mask, (a->head << DROPOUT_HEAD_SHIFT) + (uint32_t)j, a->position, (uint32_t)(i + r));
}

static void attend(float *ctx, float *probs, const float *q, const float *k, const float *v, const struct attend_args *a)
{
	struct key_columns columns;
	float weight[QUERIES][GROUP];
	const size_t ldq = (size_t)a->ldq, ldkv = (size_t)a->ldkv, ldctx = (size_t)a->ldctx;

	for (int j = 0; j < a->length; j += GROUP) {
		int n = least(GROUP, a->length - j);

		transpose_rows(&columns, k + j * ldkv, ldkv, n, a->width);
		product(probs + j, a->ldprobs, (struct operand){ q, ldq, 1 }, columns.at[0], GROUP, a->queries, n, a->width, false);
	}
	for (int i = 0; i < a->queries; i++)
		softmax(probs + i * a->ldprobs, a->length, a->scale);
	for (int i = 0; i < a->queries; i += QUERIES) {
		int m = least(QUERIES, a->queries - i);

		for (int j = 0; j < a->length; j += GROUP) {
			int n = least(GROUP, a->length - j);
			const float *p = probs + i * a->ldprobs + j;
			struct operand left = { p, a->ldprobs, 1 };

			if (a->mask != NULL) {
				mask_tile(weight, a, i, m, j, n);
				for (int r = 0; r < m; r++)
					multiply(weight[r], weight[r], p + r * a->ldprobs, n);
				left = (struct operand){ weight[0], GROUP, 1 };
			}
			product(ctx + i * ldctx, ldctx, left, v + j * ldkv, ldkv, m, a->width, n, j > 0);
		}
	}
}

/* The gradient of scores: ds = p (factor dp - inner) scale; and the weights p factor. dp is overwritten by ds. */
INLINE void score_gradients(float *dp, float *weight, const float *p, const float *factor, float inner, float scale, int n)
{
	for (int i = 0; i < n; i += LANES) {
		vec probability = load_n(p + i, n - i), d = load(dp + i), kept = probability;

		if (factor != NULL) {
			d *= load(factor + i);
			kept *= load(factor + i);
		}
		store(weight + i, kept);
		store(dp + i, probability * (d - inner) * scale);
	}
}

/* The sum of p_j dp_j over the keys equals dctx . ctx, so one pass over them is enough. */
static void attend_backward(float *dq, float *dk, float *dv, const float *dctx, const float *ctx, const float *probs,
			    const float *q, const float *k, const float *v, const struct attend_args *a)
{
	struct key_columns columns;
	float dscore[QUERIES][GROUP], weight[QUERIES][GROUP], kept[QUERIES][GROUP], inner[QUERIES];
	const size_t ldq = (size_t)a->ldq, ldkv = (size_t)a->ldkv, ldctx = (size_t)a->ldctx;

	for (int i = 0; i < a->queries; i += QUERIES) {
		int m = least(QUERIES, a->queries - i);
		const float *d_out = dctx + i * ldctx;

		for (int r = 0; r < m; r++)
			inner[r] = dot(d_out + r * ldctx, ctx + (i + r) * ldctx, a->width);
		for (int j = 0; j < a->length; j += GROUP) {
			int n = least(GROUP, a->length - j);
			struct operand by_key = { dscore[0], 1, GROUP }, weight_by_key = { weight[0], 1, GROUP };

			transpose_rows(&columns, v + j * ldkv, ldkv, n, a->width);
			product(dscore[0], GROUP, (struct operand){ d_out, ldctx, 1 }, columns.at[0], GROUP, m, n, a->width, false);
			if (a->mask != NULL)
				mask_tile(kept, a, i, m, j, n);
			for (int r = 0; r < m; r++)
				score_gradients(dscore[r], weight[r], probs + (i + r) * a->ldprobs + j,
						a->mask != NULL ? kept[r] : NULL, inner[r], a->scale, n);
			product(dv + j * ldkv, ldkv, weight_by_key, d_out, ldctx, n, a->width, m, i > 0);
			product(dk + j * ldkv, ldkv, by_key, q + i * ldq, ldq, n, a->width, m, i > 0);
			product(dq + i * ldq, ldq, (struct operand){ dscore[0], GROUP, 1 }, k + j * ldkv, ldkv, m, a->width, n, j > 0);
		}
	}
}

const struct row_ops ROW_OPS = {
	.name = ROW_OPS_NAME,
	.factors = factors,
	.bias_gelu = bias_gelu,
	.gelu_backward = gelu_backward,
	.residual = residual,
	.norm = norm,
	.norm_backward = norm_backward,
	.norm_columns = norm_columns,
	.add = add,
	.sum2 = sum2,
	.sum3 = sum3,
	.multiply = multiply,
	.multiply_add = multiply_add,
	.bias_relu = bias_relu,
	.relu_mask = relu_mask,
	.attend = attend,
	.attend_backward = attend_backward,
};
