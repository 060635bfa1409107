/*
 * bench.h - what the kernels' benches share: operands, and the median of turns.
 *
 * Threads: pure functions. Ownership: bench_numbers() gives memory to the caller (mem_free).
 */
#ifndef TOOLS_BENCH_BENCH_H
#define TOOLS_BENCH_BENCH_H

#include <stdlib.h>

#include "shared/base/mem.h"

/* n numbers in [-1, 1), the same at every call. Without memory the program ends. */
static inline float *bench_numbers(size_t n)
{
	float *p = mem_aligned(n * sizeof(*p));

	if (p == NULL)
		exit(1);
	for (size_t i = 0; i < n; i++)
		p[i] = (float)(i * 2654435761u % 1024) / 512 - 1;
	return p;
}

static inline int bench_by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* Sorts them; of an even number the upper middle one. */
static inline double bench_median(double *figures, size_t n)
{
	qsort(figures, n, sizeof(*figures), bench_by_size);
	return figures[n / 2];
}

#endif
