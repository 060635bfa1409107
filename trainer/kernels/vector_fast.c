/*
 * The fast version of vector_ops.h. Everything here is bound by memory, so the
 * loops are plain C that the compiler turns into AVX-512 or AVX2 (one clone
 * each, chosen when the program is loaded), split among the OpenMP team in
 * ranges of whole cache lines.
 */
#include "trainer/kernels/vector_ops.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "shared/base/check.h"

/* Sanitizers and the loader's resolvers do not mix: clones only in optimized builds. */
#if defined(__x86_64__) && defined(NDEBUG) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif

enum {
	CHUNK = 16384,    /* elements that one thread takes at a time: 64 KiB, half of a core's L1 and L2 in between */
	PARTS_MAX = 1024, /* of a sum; a long array has longer parts, not more */
	LANES = 16,       /* partial sums of a part, added in order at its end */
};

typedef float *restrict out_array;
typedef const float *restrict in_array;

/* Runs body(from, count) over [0, n) in chunks. A short array is not worth waking the team. */
#define FOR_CHUNKS(n, from, count, body)                                                                 \
	do {                                                                                             \
		const ptrdiff_t chunks_ = (ptrdiff_t)(((n) + CHUNK - 1) / CHUNK);                         \
		_Pragma("omp parallel for schedule(static) if (chunks_ > 1)")                            \
		for (ptrdiff_t chunk_ = 0; chunk_ < chunks_; chunk_++) {                                 \
			const size_t from = (size_t)chunk_ * CHUNK;                                      \
			const size_t count = (n) - from < CHUNK ? (n) - from : CHUNK;                    \
			body;                                                                            \
		}                                                                                        \
	} while (0)

static void fast_fill(float *x, size_t n, float value)
{
	if (value == 0.0f && !signbit(value)) {
		FOR_CHUNKS(n, from, count, memset(x + from, 0, count * sizeof(*x)));
		return;
	}
	FOR_CHUNKS(n, from, count, {
		for (size_t i = 0; i < count; i++)
			x[from + i] = value;
	});
}

static void fast_copy(float *out, const float *x, size_t n)
{
	if (out != x)
		FOR_CHUNKS(n, from, count, memcpy(out + from, x + from, count * sizeof(*x)));
}

CLONES static void scale_span(float *x, size_t n, float by)
{
	for (size_t i = 0; i < n; i++)
		x[i] *= by;
}

static void fast_scale(float *x, size_t n, float by)
{
	FOR_CHUNKS(n, from, count, scale_span(x + from, count, by));
}

CLONES static void axpy_span(float *y, const float *x, size_t n, float a)
{
	for (size_t i = 0; i < n; i++)
		y[i] += a * x[i];
}

static void fast_axpy(float *y, const float *x, size_t n, float a)
{
	FOR_CHUNKS(n, from, count, axpy_span(y + from, x + from, count, a));
}

CLONES static void add_span(float *out, const float *a, const float *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		out[i] = a[i] + b[i];
}

static void fast_add(float *out, const float *a, const float *b, size_t n)
{
	FOR_CHUNKS(n, from, count, add_span(out + from, a + from, b + from, count));
}

/* One part of a sum: LANES running sums, then those from first to last. */
CLONES static double dot_span(const float *a, const float *b, size_t n)
{
	double lanes[LANES] = { 0 };
	double sum = 0;
	size_t whole = n - n % LANES;

	for (size_t i = 0; i < whole; i += LANES)
		for (size_t l = 0; l < LANES; l++)
			lanes[l] += (double)a[i + l] * (double)b[i + l];
	for (size_t i = whole; i < n; i++)
		lanes[i - whole] += (double)a[i] * (double)b[i];
	for (size_t l = 0; l < LANES; l++)
		sum += lanes[l];
	return sum;
}

/* How long a part of a sum over n elements is: a function of n alone. */
static size_t part_elements(size_t n)
{
	size_t part = (n + PARTS_MAX - 1) / PARTS_MAX;

	part = (part + LANES - 1) / LANES * LANES;
	return part < CHUNK ? CHUNK : part;
}

static double fast_dot(const float *a, const float *b, size_t n)
{
	const size_t part = part_elements(n);
	const ptrdiff_t parts = (ptrdiff_t)((n + part - 1) / part);
	double sums[PARTS_MAX];
	double sum = 0;

	CHECK(parts <= PARTS_MAX);
#pragma omp parallel for schedule(static) if (parts > 1)
	for (ptrdiff_t p = 0; p < parts; p++) {
		size_t from = (size_t)p * part;

		sums[p] = dot_span(a + from, b + from, n - from < part ? n - from : part);
	}
	for (ptrdiff_t p = 0; p < parts; p++)
		sum += sums[p];
	return sum;
}

static double fast_sum_squares(const float *x, size_t n)
{
	return fast_dot(x, x, n);
}

/* Infinity and NaN are the values whose exponent bits are all ones. */
CLONES static int finite_span(const float *x, size_t n)
{
	uint32_t bad = 0;

	for (size_t i = 0; i < n; i++) {
		uint32_t bits;

		memcpy(&bits, x + i, sizeof(bits));
		bad |= (bits & 0x7F800000u) == 0x7F800000u;
	}
	return bad == 0;
}

static int fast_all_finite(const float *x, size_t n)
{
	int bad = 0;
	const ptrdiff_t chunks = (ptrdiff_t)((n + CHUNK - 1) / CHUNK);

#pragma omp parallel for schedule(static) reduction(| : bad) if (chunks > 1)
	for (ptrdiff_t c = 0; c < chunks; c++) {
		size_t from = (size_t)c * CHUNK;

		bad |= !finite_span(x + from, n - from < CHUNK ? n - from : CHUNK);
	}
	return !bad;
}

static void fast_group_sum_squares(const float *x, const uint32_t *offsets, int groups, int width, double *out)
{
#pragma omp parallel for schedule(static) if (groups > 1)
	for (int g = 0; g < groups; g++) {
		const float *first = x + (size_t)offsets[g] * (size_t)width;

		out[g] = dot_span(first, first, (size_t)(offsets[g + 1] - offsets[g]) * (size_t)width);
	}
}

CLONES static void scaled_sum_span(float *out, const float *x, const float *d, size_t n, float scale)
{
	for (size_t i = 0; i < n; i++)
		out[i] = x[i] + scale * d[i];
}

CLONES static void scaled_sign_span(float *out, const float *x, const float *d, size_t n, float scale)
{
	for (size_t i = 0; i < n; i++)
		out[i] = x[i] + scale * (d[i] > 0 ? 1.0f : d[i] < 0 ? -1.0f : 0.0f);
}

static void fast_group_axpy(float *out, const float *x, const float *d, const uint32_t *offsets, int groups, int width,
			    const float *scale)
{
#pragma omp parallel for schedule(static) if (groups > 1)
	for (int g = 0; g < groups; g++) {
		size_t from = (size_t)offsets[g] * (size_t)width;

		scaled_sum_span(out + from, x + from, d + from, (size_t)(offsets[g + 1] - offsets[g]) * (size_t)width, scale[g]);
	}
}

static void fast_group_axpy_sign(float *out, const float *x, const float *d, const uint32_t *offsets, int groups, int width,
				 const float *scale)
{
#pragma omp parallel for schedule(static) if (groups > 1)
	for (int g = 0; g < groups; g++) {
		size_t from = (size_t)offsets[g] * (size_t)width;

		scaled_sign_span(out + from, x + from, d + from, (size_t)(offsets[g + 1] - offsets[g]) * (size_t)width, scale[g]);
	}
}

static void fast_row_correct(const float *logits, const int32_t *label, int n, int k, uint8_t *correct)
{
	/* A few thousand comparisons a step: nothing to gain over the plain loop. */
	vector_ops_reference()->row_correct(logits, label, n, k, correct);
}

struct adamw_scalars {
	float keep, beta1, rest1, beta2, rest2, root2, eps, rate, grad_scale;
};

CLONES static void adamw_span(out_array value, in_array grad, out_array m, out_array v, size_t n, const struct adamw_scalars *s)
{
	const struct adamw_scalars c = *s;

	for (size_t i = 0; i < n; i++) {
		float g = grad[i] * c.grad_scale;
		float m_new = m[i] * c.beta1 + g * c.rest1;
		float v_new = v[i] * c.beta2 + c.rest2 * g * g;

		m[i] = m_new;
		v[i] = v_new;
		value[i] = value[i] * c.keep + c.rate * m_new / (sqrtf(v_new) / c.root2 + c.eps);
	}
}

static void fast_adamw(float *value, float *grad, float *m, float *v, size_t n, const struct adamw_step *step)
{
	const struct adamw_scalars scalars = {
		.keep = (float)(1.0 - step->lr * step->decay),
		.beta1 = (float)step->beta1,
		.rest1 = (float)(1.0 - step->beta1),
		.beta2 = (float)step->beta2,
		.rest2 = (float)(1.0 - step->beta2),
		.root2 = (float)sqrt(step->correction2),
		.eps = (float)step->eps,
		.rate = (float)(-(step->lr / step->correction1)),
		.grad_scale = step->grad_scale,
	};

	const bool clear = step->clear;

	FOR_CHUNKS(n, from, count, {
		adamw_span(value + from, grad + from, m + from, v + from, count, &scalars);
		if (clear)
			memset(grad + from, 0, count * sizeof(*grad));
	});
}

CLONES static void sgd_span(out_array value, in_array grad, out_array momentum, size_t n, float keep, float by, float rate,
			    float grad_scale)
{
	for (size_t i = 0; i < n; i++) {
		float buffer = momentum[i] * by + grad[i] * grad_scale;

		momentum[i] = buffer;
		value[i] = value[i] * keep + rate * buffer;
	}
}

CLONES static void sgd_first_span(out_array value, in_array grad, out_array momentum, size_t n, float keep, float rate,
				  float grad_scale)
{
	for (size_t i = 0; i < n; i++) {
		momentum[i] = grad[i] * grad_scale;
		value[i] = value[i] * keep + rate * momentum[i];
	}
}

static void fast_sgd(float *value, float *grad, float *momentum, size_t n, const struct sgd_step *step)
{
	const float keep = (float)(1.0 - step->lr * step->decay);
	const float by = (float)step->momentum, rate = (float)-step->lr, grad_scale = step->grad_scale;

	const bool first = step->first, clear = step->clear;

	FOR_CHUNKS(n, from, count, {
		if (first)
			sgd_first_span(value + from, grad + from, momentum + from, count, keep, rate, grad_scale);
		else
			sgd_span(value + from, grad + from, momentum + from, count, keep, by, rate, grad_scale);
		if (clear)
			memset(grad + from, 0, count * sizeof(*grad));
	});
}

const struct vector_ops *vector_ops_fast(void)
{
	static const struct vector_ops ops = {
		.fill = fast_fill,
		.copy = fast_copy,
		.scale = fast_scale,
		.axpy = fast_axpy,
		.add = fast_add,
		.sum_squares = fast_sum_squares,
		.dot = fast_dot,
		.all_finite = fast_all_finite,
		.group_sum_squares = fast_group_sum_squares,
		.group_axpy = fast_group_axpy,
		.group_axpy_sign = fast_group_axpy_sign,
		.row_correct = fast_row_correct,
		.adamw = fast_adamw,
		.sgd = fast_sgd,
	};

	return &ops;
}
