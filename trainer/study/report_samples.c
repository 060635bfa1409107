#include "trainer/study/report_samples.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/mem.h"

/* What the arms make of one pair, over its runs. */
struct tally {
	float *wrong, *confidence; /* (arms, pairs): share of runs that are wrong; mean probability of the wrong answer */
	uint8_t *wrong_runs, *runs; /* (arms, pairs) */
};

static int tally_open(struct tally *t, size_t cells, struct err *err)
{
	t->wrong = mem_array(cells + 1, sizeof(*t->wrong));
	t->confidence = mem_array(cells + 1, sizeof(*t->confidence));
	t->wrong_runs = mem_array(cells + 1, 1);
	t->runs = mem_array(cells + 1, 1);
	if (t->wrong == NULL || t->confidence == NULL || t->wrong_runs == NULL || t->runs == NULL)
		return err_nomem(err, cells * sizeof(*t->wrong));
	return 0;
}

static void tally_close(struct tally *t)
{
	mem_free(t->wrong);
	mem_free(t->confidence);
	mem_free(t->wrong_runs);
	mem_free(t->runs);
	*t = (struct tally){ NULL };
}

static void tally_fill(struct tally *t, const struct report_data *data, const struct report_pairs *pairs)
{
	const size_t n = pairs->count;

	for (int i = 0; i < data->runs_planned; i++) {
		const struct report_run *run = data->runs[i];

		if (run == NULL || run->pairs != pairs)
			continue;
		for (size_t r = 0; r < n; r++) {
			size_t at = (size_t)run->arm * n + r;
			/* Of the answer that is not the label; of a class among many, p is the true one's. */
			float p = !data->match || pairs->label[r] == 1 ? 1 - run->p[r] : run->p[r];

			if (t->runs[at] == UINT8_MAX)
				continue;
			t->runs[at]++;
			t->wrong_runs[at] += !run->correct[r];
			t->confidence[at] += isnan(p) ? 0 : p;
		}
	}
	for (size_t at = 0; at < (size_t)data->arms * n; at++) {
		if (t->runs[at] == 0)
			continue;
		t->wrong[at] = (float)t->wrong_runs[at] / t->runs[at];
		t->confidence[at] /= t->runs[at];
	}
}

/* How much a pair belongs into a row, 0: not at all. An arm's own mistakes come before those that all make; then the surest ones. */
static double worth(const struct tally *t, int arms, size_t pairs, size_t row, int arm)
{
	double others = 0, confidence = 0;
	int n = 0, all_wrong = 1, seen = 0;

	for (int a = 0; a < arms; a++) {
		size_t at = (size_t)a * pairs + row;

		if (t->runs[at] == 0)
			continue;
		seen++;
		all_wrong = all_wrong && t->wrong_runs[at] == t->runs[at];
		confidence += t->confidence[at];
		if (a != arm) {
			others += t->wrong[at];
			n++;
		}
	}
	if (arm < 0)
		return all_wrong && seen > 1 ? confidence / seen : 0;
	size_t at = (size_t)arm * pairs + row;
	if (t->runs[at] == 0 || t->wrong[at] <= 0.5f)
		return 0;
	double own = t->wrong[at] - (n > 0 ? others / n : 0);
	return own > 0 ? own + 0.001 * (double)t->confidence[at] : 0;
}

struct ranked {
	double worth;
	const struct report_pairs *pairs;
	size_t row;
	uint64_t picture;
};

/* Keeps the best of each picture, best first. */
static void rank(struct ranked *list, int *count, int limit, struct ranked item)
{
	int at;

	for (at = 0; at < *count && list[at].picture != item.picture; at++)
		;
	if (at < *count) {
		if (list[at].worth >= item.worth)
			return;
		memmove(list + at, list + at + 1, (size_t)(*count - at - 1) * sizeof(*list));
		--*count;
	}
	for (at = *count; at > 0 && list[at - 1].worth < item.worth; at--)
		;
	if (at >= limit)
		return;
	int tail = *count < limit ? *count - at : limit - 1 - at;
	memmove(list + at + 1, list + at, (size_t)tail * sizeof(*list));
	list[at] = item;
	if (*count < limit)
		++*count;
}

static void fill_sample(struct report_sample *s, const struct tally *t, int arms, const struct report_pairs *pairs, size_t row, int arm)
{
	double confidence = 0;
	int seen = 0;

	s->picture = pairs->picture[row];
	s->caption = pairs->caption[row];
	s->label = pairs->label[row];
	for (int a = 0; a < arms; a++) {
		size_t at = (size_t)a * pairs->count + row;

		s->wrong[a] = t->wrong_runs[at];
		s->seen[a] = t->runs[at];
		s->runs = t->runs[at] > s->runs ? t->runs[at] : s->runs;
		if (t->runs[at] > 0 && (arm < 0 || a == arm)) {
			confidence += (double)t->confidence[at];
			seen++;
		}
	}
	s->confidence = seen > 0 ? (float)(confidence / seen) : NAN;
}

/* Rows 0 .. arms-1: the arms; row `arms`: what all get wrong. A tally of each table of pairs is made twice: once to rank, once
 * to copy what was ranked. */
int report_samples_find(struct report_samples **out, const struct report_analysis *analysis, int per_arm, struct err *err)
{
	const struct report_data *data = analysis->data;
	const int rows = data->arms + 1;
	struct report_samples *samples = mem_zalloc(sizeof(*samples));
	struct ranked *lists = mem_array((size_t)rows * REPORT_SAMPLES_MAX, sizeof(*lists));
	int counts[REPORT_ARMS_MAX + 1] = { 0 }, code = 0;
	struct tally tally = { NULL };

	*out = NULL;
	if (samples == NULL || lists == NULL || (samples->rows = mem_array((size_t)rows, sizeof(*samples->rows))) == NULL) {
		code = err_nomem(err, (size_t)rows * sizeof(*samples->rows));
		goto out;
	}
	samples->row_count = rows;
	per_arm = per_arm > REPORT_SAMPLES_MAX ? REPORT_SAMPLES_MAX : per_arm;
	for (int pass = 0; pass < 2 && per_arm > 0; pass++) {
		for (int i = 0; i < data->pairs_count; i++) {
			const struct report_pairs *pairs = data->pairs[i];

			if ((code = tally_open(&tally, (size_t)data->arms * pairs->count, err)) != 0)
				goto out;
			tally_fill(&tally, data, pairs);
			for (int row = 0; row < rows; row++) {
				struct ranked *list = lists + (size_t)row * REPORT_SAMPLES_MAX;
				int arm = row < data->arms ? row : -1;

				for (size_t r = 0; pass == 0 && r < pairs->count; r++) {
					struct ranked item = { worth(&tally, data->arms, pairs->count, r, arm), pairs, r, pairs->picture[r] };

					if (item.worth > 0)
						rank(list, &counts[row], per_arm, item);
				}
				for (int k = 0; pass == 1 && k < counts[row]; k++)
					if (list[k].pairs == pairs)
						fill_sample(&samples->rows[row].sample[k], &tally, data->arms, pairs, list[k].row, arm);
			}
			tally_close(&tally);
		}
	}
	for (int row = 0; row < rows; row++) {
		samples->rows[row].arm = row < data->arms ? row : -1;
		samples->rows[row].count = counts[row];
	}
	*out = samples;
	samples = NULL;
out:
	tally_close(&tally);
	mem_free(lists);
	report_samples_free(samples);
	return code;
}

void report_samples_free(struct report_samples *samples)
{
	if (samples == NULL)
		return;
	for (int row = 0; samples->rows != NULL && row < samples->row_count; row++) {
		for (int k = 0; k < REPORT_SAMPLES_MAX; k++) {
			struct report_sample *s = &samples->rows[row].sample[k];

			buf_free(&s->text);
			buf_free(&s->source);
			buf_free(&s->jpeg);
		}
	}
	mem_free(samples->rows);
	mem_free(samples);
}
