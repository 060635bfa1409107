#include "trainer/io/weights.h"

#include <stdio.h>
#include <string.h>

#include "shared/base/mem.h"
#include "trainer/kernels/vector_ops.h"

enum {
	NAME_BYTES = 512,             /* of a name in a file, mapped; longer ones are not ours */
	SHAPE_BYTES = 128,
	PIECE_ELEMENTS = 1 << 16,     /* converted at a time when values are checked */
	MISSING_SHOWN_MAX = 3,
};

static bool starts_with(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool ends_with(const char *text, const char *suffix)
{
	size_t n = strlen(text), m = strlen(suffix);

	return n >= m && strcmp(text + n - m, suffix) == 0;
}

static const char *without_prefix(const char *text, const char *prefix)
{
	return starts_with(text, prefix) ? text + strlen(prefix) : text;
}

void weights_report_free(struct weights_report *report)
{
	buf_free(&report->missing_names);
	buf_free(&report->unexpected_names);
	buf_free(&report->skipped_names);
}

/* ---- names ---- */

/* Old files call LayerNorm's parameters gamma and beta. */
static void modern_norm_names(char *name)
{
	char *end = name + strlen(name);

	if (ends_with(name, "LayerNorm.gamma"))
		memcpy(end - strlen("gamma"), "weight", sizeof("weight"));
	else if (ends_with(name, "LayerNorm.beta"))
		memcpy(end - strlen("beta"), "bias", sizeof("bias"));
}

/* A file's name under the script's name; false when it is too long to be one. */
static bool map_name(char out[NAME_BYTES], const char *name, enum weights_kind kind)
{
	const char *prefix = "";

	if (strlen(name) + 32 > NAME_BYTES)
		return false;
	if (kind == WEIGHTS_IMAGE) {
		prefix = "image_encoder.";
		name = without_prefix(name, prefix);
	} else if (kind == WEIGHTS_TEXT) {
		prefix = "text_encoder.";
		name = without_prefix(without_prefix(name, prefix), "bert.");
	}
	snprintf(out, NAME_BYTES, "%s%s", prefix, name);
	modern_norm_names(out);
	return true;
}

/* Left out on purpose: constants, and heads that the script replaces. */
static bool is_skipped(const char *mapped, enum weights_kind kind)
{
	static const char *const heads[] = { "text_encoder.cls.", "text_encoder.classifier.", "text_encoder.qa_outputs." };

	if (ends_with(mapped, "embeddings.position_ids") || (kind == WEIGHTS_STATE && strcmp(mapped, "logit_scale") == 0))
		return true;
	for (size_t i = 0; kind == WEIGHTS_TEXT && i < ARRAY_LEN(heads); i++) {
		if (starts_with(mapped, heads[i]))
			return true;
	}
	return false;
}

/* A whole block or layer more, or more in one: the rest would fit by its shapes, and be part of another network. */
static bool is_of_another_tower(const char *mapped, bool known, enum weights_kind kind)
{
	int stage, block, length = 0;

	if (!known)
		return false;
	if (kind == WEIGHTS_TEXT)
		return sscanf(mapped, "text_encoder.encoder.layer.%d.%n", &block, &length) == 1 && length > 0;
	return kind == WEIGHTS_IMAGE && sscanf(mapped, "image_encoder.layer%d.%d.%n", &stage, &block, &length) == 2 && length > 0;
}

static int another_tower(const struct state_tensor *tensor, enum weights_kind kind, struct err *err)
{
	if (kind == WEIGHTS_TEXT)
		return err_set(err, ERR_MISMATCH, "%s: %s is in no layer of the model's: the file is of a deeper BERT, or of another kind (relative positions, "
			       "a decoder, adapters), which is not read; name its sizes by --text-config or --text-encoder, or leave the layers that "
			       "are not wanted out of the file", tensor->path, tensor->view.name);
	return err_set(err, ERR_MISMATCH, "%s: %s is in no block of the model's: the file is of a deeper ResNet, or of another kind (with "
		       "squeeze-and-excitation, ResNet-D), which is not read; name the one it was made with by --image-encoder (resnet18, 34, "
		       "50, 101 or 152)", tensor->path, tensor->view.name);
}

static bool is_replaced_head(const struct param *param, enum weights_kind kind)
{
	return kind == WEIGHTS_IMAGE && starts_with(param->name, "image_encoder.fc.");
}

static bool belongs(const struct param *param, enum weights_kind kind)
{
	return kind == WEIGHTS_STATE || starts_with(param->name, kind == WEIGHTS_IMAGE ? "image_encoder." : "text_encoder.");
}

/* ---- checks ---- */

static bool same_shape(const struct tensor_view *view, const struct param *param)
{
	if (param->kind == PARAM_COUNTER) /* some writers store scalars with one dimension of 1 */
		return tensor_view_elements(view) == 1 && view->rank <= 1;
	return view->rank == param->rank &&
	       memcmp(view->shape, param->shape, (size_t)view->rank * sizeof(view->shape[0])) == 0;
}

static int shape_mismatch(const struct state_tensor *tensor, const struct param *param, struct err *err)
{
	const struct tensor_view *view = &tensor->view;
	char theirs[SHAPE_BYTES], ours[SHAPE_BYTES];

	return err_set(err, ERR_MISMATCH, "%s: %s has shape %s, but the model's has %s; choose the preset, encoders, "
		       "vocabulary and classes the file was made with", tensor->path, view->name,
		       tensor_shape_text(view->rank, view->shape, theirs, sizeof(theirs)),
		       tensor_shape_text(param->rank, param->shape, ours, sizeof(ours)));
}

/* Batch norm takes the root of these. */
static int check_variance(const struct state_tensor *tensor, const float *piece, int64_t count, struct err *err)
{
	for (int64_t i = 0; i < count; i++)
		if (piece[i] < 0)
			return err_set(err, ERR_FORMAT, "%s: %s has the value %g, but no variance is below 0; the file is damaged, or not what "
				       "its name says", tensor->path, tensor->view.name, (double)piece[i]);
	return 0;
}

/* Every value can be read, is finite in float32, and is one that the parameter may have. */
static int check_values(const struct state_tensor *tensor, const struct param *param, struct err *err)
{
	bool variance = param->kind == PARAM_BUFFER && ends_with(param->name, ".running_var");
	int64_t total = tensor_view_elements(&tensor->view), count;
	float *piece = mem_aligned(PIECE_ELEMENTS * sizeof(float));
	int code = 0;

	if (piece == NULL)
		return err_nomem(err, PIECE_ELEMENTS * sizeof(float));
	for (int64_t done = 0; done < total && code == 0; done += count) {
		count = total - done < PIECE_ELEMENTS ? total - done : PIECE_ELEMENTS;
		if ((code = state_tensor_to_f32(tensor, done, count, piece, err)) != 0)
			err_prefix(err, "%s", tensor->path);
		else if (!vector_ops_fast()->all_finite(piece, (size_t)count))
			code = err_set(err, ERR_FORMAT, "%s: %s has a value that is not finite in float32; the file is from a "
				       "run that diverged or is damaged", tensor->path, tensor->view.name);
		else if (variance)
			code = check_variance(tensor, piece, count, err);
	}
	mem_free(piece);
	return code;
}

/* Who turns a whole state dict into halves turns the counters, too, and PyTorch takes them back. */
static int read_counter(const struct state_tensor *tensor, int64_t *out, struct err *err)
{
	float real = 0;
	int code;

	if (state_tensor_to_i64(tensor, 0, 1, out, NULL) == 0) {
		if (*out < 0)
			return err_set(err, ERR_FORMAT, "%s: %s is %lld; it counts batches", tensor->path, tensor->view.name, (long long)*out);
		return 0;
	}
	if ((code = state_tensor_to_f32(tensor, 0, 1, &real, err)) != 0)
		return err_prefix(err, "%s", tensor->path);
	if (!(real >= 0 && real < 0x1p63f))
		return err_set(err, ERR_FORMAT, "%s: %s is %g; it counts batches", tensor->path, tensor->view.name, (double)real);
	*out = (int64_t)real;
	return 0;
}

/* ---- loading: first everything is matched and checked, then copied ---- */

struct match {
	const struct state_tensor *tensor; /* NULL: not in the file */
};

static int accept(const struct state_tensor *tensor, struct param *param, struct match *match, struct err *err)
{
	int64_t counter;

	if (match->tensor != NULL)
		return err_set(err, ERR_FORMAT, "%s: %s and %s are the same parameter; remove one", tensor->path,
			       match->tensor->view.name, tensor->view.name);
	if (!same_shape(&tensor->view, param))
		return shape_mismatch(tensor, param, err);
	match->tensor = tensor;
	return param->kind == PARAM_COUNTER ? read_counter(tensor, &counter, err) : check_values(tensor, param, err);
}

static void copy_in(struct params *params, const struct match *matches)
{
	for (int i = 0; i < params->count; i++) {
		const struct state_tensor *tensor = matches[i].tensor;
		struct param *param = &params->all[i];

		if (tensor == NULL)
			continue;
		/* checked before: neither can fail */
		if (param->kind == PARAM_COUNTER)
			CHECK(read_counter(tensor, &param->counter, NULL) == 0);
		else
			CHECK(state_tensor_to_f32(tensor, 0, (int64_t)param->count, param->value, NULL) == 0);
	}
}

static int note(struct buf *list, int *count, const char *name, struct err *err)
{
	++*count;
	return buf_printf(list, err, "%s\n", name);
}

static int match_one(struct params *params, const struct state_tensor *tensor, enum weights_kind kind, struct match *matches,
		     struct weights_report *report, struct err *err)
{
	const char *name = tensor->view.name;
	char mapped[NAME_BYTES];
	bool known = map_name(mapped, name, kind);
	struct param *param = known ? params_find(params, mapped) : NULL;

	/* A temperature is left out where the model has none. */
	if (known && param == NULL && is_skipped(mapped, kind))
		return note(&report->skipped_names, &report->skipped, name, err);
	if (param == NULL && is_of_another_tower(mapped, known, kind))
		return another_tower(tensor, kind, err);
	if (param == NULL || !belongs(param, kind))
		return note(&report->unexpected_names, &report->unexpected, name, err);
	if (is_replaced_head(param, kind) && !same_shape(&tensor->view, param))
		return note(&report->skipped_names, &report->skipped, name, err);
	report->loaded++;
	return accept(tensor, param, &matches[param - params->all], err);
}

static int match_all(struct params *params, const struct statefile *file, enum weights_kind kind, struct match *matches,
		     struct weights_report *report, struct err *err)
{
	int code = 0;

	for (int i = 0; code == 0 && i < statefile_count(file); i++)
		code = match_one(params, statefile_at(file, i), kind, matches, report, err);
	for (int i = 0; code == 0 && i < params->count; i++) {
		const struct param *param = &params->all[i];

		if (matches[i].tensor == NULL && belongs(param, kind) && param->kind != PARAM_UNUSED &&
		    param->kind != PARAM_COUNTER && !is_replaced_head(param, kind))
			code = note(&report->missing_names, &report->missing, param->name, err);
	}
	return code;
}

/* With a name of either side, so that what is in between can be seen. */
static int nothing_known(const struct statefile *file, const struct params *params, enum weights_kind kind, struct err *err)
{
	static const char *const what[] = { "this model", "a torchvision ResNet", "a Hugging Face BertModel" };
	static const char *const prefix[] = { "", "image_encoder.", "text_encoder." };
	const char *wanted = "";

	for (int i = 0; i < params->count && wanted[0] == '\0'; i++)
		if (belongs(&params->all[i], kind) && params->all[i].kind == PARAM_WEIGHT)
			wanted = without_prefix(params->all[i].name, prefix[kind]);
	return err_set(err, ERR_MISMATCH, "%s: none of its %d tensors has a name of %s: the first is %.80s, and names such as %s are looked for; "
		       "rename them in Python", statefile_path(file), statefile_count(file), what[kind],
		       statefile_count(file) > 0 ? statefile_at(file, 0)->view.name : "nothing", wanted);
}

int weights_take(struct params *params, const struct statefile *file, enum weights_kind kind, struct weights_report *report,
		 struct err *err)
{
	struct weights_report own = { 0 };
	struct match *matches = mem_array((size_t)params->count, sizeof(*matches));
	int code;

	if (matches == NULL)
		return err_nomem(err, (size_t)params->count * sizeof(*matches));
	code = match_all(params, file, kind, matches, &own, err);
	if (code == 0 && own.loaded == 0)
		code = nothing_known(file, params, kind, err);
	if (code == 0)
		copy_in(params, matches);
	mem_free(matches);
	if (code == 0 && report != NULL)
		*report = own;
	else
		weights_report_free(&own);
	return code;
}

int weights_load(struct params *params, const char *path, enum weights_kind kind, struct weights_report *report,
		 struct err *err)
{
	struct statefile *file = NULL;
	int code = statefile_open(&file, path, err);

	if (code == 0)
		code = weights_take(params, file, kind, report, err);
	statefile_close(file);
	return code;
}

static bool may_be_missing(const struct param *param)
{
	return param->kind == PARAM_UNUSED || param->kind == PARAM_COUNTER || param->kind == PARAM_BUFFER;
}

/* "a, b, c and 7 more" */
static int missing_error(const struct params *params, const struct statefile *file, const struct match *matches,
			 struct err *err)
{
	char list[MISSING_SHOWN_MAX * (PARAM_NAME_BYTES + 2) + 1] = "";
	int missing = 0;

	for (int i = 0; i < params->count; i++) {
		if (matches[i].tensor != NULL || may_be_missing(&params->all[i]))
			continue;
		if (missing++ < MISSING_SHOWN_MAX)
			snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s", list[0] == '\0' ? "" : ", ",
				 params->all[i].name);
	}
	if (missing == 0)
		return 0;
	if (missing > MISSING_SHOWN_MAX)
		return err_set(err, ERR_MISMATCH, "%s: lacks %s and %d more of the model's tensors; is it of this preset?",
			       statefile_path(file), list, missing - MISSING_SHOWN_MAX);
	return err_set(err, ERR_MISMATCH, "%s: lacks %s; is it of this preset?", statefile_path(file), list);
}

int weights_load_strict(struct params *params, const struct statefile *file, const char *prefix, struct err *err)
{
	struct match *matches = mem_array((size_t)params->count, sizeof(*matches));
	char name[NAME_BYTES];
	int code = 0;

	if (matches == NULL)
		return err_nomem(err, (size_t)params->count * sizeof(*matches));
	for (int i = 0; code == 0 && i < params->count; i++) {
		const struct state_tensor *tensor;

		snprintf(name, sizeof(name), "%s%s", prefix, params->all[i].name);
		if ((tensor = statefile_find(file, name)) != NULL)
			code = accept(tensor, &params->all[i], &matches[i], err);
	}
	if (code == 0)
		code = missing_error(params, file, matches, err);
	if (code == 0)
		copy_in(params, matches);
	mem_free(matches);
	return code;
}

/* ---- saving ---- */

int weights_views(const struct params *params, struct tensor_view *out)
{
	for (int i = 0; i < params->count; i++) {
		const struct param *param = &params->all[i];
		struct tensor_view *view = &out[i];

		memset(view, 0, sizeof(*view));
		view->name = param->name;
		view->rank = param->rank;
		memcpy(view->shape, param->shape, (size_t)param->rank * sizeof(param->shape[0]));
		if (param->kind == PARAM_COUNTER) {
			view->dtype = TENSOR_I64;
			view->data = &param->counter;
			view->bytes = sizeof(param->counter);
		} else {
			view->dtype = TENSOR_F32;
			view->data = param->value;
			view->bytes = param->count * sizeof(float);
		}
	}
	return params->count;
}
