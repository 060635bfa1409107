/*
 * layers.c - one kernel forward and backward on tensors from a file, so that
 * test_layers.py can hold every kind of layer against PyTorch.
 *
 *     layers KERNELS THREADS IN.safetensors OUT.safetensors
 *
 * KERNELS: reference, fast, openblas (convolutions without oneDNN), bf16 (exit
 * code 3 where this machine or build has none). The input's
 * metadata names the operation (op) and its numbers; its tensors are the
 * operation's arguments by the names of dense_ops.h and image_ops.h. Activations
 * are floats here and are turned into what the table wants.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "shared/io/tensorfile.h"
#include "trainer/kernels/kernels.h"

enum { OUTPUTS_MAX = 16, ARRAYS_MAX = 64, CHUNKS = 2, EXIT_NO_BF16 = 3 };

static struct tensorfile *input;
static struct tensor_view outputs[OUTPUTS_MAX];
static int output_count;
static void *arrays[ARRAYS_MAX];
static int array_count;
static struct kernels kernels;
static struct image_engine *engine;

static void fail(const char *what, const char *why)
{
	fprintf(stderr, "layers: %s: %s\n", what, why);
	exit(1);
}

#define OK(call)                                        \
	do {                                            \
		struct err err_ = { 0 };                \
		struct err *err = &err_;                \
		if ((call) != 0)                        \
			fail(#call, err_.message);      \
	} while (0)

/* ---- arguments ---- */

static const char *text(const char *key)
{
	const char *value = tensorfile_metadata(input, key);

	if (value == NULL)
		fail(key, "missing in the metadata");
	return value;
}

static double number(const char *key)
{
	return strtod(text(key), NULL);
}

static const struct tensor_view *find(const char *name)
{
	return tensorfile_find(input, name);
}

static int dim(const char *name, int axis)
{
	const struct tensor_view *view = find(name);

	if (view == NULL)
		fail(name, "no such tensor");
	return (int)view->shape[axis];
}

/* Lives until free_arrays(): outputs are read last. */
static void *zeros(size_t elements)
{
	void *memory = mem_aligned((elements + 16) * sizeof(float));

	if (memory == NULL || array_count == ARRAYS_MAX)
		fail("memory", "none left");
	memset(memory, 0, (elements + 16) * sizeof(float));
	arrays[array_count++] = memory;
	return memory;
}

static void free_arrays(void)
{
	while (array_count > 0)
		mem_free(arrays[--array_count]);
}

/* NULL where the file has no such tensor. */
static float *floats(const char *name)
{
	const struct tensor_view *view = find(name);
	float *out;

	if (view == NULL)
		return NULL;
	out = zeros((size_t)tensor_view_elements(view));
	OK(tensor_to_f32(view, out, err));
	return out;
}

static int32_t *integers(const char *name)
{
	const struct tensor_view *view = find(name);
	size_t n;
	int64_t *wide;
	int32_t *out;

	if (view == NULL)
		return NULL;
	n = (size_t)tensor_view_elements(view);
	wide = zeros(2 * n);
	out = zeros(n);
	OK(tensor_to_i64(view, wide, err));
	for (size_t i = 0; i < n; i++)
		out[i] = (int32_t)wide[i];
	return out;
}

/* ---- results ---- */

static void give(const char *name, const float *data, int rank, ...)
{
	struct tensor_view *view = &outputs[output_count++];
	va_list args;

	if (output_count > OUTPUTS_MAX)
		fail(name, "too many outputs");
	*view = (struct tensor_view){ .name = name, .dtype = TENSOR_F32, .rank = rank, .data = data, .bytes = sizeof(float) };
	va_start(args, rank);
	for (int i = 0; i < rank; i++) {
		view->shape[i] = va_arg(args, int);
		view->bytes *= (size_t)view->shape[i];
	}
	va_end(args);
}

/* ---- the image tower's ---- */

/* Activations in the table's own type, from floats and back. */
static void *act(const float *values, size_t elements)
{
	void *out = zeros(elements);

	if (values != NULL)
		kernels.image->from_floats(engine, values, elements, out);
	return out;
}

static float *plain(const void *values, size_t elements)
{
	float *out = zeros(elements);

	kernels.image->to_floats(engine, values, elements, out);
	return out;
}

static void *at(void *values, size_t element)
{
	return (char *)values + element * kernels.image->element_bytes;
}

static void conv(void)
{
	const struct image_ops *ops = kernels.image;
	int n = dim("x", 0), kernel = dim("w", 2);
	struct conv_shape s = { dim("x", 3), dim("w", 0), kernel, (int)number("stride"), (int)number("pad"), dim("x", 1), dim("x", 2) };
	int oh = conv_out_size(s.in_height, kernel, s.stride, s.pad), ow = conv_out_size(s.in_width, kernel, s.stride, s.pad);
	size_t in = (size_t)s.in_height * (size_t)s.in_width * (size_t)s.in_channels, out = (size_t)oh * (size_t)ow * (size_t)s.out_channels;
	float *w = floats("w"), *dw = zeros((size_t)tensor_view_elements(find("w")));
	void *x = act(floats("x"), in * (size_t)n), *dy = act(floats("dy"), out * (size_t)n), *y = act(NULL, out * (size_t)n);
	void *dx = act(NULL, in * (size_t)n), *dx_added = act(floats("x"), in * (size_t)n);
	struct conv *conv;

	OK(ops->conv_open(&conv, engine, &s, 0, n, CONV_FORWARD | CONV_DATA | CONV_DATA_ADD | CONV_WEIGHTS, err));
	ops->conv_begin(conv, w);
	/* In chunks, the last of them short where n is odd, as the tower calls it. */
	for (int first = 0, size = (n + CHUNKS - 1) / CHUNKS; first < n; first += size) {
		int some = n - first < size ? n - first : size;
		size_t a = (size_t)first * in, b = (size_t)first * out;

		ops->conv_forward(conv, at(x, a), some, at(y, b));
		ops->conv_backward_data(conv, at(dy, b), some, at(dx, a), false);
		ops->conv_backward_data(conv, at(dy, b), some, at(dx_added, a), true);
		ops->conv_backward_weights(conv, at(x, a), at(dy, b), some, dw);
	}
	ops->conv_close(conv);
	give("y", plain(y, out * (size_t)n), 4, n, oh, ow, s.out_channels);
	give("dx", plain(dx, in * (size_t)n), 4, n, s.in_height, s.in_width, s.in_channels);
	give("dx_added", plain(dx_added, in * (size_t)n), 4, n, s.in_height, s.in_width, s.in_channels);
	give("dw", dw, 4, s.out_channels, s.in_channels, kernel, kernel);
}

struct norm {
	struct bn *bn;
	float *weight, *bias, *mean, *var, *dweight, *dbias;
};

static struct norm norm_open(const char *prefix, void *x, size_t rows, int channels, bool train)
{
	const char *const names[] = { "weight", "bias", "running_mean", "running_var" };
	struct norm norm = { .dweight = zeros((size_t)channels), .dbias = zeros((size_t)channels) };
	float **places[] = { &norm.weight, &norm.bias, &norm.mean, &norm.var };

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		char name[64];

		snprintf(name, sizeof(name), "%s%s", prefix, names[i]);
		*places[i] = floats(name);
	}
	OK(kernels.image->bn_open(&norm.bn, engine, channels, err));
	if (train) {
		size_t half = rows / 2;

		kernels.image->bn_stats_begin(norm.bn);
		kernels.image->bn_stats(norm.bn, x, half);
		kernels.image->bn_stats(norm.bn, at(x, half * (size_t)channels), rows - half);
		kernels.image->bn_stats_end(norm.bn, norm.weight, norm.bias, norm.mean, norm.var);
	} else {
		kernels.image->bn_use_running(norm.bn, norm.weight, norm.bias, norm.mean, norm.var);
	}
	return norm;
}

/* relu(bn(x)), or relu(bn(x) + shortcut), the shortcut with a norm of its own where there is one. */
static void batch_norm(void)
{
	const struct image_ops *ops = kernels.image;
	bool train = number("train") != 0, added = find("shortcut") != NULL, projected = find("shortcut_weight") != NULL;
	int rows = dim("x", 0), C = dim("x", 1);
	size_t n = (size_t)rows, all = n * (size_t)C;
	void *x = act(floats("x"), all), *g = act(floats("dy"), all), *y = act(NULL, all), *dx = act(NULL, all), *dshortcut = act(NULL, all);
	void *shortcut = added ? act(floats("shortcut"), all) : NULL;
	struct norm norm = norm_open("", x, n, C, train), other = { 0 };

	if (projected)
		other = norm_open("shortcut_", shortcut, n, C, train);
	if (added)
		ops->bn_add_relu(norm.bn, x, other.bn, shortcut, n, y);
	else
		ops->bn_relu(norm.bn, x, n, y);
	ops->bn_sums_begin(norm.bn);
	if (projected)
		ops->bn_sums_begin(other.bn);
	if (added)
		ops->bn_add_relu_sums(norm.bn, x, other.bn, shortcut, y, g, n);
	else
		ops->bn_relu_sums(norm.bn, g, x, n);
	ops->bn_sums_end(norm.bn, norm.dweight, norm.dbias);
	ops->bn_backward(norm.bn, !added, g, x, n, dx);
	if (projected) {
		ops->bn_sums_end(other.bn, other.dweight, other.dbias);
		ops->bn_backward(other.bn, false, g, shortcut, n, dshortcut);
		give("shortcut_dweight", other.dweight, 1, C);
		give("shortcut_dbias", other.dbias, 1, C);
		give("shortcut_running_var", other.var, 1, C);
		ops->bn_close(other.bn);
	}
	give("y", plain(y, all), 2, rows, C);
	give("dx", plain(dx, all), 2, rows, C);
	give("dweight", norm.dweight, 1, C);
	give("dbias", norm.dbias, 1, C);
	give("running_mean", norm.mean, 1, C);
	give("running_var", norm.var, 1, C);
	if (added)
		give("dshortcut", plain(projected ? dshortcut : g, all), 2, rows, C);
	ops->bn_close(norm.bn);
}

/* 3x3 max pooling of relu(bn(x)), the stem's. */
static void max_pool(void)
{
	const struct image_ops *ops = kernels.image;
	int n = dim("x", 0), h = dim("x", 1), w = dim("x", 2), C = dim("x", 3);
	int oh = conv_out_size(h, 3, 2, 1), ow = conv_out_size(w, 3, 2, 1);
	size_t rows = (size_t)n * (size_t)h * (size_t)w, in = rows * (size_t)C, out = (size_t)n * (size_t)oh * (size_t)ow * (size_t)C;
	void *x = act(floats("x"), in), *dy = act(floats("dy"), out), *y = act(NULL, out), *pooled = act(NULL, in), *dx = act(NULL, in);
	uint8_t *index = zeros(out);
	struct norm norm = norm_open("", x, rows, C, true);

	ops->bn_relu_pool(norm.bn, x, n, h, w, y, index);
	ops->pool_backward(engine, dy, index, n, h, w, C, pooled);
	ops->bn_sums_begin(norm.bn);
	ops->bn_relu_sums(norm.bn, pooled, x, rows);
	ops->bn_sums_end(norm.bn, norm.dweight, norm.dbias);
	ops->bn_backward(norm.bn, true, pooled, x, rows, dx);
	give("y", plain(y, out), 4, n, oh, ow, C);
	give("dx", plain(dx, in), 4, n, h, w, C);
	give("dweight", norm.dweight, 1, C);
	give("dbias", norm.dbias, 1, C);
	ops->bn_close(norm.bn);
}

static void average_pool(void)
{
	int n = dim("x", 0), pixels = dim("x", 1), C = dim("x", 2);
	size_t in = (size_t)n * (size_t)pixels * (size_t)C;
	float *y = zeros((size_t)n * (size_t)C);
	void *dx = act(NULL, in);

	kernels.image->average_pool(engine, act(floats("x"), in), n, pixels, C, y);
	kernels.image->average_pool_backward(engine, floats("dy"), n, pixels, C, dx);
	give("y", y, 2, n, C);
	give("dx", plain(dx, in), 3, n, pixels, C);
}

/* ---- the text tower's and the fusion stage's ---- */

static struct dropout_spec dropout(void)
{
	return (struct dropout_spec){
		.probability = (float)number("dropout"), .layer = (uint32_t)number("layer"), .seed = strtoull(text("seed"), NULL, 10),
		.step = strtoull(text("step"), NULL, 10), .positions = (const uint32_t *)integers("positions"),
	};
}

static void linear(void)
{
	int rows = dim("x", 0), in = dim("x", 1), out = dim("w", 0);
	struct linear_shape s = { rows, in, out, in, in, out };
	float *x = floats("x"), *w = floats("w"), *dy = floats("dy"), *y = zeros((size_t)rows * (size_t)out);
	float *dx = zeros((size_t)rows * (size_t)in), *dw = zeros((size_t)in * (size_t)out), *dbias = zeros((size_t)out);

	kernels.dense->linear(y, x, w, floats("bias"), s, false);
	kernels.dense->linear_input(dx, dy, w, s, false);
	kernels.dense->linear_weights(dw, dy, x, s);
	kernels.dense->sum_rows(dbias, dy, rows, out, out);
	give("y", y, 2, rows, out);
	give("dx", dx, 2, rows, in);
	give("dw", dw, 2, out, in);
	give("dbias", dbias, 1, out);
}

/* The encoder layers' own entries, which a bf16 table has apart. */
static void encoder_linear(void)
{
	int rows = dim("x", 0), in = dim("x", 1), out = dim("w", 0);
	struct linear_shape s = { rows, in, out, in, in, out };
	float *x = floats("x"), *w = floats("w"), *dy = floats("dy"), *y = zeros((size_t)rows * (size_t)out);
	float *dx = zeros((size_t)rows * (size_t)in), *dw = zeros((size_t)in * (size_t)out);

	OK(kernels.dense->encoder_reserve(s, err));
	kernels.dense->encoder_linear(y, x, w, floats("bias"), s, false);
	kernels.dense->encoder_linear_input(dx, dy, w, s, false);
	kernels.dense->encoder_linear_weights(dw, dy, x, s);
	give("y", y, 2, rows, out);
	give("dx", dx, 2, rows, in);
	give("dw", dw, 2, out, in);
}

static void gelu(void)
{
	int rows = dim("x", 0), width = dim("x", 1);
	float *x = floats("x"), *dx = floats("dy"), *y = zeros((size_t)rows * (size_t)width);

	kernels.dense->bias_gelu(y, x, floats("bias"), rows, width);
	kernels.dense->gelu_backward(dx, NULL, x, rows, width);
	give("y", y, 2, rows, width);
	give("dx", dx, 2, rows, width);
}

/* LayerNorm(dropout(x + bias) + residual) */
static void residual_norm(void)
{
	int rows = dim("x", 0), width = dim("x", 1);
	size_t n = (size_t)rows, all = n * (size_t)width, W = (size_t)width;
	struct packed_rows packed = { (const uint32_t *)integers("offsets"), dim("offsets", 0) - 1, false };
	struct norm_weights norm = { floats("gamma"), floats("beta"), (float)number("eps") };
	struct dropout_spec drop = dropout();
	float *sum = floats("x"), *y = zeros(all), *mean = zeros(n), *rstd = zeros(n), *dsum = zeros(all), *dinner = zeros(all);
	float *dgamma = zeros(W), *dbeta = zeros(W), *dbias = zeros(W);

	kernels.dense->residual_norm(y, sum, mean, rstd, floats("bias"), floats("residual"), norm, width, packed, &drop);
	kernels.dense->residual_norm_backward(dsum, dinner, dgamma, dbeta, dbias, floats("dy"), sum, mean, rstd, norm, width, packed, &drop);
	give("y", y, 2, rows, width);
	give("dx", dinner, 2, rows, width);
	give("dresidual", dsum, 2, rows, width);
	give("dgamma", dgamma, 1, width);
	give("dbeta", dbeta, 1, width);
	give("dbias", dbias, 1, width);
}

/* dropout(LayerNorm(table[ids] + type + position)) */
static void embeddings(void)
{
	int T = dim("ids", 0), width = dim("table", 1), vocab = dim("table", 0), positions = dim("position", 0);
	size_t n = (size_t)T, W = (size_t)width, all = n * W;
	struct packed_rows packed = { (const uint32_t *)integers("offsets"), dim("offsets", 0) - 1, false };
	struct norm_weights norm = { floats("gamma"), floats("beta"), (float)number("eps") };
	struct dropout_spec drop = dropout();
	float *word = zeros(all), *sum = zeros(all), *y = zeros(all), *mean = zeros(n), *rstd = zeros(n), *dsum = zeros(all);
	float *dtable = zeros((size_t)vocab * W), *dposition = zeros((size_t)positions * W), *dtype = zeros(W), *dgamma = zeros(W), *dbeta = zeros(W);
	int32_t *ids = integers("ids");

	kernels.dense->gather_rows(word, floats("table"), ids, T, width);
	kernels.dense->embed_norm(y, sum, mean, rstd, word, floats("position"), floats("type"), norm, width, packed, &drop);
	kernels.dense->embed_norm_backward(dsum, dposition, dtype, dgamma, dbeta, floats("dy"), sum, mean, rstd, norm, width, packed, &drop);
	kernels.dense->scatter_rows(dtable, dsum, ids, T, width, (int32_t)number("pad"));
	give("y", y, 2, T, width);
	give("dtable", dtable, 2, vocab, width);
	give("dposition", dposition, 2, positions, width);
	give("dtype", dtype, 1, width);
	give("dgamma", dgamma, 1, width);
	give("dbeta", dbeta, 1, width);
}

static void attention(void)
{
	int T = dim("q", 0), width = dim("q", 1), heads = (int)number("heads"), longest = (int)number("longest");
	int align = (longest + DENSE_SCORE_ALIGN - 1) / DENSE_SCORE_ALIGN * DENSE_SCORE_ALIGN;
	struct attention_shape s = { .offsets = (const uint32_t *)integers("offsets"), .captions = dim("offsets", 0) - 1, .heads = heads,
				     .head_width = width / heads, .ldq = width, .ldkv = width, .ldctx = width, .ldprobs = align };
	size_t all = (size_t)T * (size_t)width;
	struct dropout_spec drop = dropout();
	float *q = floats("q"), *k = floats("k"), *v = floats("v"), *y = zeros(all), *probs = zeros((size_t)T * (size_t)heads * (size_t)align);
	float *dq = zeros(all), *dk = zeros(all), *dv = zeros(all);

	kernels.dense->attention(y, probs, q, k, v, s, &drop);
	kernels.dense->attention_backward(dq, dk, dv, floats("dy"), y, probs, q, k, v, s, &drop);
	give("y", y, 2, T, width);
	give("dq", dq, 2, T, width);
	give("dk", dk, 2, T, width);
	give("dv", dv, 2, T, width);
}

static void pairs(void)
{
	int B = dim("v", 0), C = dim("t", 0), width = dim("v", 1), n = dim("picture", 0);
	struct dropout_spec drop = dropout();
	const uint32_t *picture = (const uint32_t *)integers("picture"), *caption = (const uint32_t *)integers("caption");
	const uint32_t *from = (const uint32_t *)integers("picture_positions"), *to = (const uint32_t *)integers("caption_positions");
	float *y = zeros((size_t)n * 2 * (size_t)width), *dv = zeros((size_t)B * (size_t)width), *dt = zeros((size_t)C * (size_t)width);

	kernels.dense->pair_concat(y, floats("v"), floats("t"), picture, caption, from, to, n, width, &drop);
	kernels.dense->pair_concat_backward(dv, dt, floats("dy"), picture, caption, from, to, n, B, C, width, &drop);
	give("y", y, 2, n, 2 * width);
	give("dv", dv, 2, B, width);
	give("dt", dt, 2, C, width);
}

/* LayerNorm(relu(x + bias)) */
static void relu_norm(void)
{
	int rows = dim("x", 0), width = dim("x", 1);
	size_t n = (size_t)rows, W = (size_t)width;
	struct norm_weights norm = { floats("gamma"), floats("beta"), (float)number("eps") };
	float *x = floats("x"), *y = zeros(n * W), *mean = zeros(n), *rstd = zeros(n), *dx = zeros(n * W);
	float *dgamma = zeros(W), *dbeta = zeros(W), *dbias = zeros(W);

	kernels.dense->relu_norm(y, x, mean, rstd, floats("bias"), norm, rows, width);
	kernels.dense->relu_norm_backward(dx, dgamma, dbeta, dbias, floats("dy"), x, mean, rstd, norm, rows, width);
	give("y", y, 2, rows, width);
	give("dx", dx, 2, rows, width);
	give("dgamma", dgamma, 1, width);
	give("dbeta", dbeta, 1, width);
	give("dbias", dbias, 1, width);
}

static void cross_entropy(void)
{
	int n = dim("logits", 0), classes = dim("logits", 1), correct;
	float *dlogits = zeros((size_t)n * (size_t)classes), *values = zeros(2);

	values[0] = (float)kernels.dense->cross_entropy(dlogits, floats("logits"), integers("labels"), floats("weight"), n, classes, &correct);
	values[1] = (float)correct;
	give("dlogits", dlogits, 2, n, classes);
	give("values", values, 1, 2);
}

static const struct {
	const char *name;
	void (*run)(void);
} operations[] = {
	{ "conv", conv }, { "batch_norm", batch_norm }, { "max_pool", max_pool }, { "average_pool", average_pool }, { "linear", linear },
	{ "encoder_linear", encoder_linear },
	{ "gelu", gelu }, { "residual_norm", residual_norm }, { "embeddings", embeddings }, { "attention", attention }, { "pairs", pairs },
	{ "relu_norm", relu_norm }, { "cross_entropy", cross_entropy },
};

static void choose(const char *name)
{
	bool reference = strcmp(name, "reference") == 0, half = strcmp(name, "bf16") == 0;
	struct err err;

	if (half && kernels_check_precision(name, &err) != 0) {
		fprintf(stderr, "%s\n", err.message);
		exit(EXIT_NO_BF16);
	}
	kernels_set_precision(half ? "bf16" : "fp32");
	kernels = reference ? *kernels_reference() : *kernels_fast();
	if (strcmp(name, "openblas") == 0)
		kernels.image = image_ops_blas();
	else if (!reference && !half && strcmp(name, "fast") != 0)
		fail(name, "choose reference, fast, openblas or bf16");
}

int main(int argc, char **argv)
{
	bool known = false;

	if (argc != 5)
		fail("usage", "layers KERNELS THREADS IN OUT");
	log_setup("layers", LOG_ERROR, 0);
	choose(argv[1]);
	kernels_set_threads(atoi(argv[2]));
	OK(tensorfile_open(&input, argv[3], err));
	OK(kernels.image->engine_open(&engine, err));
	for (size_t i = 0; i < ARRAY_LEN(operations); i++)
		if (strcmp(operations[i].name, text("op")) == 0) {
			operations[i].run();
			known = true;
		}
	if (!known)
		fail(text("op"), "no such operation");
	OK(tensorfile_write(argv[4], outputs, output_count, NULL, 0, err));
	kernels.image->engine_close(engine);
	tensorfile_close(input);
	free_arrays();
	return 0;
}
