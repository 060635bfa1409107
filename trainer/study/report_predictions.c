/* predictions.csv of a run, and the pairs that the arms of a fold have in common. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/fs.h"
#include "shared/base/mem.h"
#include "trainer/study/report_parts.h"

/* 2^26 rows of at most 60 bytes. */
#define PREDICTIONS_BYTES_MAX ((size_t)4 << 30)

enum column { PAIR, PICTURE, CAPTION, LABEL, PROBABILITY, CORRECT, COLUMNS };
static const char *const column_names[COLUMNS] = { "pair", "picture", "caption", "label", "p", "correct" };
enum { FIELDS_MAX = 32 };

struct table {
	const char *path;
	int field_of[COLUMNS]; /* which field of a line */
	int fields;
	uint32_t rows, capacity;
	struct report_pairs *pairs;
	float *p;
	uint8_t *correct;
};

static int read_header(struct table *t, const char *line, const char *end, struct err *err)
{
	for (int c = 0; c < COLUMNS; c++)
		t->field_of[c] = -1;
	for (const char *at = line; at <= end && t->fields < FIELDS_MAX; t->fields++) {
		const char *comma = memchr(at, ',', (size_t)(end - at));
		size_t bytes = (size_t)((comma != NULL ? comma : end) - at);

		for (int c = 0; c < COLUMNS; c++)
			if (strlen(column_names[c]) == bytes && memcmp(column_names[c], at, bytes) == 0)
				t->field_of[c] = t->fields;
		at += bytes + 1;
	}
	for (int c = 0; c < COLUMNS; c++)
		if (t->field_of[c] < 0)
			return err_set(err, ERR_FORMAT, "%s: no column \"%s\" in its first line; it should be pair,picture,caption,label,p,correct",
				       t->path, column_names[c]);
	return 0;
}

static int grow(struct table *t, struct err *err)
{
	size_t capacity = t->capacity > 0 ? 2 * (size_t)t->capacity : 4096;
	struct report_pairs *pairs = t->pairs;
	struct {
		void **array;
		size_t size;
	} arrays[] = { { (void **)&pairs->picture, 8 }, { (void **)&pairs->caption, 8 }, { (void **)&pairs->label, 4 },
		       { (void **)&t->p, 4 }, { (void **)&t->correct, 1 } };

	if (t->rows >= REPORT_ROWS_MAX)
		return err_set(err, ERR_LIMIT, "%s: more than %zu rows", t->path, REPORT_ROWS_MAX);
	for (size_t i = 0; i < ARRAY_LEN(arrays); i++) {
		void *more = mem_realloc_array(*arrays[i].array, capacity, arrays[i].size);

		if (more == NULL)
			return err_nomem(err, capacity * arrays[i].size);
		*arrays[i].array = more;
	}
	t->capacity = (uint32_t)capacity;
	return 0;
}

static bool whole(const char *at, const char *end, uint64_t limit, uint64_t *out)
{
	uint64_t value = 0;

	if (at == end || end - at > 19)
		return false;
	for (; at < end; at++) {
		if (*at < '0' || *at > '9')
			return false;
		value = 10 * value + (uint64_t)(*at - '0');
	}
	*out = value;
	return value <= limit;
}

/* NaN is allowed: a model that diverged says so. */
static bool probability(const char *at, const char *end, float *out)
{
	char text[64];
	size_t bytes = (size_t)(end - at);
	char *stop;

	if (bytes == 0 || bytes >= sizeof(text) || memchr(at, 'x', bytes) != NULL)
		return false;
	memcpy(text, at, bytes);
	text[bytes] = '\0';
	double value = strtod(text, &stop);
	*out = (float)value;
	return stop == text + bytes && (isnan(value) || (value >= 0 && value <= 1));
}

static int read_row(struct table *t, const char *line, const char *end, struct err *err)
{
	const char *from[FIELDS_MAX], *to[FIELDS_MAX];
	uint64_t pair, label, correct;
	int fields = 0, bad = -1, code;

	for (const char *at = line; at <= end && fields < FIELDS_MAX; fields++) {
		const char *comma = memchr(at, ',', (size_t)(end - at));

		from[fields] = at;
		to[fields] = comma != NULL ? comma : end;
		at = to[fields] + 1;
	}
	if (fields != t->fields)
		return err_set(err, ERR_FORMAT, "%s: line %u has %d fields, its first line %d: damaged or cut short; remove the run's folder and let "
			       "the study repeat it", t->path, t->rows + 2, fields, t->fields);
	if (t->rows == t->capacity && (code = grow(t, err)) != 0)
		return code;
#define FIELD(c) from[t->field_of[c]], to[t->field_of[c]]
	if (!whole(FIELD(PAIR), UINT32_MAX, &pair) || pair != t->rows)
		bad = PAIR;
	else if (!whole(FIELD(PICTURE), UINT64_MAX, &t->pairs->picture[t->rows]))
		bad = PICTURE;
	else if (!whole(FIELD(CAPTION), UINT64_MAX, &t->pairs->caption[t->rows]))
		bad = CAPTION;
	else if (!whole(FIELD(LABEL), INT32_MAX, &label))
		bad = LABEL;
	else if (!probability(FIELD(PROBABILITY), &t->p[t->rows]))
		bad = PROBABILITY;
	else if (!whole(FIELD(CORRECT), 1, &correct))
		bad = CORRECT;
#undef FIELD
	if (bad >= 0) {
		int bytes = (int)(to[t->field_of[bad]] - from[t->field_of[bad]]);

		return err_set(err, ERR_FORMAT, "%s: line %u: \"%s\" is '%.*s', expected %s", t->path, t->rows + 2, column_names[bad],
			       bytes > 40 ? 40 : bytes, from[t->field_of[bad]],
			       bad == PAIR ? "the number of the row, from 0" : bad == PROBABILITY ? "a number from 0 to 1" :
			       bad == CORRECT ? "0 or 1" : "a whole number");
	}
	t->pairs->label[t->rows] = (int32_t)label;
	t->correct[t->rows] = (uint8_t)correct;
	t->rows++;
	return 0;
}

static int read_table(struct table *t, struct err *err)
{
	struct buf content = BUF_INIT;
	int code = fs_read(t->path, PREDICTIONS_BYTES_MAX, &content, err);
	bool first = true;

	for (const char *at = content.data, *stop = at + content.size; code == 0 && at < stop;) {
		const char *end = memchr(at, '\n', (size_t)(stop - at)), *next = end + 1;

		if (end == NULL) {
			code = err_set(err, ERR_FORMAT, "%s: its last line is cut short; remove the run's folder and let the study repeat it", t->path);
			break;
		}
		if (end > at && end[-1] == '\r')
			end--;
		code = first ? read_header(t, at, end, err) : read_row(t, at, end, err);
		first = false;
		at = next;
	}
	if (code == 0 && first)
		code = err_set(err, ERR_FORMAT, "%s: empty", t->path);
	buf_free(&content);
	t->pairs->count = t->rows;
	return code;
}

void report_pairs_free(struct report_pairs *pairs)
{
	if (pairs == NULL)
		return;
	mem_free(pairs->picture);
	mem_free(pairs->caption);
	mem_free(pairs->label);
	mem_free(pairs->cluster);
	mem_free(pairs);
}

static bool same_pairs(const struct report_pairs *a, const struct report_pairs *b)
{
	return a->count == b->count &&
	       (a->count == 0 || (memcmp(a->picture, b->picture, a->count * sizeof(*a->picture)) == 0 &&
				  memcmp(a->caption, b->caption, a->count * sizeof(*a->caption)) == 0 &&
				  memcmp(a->label, b->label, a->count * sizeof(*a->label)) == 0));
}

/* The pairs that another arm of this fold and seed was measured on. */
static struct report_pairs *pairs_of_cell(const struct report_data *data, int fold, int seed)
{
	for (int arm = 0; arm < data->arms; arm++) {
		const struct report_run *run = report_run_at(data, arm, fold, seed);

		if (run != NULL && run->pairs != NULL)
			return run->pairs;
	}
	return NULL;
}

/* Gives the run its pairs: those of the cell, or of the fold with another seed where they are equal, or new ones. */
static int settle_pairs(struct report_data *data, struct report_run *run, struct table *t, struct err *err)
{
	struct report_pairs *cell = pairs_of_cell(data, run->fold, run->seed), **more;

	t->pairs->fold = run->fold;
	if (cell != NULL) {
		run->other_pairs = !same_pairs(cell, t->pairs);
		run->pairs = run->other_pairs ? NULL : cell;
		return 0;
	}
	for (int i = 0; i < data->pairs_count && run->pairs == NULL; i++)
		if (data->pairs[i]->fold == run->fold && same_pairs(data->pairs[i], t->pairs))
			run->pairs = data->pairs[i];
	if (run->pairs != NULL)
		return 0;
	more = mem_realloc_array(data->pairs, (size_t)data->pairs_count + 1, sizeof(*more));
	if (more == NULL)
		return err_nomem(err, sizeof(*more));
	data->pairs = more;
	data->pairs[data->pairs_count++] = t->pairs;
	run->pairs = t->pairs;
	t->pairs = NULL;
	return 0;
}

int report_predictions_read(struct report_data *data, struct report_run *run, struct err *err)
{
	struct table t = { .pairs = mem_zalloc(sizeof(*t.pairs)) };
	char *path = NULL;
	int code = fs_join(&path, run->dir, "predictions.csv", err);

	t.path = path;
	if (code == 0 && t.pairs == NULL)
		code = err_nomem(err, sizeof(*t.pairs));
	if (code != 0)
		goto out;
	if (data->ranks)
		goto out;
	run->unpredicted = !fs_exists(path);
	data->unpredicted += run->unpredicted;
	if (run->unpredicted)
		goto out;
	if ((code = read_table(&t, err)) != 0)
		goto out;
	if (run->pair_count >= 0 && (uint64_t)run->pair_count != t.rows) {
		code = err_set(err, ERR_MISMATCH, "%s: %u rows, but the result says %lld pairs: damaged; remove the run's folder and let the study "
			       "repeat it", path, t.rows, (long long)run->pair_count);
		goto out;
	}
	if ((code = settle_pairs(data, run, &t, err)) != 0 || run->pairs == NULL)
		goto out;
	run->p = t.p;
	run->correct = t.correct;
	t.p = NULL;
	t.correct = NULL;
out:
	report_pairs_free(t.pairs);
	mem_free(t.p);
	mem_free(t.correct);
	mem_free(path);
	return code;
}

/* ---- pictures as clusters, over the whole study ---- */

static int ascending(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

int report_clusters_number(struct report_data *data, struct err *err)
{
	size_t total = 0, used = 0;
	uint64_t *all;

	for (int i = 0; i < data->pairs_count; i++)
		total += data->pairs[i]->count;
	if (total >= UINT32_MAX)
		return err_set(err, ERR_LIMIT, "%s: more than 2^32 validation pairs", data->dir);
	all = mem_array(total + 1, sizeof(*all));
	if (all == NULL)
		return err_nomem(err, total * sizeof(*all));
	for (int i = 0; i < data->pairs_count; i++)
		for (uint32_t r = 0; r < data->pairs[i]->count; r++)
			all[used++] = data->pairs[i]->picture[r];
	qsort(all, total, sizeof(*all), ascending);
	used = 0;
	for (size_t i = 0; i < total; i++)
		if (i == 0 || all[i] != all[i - 1])
			all[used++] = all[i];
	data->clusters = (uint32_t)used;
	for (int i = 0; i < data->pairs_count; i++) {
		struct report_pairs *pairs = data->pairs[i];

		pairs->cluster = mem_array((size_t)pairs->count + 1, sizeof(*pairs->cluster));
		if (pairs->cluster == NULL) {
			mem_free(all);
			return err_nomem(err, pairs->count * sizeof(*pairs->cluster));
		}
		for (uint32_t r = 0; r < pairs->count; r++) {
			const uint64_t *found = bsearch(&pairs->picture[r], all, used, sizeof(*all), ascending);

			pairs->cluster[r] = (uint32_t)(found - all);
		}
	}
	mem_free(all);
	return 0;
}
