/* robustness.json of a study: accuracies under attack, and the checks of the attacks themselves. */
#include <math.h>
#include <string.h>

#include "shared/base/fs.h"
#include "shared/base/mem.h"
#include "trainer/study/report_parts.h"

static int arm_of(const struct report_data *data, const struct tree_node *node, const char *key, int *out, struct err *err)
{
	const char *name;
	int code = tree_text(&data->robustness, node, key, &name, err);

	*out = -1;
	if (code != 0 || name == NULL)
		return code;
	*out = report_arm_find(data, name);
	if (*out < 0)
		return err_set(err, ERR_MISMATCH, "%s: the arm \"%.100s\" is not in study.json", data->robustness.path, name);
	return 0;
}

static int read_attack(struct report_data *data, const struct tree_node *node, struct report_robust *out, struct err *err)
{
	const struct tree *tree = &data->robustness;
	int64_t fold;
	int code;

	if (node->kind != JSON_OBJECT_BEGIN)
		return err_set(err, ERR_FORMAT, "%s: an attack that is not an object", tree->path);
	if ((code = arm_of(data, node, "arm", &out->arm, err)) != 0 || (code = arm_of(data, node, "source_arm", &out->source, err)) != 0 ||
	    (code = tree_need_text(tree, node, "attack", &out->attack, err)) != 0 ||
	    (code = tree_text(tree, node, "target", &out->target, err)) != 0 || (code = tree_text(tree, node, "norm", &out->norm, err)) != 0 ||
	    (code = tree_real(tree, node, "eps", &out->eps, err)) != 0 || (code = tree_real(tree, node, "accuracy", &out->accuracy, err)) != 0 ||
	    (code = tree_real(tree, node, "loss", &out->loss, err)) != 0 || (code = tree_count(tree, node, "steps", &out->steps, err)) != 0 ||
	    (code = tree_count(tree, node, "restarts", &out->restarts, err)) != 0 ||
	    (code = tree_count(tree, node, "pairs", &out->pairs, err)) != 0 || (code = tree_count(tree, node, "fold", &fold, err)) != 0 ||
	    (code = tree_count(tree, node, "seed", &out->seed, err)) != 0)
		return code;
	out->fold = (int)(fold > INT32_MAX ? INT32_MAX : fold);
	if (out->arm < 0)
		return err_set(err, ERR_FORMAT, "%s: an attack without \"arm\"", tree->path);
	if (out->source < 0)
		out->source = out->arm;
	out->target = out->target != NULL ? out->target : "";
	out->norm = out->norm != NULL ? out->norm : "";
	if (!isfinite(out->eps) || out->eps < 0)
		return err_set(err, ERR_FORMAT, "%s: an attack whose \"eps\" is not a number from 0 on", tree->path);
	return 0;
}

static int read_check(struct report_data *data, const struct tree_node *node, struct report_check *out, struct err *err)
{
	const struct tree *tree = &data->robustness;
	const struct tree_node *ok = tree_get(node, "ok");
	int code;

	if (node->kind != JSON_OBJECT_BEGIN || ok == NULL || (ok->kind != JSON_TRUE && ok->kind != JSON_FALSE))
		return err_set(err, ERR_FORMAT, "%s: a check without \"ok\"", tree->path);
	out->ok = ok->kind == JSON_TRUE;
	if ((code = tree_need_text(tree, node, "name", &out->name, err)) != 0 ||
	    (code = tree_text(tree, node, "detail", &out->detail, err)) != 0)
		return code;
	return arm_of(data, node, "arm", &out->arm, err);
}

int report_robustness_read(struct report_data *data, struct err *err)
{
	const struct tree_node *attacks, *checks;
	char *path = NULL;
	int code = fs_join(&path, data->dir, "robustness.json", err);

	if (code != 0 || !fs_exists(path))
		goto out;
	if ((code = tree_read(&data->robustness, path, err)) != 0 ||
	    (code = tree_branch(&data->robustness, data->robustness.root, "attacks", JSON_ARRAY_BEGIN, &attacks, err)) != 0 ||
	    (code = tree_branch(&data->robustness, data->robustness.root, "checks", JSON_ARRAY_BEGIN, &checks, err)) != 0)
		goto out;
	data->robust = mem_array(attacks != NULL ? attacks->count + 1 : 1, sizeof(*data->robust));
	data->check = mem_array(checks != NULL ? checks->count + 1 : 1, sizeof(*data->check));
	if (data->robust == NULL || data->check == NULL) {
		code = err_nomem(err, sizeof(*data->robust));
		goto out;
	}
	for (const struct tree_node *n = attacks != NULL ? attacks->child : NULL; code == 0 && n != NULL; n = n->next)
		code = read_attack(data, n, &data->robust[data->robust_count++], err);
	for (const struct tree_node *n = checks != NULL ? checks->child : NULL; code == 0 && n != NULL; n = n->next)
		code = read_check(data, n, &data->check[data->check_count++], err);
out:
	mem_free(path);
	return code;
}
