/*
 * Every dense kernel: the fast version on each instruction set against the
 * reference over awkward shapes, and the reference's gradients against finite
 * differences. Dropout is on in half of the cases.
 */
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shared/base/mem.h"
#include "trainer/kernels/random_fill.h"
#include "trainer/kernels/row_ops.h"

static const struct dense_ops *fast, *ref;
static uint64_t draws;

static float *numbers(size_t n, float scale)
{
	float *p = mem_aligned(n * sizeof(float));

	assert_non_null(p);
	random_fill_normal(p, n, rng_key(++draws, RNG_NOISE), scale);
	return p;
}

static float *copy_of(const float *x, size_t n)
{
	float *p = mem_aligned(n * sizeof(float));

	assert_non_null(p);
	memcpy(p, x, n * sizeof(float));
	return p;
}

/* |a-b| <= tolerance * (largest |b| + |b|): sums cancel, so the array's scale counts. */
static void assert_near(const char *what, const float *a, const float *b, size_t n, double tolerance)
{
	double scale = 0, worst = -1;
	size_t at = 0;

	for (size_t i = 0; i < n; i++)
		scale = fmax(scale, fabs((double)b[i]));
	for (size_t i = 0; i < n; i++) {
		double off = fabs((double)a[i] - b[i]) / (scale + fabs((double)b[i]) + 1e-30);

		if (!(off <= worst)) {
			worst = off;
			at = i;
		}
	}
	if (n > 0 && !(worst <= tolerance))
		fail_msg("%s (%s): element %zu of %zu is %.9g, expected %.9g (off by %.3g of the scale, allowed %.3g)", what,
			 row_ops()->name, at, n, a[at], b[at], worst, tolerance);
}

/* Two buffers with equal content, one for each version. */
struct twin {
	float *fast, *ref;
	size_t n;
};

static struct twin twin(size_t n, float scale)
{
	float *p = numbers(n + 1, scale);

	return (struct twin){ p, copy_of(p, n + 1), n };
}

static void twin_check(const char *what, struct twin t, double tolerance)
{
	assert_near(what, t.fast, t.ref, t.n, tolerance);
	/* the element behind the end was not touched */
	assert_memory_equal(&t.fast[t.n], &t.ref[t.n], sizeof(float));
	free(t.fast);
	free(t.ref);
}

static void check_linear(int rows, int in, int out, int pad)
{
	struct linear_shape s = { rows, in, out, in + pad, in + 2 * pad, out + 3 * pad };
	float *x = numbers((size_t)rows * s.ldx + 1, 1), *w = numbers((size_t)out * s.ldw, 1), *bias = numbers((size_t)out, 1);

	for (int accumulate = 0; accumulate < 2; accumulate++) {
		struct twin y = twin((size_t)rows * s.ldy, 1), dx = twin((size_t)rows * s.ldx, 1);
		struct twin dw = twin((size_t)out * s.ldw, 1), db = twin((size_t)out, 1);
		const float *b = accumulate ? bias : NULL, *dy = y.ref;

		fast->linear(y.fast, x, w, b, s, accumulate);
		ref->linear(y.ref, x, w, b, s, accumulate);
		fast->linear_input(dx.fast, dy, w, s, accumulate);
		ref->linear_input(dx.ref, dy, w, s, accumulate);
		fast->linear_weights(dw.fast, dy, x, s);
		ref->linear_weights(dw.ref, dy, x, s);
		fast->sum_rows(db.fast, dy, rows, out, s.ldy);
		ref->sum_rows(db.ref, dy, rows, out, s.ldy);
		twin_check("linear_input", dx, 4e-6);
		twin_check("linear_weights", dw, 4e-6);
		twin_check("sum_rows", db, 4e-6);
		twin_check("linear", y, 4e-6);
	}
	free(x);
	free(w);
	free(bias);
}

static void test_linear(void **state)
{
	(void)state;
	check_linear(1, 1, 1, 0);
	check_linear(3, 17, 5, 1);
	check_linear(37, 64, 192, 0);
	check_linear(221, 96, 130, 16);
	check_linear(0, 8, 8, 0);
}

static void check_gelu(int rows, int width)
{
	size_t n = (size_t)rows * width;
	struct twin pre = twin(n, 3), y = twin(n, 1), dy = twin(n, 1), again = twin(n, 1);
	float *bias = numbers((size_t)width, 1);

	fast->bias_gelu(y.fast, pre.fast, bias, rows, width);
	ref->bias_gelu(y.ref, pre.ref, bias, rows, width);
	fast->gelu_backward(dy.fast, again.fast, pre.ref, rows, width);
	ref->gelu_backward(dy.ref, again.ref, pre.ref, rows, width);
	twin_check("bias_gelu pre", pre, 1e-7);
	twin_check("bias_gelu", y, 2e-7);
	twin_check("gelu_backward", dy, 4e-7);
	twin_check("gelu_backward y", again, 2e-7);
	free(bias);
}

/* The whole range, in absolute error, against double. */
static void check_gelu_range(void)
{
	enum { N = 40001 };
	float *x = numbers(N, 1), *y = numbers(N, 1), *dy = numbers(N, 1), zero[1] = { 0 };
	double worst = 0, worst_slope = 0;

	for (int i = 0; i < N; i++) {
		x[i] = (float)(i - N / 2) * 1e-3f;
		dy[i] = 1;
	}
	fast->gelu_backward(dy, y, x, 1, N);
	for (int i = 0; i < N; i++) {
		double v = x[i], cdf = 0.5 * erfc(-v * sqrt(0.5)), slope = cdf + v * exp(-v * v / 2) / sqrt(8 * atan(1));

		worst = fmax(worst, fabs(y[i] - v * cdf) / fmax(1, fabs(v)));
		worst_slope = fmax(worst_slope, fabs(dy[i] - slope));
	}
	assert_true(worst < 2e-7);
	assert_true(worst_slope < 4e-7);
	float odd[3] = { NAN, INFINITY, -INFINITY }, out[3];
	for (int i = 0; i < 3; i++)
		fast->bias_gelu(&out[i], &odd[i], zero, 1, 1);
	assert_true(isnan(out[0]) && out[1] == INFINITY);
	free(x);
	free(y);
	free(dy);
}

static void test_gelu(void **state)
{
	(void)state;
	check_gelu(1, 1);
	check_gelu(5, 67);
	check_gelu(40, 1024);
	check_gelu_range();
}

static const uint32_t OFFSETS[] = { 0, 1, 18, 22, 39, 103, 170 };
enum { GROUPS = 6, TOKENS = 170 };
static const uint32_t POSITIONS[] = { 5, 0, 900, 7, 1, 63 };

static struct dropout_spec spec(float probability)
{
	/* Behind a residual, whole branches go too. */
	return (struct dropout_spec){ probability, 3, 12345, ((uint64_t)1 << 32) + 7, POSITIONS, 0.5f };
}

static void check_norm(int width, bool first_only, float probability)
{
	struct packed_rows rows = { OFFSETS, GROUPS, first_only };
	struct dropout_spec drop = spec(probability);
	size_t count = first_only ? GROUPS : TOKENS, n = count * (size_t)width;
	float *gamma = numbers((size_t)width, 1), *beta = numbers((size_t)width, 1), *bias = numbers((size_t)width, 1);
	float *rest = numbers(n, 1), *dy = numbers(n, 1);
	struct norm_weights norm = { gamma, beta, 1e-5f };
	struct twin y = twin(n, 1), sum = twin(n, 1), mean = twin(count, 1), rstd = twin(count, 1), dsum = twin(n, 1);
	struct twin dinner = twin(n, 1), dgamma = twin((size_t)width, 1), dbeta = twin((size_t)width, 1), dbias = twin((size_t)width, 1);

	fast->residual_norm(y.fast, sum.fast, mean.fast, rstd.fast, bias, rest, norm, width, rows, &drop);
	ref->residual_norm(y.ref, sum.ref, mean.ref, rstd.ref, bias, rest, norm, width, rows, &drop);
	fast->residual_norm_backward(dsum.fast, dinner.fast, dgamma.fast, dbeta.fast, dbias.fast, dy, sum.ref, mean.ref,
				     rstd.ref, norm, width, rows, &drop);
	ref->residual_norm_backward(dsum.ref, dinner.ref, dgamma.ref, dbeta.ref, dbias.ref, dy, sum.ref, mean.ref, rstd.ref,
				    norm, width, rows, &drop);
	/* in place, as the model calls it; beta and bias are only somewhere to add to */
	fast->residual_norm_backward(dy, NULL, beta, bias, NULL, dy, sum.ref, mean.ref, rstd.ref, norm, width, rows, &drop);
	assert_memory_equal(dy, dsum.fast, n * sizeof(float));
	twin_check("residual_norm", y, 2e-6);
	twin_check("residual_norm sum", sum, 2e-7);
	twin_check("residual_norm mean", mean, 1e-6);
	twin_check("residual_norm rstd", rstd, 2e-6);
	twin_check("residual_norm_backward dsum", dsum, 3e-6);
	twin_check("residual_norm_backward dinner", dinner, 3e-6);
	twin_check("residual_norm_backward dgamma", dgamma, 2e-6);
	twin_check("residual_norm_backward dbeta", dbeta, 2e-6);
	twin_check("residual_norm_backward dbias", dbias, 3e-6);
	free(gamma);
	free(beta);
	free(bias);
	free(rest);
	free(dy);
}

static void check_embed(int width, float probability)
{
	struct packed_rows rows = { OFFSETS, GROUPS, false };
	struct dropout_spec drop = spec(probability);
	size_t n = TOKENS * (size_t)width, w = (size_t)width;
	float *gamma = numbers(w, 1), *beta = numbers(w, 1), *word = numbers(n, 1), *type = numbers(w, 1);
	float *position = numbers(80 * w, 1);
	struct norm_weights norm = { gamma, beta, 1e-12f };
	struct twin y = twin(n, 1), sum = twin(n, 1), mean = twin(TOKENS, 1), rstd = twin(TOKENS, 1), dsum = twin(n, 1);
	struct twin dposition = twin(80 * w, 1), dtype = twin(w, 1), dgamma = twin(w, 1), dbeta = twin(w, 1), dy = twin(n, 1);

	fast->embed_norm(y.fast, sum.fast, mean.fast, rstd.fast, word, position, type, norm, width, rows, &drop);
	ref->embed_norm(y.ref, sum.ref, mean.ref, rstd.ref, word, position, type, norm, width, rows, &drop);
	fast->embed_norm_backward(dsum.fast, dposition.fast, dtype.fast, dgamma.fast, dbeta.fast, dy.fast, sum.ref, mean.ref,
				  rstd.ref, norm, width, rows, &drop);
	ref->embed_norm_backward(dsum.ref, dposition.ref, dtype.ref, dgamma.ref, dbeta.ref, dy.ref, sum.ref, mean.ref,
				 rstd.ref, norm, width, rows, &drop);
	twin_check("embed_norm", y, 2e-6);
	twin_check("embed_norm sum", sum, 0);
	twin_check("embed_norm mean", mean, 1e-6);
	twin_check("embed_norm rstd", rstd, 2e-6);
	twin_check("embed_norm_backward dsum", dsum, 3e-6);
	twin_check("embed_norm_backward dposition", dposition, 3e-6);
	twin_check("embed_norm_backward dtype", dtype, 3e-6);
	twin_check("embed_norm_backward dgamma", dgamma, 2e-6);
	twin_check("embed_norm_backward dbeta", dbeta, 2e-6);
	free(dy.fast);
	free(dy.ref);
	free(gamma);
	free(beta);
	free(word);
	free(type);
	free(position);
}

static void test_norms(void **state)
{
	(void)state;
	for (int drop = 0; drop < 2; drop++) {
		check_norm(7, false, 0.3f * (float)drop);
		check_norm(768, false, 0.1f * (float)drop);
		check_norm(130, true, 0.5f * (float)drop);
		check_embed(72, 0.1f * (float)drop);
		check_embed(256, 0.3f * (float)drop);
	}
}

static void check_relu_norm(int rows, int width)
{
	size_t n = (size_t)rows * width, w = (size_t)width;
	float *gamma = numbers(w, 1), *beta = numbers(w, 1), *bias = numbers(w, 1), *dy = numbers(n, 1);
	struct norm_weights norm = { gamma, beta, 1e-5f };
	struct twin y = twin(n, 1), z = twin(n, 1), mean = twin((size_t)rows, 1), rstd = twin((size_t)rows, 1), dz = twin(n, 1);
	struct twin dgamma = twin(w, 1), dbeta = twin(w, 1), dbias = twin(w, 1);

	fast->relu_norm(y.fast, z.fast, mean.fast, rstd.fast, bias, norm, rows, width);
	ref->relu_norm(y.ref, z.ref, mean.ref, rstd.ref, bias, norm, rows, width);
	fast->relu_norm_backward(dz.fast, dgamma.fast, dbeta.fast, dbias.fast, dy, z.ref, mean.ref, rstd.ref, norm, rows, width);
	ref->relu_norm_backward(dz.ref, dgamma.ref, dbeta.ref, dbias.ref, dy, z.ref, mean.ref, rstd.ref, norm, rows, width);
	twin_check("relu_norm", y, 3e-6);
	twin_check("relu_norm z", z, 0);
	twin_check("relu_norm mean", mean, 1e-6);
	twin_check("relu_norm rstd", rstd, 2e-6);
	twin_check("relu_norm_backward dz", dz, 3e-6);
	twin_check("relu_norm_backward dgamma", dgamma, 3e-6);
	twin_check("relu_norm_backward dbeta", dbeta, 3e-6);
	twin_check("relu_norm_backward dbias", dbias, 3e-6);
	free(gamma);
	free(beta);
	free(bias);
	free(dy);
}

static void test_relu_norm(void **state)
{
	(void)state;
	check_relu_norm(3, 130);
	check_relu_norm(100, 768);
}

static void check_attention(int heads, int head_width, bool first_only, float probability)
{
	int width = heads * head_width, ld = 3 * width;
	struct attention_shape s = { OFFSETS, GROUPS, heads, head_width, first_only ? width : ld, ld, width, 80, first_only };
	size_t rows = first_only ? GROUPS : TOKENS, nq = rows * (size_t)s.ldq, nkv = TOKENS * (size_t)ld;
	struct dropout_spec drop = spec(probability);
	float *q = numbers(nq, 1), *kv = numbers(nkv, 1), *dctx = numbers(rows * (size_t)width, 1);
	struct twin ctx = twin(rows * (size_t)width, 1), probs = twin(rows * (size_t)heads * 80, 0), dq = twin(nq, 1), dkv = twin(nkv, 1);
	const float *k = kv + width, *v = kv + 2 * width;

	fast->attention(ctx.fast, probs.fast, q, k, v, s, &drop);
	ref->attention(ctx.ref, probs.ref, q, k, v, s, &drop);
	fast->attention_backward(dq.fast, dkv.fast + width, dkv.fast + 2 * width, dctx, ctx.ref, probs.ref, q, k, v, s, &drop);
	ref->attention_backward(dq.ref, dkv.ref + width, dkv.ref + 2 * width, dctx, ctx.ref, probs.ref, q, k, v, s, &drop);
	twin_check("attention", ctx, 3e-6);
	twin_check("attention probs", probs, 3e-6);
	twin_check("attention_backward dq", dq, 4e-6);
	twin_check("attention_backward dkv", dkv, 4e-6);
	free(q);
	free(kv);
	free(dctx);
}

static void test_attention(void **state)
{
	(void)state;
	for (int drop = 0; drop < 2; drop++) {
		check_attention(2, 32, false, 0.1f * (float)drop);
		check_attention(3, 21, false, 0.4f * (float)drop);
		check_attention(12, 64, true, 0.1f * (float)drop);
	}
}

static void test_rows(void **state)
{
	enum { W = 130, N = 40, TABLE = 50 };
	int32_t ids[N];
	struct packed_rows rows = { OFFSETS, GROUPS, true };

	(void)state;
	for (int i = 0; i < N; i++)
		ids[i] = (i * 7) % 11;
	struct twin out = twin(N * W, 1), table = twin(TABLE * W, 1), first = twin(GROUPS * W, 1), back = twin(TOKENS * W, 1);
	float *x = numbers(TOKENS * W, 1), *skipped = copy_of(table.fast, TABLE * W);

	fast->gather_rows(out.fast, x, ids, N, W);
	ref->gather_rows(out.ref, x, ids, N, W);
	fast->scatter_rows(table.fast, x, ids, N, W, 3);
	ref->scatter_rows(table.ref, x, ids, N, W, 3);
	assert_memory_equal(table.fast + 3 * W, skipped + 3 * W, W * sizeof(float));
	assert_memory_not_equal(table.fast + 4 * W, skipped + 4 * W, W * sizeof(float));
	fast->gather_first(first.fast, x, rows, W);
	ref->gather_first(first.ref, x, rows, W);
	fast->scatter_first(back.fast, x, rows, W);
	ref->scatter_first(back.ref, x, rows, W);
	twin_check("gather_rows", out, 0);
	twin_check("scatter_rows", table, 1e-7);
	twin_check("gather_first", first, 0);
	twin_check("scatter_first", back, 1e-7);
	free(x);
	free(skipped);
}

static void check_pairs(int width, float probability)
{
	enum { B = 5, C = 6, N = 30 };
	uint32_t picture[N], caption[N], far_picture[B] = { 9, 3, 70, 1, 2 };
	struct dropout_spec drop = spec(probability);
	size_t w = (size_t)width;
	float *v = numbers(B * w, 1), *t = numbers(C * w, 1), *dx = numbers(N * 2 * w, 1);
	struct twin x = twin(N * 2 * w, 1), dv = twin(B * w, 1), dt = twin(C * w, 1), sum = twin(N * w, 1), da = twin(B * w, 1);
	struct twin db = twin(C * w, 1);

	for (int i = 0; i < N; i++) {
		picture[i] = (uint32_t)(i * 3) % (B - 1); /* one picture is in no pair: its gradient is zero */
		caption[i] = (uint32_t)(i * 7) % C;
	}
	fast->pair_concat(x.fast, v, t, picture, caption, far_picture, POSITIONS, N, width, &drop);
	ref->pair_concat(x.ref, v, t, picture, caption, far_picture, POSITIONS, N, width, &drop);
	fast->pair_concat_backward(dv.fast, dt.fast, dx, picture, caption, far_picture, POSITIONS, N, B, C, width, &drop);
	ref->pair_concat_backward(dv.ref, dt.ref, dx, picture, caption, far_picture, POSITIONS, N, B, C, width, &drop);
	fast->pair_sum(sum.fast, v, t, picture, caption, N, width);
	ref->pair_sum(sum.ref, v, t, picture, caption, N, width);
	fast->pair_sum_backward(da.fast, db.fast, dx, picture, caption, N, B, C, width);
	ref->pair_sum_backward(da.ref, db.ref, dx, picture, caption, N, B, C, width);
	twin_check("pair_concat", x, 1e-7);
	twin_check("pair_concat_backward dv", dv, 1e-6);
	twin_check("pair_concat_backward dt", dt, 1e-6);
	twin_check("pair_sum", sum, 0);
	twin_check("pair_sum_backward da", da, 1e-6);
	twin_check("pair_sum_backward db", db, 1e-6);
	free(v);
	free(t);
	free(dx);
}

static void test_pairs(void **state)
{
	(void)state;
	for (int drop = 0; drop < 2; drop++) {
		check_pairs(128, 0.3f * (float)drop);
		check_pairs(768, 0.3f * (float)drop);
		check_pairs(35, 0.3f * (float)drop);
	}
}

static void test_cross_entropy(void **state)
{
	enum { N = 300, K = 5 };
	struct twin d = twin(N * K, 1);
	float *logits = numbers(N * K, 2), *weight = numbers(N, 1);
	int32_t labels[N];
	int right[2];

	(void)state;
	for (int i = 0; i < N; i++)
		labels[i] = i % K;
	for (int k = 0; k < K; k++)
		logits[k] = logits[K + k] = 1; /* ties: class 0 wins */
	for (int w = 0; w < 2; w++) {
		double a = fast->cross_entropy(d.fast, logits, labels, w ? weight : NULL, N, K, &right[0]);
		double b = ref->cross_entropy(d.ref, logits, labels, w ? weight : NULL, N, K, &right[1]);

		assert_true(fabs(a - b) <= 1e-12 * fabs(b));
		assert_int_equal(right[0], right[1]);
	}
	/* of two equal rows with labels 0 and 1 one is right, and the loss is ln K */
	assert_true(fabs(fast->cross_entropy(d.ref, logits, labels, NULL, 2, K, &right[0]) - log(K)) < 1e-12);
	assert_int_equal(right[0], 1);
	ref->cross_entropy(d.fast, logits, labels, NULL, 2, K, &right[0]);
	twin_check("cross_entropy", d, 1e-7);
	free(logits);
	free(weight);
}

/* The share of dropped elements is the probability, kept ones are scaled, and
 * a mask depends on its names alone. */
static void test_dropout(void **state)
{
	enum { W = 768, ROWS = 64 };
	uint32_t offsets[ROWS + 1], reversed[ROWS];
	float *zero = numbers(W, 0), *ones = numbers(W, 0), *a = numbers(ROWS * W, 0), *b = numbers(ROWS * W, 0);
	float *y = numbers(ROWS * W, 1), mean[ROWS], rstd[ROWS];
	struct norm_weights norm = { zero, zero, 1.0f };
	struct packed_rows rows = { offsets, ROWS, true };
	struct dropout_spec drop = { 0.3f, 9, 1, 2, NULL, 0 };
	int dropped = 0;

	(void)state;
	for (int i = 0; i <= ROWS; i++)
		offsets[i] = (uint32_t)i;
	for (int i = 0; i < W; i++)
		ones[i] = 1;
	for (int i = 0; i < ROWS; i++)
		reversed[i] = (uint32_t)(ROWS - 1 - i);
	fast->residual_norm(y, a, mean, rstd, ones, NULL, norm, W, rows, &drop);
	for (int i = 0; i < ROWS * W; i++) {
		assert_true(a[i] == 0.0f || a[i] == 1.0f / 0.7f);
		dropped += a[i] == 0.0f;
	}
	double share = (double)dropped / (ROWS * W);
	assert_true(fabs(share - 0.3) < 5 * sqrt(0.3 * 0.7 / (ROWS * W)));
	drop.positions = reversed;
	fast->residual_norm(y, b, mean, rstd, ones, NULL, norm, W, rows, &drop);
	for (int r = 0; r < ROWS; r++)
		assert_memory_equal(a + r * W, b + (ROWS - 1 - r) * W, W * sizeof(float));
	for (int change = 0; change < 3; change++) {
		struct dropout_spec other = { 0.3f, 9 + (change == 0), 1 + (change == 1), 2 + (change == 2), reversed, 0 };

		memset(b, 0, ROWS * W * sizeof(float));
		fast->residual_norm(y, b, mean, rstd, ones, NULL, norm, W, rows, &other);
		assert_memory_not_equal(a, b, W * sizeof(float));
	}
	drop.probability = 1.0f;
	memset(b, 0, ROWS * W * sizeof(float));
	fast->residual_norm(y, b, mean, rstd, ones, NULL, norm, W, rows, &drop);
	for (int i = 0; i < ROWS * W; i++)
		assert_true(b[i] == 0.0f);
	free(zero);
	free(ones);
	free(a);
	free(b);
	free(y);
}

static int use(void **state)
{
	return row_ops_use(*state) ? 0 : -1;
}

static int setup(void **state)
{
	(void)state;
	fast = dense_ops_fast();
	ref = dense_ops_reference();
	omp_set_num_threads(2);
	dense_set_threads(2);
	return 0;
}

int main(void)
{
	static char sets[][8] = { "avx512", "avx2", "plain" };
	static const struct CMUnitTest base[] = {
		cmocka_unit_test(test_linear),	  cmocka_unit_test(test_gelu),	   cmocka_unit_test(test_norms),
		cmocka_unit_test(test_relu_norm), cmocka_unit_test(test_attention), cmocka_unit_test(test_rows),
		cmocka_unit_test(test_pairs),	  cmocka_unit_test(test_cross_entropy), cmocka_unit_test(test_dropout),
	};
	int failed = 0;

	for (int i = 0; i < 3; i++) {
		struct CMUnitTest tests[ARRAY_LEN(base)];

		if (!row_ops_use(sets[i])) {
			printf("SKIP: this processor has no %s\n", sets[i]);
			continue;
		}
		memcpy(tests, base, sizeof(base));
		for (size_t t = 0; t < ARRAY_LEN(base); t++) {
			tests[t].setup_func = use;
			tests[t].initial_state = sets[i];
		}
		printf("with %s\n", sets[i]);
		failed += cmocka_run_group_tests_name(sets[i], tests, setup, NULL);
	}
	return failed != 0;
}
