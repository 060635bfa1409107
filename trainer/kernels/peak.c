#include "trainer/kernels/peak.h"

#include <omp.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/mem.h"

enum {
	CHAINS = 12,          /* independent: latency 4, two or more units */
	ROUND_STEPS = 200000, /* of each chain: some hundred microseconds */
};

typedef float wide16 __attribute__((vector_size(64)));
typedef float wide8 __attribute__((vector_size(32)));
typedef float wide4 __attribute__((vector_size(16)));

/* Multiply-adds are left to the compiler, which fuses them where the target has the instruction. */
#define FMA_ROUND(name, type, options)                                            \
	options static float name(float seed)                                     \
	{                                                                         \
		type chain[CHAINS], by = { 0 }, sum = { 0 };                      \
		by += 1.0f - 1e-7f * seed;                                        \
		for (int c = 0; c < CHAINS; c++)                                  \
			chain[c] = (type){ 0 } + (float)c;                        \
		for (int i = 0; i < ROUND_STEPS; i++)                             \
			_Pragma("GCC unroll 16")                                  \
			for (int c = 0; c < CHAINS; c++)                          \
				chain[c] = chain[c] * by + by;                    \
		for (int c = 0; c < CHAINS; c++)                                  \
			sum += chain[c];                                          \
		return sum[0];                                                    \
	}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FUSED(target_text) __attribute__((target(target_text), optimize("O3", "fp-contract=fast"), noinline))
FMA_ROUND(round_avx512, wide16, FUSED("avx512f,fma,prefer-vector-width=512"))
FMA_ROUND(round_avx2, wide8, FUSED("avx2,fma"))
#endif
FMA_ROUND(round_plain, wide4, __attribute__((noinline)))

struct round {
	float (*run)(float seed);
	int lanes;
};

static struct round widest(void)
{
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
	__builtin_cpu_init();
	if (__builtin_cpu_supports("avx512f"))
		return (struct round){ round_avx512, 16 };
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
		return (struct round){ round_avx2, 8 };
#endif
	return (struct round){ round_plain, 4 };
}

/* Each thread has its own best: on cores that other programs use too, a common round would
 * always wait for the one that was interrupted. */
double peak_fma_flops(double seconds_each)
{
	struct round round = widest();
	double flops = 0, one = 2.0 * CHAINS * ROUND_STEPS * round.lanes;
	volatile float sink = 0;

	#pragma omp parallel reduction(+ : flops)
	{
		double until = clock_seconds() + seconds_each, best = 1e30;

		do {
			double began = clock_seconds();

			sink = round.run((float)omp_get_thread_num());
			double seconds = clock_seconds() - began;
			best = seconds < best ? seconds : best;
		} while (clock_seconds() < until);
		flops += one / best;
	}
	(void)sink;
	return flops;
}

double peak_read_bytes(double seconds_each)
{
	uint64_t *data = mem_aligned(PEAK_READ_BYTES), sink = 0;
	ptrdiff_t count = PEAK_READ_BYTES / sizeof(*data);
	double until, best = 1e30;

	if (data == NULL)
		return 0;
	#pragma omp parallel for schedule(static)
	for (ptrdiff_t i = 0; i < count; i++)
		data[i] = (uint64_t)i;
	until = clock_seconds() + seconds_each;
	do {
		double began = clock_seconds();
		uint64_t sum = 0;

		#pragma omp parallel for schedule(static) reduction(+ : sum)
		for (ptrdiff_t i = 0; i < count; i++)
			sum += data[i];
		double seconds = clock_seconds() - began;
		best = seconds < best ? seconds : best;
		sink += sum;
	} while (clock_seconds() < until);
	mem_free(data);
	return sink == 1 ? 0 : PEAK_READ_BYTES / best;
}
