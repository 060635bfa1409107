/*
 * timing.c - equal time. Before the first run each arm trains a few steps alone, on all the threads of a run, and what one of its steps takes
 * beside the baseline's is its cost. It then gets as many steps as fit into the time of the baseline's epochs: steps / cost, rounded, at least 1.
 * The learning rate is planned for those steps. Costs are measured once and stay in study.json, so that a study that
 * is gone on with has the same runs.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "shared/base/fs.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "trainer/study/child.h"
#include "trainer/study/flat.h"
#include "trainer/study/work.h"

enum { TRIAL_STEPS = 12, TRIAL_SKIPPED = 2, TRIAL_ROUNDS = 3, TRIAL_PATH_BYTES = STUDY_DIR_BYTES + STUDY_NAME_BYTES + 40 };

struct trial {
	double seconds[TRIAL_ROUNDS * TRIAL_STEPS];
	int count;
	int64_t steps_per_epoch, steps_total; /* of a whole run; 0: unknown */
};

/* The terms from their first epoch on: what a step costs once all of them work. */
static int64_t without_epochs(const char *reg, char out[REG_TEXT_BYTES])
{
	int64_t latest = 0;
	size_t used = 0;

	for (const char *at = reg; *at != '\0';) {
		if (*at == '@') {
			char *end;
			int64_t epoch = strtoll(at + 1, &end, 10);

			latest = epoch > latest ? epoch : latest;
			at = end;
		} else {
			out[used++] = *at++;
		}
	}
	out[used] = '\0';
	return latest;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(struct trial *trial)
{
	qsort(trial->seconds, (size_t)trial->count, sizeof(trial->seconds[0]), by_size);
	return trial->count > 0 ? trial->seconds[trial->count / 2] : 0;
}

static int read_steps(const char *dir, struct trial *trial, struct err *err)
{
	char path[TRIAL_PATH_BYTES + 32];
	struct buf content = BUF_INIT;
	struct flat *flat = mem_zalloc(sizeof(*flat));
	int code = flat == NULL ? err_nomem(err, sizeof(*flat)) : 0;

	snprintf(path, sizeof(path), "%s/run.json", dir);
	if (code == 0 && (code = flat_read(flat, path, err)) == 0) {
		(void)flat_int(flat, "steps_per_epoch", &trial->steps_per_epoch);
		flat_free(flat);
	}
	snprintf(path, sizeof(path), "%s/metrics.jsonl", dir);
	if (code == 0)
		code = fs_read(path, (size_t)1 << 24, &content, err);
	for (char *at = content.data, *end; code == 0 && at != NULL && (end = strchr(at, '\n')) != NULL; at = end + 1) {
		double rate, samples, wait;
		int64_t step;

		if ((code = flat_parse(flat, path, at, (size_t)(end - at), err)) != 0)
			break;
		if (flat_int(flat, "step", &step) && step >= TRIAL_SKIPPED && flat_real(flat, "pairs_per_s", &rate) && rate > 0 &&
		    flat_real(flat, "samples", &samples) && flat_real(flat, "data_wait_s", &wait) &&
		    trial->count < (int)ARRAY_LEN(trial->seconds))
			trial->seconds[trial->count++] = samples / rate - wait;
		flat_free(flat);
	}
	buf_free(&content);
	mem_free(flat);
	return code;
}

static int wait_child(struct work *work, pid_t pid, const char *log, struct err *err)
{
	const struct timespec pause = { .tv_nsec = 20000000 };
	char words[WORK_MESSAGE_BYTES];
	bool stopped = false;
	int status;

	while (!child_ended(pid, &status)) {
		if (!stopped && work->options->cancelled != NULL && work->options->cancelled(work->options->cancel_context)) {
			child_stop(pid);
			stopped = true;
		}
		nanosleep(&pause, NULL);
	}
	if (stopped)
		return err_set(err, ERR_CANCELLED, "stopped while steps were timed; the same command begins again");
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	child_last_words(log, words, sizeof(words));
	return err_set(err, ERR_IO, "timing a step failed: %s", words);
}

static int try_arm(struct work *work, int arm, int round, struct trial *trial, struct err *err)
{
	struct study_spec *copy = mem_alloc(sizeof(*copy));
	struct study_cell cell = { arm, 1, 0 };
	char dir[STUDY_DIR_BYTES + 32], run[RESULT_PATH_BYTES], log[RESULT_PATH_BYTES];
	static char unmeasured[] = "--val-split=none", quiet[] = "--quiet";
	char **argv = NULL;
	pid_t pid;
	int argc, code;

	if (copy == NULL)
		return err_nomem(err, sizeof(*copy));
	*copy = *work->spec;
	copy->arms[arm].steps = TRIAL_STEPS;
	without_epochs(work->spec->arms[arm].reg, copy->arms[arm].reg);
	snprintf(dir, sizeof(dir), "%s/timing/%d", work->dir, round);
	study_run_path(copy, dir, &cell, "", run);
	study_run_path(copy, dir, &cell, "log.txt", log);
	if ((code = fs_mkdirs(run, 0777, err)) == 0 &&
	    (code = work_arguments(copy, dir, &cell, work->threads, work->options->socket, &argv, &argc, err)) == 0) {
		for (int i = 0; i < argc; i++) {
			if (strncmp(argv[i], "--val-split=", 12) == 0)
				argv[i] = unmeasured;
			if (strcmp(argv[i], "--predictions") == 0)
				argv[i] = quiet;
		}
		if ((code = child_start(&pid, argv, log, err)) == 0 && (code = wait_child(work, pid, log, err)) == 0)
			code = read_steps(run, trial, err);
	}
	mem_free(argv);
	mem_free(copy);
	return code;
}

/* As run_config_resolve() fills it in. */
static int64_t epochs_of(const struct study_spec *spec)
{
	const char *epochs = study_options_get(&spec->common, "epochs");

	return epochs == NULL ? 10 : strtoll(epochs, NULL, 10);
}

static void set_steps(struct study_spec *spec, struct trial *trials, int base)
{
	const char *steps = study_options_get(&spec->common, "steps");
	int64_t epochs = epochs_of(spec), total = steps != NULL ? strtoll(steps, NULL, 10) : epochs * trials[base].steps_per_epoch;
	double clean = median(&trials[base]);

	if (steps != NULL && trials[base].steps_per_epoch > 0)
		epochs = (total + trials[base].steps_per_epoch - 1) / trials[base].steps_per_epoch;
	for (int i = 0; i < spec->arm_count; i++) {
		struct study_arm *arm = &spec->arms[i];
		char ignored[REG_TEXT_BYTES];
		int64_t from = without_epochs(arm->reg, ignored);
		double full = i == base || clean <= 0 ? 1 : median(&trials[i]) / clean;
		/* Before its latest term begins, an arm counts as costing what the baseline does. */
		double share = epochs > 0 && from < epochs ? 1 - (double)from / (double)epochs : 0;

		arm->cost = 1 + (full - 1) * share;
		arm->steps = (int64_t)llround((double)total / (arm->cost > 0.01 ? arm->cost : 0.01));
		if (arm->steps < 1)
			arm->steps = 1;
		log_info("equal time: %s gets %" PRId64 " steps (a step takes %.2f times the baseline's)", arm->name, arm->steps, arm->cost);
	}
}

int timing_run(struct work *work, struct err *err)
{
	struct study_spec *spec = work->spec;
	struct trial *trials;
	int base = 0, code = 0;

	if (spec->arms[0].steps > 0)
		return 0; /* measured when the study began */
	if ((trials = mem_array((size_t)spec->arm_count, sizeof(*trials))) == NULL)
		return err_nomem(err, (size_t)spec->arm_count * sizeof(*trials));
	log_info("equal time: timing %d steps of each arm, %d times", TRIAL_STEPS, TRIAL_ROUNDS);
	/* Round by round, so that a machine that grows slower meets all arms. */
	for (int round = 0; round < TRIAL_ROUNDS && code == 0; round++)
		for (int i = 0; i < spec->arm_count && code == 0; i++)
			code = try_arm(work, i, round, &trials[i], err);
	for (int i = 0; i < spec->arm_count; i++)
		if (strcmp(spec->arms[i].name, spec->baseline) == 0)
			base = i;
	if (code == 0) {
		char dir[STUDY_DIR_BYTES + 32];

		set_steps(spec, trials, base);
		snprintf(dir, sizeof(dir), "%s/timing", work->dir);
		work_remove_tree(dir);
	}
	mem_free(trials);
	return code;
}
