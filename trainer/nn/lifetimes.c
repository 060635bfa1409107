#include "trainer/nn/lifetimes.h"

#include <stdbool.h>
#include <stdlib.h>

#include "shared/base/mem.h"

struct buffer {
	size_t bytes, at;
	struct lifetime life[2];
};

struct lifetimes {
	int count, asked;
	struct buffer all[LIFETIMES_MAX];
	struct buffer *by_size[LIFETIMES_MAX];
	struct buffer *in_the_way[LIFETIMES_MAX]; /* of the one being placed, by offset */
};

int lifetimes_open(struct lifetimes **out, struct err *err)
{
	*out = mem_array(1, sizeof(**out));
	return *out == NULL ? err_nomem(err, sizeof(**out)) : 0;
}

void lifetimes_close(struct lifetimes *lifetimes)
{
	mem_free(lifetimes);
}

void lifetimes_clear(struct lifetimes *lifetimes)
{
	lifetimes->count = lifetimes->asked = 0;
}

void lifetimes_add(struct lifetimes *lifetimes, size_t bytes, struct lifetime life, struct lifetime again)
{
	CHECK(lifetimes->count < LIFETIMES_MAX);
	lifetimes->all[lifetimes->count++] =
		(struct buffer){ size_round_up(bytes, MEM_ALIGN_BYTES), 0, { life, again } };
}

static bool lives_meet(const struct buffer *a, const struct buffer *b)
{
	for (int i = 0; i < 2; i++)
		for (int k = 0; k < 2; k++) {
			const struct lifetime *x = &a->life[i], *y = &b->life[k];

			if (x->first <= x->last && y->first <= y->last && x->first <= y->last && y->first <= x->last)
				return true;
		}
	return false;
}

/* The largest first; among equals in order of addition, so that the outcome depends on nothing else. */
static int compare_size(const void *a, const void *b)
{
	const struct buffer *x = *(struct buffer *const *)a, *y = *(struct buffer *const *)b;

	if (x->bytes != y->bytes)
		return x->bytes < y->bytes ? 1 : -1;
	return x < y ? -1 : x > y;
}

static int compare_at(const void *a, const void *b)
{
	const struct buffer *x = *(struct buffer *const *)a, *y = *(struct buffer *const *)b;

	return x->at < y->at ? -1 : x->at > y->at;
}

/* The lowest gap of the size. */
static size_t find_place(struct lifetimes *lifetimes, const struct buffer *buffer, int placed)
{
	int n = 0;
	size_t at = 0;

	for (int i = 0; i < placed; i++)
		if (lives_meet(buffer, lifetimes->by_size[i]))
			lifetimes->in_the_way[n++] = lifetimes->by_size[i];
	qsort(lifetimes->in_the_way, (size_t)n, sizeof(lifetimes->in_the_way[0]), compare_at);
	for (int i = 0; i < n; i++) {
		const struct buffer *other = lifetimes->in_the_way[i];

		if (other->at >= at + buffer->bytes)
			break;
		if (other->at + other->bytes > at)
			at = other->at + other->bytes;
	}
	return at;
}

size_t lifetimes_place(struct lifetimes *lifetimes)
{
	size_t end = 0;

	for (int i = 0; i < lifetimes->count; i++)
		lifetimes->by_size[i] = &lifetimes->all[i];
	qsort(lifetimes->by_size, (size_t)lifetimes->count, sizeof(lifetimes->by_size[0]), compare_size);
	for (int i = 0; i < lifetimes->count; i++) {
		struct buffer *buffer = lifetimes->by_size[i];

		buffer->at = find_place(lifetimes, buffer, i);
		if (buffer->at + buffer->bytes > end)
			end = buffer->at + buffer->bytes;
	}
	lifetimes->asked = 0;
	return end;
}

size_t lifetimes_next(struct lifetimes *lifetimes)
{
	CHECK(lifetimes->asked < lifetimes->count);
	return lifetimes->all[lifetimes->asked++].at;
}
