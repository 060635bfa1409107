/* train/checkpoint.h: what is written is read back; damage is recognised and the
 * checkpoint before is used; files of another model are refused. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "shared/base/fs.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "tests/support/ok.h"
#include "trainer/io/checksum.h"
#include "trainer/io/statefile.h"
#include "trainer/train/checkpoint.h"

enum { PATH_MAX_BYTES = 512 };

/* A tiny "model" with one parameter of each kind, and its optimizer. */
struct rig {
	struct params *params;
	struct decay_spans *spans; /* the optimizer borrows them, so they must not move */
	struct optimizer *optimizer;
};

static struct rig rig_open(uint64_t seed, int64_t rows, enum optimizer_kind kind)
{
	const int64_t matrix[] = { rows, 6 }, vector[] = { 6 }, none[] = { 0 };
	struct optimizer_config config = { .kind = kind, .momentum = 0.9 };
	struct rig rig;
	int index;

	OK(params_open(&rig.params, err));
	OK(params_add(rig.params, &index, "layer.weight", PARAM_WEIGHT, INIT_NORMAL, 1.0f, 2, matrix, err));
	OK(params_add(rig.params, &index, "layer.bias", PARAM_BIAS, INIT_NORMAL, 1.0f, 1, vector, err));
	OK(params_add(rig.params, &index, "bn.running_mean", PARAM_BUFFER, INIT_NORMAL, 1.0f, 1, vector, err));
	OK(params_add(rig.params, &index, "bn.num_batches_tracked", PARAM_COUNTER, INIT_ZERO, 0.0f, 0, none, err));
	OK(params_add(rig.params, &index, "pooler.weight", PARAM_UNUSED, INIT_NORMAL, 1.0f, 1, vector, err));
	OK(params_allocate(rig.params, err));
	params_init(rig.params, seed);
	rig.spans = mem_array(1, sizeof(*rig.spans));
	assert_non_null(rig.spans);
	OK(decay_spans_init(rig.spans, rig.params, false, err));
	OK(optimizer_open(&rig.optimizer, &config, rig.params, rig.spans, vector_ops_reference(), err));
	return rig;
}

static void rig_close(struct rig *rig)
{
	optimizer_close(rig->optimizer);
	decay_spans_free(rig->spans);
	mem_free(rig->spans);
	params_close(rig->params);
}

/* Takes steps with made-up gradients, as training would. */
static void rig_steps(struct rig *rig, int steps)
{
	for (int t = 0; t < steps; t++) {
		params_zero_grads(rig->params);
		for (int i = 0; i < rig->params->count; i++)
			for (size_t e = 0; rig->params->all[i].grad != NULL && e < rig->params->all[i].count; e++)
				rig->params->all[i].grad[e] = (float)((int)(optimizer_steps(rig->optimizer) + e) % 5 - 2);
		optimizer_step(rig->optimizer, 0.1, 0.01, 1.0f);
		params_find(rig->params, "bn.num_batches_tracked")->counter++;
	}
}

static void same_values(const struct rig *a, const struct rig *b)
{
	for (int i = 0; i < a->params->count; i++) {
		const struct param *p = &a->params->all[i], *q = &b->params->all[i];

		if (p->count > 0 && p->value != NULL)
			assert_memory_equal(p->value, q->value, p->count * sizeof(float));
		assert_int_equal(p->counter, q->counter);
	}
}

static char folder[PATH_MAX_BYTES];

static int make_folder(void **state)
{
	(void)state;
	snprintf(folder, sizeof(folder), "/tmp/test_checkpoint_XXXXXX");
	log_setup("test", LOG_ERROR, 0);
	return mkdtemp(folder) == NULL;
}

static int drop_folder(void **state)
{
	char command[PATH_MAX_BYTES + 16];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

static const struct checkpoint_about about = { "{\"seed\": 1}", "{\"task\": \"match\"}", "{\"name\": \"x\"}" };

static void write_at(struct rig *rig, uint64_t step, bool best)
{
	struct checkpoint_progress progress = {
		.step = step, .epoch = step / 4, .validated = best, .has_best = true, .best_accuracy = 0.75, .best_loss = 0.5,
		.best_step = best ? step : 1, .train_seconds = 12.5,
	};

	memset(&progress.chain, 0xAB, sizeof(progress.chain));
	OK(checkpoint_write(folder, rig->params, rig->optimizer, &progress, &about, err));
}

static char *path_of(uint64_t step, const char *name)
{
	static char path[2 * PATH_MAX_BYTES];

	snprintf(path, sizeof(path), "%s/checkpoints/step-%010llu/%s", folder, (unsigned long long)step, name);
	return path;
}

static void flip_byte(const char *path, long from_end)
{
	FILE *file = fopen(path, "r+b");

	assert_non_null(file);
	assert_int_equal(fseek(file, -from_end, SEEK_END), 0);
	int byte = fgetc(file);
	assert_int_equal(fseek(file, -from_end, SEEK_END), 0);
	fputc(byte ^ 0x10, file);
	fclose(file);
}

static uint64_t restored_step(struct rig *rig)
{
	struct checkpoint_progress progress;
	bool found;

	OK(checkpoint_restore(folder, rig->params, rig->optimizer, &progress, &found, err));
	assert_true(found);
	return progress.step;
}

static void test_round_trip(void **state)
{
	struct rig a = rig_open(1, 5, OPTIMIZER_ADAMW), b = rig_open(2, 5, OPTIMIZER_ADAMW);
	struct checkpoint_progress p;
	bool found = true;

	(void)state;
	OK(checkpoint_restore(folder, b.params, b.optimizer, &p, &found, err));
	assert_false(found);
	assert_false(checkpoint_exists(folder));
	rig_steps(&a, 7);
	write_at(&a, 7, true);
	assert_true(checkpoint_exists(folder));
	OK(checkpoint_restore(folder, b.params, b.optimizer, &p, &found, err));
	assert_true(found);
	assert_true(p.step == 7 && p.epoch == 1 && p.validated && p.has_best && p.best_accuracy == 0.75 && p.best_loss == 0.5 &&
		    p.best_step == 7 && p.train_seconds == 12.5 && p.chain.bytes[31] == 0xAB);
	same_values(&a, &b);
	/* moments too: both go on alike */
	rig_steps(&a, 3);
	rig_steps(&b, 3);
	same_values(&a, &b);
	rig_close(&a);
	rig_close(&b);
}

static void test_keeps_two_and_links(void **state)
{
	struct rig a = rig_open(1, 5, OPTIMIZER_SGD);
	struct stat last, best, model;
	char path[2 * PATH_MAX_BYTES];

	(void)state;
	for (uint64_t step = 1; step <= 4; step++) {
		rig_steps(&a, 1);
		write_at(&a, step, step == 2);
	}
	assert_false(fs_exists(path_of(1, "")));
	assert_false(fs_exists(path_of(2, "")));
	assert_true(fs_exists(path_of(3, "model.safetensors")));
	assert_true(fs_exists(path_of(4, "optimizer.safetensors")));
	snprintf(path, sizeof(path), "%s/last.safetensors", folder);
	assert_int_equal(stat(path, &last), 0);
	assert_int_equal(stat(path_of(4, "model.safetensors"), &model), 0);
	assert_true(last.st_ino == model.st_ino);
	/* the best outlives its folder */
	snprintf(path, sizeof(path), "%s/best.safetensors", folder);
	assert_int_equal(stat(path, &best), 0);
	assert_true(best.st_ino != model.st_ino);
	struct tensorfile *file;
	bool ours;
	OK(tensorfile_open(&file, path, err));
	OK(checksum_verify(file, &ours, err));
	assert_true(ours);
	assert_string_equal(tensorfile_metadata(file, "step"), "2");
	assert_string_equal(tensorfile_metadata(file, "config"), about.config);
	tensorfile_close(file);
	rig_close(&a);
}

static void test_equal_runs_write_equal_weights(void **state)
{
	struct rig a = rig_open(1, 5, OPTIMIZER_ADAMW);
	struct buf one = BUF_INIT, two = BUF_INIT;
	struct checkpoint_progress p = { .step = 3, .train_seconds = 1 };

	(void)state;
	rig_steps(&a, 3);
	OK(checkpoint_write(folder, a.params, a.optimizer, &p, &about, err));
	OK(fs_read(path_of(3, "model.safetensors"), 1 << 20, &one, err));
	p.train_seconds = 2; /* only time differs; and the same step again replaces */
	OK(checkpoint_write(folder, a.params, a.optimizer, &p, &about, err));
	OK(fs_read(path_of(3, "model.safetensors"), 1 << 20, &two, err));
	assert_int_equal(one.size, two.size);
	assert_memory_equal(one.data, two.data, one.size);
	buf_free(&one);
	buf_free(&two);
	rig_close(&a);
}

/* Every byte of the header and of the values, one flipped at a time. */
static void test_flipped_bytes(void **state)
{
	static const char *const names[] = { "model.safetensors", "optimizer.safetensors" };
	struct rig a = rig_open(1, 5, OPTIMIZER_ADAMW), b = rig_open(2, 5, OPTIMIZER_ADAMW);

	(void)state;
	rig_steps(&a, 1);
	write_at(&a, 1, false);
	rig_steps(&a, 1);
	write_at(&a, 2, false);
	for (int n = 0; n < 2; n++) {
		struct stat info;
		long tried = 0, padding = 0;

		assert_int_equal(stat(path_of(2, names[n]), &info), 0);
		for (long at = 1; at <= info.st_size; at += 3) {
			flip_byte(path_of(2, names[n]), at);
			uint64_t step = restored_step(&b);
			flip_byte(path_of(2, names[n]), at);
			tried++;
			padding += step == 2;
			assert_true(step == 1 || step == 2);
		}
		/* Blanks that pad the header mean nothing. */
		assert_true(tried > 100 && padding <= 30);
	}
	assert_int_equal(restored_step(&b), 2);
	rig_close(&a);
	rig_close(&b);
}

/* As any reader of weights opens it: refused, and nothing stays open or mapped. */
static void test_damaged_weights_are_let_go(void **state)
{
	struct rig a = rig_open(1, 5, OPTIMIZER_ADAMW);
	struct statefile *file;
	struct buf maps = BUF_INIT;
	struct err damage = { 0 };

	(void)state;
	write_at(&a, 1, false);
	OK(statefile_open(&file, path_of(1, "model.safetensors"), err));
	statefile_close(file);
	flip_byte(path_of(1, "model.safetensors"), 1);
	assert_int_equal(statefile_open(&file, path_of(1, "model.safetensors"), &damage), ERR_CORRUPT);
	assert_null(file);
	OK(fs_read("/proc/self/maps", 1 << 20, &maps, err));
	assert_null(strstr((const char *)maps.data, "model.safetensors"));
	buf_free(&maps);
	rig_close(&a);
}

static void test_truncated_missing_mixed(void **state)
{
	struct rig a = rig_open(1, 5, OPTIMIZER_ADAMW), b = rig_open(2, 5, OPTIMIZER_ADAMW);
	struct stat info;
	char from[2 * PATH_MAX_BYTES];

	(void)state;
	for (uint64_t step = 1; step <= 2; step++) {
		rig_steps(&a, 1);
		write_at(&a, step, false);
	}
	/* the moments of another step beside the weights */
	snprintf(from, sizeof(from), "%s", path_of(1, "optimizer.safetensors"));
	unlink(path_of(2, "optimizer.safetensors"));
	assert_int_equal(restored_step(&b), 1);
	assert_int_equal(link(from, path_of(2, "optimizer.safetensors")), 0);
	assert_int_equal(restored_step(&b), 1);
	/* cut short */
	rig_steps(&a, 1);
	write_at(&a, 3, false);
	assert_int_equal(stat(path_of(3, "model.safetensors"), &info), 0);
	assert_int_equal(truncate(path_of(3, "model.safetensors"), info.st_size - 1), 0);
	unlink(path_of(2, "optimizer.safetensors"));
	struct checkpoint_progress p;
	struct err err = { 0 };
	bool found;
	assert_int_equal(checkpoint_restore(folder, b.params, b.optimizer, &p, &found, &err), ERR_CORRUPT);
	assert_non_null(strstr(err.message, "damaged"));
	assert_false(found);
	rig_close(&a);
	rig_close(&b);
}

static void test_interrupted_write_is_cleaned(void **state)
{
	struct rig a = rig_open(1, 5, OPTIMIZER_ADAMW);
	char hidden[2 * PATH_MAX_BYTES];

	(void)state;
	write_at(&a, 1, false);
	snprintf(hidden, sizeof(hidden), "%s/checkpoints/.new-step-0000000002", folder);
	OK(fs_mkdirs(hidden, 0777, err));
	strcat(hidden, "/model.safetensors.abc.tmp");
	OK(fs_write_atomic(hidden, "half", 4, err));
	assert_int_equal(restored_step(&a), 1);
	assert_false(fs_exists(hidden));
	rig_close(&a);
}

static void refuses(struct rig *rig, const char *what)
{
	struct checkpoint_progress p;
	struct err err = { 0 };
	bool found;

	assert_int_equal(checkpoint_restore(folder, rig->params, rig->optimizer, &p, &found, &err), ERR_MISMATCH);
	if (strstr(err.message, what) == NULL)
		fail_msg("expected \"%s\" in: %s", what, err.message);
}

static void test_other_model(void **state)
{
	struct rig a = rig_open(1, 5, OPTIMIZER_ADAMW), other = rig_open(1, 4, OPTIMIZER_ADAMW),
		   sgd = rig_open(1, 5, OPTIMIZER_SGD);

	(void)state;
	write_at(&a, 1, false);
	refuses(&other, "layer.weight");
	refuses(&sgd, "momentum_buffer");
	rig_close(&a);
	rig_close(&other);
	rig_close(&sgd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_round_trip, make_folder, drop_folder),
		cmocka_unit_test_setup_teardown(test_keeps_two_and_links, make_folder, drop_folder),
		cmocka_unit_test_setup_teardown(test_equal_runs_write_equal_weights, make_folder, drop_folder),
		cmocka_unit_test_setup_teardown(test_flipped_bytes, make_folder, drop_folder),
		cmocka_unit_test_setup_teardown(test_damaged_weights_are_let_go, make_folder, drop_folder),
		cmocka_unit_test_setup_teardown(test_truncated_missing_mixed, make_folder, drop_folder),
		cmocka_unit_test_setup_teardown(test_interrupted_write_is_cleaned, make_folder, drop_folder),
		cmocka_unit_test_setup_teardown(test_other_model, make_folder, drop_folder),
	};

	return cmocka_run_group_tests_name("checkpoint", tests, NULL, NULL);
}
