/*
 * timing.c - equal time. Before the first run a few steps are trained of each set of terms that an arm has at work in some epoch,
 * each alone, on all the threads of a run. The steps of an arm are then laid end to end, each as long as its epoch's terms make it,
 * until the time of the baseline's epochs is used up: that many the arm gets, rounded, at least 1. Its cost is the baseline's steps
 * over its own.
 * The learning rate is planned for those steps. Costs are measured once and stay in study.json, so that a study that
 * is gone on with has the same runs.
 */
#include <ftw.h>
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

enum {
	TRIAL_STEPS = 12, TRIAL_SKIPPED = 2, TRIAL_ROUNDS = 3, TRIAL_FILES = 8, TIMING_DIR_BYTES = STUDY_DIR_BYTES + 64,
	TRIAL_PATH_BYTES = STUDY_DIR_BYTES + STUDY_NAME_BYTES + 80,
};

/* An arm's terms while they do not change. */
struct phase {
	uint64_t from_epoch;
	int trial, between; /* indices: of a step with all its terms, and of those that an adversary with every=N leaves out */
	int64_t every;      /* N; 1: between is trial */
};

struct trial {
	int arm;                   /* whose options it has */
	char reg[REG_TEXT_BYTES];  /* without schedules */
	double seconds[TRIAL_ROUNDS * TRIAL_STEPS];
	int count;
	int64_t steps_per_epoch;   /* of a whole run; 0: unknown */
};

struct timing {
	struct phase *phases;
	int phase_count, first[STUDY_ARMS_MAX + 1]; /* an arm's phases: first[arm] .. first[arm + 1] - 1 */
	struct trial *trials;
	int trial_count;
};

/* ---- what is timed ---- */

/* A step of the same terms and options is timed once, whichever arms have it. */
static int trial_of(struct timing *t, const struct study_spec *spec, int arm, const char *reg, int *out, struct err *err)
{
	struct trial *more;

	for (*out = 0; *out < t->trial_count; (*out)++) {
		const struct trial *trial = &t->trials[*out];

		if (strcmp(trial->reg, reg) == 0 && (trial->arm == arm || (spec->arms[trial->arm].options.count == 0 &&
									   spec->arms[arm].options.count == 0)))
			return 0;
	}
	if ((more = mem_realloc_array(t->trials, (size_t)t->trial_count + 1, sizeof(*more))) == NULL)
		return err_nomem(err, sizeof(*more));
	t->trials = more;
	t->trials[t->trial_count] = (struct trial){ .arm = arm };
	snprintf(t->trials[t->trial_count++].reg, REG_TEXT_BYTES, "%s", reg);
	return 0;
}

static int trial_of_terms(struct timing *t, const struct study_spec *spec, int arm, const struct reg_spec *terms, int *out, struct err *err)
{
	char text[REG_TEXT_BYTES];

	reg_spec_text(terms, text);
	return trial_of(t, spec, arm, text, out, err);
}

/* Terms without schedules. Of every=N the two kinds of steps are timed: few trial steps would show it as often as it is at work in a run. */
static int plan_phase(struct timing *t, const struct study_spec *spec, int arm, struct reg_spec *terms, struct phase *out, struct err *err)
{
	int code;

	out->every = terms->adv.on ? terms->adv.every : 1;
	terms->adv.every = 1;
	if ((code = trial_of_terms(t, spec, arm, terms, &out->trial, err)) != 0)
		return code;
	terms->adv.on = terms->adv.on && out->every == 1;
	return trial_of_terms(t, spec, arm, terms, &out->between, err);
}

static int plan_arm(struct timing *t, const struct study_spec *spec, int arm, struct err *err)
{
	struct reg_spec reg, now;
	uint64_t epoch = 0;
	int code = reg_spec_parse(&reg, spec->arms[arm].reg, err);

	/* It ends a run, and no step is longer for it; and what is timed has no validation for it to look at. */
	reg.early.on = false;
	t->first[arm] = t->phase_count;
	while (code == 0) {
		struct phase *more = mem_realloc_array(t->phases, (size_t)t->phase_count + 1, sizeof(*more));

		if (more == NULL)
			return err_nomem(err, sizeof(*more));
		t->phases = more;
		reg_spec_at(&reg, epoch, &now);
		t->phases[t->phase_count].from_epoch = epoch;
		code = plan_phase(t, spec, arm, &now, &t->phases[t->phase_count++], err);
		if ((epoch = reg_spec_next(&reg, epoch)) == 0)
			break;
	}
	t->first[arm + 1] = t->phase_count;
	return code;
}

/* ---- timing ---- */

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
	char path[TRIAL_PATH_BYTES];
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

/* Nobody else writes in what is left of an earlier attempt: a step that was timed for a study that was killed needs a moment to see it. */
static int is_taken(const char *path, const struct stat *about, int kind, struct FTW *walk)
{
	char dir[RESULT_PATH_BYTES];

	(void)about;
	if (kind != FTW_F || strcmp(path + walk->base, ".lock") != 0 || (size_t)walk->base >= sizeof(dir))
		return 0;
	snprintf(dir, sizeof(dir), "%.*s", walk->base - 1, path);
	return work_is_free(dir) ? 0 : 1;
}

/* What an earlier attempt left is of no use: it may be of other arms, and a run that has ended is not gone on with. */
static int clear(struct work *work, const char *dir, struct err *err)
{
	const struct timespec pause = { .tv_nsec = 50000000 };

	while (fs_is_dir(dir) && nftw(dir, is_taken, TRIAL_FILES, FTW_PHYS) == 1) {
		if (work->options->cancelled != NULL && work->options->cancelled(work->options->cancel_context))
			return err_set(err, ERR_CANCELLED, "stopped while a run that the last attempt left in %s came to its end", dir);
		nanosleep(&pause, NULL);
	}
	work_remove_tree(dir);
	return 0;
}

static int try_step(struct work *work, struct trial *trial, const char *dir, struct err *err)
{
	struct study_spec *copy = mem_alloc(sizeof(*copy));
	struct study_cell cell = { trial->arm, 1, 0 };
	char run[RESULT_PATH_BYTES], log[RESULT_PATH_BYTES];
	static char unmeasured[] = "--val-split=none", quiet[] = "--quiet";
	char **argv = NULL;
	pid_t pid;
	int argc, code;

	if (copy == NULL)
		return err_nomem(err, sizeof(*copy));
	*copy = *work->spec;
	copy->arms[trial->arm].steps = TRIAL_STEPS;
	snprintf(copy->arms[trial->arm].reg, REG_TEXT_BYTES, "%s", trial->reg);
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

/* ---- what it comes to ---- */

/* Of a step, in the mean. */
static double seconds_of(const struct timing *t, int phase)
{
	const struct phase *p = &t->phases[phase];
	double between = median(&t->trials[p->between]);

	return between + (median(&t->trials[p->trial]) - between) / (double)p->every;
}

/* The time of so many steps of an arm. */
static double time_of(const struct timing *t, int arm, double steps, double steps_per_epoch)
{
	double time = 0;

	for (int p = t->first[arm]; p < t->first[arm + 1]; p++) {
		double from = (double)t->phases[p].from_epoch * steps_per_epoch;
		double until = p + 1 < t->first[arm + 1] ? (double)t->phases[p + 1].from_epoch * steps_per_epoch : steps;

		if (until > steps)
			until = steps;
		if (until > from)
			time += (until - from) * seconds_of(t, p);
	}
	return time;
}

/* How many steps of an arm fit into this time. */
static double steps_in(const struct timing *t, int arm, double time, double steps_per_epoch)
{
	int last = t->first[arm + 1] - 1;

	for (int p = t->first[arm]; p < last; p++) {
		double from = (double)t->phases[p].from_epoch * steps_per_epoch;
		double takes = ((double)t->phases[p + 1].from_epoch * steps_per_epoch - from) * seconds_of(t, p);

		if (takes > time)
			return from + time / seconds_of(t, p);
		time -= takes;
	}
	return (double)t->phases[last].from_epoch * steps_per_epoch + time / seconds_of(t, last);
}

/* As run_config_resolve() fills it in. */
static int64_t epochs_of(const struct study_spec *spec)
{
	const char *epochs = study_options_get(&spec->common, "epochs");

	return epochs == NULL ? 10 : strtoll(epochs, NULL, 10);
}

static int set_steps(struct study_spec *spec, const struct timing *t, int base, struct err *err)
{
	const char *steps = study_options_get(&spec->common, "steps");
	int64_t each = t->trials[0].steps_per_epoch, total = steps != NULL ? strtoll(steps, NULL, 10) : epochs_of(spec) * each;
	double time;

	for (int i = 0; i < t->trial_count; i++)
		if (each < 1 || !(median(&t->trials[i]) > 0))
			return err_set(err, ERR_FORMAT, "timing a step of --reg %s: no times in the run's metrics.jsonl", t->trials[i].reg);
	time = time_of(t, base, (double)total, (double)each);
	for (int i = 0; i < spec->arm_count; i++) {
		struct study_arm *arm = &spec->arms[i];

		arm->cost = i == base ? 1 : (double)total / steps_in(t, i, time, (double)each);
		arm->steps = (int64_t)llround((double)total / arm->cost);
		if (arm->steps < 1)
			arm->steps = 1;
		log_info("equal time: %s gets %" PRId64 " steps (a step takes %.2f times the baseline's)", arm->name, arm->steps, arm->cost);
	}
	return 0;
}

int timing_run(struct work *work, struct err *err)
{
	struct study_spec *spec = work->spec;
	struct timing t = { .phases = NULL };
	char dir[TIMING_DIR_BYTES], one[TIMING_DIR_BYTES + 32];
	int base = 0, code = 0;

	if (spec->arms[0].steps > 0)
		return 0; /* measured when the study began */
	snprintf(dir, sizeof(dir), "%s/timing", work->dir);
	for (int i = 0; i < spec->arm_count && code == 0; i++) {
		code = plan_arm(&t, spec, i, err);
		if (strcmp(spec->arms[i].name, spec->baseline) == 0)
			base = i;
	}
	if (code != 0 || (code = clear(work, dir, err)) != 0)
		goto out;
	log_info("equal time: timing %d steps of each arm, %d times", TRIAL_STEPS, TRIAL_ROUNDS);
	/* Round by round, so that a machine that grows slower meets all arms. */
	for (int round = 0; round < TRIAL_ROUNDS && code == 0; round++)
		for (int i = 0; i < t.trial_count && code == 0; i++) {
			snprintf(one, sizeof(one), "%s/%d-%d", dir, round, i);
			code = try_step(work, &t.trials[i], one, err);
		}
	if (code == 0)
		code = set_steps(spec, &t, base, err);
	/* Where a run failed its log may be wanted. */
	if (code == 0 || code == ERR_CANCELLED)
		work_remove_tree(dir);
out:
	mem_free(t.phases);
	mem_free(t.trials);
	return code;
}
