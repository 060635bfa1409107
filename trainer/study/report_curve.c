/* metrics.jsonl of a run as one point for each epoch. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/fs.h"
#include "shared/base/mem.h"
#include "trainer/study/report_data.h"

struct line {
	int64_t epoch;
	bool val, has_epoch, has_split;
	double loss, accuracy;
};

static int read_line(struct json_reader *reader, struct line *line, struct err *err)
{
	int code = json_expect(reader, JSON_OBJECT_BEGIN, err);

	*line = (struct line){ .loss = NAN, .accuracy = NAN };
	while (code == 0) {
		if ((code = json_next(reader, err)) != 0 || reader->kind == JSON_OBJECT_END)
			break;
		bool epoch = strcmp(reader->text.data, "epoch") == 0, split = strcmp(reader->text.data, "split") == 0;
		double *number = strcmp(reader->text.data, "loss") == 0     ? &line->loss :
				 strcmp(reader->text.data, "accuracy") == 0 ? &line->accuracy :
									      NULL;

		if (!epoch && !split && number == NULL) {
			code = json_skip(reader, err);
			continue;
		}
		if ((code = json_next(reader, err)) != 0)
			break;
		if (number != NULL && reader->kind == JSON_NULL)
			continue;
		if (reader->kind != (split ? JSON_STRING : JSON_NUMBER))
			return json_fail(reader, err, "a value of the wrong kind");
		if (epoch)
			code = json_int(reader, &line->epoch, err);
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

static int grow(struct report_curve *curve, int count, int *capacity, struct err *err)
{
	double **series[] = { &curve->train_loss, &curve->train_accuracy, &curve->val_loss, &curve->val_accuracy };

	if (count > *capacity) {
		int wanted = count < 32 ? 32 : 2 * count;

		for (size_t s = 0; s < ARRAY_LEN(series); s++) {
			double *more = mem_realloc_array(*series[s], (size_t)wanted, sizeof(double));

			if (more == NULL)
				return err_nomem(err, (size_t)wanted * sizeof(double));
			*series[s] = more;
		}
		*capacity = wanted;
	}
	for (; curve->count < count; curve->count++)
		for (size_t s = 0; s < ARRAY_LEN(series); s++)
			(*series[s])[curve->count] = NAN;
	return 0;
}

/* The running mean over an epoch's steps; lines of an epoch stand together. */
struct running {
	int64_t epoch;
	double loss, accuracy;
	int64_t losses, accuracies;
};

static void add_mean(double *to, double value, double *sum, int64_t *count)
{
	if (isnan(value))
		return;
	*sum += value;
	++*count;
	*to = *sum / (double)*count;
}

static int add_line(struct report_curve *curve, const struct line *line, struct running *running, int *capacity, struct err *err)
{
	int at = (int)line->epoch, code = grow(curve, at + 1, capacity, err);

	if (code != 0)
		return code;
	if (line->val) {
		curve->val_loss[at] = line->loss;
		curve->val_accuracy[at] = line->accuracy;
		return 0;
	}
	if (running->epoch != line->epoch)
		*running = (struct running){ .epoch = line->epoch };
	add_mean(&curve->train_loss[at], line->loss, &running->loss, &running->losses);
	add_mean(&curve->train_accuracy[at], line->accuracy, &running->accuracy, &running->accuracies);
	return 0;
}

int report_curve_read(struct report_curve *out, const char *dir, struct err *err)
{
	struct running running = { .epoch = -1 };
	char *path = NULL, *text = NULL, name[64];
	size_t text_bytes = 0;
	FILE *file = NULL;
	int capacity = 0, code = fs_join(&path, dir, "metrics.jsonl", err);
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
			code = add_line(out, &line, &running, &capacity, err);
		json_reader_free(&reader);
		if (code != 0)
			err_prefix(err, "%s", path);
	}
	if (code == 0 && ferror(file))
		code = err_errno(err, errno, "%s", path);
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
	*curve = (struct report_curve){ 0 };
}
