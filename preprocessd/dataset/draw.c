/*
 * draw.c - a limit's pictures, drawn before any picture is opened.
 *
 * Every picture with a caption gets a random key from (seed, its place in the caption files), and
 * those with the smallest keys stay, in the order in which they stood. So the same
 * files give the same pictures, wherever they lie, and a larger limit adds to a smaller one.
 */
#include <stdlib.h>
#include <string.h>

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

/* renumber: NO_PICTURE for all but those that stay, which have 0. */
static int choose(const struct listing *l, uint64_t limit, uint64_t seed, uint32_t *renumber, uint32_t *usable, struct err *err)
{
	struct ticket *tickets = mem_array((size_t)l->picture_count + 1, sizeof(*tickets));
	struct rng_key key = rng_key(seed, RNG_DRAW);

	if (tickets == NULL)
		return err_nomem(err, l->picture_count * sizeof(*tickets));
	for (uint32_t p = 0; p < l->picture_count; p++)
		renumber[p] = NO_PICTURE;
	for (uint32_t c = 0; c < l->caption_count; c++)
		renumber[l->captions[c].picture] = 0;
	*usable = 0;
	for (uint32_t p = 0; p < l->picture_count; p++) {
		struct rng_block block = rng_philox(key, p, 0, 0, 0);

		if (renumber[p] != NO_PICTURE)
			tickets[(*usable)++] = (struct ticket){ ((uint64_t)block.v[0] << 32) | block.v[1], p };
	}
	qsort(tickets, *usable, sizeof(*tickets), by_key);
	for (uint64_t i = limit; i < *usable; i++)
		renumber[tickets[i].picture] = NO_PICTURE;
	mem_free(tickets);
	return 0;
}

static int keep_pictures(struct listing *l, uint32_t *renumber, struct err *err)
{
	struct strings paths = { 0 };
	int code = 0;

	for (uint32_t p = 0; p < l->picture_count && code == 0; p++)
		if (renumber[p] != NO_PICTURE)
			code = strings_add(&paths, strings_at(&l->paths, p), strings_bytes(&l->paths, p), &renumber[p], NULL, err);
	if (code != 0) {
		strings_free(&paths);
		return code;
	}
	for (uint32_t p = 0; p < l->picture_count; p++)
		if (renumber[p] != NO_PICTURE)
			l->pictures[renumber[p]] = l->pictures[p]; /* never forward */
	l->picture_count = paths.count;
	strings_free(&l->paths);
	l->paths = paths;
	return 0;
}

static void keep_captions(struct listing *l, const uint32_t *renumber)
{
	uint64_t begin = 0, to = 0;
	uint32_t kept = 0;

	for (uint32_t c = 0; c < l->caption_count; c++) {
		struct caption caption = l->captions[c];
		uint64_t bytes = caption.end - begin;

		if (renumber[caption.picture] != NO_PICTURE) {
			if (bytes > 0)
				memmove(l->caption_text.data + to, l->caption_text.data + begin, bytes);
			to += bytes;
			l->captions[kept++] = (struct caption){ to, renumber[caption.picture], caption.place };
		}
		begin = caption.end;
	}
	l->caption_count = kept;
	l->caption_text.size = to;
}

int listing_draw(struct listing *listing, uint64_t limit, uint64_t seed, struct err *err)
{
	uint32_t *renumber = mem_array((size_t)listing->picture_count + 1, sizeof(*renumber)), usable = 0;
	int code = renumber == NULL ? err_nomem(err, listing->picture_count * sizeof(*renumber)) :
				      choose(listing, limit, seed, renumber, &usable, err);

	if (code != 0)
		goto out;
	if (limit >= usable) {
		code = listing_add_note(listing, err, "the limit of %llu picture%s leaves out none: there %s %u",
					(unsigned long long)limit, plural(limit), usable == 1 ? "is" : "are", usable);
		goto out;
	}
	if ((code = keep_pictures(listing, renumber, err)) != 0)
		goto out;
	keep_captions(listing, renumber);
	code = listing_add_note(listing, err, "%u of %u pictures, drawn with the seed %llu", listing->picture_count, usable,
				(unsigned long long)seed);
out:
	mem_free(renumber);
	return code;
}
