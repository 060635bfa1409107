/* metrics.jsonl of a run as one point for each epoch, and one for each validation. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/fs.h"
#include "shared/base/mem.h"
#include "trainer/study/report_data.h"

struct line {
	int64_t epoch, step; /* step -1: not said */
	bool val, has_epoch, has_split;
	double loss, accuracy;
};

static int read_line(struct json_reader *reader, struct line *line, struct err *err)
{
	int code = json_expect(reader, JSON_OBJECT_BEGIN, err);

	*line = (struct line){ .step = -1, .loss = NAN, .accuracy = NAN };
	while (code == 0) {
		if ((code = json_next(reader, err)) != 0 || reader->kind == JSON_OBJECT_END)
			break;
		bool epoch = strcmp(reader->text.data, "epoch") == 0, split = strcmp(reader->text.data, "split") == 0;
		bool step = strcmp(reader->text.data, "step") == 0;
		double *number = strcmp(reader->text.data, "loss") == 0     ? &line->loss :
				 strcmp(reader->text.data, "accuracy") == 0 ? &line->accuracy :
									      NULL;

		if (!epoch && !split && !step && number == NULL) {
			code = json_skip(reader, err);
			continue;
		}
		if ((code = json_next(reader, err)) != 0)
			break;
		if (number != NULL && reader->kind == JSON_NULL)
			continue;
		if (reader->kind != (split ? JSON_STRING : JSON_NUMBER))
			return json_fail(reader, err, "a value of the wrong kind");
		if (epoch || step)
			code = json_int(reader, epoch ? &line->epoch : &line->step, err);
		else if (split)
			line->val = strcmp(reader->text.data, "val") == 0;
		else
			code = json_real(reader, number, err);
		line->has_epoch = line->has_epoch || epoch;
		line->has_split = line->has_split || split;
	}
	if (code == 0 && (!line->has_epoch || !line->has_split))
		code = json_fail(reader, err, "a line without epoch or split");
	if (code == 0 && (line->epoch < 0 || line->epoch >= REPORT_EPOCHS_MAX))
		code = json_fail(reader, err, "epoch %lld", (long long)line->epoch);
	return code;
}

/* Room for `count` values in each of the series, what is new as NaN. */
static int grow(double **const *series, size_t series_count, int *used, int count, int *capacity, struct err *err)
{
	if (count > *capacity) {
		int wanted = count < 32 ? 32 : 2 * count;

		for (size_t s = 0; s < series_count; s++) {
			double *more = mem_realloc_array(*series[s], (size_t)wanted, sizeof(double));

			if (more == NULL)
				return err_nomem(err, (size_t)wanted * sizeof(double));
			*series[s] = more;
		}
		*capacity = wanted;
	}
	for (; *used < count; ++*used)
		for (size_t s = 0; s < series_count; s++)
			(*series[s])[*used] = NAN;
	return 0;
}

/* The running mean over an epoch's steps; lines of an epoch stand together. */
struct reading {
	int64_t epoch;
	double loss, accuracy;
	int64_t losses, accuracies;
	double steps_per_epoch; /* as far as the lines say: step / epoch is never less, and equal where an epoch begins; INFINITY: they do not */
	int64_t steps;          /* done */
	int capacity, every_capacity;
};

static void add_mean(double *to, double value, double *sum, int64_t *count)
{
	if (isnan(value))
		return;
	*sum += value;
	++*count;
	*to = *sum / (double)*count;
}

static int add_validation(struct report_curve *curve, const struct line *line, struct reading *r, struct err *err)
{
	double **const series[] = { &curve->every_at, &curve->every_loss, &curve->every_accuracy };
	int at = curve->every_count;
	int code = at < REPORT_VALIDATIONS_MAX ? grow(series, ARRAY_LEN(series), &curve->every_count, at + 1, &r->every_capacity, err) :
						 err_set(err, ERR_LIMIT, "more than %d validations", REPORT_VALIDATIONS_MAX);

	if (code != 0)
		return code;
	/* The place is worked out when the length of an epoch is known; until then a step, or an epoch as a negative number. */
	curve->every_at[at] = line->step >= 0 ? (double)line->step + 1 : -(double)line->epoch - 1;
	curve->every_loss[at] = line->loss;
	curve->every_accuracy[at] = line->accuracy;
	return 0;
}

static int add_line(struct report_curve *curve, const struct line *line, struct reading *r, struct err *err)
{
	double **const series[] = { &curve->train_loss, &curve->train_accuracy, &curve->val_loss, &curve->val_accuracy, &curve->train_at };
	int at = (int)line->epoch, code = grow(series, ARRAY_LEN(series), &curve->count, at + 1, &r->capacity, err);

	if (code != 0)
		return code;
	if (line->step >= 0 && at > 0)
		r->steps_per_epoch = fmin(r->steps_per_epoch, (double)line->step / at);
	if (line->step >= r->steps)
		r->steps = line->step + 1;
	if (line->val) {
		curve->val_loss[at] = line->loss;
		curve->val_accuracy[at] = line->accuracy;
		return add_validation(curve, line, r, err);
	}
	if (r->epoch != line->epoch) {
		r->epoch = line->epoch;
		r->loss = r->accuracy = 0;
		r->losses = r->accuracies = 0;
	}
	add_mean(&curve->train_loss[at], line->loss, &r->loss, &r->losses);
	add_mean(&curve->train_accuracy[at], line->accuracy, &r->accuracy, &r->accuracies);
	curve->train_at[at] = line->step >= 0 ? (double)line->step + 1 : -(double)line->epoch - 1;
	return 0;
}

/* Within the first epoch the lines do not say how long one is; the run does. Without that the epoch is taken as done. */
static int find_steps_per_epoch(struct reading *r, const char *dir, struct err *err)
{
	char *path = NULL;
	struct tree run = { 0 };
	double each = NAN;
	int code = isfinite(r->steps_per_epoch) ? 0 : fs_join(&path, dir, "run.json", err);

	if (code == 0 && path != NULL && fs_exists(path) && (code = tree_read(&run, path, err)) == 0)
		code = tree_real(&run, run.root, "steps_per_epoch", &each, err);
	if (!isfinite(r->steps_per_epoch))
		r->steps_per_epoch = each > 0 ? each : (double)r->steps;
	tree_free(&run);
	mem_free(path);
	return code;
}

static double epochs_done(double steps, double each)
{
	return steps < 0 ? -steps : each > 0 ? steps / each : NAN;
}

static int place(struct report_curve *curve, struct reading *r, const char *dir, struct err *err)
{
	int code = find_steps_per_epoch(r, dir, err);

	for (int e = 0; code == 0 && e < curve->count; e++)
		curve->train_at[e] = epochs_done(curve->train_at[e], r->steps_per_epoch);
	for (int v = 0; code == 0 && v < curve->every_count; v++)
		curve->every_at[v] = epochs_done(curve->every_at[v], r->steps_per_epoch);
	return code;
}

int report_curve_read(struct report_curve *out, const char *dir, struct err *err)
{
	struct reading reading = { .epoch = -1, .steps_per_epoch = INFINITY };
	char *path = NULL, *text = NULL, name[64];
	size_t text_bytes = 0;
	FILE *file = NULL;
	int code = fs_join(&path, dir, "metrics.jsonl", err);
	long number = 0;
	ssize_t got;

	*out = (struct report_curve){ 0 };
	if (code != 0)
		return code;
	file = fopen(path, "re");
	if (file == NULL) {
		code = errno == ENOENT ? 0 : err_errno(err, errno, "%s", path);
		goto out;
	}
	while (code == 0 && (got = getline(&text, &text_bytes, file)) > 0) {
		struct json_reader reader;
		struct line line;

		number++;
		/* Cut short by the death of its writer. */
		if (text[got - 1] != '\n')
			break;
		if (got > REPORT_LINE_BYTES_MAX) {
			code = err_set(err, ERR_LIMIT, "%s: line %ld has more than %d bytes", path, number, REPORT_LINE_BYTES_MAX);
			break;
		}
		snprintf(name, sizeof(name), "line %ld", number);
		json_reader_init(&reader, name, text, (size_t)got);
		code = read_line(&reader, &line, err);
		if (code == 0 && (code = json_expect(&reader, JSON_END, err)) == 0)
			code = add_line(out, &line, &reading, err);
		json_reader_free(&reader);
		if (code != 0)
			err_prefix(err, "%s", path);
	}
	if (code == 0 && ferror(file))
		code = err_errno(err, errno, "%s", path);
	if (code == 0)
		code = place(out, &reading, dir, err);
out:
	if (code != 0)
		report_curve_free(out);
	if (file != NULL)
		fclose(file);
	free(text); /* getline's */
	mem_free(path);
	return code;
}

void report_curve_free(struct report_curve *curve)
{
	mem_free(curve->train_loss);
	mem_free(curve->train_accuracy);
	mem_free(curve->val_loss);
	mem_free(curve->val_accuracy);
	mem_free(curve->train_at);
	mem_free(curve->every_at);
	mem_free(curve->every_loss);
	mem_free(curve->every_accuracy);
	*curve = (struct report_curve){ 0 };
}
