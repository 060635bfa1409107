/* order.h and rng.h: known answers from elsewhere, and the promises of the header. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shared/base/fs.h"
#include "shared/base/json.h"
#include "shared/base/mem.h"
#include "shared/order/order.h"

static const struct hash VERSION = { { 1, 2, 3 } };

/* The vectors of Random123's kat_vectors file. */
static void test_philox_known_answers(void **state)
{
	static const struct {
		uint32_t c[4], k[2], want[4];
	} cases[] = {
		{ { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
		{ { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff }, { 0xffffffff, 0xffffffff },
		  { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
		{ { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 }, { 0xa4093822, 0x299f31d0 },
		  { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct rng_block got = rng_philox((struct rng_key){ cases[i].k[0], cases[i].k[1] }, cases[i].c[0], cases[i].c[1],
						  cases[i].c[2], cases[i].c[3]);

		assert_memory_equal(got.v, cases[i].want, sizeof(got.v));
	}
	assert_true(rng_unit(0) == 0.0f);
	assert_true(rng_unit(UINT32_MAX) < 1.0f);
	assert_true(rng_below(UINT32_MAX, UINT32_MAX, 7) == 6);
	assert_true(rng_below(0, 0, 7) == 0);
}

/* --- golden values -------------------------------------------------------- */

enum { GOLDEN_MAX = 64 };

struct golden {
	struct hash version;
	char split[64];
	uint64_t seed;
	int64_t epoch, n;
	int64_t positions[GOLDEN_MAX], at[GOLDEN_MAX], pictures[GOLDEN_MAX], counts[GOLDEN_MAX], captions[GOLDEN_MAX];
	int position_count, picture_count;
};

static int read_array(struct json_reader *r, int64_t *out)
{
	struct err err;
	int count = 0;

	assert_int_equal(json_expect(r, JSON_ARRAY_BEGIN, &err), 0);
	while (json_next(r, &err) == 0 && r->kind == JSON_NUMBER) {
		assert_true(count < GOLDEN_MAX);
		assert_int_equal(json_int(r, &out[count++], &err), 0);
	}
	assert_int_equal(r->kind, JSON_ARRAY_END);
	return count;
}

static void read_field(struct json_reader *r, struct golden *g)
{
	char key[32];
	struct err err;

	snprintf(key, sizeof(key), "%s", r->text.data);
	if (strcmp(key, "positions") == 0) {
		g->position_count = read_array(r, g->positions);
	} else if (strcmp(key, "at") == 0) {
		read_array(r, g->at);
	} else if (strcmp(key, "pictures") == 0) {
		g->picture_count = read_array(r, g->pictures);
	} else if (strcmp(key, "counts") == 0) {
		read_array(r, g->counts);
	} else if (strcmp(key, "captions") == 0) {
		read_array(r, g->captions);
	} else {
		assert_int_equal(json_next(r, &err), 0);
		if (strcmp(key, "version") == 0)
			assert_int_equal(hash_from_hex(&g->version, r->text.data, &err), 0);
		else if (strcmp(key, "split") == 0)
			snprintf(g->split, sizeof(g->split), "%s", r->text.data);
		else if (strcmp(key, "seed") == 0)
			g->seed = strtoull(r->text.data, NULL, 10);
		else if (strcmp(key, "epoch") == 0)
			assert_int_equal(json_int(r, &g->epoch, &err), 0);
		else if (strcmp(key, "n") == 0)
			assert_int_equal(json_int(r, &g->n, &err), 0);
		else
			fail_msg("unknown key %s", key);
	}
}

static void check_golden(const struct golden *g)
{
	struct order order;

	order_init(&order, &g->version, g->split, g->seed, (uint32_t)g->epoch, (uint32_t)g->n);
	for (int i = 0; i < g->position_count; i++)
		assert_int_equal(order_at(&order, (uint32_t)g->positions[i]), g->at[i]);
	for (int i = 0; i < g->picture_count; i++)
		assert_int_equal(order_caption(&order, (uint32_t)g->pictures[i], (uint32_t)g->counts[i]), g->captions[i]);
}

static void test_golden(void **state)
{
	struct buf file = BUF_INIT;
	struct json_reader r;
	struct err err;
	int cases = 0;

	(void)state;
	if (fs_read("tests/golden/order.json", 1 << 20, &file, &err) != 0)
		fail_msg("%s (run the tests from the top of the repository)", err.message);
	json_reader_init(&r, "order.json", file.data, file.size);
	assert_int_equal(json_expect(&r, JSON_ARRAY_BEGIN, &err), 0);
	while (json_next(&r, &err) == 0 && r.kind == JSON_OBJECT_BEGIN) {
		struct golden g = { 0 };

		while (json_next(&r, &err) == 0 && r.kind == JSON_KEY)
			read_field(&r, &g);
		assert_int_equal(r.kind, JSON_OBJECT_END);
		assert_true(g.position_count > 0 && g.picture_count > 0);
		check_golden(&g);
		cases++;
	}
	assert_int_equal(r.kind, JSON_ARRAY_END);
	assert_true(cases >= 9);
	json_reader_free(&r);
	buf_free(&file);
}

/* --- promises --------------------------------------------------------------- */

static void test_bijection(void **state)
{
	static const uint32_t sizes[] = { 1, 2, 3, 4, 5, 7, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1000, 1529, 4097, 65535, 65537 };
	bool *seen = mem_array(65537, 1);

	(void)state;
	assert_non_null(seen);
	for (size_t s = 0; s < ARRAY_LEN(sizes); s++) {
		struct order order;

		order_init(&order, &VERSION, "train", s, (uint32_t)s, sizes[s]);
		memset(seen, 0, sizes[s]);
		for (uint32_t p = 0; p < sizes[s]; p++) {
			uint32_t x = order_at(&order, p);

			assert_true(x < sizes[s]);
			assert_false(seen[x]);
			seen[x] = true;
		}
	}
	mem_free(seen);
}

static int equal_positions(const struct order *a, const struct order *b)
{
	int equal = 0;

	for (uint32_t p = 0; p < a->n; p++)
		equal += order_at(a, p) == order_at(b, p);
	return equal;
}

static void test_depends_on_every_name(void **state)
{
	enum { N = 1000 };
	struct hash other = VERSION;
	struct order base, same, changed[5];

	(void)state;
	other.bytes[31] ^= 1;
	order_init(&base, &VERSION, "train", 5, 2, N);
	order_init(&same, &VERSION, "train", 5, 2, N);
	order_init(&changed[0], &other, "train", 5, 2, N);
	order_init(&changed[1], &VERSION, "val", 5, 2, N);
	order_init(&changed[2], &VERSION, "train", 6, 2, N);
	order_init(&changed[3], &VERSION, "train", 5, 3, N);
	order_init(&changed[4], &VERSION, "train", 5 + ((uint64_t)1 << 40), 2, N);
	assert_int_equal(equal_positions(&base, &same), N);
	/* A random permutation has one fixed point on average. */
	for (size_t i = 0; i < ARRAY_LEN(changed); i++)
		assert_true(equal_positions(&base, &changed[i]) < 10);
}

/* Over many epochs: which pictures stand first and second, as ordered pairs. */
static void test_permutations_are_even(void **state)
{
	enum { N = 5, EPOCHS = 20000 };
	int pairs[N][N] = { { 0 } };
	double chi2 = 0, expected = (double)EPOCHS / (N * (N - 1));

	(void)state;
	for (uint32_t epoch = 0; epoch < EPOCHS; epoch++) {
		struct order order;

		order_init(&order, &VERSION, "train", 1, epoch, N);
		pairs[order_at(&order, 0)][order_at(&order, 1)]++;
	}
	for (int a = 0; a < N; a++)
		for (int b = 0; b < N; b++)
			if (a != b)
				chi2 += (pairs[a][b] - expected) * (pairs[a][b] - expected) / expected;
	/* 19 degrees of freedom: 43.8 is exceeded once in a thousand seeds. Fixed seed: no flake. */
	assert_true(chi2 < 43.8);
}

static void test_captions_are_even(void **state)
{
	enum { COUNT = 5, PICTURES = 500, EPOCHS = 100 };
	int chosen[COUNT] = { 0 }, kept = 0;
	double chi2 = 0, expected = (double)PICTURES * EPOCHS / COUNT;
	uint32_t before[PICTURES] = { 0 };

	(void)state;
	for (uint32_t epoch = 0; epoch < EPOCHS; epoch++) {
		struct order order, elsewhere;

		order_init(&order, &VERSION, "train", 3, epoch, PICTURES);
		order_init(&elsewhere, &VERSION, "train+val", 3, epoch, 2 * PICTURES);
		for (uint32_t picture = 0; picture < PICTURES; picture++) {
			uint32_t c = order_caption(&order, picture, COUNT);

			assert_true(c < COUNT);
			assert_int_equal(c, order_caption(&elsewhere, picture, COUNT));
			chosen[c]++;
			kept += epoch > 0 && c == before[picture];
			before[picture] = c;
		}
	}
	for (int c = 0; c < COUNT; c++)
		chi2 += (chosen[c] - expected) * (chosen[c] - expected) / expected;
	assert_true(chi2 < 18.5); /* 4 degrees of freedom, one in a thousand */
	/* The next epoch's choice does not remember this one's: one in five stays. */
	assert_in_range(kept, PICTURES * (EPOCHS - 1) / 5 - 500, PICTURES * (EPOCHS - 1) / 5 + 500);
}

static void test_ranks_join_to_the_whole(void **state)
{
	static const uint64_t samples[] = { 1, 7, 8, 23, 24, 25, 1000 };
	static const uint32_t worlds[] = { 1, 2, 4, 8 };

	(void)state;
	for (size_t s = 0; s < ARRAY_LEN(samples); s++) {
		for (size_t w = 0; w < ARRAY_LEN(worlds); w++) {
			uint64_t steps = order_steps(samples[s], 8, false), next = 0;

			for (uint64_t step = 0; step < steps; step++) {
				for (uint32_t rank = 0; rank < worlds[w]; rank++) {
					struct order_range range = order_rank(samples[s], 8, worlds[w], rank, step);

					assert_true(range.count <= 8 / worlds[w]);
					assert_true(range.first == next);
					next += range.count;
				}
			}
			assert_true(next == samples[s]);
			assert_int_equal(order_rank(samples[s], 8, worlds[w], 0, steps).count, 0);
			assert_int_equal(order_rank(samples[s], 8, worlds[w], 0, UINT64_MAX).count, 0);
		}
	}
}

static void test_steps(void **state)
{
	(void)state;
	assert_true(order_steps(0, 8, true) == 0 && order_steps(0, 8, false) == 0);
	assert_true(order_steps(3, 8, true) == 1 && order_steps(3, 8, false) == 1);
	assert_true(order_steps(8, 8, true) == 1 && order_steps(8, 8, false) == 1);
	assert_true(order_steps(15, 8, true) == 1 && order_steps(15, 8, false) == 2);
	assert_true(order_steps(16, 8, true) == 2 && order_steps(16, 8, false) == 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_philox_known_answers),
		cmocka_unit_test(test_golden),
		cmocka_unit_test(test_bijection),
		cmocka_unit_test(test_depends_on_every_name),
		cmocka_unit_test(test_permutations_are_even),
		cmocka_unit_test(test_captions_are_even),
		cmocka_unit_test(test_ranks_join_to_the_whole),
		cmocka_unit_test(test_steps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
