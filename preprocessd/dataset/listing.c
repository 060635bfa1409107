#include "preprocessd/dataset/listing.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/mem.h"

int listing_open(struct listing **out, struct err *err)
{
	struct listing *listing = mem_zalloc(sizeof(*listing));

	*out = listing;
	if (listing == NULL)
		return err_nomem(err, sizeof(*listing));
	pthread_mutex_init(&listing->lock, NULL);
	return 0;
}

void listing_free(struct listing *listing)
{
	if (listing == NULL)
		return;
	for (uint32_t i = 0; i < listing->file_count; i++) {
		mem_free(listing->files[i].name);
		mem_free(listing->files[i].folder);
		mem_free(listing->files[i].hint);
	}
	for (uint32_t i = 0; i < listing->picture_count; i++) {
		mem_free(listing->pictures[i].failure);
		missing_free(&listing->pictures[i]);
	}
	for (uint32_t i = 0; i < listing->failure_count; i++) {
		mem_free(listing->failures[i].source);
		mem_free(listing->failures[i].reason);
	}
	mem_free(listing->files);
	mem_free(listing->pictures);
	mem_free(listing->captions);
	mem_free(listing->failures);
	mem_free(listing->failed);
	buf_free(&listing->caption_text);
	strings_free(&listing->paths);
	strings_free(&listing->splits);
	strings_free(&listing->labels);
	strings_free(&listing->groups);
	strings_free(&listing->notes);
	pthread_mutex_destroy(&listing->lock);
	mem_free(listing);
}

uint32_t listing_picture_count(const struct listing *listing)
{
	return listing->picture_count;
}

uint32_t listing_caption_count(const struct listing *listing)
{
	return listing->caption_count;
}

void listing_drop_captions(struct listing *listing)
{
	mem_free(listing->captions);
	listing->captions = NULL;
	listing->caption_count = listing->caption_capacity = 0;
	buf_free(&listing->caption_text);
}

const char *listing_picture_path(const struct listing *listing, uint32_t picture)
{
	return strings_at(&listing->paths, picture);
}

void listing_place(const struct listing *listing, struct place place, char out[LISTING_PLACE_BYTES])
{
	const struct listing_file *file = &listing->files[place.file];

	if (place.item == 0)
		snprintf(out, LISTING_PLACE_BYTES, "%s", file->name);
	else if (file->item == NULL)
		snprintf(out, LISTING_PLACE_BYTES, "%s:%u", file->name, place.item);
	else
		snprintf(out, LISTING_PLACE_BYTES, "%s: %s %u", file->name, file->item, place.item);
}

/* --- leaving pictures out ------------------------------------------------------- */

/* number: NO_PICTURE for those that go; the others get their new numbers. */
static int keep_pictures(struct listing *l, uint32_t *number, struct err *err)
{
	struct strings paths = { 0 };
	int code = 0;

	for (uint32_t p = 0; p < l->picture_count && code == 0; p++)
		if (number[p] != NO_PICTURE)
			code = strings_add(&paths, strings_at(&l->paths, p), strings_bytes(&l->paths, p), &number[p], NULL, err);
	if (code != 0) {
		strings_free(&paths);
		return code;
	}
	for (uint32_t p = 0; p < l->picture_count; p++) {
		if (number[p] == NO_PICTURE)
			missing_free(&l->pictures[p]);
		else
			l->pictures[number[p]] = l->pictures[p]; /* never forward */
	}
	l->picture_count = paths.count;
	strings_free(&l->paths);
	l->paths = paths;
	return 0;
}

static void keep_captions(struct listing *l, const uint32_t *number)
{
	uint64_t begin = 0, to = 0;
	uint32_t kept = 0;

	for (uint32_t c = 0; c < l->caption_count; c++) {
		struct caption caption = l->captions[c];
		uint64_t bytes = caption.end - begin;

		if (number[caption.picture] != NO_PICTURE) {
			if (bytes > 0)
				memmove(l->caption_text.data + to, l->caption_text.data + begin, bytes);
			to += bytes;
			l->captions[kept++] = (struct caption){ to, number[caption.picture], caption.place };
		}
		begin = caption.end;
	}
	l->caption_count = kept;
	l->caption_text.size = to;
}

int listing_keep(struct listing *listing, uint32_t *keep, struct err *err)
{
	int code = keep_pictures(listing, keep, err);

	if (code == 0)
		keep_captions(listing, keep);
	return code;
}

/* --- splits ------------------------------------------------------------------- */

bool listing_is_name(const char *name, size_t bytes)
{
	if (bytes == 0 || bytes > MANIFEST_NAME_BYTES_MAX)
		return false;
	for (size_t i = 0; i < bytes; i++) {
		char c = name[i];

		if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-'))
			return false;
	}
	return true;
}

int listing_split(struct listing *listing, const char *name, size_t bytes, int16_t *split, struct err *err)
{
	uint32_t index = strings_find(&listing->splits, name, bytes);
	int code;

	if (index == STRINGS_NONE) {
		if (!listing_is_name(name, bytes))
			return err_set(err, ERR_FORMAT, "\"%.*s\" cannot be a split's name: it has 1 to %d of the characters "
				       "A-Z a-z 0-9 . _ -", (int)(bytes > 80 ? 80 : bytes), name, MANIFEST_NAME_BYTES_MAX);
		if (bytes == 3 && memcmp(name, "all", 3) == 0)
			return err_set(err, ERR_FORMAT, "a split cannot be named \"all\": that means all of them");
		if (listing->splits.count == MANIFEST_SPLITS_MAX)
			return err_set(err, ERR_LIMIT, "more than %d splits", MANIFEST_SPLITS_MAX);
		if ((code = strings_add(&listing->splits, name, bytes, &index, NULL, err)) != 0)
			return code;
	}
	*split = (int16_t)index;
	return 0;
}

/* --- failures and notes ---------------------------------------------------------- */

int listing_add_failure(struct listing *listing, const char *source, const char *reason, struct err *err)
{
	if (listing->failure_count == listing->failure_capacity) {
		uint32_t capacity = listing->failure_capacity == 0 ? 16 : 2 * listing->failure_capacity;
		struct failure *grown = mem_realloc_array(listing->failures, capacity, sizeof(*grown));

		if (grown == NULL)
			return err_nomem(err, capacity * sizeof(*grown));
		listing->failures = grown;
		listing->failure_capacity = capacity;
	}
	struct failure failure = { mem_strdup(source), mem_strdup(reason) };
	if (failure.source == NULL || failure.reason == NULL) {
		mem_free(failure.source);
		mem_free(failure.reason);
		return err_nomem(err, strlen(source) + strlen(reason));
	}
	listing->failures[listing->failure_count++] = failure;
	return 0;
}

int listing_add_note(struct listing *listing, struct err *err, const char *format, ...)
{
	char text[ERR_MESSAGE_BYTES];
	uint32_t index;
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	return strings_add(&listing->notes, text, strlen(text), &index, NULL, err);
}

uint32_t listing_note_count(const struct listing *listing)
{
	return listing->notes.count;
}

const char *listing_note_at(const struct listing *listing, uint32_t index)
{
	return strings_at(&listing->notes, index);
}

void listing_set_hash(struct listing *listing, uint32_t picture, const struct hash *hash)
{
	CHECK(picture < listing->picture_count && listing->pictures[picture].state == PICTURE_LISTED);
	listing->pictures[picture].hash = *hash;
	listing->pictures[picture].state = PICTURE_HASHED;
}

static int note_failed(struct listing *listing, uint32_t picture)
{
	if (listing->failed_count == listing->failed_capacity) {
		uint32_t capacity = listing->failed_capacity == 0 ? 16 : 2 * listing->failed_capacity;
		uint32_t *grown = mem_realloc_array(listing->failed, capacity, sizeof(*grown));

		if (grown == NULL)
			return ERR_NOMEM;
		listing->failed = grown;
		listing->failed_capacity = capacity;
	}
	listing->failed[listing->failed_count++] = picture;
	return 0;
}

int listing_set_failure(struct listing *listing, uint32_t picture, const struct err *reason)
{
	CHECK(picture < listing->picture_count && listing->pictures[picture].state == PICTURE_LISTED);
	char *text = mem_strdup(reason->message);

	if (text == NULL)
		return ERR_NOMEM;
	pthread_mutex_lock(&listing->lock);
	int code = note_failed(listing, picture);
	pthread_mutex_unlock(&listing->lock);
	if (code != 0) {
		mem_free(text);
		return code;
	}
	listing->pictures[picture].failure = text;
	listing->pictures[picture].state = PICTURE_FAILED;
	return 0;
}

static int by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

/* Threads added them in any order; for people they ascend. */
uint32_t listing_failure_count(const struct listing *listing)
{
	if (listing->failed_count > 1)
		qsort(listing->failed, listing->failed_count, sizeof(*listing->failed), by_number);
	return listing->failure_count + listing->failed_count;
}

struct listing_failure listing_failure_at(const struct listing *listing, uint32_t index)
{
	CHECK(index < listing->failure_count + listing->failed_count);
	if (index < listing->failure_count)
		return (struct listing_failure){ listing->failures[index].source, listing->failures[index].reason };
	uint32_t picture = listing->failed[index - listing->failure_count];
	return (struct listing_failure){ strings_at(&listing->paths, picture), listing->pictures[picture].failure };
}
