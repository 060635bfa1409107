/*
 * draw.c - a limit's pictures, drawn before any picture is opened.
 *
 * Every picture with a caption gets a random key from (seed, its place in the caption files), and
 * those with the smallest keys stay, in the order in which they stood. So the same
 * files give the same pictures, wherever they lie and whether or not all are there, and a larger limit adds to a smaller one.
 */
#include <stdlib.h>

#include "preprocessd/dataset/listing.h"
#include "shared/base/mem.h"
#include "shared/base/plural.h"
#include "shared/base/rng.h"

struct ticket {
	uint64_t key;
	uint32_t picture;
};

static int by_key(const void *a, const void *b)
{
	const struct ticket *x = a, *y = b;

	if (x->key != y->key)
		return x->key < y->key ? -1 : 1;
	return (x->picture > y->picture) - (x->picture < y->picture);
}

/* keep: NO_PICTURE for all but those that stay. */
static int choose(const struct listing *l, uint64_t limit, uint64_t seed, uint32_t *keep, uint32_t *usable, struct err *err)
{
	struct ticket *tickets = mem_array((size_t)l->picture_count + 1, sizeof(*tickets));
	struct rng_key key = rng_key(seed, RNG_DRAW);

	if (tickets == NULL)
		return err_nomem(err, l->picture_count * sizeof(*tickets));
	for (uint32_t p = 0; p < l->picture_count; p++)
		keep[p] = NO_PICTURE;
	for (uint32_t c = 0; c < l->caption_count; c++)
		keep[l->captions[c].picture] = 0;
	*usable = 0;
	for (uint32_t p = 0; p < l->picture_count; p++) {
		struct rng_block block = rng_philox(key, p, 0, 0, 0);

		if (keep[p] != NO_PICTURE)
			tickets[(*usable)++] = (struct ticket){ ((uint64_t)block.v[0] << 32) | block.v[1], p };
	}
	qsort(tickets, *usable, sizeof(*tickets), by_key);
	for (uint64_t i = limit; i < *usable; i++)
		keep[tickets[i].picture] = NO_PICTURE;
	mem_free(tickets);
	return 0;
}

int listing_draw(struct listing *listing, uint64_t limit, uint64_t seed, struct err *err)
{
	uint32_t *keep = mem_array((size_t)listing->picture_count + 1, sizeof(*keep)), usable = 0;
	int code = keep == NULL ? err_nomem(err, listing->picture_count * sizeof(*keep)) :
				      choose(listing, limit, seed, keep, &usable, err);

	if (code != 0)
		goto out;
	if (limit >= usable) {
		code = listing_add_note(listing, err, "the limit of %llu picture%s leaves out none: there %s %u",
					(unsigned long long)limit, plural(limit), usable == 1 ? "is" : "are", usable);
		goto out;
	}
	if ((code = listing_keep(listing, keep, err)) != 0)
		goto out;
	code = listing_add_note(listing, err, "%u of %u pictures, drawn with the seed %llu", listing->picture_count, usable,
				(unsigned long long)seed);
out:
	mem_free(keep);
	return code;
}
