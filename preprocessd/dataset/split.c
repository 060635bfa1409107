/*
 * split.c - splits by a stated ratio and seed.
 *
 * Every picture gets a key from (seed, content), so neither paths nor the
 * order of the files matter. Units (a picture, or a group that stays together)
 * are sorted by key and cut where the shares say, which are exact to one picture.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "preprocessd/dataset/content_key.h"
#include "preprocessd/dataset/listing.h"
#include "shared/base/args.h"
#include "shared/base/mem.h"

#define SUM_TOLERANCE 1e-6

static int usage(struct err *err, const char *text, const char *why)
{
	return err_set(err, ERR_USAGE, "--split %s: %s; for example --split train=0.8,val=0.2", text, why);
}

static int parse_one(struct listing *listing, const char *text, char *part, struct err *err)
{
	struct ratio *ratio = &listing->ratio;
	struct err reason;
	char *equals = strchr(part, '=');
	int16_t split;

	if (equals == NULL)
		return usage(err, text, "every part needs a name and a share");
	*equals = '\0';
	if (listing_split(listing, part, strlen(part), &split, &reason) != 0)
		return usage(err, text, reason.message);
	for (int i = 0; i < ratio->count; i++)
		if (ratio->split[i] == split)
			return usage(err, text, "a split is named twice");
	if (args_parse_real(equals + 1, &ratio->part[ratio->count], &reason) != 0 || !(ratio->part[ratio->count] > 0) ||
	    ratio->part[ratio->count] > 1)
		return usage(err, text, "a share is a number above 0 and at most 1");
	ratio->split[ratio->count++] = split;
	return 0;
}

int ratio_parse(struct listing *listing, const char *text, uint64_t seed, struct err *err)
{
	char *copy = mem_strdup(text), *at, *rest;
	double sum = 0;
	int code = 0;

	if (copy == NULL)
		return err_nomem(err, strlen(text));
	listing->ratio = (struct ratio){ .seed = seed };
	for (at = copy; at != NULL && code == 0; at = rest) {
		if ((rest = strchr(at, ',')) != NULL)
			*rest++ = '\0';
		code = parse_one(listing, text, at, err);
	}
	for (int i = 0; i < listing->ratio.count; i++)
		sum += listing->ratio.part[i];
	if (code == 0 && fabs(sum - 1) > SUM_TOLERANCE)
		code = usage(err, text, "the shares must sum to 1");
	mem_free(copy);
	return code;
}

/* --- cutting -------------------------------------------------------------------------- */

struct unit {
	struct rng_block key; /* the smallest of its pictures */
	uint32_t size;        /* pictures */
	uint32_t number;
};

static int by_key(const void *a, const void *b)
{
	const struct unit *x = a, *y = b;
	int order = content_key_compare(&x->key, &y->key);

	return order != 0 ? order : (x->number > y->number) - (x->number < y->number);
}

static void make_units(const struct ratio *ratio, const struct hash *hashes, const uint32_t *unit, struct unit *units,
		       uint32_t unit_count, uint32_t count)
{
	struct rng_key key = rng_key(ratio->seed, RNG_SPLIT);

	for (uint32_t u = 0; u < unit_count; u++)
		units[u] = (struct unit){ .key = { { UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX } }, .number = u };
	for (uint32_t p = 0; p < count; p++) {
		struct unit *mine = &units[unit[p]];
		struct rng_block own = content_key(key, &hashes[p]);

		if (content_key_compare(&own, &mine->key) < 0)
			mine->key = own;
		mine->size++;
	}
}

/* Whole numbers that sum to count: rounded down, the rest to the largest remainders. */
static void share_out(const struct ratio *ratio, uint32_t count, uint32_t *shares)
{
	double rest[MANIFEST_SPLITS_MAX];
	uint32_t given = 0;

	for (int i = 0; i < ratio->count; i++) {
		double exact = ratio->part[i] * count;

		/* 0.1 * 30 is 3.0000000000000004, 0.7 * 10 may fall below 7: near a whole number counts as it. */
		shares[i] = (uint32_t)floor(exact + 1e-6);
		rest[i] = exact - shares[i];
		given += shares[i];
	}
	while (given < count) {
		int most = 0;

		for (int i = 1; i < ratio->count; i++)
			if (rest[i] > rest[most])
				most = i;
		rest[most] = -1;
		shares[most]++;
		given++;
	}
	/* Tolerated sums above 1 can give too much; it goes back from the end. */
	for (int i = ratio->count - 1; given > count && i >= 0; i--) {
		uint32_t back = given - count < shares[i] ? given - count : shares[i];

		shares[i] -= back;
		given -= back;
	}
}

int ratio_assign(const struct ratio *ratio, const struct hash *hashes, const uint32_t *unit, uint32_t unit_count,
		 uint32_t count, int16_t *split, struct err *err)
{
	uint32_t shares[MANIFEST_SPLITS_MAX] = { 0 };
	struct unit *units = mem_array((size_t)unit_count + 1, sizeof(*units));
	int16_t *split_of = mem_array((size_t)unit_count + 1, sizeof(*split_of));
	int code = 0, s = 0;
	uint64_t before = 0, end;

	if (units == NULL || split_of == NULL) {
		code = err_nomem(err, unit_count * sizeof(*units));
		goto out;
	}
	make_units(ratio, hashes, unit, units, unit_count, count);
	qsort(units, unit_count, sizeof(*units), by_key);
	share_out(ratio, count, shares);
	end = shares[0];
	/* A unit goes where its middle lies: exact for single pictures, nearest for groups. */
	for (uint32_t u = 0; u < unit_count; u++) {
		while (s + 1 < ratio->count && 2 * before + units[u].size > 2 * end)
			end += shares[++s];
		split_of[units[u].number] = ratio->split[s];
		before += units[u].size;
	}
	for (uint32_t p = 0; p < count; p++)
		split[p] = split_of[unit[p]];
out:
	mem_free(units);
	mem_free(split_of);
	return code;
}
