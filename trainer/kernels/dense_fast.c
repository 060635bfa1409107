/* The table of fast dense kernels; here matrix products (OpenBLAS), activations and attention. */
#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/log.h"
#include "trainer/kernels/dense_parts.h"
#include "trainer/kernels/gemm.h"

/* A variable meant for other programs that costs half of the speed is easily overlooked. */
static void hint_core_type(void)
{
#if defined(__x86_64__)
	static bool told;
	const char *forced = getenv("OPENBLAS_CORETYPE"), *core = openblas_get_corename();

	__builtin_cpu_init();
	if (!told && forced != NULL && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
	    strcmp(core, "SkylakeX") != 0 && strcmp(core, "Cooperlake") != 0 && strcmp(core, "SapphireRapids") != 0)
		log_info("OPENBLAS_CORETYPE=%s in the environment halves the speed of matrix products on this processor; "
			 "unset it for full speed", forced);
	told = true;
#endif
}

void dense_set_threads(int threads)
{
	/* 2: the OpenMP build. Another one keeps a pool of threads of its own that fights for the cores. */
	if (openblas_get_parallel() != 2 && threads > 1)
		log_warn("this OpenBLAS is not its OpenMP build and slows down the other kernels; "
			 "install libopenblas0-openmp");
	hint_core_type();
	openblas_set_num_threads(threads);
}

struct product {
	CBLAS_TRANSPOSE ta, tb;
	int m, n, k;
	int lda, ldb, ldc;
};

static void multiply(float *c, const float *a, const float *b, struct product p, float beta)
{
	if (p.m == 0 || p.n == 0)
		return;
	if (gemm_is_chosen()) {
		gemm_run(&(struct gemm){ .m = (size_t)p.m,
					 .n = (size_t)p.n,
					 .k = (size_t)p.k,
					 .a_form = p.ta == CblasNoTrans ? GEMM_ROWS : GEMM_COLUMNS,
					 .a = a,
					 .lda = (size_t)p.lda,
					 .b_form = p.tb == CblasNoTrans ? GEMM_ROWS : GEMM_COLUMNS,
					 .b = b,
					 .ldb = (size_t)p.ldb,
					 .c = c,
					 .ldc = (size_t)p.ldc,
					 .add = beta != 0.0f },
			 omp_get_max_threads());
		return;
	}
	cblas_sgemm(CblasRowMajor, p.ta, p.tb, p.m, p.n, p.k, 1.0f, a, p.lda, b, p.ldb, beta, c, p.ldc);
}

void dense_spread_bias(float *y, const float *bias, struct linear_shape s, bool accumulate)
{
	#pragma omp parallel for schedule(static) if (worth_threads(s.rows, s.out))
	for (int r = 0; r < s.rows; r++) {
		if (accumulate)
			row_ops()->add(y + (size_t)r * s.ldy, bias, s.out);
		else
			memcpy(y + (size_t)r * s.ldy, bias, (size_t)s.out * sizeof(float));
	}
}

static void linear(float *y, const float *x, const float *w, const float *bias, struct linear_shape s, bool accumulate)
{
	if (bias != NULL)
		dense_spread_bias(y, bias, s, accumulate);
	multiply(y, x, w, (struct product){ CblasNoTrans, CblasTrans, s.rows, s.out, s.in, s.ldx, s.ldw, s.ldy },
		 bias != NULL || accumulate ? 1.0f : 0.0f);
}

static void linear_input(float *dx, const float *dy, const float *w, struct linear_shape s, bool accumulate)
{
	multiply(dx, dy, w, (struct product){ CblasNoTrans, CblasNoTrans, s.rows, s.in, s.out, s.ldy, s.ldw, s.ldx },
		 accumulate ? 1.0f : 0.0f);
}

static void linear_weights(float *dw, const float *dy, const float *x, struct linear_shape s)
{
	multiply(dw, dy, x, (struct product){ CblasTrans, CblasNoTrans, s.out, s.in, s.rows, s.ldy, s.ldx, s.ldw }, 1.0f);
}

static void bias_gelu(float *y, float *pre, const float *bias, int rows, int width)
{
	#pragma omp parallel for schedule(static) if (worth_threads(rows, width))
	for (int r = 0; r < rows; r++)
		row_ops()->bias_gelu(y + (size_t)r * width, pre + (size_t)r * width, bias, width);
}

static void gelu_backward(float *dy, float *y, const float *pre, int rows, int width)
{
	#pragma omp parallel for schedule(static) if (worth_threads(rows, width))
	for (int r = 0; r < rows; r++) {
		size_t at = (size_t)r * width;

		row_ops()->gelu_backward(dy + at, y == NULL ? NULL : y + at, pre + at, width);
	}
}

/* The offsets of caption c, head h in the arrays of an attention call. */
struct head_place {
	size_t q, kv, ctx, probs;
};

static struct head_place place_of(const struct attention_shape *s, int c, int h)
{
	size_t first = s->offsets[c], row = s->first_only ? (size_t)c : first, column = (size_t)h * s->head_width;

	return (struct head_place){ row * s->ldq + column, first * s->ldkv + column, row * s->ldctx + column,
				    (row * s->heads + h) * s->ldprobs };
}

static struct attend_args args_of(const struct attention_shape *s, const struct mask_source *mask,
				  const struct dropout_spec *drop, int c, int h)
{
	int length = (int)(s->offsets[c + 1] - s->offsets[c]);

	return (struct attend_args){
		.queries = s->first_only ? 1 : length,
		.length = length,
		.width = s->head_width,
		.ldq = s->ldq,
		.ldkv = s->ldkv,
		.ldctx = s->ldctx,
		.ldprobs = (size_t)s->heads * s->ldprobs,
		.scale = 1.0f / sqrtf((float)s->head_width),
		.mask = mask,
		.position = mask == NULL ? 0 : dropout_position(drop, c),
		.head = (uint32_t)h,
	};
}

static void attention(float *ctx, float *probs, const float *q, const float *k, const float *v, struct attention_shape s,
		      const struct dropout_spec *drop)
{
	struct mask_source mask = dense_mask(drop);
	bool dropping = dropout_is_on(drop);

	/* Captions differ in length; which thread takes one changes no sum. */
	#pragma omp parallel for collapse(2) schedule(dynamic, 4) if (worth_threads(s.captions, 16 * s.heads * s.head_width))
	for (int c = 0; c < s.captions; c++) {
		for (int h = 0; h < s.heads; h++) {
			struct head_place at = place_of(&s, c, h);
			struct attend_args args = args_of(&s, dropping ? &mask : NULL, drop, c, h);

			row_ops()->attend(ctx + at.ctx, probs + at.probs, q + at.q, k + at.kv, v + at.kv, &args);
		}
	}
}

static void attention_backward(float *dq, float *dk, float *dv, const float *dctx, const float *ctx, const float *probs,
			       const float *q, const float *k, const float *v, struct attention_shape s,
			       const struct dropout_spec *drop)
{
	struct mask_source mask = dense_mask(drop);
	bool dropping = dropout_is_on(drop);

	#pragma omp parallel for collapse(2) schedule(dynamic, 4) if (worth_threads(s.captions, 16 * s.heads * s.head_width))
	for (int c = 0; c < s.captions; c++) {
		for (int h = 0; h < s.heads; h++) {
			struct head_place at = place_of(&s, c, h);
			struct attend_args args = args_of(&s, dropping ? &mask : NULL, drop, c, h);

			row_ops()->attend_backward(dq + at.q, dk + at.kv, dv + at.kv, dctx + at.ctx, ctx + at.ctx,
						   probs + at.probs, q + at.q, k + at.kv, v + at.kv, &args);
		}
	}
}

/* OpenBLAS plans nothing. */
static int encoder_reserve(struct linear_shape s, struct err *err)
{
	(void)s;
	(void)err;
	return 0;
}

const struct dense_ops *dense_ops_fast(void)
{
	static const struct dense_ops ops = {
		.linear = linear,
		.linear_input = linear_input,
		.linear_weights = linear_weights,
		.encoder_reserve = encoder_reserve,
		.encoder_linear = linear,
		.encoder_linear_input = linear_input,
		.encoder_linear_weights = linear_weights,
		.sum_rows = dense_sum_rows,
		.bias_gelu = bias_gelu,
		.gelu_backward = gelu_backward,
		.residual_norm = dense_residual_norm,
		.residual_norm_backward = dense_residual_norm_backward,
		.embed_norm = dense_embed_norm,
		.embed_norm_backward = dense_embed_norm_backward,
		.attention = attention,
		.attention_backward = attention_backward,
		.gather_rows = dense_gather_rows,
		.scatter_rows = dense_scatter_rows,
		.gather_first = dense_gather_first,
		.scatter_first = dense_scatter_first,
		.pair_concat = dense_pair_concat,
		.pair_concat_backward = dense_pair_concat_backward,
		.pair_sum = dense_pair_sum,
		.pair_sum_backward = dense_pair_sum_backward,
		.relu_norm = dense_relu_norm,
		.relu_norm_backward = dense_relu_norm_backward,
		.cross_entropy = dense_cross_entropy,
	};

	return &ops;
}
