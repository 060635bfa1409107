#include "preprocessd/dataset/fold.h"

#include <stdlib.h>
#include <string.h>

#include "preprocessd/dataset/content_key.h"
#include "shared/base/mem.h"

enum { FOLD_SHARE = 4, TOGETHER_MIN = 2 };

struct told { /* one caption of one picture */
	uint64_t text;
	uint32_t picture; /* place in pictures */
};
struct unit { /* pictures that stay together */
	struct rng_block key; /* the smallest of its pictures */
	int32_t label;        /* of the picture with that key */
	uint32_t size, root;
};
struct folds {
	const struct manifest *manifest;
	const uint32_t *pictures;
	uint32_t count;
	const struct fold_spec *spec;
	struct err *err;
	uint32_t *parent, *size; /* (count) union-find */
	struct unit *units;      /* (count) */
	uint32_t unit_count;
};

/* --- what hangs together ------------------------------------------------------- */

static uint32_t root_of(const struct folds *f, uint32_t i)
{
	while (f->parent[i] != i) {
		f->parent[i] = f->parent[f->parent[i]];
		i = f->parent[i];
	}
	return i;
}

/* The lower place becomes the root, so that the outcome does not depend on the order of joining. */
static void join(struct folds *f, uint32_t a, uint32_t b, uint32_t most)
{
	a = root_of(f, a);
	b = root_of(f, b);
	if (a == b || f->size[a] + f->size[b] > most)
		return;
	if (b < a) {
		uint32_t swap = a;

		a = b;
		b = swap;
	}
	f->parent[b] = a;
	f->size[a] += f->size[b];
}

static int join_groups(struct folds *f)
{
	uint32_t *first = mem_array((size_t)f->manifest->group_count + 1, sizeof(*first));

	if (first == NULL)
		return err_nomem(f->err, f->manifest->group_count * sizeof(*first));
	for (uint32_t i = 0; i < f->count; i++) {
		uint32_t *place = &first[f->manifest->picture_group[f->pictures[i]]];

		if (*place == 0)
			*place = i + 1;
		else
			join(f, *place - 1, i, UINT32_MAX);
	}
	mem_free(first);
	return 0;
}

/* ASCII letters and digits in lower case and everything beyond ASCII; what lies between counts as one blank. */
static int plain_text(struct buf *out, const char *text, uint64_t bytes, struct err *err)
{
	bool gap = false;
	int code = buf_reserve(out, bytes + 1, err);

	buf_clear(out);
	for (uint64_t i = 0; i < bytes && code == 0; i++) {
		char c = text[i];

		if (c >= 'A' && c <= 'Z')
			c = (char)(c - 'A' + 'a');
		if ((unsigned char)c < 0x80 && !(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9')) {
			gap = true;
			continue;
		}
		if (gap && out->size > 0)
			code = buf_add_byte(out, ' ', err);
		gap = false;
		if (code == 0)
			code = buf_add_byte(out, c, err);
	}
	return code;
}

static int by_text(const void *a, const void *b)
{
	const struct told *x = a, *y = b;

	if (x->text != y->text)
		return x->text < y->text ? -1 : 1;
	return (x->picture > y->picture) - (x->picture < y->picture);
}

static int list_captions(struct folds *f, struct told **out, size_t *out_count)
{
	const struct manifest *m = f->manifest;
	struct buf plain = BUF_INIT;
	size_t captions = 0, n = 0;
	int code = 0;

	for (uint32_t i = 0; i < f->count; i++)
		captions += m->captions_of_at[f->pictures[i] + 1] - m->captions_of_at[f->pictures[i]];
	struct told *told = mem_array(captions + 1, sizeof(*told));
	if (told == NULL)
		return err_nomem(f->err, captions * sizeof(*told));
	for (uint32_t i = 0; i < f->count && code == 0; i++) {
		uint32_t p = f->pictures[i];

		for (uint32_t k = m->captions_of_at[p]; k < m->captions_of_at[p + 1] && code == 0; k++) {
			const uint64_t *at = m->caption_at + m->captions_of[k];

			code = plain_text(&plain, m->caption_text + at[0], at[1] - at[0], f->err);
			/* An empty caption says nothing, and so binds nothing. */
			if (code == 0 && plain.size > 0)
				told[n++] = (struct told){ hash_checksum(plain.data, plain.size), i };
		}
	}
	buf_free(&plain);
	qsort(told, n, sizeof(*told), by_text);
	*out = told;
	*out_count = n;
	return code;
}

/* What many pictures are called by says little of any: such a text binds nothing, and chains of texts
 * stop before they are a quarter of a fold. */
static int join_captions(struct folds *f)
{
	uint32_t most = f->count / (FOLD_SHARE * f->spec->count);
	struct told *told = NULL;
	size_t count = 0, to;
	int code = list_captions(f, &told, &count);

	if (most < TOGETHER_MIN)
		most = TOGETHER_MIN;
	for (size_t from = 0; from < count && code == 0; from = to) {
		uint32_t pictures = 1;

		for (to = from + 1; to < count && told[to].text == told[from].text; to++)
			pictures += told[to].picture != told[to - 1].picture;
		for (size_t i = from + 1; i < to && pictures <= most; i++)
			join(f, told[i - 1].picture, told[i].picture, most);
	}
	mem_free(told);
	return code;
}

/* --- dealing out ------------------------------------------------------------------ */

static int by_turn(const void *a, const void *b)
{
	const struct unit *x = a, *y = b;

	if (x->label != y->label)
		return x->label < y->label ? -1 : 1;
	if (x->size != y->size)
		return x->size > y->size ? -1 : 1;
	int order = content_key_compare(&x->key, &y->key);
	return order != 0 ? order : (x->root > y->root) - (x->root < y->root);
}

/* units[place of the root] first, then packed and sorted. */
static void make_units(struct folds *f)
{
	struct rng_key key = rng_key(f->spec->seed, RNG_FOLD);
	uint32_t n = 0;

	for (uint32_t i = 0; i < f->count; i++) {
		struct unit *unit = &f->units[root_of(f, i)];
		struct rng_block own = content_key(key, &f->manifest->picture_hash[f->pictures[i]]);

		if (unit->size == 0 || content_key_compare(&own, &unit->key) < 0) {
			unit->key = own;
			unit->label = f->manifest->picture_label[f->pictures[i]];
		}
		unit->root = root_of(f, i);
		unit->size++;
	}
	for (uint32_t i = 0; i < f->count; i++)
		if (f->units[i].size > 0)
			f->units[n++] = f->units[i];
	f->unit_count = n;
	qsort(f->units, n, sizeof(*f->units), by_turn);
}

/* The fold with the fewest pictures of this label; among equals the smallest, then the first. */
static uint32_t least(const uint32_t *labelled, const uint32_t *all, uint32_t count)
{
	uint32_t best = 0;

	for (uint32_t k = 1; k < count; k++)
		if (labelled[k] < labelled[best] || (labelled[k] == labelled[best] && all[k] < all[best]))
			best = k;
	return best;
}

static void deal(struct folds *f, uint16_t *fold_of)
{
	uint32_t labelled[FOLD_COUNT_MAX] = { 0 }, all[FOLD_COUNT_MAX] = { 0 };

	for (uint32_t u = 0; u < f->unit_count; u++) {
		const struct unit *unit = &f->units[u];

		if (u > 0 && unit->label != f->units[u - 1].label)
			memset(labelled, 0, sizeof(labelled));
		uint32_t k = least(labelled, all, f->spec->count);
		labelled[k] += unit->size;
		all[k] += unit->size;
		fold_of[unit->root] = (uint16_t)(k + 1);
	}
	/* Roots are the lowest of their unit, so they are done before the others ask. */
	for (uint32_t i = 0; i < f->count; i++)
		fold_of[i] = fold_of[root_of(f, i)];
}

int fold_assign(const struct manifest *manifest, const uint32_t *pictures, uint32_t count, const struct fold_spec *spec,
		uint16_t *fold_of, struct err *err)
{
	struct folds f = { .manifest = manifest, .pictures = pictures, .count = count, .spec = spec, .err = err };
	int code;

	CHECK(spec->count >= 2 && spec->count <= FOLD_COUNT_MAX);
	f.parent = mem_array((size_t)count + 1, sizeof(*f.parent));
	f.size = mem_array((size_t)count + 1, sizeof(*f.size));
	f.units = mem_array((size_t)count + 1, sizeof(*f.units));
	if (f.parent == NULL || f.size == NULL || f.units == NULL) {
		code = err_nomem(err, count * sizeof(*f.units));
		goto out;
	}
	for (uint32_t i = 0; i < count; i++) {
		f.parent[i] = i;
		f.size[i] = 1;
	}
	if ((code = join_groups(&f)) != 0 || (code = join_captions(&f)) != 0)
		goto out;
	make_units(&f);
	deal(&f, fold_of);
	if (f.unit_count < spec->count)
		code = err_set(err, ERR_MISMATCH, "%u folds of %u pictures: only %u of them or of their groups can be told apart; take "
			       "fewer folds", spec->count, count, f.unit_count);
out:
	mem_free(f.parent);
	mem_free(f.size);
	mem_free(f.units);
	return code;
}
