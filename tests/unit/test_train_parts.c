/* The small parts of training: schedules, clipping, decay, optimizers over an
 * arena, pairs of a batch, metrics that are cut, event files, batch checks. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "shared/base/fs.h"
#include "shared/base/mem.h"
#include "tests/support/ok.h"
#include "trainer/client/feed.h"
#include "trainer/io/tensorboard.h"
#include "trainer/reg/dropout.h"
#include "trainer/reg/l2.h"
#include "trainer/train/clip.h"
#include "trainer/train/metrics.h"
#include "trainer/train/optimizer.h"
#include "trainer/train/pairs.h"
#include "trainer/train/schedule.h"

/* ---- schedules: torch.optim.lr_scheduler.LambdaLR with Hugging Face's lambdas, base 3e-4,
 * 5 steps of warm-up, 20 in all (PyTorch 1.13) ---- */

static const double linear_from_torch[] = {
	0, 5.9999999999999995e-05, 0.00011999999999999999, 0.00017999999999999998, 0.00023999999999999998, 0.00029999999999999997,
	0.00027999999999999998, 0.00025999999999999998, 0.00023999999999999998, 0.00021999999999999995, 0.00019999999999999998,
	0.00017999999999999998, 0.00015999999999999999, 0.00013999999999999999, 0.00011999999999999999, 9.9999999999999991e-05,
	7.9999999999999993e-05, 5.9999999999999995e-05, 3.9999999999999996e-05, 1.9999999999999998e-05,
};
static const double cosine_from_torch[] = {
	0, 5.9999999999999995e-05, 0.00011999999999999999, 0.00017999999999999998, 0.00023999999999999998, 0.00029999999999999997,
	0.00029672214011007081, 0.00028703181864639008, 0.00027135254915624211, 0.00025036959095382869, 0.00022499999999999999,
	0.00019635254915624211, 0.00016567926949014801, 0.00013432073050985199, 0.00010364745084375789, 7.5000000000000021e-05,
	4.9630409046171308e-05, 2.8647450843757897e-05, 1.2968181353609852e-05, 3.2778598899291465e-06,
};

static void test_schedules(void **state)
{
	struct schedule s = { SCHEDULE_LINEAR, 3e-4, 5, 20 };

	(void)state;
	for (uint64_t t = 0; t < 20; t++) {
		s.kind = SCHEDULE_LINEAR;
		assert_true(fabs(schedule_lr(&s, t) - linear_from_torch[t]) <= 1e-18);
		s.kind = SCHEDULE_COSINE;
		assert_true(fabs(schedule_lr(&s, t) - cosine_from_torch[t]) <= 1e-18);
		s.kind = SCHEDULE_CONSTANT;
		assert_true(fabs(schedule_lr(&s, t) - (t < 5 ? linear_from_torch[t] : 3e-4)) <= 1e-18);
	}
	/* a run without warm-up starts at full rate; behind the end there is none */
	s = (struct schedule){ SCHEDULE_COSINE, 0.1, 0, 10 };
	assert_true(schedule_lr(&s, 0) == 0.1 && fabs(schedule_lr(&s, 10)) < 1e-17);
	s.kind = SCHEDULE_LINEAR;
	assert_true(schedule_lr(&s, 10) == 0 && schedule_lr(&s, 11) == 0);
	assert_int_equal(schedule_default_warmup(100000), 50);
	assert_int_equal(schedule_default_warmup(30), 3);
	assert_int_equal(schedule_default_warmup(5), 0);
}

static void test_clip(void **state)
{
	(void)state;
	assert_true(clip_coefficient(0.5, 1.0) == 1.0f);
	assert_true(clip_coefficient(100.0, 0.0) == 1.0f);
	assert_true(clip_coefficient(4.0, 1.0) == (float)(1.0 / (4.0 + 1e-6)));
}

/* ---- decay and optimizers over an arena ---- */

static struct params *sample_params(void)
{
	struct params *params;
	const int64_t matrix[] = { 5, 7 }, vector[] = { 7 }, one[] = { 1 };
	int index;

	OK(params_open(&params, err));
	OK(params_add(params, &index, "a.weight", PARAM_WEIGHT, INIT_NORMAL, 1.0f, 2, matrix, err));
	OK(params_add(params, &index, "a.bias", PARAM_BIAS, INIT_NORMAL, 1.0f, 1, vector, err));
	OK(params_add(params, &index, "norm.weight", PARAM_NORM, INIT_ONE, 0.0f, 1, vector, err));
	OK(params_add(params, &index, "running", PARAM_BUFFER, INIT_ZERO, 0.0f, 1, vector, err));
	OK(params_add(params, &index, "words", PARAM_EMBEDDING, INIT_NORMAL, 1.0f, 2, matrix, err));
	OK(params_add(params, &index, "b.weight", PARAM_WEIGHT, INIT_NORMAL, 1.0f, 2, matrix, err));
	OK(params_add(params, &index, "b.bias", PARAM_BIAS, INIT_NORMAL, 1.0f, 1, one, err));
	OK(params_add(params, &index, "temperature", PARAM_BIAS, INIT_CONSTANT, 1.0f, 0, NULL, err));
	OK(params_allocate(params, err));
	params_init(params, 3);
	return params;
}

static bool decayed_at(const struct decay_spans *spans, size_t at)
{
	for (int i = 0; i < spans->count; i++)
		if (at >= spans->all[i].at && at < spans->all[i].at + spans->all[i].count)
			return spans->all[i].decayed;
	fail_msg("element %zu is in no span", at);
	return false;
}

static void test_decay_spans(void **state)
{
	struct params *params = sample_params();
	struct decay_spans spans;
	size_t covered = 0;

	(void)state;
	OK(decay_spans_init(&spans, params, false, err));
	for (int i = 0; i < spans.count; i++) {
		assert_int_equal(spans.all[i].at, covered);
		covered += spans.all[i].count;
	}
	assert_int_equal(covered, params->trained_elements);
	for (int i = 0; i < params->count; i++) {
		const struct param *p = &params->all[i];
		bool expected = p->kind == PARAM_WEIGHT || p->kind == PARAM_EMBEDDING;

		for (size_t e = 0; p->grad != NULL && e < p->count; e++)
			assert_int_equal(decayed_at(&spans, p->at + e), expected);
	}
	decay_spans_free(&spans);
	OK(decay_spans_init(&spans, params, true, err));
	for (int i = 0; i < params->count; i++) {
		const struct param *p = &params->all[i];

		for (size_t e = 0; p->grad != NULL && e < p->count; e++)
			assert_int_equal(decayed_at(&spans, p->at + e), strcmp(p->name, "temperature") != 0);
	}
	decay_spans_free(&spans);
	params_close(params);
}

static void test_l2(void **state)
{
	struct params *params = sample_params();
	struct decay_spans spans;
	struct reg_spec spec;
	double loss = 0;

	(void)state;
	OK(reg_spec_parse(&spec, "l2=0.5:mode=coupled@2+dropout=0.25@3", err));
	assert_true(reg_l2_coupled(&spec, 1) == 0 && reg_l2_coupled(&spec, 2) == 0.5 && reg_l2_decoupled(&spec, 2) == 0);
	assert_true(reg_dropout_probability(&spec, 2) == 0 && reg_dropout_probability(&spec, 3) == 0.25);
	OK(reg_spec_parse(&spec, "l2", err));
	assert_true(reg_l2_coupled(&spec, 0) == 0 && reg_l2_decoupled(&spec, 0) == 0.01);
	OK(decay_spans_init(&spans, params, false, err));
	params_zero_grads(params);
	reg_l2_add_gradient(&spans, 0.5, params, vector_ops_reference());
	for (int i = 0; i < params->count; i++) {
		const struct param *p = &params->all[i];

		for (size_t e = 0; p->grad != NULL && e < p->count; e++) {
			bool decayed = p->kind == PARAM_WEIGHT || p->kind == PARAM_EMBEDDING;

			assert_true(p->grad[e] == (decayed ? 0.5f * p->value[e] : 0.0f));
			loss += decayed ? 1 : 0;
		}
	}
	assert_true(loss == 105);
	decay_spans_free(&spans);
	params_close(params);
}

/* Each parameter by hand with torch's formulas in double. */
static void check_optimizer(enum optimizer_kind kind)
{
	struct params *params = sample_params();
	struct optimizer_config config = { .kind = kind, .momentum = 0.9 };
	struct decay_spans spans;
	struct optimizer *optimizer;
	double *exact = mem_array(params->trained_elements * 3, sizeof(*exact));
	float *grads = mem_array(params->trained_elements, sizeof(*grads));

	assert_true(exact != NULL && grads != NULL);
	OK(decay_spans_init(&spans, params, false, err));
	OK(optimizer_open(&optimizer, &config, params, &spans, vector_ops_fast(), err));
	for (size_t e = 0; e < params->trained_elements; e++)
		exact[3 * e] = (double)params->values[e];
	for (int t = 1; t <= 4; t++) {
		params_zero_grads(params);
		for (int i = 0; i < params->count; i++)
			for (size_t e = 0; params->all[i].grad != NULL && e < params->all[i].count; e++)
				params->all[i].grad[e] = (float)sin((double)(i * 100 + (int)e + t));
		memcpy(grads, params->grads, params->trained_elements * sizeof(*grads));
		optimizer_step(optimizer, 0.01, 0.1, 0.5f);
		for (size_t e = 0; e < params->trained_elements; e++)
			assert_true(params->grads[e] == 0.0f);
		for (int i = 0; i < params->count; i++) {
			const struct param *p = &params->all[i];
			bool decayed = p->kind == PARAM_WEIGHT || p->kind == PARAM_EMBEDDING;

			for (size_t e = 0; p->grad != NULL && e < p->count; e++) {
				double *x = exact + 3 * (p->at + e), g = 0.5 * (double)grads[p->at + e];

				x[0] *= decayed ? 1 - 0.01 * 0.1 : 1;
				if (kind == OPTIMIZER_SGD) {
					x[1] = t == 1 ? g : 0.9 * x[1] + g;
					x[0] -= 0.01 * x[1];
				} else {
					x[1] = 0.9 * x[1] + 0.1 * g;
					x[2] = 0.999 * x[2] + 0.001 * g * g;
					x[0] -= 0.01 / (1 - pow(0.9, t)) * x[1] / (sqrt(x[2]) / sqrt(1 - pow(0.999, t)) + 1e-8);
				}
				if (!(fabs(x[0] - (double)p->value[e]) <= 2e-6))
					fail_msg("%s[%zu] step %d: %.9g, by hand %.9g", p->name, e, t, (double)p->value[e], x[0]);
			}
		}
	}
	assert_int_equal(optimizer_steps(optimizer), 4);
	optimizer_close(optimizer);
	decay_spans_free(&spans);
	params_close(params);
	mem_free(exact);
	mem_free(grads);
}

static void test_optimizers(void **state)
{
	(void)state;
	check_optimizer(OPTIMIZER_ADAMW);
	check_optimizer(OPTIMIZER_SGD);
}

/* ---- pairs ---- */

enum { SAMPLES = 6 };
static const int32_t caption_ids[] = { 1, 10, 2, /**/ 1, 11, 2, /**/ 1, 10, 2, /**/ 1, 12, 13, 2, /**/ 1, 14, 2, /**/ 1, 15, 2 };
static const uint32_t caption_offsets[SAMPLES + 1] = { 0, 3, 6, 9, 13, 16, 19 };
static const uint32_t sample_pictures[SAMPLES] = { 7, 3, 9, 4, 3, 8 }; /* 1 and 4: the same picture; 0 and 2: the same text */
static const uint32_t sample_images[SAMPLES] = { 0, 1, 2, 3, 1, 4 };
static const int32_t sample_labels[SAMPLES] = { 2, -1, 0, 1, -1, 2 };

static const uint64_t sample_names[SAMPLES];

static struct batch sample_batch(void)
{
	return (struct batch){ .count = SAMPLES, .image_count = 5, .image_index = sample_images, .ids = caption_ids,
			       .offsets = caption_offsets, .token_count = 19, .pictures = sample_pictures, .labels = sample_labels,
			       .pixels = sample_images, .sample_ids = sample_names };
}

static void check_match(const struct pairs *pairs, int each)
{
	double weights[2] = { 0, 0 };
	int negatives[SAMPLES] = { 0 };

	assert_int_equal(pairs->positives, SAMPLES);
	for (int n = 0; n < pairs->list.count; n++) {
		uint32_t c = pairs->caption[n], row = pairs->picture[n];

		weights[pairs->label[n]] += (double)pairs->weight[n];
		if (pairs->label[n] == 1) {
			assert_int_equal(row, sample_images[c]);
			continue;
		}
		assert_true(n >= SAMPLES);
		assert_int_not_equal(row, sample_images[c]);
		assert_false((row == 0 && c == 2) || (row == 2 && c == 0));
		negatives[row]++;
		for (int m = SAMPLES; m < n; m++) /* never twice, but for the picture that is there twice */
			assert_false(pairs->caption[m] == c && pairs->picture[m] == row && row != 1);
	}
	assert_true(fabs(weights[0] - 0.5) < 1e-6 && fabs(weights[1] - 0.5) < 1e-6);
	for (int i = 0; i < 5; i++) {
		int most = i == 1 ? 8 : i == 3 || i == 4 ? 5 : 4;
		int wanted = i == 1 ? 2 * each : each;

		assert_int_equal(negatives[i], wanted < most ? wanted : most);
	}
}

static void test_pairs(void **state)
{
	struct batch batch = sample_batch();
	struct pairs *pairs;
	uint8_t correct[64] = { 0 };

	(void)state;
	OK(pairs_open(&pairs, TASK_MATCH, SAMPLES, NEGATIVES_ALL, err));
	pairs_match(pairs, &batch, NEGATIVES_ALL, 1, 0, 0);
	check_match(pairs, 5);
	/* always yes: accuracy one half, whatever the numbers */
	for (int n = 0; n < pairs->list.count; n++)
		correct[n] = pairs->label[n] == 1;
	assert_true(pairs_accuracy(pairs, correct) == 0.5);
	correct[SAMPLES] = 1;
	assert_true(fabs(pairs_accuracy(pairs, correct) - 0.5 - 0.5 / pairs->negatives) < 1e-12);
	pairs_close(pairs);

	OK(pairs_open(&pairs, TASK_MATCH, SAMPLES, 2, err));
	uint32_t first[64], other = 0;
	for (uint64_t step = 0; step < 40; step++) {
		pairs_match(pairs, &batch, 2, 1, step, 0);
		check_match(pairs, 2);
		if (step == 0)
			memcpy(first, pairs->caption, (size_t)pairs->list.count * sizeof(*first));
		other += memcmp(first, pairs->caption, (size_t)pairs->list.count * sizeof(*first)) != 0;
	}
	assert_true(other > 30); /* steps draw differently, */
	pairs_match(pairs, &batch, 2, 1, 0, 0);
	assert_memory_equal(first, pairs->caption, (size_t)pairs->list.count * sizeof(*first)); /* and the same step the same */
	pairs_match(pairs, &batch, 2, 2, 0, 0);
	assert_memory_not_equal(first, pairs->caption, (size_t)pairs->list.count * sizeof(*first));
	pairs_match(pairs, &batch, 2, 1, 0, SAMPLES);
	assert_memory_not_equal(first, pairs->caption, (size_t)pairs->list.count * sizeof(*first));
	pairs_close(pairs);
}

static void test_pairs_without_negatives(void **state)
{
	struct batch batch = sample_batch();
	struct pairs *pairs;
	double sum = 0;

	(void)state;
	batch.count = 1;
	OK(pairs_open(&pairs, TASK_MATCH, SAMPLES, NEGATIVES_ALL, err));
	pairs_match(pairs, &batch, NEGATIVES_ALL, 1, 0, 0);
	assert_int_equal(pairs->list.count, 1);
	sum = (double)pairs->weight[0];
	assert_true(sum == 1.0);
	pairs_close(pairs);
}

static void test_pairs_classify(void **state)
{
	struct batch batch = sample_batch();
	struct pairs *pairs;
	uint8_t correct[] = { 1, 0, 1, 0 };

	(void)state;
	OK(pairs_open(&pairs, TASK_CLASSIFY, SAMPLES, NEGATIVES_ALL, err));
	pairs_classify(pairs, &batch);
	assert_int_equal(pairs->list.count, 4); /* those with a label */
	assert_int_equal(pairs->label[0], 2);
	assert_int_equal(pairs->caption[1], 2);
	assert_true(pairs->weight[3] == 0.25f);
	assert_true(pairs_accuracy(pairs, correct) == 0.5);
	pairs_close(pairs);
}

/* ---- batches that cannot be ---- */

static void refused(struct batch batch, const char *what)
{
	struct stream_info info = { .picture_count = 10, .vocab_size = 20, .label_count = 3 };
	struct err err = { 0 };

	assert_int_equal(feed_check(&batch, &info, SAMPLES, 8, true, &err), ERR_PROTOCOL);
	if (strstr(err.message, what) == NULL)
		fail_msg("expected \"%s\" in: %s", what, err.message);
}

static void test_feed_check(void **state)
{
	struct stream_info info = { .picture_count = 10, .vocab_size = 20, .label_count = 3 };
	struct batch good = sample_batch(), b;
	uint32_t numbers[SAMPLES + 1];
	int32_t ids[19], labels[SAMPLES];

	(void)state;
	OK(feed_check(&good, &info, SAMPLES, 8, true, err));
	b = good, b.count = SAMPLES + 1;
	refused(b, "number of samples");
	b = good, b.count = 0;
	refused(b, "number of samples");
	b = good, b.image_count = SAMPLES + 1;
	refused(b, "number of pictures");
	b = good, b.ids = NULL;
	refused(b, "missing");
	b = good, b.sample_ids = NULL;
	refused(b, "missing");
	b = good, b.image_count = 4;
	refused(b, "without its picture");
	b = good, b.token_count = 18;
	refused(b, "add up");
	memcpy(numbers, caption_offsets, sizeof(numbers));
	numbers[2] = 4; /* one token */
	b = good, b.offsets = numbers;
	refused(b, "length");
	numbers[2] = 100;
	refused(b, "length");
	memcpy(numbers, sample_pictures, sizeof(sample_pictures));
	numbers[5] = 10;
	b = good, b.pictures = numbers;
	refused(b, "does not have");
	memcpy(ids, caption_ids, sizeof(ids));
	ids[18] = 20;
	b = good, b.ids = ids;
	refused(b, "vocabulary");
	ids[18] = -1;
	refused(b, "vocabulary");
	memcpy(labels, sample_labels, sizeof(labels));
	labels[0] = 3;
	b = good, b.labels = labels;
	refused(b, "label");
	assert_int_equal(feed_check(&good, &info, SAMPLES, 8, false, NULL), ERR_PROTOCOL); /* evaluation needs wrong pictures */
	assert_int_equal(feed_check(&good, &info, SAMPLES, 3, true, NULL), ERR_PROTOCOL);  /* longer than max_len */
}

/* ---- metrics ---- */

#define TRAIN(step) "{\"step\": " #step ", \"epoch\": 0, \"split\": \"train\", \"loss\": 0.5}\n"
#define VAL(step) "{\"step\": " #step ", \"epoch\": 0, \"split\": \"val\", \"loss\": 0.5}\n"

static void keeps(const char *text, uint64_t next_step, int keep_last_val, const char *expected)
{
	struct metrics_kept report;
	struct buf kept = BUF_INIT;
	uint64_t lines = 0;

	OK(metrics_keep(text, strlen(text), next_step, keep_last_val, &kept, &report, err));
	OK(buf_add(&kept, "", 1, err));
	assert_string_equal(kept.data, expected);
	assert_int_equal(report.prefix, strncmp(text, expected, strlen(expected)) == 0);
	for (const char *at = expected; (at = strstr(at, "train")) != NULL; at++)
		lines++;
	assert_int_equal(report.train_lines, lines);
	buf_free(&kept);
}

static void test_metrics_cut(void **state)
{
	(void)state;
	keeps("", 5, 1, "");
	keeps(TRAIN(0) TRAIN(1) VAL(1) TRAIN(2), 2, 1, TRAIN(0) TRAIN(1) VAL(1));
	keeps(TRAIN(0) TRAIN(1) VAL(1) TRAIN(2), 2, 0, TRAIN(0) TRAIN(1));
	keeps(TRAIN(0) TRAIN(1) VAL(1) TRAIN(2), 3, 0, TRAIN(0) TRAIN(1) VAL(1) TRAIN(2));
	keeps(TRAIN(0) TRAIN(1) VAL(1) TRAIN(2), 0, 1, "");
	keeps(TRAIN(0) "{\"step\": 1, \"epo", 5, 1, TRAIN(0)); /* a line that a SIGKILL cut short */
	keeps(TRAIN(0) "garbage\n" TRAIN(1), 5, 1, TRAIN(0) TRAIN(1)); /* damage costs its own line only */
	keeps("\n" TRAIN(0) TRAIN(1) VAL(1) "{}\n" TRAIN(2), 2, 1, TRAIN(0) TRAIN(1) VAL(1));
	keeps(TRAIN(0) "{\"step\": 1}\n", 5, 1, TRAIN(0));
	keeps(TRAIN(0) "\0\0\0\n", 5, 1, TRAIN(0));
}

static char folder[] = "/tmp/test_train_XXXXXX";

static int make_folder(void **state)
{
	(void)state;
	return mkdtemp(folder) == NULL;
}

static void test_metrics_file(void **state)
{
	struct metrics_train line = { .step = 0, .loss = 0.25, .accuracy = 0.5, .pairs_per_s = 10, .lr = 1e-4 };
	struct metrics_val val = { .step = 2, .loss = NAN, .accuracy = 0.75, .pairs = 12, .best = 1 };
	struct metrics *metrics;
	struct buf before = BUF_INIT, after = BUF_INIT;
	char path[128];

	(void)state;
	snprintf(path, sizeof(path), "%s/metrics.jsonl", folder);
	OK(metrics_open(&metrics, path, 0, 0, err));
	for (line.step = 0; line.step < 3; line.step++)
		OK(metrics_add_train(metrics, &line, err));
	OK(metrics_add_val(metrics, &val, err));
	OK(metrics_sync(metrics, err));
	metrics_close(metrics);
	OK(fs_read(path, 1 << 20, &before, err));
	assert_non_null(strstr(before.data, "\"split\": \"train\", \"loss\": 0.25, \"accuracy\": 0.5, \"pairs_per_s\": 10"));
	assert_non_null(strstr(before.data, "\"split\": \"val\", \"loss\": null, \"accuracy\": 0.75"));
	/* the same steps again after going back by one */
	OK(metrics_open(&metrics, path, 2, 1, err));
	line.step = 2;
	OK(metrics_add_train(metrics, &line, err));
	OK(metrics_add_val(metrics, &val, err));
	metrics_close(metrics);
	OK(fs_read(path, 1 << 20, &after, err));
	assert_string_equal(before.data, after.data);
	unlink(path);
	buf_free(&before);
	buf_free(&after);
}

/* ---- TensorBoard ---- */

static void test_crc(void **state)
{
	uint8_t zeros[32] = { 0 }, ascending[32];

	(void)state;
	/* RFC 3720, B.4 */
	for (int i = 0; i < 32; i++)
		ascending[i] = (uint8_t)i;
	assert_int_equal(tensorboard_crc(zeros, 32), 0x8A9136AAu);
	assert_int_equal(tensorboard_crc(ascending, 32), 0x46DD794Eu);
	assert_int_equal(tensorboard_crc("123456789", 9), 0xE3069283u);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_schedules),
		cmocka_unit_test(test_clip),
		cmocka_unit_test(test_decay_spans),
		cmocka_unit_test(test_l2),
		cmocka_unit_test(test_optimizers),
		cmocka_unit_test(test_pairs),
		cmocka_unit_test(test_pairs_without_negatives),
		cmocka_unit_test(test_pairs_classify),
		cmocka_unit_test(test_feed_check),
		cmocka_unit_test(test_metrics_cut),
		cmocka_unit_test(test_metrics_file),
		cmocka_unit_test(test_crc),
	};
	int failed = cmocka_run_group_tests_name("train_parts", tests, make_folder, NULL);

	rmdir(folder);
	return failed;
}
