/* Runs as processes: which comes next, how it ended, what is kept of it. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "shared/base/clock.h"
#include "shared/base/fs.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "shared/base/progress.h"
#include "trainer/study/child.h"
#include "trainer/study/work.h"
#include "trainer/train/session.h"

/* A run that breaks is bad luck; so many in a row are a reason that the next one will meet, too. */
enum { BROKEN_IN_A_ROW_MAX = 3, EXIT_STOPPED = 130, TREE_FILES = 8 };

/* ---- what there is ---- */

/* A full disk, say, is no damage: the run stays as it is. */
static bool is_damage(int code)
{
	return code == ERR_FORMAT || code == ERR_LIMIT || code == ERR_CORRUPT || code == ERR_NOTFOUND;
}

static int remove_run(const struct work *work, const struct run_entry *run, struct err *err)
{
	char path[RESULT_PATH_BYTES];

	study_run_path(work->spec, work->dir, &run->cell, "", path);
	work_remove_tree(path);
	return fs_exists(path) ? err_set(err, ERR_IO, "%s: remove that folder, and the same command trains the run again", path) : 0;
}

/* From what the run itself wrote down; where that is damaged as well, the run has to be trained again from its start: what a finished
 * run could be gone on with is gone. */
static int mend(struct work *work, struct run_entry *run, struct err *err)
{
	char damage[ERR_MESSAGE_BYTES];
	int code;

	snprintf(damage, sizeof(damage), "%s", err->message);
	if ((code = study_result_make(work->spec, work->dir, &run->cell, err)) == 0)
		code = study_result_read(work->spec, work->dir, &run->cell, &run->result, err);
	if (code == 0)
		log_warn("%s; made again from the run's own files", damage);
	if (!is_damage(code))
		return code;
	log_warn("%s; the run is trained again", damage);
	return (code = remove_run(work, run, err)) != 0 ? code : ERR_NOTFOUND;
}

static int look_at(struct work *work, struct run_entry *run, struct err *err)
{
	int code = study_result_read(work->spec, work->dir, &run->cell, &run->result, err);

	if (code == ERR_FORMAT || code == ERR_LIMIT)
		code = mend(work, run, err);
	if (code == ERR_NOTFOUND) {
		run->state = study_failure_exists(work->spec, work->dir, &run->cell) ? RUN_DIVERGED : RUN_PENDING;
		work->diverged += run->state == RUN_DIVERGED;
		run->before = run->state == RUN_DIVERGED;
		return 0;
	}
	if (code != 0)
		return code;
	run->state = RUN_DONE;
	run->before = true;
	work->done++;
	work_prune(work, run); /* for a study that was killed between the two */
	return 0;
}

int work_open(struct work *work, const struct study_run_options *options, struct err *err)
{
	const struct study_spec *spec = options->spec;
	int n = 0, code;

	work->options = options;
	work->spec = options->spec;
	work->dir = options->dir;
	work->run_count = spec->arm_count * spec->folds * spec->seed_count;
	work->runs = mem_array((size_t)work->run_count, sizeof(*work->runs));
	if (work->runs == NULL)
		return err_nomem(err, (size_t)work->run_count * sizeof(*work->runs));
	for (int seed = 0; seed < spec->seed_count; seed++)
		for (int fold = 1; fold <= spec->folds; fold++)
			for (int arm = 0; arm < spec->arm_count; arm++) {
				work->runs[n].cell = (struct study_cell){ arm, fold, seed };
				if ((code = look_at(work, &work->runs[n++], err)) != 0)
					return code;
			}
	return 0;
}

void work_close(struct work *work)
{
	mem_free(work->runs);
	work->runs = NULL;
}

/* ---- what is kept ---- */

static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *walk)
{
	(void)about;
	(void)kind;
	(void)walk;
	return remove(path);
}

void work_remove_tree(const char *path)
{
	if (fs_is_dir(path) && nftw(path, remove_one, TREE_FILES, FTW_DEPTH | FTW_PHYS) != 0)
		log_warn("%s: cannot be removed", path);
}

static void remove_file(const struct work *work, const struct run_entry *run, const char *name)
{
	char path[RESULT_PATH_BYTES];

	study_run_path(work->spec, work->dir, &run->cell, name, path);
	if (unlink(path) != 0 && errno != ENOENT)
		log_warn("%s: cannot be removed", path);
}

/* The attacks want one run of each arm. */
static bool is_attacked(const struct study_spec *spec, const struct study_cell *cell)
{
	return spec->robust.on && cell->seed == 0 && cell->fold == 1;
}

bool work_is_attacked(const struct work *work, const struct run_entry *run)
{
	return is_attacked(work->spec, &run->cell) && !work->attacked;
}

static bool keeps_last(const struct work *work, const struct run_entry *run)
{
	const enum study_keep keep = work->spec->keep;

	return keep == STUDY_KEEP_ALL || keep == STUDY_KEEP_LAST || work_is_attacked(work, run);
}

/* Also where these, and not the last ones, are what the run's results are of. */
static bool keeps_best(const struct work *work, const struct run_entry *run)
{
	return work->spec->keep == STUDY_KEEP_ALL || work->spec->keep == STUDY_KEEP_BEST ||
	       (keeps_last(work, run) && strcmp(study_measured_weights(work->spec, run->cell.arm), "best.safetensors") == 0);
}

void work_prune(const struct work *work, const struct run_entry *run)
{
	char path[RESULT_PATH_BYTES];

	study_run_path(work->spec, work->dir, &run->cell, "checkpoints", path);
	if (work->spec->keep != STUDY_KEEP_ALL)
		work_remove_tree(path);
	if (!keeps_last(work, run))
		remove_file(work, run, "last.safetensors");
	if (!keeps_best(work, run))
		remove_file(work, run, "best.safetensors");
}

static bool lacks(const struct work *work, const struct run_entry *run, const char *name)
{
	char path[RESULT_PATH_BYTES];

	study_run_path(work->spec, work->dir, &run->cell, name, path);
	return !fs_exists(path);
}

bool work_lacks_weights(const struct work *work, const struct run_entry *run)
{
	return run->state == RUN_DONE && ((keeps_last(work, run) && lacks(work, run, "last.safetensors")) ||
					  (keeps_best(work, run) && lacks(work, run, "best.safetensors")));
}

/* ---- starting ---- */

struct words {
	struct buf text; /* all of them, each with its zero byte */
	size_t at[STUDY_ARGS_MAX];
	int count;
	int code;
};

static void add_word(struct words *words, struct err *err, const char *format, ...) PRINTF_LIKE(3, 4);

static void add_word(struct words *words, struct err *err, const char *format, ...)
{
	char word[STUDY_VALUE_BYTES + RESULT_PATH_BYTES];
	va_list args;

	if (words->code != 0)
		return;
	CHECK(words->count < STUDY_ARGS_MAX - 1);
	va_start(args, format);
	vsnprintf(word, sizeof(word), format, args);
	va_end(args);
	words->at[words->count++] = words->text.size;
	words->code = buf_add(&words->text, word, strlen(word) + 1, err);
}

static void add_options(struct words *words, const struct study_options *options, const struct study_options *over, bool steps,
			struct err *err)
{
	for (int i = 0; i < options->count; i++) {
		const char *name = options->all[i].name;
		/* epochs and steps exclude one another, so either replaces both. */
		bool length = strcmp(name, "epochs") == 0 || strcmp(name, "steps") == 0;
		bool own = over != NULL && (study_options_get(over, name) != NULL ||
					    (length && (study_options_get(over, "epochs") != NULL || study_options_get(over, "steps") != NULL)));

		if (!own && !(length && steps))
			add_word(words, err, "--%s=%s", name, options->all[i].value);
	}
}

int work_arguments(const struct study_spec *spec, const char *dir, const struct study_cell *cell, int threads,
		   const char *socket, char ***out, int *argc, struct err *err)
{
	const struct study_arm *arm = &spec->arms[cell->arm];
	char split[STUDY_SPLIT_BYTES], path[RESULT_PATH_BYTES];
	struct words words = { .text = BUF_INIT };

	add_word(&words, err, "trainer");
	add_word(&words, err, "--data=%s", spec->data);
	add_word(&words, err, "--reg=%s", arm->reg);
	study_split(spec, cell->fold, cell->seed, true, split);
	add_word(&words, err, "--train-split=%s", split);
	study_split(spec, cell->fold, cell->seed, false, split);
	add_word(&words, err, "--val-split=%s", split);
	add_word(&words, err, "--seed=%" PRId64, spec->seeds[cell->seed]);
	add_word(&words, err, "--threads=%d", threads);
	add_options(&words, &spec->common, &arm->options, arm->steps > 0, err);
	add_options(&words, &arm->options, NULL, arm->steps > 0, err);
	if (arm->steps > 0)
		add_word(&words, err, "--steps=%" PRId64, arm->steps);
	study_run_path(spec, dir, cell, "", path);
	add_word(&words, err, "--out=%s", path);
	add_word(&words, err, "--resume");
	add_word(&words, err, "--predictions");
	if (spec->keep == STUDY_KEEP_NONE && !is_attacked(spec, cell))
		add_word(&words, err, "--no-weights");
	add_word(&words, err, "--quiet");
	if (socket != NULL)
		add_word(&words, err, "--socket=%s", socket);
	/* One block: the pointers, then the words. */
	size_t pointers = ((size_t)words.count + 1) * sizeof(char *);
	char **block = words.code == 0 ? mem_alloc(pointers + words.text.size) : NULL;
	if (words.code == 0 && block == NULL)
		words.code = err_nomem(err, pointers + words.text.size);
	if (block != NULL) {
		char *text = (char *)block + pointers;

		memcpy(text, words.text.data, words.text.size);
		for (int i = 0; i < words.count; i++)
			block[i] = text + words.at[i];
		block[words.count] = NULL;
	}
	*out = block;
	*argc = words.count;
	buf_free(&words.text);
	return words.code;
}

bool work_is_free(const char *run_dir)
{
	char path[RESULT_PATH_BYTES + 8];
	bool taken;
	int fd;

	snprintf(path, sizeof(path), "%s/.lock", run_dir);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return true;
	taken = flock(fd, LOCK_EX | LOCK_NB) != 0;
	close(fd);
	return !taken;
}

static int start(struct work *work, struct job *job, int index, struct err *err)
{
	const struct study_cell *cell = &work->runs[index].cell;
	char path[RESULT_PATH_BYTES], log[RESULT_PATH_BYTES];
	char **argv = NULL;
	int argc, code;

	study_run_path(work->spec, work->dir, cell, "", path);
	study_run_path(work->spec, work->dir, cell, "log.txt", log);
	*job = (struct job){ .run = index, .began = clock_seconds(), .first_steps = -1 };
	if ((code = fs_mkdirs(path, 0777, err)) != 0 ||
	    (code = work_arguments(work->spec, work->dir, cell, work->threads, work->options->socket, &argv, &argc, err)) != 0)
		return code;
	if ((code = child_start(&job->pid, argv, log, err)) == 0) {
		job->active = true;
		work->runs[index].state = RUN_ACTIVE;
	}
	mem_free(argv);
	return code;
}

/* ---- ending ---- */

static int ended_well(struct work *work, struct run_entry *run, struct err *err)
{
	const struct study_arm *arm = &work->spec->arms[run->cell.arm];
	char eta[16] = "?";
	double left;
	int code;

	if ((code = study_result_make(work->spec, work->dir, &run->cell, err)) != 0 ||
	    (code = study_result_read(work->spec, work->dir, &run->cell, &run->result, err)) != 0)
		return code;
	run->state = RUN_DONE;
	work->done++;
	work->broken_in_a_row = 0;
	work_prune(work, run);
	if ((left = view_eta(work)) >= 0)
		progress_format_seconds(eta, left);
	if (!work->view.terminal)
		log_info("%s f%d-s%" PRId64 ": accuracy %.4f (training pairs %.4f), %.1f s; %d/%d runs, ETA %s", arm->name, run->cell.fold,
			 work->spec->seeds[run->cell.seed], run->result.accuracy, run->result.train_accuracy, run->result.train_seconds,
			 work->done + work->diverged + work->broken, work->run_count, eta);
	return 0;
}

static int ended_badly(struct work *work, struct run_entry *run, int status, struct err *err)
{
	const struct study_arm *arm = &work->spec->arms[run->cell.arm];
	char path[RESULT_PATH_BYTES], state[32], words[WORK_MESSAGE_BYTES];
	int code = 0;

	study_run_path(work->spec, work->dir, &run->cell, "log.txt", path);
	child_last_words(path, words, sizeof(words));
	study_run_path(work->spec, work->dir, &run->cell, "", path);
	study_run_state(path, state, sizeof(state));
	if (WIFEXITED(status) && strcmp(state, "diverged") == 0) {
		run->state = RUN_DIVERGED;
		work->diverged++;
		work->broken_in_a_row = 0;
		code = study_failure_write(work->spec, work->dir, &run->cell, state, words, err);
	} else {
		run->state = RUN_BROKEN;
		work->broken++;
		work->broken_in_a_row++;
		if (WIFSIGNALED(status))
			snprintf(words, sizeof(words), "killed by signal %d%s", WTERMSIG(status),
				 WTERMSIG(status) == 9 ? " (out of memory?)" : "");
		snprintf(work->message, sizeof(work->message), "%.300s", words);
	}
	view_note(work, LOG_INFO, "%s f%d-s%" PRId64 " %s: %.600s", arm->name, run->cell.fold, work->spec->seeds[run->cell.seed],
		  run->state == RUN_DIVERGED ? "diverged; the study goes on without it" : "failed", words);
	return code;
}

/* A run may end while nobody waits for it: its study was killed. */
static bool is_finished(const char *run_dir)
{
	char state[32];

	study_run_state(run_dir, state, sizeof(state));
	return strcmp(state, "finished") == 0;
}

/* Whether run.json or, in its place, a checkpoint says what is trained there; where neither was written yet, nobody needs it. */
static int check_config(const char *run_dir, struct err *err)
{
	char path[RESULT_PATH_BYTES + 16];
	struct run_config config;
	struct about_data data;
	bool lost;
	int code;

	snprintf(path, sizeof(path), "%s/run.json", run_dir);
	if (!fs_exists(path))
		return 0;
	code = record_read_config(run_dir, &config, &data, &lost, err);
	run_config_free(&config);
	return code;
}

/* What an earlier session left of a run: it is done where it ended while nobody waited for it, and removed where it can be neither taken as
 * it is nor gone on with. */
static int meet(struct work *work, struct run_entry *run, const char *run_dir, struct err *err)
{
	const bool finished = is_finished(run_dir);
	struct err reason;
	int code = finished ? ended_well(work, run, &reason) : check_config(run_dir, &reason);

	if (!is_damage(code) || (finished && checkpoint_exists(run_dir)))
		return 0;
	view_note(work, LOG_WARN, "%s; the run is trained again", reason.message);
	return remove_run(work, run, err);
}

static int start_some(struct work *work, struct err *err)
{
	int next = 0, code;

	for (int j = 0; j < work->job_count && !work->stopping; j++) {
		char path[RESULT_PATH_BYTES];

		if (work->jobs[j].active)
			continue;
		for (; next < work->run_count; next++) {
			struct run_entry *run = &work->runs[next];

			study_run_path(work->spec, work->dir, &run->cell, "", path);
			if (run->state != RUN_PENDING || !work_is_free(path))
				continue;
			if ((code = meet(work, run, path, err)) != 0)
				return code;
			if (run->state == RUN_PENDING)
				break;
		}
		if (next == work->run_count)
			return 0;
		if ((code = start(work, &work->jobs[j], next++, err)) != 0)
			return code;
	}
	return 0;
}

static int reap(struct work *work, struct err *err)
{
	int code = 0;

	for (int j = 0; j < work->job_count && code == 0; j++) {
		struct job *job = &work->jobs[j];
		struct run_entry *run = &work->runs[job->run];
		int status;

		if (!job->active || !child_ended(job->pid, &status))
			continue;
		job->active = false;
		/* A run that was gone on with took longer in all. */
		run->seconds = job->first_steps > 0 ? 0 : clock_seconds() - job->began;
		if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
			code = ended_well(work, run, err);
		else if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_STOPPED)
			run->state = RUN_PENDING;
		else
			code = ended_badly(work, run, status, err);
		view_draw(work, true);
	}
	return code;
}

static int count_state(const struct work *work, enum run_state state)
{
	int count = 0;

	for (int i = 0; i < work->run_count; i++)
		count += work->runs[i].state == state;
	return count;
}

static void stop_all(struct work *work)
{
	work->stopping = true;
	for (int j = 0; j < work->job_count; j++)
		if (work->jobs[j].active)
			child_stop(work->jobs[j].pid);
	view_draw(work, true);
}

/* An error of ours, not of a run: nothing is left behind that goes on alone. */
static void give_up(struct work *work)
{
	int status;

	stop_all(work);
	for (int j = 0; j < work->job_count; j++)
		if (work->jobs[j].active) {
			child_wait(work->jobs[j].pid, &status);
			work->jobs[j].active = false;
		}
}

int work_run(struct work *work, struct err *err)
{
	const struct timespec pause = { .tv_nsec = 50000000 };
	const struct study_run_options *o = work->options;
	int code = 0;

	for (;;) {
		if (!work->stopping && ((o->cancelled != NULL && o->cancelled(o->cancel_context)) ||
					work->broken_in_a_row >= BROKEN_IN_A_ROW_MAX))
			stop_all(work);
		if ((code = reap(work, err)) != 0 || (code = start_some(work, err)) != 0)
			break;
		int active = count_state(work, RUN_ACTIVE);
		if (active == 0 && (work->stopping || count_state(work, RUN_PENDING) == 0))
			break;
		view_draw(work, false);
		nanosleep(&pause, NULL);
	}
	if (code != 0)
		give_up(work);
	if (code == 0 && work->broken_in_a_row >= BROKEN_IN_A_ROW_MAX)
		return err_set(err, ERR_IO, "%d runs in a row failed; the last one said: %s", work->broken_in_a_row, work->message);
	if (code == 0 && work->stopping)
		return err_set(err, ERR_CANCELLED, "stopped; %d of %d runs are done. Go on with the same command, or with: trainer study --out %s",
			       work->done, work->run_count, work->dir);
	return code;
}
