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

/* y += a * x */
INLINE void axpy(float *y, float a, const float *x, int n)
{
	for (int i = 0; i < n; i += LANES)
		store_n(y + i, load_n(y + i, n - i) + a * load_n(x + i, n - i), n - i);
}

/* Scores become probabilities, in place; p has room for whole vectors, and
 * what lies behind n becomes zero. */
INLINE void softmax(float *p, int n)
{
	vec largest = splat(-__builtin_inff()), total = { 0 };

	for (int i = 0; i < n; i += LANES) {
		vec x = keep_n(load(p + i), n - i, -__builtin_inff());

		largest = select_vec(x > largest, x, largest);
	}
	float top = max_lanes(largest);
	for (int i = 0; i < n; i += LANES) {
		vec e = keep_n(exp_vec(load(p + i) - top), n - i, 0.0f);

		store(p + i, e);
		total += e;
	}
	float inverse = 1.0f / sum_lanes(total);
	for (int i = 0; i < n; i += LANES)
		store(p + i, load(p + i) * inverse);
}

static void attend(float *ctx, float *probs, const float *q, const float *k, const float *v, const struct attend_args *a)
{
	for (int i = 0; i < a->queries; i++) {
		float *p = probs + (size_t)i * a->ldprobs, *out = ctx + (size_t)i * a->ldctx;
		const float *query = q + (size_t)i * a->ldq;

		for (int j = 0; j < a->length; j++)
			p[j] = dot(query, k + (size_t)j * a->ldkv, a->width) * a->scale;
		softmax(p, a->length);
		for (int from = 0; from < a->length; from += GROUP) {
			int count = a->length - from < GROUP ? a->length - from : GROUP;
			float kept[GROUP];
			const float *weight = p + from;

			if (a->mask != NULL) {
				factors(kept, count, a->mask, (a->head << DROPOUT_HEAD_SHIFT) + (uint32_t)from, a->position,
					(uint32_t)i);
				for (int j = 0; j < count; j++)
					kept[j] *= weight[j];
				weight = kept;
			}
			for (int d = 0; d < a->width; d += LANES) {
				vec sum = from == 0 ? (vec){ 0 } : load_n(out + d, a->width - d);

				for (int j = 0; j < count; j++)
					sum += weight[j] * load_n(v + (size_t)(from + j) * a->ldkv + d, a->width - d);
				store_n(out + d, sum, a->width - d);
			}
		}
	}
}

INLINE void clear_columns(float *x, int rows, int ld, int n)
{
	for (int r = 0; r < rows; r++)
		memset(x + (size_t)r * ld, 0, (size_t)n * sizeof(float));
}

/* The sum of p_j dp_j over the keys equals dctx . ctx, so one pass over them is enough. */
static void attend_backward(float *dq, float *dk, float *dv, const float *dctx, const float *ctx, const float *probs,
			    const float *q, const float *k, const float *v, const struct attend_args *a)
{
	clear_columns(dk, a->length, a->ldkv, a->width);
	clear_columns(dv, a->length, a->ldkv, a->width);
	clear_columns(dq, a->queries, a->ldq, a->width);
	for (int i = 0; i < a->queries; i++) {
		const float *p = probs + (size_t)i * a->ldprobs, *query = q + (size_t)i * a->ldq;
		const float *d_out = dctx + (size_t)i * a->ldctx;
		float inner = dot(d_out, ctx + (size_t)i * a->ldctx, a->width), kept[GROUP];

		for (int j = 0; j < a->length; j++) {
			size_t at = (size_t)j * a->ldkv;
			float factor = 1.0f;

			if (a->mask != NULL && j % GROUP == 0)
				factors(kept, a->length - j < GROUP ? a->length - j : GROUP, a->mask,
					(a->head << DROPOUT_HEAD_SHIFT) + (uint32_t)j, a->position, (uint32_t)i);
			if (a->mask != NULL)
				factor = kept[j % GROUP];
			float ds = p[j] * (factor * dot(d_out, v + at, a->width) - inner) * a->scale;

			axpy(dv + at, p[j] * factor, d_out, a->width);
			axpy(dk + at, ds, query, a->width);
			axpy(dq + (size_t)i * a->ldq, ds, k + at, a->width);
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
