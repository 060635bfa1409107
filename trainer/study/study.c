/* Setting a study up, and ending it. The runs are in work.c. */
#include "trainer/study/study.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "shared/base/fs.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "shared/base/paths.h"
#include "shared/base/plural.h"
#include "shared/base/progress.h"
#include "shared/base/version.h"
#include "trainer/client/feed.h"
#include "trainer/kernels/kernels.h"
#include "trainer/study/robust.h"
#include "trainer/study/work.h"
#include "trainer/train/run.h"

enum { MISMATCHES_SAID = 10, CPU_BYTES = 128, STUDY_FILE_BYTES = STUDY_DIR_BYTES + 32 };
#define INIT_BYTES_MAX ((size_t)16 << 30)

struct study {
	const struct study_run_options *options;
	struct study_spec *spec;
	struct work work;
	char *socket;
	int lock;
	bool exists;
	int64_t steps_per_epoch; /* of the training part of a fold; they differ by a picture or two */
};

int study_default_dir(const struct study_spec *spec, char out[STUDY_DIR_BYTES], struct err *err)
{
	const char *name = spec->name[0] != '\0' ? spec->name : spec->data;
	char plain[STUDY_NAME_BYTES];

	study_arm_name(name, plain);
	if (plain[0] == '\0')
		return err_set(err, ERR_USAGE, "trainer study needs a FILE, or --data NAME and --arms, or --out DIR of a study to go on with; "
			       "trainer study --help");
	snprintf(out, STUDY_DIR_BYTES, "studies/%s", plain);
	return 0;
}

/* ---- the folder ---- */

static int take_folder(struct study *s, struct err *err)
{
	char path[STUDY_FILE_BYTES];
	int code;

	if (strlen(s->options->dir) >= STUDY_DIR_BYTES)
		return err_set(err, ERR_USAGE, "--out: the path is longer than %d bytes", STUDY_DIR_BYTES - 1);
	if (fs_exists(s->options->dir) && !fs_is_dir(s->options->dir))
		return err_set(err, ERR_EXISTS, "--out %s: is not a folder", s->options->dir);
	if ((code = fs_mkdirs(s->options->dir, 0777, err)) != 0)
		return code;
	snprintf(path, sizeof(path), "%s/.lock", s->options->dir);
	s->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (s->lock < 0)
		return err_errno(err, errno, "%s", path);
	if (flock(s->lock, LOCK_EX | LOCK_NB) != 0)
		return err_set(err, ERR_BUSY, "--out %s: another study is at work there", s->options->dir);
	return 0;
}

static bool has_file(const struct study *s, const char *name)
{
	char path[STUDY_FILE_BYTES];

	snprintf(path, sizeof(path), "%s/%s", s->options->dir, name);
	return fs_exists(path);
}

/* A study that is there must be the same one; what it found out is taken over. */
static int meet_existing(struct study *s, struct err *err)
{
	char path[STUDY_FILE_BYTES];
	struct study_spec *there;
	int code;

	snprintf(path, sizeof(path), "%s/study.json", s->options->dir);
	if (!fs_exists(path)) {
		snprintf(path, sizeof(path), "%s/run.json", s->options->dir);
		if (fs_exists(path))
			return err_set(err, ERR_EXISTS, "--out %s: holds a single run; choose another folder for the study", s->options->dir);
		return 0;
	}
	if ((there = mem_alloc(sizeof(*there))) == NULL)
		return err_nomem(err, sizeof(*there));
	study_spec_init(there);
	if ((code = study_spec_read(there, path, err)) != 0 || (code = study_spec_resolve(there, err)) != 0)
		goto out;
	if (s->spec->split_default && strcmp(there->split, "train") == 0)
		snprintf(s->spec->split, sizeof(s->spec->split), "%s", there->split);
	if ((code = study_spec_same(there, s->spec, s->options->dir, err)) != 0)
		goto out;
	s->exists = true;
	s->spec->threads = there->threads;
	s->spec->version = there->version;
	s->spec->has_version = there->has_version;
	for (int i = 0; i < s->spec->arm_count; i++) {
		s->spec->arms[i].steps = there->arms[i].steps;
		s->spec->arms[i].cost = there->arms[i].cost;
	}
out:
	mem_free(there);
	return code;
}

static int name_init(struct study *s, struct err *err)
{
	const char *init = study_options_get(&s->spec->common, "init");
	struct buf content = BUF_INIT;
	struct hash hash;
	int code;

	if (init == NULL)
		return 0;
	if ((code = fs_read(init, INIT_BYTES_MAX, &content, err)) == 0) {
		hash_bytes(&hash, content.data, content.size);
		hash_to_hex(&hash, s->spec->init_hash);
	}
	buf_free(&content);
	return code == 0 ? 0 : err_prefix(err, "--init");
}

/* ---- checks before the first run ---- */

static int check_arms(struct study *s, struct err *err)
{
	for (int i = 0; i < s->spec->arm_count; i++) {
		struct study_cell cell = { i, 1, 0 };
		char **argv;
		int argc, code = work_arguments(s->spec, s->options->dir, &cell, 1, s->options->socket, &argv, &argc, err);

		if (code != 0)
			return code;
		code = s->options->check_run(argc - 1, argv + 1, err);
		mem_free(argv);
		if (code != 0)
			return err_prefix(err, "arm %s", s->spec->arms[i].name);
	}
	return 0;
}

static int64_t number_of(const struct study_spec *spec, const char *option, int64_t otherwise)
{
	const char *text = study_options_get(&spec->common, option);

	return text == NULL ? otherwise : strtoll(text, NULL, 10);
}

/* As the runs will open it. */
static int open_split(struct study *s, const char *split, bool training, struct feed **out, struct err *err)
{
	struct feed_options options = { .socket = s->socket, .client_name = "trainer study", .dataset = s->spec->data, .split = split,
					.vocab = study_options_get(&s->spec->common, "vocab"), .training = training,
					.batch_size = training ? (uint32_t)number_of(s->spec, "batch-size", 32) : 2,
					.image_size = 32, .max_len = 8, .cancelled = s->options->cancelled,
					.cancel_context = s->options->cancel_context };

	return feed_open(out, &options, err);
}

/* Whether there are a daemon, the data and enough pictures for the folds. */
static int check_part(struct study *s, int fold, int seed, bool training, struct err *err)
{
	char split[STUDY_SPLIT_BYTES];
	struct feed *feed;
	int code;

	study_split(s->spec, fold, seed, training, split);
	if ((code = open_split(s, split, training, &feed, err)) != 0)
		return code;
	const struct hash *version = &feed_info(feed)->version;
	const int64_t each = number_of(s->spec, "accumulate", 1);
	if (training)
		s->steps_per_epoch = ((int64_t)feed_info(feed)->steps + each - 1) / each;
	if (s->spec->has_version && !hash_equal(version, &s->spec->version))
		code = err_set(err, ERR_MISMATCH, "data set %s is another version now than the study in %s began with; add that one again, or "
			       "choose another --out", s->spec->data, s->options->dir);
	s->spec->version = *version;
	s->spec->has_version = true;
	const char *task = study_options_get(&s->spec->common, "task");
	if (code == 0 && task != NULL && strcmp(task, "classify") == 0)
		code = run_check_labels(s->spec->data, feed_info(feed)->label_count, err);
	feed_close(feed);
	return code;
}

/* What was not found is the split, for data set and vocabulary are there. */
static bool lacks_split(struct study *s)
{
	struct feed *feed;
	struct err ignored;

	if (open_split(s, "all", true, &feed, &ignored) != 0)
		return false;
	feed_close(feed);
	return true;
}

/* prepctl add without splits makes one, train. */
static int settle_split(struct study *s, struct err *err)
{
	struct err reason;
	int code = check_part(s, 1, 0, false, err);

	if (code != ERR_NOTFOUND || !lacks_split(s))
		return code;
	if (s->spec->folds == 1)
		return err_prefix(err, "--folds 1 trains on the split train and measures on val (--folds 2 and more cut folds)");
	if (s->spec->split_default && !s->exists) {
		snprintf(s->spec->split, sizeof(s->spec->split), "train");
		if (check_part(s, 1, 0, false, &reason) == 0) {
			log_warn("data set %s has no val split: the folds are made of train alone (--split names something else)", s->spec->data);
			return 0;
		}
		snprintf(s->spec->split, sizeof(s->spec->split), "train+val");
	}
	return err_prefix(err, "--split %s", s->spec->split);
}

static int check_data(struct study *s, struct err *err)
{
	int code = paths_socket(&s->socket, s->options->socket, false, err);

	if (code == 0)
		code = settle_split(s, err);
	for (int seed = 0; code == 0 && seed < (s->spec->recut ? s->spec->seed_count : 1); seed++) {
		code = check_part(s, 1, seed, false, err);
		/* The last fold is the smallest. */
		if (code == 0)
			code = check_part(s, s->spec->folds, seed, true, err);
	}
	return code != 0 || s->exists ? code : study_check_schedules(s->spec, s->steps_per_epoch, err);
}

/* ---- cores ---- */

static int cores(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
}

/* Bytes that a run takes, roughly: weights, gradients and moments, and activations for each sample of a batch. */
static double run_bytes(const struct study_spec *spec)
{
	const char *preset = study_options_get(&spec->common, "preset"), *size = study_options_get(&spec->common, "batch-size");
	double batch = size == NULL ? 32 : strtod(size, NULL);

	if (preset != NULL && strcmp(preset, "tiny") == 0)
		return 1.5e8 + 2e6 * batch;
	if (preset != NULL && strcmp(preset, "small") == 0)
		return 5e8 + 2e7 * batch;
	return 2.3e9 + 1.6e8 * batch;
}

static double free_bytes(void)
{
	FILE *file = fopen("/proc/meminfo", "re");
	char line[128];
	double kib = 0;

	while (file != NULL && kib == 0 && fgets(line, sizeof(line), file) != NULL)
		if (strncmp(line, "MemAvailable:", 13) == 0)
			kib = strtod(line + 13, NULL);
	if (file != NULL)
		fclose(file);
	return kib > 0 ? kib * 1024 : 1e18;
}

/* A run on one thread loses nothing to waiting for other threads, so as many runs as there are cores, each on one, get
 * most done (docs/study.md has the measurement). Fewer where memory or the number of runs does not suffice; then each has more threads. */
static void share_cores(struct study *s)
{
	int all = cores(), runs = s->spec->arm_count * s->spec->folds * s->spec->seed_count, jobs = all;
	double fit = free_bytes() * 0.9 / run_bytes(s->spec);

	if (s->spec->jobs > 0)
		jobs = (int)s->spec->jobs;
	else if (s->spec->threads > 0)
		jobs = all / (int)s->spec->threads;
	else if (fit < jobs)
		jobs = (int)fit;
	jobs = jobs < 1 ? 1 : jobs > WORK_JOBS_MAX ? WORK_JOBS_MAX : jobs;
	if (jobs > runs)
		jobs = runs;
	s->work.job_count = jobs;
	if (s->spec->threads <= 0)
		s->spec->threads = all / jobs < 1 ? 1 : all / jobs;
	s->work.threads = (int)s->spec->threads;
}

/* ---- study.json ---- */

static void cpu_name(char out[CPU_BYTES])
{
	FILE *file = fopen("/proc/cpuinfo", "re");
	char line[256];

	snprintf(out, CPU_BYTES, "unknown");
	while (file != NULL && fgets(line, sizeof(line), file) != NULL)
		if (strncmp(line, "model name", 10) == 0 && strchr(line, ':') != NULL) {
			snprintf(out, CPU_BYTES, "%s", strchr(line, ':') + 2);
			out[strcspn(out, "\n")] = '\0';
			break;
		}
	if (file != NULL)
		fclose(file);
}

static int add_versions(struct buf *out, int threads, struct err *err)
{
	struct utsname os;
	char cpu[CPU_BYTES], text[512], libraries[KERNELS_TEXT_BYTES];
	int code;

	cpu_name(cpu);
	uname(&os);
	if ((code = buf_printf(out, err, ",\n  \"versions\": {\"trainer\": \"%s\", \"threads\": %d, \"cores\": %d, \"cpu\": ", PRODUCT_VERSION,
			       threads, cores())) != 0 ||
	    (code = json_add_string(out, cpu, strlen(cpu), err)) != 0)
		return code;
	snprintf(text, sizeof(text), "%s %s %s", os.sysname, os.release, os.machine);
	if ((code = buf_add_text(out, ", \"os\": ", err)) != 0 || (code = json_add_string(out, text, strlen(text), err)) != 0)
		return code;
	kernels_describe(libraries);
	if ((code = buf_add_text(out, ", \"libraries\": ", err)) != 0 || (code = json_add_string(out, libraries, strlen(libraries), err)) != 0)
		return code;
	return buf_add_byte(out, '}', err);
}

static int add_command(struct buf *out, const struct study_run_options *o, struct err *err)
{
	int code = buf_add_text(out, ",\n  \"command\": [\"trainer\", \"study\"", err);

	for (int i = 0; i < o->argc && code == 0; i++)
		if ((code = buf_add_text(out, ", ", err)) == 0)
			code = json_add_string(out, o->argv[i], strlen(o->argv[i]), err);
	return code != 0 ? code : buf_add_byte(out, ']', err);
}

static int add_init(struct buf *out, const struct study_spec *spec, struct err *err)
{
	const char *init = study_options_get(&spec->common, "init");
	int code;

	if (init == NULL)
		return 0;
	if ((code = buf_add_text(out, ",\n  \"init\": {\"file\": ", err)) != 0 ||
	    (code = json_add_string(out, init, strlen(init), err)) != 0)
		return code;
	return buf_printf(out, err, ", \"sha256\": \"%s\"}", spec->init_hash);
}

/* checked: how many runs were compared with another of their fold and seed; negative: not yet. */
static int write_study(struct study *s, int checked, int mismatches, const struct buf *report, struct err *err)
{
	char path[STUDY_FILE_BYTES];
	struct buf out = BUF_INIT;
	int code;

	snprintf(path, sizeof(path), "%s/study.json", s->options->dir);
	if ((code = study_spec_write(s->spec, &out, err)) != 0 || (code = add_init(&out, s->spec, err)) != 0 ||
	    (code = add_versions(&out, s->work.threads, err)) != 0 || (code = add_command(&out, s->options, err)) != 0)
		goto out;
	if (checked >= 0) {
		if ((code = buf_printf(&out, err, ",\n  \"digests\": {\"compared\": %d, \"mismatches\": %d, \"report\": ", checked, mismatches)) != 0 ||
		    (code = json_add_string(&out, report->data == NULL ? "" : report->data, report->size, err)) != 0 ||
		    (code = buf_add_byte(&out, '}', err)) != 0)
			goto out;
	}
	if ((code = buf_add_text(&out, "\n}\n", err)) == 0)
		code = fs_write_atomic(path, out.data, out.size, err);
out:
	buf_free(&out);
	return code;
}

/* ---- the end ---- */

static int say_mismatches(const struct study *s, int mismatches, const char *report, struct err *err)
{
	int said = 0;

	for (const char *at = report, *end; said < MISMATCHES_SAID && (end = strchr(at, '\n')) != NULL; at = end + 1, said++)
		log_warn("%.*s", (int)(end - at), at);
	if (said < mismatches)
		log_warn("... and %d more, in %s/study.json", mismatches - said, s->options->dir);
	return err_set(err, ERR_MISMATCH, "%d times two arms of one fold and seed did not differ in the regularizer alone", mismatches);
}

static int check_same(struct study *s, struct err *err)
{
	struct buf report = BUF_INIT;
	int compared, mismatches, code;

	if ((code = study_check_same(s->spec, s->options->dir, &compared, &mismatches, &report, err)) == 0 &&
	    (code = write_study(s, compared, mismatches, &report, err)) == 0) {
		if (mismatches > 0)
			code = say_mismatches(s, mismatches, report.data, err);
		else
			log_info("digests: in every fold and seed all arms saw the same batches in the same order, began with the same weights and "
				 "were measured on the same pairs (%d comparisons)", compared);
	}
	buf_free(&report);
	return code;
}

static void print_table(const struct study *s)
{
	const struct work *work = &s->work;

	printf("%-32s %8s %10s %10s\n", "arm", "runs", "accuracy", "training");
	for (int arm = 0; arm < s->spec->arm_count; arm++) {
		double accuracy = 0, training = 0;
		int count = 0;

		for (int i = 0; i < work->run_count; i++)
			if (work->runs[i].cell.arm == arm && work->runs[i].state == RUN_DONE) {
				accuracy += work->runs[i].result.accuracy;
				training += work->runs[i].result.train_accuracy;
				count++;
			}
		if (count > 0)
			printf("%-32s %8d %10.4f %10.4f\n", s->spec->arms[arm].name, count, accuracy / count, training / count);
		else
			printf("%-32s %8d %10s %10s\n", s->spec->arms[arm].name, count, "-", "-");
	}
}

/* Weights that were kept for the attacks alone. */
static void drop_weights(struct study *s)
{
	for (int i = 0; i < s->work.run_count; i++)
		if (s->work.runs[i].state == RUN_DONE)
			work_prune(&s->work, &s->work.runs[i]);
}

static int attack(struct study *s, struct err *err)
{
	const struct study_robust *robust = &s->spec->robust;
	const struct robust_options options = {
		.spec = s->spec, .dir = s->options->dir, .socket = s->options->socket, .fold = 1, .seed = 0, .pairs = (int)robust->pairs,
		.steps = (int)robust->steps, .restarts = (int)robust->restarts, .quiet = s->options->quiet, .cancelled = s->options->cancelled,
		.cancel_context = s->options->cancel_context, .threads = s->work.threads * s->work.job_count,
	};
	int code = 0;

	if (has_file(s, "robustness.json"))
		log_info("%s/robustness.json is there already and stays as it is; remove it to have the arms attacked again", s->options->dir);
	else
		code = robust_run(&options, err);
	s->work.attacked = code == 0;
	if (code == 0)
		drop_weights(s);
	return code == 0 ? 0 : err_prefix(err, "robustness");
}

static int finish(struct study *s, struct err *err)
{
	const struct work *work = &s->work;
	int code = check_same(s, err);

	if (code != 0)
		return code;
	if (s->spec->robust.on && (code = attack(s, err)) != 0)
		return code;
	if (!s->options->quiet)
		print_table(s);
	if (work->diverged > 0)
		log_warn("%d of %d run%s diverged (failed.json says why); the rest is there", work->diverged, work->run_count,
			 plural((uint64_t)work->run_count));
	if (work->broken > 0)
		return err_set(err, ERR_IO, "%d of %d run%s failed; the last one said: %s. The same command tries again", work->broken,
			       work->run_count, plural((uint64_t)work->run_count), work->message);
	return 0;
}

static void announce(const struct study *s)
{
	const struct study_spec *spec = s->spec;
	const struct work *work = &s->work;

	log_info("study %s: %d arm%s x %d fold%s x %d seed%s = %d run%s on %s (%s), %d at a time on %d thread%s each; writing to %s", spec->name,
		 spec->arm_count, plural((uint64_t)spec->arm_count), spec->folds, plural((uint64_t)spec->folds), spec->seed_count,
		 plural((uint64_t)spec->seed_count), work->run_count, plural((uint64_t)work->run_count), spec->data, spec->split, work->job_count,
		 work->threads, plural((uint64_t)work->threads), s->options->dir);
	if (work->done + work->diverged > 0)
		log_info("%d run%s there already", work->done + work->diverged, work->done + work->diverged == 1 ? " is" : "s are");
}

/* Weights can be asked for when the runs are long done. Attacks that will find none are refused here, before the other runs are trained. */
static int check_weights(const struct study *s, struct err *err)
{
	const struct work *work = &s->work;
	int lacking = 0, attacked = 0, vain = 0;
	char first[RESULT_PATH_BYTES] = "";

	for (int i = 0; i < work->run_count; i++) {
		const bool lacks = work_lacks_weights(work, &work->runs[i]), wanted = work_is_attacked(work, &work->runs[i]);

		attacked += wanted;
		vain += wanted && lacks;
		if (lacks && lacking++ == 0)
			study_run_path(s->spec, s->options->dir, &work->runs[i].cell, "", first);
	}
	if (vain > 0 && vain == attacked)
		return err_set(err, ERR_NOTFOUND, "--robustness: the runs to attack (fold 1, seed %" PRId64 ") are done and their weights are gone; "
			       "remove their folders (the first is %s), and the same command trains them again", s->spec->seeds[0], first);
	if (lacking > 0)
		log_warn("%d of %d finished run%s kept no weights when %s trained, and only training makes them: to have them, remove the folder%s "
			 "of such runs (the first is %s), and the same command trains them again; or choose another --out", lacking, work->done,
			 plural((uint64_t)work->done), work->done == 1 ? "it was" : "they were", plural((uint64_t)lacking), first);
	return 0;
}

static void print_plan(const struct study *s)
{
	const struct work *work = &s->work;

	printf("%d run%s, %d at a time on %d thread%s each, into %s\n", work->run_count, plural((uint64_t)work->run_count), work->job_count, work->threads,
	       plural((uint64_t)work->threads), s->options->dir);
	for (int i = 0; i < s->spec->arm_count; i++)
		printf("  %-32s --reg %s\n", s->spec->arms[i].name, s->spec->arms[i].reg);
}

static int run(struct study *s, struct err *err)
{
	const struct study_run_options *o = s->options;
	int code;

	if ((code = study_spec_resolve(s->spec, err)) != 0)
		return code;
	/* A study that has begun is gone on with as it is. */
	if (!has_file(s, "study.json") && (code = study_spec_check(s->spec, err)) != 0)
		return code;
	if ((code = study_check_attacks(s->spec, err)) != 0 || (code = check_arms(s, err)) != 0 || (code = name_init(s, err)) != 0)
		return code;
	if (o->dry_run) {
		s->work.run_count = s->spec->arm_count * s->spec->folds * s->spec->seed_count;
		share_cores(s);
		print_plan(s);
		return 0;
	}
	if ((code = take_folder(s, err)) != 0 || (code = meet_existing(s, err)) != 0 || (code = check_data(s, err)) != 0)
		return code;
	share_cores(s);
	s->work.attacked = has_file(s, "robustness.json");
	if ((code = work_open(&s->work, o, err)) != 0)
		return code;
	announce(s);
	if ((code = check_weights(s, err)) != 0)
		return code;
	if (s->spec->equal == STUDY_TIME && ((code = timing_run(&s->work, err)) != 0 ||
					     (!s->exists && (code = study_check_schedules(s->spec, s->steps_per_epoch, err)) != 0)))
		return code;
	if ((code = write_study(s, -1, 0, NULL, err)) != 0)
		return code;
	view_open(&s->work);
	code = work_run(&s->work, err);
	view_close(&s->work);
	return code != 0 ? code : finish(s, err);
}

int study_run(const struct study_run_options *options, struct err *err)
{
	struct study *s = mem_zalloc(sizeof(*s));
	int code;

	if (s == NULL)
		return err_nomem(err, sizeof(*s));
	s->options = options;
	s->spec = options->spec;
	s->lock = -1;
	code = run(s, err);
	work_close(&s->work);
	mem_free(s->socket);
	if (s->lock >= 0)
		close(s->lock);
	mem_free(s);
	return code;
}
