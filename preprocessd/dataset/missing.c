/*
 * missing.c - pictures that a caption file names and that are not there.
 *
 * While files are read a missing picture has its place among the others, so that a draw does not depend on what is there. When
 * all are read, and drawn, those that are still wanted are an error that tells of all of them at once, or failures.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "preprocessd/dataset/reader.h"
#include "shared/base/mem.h"
#include "shared/base/plural.h"

struct absent {
	int elsewhere;  /* a folder of another split that has it; -1: none */
	int no_file;    /* what is there in its place, as rights_find_file() says it; 0: nothing */
	bool own_split; /* said by the file, not by --captions or a default */
	char name[];    /* as the file writes it */
};

void missing_free(struct picture *picture)
{
	mem_free(picture->absent);
	picture->absent = NULL;
}

/* A folder of another split that has the picture, or -1. */
static int find_elsewhere(struct reader *reader, const struct item *item, int16_t split)
{
	const struct folders *folders = reader->folders;
	bool there;

	for (int i = 0; i < folders->count; i++)
		if (folders->items[i].split != NO_SPLIT && folders->items[i].split != split &&
		    reader_find_picture(reader, folders->items[i].split, item->has_folder ? &item->folder : NULL, item->image.data,
					item->image.size, &there, NULL) == 0 && there)
			return i;
	return -1;
}

int missing_note(struct reader *reader, const struct item *item, struct picture *picture, struct err *err)
{
	struct absent *absent = mem_zalloc(sizeof(*absent) + item->image.size + 1);

	if (absent == NULL)
		return err_nomem(err, sizeof(*absent) + item->image.size);
	memcpy(absent->name, item->image.data, item->image.size);
	absent->no_file = reader->no_file;
	absent->own_split = item->has_split && reader->file_split == NO_SPLIT;
	absent->elsewhere = find_elsewhere(reader, item, picture->split);
	picture->state = PICTURE_MISSING;
	picture->absent = absent;
	return 0;
}

static const char *no_file_text(int why)
{
	switch (why) {
	case EISDIR:
		return "a folder";
	case ELOOP:
		return "a link that leads in a circle";
	case ENAMETOOLONG:
		return "the name is too long";
	default:
		return "no regular file";
	}
}

static int fail(struct listing *listing, const struct folders *folders, const struct absent *absent, struct err *err)
{
	char reason[LISTING_PLACE_BYTES + 200];

	if (absent->no_file != 0)
		snprintf(reason, sizeof(reason), "in place of a picture's file there is something else: %s", no_file_text(absent->no_file));
	else if (absent->elsewhere >= 0)
		snprintf(reason, sizeof(reason), "it is in %s, which is for split %s alone", folders->items[absent->elsewhere].path,
			 strings_at(&listing->splits, (uint32_t)folders->items[absent->elsewhere].split));
	else
		snprintf(reason, sizeof(reason), "there is no such file in the folders of --images");
	return listing_add_failure(listing, absent->name, reason, err);
}

/* --- the error ------------------------------------------------------------------------ */

struct summary {
	const struct listing *listing;
	const struct folders *folders;
	const struct picture *first; /* that is missing */
	uint32_t missing, no_files, all;
	bool drawn;
	char examples[256]; /* names of the first few, joined */
};

static void add_example(struct summary *s, const struct absent *absent)
{
	size_t used = strlen(s->examples);

	used += (size_t)snprintf(s->examples + used, sizeof(s->examples) - used, "%s%.60s", used > 0 ? ", " : "", absent->name);
	if (absent->no_file != 0 && used < sizeof(s->examples))
		snprintf(s->examples + used, sizeof(s->examples) - used, " (%s)", no_file_text(absent->no_file));
}

static struct summary summarize(const struct listing *listing, const struct folders *folders, bool drawn)
{
	struct summary s = { .listing = listing, .folders = folders, .all = listing->picture_count, .drawn = drawn };

	for (uint32_t p = 0; p < listing->picture_count; p++) {
		const struct picture *picture = &listing->pictures[p];

		if (picture->state != PICTURE_MISSING)
			continue;
		if (s.missing == 0)
			s.first = picture;
		if (s.missing++ < LISTING_EXAMPLES_MAX)
			add_example(&s, picture->absent);
		s.no_files += picture->absent->no_file != 0;
	}
	return s;
}

/* "3 of 100 pictures" */
static void how_many(const struct summary *s, char *out, size_t size)
{
	snprintf(out, size, "%u of %u picture%s%s %s missing", s->missing, s->all, plural(s->all), s->drawn ? " drawn" : "",
		 s->missing == 1 ? "is" : "are");
}

/* Those that were searched for the first missing picture; of the others, one and why not. */
static void name_folders(const struct summary *s, char *out, size_t size)
{
	const struct folders *folders = s->folders;
	const char *own = s->listing->files[s->first->place.file].folder;
	const struct folder *other = NULL;
	size_t used = 0;

	out[0] = '\0';
	if (own != NULL) {
		snprintf(out, size, "%.200s", own);
		return;
	}
	for (int i = 0; i < folders->count && used < size - 1; i++) {
		const struct folder *folder = &folders->items[i];

		if (folder->split != NO_SPLIT && folder->split != s->first->split)
			other = folder;
		else
			used += (size_t)snprintf(out + used, size - used, "%s%.200s", used > 0 ? ", " : "", folder->path);
	}
	if (used < size - 1 && other != NULL)
		snprintf(out + used, size - used, "%s(not in %.150s, which is for split %s alone)", used > 0 ? " " : "no folder ", other->path,
			 strings_at(&s->listing->splits, (uint32_t)other->split));
}

/* The first one is there, in a folder that was not searched. */
static int elsewhere_error(const struct summary *s, const char *place, struct err *err)
{
	const struct strings *splits = &s->listing->splits;
	const struct folder *folder = &s->folders->items[s->first->absent->elsewhere];
	const char *theirs = strings_at(splits, (uint32_t)folder->split);
	const char *ours = s->first->split == NO_SPLIT ? NULL : strings_at(splits, (uint32_t)s->first->split);
	char remedy[400], count[80];

	if (s->first->absent->own_split || ours == NULL)
		snprintf(remedy, sizeof(remedy), "give --images %.200s without the split", folder->path);
	else
		snprintf(remedy, sizeof(remedy), "give --captions %s=%.150s, or --images %.150s without the split", theirs,
			 s->listing->files[s->first->place.file].name, folder->path);
	how_many(s, count, sizeof(count));
	return err_set(err, ERR_NOTFOUND, "%.200s: %s: %.150s; the folder %.150s is for split %s alone, and %s %s%s; %s", place, count,
		       s->examples, folder->path, theirs, s->missing == 1 ? "this picture is in" : "these are in",
		       ours == NULL ? "no split yet" : "split ", ours == NULL ? "" : ours, remedy);
}

static int missing_error(const struct summary *s, struct err *err)
{
	const char *hint = s->listing->files[s->first->place.file].hint, *one = s->missing == 1 ? "it" : "them";
	char place[LISTING_PLACE_BYTES], folders[300], count[80], skip[60] = "";

	listing_place(s->listing, s->first->place, place);
	if (s->first->absent->elsewhere >= 0)
		return elsewhere_error(s, place, err);
	how_many(s, count, sizeof(count));
	name_folders(s, folders, sizeof(folders));
	if (s->missing < s->all)
		snprintf(skip, sizeof(skip), ", or leave %s out with --on-bad skip", one);
	return err_set(err, ERR_NOTFOUND, "%.250s: %s%s: %s%s; looked in %s%s; check --images%s", place, count,
		       s->no_files == 0 ? "" : s->missing == 1 ? " or no file" : " or no files", s->examples,
		       s->missing > LISTING_EXAMPLES_MAX ? ", ..." : "", folders, hint == NULL ? "" : hint, skip);
}

/* --- all of them ------------------------------------------------------------------------ */

int missing_settle(struct listing *listing, const struct folders *folders, bool drawn, struct err *err)
{
	struct summary s = summarize(listing, folders, drawn);
	uint32_t *keep;
	int code = 0;

	if (s.missing == 0)
		return 0;
	if (!listing->skip_bad || s.missing == s.all)
		return missing_error(&s, err);
	if ((keep = mem_array(listing->picture_count, sizeof(*keep))) == NULL)
		return err_nomem(err, listing->picture_count * sizeof(*keep));
	for (uint32_t p = 0; p < listing->picture_count && code == 0; p++) {
		keep[p] = listing->pictures[p].state == PICTURE_MISSING ? NO_PICTURE : 0;
		if (keep[p] == NO_PICTURE)
			code = fail(listing, folders, listing->pictures[p].absent, err);
	}
	if (code == 0)
		code = listing_keep(listing, keep, err);
	mem_free(keep);
	return code;
}
