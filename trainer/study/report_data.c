#include "trainer/study/report_data.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/fs.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "trainer/study/report_parts.h"

static const char study_schema[] = "trainer-study-1", result_schema[] = "trainer-result-1";

int report_arm_find(const struct report_data *data, const char *name)
{
	for (int a = 0; a < data->arms; a++)
		if (strcmp(data->arm[a].name, name) == 0)
			return a;
	return -1;
}

static int check_schema(const struct tree *tree, const char *expected, struct err *err)
{
	const char *schema;
	int code = tree_need_text(tree, tree->root, "schema", &schema, err);

	if (code == 0 && strcmp(schema, expected) != 0)
		return err_set(err, ERR_UNSUPPORTED, "%s: its schema is \"%.60s\", this program reads \"%s\"", tree->path, schema, expected);
	return code;
}

/* ---- study.json ---- */

static int read_arms(struct report_data *data, struct err *err)
{
	const struct tree *tree = &data->study;
	const struct tree_node *arms;
	const char *baseline;
	int code = tree_branch(tree, tree->root, "arms", JSON_ARRAY_BEGIN, &arms, err);

	if (code != 0)
		return code;
	if (arms == NULL || arms->count == 0 || arms->count > REPORT_ARMS_MAX)
		return err_set(err, ERR_FORMAT, "%s: %zu arms; a study has 1 to %d", tree->path, arms != NULL ? arms->count : 0, REPORT_ARMS_MAX);
	for (const struct tree_node *n = arms->child; n != NULL; n = n->next) {
		struct report_arm *arm = &data->arm[data->arms];

		if ((code = tree_need_text(tree, n, "name", &arm->name, err)) != 0 || (code = tree_text(tree, n, "reg", &arm->reg, err)) != 0 ||
		    (code = tree_branch(tree, n, "options", JSON_OBJECT_BEGIN, &arm->options, err)) != 0 ||
		    (code = tree_branch(tree, n, "steps", JSON_NUMBER, &arm->steps, err)) != 0)
			return code;
		if (arm->options != NULL && arm->options->count == 0)
			arm->options = NULL;
		if (report_arm_find(data, arm->name) >= 0)
			return err_set(err, ERR_FORMAT, "%s: two arms are called \"%.100s\"", tree->path, arm->name);
		data->arms++;
	}
	if ((code = tree_text(tree, tree->root, "baseline", &baseline, err)) != 0)
		return code;
	data->baseline = report_arm_find(data, baseline != NULL ? baseline : "none");
	if (baseline != NULL && data->baseline < 0)
		return err_set(err, ERR_FORMAT, "%s: the baseline \"%.100s\" is none of the arms", tree->path, baseline);
	if (data->baseline < 0)
		data->baseline = 0;
	return 0;
}

static int read_seeds(struct report_data *data, struct err *err)
{
	const struct tree *tree = &data->study;
	const struct tree_node *seeds;
	int code = tree_branch(tree, tree->root, "seeds", JSON_ARRAY_BEGIN, &seeds, err);

	if (code != 0)
		return code;
	if (seeds == NULL || seeds->count == 0 || seeds->count > REPORT_SEEDS_MAX)
		return err_set(err, ERR_FORMAT, "%s: %zu seeds; a study has 1 to %d", tree->path, seeds != NULL ? seeds->count : 0, REPORT_SEEDS_MAX);
	for (const struct tree_node *n = seeds->child; n != NULL; n = n->next) {
		int64_t seed;

		if (!tree_whole(n, &seed))
			return err_set(err, ERR_FORMAT, "%s: a seed that is not a whole number", tree->path);
		for (int s = 0; s < data->seeds; s++)
			if (data->seed_name[s] == seed)
				return err_set(err, ERR_FORMAT, "%s: the seed %lld stands there twice", tree->path, (long long)seed);
		data->seed_name[data->seeds++] = seed;
	}
	return 0;
}

static int read_study(struct report_data *data, struct err *err)
{
	const struct tree *tree = &data->study;
	const struct tree_node *root, *cut;
	int64_t folds;
	char *path = NULL;
	int code = fs_join(&path, data->dir, "study.json", err);

	if (code == 0)
		code = tree_read(&data->study, path, err);
	mem_free(path);
	if (code != 0 || (code = check_schema(tree, study_schema, err)) != 0)
		return code;
	root = tree->root;
	if ((code = tree_text(tree, root, "name", &data->name, err)) != 0 || (code = tree_text(tree, root, "data", &data->data, err)) != 0 ||
	    (code = tree_text(tree, root, "data_version", &data->data_version, err)) != 0 ||
	    (code = tree_text(tree, root, "task", &data->task, err)) != 0 || (code = tree_text(tree, root, "design", &data->design, err)) != 0 ||
	    (code = tree_text(tree, root, "equal", &data->equal, err)) != 0 || (code = read_arms(data, err)) != 0 ||
	    (code = read_seeds(data, err)) != 0 || (code = tree_count(tree, root, "folds", &folds, err)) != 0)
		return code;
	cut = tree_get(root, "fold_seed");
	if (folds < 1 || folds > REPORT_FOLDS_MAX)
		return err_set(err, ERR_FORMAT, "%s: \"folds\" is missing or not from 1 to %d", tree->path, REPORT_FOLDS_MAX);
	data->folds_planned = (int)folds;
	data->recut = cut != NULL && cut->kind == JSON_STRING && strcmp(cut->text, "each") == 0;
	data->match = data->task == NULL || strcmp(data->task, "match") == 0;
	data->ranks = data->task != NULL && strcmp(data->task, "contrast") == 0;
	if ((int64_t)data->arms * folds * data->seeds > REPORT_RUNS_MAX)
		return err_set(err, ERR_LIMIT, "%s: %lld runs; the limit is %d", tree->path, (long long)data->arms * folds * data->seeds,
			       REPORT_RUNS_MAX);
	data->runs_planned = data->arms * data->folds_planned * data->seeds;
	data->runs = mem_array((size_t)data->runs_planned, sizeof(struct report_run *));
	return data->runs != NULL ? 0 : err_nomem(err, (size_t)data->runs_planned * sizeof(struct report_run *));
}

/* ---- runs ---- */

static void run_free(struct report_run *run)
{
	if (run == NULL)
		return;
	tree_free(&run->result);
	report_curve_free(&run->curve);
	mem_free(run->p);
	mem_free(run->correct);
	mem_free(run->dir);
	mem_free(run);
}

static int read_numbers(const struct report_data *data, struct report_run *run, struct err *err)
{
	const struct tree *t = &run->result;
	const struct {
		const char *key;
		double *to;
	} reals[] = {
		{ "accuracy", &run->accuracy }, { "loss", &run->loss }, { "ece", &run->ece }, { "train_accuracy", &run->train_accuracy },
		{ "train_loss", &run->train_loss }, { "best_accuracy", &run->best_accuracy }, { "train_seconds", &run->train_seconds },
		{ "cost", &run->cost },
		{ "epochs", &run->epochs }, { "step_seconds", &run->step_seconds }, { "train_pictures", &run->train_pictures }, { "delta_over_embedding",
				&run->delta_over_embedding },
		{ "delta_over_feature", &run->delta_over_feature }, { "delta_over_fused", &run->delta_over_fused },
		{ "delta_over_pixel", &run->delta_over_pixel }, { "adv_loss", &run->adv_loss }, { "clean_loss", &run->clean_loss },
	};
	const struct {
		const char *key;
		int64_t *to;
	} counts[] = { { "steps", &run->steps }, { "best_epoch", &run->best_epoch }, { "pairs", &run->pair_count },
		       { "pictures", &run->pictures } };
	const struct {
		const char *key;
		const char **to;
	} texts[] = { { "digest", &run->digest }, { "val_digest", &run->val_digest }, { "init_digest", &run->init_digest },
		      { "pairs_digest", &run->pairs_digest } };
	int code = 0;

	for (size_t i = 0; code == 0 && i < ARRAY_LEN(reals); i++)
		code = tree_real(t, t->root, reals[i].key, reals[i].to, err);
	for (size_t i = 0; code == 0 && i < ARRAY_LEN(counts); i++)
		code = tree_count(t, t->root, counts[i].key, counts[i].to, err);
	for (size_t i = 0; code == 0 && i < ARRAY_LEN(texts); i++)
		code = tree_text(t, t->root, texts[i].key, texts[i].to, err);
	if (code == 0 && isfinite(run->accuracy) && (run->accuracy < 0 || run->accuracy > 1))
		code = err_set(err, ERR_FORMAT, "%s: an accuracy of %g", t->path, run->accuracy);
	run->finite = isfinite(run->accuracy);
	/* Zeros, where an older version wrote them of ranks. */
	if (data->ranks) {
		run->ece = NAN;
		run->pairs_digest = NULL;
	}
	return code;
}

/* Folds are named as the runs name them; which numbers they have does not matter here. */
static int fold_index(struct report_data *data, int64_t name)
{
	for (int f = 0; f < data->folds; f++)
		if (data->fold_name[f] == name)
			return f;
	if (data->folds == data->folds_planned)
		return -1;
	data->fold_name[data->folds] = name;
	return data->folds++;
}

static int read_place(struct report_data *data, struct report_run *run, struct err *err)
{
	const struct tree *t = &run->result;
	const char *arm;
	int64_t fold, seed;
	int code;

	if ((code = check_schema(t, result_schema, err)) != 0 || (code = tree_need_text(t, t->root, "arm", &arm, err)) != 0 ||
	    (code = tree_count(t, t->root, "fold", &fold, err)) != 0 || (code = tree_count(t, t->root, "seed", &seed, err)) != 0)
		return code;
	if (fold < 0 || seed < 0)
		return err_set(err, ERR_FORMAT, "%s: \"%s\" is missing", t->path, fold < 0 ? "fold" : "seed");
	run->arm = report_arm_find(data, arm);
	if (run->arm < 0)
		return err_set(err, ERR_MISMATCH, "%s: the arm \"%.100s\" is not in study.json", t->path, arm);
	run->fold = fold_index(data, fold);
	if (run->fold < 0)
		return err_set(err, ERR_MISMATCH, "%s: fold %lld; the study has %d folds, and runs of so many others are there", t->path,
			       (long long)fold, data->folds_planned);
	for (run->seed = 0; run->seed < data->seeds && data->seed_name[run->seed] != seed; run->seed++)
		;
	if (run->seed == data->seeds)
		return err_set(err, ERR_MISMATCH, "%s: the seed %lld is not in study.json", t->path, (long long)seed);
	return 0;
}

static int read_run(struct report_data *data, const char *dir, struct err *err)
{
	struct report_run *run = mem_zalloc(sizeof(*run)), **place;
	char *path = NULL;
	int code;

	if (run == NULL || (run->dir = mem_strdup(dir)) == NULL) {
		mem_free(run);
		return err_nomem(err, sizeof(*run));
	}
	if ((code = fs_join(&path, dir, "result.json", err)) != 0)
		goto out;
	if ((code = tree_read(&run->result, path, err)) != 0 || (code = read_numbers(data, run, err)) != 0 ||
	    (code = read_place(data, run, err)) != 0) {
		if (code != ERR_FORMAT)
			goto out;
		log_warn("%s; this run is left out, and trainer study --out %s makes it again", err->message, data->dir);
		data->damaged++;
		code = 0;
		goto out;
	}
	place = &data->runs[((size_t)run->arm * (size_t)data->folds_planned + (size_t)run->fold) * (size_t)data->seeds + (size_t)run->seed];
	if (*place != NULL) {
		code = err_set(err, ERR_MISMATCH, "%s: the same arm, fold and seed as %s", path, (*place)->dir);
		goto out;
	}
	if ((code = report_predictions_read(data, run, err)) != 0 || (code = report_curve_read(&run->curve, dir, err)) != 0)
		goto out;
	*place = run;
	run = NULL;
	data->run_count++;
out:
	run_free(run);
	mem_free(path);
	return code;
}

/* A run that diverged has no result and never will. */
static int read_failure(struct report_data *data, const char *path, struct err *err)
{
	struct tree tree;
	const char *arm;
	int code = tree_read(&tree, path, err), at;

	if (code != 0)
		return code;
	if ((code = tree_need_text(&tree, tree.root, "arm", &arm, err)) == 0) {
		at = report_arm_find(data, arm);
		if (at < 0)
			code = err_set(err, ERR_MISMATCH, "%s: the arm \"%.100s\" is not in study.json", path, arm);
		else
			data->diverged[at]++;
	}
	tree_free(&tree);
	return code;
}

static int each_folder(struct report_data *data, const char *dir, int depth, struct err *err);

static int visit(struct report_data *data, const char *dir, const char *name, int depth, struct err *err)
{
	char *path = NULL, *result = NULL, *failed = NULL;
	int code = fs_join(&path, dir, name, err);

	if (code != 0 || !fs_is_dir(path))
		goto out;
	if (depth == 0) {
		code = each_folder(data, path, 1, err);
		goto out;
	}
	if ((code = fs_join(&result, path, "result.json", err)) != 0)
		goto out;
	if (fs_exists(result))
		code = read_run(data, path, err);
	else if ((code = fs_join(&failed, path, "failed.json", err)) == 0 && fs_exists(failed))
		code = read_failure(data, failed, err);
out:
	mem_free(path);
	mem_free(result);
	mem_free(failed);
	return code;
}

/* Names in order of byte value, so that a report does not depend on the file system. */
static int each_folder(struct report_data *data, const char *dir, int depth, struct err *err)
{
	struct dirent **entries = NULL;
	int count = scandir(dir, &entries, NULL, alphasort), code = 0;

	if (count < 0)
		return depth == 0 && errno == ENOENT ? 0 : err_errno(err, errno, "%s", dir);
	for (int i = 0; i < count; i++) {
		if (code == 0 && entries[i]->d_name[0] != '.')
			code = visit(data, dir, entries[i]->d_name, depth, err);
		free(entries[i]); /* scandir's */
	}
	free(entries);
	return code;
}

/* Folds ascending by name: runs were met in the order of folders, f10 before f2. */
static void order_folds(struct report_data *data)
{
	for (int i = 1; i < data->folds; i++) {
		for (int f = i; f > 0 && data->fold_name[f - 1] > data->fold_name[f]; f--) {
			int64_t name = data->fold_name[f];

			data->fold_name[f] = data->fold_name[f - 1];
			data->fold_name[f - 1] = name;
			for (int a = 0; a < data->arms; a++) {
				for (int s = 0; s < data->seeds; s++) {
					size_t at = ((size_t)a * (size_t)data->folds_planned + (size_t)f) * (size_t)data->seeds + (size_t)s;
					struct report_run *run = data->runs[at];

					data->runs[at] = data->runs[at - (size_t)data->seeds];
					data->runs[at - (size_t)data->seeds] = run;
				}
			}
		}
	}
	for (int f = 0; f < data->folds; f++)
		for (int a = 0; a < data->arms; a++)
			for (int s = 0; s < data->seeds; s++)
				if (report_run_at(data, a, f, s) != NULL)
					report_run_at(data, a, f, s)->fold = f;
}

static int choose_baseline(struct report_data *data, const char *name, struct err *err)
{
	char names[200] = "";
	size_t used = 0;
	int arm = name != NULL ? report_arm_find(data, name) : data->baseline;

	for (int i = 0; arm < 0 && i < data->arms && used < sizeof(names); i++)
		used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", i > 0 ? ", " : "", data->arm[i].name);
	if (arm < 0)
		return err_set(err, ERR_USAGE, "--baseline: '%.60s' is no arm of %s; there are %s%s", name, data->dir, names,
			       used >= sizeof(names) ? " ..." : "");
	data->baseline = arm;
	return 0;
}

/* In one line: in a study that was copied without them no run has one. */
static void warn_unpredicted(const struct report_data *data)
{
	int first = 0;

	while (data->runs[first] == NULL || !data->runs[first]->unpredicted)
		first++;
	log_warn("%s: no predictions.csv in %d of %d finished runs, first in %s: the bootstrap, the permutation test, McNemar's and calibration are "
		 "of the others", data->dir, data->unpredicted, data->run_count, data->runs[first]->dir);
}

int report_data_read(struct report_data **out, const char *dir, const char *baseline, struct err *err)
{
	struct report_data *data = mem_zalloc(sizeof(*data));
	char *runs = NULL;
	int code;

	*out = NULL;
	if (data == NULL || (data->dir = mem_strdup(dir)) == NULL) {
		mem_free(data);
		return err_nomem(err, sizeof(*data));
	}
	if ((code = read_study(data, err)) != 0 || (code = choose_baseline(data, baseline, err)) != 0 ||
	    (code = fs_join(&runs, dir, "runs", err)) != 0 ||
	    (code = each_folder(data, runs, 0, err)) != 0 || (code = report_clusters_number(data, err)) != 0 ||
	    (code = report_robustness_read(data, err)) != 0)
		goto out;
	order_folds(data);
	if (data->unpredicted > 0)
		warn_unpredicted(data);
	*out = data;
	data = NULL;
out:
	mem_free(runs);
	report_data_free(data);
	return code;
}

void report_data_free(struct report_data *data)
{
	if (data == NULL)
		return;
	for (int i = 0; data->runs != NULL && i < data->runs_planned; i++)
		run_free(data->runs[i]);
	for (int i = 0; i < data->pairs_count; i++)
		report_pairs_free(data->pairs[i]);
	mem_free(data->runs);
	mem_free(data->pairs);
	mem_free(data->robust);
	mem_free(data->check);
	tree_free(&data->study);
	tree_free(&data->robustness);
	mem_free(data->dir);
	mem_free(data);
}
