/*
 * finish.c - from a listing whose pictures were opened to a manifest.
 *
 * Pictures are numbered in the order of their first caption; those with the
 * same content become the first of them. What the manifest holds follows from
 * content and caption files alone, never from paths.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "preprocessd/dataset/blob.h"
#include "preprocessd/dataset/listing.h"
#include "shared/base/mem.h"

struct finish {
	struct listing *listing;
	struct err *err;
	uint32_t *same;     /* (listing pictures) the first picture of this content, or NO_PICTURE: left out */
	uint32_t *number;   /* (listing pictures) index in the manifest, or NO_PICTURE */
	uint32_t *of;       /* (manifest pictures) index in the listing */
	uint32_t *group;    /* (manifest pictures) */
	int16_t *split;     /* (manifest pictures) into listing->splits */
	uint32_t *label_rank; /* (listing->labels) class, or NO_PICTURE where unused */
	uint32_t picture_count, caption_count, group_count;
	uint64_t caption_bytes, source_bytes;
};

static const char *caption_at(const struct listing *listing, uint32_t caption, size_t *bytes)
{
	uint64_t begin = caption == 0 ? 0 : listing->captions[caption - 1].end;

	*bytes = listing->captions[caption].end - begin;
	return listing->caption_text.data + begin;
}

/* --- pictures with the same content --------------------------------------------------- */

static int left_out_duplicate(struct finish *f, uint32_t first, uint32_t later)
{
	struct listing *l = f->listing;
	const char *first_split = strings_at(&l->splits, (uint32_t)l->pictures[first].split);
	const char *later_split = strings_at(&l->splits, (uint32_t)l->pictures[later].split);
	char reason[ERR_MESSAGE_BYTES];

	if (!l->skip_bad)
		return err_set(f->err, ERR_MISMATCH, "%.300s (split %s) has the same content as %.300s (split %s), and a picture can be "
			       "in one split only; remove one of them, or leave the later one out with --on-bad skip",
			       strings_at(&l->paths, later), later_split, strings_at(&l->paths, first), first_split);
	snprintf(reason, sizeof(reason), "split %s: the same content as %s of split %s", later_split, strings_at(&l->paths, first),
		 first_split);
	f->same[later] = NO_PICTURE;
	return listing_add_failure(l, strings_at(&l->paths, later), reason, f->err);
}

static int differs(struct finish *f, uint32_t first, uint32_t later, bool label, struct err *err)
{
	const struct listing *l = f->listing;
	const struct picture *a = &l->pictures[first], *b = &l->pictures[later];
	const struct strings *names = label ? &l->labels : &l->groups;
	char a_place[LISTING_PLACE_BYTES], b_place[LISTING_PLACE_BYTES];

	listing_place(l, label ? a->label_place : a->group_place, a_place);
	listing_place(l, label ? b->label_place : b->group_place, b_place);
	return err_set(err, ERR_MISMATCH, "%.200s and %.200s have the same content, but the %ss \"%.60s\" (%.150s) and \"%.60s\" (%.150s); "
		       "give both the same, or take one of them out%s", strings_at(&l->paths, first), strings_at(&l->paths, later),
		       label ? "label" : "group", strings_at(names, (uint32_t)(label ? a->label : a->group)), a_place,
		       strings_at(names, (uint32_t)(label ? b->label : b->group)), b_place,
		       label ? " (--columns IMAGE,CAPTION leaves labels out)" : "");
}

/* What the later file says of the picture is said of the first. */
static int merge(struct finish *f, uint32_t first, uint32_t later)
{
	struct picture *a = &f->listing->pictures[first], *b = &f->listing->pictures[later];

	if (a->split != b->split)
		return left_out_duplicate(f, first, later);
	if (a->label >= 0 && b->label >= 0 && a->label != b->label)
		return differs(f, first, later, true, f->err);
	if (a->group >= 0 && b->group >= 0 && a->group != b->group)
		return differs(f, first, later, false, f->err);
	if (a->label < 0) {
		a->label = b->label;
		a->label_place = b->label_place;
	}
	if (a->group < 0) {
		a->group = b->group;
		a->group_place = b->group_place;
	}
	f->same[later] = first;
	return 0;
}

/* Until pictures are numbered: 0 for those with a caption, which alone come into the data set. */
static void find_captioned(struct finish *f)
{
	const struct listing *l = f->listing;

	for (uint32_t p = 0; p < l->picture_count; p++)
		f->number[p] = NO_PICTURE;
	for (uint32_t c = 0; c < l->caption_count; c++)
		f->number[l->captions[c].picture] = 0;
}

/* In the order in which captions name them, so that "first" is what people see first. */
static int find_same(struct finish *f)
{
	struct listing *l = f->listing;
	uint32_t slots = 16, merged = 0;
	int code = 0;

	while (slots < 2 * l->picture_count)
		slots *= 2;
	uint32_t *table = mem_array(slots, sizeof(*table)); /* picture + 1 */
	if (table == NULL)
		return err_nomem(f->err, slots * sizeof(*table));
	for (uint32_t p = 0; p < l->picture_count && code == 0; p++) {
		struct picture *picture = &l->pictures[p];
		uint32_t slot;

		CHECK(picture->state != PICTURE_LISTED);
		f->same[p] = NO_PICTURE;
		if (picture->state == PICTURE_FAILED)
			continue;
		if (f->number[p] == NO_PICTURE) { /* stands in nobody's way */
			f->same[p] = p;
			continue;
		}
		memcpy(&slot, picture->hash.bytes, sizeof(slot));
		slot &= slots - 1;
		while (table[slot] != 0 && !hash_equal(&l->pictures[table[slot] - 1].hash, &picture->hash))
			slot = (slot + 1) & (slots - 1);
		if (table[slot] == 0) {
			table[slot] = p + 1;
			f->same[p] = p;
		} else {
			code = merge(f, table[slot] - 1, p);
			merged += f->same[p] != NO_PICTURE;
		}
	}
	if (code == 0 && merged > 0)
		code = listing_add_note(l, f->err, "%u picture%s the same content as another one; each such set is one picture "
					"with the captions of all", merged, merged == 1 ? " has" : "s have");
	mem_free(table);
	return code;
}

/* --- numbering --------------------------------------------------------------------------- */

static int number_pictures(struct finish *f)
{
	struct listing *l = f->listing;
	uint32_t without = 0;

	for (uint32_t p = 0; p < l->picture_count; p++)
		f->number[p] = NO_PICTURE;
	for (uint32_t c = 0; c < l->caption_count; c++) {
		uint32_t picture = f->same[l->captions[c].picture];
		size_t bytes;

		if (picture == NO_PICTURE)
			continue;
		if (f->number[picture] == NO_PICTURE) {
			f->of[f->picture_count] = picture;
			f->number[picture] = f->picture_count++;
			f->source_bytes += strings_bytes(&l->paths, picture) + 1;
		}
		caption_at(l, c, &bytes);
		f->caption_bytes += bytes;
		f->caption_count++;
	}
	for (uint32_t p = 0; p < l->picture_count; p++)
		without += f->same[p] == p && f->number[p] == NO_PICTURE;
	if (without == 0)
		return 0;
	return listing_add_note(l, f->err, without == 1 ? "%u picture has no usable caption and is left out" :
				"%u pictures have no usable caption and are left out", without);
}

/* A picture without a group is a group of its own; without groups that is the picture's number. */
static int number_groups(struct finish *f)
{
	struct listing *l = f->listing;
	uint32_t *of_name = mem_array((size_t)l->groups.count + 1, sizeof(*of_name)); /* group + 1 */

	if (of_name == NULL)
		return err_nomem(f->err, l->groups.count);
	for (uint32_t p = 0; p < f->picture_count; p++) {
		int32_t name = l->pictures[f->of[p]].group;

		if (name >= 0 && of_name[name] != 0) {
			f->group[p] = of_name[name] - 1;
			continue;
		}
		f->group[p] = f->group_count++;
		if (name >= 0)
			of_name[name] = f->group_count;
	}
	mem_free(of_name);
	return 0;
}

static int assign_splits(struct finish *f)
{
	struct listing *l = f->listing;
	struct hash *hashes;
	int code;

	if (l->ratio.count == 0) {
		for (uint32_t p = 0; p < f->picture_count; p++)
			f->split[p] = l->pictures[f->of[p]].split;
		return 0;
	}
	if ((hashes = mem_array((size_t)f->picture_count + 1, sizeof(*hashes))) == NULL)
		return err_nomem(f->err, f->picture_count * sizeof(*hashes));
	for (uint32_t p = 0; p < f->picture_count; p++)
		hashes[p] = l->pictures[f->of[p]].hash;
	code = ratio_assign(&l->ratio, hashes, f->group, f->group_count, f->picture_count, f->split, f->err);
	mem_free(hashes);
	return code;
}

/* --- labels --------------------------------------------------------------------------------- */

struct label {
	const char *name;
	uint32_t index; /* into listing->labels */
};

/* Digits, perhaps with a minus in front. */
static bool is_integer(const char *text)
{
	const char *digits = text[0] == '-' ? text + 1 : text;

	return digits[0] != '\0' && digits[strspn(digits, "0123456789")] == '\0';
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct label *)a)->name, ((const struct label *)b)->name);
}

/* Without the zeros in front; *negative is false for -0. */
static const char *significant(const char *number, bool *negative)
{
	const char *digits = number[0] == '-' ? number + 1 : number;

	digits += strspn(digits, "0");
	*negative = number[0] == '-' && digits[0] != '\0';
	return digits;
}

/* Numbers of any length, such as ids of 20 digits. */
static int by_value(const void *a, const void *b)
{
	bool x_negative, y_negative;
	const char *x = significant(((const struct label *)a)->name, &x_negative);
	const char *y = significant(((const struct label *)b)->name, &y_negative);
	size_t x_digits = strlen(x), y_digits = strlen(y);
	int order = x_digits != y_digits ? (x_digits > y_digits) - (x_digits < y_digits) : strcmp(x, y);

	if (x_negative != y_negative)
		return x_negative ? -1 : 1;
	if (order == 0)
		return by_name(a, b);
	return x_negative ? -order : order;
}

/* The labels that are left, numbers ascending if all are numbers, else bytewise. */
static int sort_labels(struct finish *f, struct label **out, uint32_t *count)
{
	struct listing *l = f->listing;
	struct label *labels = mem_array((size_t)l->labels.count + 1, sizeof(*labels));
	bool integers = true;

	*out = labels;
	*count = 0;
	if (labels == NULL)
		return err_nomem(f->err, l->labels.count * sizeof(*labels));
	for (uint32_t i = 0; i < l->labels.count; i++)
		f->label_rank[i] = NO_PICTURE;
	for (uint32_t p = 0; p < f->picture_count; p++) {
		int32_t label = l->pictures[f->of[p]].label;

		if (label < 0 || f->label_rank[label] != NO_PICTURE)
			continue;
		f->label_rank[label] = 0;
		struct label *next = &labels[(*count)++];
		*next = (struct label){ .name = strings_at(&l->labels, (uint32_t)label), .index = (uint32_t)label };
		integers = integers && is_integer(next->name);
	}
	qsort(labels, *count, sizeof(*labels), integers ? by_value : by_name);
	for (uint32_t i = 0; i < *count; i++)
		f->label_rank[labels[i].index] = i;
	return 0;
}

/* --- the manifest ------------------------------------------------------------------------------ */

/* Splits in the order of their first picture; those of --split in the order given, empty ones too. */
static uint32_t order_splits(const struct finish *f, uint32_t rank[MANIFEST_SPLITS_MAX], uint32_t order[MANIFEST_SPLITS_MAX])
{
	const struct ratio *ratio = &f->listing->ratio;
	uint32_t count = 0;

	for (int i = 0; i < MANIFEST_SPLITS_MAX; i++)
		rank[i] = NO_PICTURE;
	for (int i = 0; i < ratio->count; i++) {
		rank[ratio->split[i]] = count;
		order[count++] = (uint32_t)ratio->split[i];
	}
	for (uint32_t p = 0; p < f->picture_count; p++) {
		uint32_t split = (uint32_t)f->split[p];

		if (rank[split] != NO_PICTURE)
			continue;
		rank[split] = count;
		order[count++] = split;
	}
	return count;
}

static void copy_names(struct blob *b, const struct listing *l, const uint32_t *splits, uint32_t split_count,
		       const struct label *labels, uint32_t label_count)
{
	char *at = b->name_text;

	for (uint32_t i = 0; i < split_count + label_count; i++) {
		const char *name = i < split_count ? strings_at(&l->splits, splits[i]) : labels[i - split_count].name;

		memcpy(at, name, strlen(name) + 1);
		at += strlen(name) + 1;
	}
	CHECK(blob_find_names(b));
}

static void copy_pictures(struct blob *b, const struct finish *f, const uint32_t *split_rank)
{
	const struct listing *l = f->listing;

	for (uint32_t p = 0; p < f->picture_count; p++) {
		const struct picture *picture = &l->pictures[f->of[p]];
		size_t bytes = strings_bytes(&l->paths, f->of[p]) + 1;

		b->picture_hash[p] = picture->hash;
		b->picture_split[p] = (uint8_t)split_rank[f->split[p]];
		b->picture_label[p] = picture->label < 0 ? -1 : (int32_t)f->label_rank[picture->label];
		b->picture_group[p] = f->group[p];
		memcpy(b->source_text + b->source_at[p], strings_at(&l->paths, f->of[p]), bytes);
		b->source_at[p + 1] = b->source_at[p] + bytes;
	}
}

static void copy_captions(struct blob *b, const struct finish *f)
{
	const struct listing *l = f->listing;
	uint32_t next = 0;

	for (uint32_t c = 0; c < l->caption_count; c++) {
		uint32_t picture = f->same[l->captions[c].picture];
		size_t bytes;
		const char *text = caption_at(l, c, &bytes);

		if (picture == NO_PICTURE)
			continue;
		b->caption_picture[next] = f->number[picture];
		if (bytes > 0)
			memcpy(b->caption_text + b->caption_at[next], text, bytes);
		b->caption_at[next + 1] = b->caption_at[next] + bytes;
		next++;
	}
	blob_group_captions(b);
}

static int build(struct finish *f, struct manifest **out)
{
	const struct listing *l = f->listing;
	uint32_t rank[MANIFEST_SPLITS_MAX], order[MANIFEST_SPLITS_MAX], label_count;
	uint32_t split_count = order_splits(f, rank, order);
	struct label *labels;
	struct blob *b = NULL;
	int code = sort_labels(f, &labels, &label_count);
	struct blob_counts counts = { f->picture_count, f->caption_count, split_count, label_count, f->group_count,
				      f->source_bytes, f->caption_bytes, 0 };

	if (code != 0)
		return code;
	for (uint32_t i = 0; i < split_count; i++)
		counts.name_bytes += strings_bytes(&l->splits, order[i]) + 1;
	for (uint32_t i = 0; i < label_count; i++)
		counts.name_bytes += strlen(labels[i].name) + 1;
	if ((code = blob_open(&b, &counts, f->err)) == 0) {
		copy_names(b, l, order, split_count, labels, label_count);
		copy_pictures(b, f, rank);
		copy_captions(b, f);
		code = blob_set_version(b, f->err);
	}
	mem_free(labels);
	if (code != 0 && b != NULL)
		manifest_free(&b->view);
	else if (code == 0)
		*out = &b->view;
	return code;
}

static int check_failures(const struct listing *listing, struct err *err)
{
	uint32_t count = listing_failure_count(listing);

	if (count == 0 || listing->skip_bad)
		return 0;
	struct listing_failure first = listing_failure_at(listing, 0);
	if (count == 1)
		return err_set(err, ERR_FORMAT, "%.400s: %s; mend or remove it, or leave it out with --on-bad skip", first.source,
			       first.reason);
	return err_set(err, ERR_FORMAT, "%.400s: %.300s (and %u more picture%s); mend or remove them, or leave them out with "
		       "--on-bad skip", first.source, first.reason, count - 1, count == 2 ? " fails" : "s fail");
}

static int nothing_left(const struct listing *listing, struct err *err)
{
	uint32_t count = listing_failure_count(listing);

	if (count == 0)
		return err_set(err, ERR_MISMATCH, "nothing is left: no picture has a caption");
	struct listing_failure first = listing_failure_at(listing, 0);
	return err_set(err, ERR_MISMATCH, "nothing is left: every picture fails, the first one is %.300s: %.300s", first.source,
		       first.reason);
}

int listing_finish(struct listing *listing, struct manifest **out, struct err *err)
{
	struct err own;
	struct finish f = { .listing = listing, .err = err != NULL ? err : &own };
	size_t pictures = (size_t)listing->picture_count + 1;
	int code;

	*out = NULL;
	if ((code = check_failures(listing, err)) != 0)
		return code;
	f.same = mem_array(pictures, sizeof(*f.same));
	f.number = mem_array(pictures, sizeof(*f.number));
	f.of = mem_array(pictures, sizeof(*f.of));
	f.group = mem_array(pictures, sizeof(*f.group));
	f.split = mem_array(pictures, sizeof(*f.split));
	f.label_rank = mem_array((size_t)listing->labels.count + 1, sizeof(*f.label_rank));
	if (f.same == NULL || f.number == NULL || f.of == NULL || f.group == NULL || f.split == NULL || f.label_rank == NULL) {
		code = err_nomem(err, pictures * sizeof(*f.same));
		goto out;
	}
	find_captioned(&f);
	if ((code = find_same(&f)) != 0 || (code = number_pictures(&f)) != 0)
		goto out;
	if (f.picture_count == 0) {
		code = nothing_left(listing, err);
		goto out;
	}
	if ((code = number_groups(&f)) == 0 && (code = assign_splits(&f)) == 0)
		code = build(&f, out);
out:
	mem_free(f.same);
	mem_free(f.number);
	mem_free(f.of);
	mem_free(f.group);
	mem_free(f.split);
	mem_free(f.label_rank);
	return code;
}
