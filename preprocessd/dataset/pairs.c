/*
 * pairs.c - the fixed validation pairs of matching.
 *
 * Captions are compared as bytes: every different text of the part gets a
 * number and the list of the pictures that have it. For a text that more than
 * half of the pictures have, the wrong picture is drawn from those that lack
 * it; for any other by rejection, which succeeds at least every second time. So
 * the work grows with the captions whatever they are. schemas/manifest.md has
 * the algorithm.
 */
#include <string.h>

#include "preprocessd/dataset/manifest.h"
#include "shared/base/mem.h"
#include "shared/base/rng.h"

enum { DRAWS_MAX = 256 }; /* all fail with probability 2^-256 */

struct pairs {
	const struct manifest *manifest;
	const struct manifest_part *part;
	struct err *err;
	uint32_t *text;         /* (all captions) number of the text; of the part alone */
	uint32_t text_count;
	uint32_t *having_at;    /* (text_count + 1) into having */
	uint32_t *having;       /* part indices of the pictures with a text, ascending */
	uint32_t **lacking;     /* (text_count) part indices of those without; NULL: not made */
};

static const char *text_at(const struct manifest *m, uint32_t caption, size_t *bytes)
{
	*bytes = m->caption_at[caption + 1] - m->caption_at[caption];
	return m->caption_text + m->caption_at[caption];
}

static bool same_text(const struct manifest *m, uint32_t a, uint32_t b)
{
	size_t a_bytes, b_bytes;
	const char *x = text_at(m, a, &a_bytes), *y = text_at(m, b, &b_bytes);

	return a_bytes == b_bytes && memcmp(x, y, a_bytes) == 0;
}

static int number_texts(struct pairs *pairs)
{
	const struct manifest *m = pairs->manifest;
	const struct manifest_part *part = pairs->part;
	size_t slots = 16;

	while (slots < 2 * (size_t)part->caption_count)
		slots *= 2;
	uint32_t *table = mem_array(slots, sizeof(*table)); /* caption + 1: the first with its text */
	if (table == NULL)
		return err_nomem(pairs->err, slots * sizeof(*table));
	for (uint32_t i = 0; i < part->caption_count; i++) {
		uint32_t caption = part->captions[i];
		size_t bytes;
		const char *text = text_at(m, caption, &bytes);
		size_t slot = hash_checksum(text, bytes) & (slots - 1);

		while (table[slot] != 0 && !same_text(m, table[slot] - 1, caption))
			slot = (slot + 1) & (slots - 1);
		if (table[slot] == 0) {
			table[slot] = caption + 1;
			pairs->text[caption] = pairs->text_count++;
		} else {
			pairs->text[caption] = pairs->text[table[slot] - 1];
		}
	}
	mem_free(table);
	return 0;
}

/* Walks the part's captions picture by picture. fill == false counts the pictures of each text
 * into having_at[text + 1] and marks what a picture repeats; true fills the lists. */
static void walk_having(struct pairs *pairs, uint32_t *last, bool *repeated, bool fill)
{
	const struct manifest *m = pairs->manifest;

	memset(last, 0xFF, pairs->text_count * sizeof(*last));
	for (uint32_t i = 0; i < pairs->part->picture_count; i++) {
		uint32_t picture = pairs->part->pictures[i];

		for (uint32_t k = m->captions_of_at[picture]; k < m->captions_of_at[picture + 1]; k++) {
			uint32_t caption = m->captions_of[k], text = pairs->text[caption];

			repeated[caption] = last[text] == i;
			if (last[text] == i)
				continue;
			last[text] = i;
			if (fill)
				pairs->having[pairs->having_at[text]++] = i;
			else
				pairs->having_at[text + 1]++;
		}
	}
}

static int list_having(struct pairs *pairs, bool *repeated)
{
	uint32_t count = pairs->text_count;
	uint32_t *last = mem_array((size_t)count + 1, sizeof(*last)); /* picture that had the text last */

	pairs->having_at = mem_array((size_t)count + 2, sizeof(*pairs->having_at));
	pairs->having = mem_array((size_t)pairs->part->caption_count + 1, sizeof(*pairs->having));
	pairs->lacking = mem_array((size_t)count + 1, sizeof(*pairs->lacking));
	if (last == NULL || pairs->having_at == NULL || pairs->having == NULL || pairs->lacking == NULL) {
		mem_free(last);
		return err_nomem(pairs->err, count * sizeof(*pairs->lacking));
	}
	walk_having(pairs, last, repeated, false);
	for (uint32_t t = 0; t < count; t++)
		pairs->having_at[t + 1] += pairs->having_at[t];
	walk_having(pairs, last, repeated, true);
	/* Filling moved each beginning to the next one's. */
	for (uint32_t t = count; t > 0; t--)
		pairs->having_at[t] = pairs->having_at[t - 1];
	pairs->having_at[0] = 0;
	mem_free(last);
	return 0;
}

static bool picture_has(const struct pairs *pairs, uint32_t picture, uint32_t text)
{
	uint32_t low = pairs->having_at[text], high = pairs->having_at[text + 1];

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (pairs->having[middle] == picture)
			return true;
		if (pairs->having[middle] < picture)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

static int make_lacking(struct pairs *pairs, uint32_t text)
{
	const uint32_t *having = pairs->having + pairs->having_at[text], *end = pairs->having + pairs->having_at[text + 1];
	uint32_t count = pairs->part->picture_count - (uint32_t)(end - having), next = 0;
	uint32_t *list = mem_array(count, sizeof(*list));

	if (list == NULL)
		return err_nomem(pairs->err, count * sizeof(*list));
	for (uint32_t i = 0; i < pairs->part->picture_count; i++) {
		if (having < end && *having == i)
			having++;
		else
			list[next++] = i;
	}
	CHECK(next == count);
	pairs->lacking[text] = list;
	return 0;
}

static int draw(struct pairs *pairs, struct rng_key key, uint32_t caption, uint32_t *out)
{
	uint32_t text = pairs->text[caption], count = pairs->part->picture_count;
	uint32_t having = pairs->having_at[text + 1] - pairs->having_at[text];
	bool listed = 2 * (uint64_t)having > count;
	int code;

	*out = UINT32_MAX;
	if (having == count)
		return 0;
	if (listed && pairs->lacking[text] == NULL && (code = make_lacking(pairs, text)) != 0)
		return code;
	for (uint32_t attempt = 0; attempt < DRAWS_MAX; attempt++) {
		struct rng_block block = rng_philox(key, caption, attempt, 0, 0);
		uint32_t i = (uint32_t)rng_below(block.v[0], block.v[1], listed ? count - having : count);

		if (listed)
			i = pairs->lacking[text][i];
		else if (picture_has(pairs, i, text))
			continue;
		*out = i;
		break;
	}
	return 0;
}

/* The key of (version, split), as order.h makes the one of its permutation. */
static int part_key(const struct manifest *manifest, const char *split, struct rng_key *out, struct err *err)
{
	struct hash_stream *stream;
	struct hash name;
	uint64_t number = 0;
	int code = hash_stream_open(&stream, err);

	if (code != 0)
		return code;
	hash_stream_add(stream, manifest->version.bytes, HASH_BYTES);
	hash_stream_add(stream, split, strlen(split));
	hash_stream_final(stream, &name);
	for (int i = 7; i >= 0; i--)
		number = number << 8 | name.bytes[i];
	*out = rng_key(number, RNG_EVAL_PAIRS);
	return 0;
}

int manifest_eval_pairs(const struct manifest *manifest, const struct manifest_part *part, const char *split,
			uint32_t *wrong_picture, struct err *err)
{
	struct pairs pairs = { .manifest = manifest, .part = part, .err = err };
	bool *repeated = mem_array((size_t)manifest->caption_count + 1, sizeof(*repeated));
	struct rng_key key;
	int code;

	pairs.text = mem_array((size_t)manifest->caption_count + 1, sizeof(*pairs.text));
	if (repeated == NULL || pairs.text == NULL) {
		code = err_nomem(err, manifest->caption_count);
		goto out;
	}
	if ((code = part_key(manifest, split, &key, err)) != 0 || (code = number_texts(&pairs)) != 0)
		goto out;
	if ((code = list_having(&pairs, repeated)) != 0)
		goto out;
	for (uint32_t i = 0; i < part->caption_count && code == 0; i++) {
		wrong_picture[i] = UINT32_MAX;
		if (!repeated[part->captions[i]])
			code = draw(&pairs, key, part->captions[i], &wrong_picture[i]);
	}
out:
	for (uint32_t t = 0; pairs.lacking != NULL && t < pairs.text_count; t++)
		mem_free(pairs.lacking[t]);
	mem_free(pairs.lacking);
	mem_free(pairs.having);
	mem_free(pairs.having_at);
	mem_free(pairs.text);
	mem_free(repeated);
	return code;
}
