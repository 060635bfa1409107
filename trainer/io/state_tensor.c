#include "trainer/io/state_tensor.h"

#include <string.h>

enum { GATHER_BYTES = 8192 };

/* A part of a contiguous tensor, as a vector. */
static struct tensor_view part_of(const struct tensor_view *view, const void *data, int64_t count)
{
	struct tensor_view part = { .name = view->name, .dtype = view->dtype, .rank = 1, .shape = { count }, .data = data };

	part.bytes = (size_t)count * tensor_dtype_bytes(view->dtype);
	return part;
}

/* Where a strided tensor's elements lie, one after another. */
struct walk {
	const struct state_tensor *tensor;
	int64_t index[TENSOR_RANK_MAX];
	int64_t at; /* in elements from the first */
};

static void walk_to(struct walk *walk, const struct state_tensor *tensor, int64_t element)
{
	*walk = (struct walk){ .tensor = tensor };
	for (int d = tensor->view.rank - 1; d >= 0; d--) {
		walk->index[d] = element % tensor->view.shape[d];
		element /= tensor->view.shape[d];
		walk->at += walk->index[d] * tensor->strides[d];
	}
}

static void walk_on(struct walk *walk)
{
	const struct state_tensor *tensor = walk->tensor;

	for (int d = tensor->view.rank - 1; d >= 0; d--) {
		walk->at += tensor->strides[d];
		if (++walk->index[d] < tensor->view.shape[d])
			return;
		walk->at -= walk->index[d] * tensor->strides[d];
		walk->index[d] = 0;
	}
}

static void gather(struct walk *walk, void *out, int64_t count)
{
	size_t bytes = tensor_dtype_bytes(walk->tensor->view.dtype);
	const char *from = walk->tensor->view.data;
	char *to = out;

	for (int64_t i = 0; i < count; i++, to += bytes) {
		memcpy(to, from + (size_t)walk->at * bytes, bytes);
		walk_on(walk);
	}
}

static int convert(const struct state_tensor *tensor, int64_t first, int64_t count, float *reals, int64_t *integers,
		   struct err *err)
{
	const struct tensor_view *view = &tensor->view;
	size_t bytes = tensor_dtype_bytes(view->dtype);
	char piece[GATHER_BYTES];
	struct tensor_view part;
	struct walk walk;
	int code = 0;

	CHECK(first >= 0 && count >= 0 && first <= tensor_view_elements(view) - count);
	if (count == 0)
		return 0;
	if (!tensor->strided) {
		part = part_of(view, (const char *)view->data + (size_t)first * bytes, count);
		return reals != NULL ? tensor_to_f32(&part, reals, err) : tensor_to_i64(&part, integers, err);
	}
	walk_to(&walk, tensor, first);
	for (int64_t done = 0; code == 0 && done < count; done += part.shape[0]) {
		int64_t fits = (int64_t)(sizeof(piece) / bytes), left = count - done;

		part = part_of(view, piece, left < fits ? left : fits);
		gather(&walk, piece, part.shape[0]);
		code = reals != NULL ? tensor_to_f32(&part, reals + done, err) : tensor_to_i64(&part, integers + done, err);
	}
	return code;
}

int state_tensor_to_f32(const struct state_tensor *tensor, int64_t first, int64_t count, float *out, struct err *err)
{
	return convert(tensor, first, count, out, NULL, err);
}

int state_tensor_to_i64(const struct state_tensor *tensor, int64_t first, int64_t count, int64_t *out, struct err *err)
{
	return convert(tensor, first, count, NULL, out, err);
}
