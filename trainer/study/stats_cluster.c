#include "trainer/study/stats_cluster.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/mem.h"
#include "shared/base/rng.h"
#include "trainer/study/stats_dist.h"

static int ascending(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Linear between order statistics, as NumPy's and R's default (type 7). */
static double quantile_of_sorted(const double *sorted, int n, double q)
{
	double at = q * (n - 1);
	int below = (int)floor(at);

	if (below < 0)
		return sorted[0];
	if (below >= n - 1)
		return sorted[n - 1];
	return sorted[below] + (at - below) * (sorted[below + 1] - sorted[below]);
}

/* ---- bootstrap ---- */

/* One replicate of every arm: (clusters) draws with replacement. sums and counts: (arms). */
static void draw(const struct cluster_table *table, struct rng_key key, uint32_t replicate, double *sums, double *counts)
{
	const size_t arms = table->arms;

	memset(sums, 0, arms * sizeof(*sums));
	memset(counts, 0, arms * sizeof(*counts));
	for (uint32_t i = 0; i < table->clusters; i += 2) {
		struct rng_block block = rng_philox(key, i / 2, replicate, 0, 0);

		for (uint32_t half = 0; half < 2 && i + half < table->clusters; half++) {
			size_t cluster = rng_below(block.v[2 * half], block.v[2 * half + 1], table->clusters);
			const double *s = table->sums + cluster * arms, *c = table->counts + cluster * arms;

			for (size_t a = 0; a < arms; a++) {
				sums[a] += s[a];
				counts[a] += c[a];
			}
		}
	}
}

/* a = sum(d³) / (6 sum(d²)^1.5), d = mean of the leave-one-out values minus each. NaN: cannot be had. */
static double acceleration(const struct cluster_table *table, uint32_t arm, double sum, double count)
{
	double mean = 0, squares = 0, cubes = 0;
	uint32_t used = 0;

	for (int pass = 0; pass < 2; pass++) {
		for (uint32_t c = 0; c < table->clusters; c++) {
			double s = table->sums[(size_t)c * table->arms + arm], n = table->counts[(size_t)c * table->arms + arm];

			if (n == 0)
				continue;
			if (count - n <= 0)
				return NAN;
			double without = (sum - s) / (count - n);
			if (pass == 0) {
				mean += without;
				used++;
			} else {
				double d = mean - without;

				squares += d * d;
				cubes += d * d * d;
			}
		}
		if (pass == 0 && used < 2)
			return NAN;
		mean = pass == 0 ? mean / used : mean;
	}
	return squares > 0 ? cubes / (6 * pow(squares, 1.5)) : NAN;
}

static void interval(struct stats_bootstrap *out, double *values, int n, double level)
{
	double low = (1 - level) / 2, high = 1 - low, mean = 0, squares = 0, below = 0;

	for (int i = 0; i < n; i++) {
		/* Around the first one: where all are equal that is exact. */
		mean += (values[i] - values[0]) / n;
		below += values[i] < out->estimate ? 1 : values[i] == out->estimate ? 0.5 : 0;
	}
	for (int i = 0; i < n; i++)
		squares += (values[i] - values[0] - mean) * (values[i] - values[0] - mean);
	out->se = n > 1 ? sqrt(squares / (n - 1)) : NAN;
	qsort(values, (size_t)n, sizeof(*values), ascending);
	out->bias = dist_normal_quantile(below / n);
	if (isfinite(out->bias) && isfinite(out->acceleration)) {
		double z[2] = { dist_normal_quantile(low), dist_normal_quantile(high) }, q[2];

		for (int i = 0; i < 2; i++)
			q[i] = dist_normal_cdf(out->bias + (out->bias + z[i]) / (1 - out->acceleration * (out->bias + z[i])));
		/* Too strong a skew turns the two around or out of range. */
		if (q[0] < q[1]) {
			out->bca = 1;
			low = q[0];
			high = q[1];
		}
	}
	out->low = quantile_of_sorted(values, n, low);
	out->high = quantile_of_sorted(values, n, high);
	out->status = out->se > 0 ? STATS_OK : STATS_NO_SPREAD;
}

int stats_bootstrap(const struct cluster_table *table, int replicates, uint64_t seed, double level, struct stats_bootstrap *out,
		    double *replicates_out, struct err *err)
{
	const size_t arms = table->arms, count = (size_t)(replicates > 0 ? replicates : 0);
	const struct rng_key key = rng_key(seed, RNG_BOOTSTRAP);
	double *values = mem_array(arms * count + 1, sizeof(*values)), *totals = mem_array(2 * arms + 1, sizeof(*totals));
	int *drawn = mem_array(arms + 1, sizeof(*drawn));
	int code = 0;

	if (values == NULL || totals == NULL || drawn == NULL) {
		code = err_nomem(err, arms * count * sizeof(*values));
		goto out;
	}
	for (uint32_t r = 0; r < count && table->clusters > 0; r++) {
		draw(table, key, r, totals, totals + arms);
		/* A replicate without any pair of an arm says nothing about that arm. */
		for (size_t a = 0; a < arms; a++)
			if (totals[arms + a] > 0)
				values[a * count + (size_t)drawn[a]++] = totals[a] / totals[arms + a];
	}
	for (size_t a = 0; a < arms; a++) {
		double sum = 0, n = 0;

		for (uint32_t c = 0; c < table->clusters; c++) {
			sum += table->sums[c * arms + a];
			n += table->counts[c * arms + a];
		}
		out[a] = (struct stats_bootstrap){ .status = STATS_EMPTY, .replicates = drawn[a], .estimate = NAN, .se = NAN, .low = NAN,
						   .high = NAN, .bias = NAN, .acceleration = NAN };
		if (replicates_out != NULL)
			for (size_t r = 0; r < count; r++)
				replicates_out[r * arms + a] = r < (size_t)drawn[a] ? values[a * count + r] : NAN;
		if (n == 0 || drawn[a] == 0)
			continue;
		out[a].estimate = sum / n;
		out[a].acceleration = acceleration(table, (uint32_t)a, sum, n);
		interval(&out[a], values + a * count, drawn[a], level);
	}
out:
	mem_free(values);
	mem_free(totals);
	mem_free(drawn);
	return code;
}

/* ---- permutation ---- */

static double exact_p(const double *sums, uint32_t n, double observed)
{
	uint32_t as_large = 0;

	for (uint32_t signs = 0; signs < (uint32_t)1 << n; signs++) {
		double total = 0;

		for (uint32_t c = 0; c < n; c++)
			total += signs >> c & 1 ? -sums[c] : sums[c];
		as_large += fabs(total) >= observed;
	}
	return (double)as_large / (double)((uint32_t)1 << n);
}

static double sampled_p(const double *sums, uint32_t n, double observed, int permutations, uint64_t seed)
{
	const struct rng_key key = rng_key(seed, RNG_SIGN_FLIP);
	int as_large = 0;

	for (int r = 0; r < permutations; r++) {
		double total = 0;

		for (uint32_t c = 0; c < n; c += 128) {
			struct rng_block block = rng_philox(key, c / 128, (uint32_t)r, 0, 0);

			for (uint32_t i = 0; i < 128 && c + i < n; i++)
				total += block.v[i / 32] >> i % 32 & 1 ? -sums[c + i] : sums[c + i];
		}
		as_large += fabs(total) >= observed;
	}
	return (1.0 + as_large) / (1.0 + permutations);
}

int stats_permutation(const struct cluster_table *table, uint32_t arm, int permutations, uint64_t seed,
		      struct stats_permutation *out, struct err *err)
{
	double *sums = mem_array((size_t)table->clusters + 1, sizeof(*sums)), total = 0, count = 0;

	*out = (struct stats_permutation){ .status = STATS_EMPTY, .estimate = NAN, .p = NAN };
	if (sums == NULL)
		return err_nomem(err, table->clusters * sizeof(*sums));
	for (uint32_t c = 0; c < table->clusters; c++) {
		double s = table->sums[(size_t)c * table->arms + arm];

		count += table->counts[(size_t)c * table->arms + arm];
		total += s;
		if (s != 0)
			sums[out->differing++] = s;
	}
	if (count > 0) {
		out->estimate = total / count;
		out->p = 1;
	}
	if (out->differing > 0 && count > 0) {
		out->status = STATS_OK;
		out->exact = out->differing <= PERMUTATION_EXACT_MAX;
		out->permutations = out->exact ? 1 << out->differing : permutations;
		/* Sums are whole numbers, so totals are exact and ties are ties. */
		out->p = out->exact ? exact_p(sums, out->differing, fabs(total)) :
				      sampled_p(sums, out->differing, fabs(total), permutations, seed);
	}
	mem_free(sums);
	return 0;
}
