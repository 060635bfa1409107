#include "trainer/probe/batch_file.h"

#include <string.h>

#include "shared/base/mem.h"
#include "trainer/kernels/vector_ops.h"

enum { SHAPE_BYTES = 128 };

/* The named tensor of the given rank, with every dimension at least 1. */
static int find(const struct tensor_view **out, const struct tensorfile *file, const char *name, int rank, const char *want,
		struct err *err)
{
	const struct tensor_view *view = tensorfile_find(file, name);
	char shape[SHAPE_BYTES];

	*out = view;
	if (view == NULL)
		return err_set(err, ERR_NOTFOUND, "%s: has no tensor %s %s", tensorfile_path(file), name, want);
	if (view->rank != rank || tensor_view_elements(view) == 0)
		return err_set(err, ERR_MISMATCH, "%s: %s has shape %s; it must be %s and not empty", tensorfile_path(file), name,
			       tensor_shape_text(view->rank, view->shape, shape, sizeof(shape)), want);
	return 0;
}

static int find_image(const struct tensor_view **out, const struct tensorfile *file, struct err *err)
{
	int code = find(out, file, "image", 4, "(B, 3, H, W)", err);
	const int64_t *shape;
	char text[SHAPE_BYTES];

	if (code != 0)
		return code;
	shape = (*out)->shape;
	if (shape[1] != 3 || shape[2] != shape[3])
		return err_set(err, ERR_MISMATCH, "%s: image has shape %s; it must be (B, 3, S, S): three channels, square",
			       tensorfile_path(file), tensor_shape_text(4, shape, text, sizeof(text)));
	if (shape[0] > BATCH_ROWS_MAX || shape[2] > 65536)
		return err_set(err, ERR_LIMIT, "%s: image has shape %s; at most %d pictures are taken at a time",
			       tensorfile_path(file), tensor_shape_text(4, shape, text, sizeof(text)), BATCH_ROWS_MAX);
	return 0;
}

int batch_file_image_size(const struct tensorfile *file, int *out, struct err *err)
{
	const struct tensor_view *view;
	int code = find_image(&view, file, err);

	*out = code == 0 ? (int)view->shape[2] : 0;
	return code;
}

static int read_image(struct batch_file *batch, const struct tensorfile *file, struct err *err)
{
	const struct tensor_view *view;
	size_t elements;
	int code = find_image(&view, file, err);

	if (code != 0)
		return code;
	batch->B = (int)view->shape[0];
	batch->image_size = (int)view->shape[2];
	elements = (size_t)tensor_view_elements(view);
	batch->image = model_alloc(elements);
	if (batch->image == NULL)
		return err_nomem(err, elements * sizeof(float));
	if ((code = tensor_to_f32(view, batch->image, err)) != 0)
		return err_prefix(err, "%s", tensorfile_path(file));
	if (!vector_ops_fast()->all_finite(batch->image, elements))
		return err_set(err, ERR_FORMAT, "%s: image has a value that is not finite", tensorfile_path(file));
	return 0;
}

/* Values of an integer tensor; *out is the caller's to free. */
static int read_integers(int64_t **out, const struct tensorfile *file, const struct tensor_view *view, struct err *err)
{
	size_t elements = (size_t)tensor_view_elements(view);
	int code;

	*out = mem_array(elements, sizeof(**out));
	if (*out == NULL)
		return err_nomem(err, elements * sizeof(**out));
	code = tensor_to_i64(view, *out, err);
	return code == 0 ? 0 : err_prefix(err, "%s", tensorfile_path(file));
}

/* The number of leading ones of a mask row; -1 when it is not ones and then zeros. */
static int64_t mask_length(const int64_t *mask, int64_t T)
{
	int64_t length = 0;

	while (length < T && mask[length] == 1)
		length++;
	for (int64_t i = length; i < T; i++) {
		if (mask[i] != 0)
			return -1;
	}
	return length;
}

static int pack_tokens(struct batch_file *batch, const struct tensorfile *file, const int64_t *ids, const int64_t *mask,
		       int64_t T, const struct bert_config *text, struct err *err)
{
	for (int b = 0; b < batch->B; b++) {
		int64_t length = mask_length(mask + b * T, T);

		if (length < 1)
			return err_set(err, ERR_FORMAT, "%s: attention_mask of row %d is not ones followed by zeros with at least "
				       "one 1; put the padding behind the caption", tensorfile_path(file), b);
		if (length > text->max_positions)
			return err_set(err, ERR_LIMIT, "%s: the caption of row %d has %lld tokens, but the weights have %d positions",
				       tensorfile_path(file), b, (long long)length, text->max_positions);
		for (int64_t i = 0; i < T; i++) {
			if (ids[b * T + i] < 0 || ids[b * T + i] >= text->vocab_size)
				return err_set(err, ERR_FORMAT, "%s: input_ids has %lld in row %d, but the weights have words 0 to %d",
					       tensorfile_path(file), (long long)ids[b * T + i], b, text->vocab_size - 1);
			if (i < length)
				batch->ids[batch->tokens++] = (int32_t)ids[b * T + i];
		}
		batch->offsets[b + 1] = (uint32_t)batch->tokens;
		batch->longest = length > batch->longest ? (int)length : batch->longest;
	}
	return 0;
}

static int read_tokens(struct batch_file *batch, const struct tensorfile *file, const struct bert_config *text,
		       struct err *err)
{
	const struct tensor_view *ids_view, *mask_view;
	int64_t *ids = NULL, *mask = NULL, T;
	int code;

	if ((code = find(&ids_view, file, "input_ids", 2, "(B, T)", err)) != 0 ||
	    (code = find(&mask_view, file, "attention_mask", 2, "(B, T)", err)) != 0)
		return code;
	T = ids_view->shape[1];
	if (ids_view->shape[0] != batch->B || mask_view->shape[0] != batch->B || mask_view->shape[1] != T)
		return err_set(err, ERR_MISMATCH, "%s: input_ids and attention_mask must both be (%d, T), a row for each picture",
			       tensorfile_path(file), batch->B);
	if (T > BATCH_TOKENS_MAX)
		return err_set(err, ERR_LIMIT, "%s: rows of %lld tokens; at most %d are taken", tensorfile_path(file), (long long)T,
			       BATCH_TOKENS_MAX);
	batch->ids = mem_array((size_t)batch->B * (size_t)T, sizeof(*batch->ids));
	batch->offsets = mem_array((size_t)batch->B + 1, sizeof(*batch->offsets));
	if (batch->ids == NULL || batch->offsets == NULL)
		code = err_nomem(err, (size_t)batch->B * (size_t)T * sizeof(*batch->ids));
	if (code == 0 && (code = read_integers(&ids, file, ids_view, err)) == 0 &&
	    (code = read_integers(&mask, file, mask_view, err)) == 0)
		code = pack_tokens(batch, file, ids, mask, T, text, err);
	mem_free(ids);
	mem_free(mask);
	return code;
}

/* A (N) tensor of integers in [0, below) into out. */
static int read_column(uint32_t *out, const struct tensorfile *file, const char *name, int N, int below, const char *of,
		       struct err *err)
{
	const struct tensor_view *view;
	int64_t *values = NULL;
	int code = find(&view, file, name, 1, "(N)", err);

	if (code != 0)
		return code;
	if (view->shape[0] != N)
		return err_set(err, ERR_MISMATCH, "%s: %s has %lld entries; %d are needed", tensorfile_path(file), name,
			       (long long)view->shape[0], N);
	code = read_integers(&values, file, view, err);
	for (int i = 0; code == 0 && i < N; i++) {
		if (values[i] < 0 || values[i] >= below)
			code = err_set(err, ERR_FORMAT, "%s: %s has %lld at %d, but there are %d %s", tensorfile_path(file), name,
				       (long long)values[i], i, below, of);
		else
			out[i] = (uint32_t)values[i];
	}
	mem_free(values);
	return code;
}

static int allocate_pairs(struct batch_file *batch, int N, struct err *err)
{
	batch->picture = mem_array((size_t)N, sizeof(*batch->picture));
	batch->caption = mem_array((size_t)N, sizeof(*batch->caption));
	batch->label = mem_array((size_t)N, sizeof(*batch->label));
	if (batch->picture == NULL || batch->caption == NULL || batch->label == NULL)
		return err_nomem(err, (size_t)N * sizeof(*batch->label));
	batch->picture_group = mem_array((size_t)N, sizeof(*batch->picture_group));
	batch->caption_group = mem_array((size_t)N, sizeof(*batch->caption_group));
	if (batch->picture_group == NULL || batch->caption_group == NULL)
		return err_nomem(err, (size_t)N * sizeof(*batch->picture_group));
	batch->pairs = (struct model_pairs){ N, batch->picture, batch->caption, batch->label, NULL, batch->picture_group,
					     batch->caption_group };
	return 0;
}

/* Which samples have the same picture (the tensor `picture`, else none) and the same tokens. */
static int read_groups(struct batch_file *batch, const struct tensorfile *file, struct err *err)
{
	for (int i = 0; i < batch->B; i++) {
		const int32_t *ids = batch->ids + batch->offsets[i];
		uint32_t length = batch->offsets[i + 1] - batch->offsets[i], same = 0;

		while (batch->offsets[same + 1] - batch->offsets[same] != length ||
		       memcmp(batch->ids + batch->offsets[same], ids, length * sizeof(*ids)) != 0)
			same++;
		batch->caption_group[i] = same;
		batch->picture_group[i] = (uint32_t)i;
	}
	if (tensorfile_find(file, "picture") == NULL)
		return 0;
	return read_column(batch->picture_group, file, "picture", batch->B, INT32_MAX, "numbers of pictures", err);
}

static int read_pairs(struct batch_file *batch, const struct tensorfile *file, const struct model_config *config,
		      struct err *err)
{
	const struct tensor_view *view;
	int N = batch->B, code;

	if (config->task == TASK_MATCH) {
		if (tensorfile_find(file, "pair_image") == NULL || tensorfile_find(file, "pair_text") == NULL ||
		    tensorfile_find(file, "pair_label") == NULL)
			return err_set(err, ERR_NOTFOUND, "%s: matching needs the tensors pair_image, pair_text and pair_label (N); "
				       "for labels of pictures use --task classify", tensorfile_path(file));
		if ((code = find(&view, file, "pair_image", 1, "(N)", err)) != 0)
			return code;
		if (view->shape[0] > BATCH_PAIRS_MAX)
			return err_set(err, ERR_LIMIT, "%s: %lld pairs; at most %d are taken", tensorfile_path(file),
				       (long long)view->shape[0], BATCH_PAIRS_MAX);
		N = (int)view->shape[0];
	}
	if ((code = allocate_pairs(batch, N, err)) != 0)
		return code;
	if (config->task == TASK_MATCH) {
		if ((code = read_column(batch->picture, file, "pair_image", N, batch->B, "pictures", err)) != 0 ||
		    (code = read_column(batch->caption, file, "pair_text", N, batch->B, "captions", err)) != 0)
			return code;
		return read_column((uint32_t *)batch->label, file, "pair_label", N, config->classes, "classes in the weights", err);
	}
	for (int i = 0; i < N; i++)
		batch->picture[i] = batch->caption[i] = (uint32_t)i;
	if (config->task == TASK_CONTRAST)
		return read_groups(batch, file, err);
	return read_column((uint32_t *)batch->label, file, "labels", N, config->classes, "classes in the weights", err);
}

int batch_file_read(struct batch_file *out, const struct tensorfile *file, const struct model_config *config, struct err *err)
{
	int code;

	memset(out, 0, sizeof(*out));
	if ((code = read_image(out, file, err)) != 0 || (code = read_tokens(out, file, &config->text, err)) != 0)
		return code;
	return read_pairs(out, file, config, err);
}

void batch_file_free(struct batch_file *batch)
{
	model_release(batch->image);
	mem_free(batch->ids);
	mem_free(batch->offsets);
	mem_free(batch->picture);
	mem_free(batch->caption);
	mem_free(batch->label);
	mem_free(batch->picture_group);
	mem_free(batch->caption_group);
	memset(batch, 0, sizeof(*batch));
}
