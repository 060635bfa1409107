#include "trainer/probe/probe.h"

#include <stdio.h>
#include <string.h>

#include "shared/base/args.h"
#include "shared/base/mem.h"
#include "shared/base/plural.h"
#include "trainer/io/weights.h"
#include "trainer/kernels/kernels.h"
#include "trainer/model/hf_config.h"
#include "trainer/probe/batch_file.h"
#include "trainer/probe/reg_step.h"
#include "trainer/reg/spec.h"
#include "trainer/train/origin.h"

enum { DIMENSION_MAX = 1 << 24, GRAD_NAME_BYTES = PARAM_NAME_BYTES + 8, EXTRA_TENSORS = 3 };

struct options {
	const char *preset, *task, *mode, *precision, *weights, *batch, *out;
	const char *image_encoder, *text_encoder, *text_config;
	const char *socket, *cache, *reg;
	int64_t image_size, threads, accumulate, seed, step;
	bool pixel_gradients;
};

/* Micro-batches: of each, its pictures with their captions and the pairs among them. */
struct parts {
	int count, pictures;          /* pictures of each; the last has what is left */
	uint32_t *picture, *caption;  /* (N) of one part's pairs, counted from its first */
	int32_t *label;               /* (N) */
	float *weight;                /* (N) 1 / N, with N of the whole batch */
	int *place;                   /* (N) of one part's pairs in the file */
	uint32_t *offsets;            /* (pictures + 1) of one part's tokens */
	float *logits;                /* (N, K) of one part */
};

struct probe {
	struct options options;
	struct args_result args;
	struct statefile *weights;
	struct tensorfile *batch_tensors;
	struct model_config config;
	struct batch_file batch;
	struct model *model;
	float *v, *t, *word;          /* (B, F), (B, F), (T, W) */
	float *dv, *dt, *dword;
	float *dpixels;               /* (B, 3, S, S) or NULL */
	float *logits;                /* (N, K) */
	double loss;
	struct parts parts;
	struct reg_step *reg;         /* with --reg */
};

static const char usage[] =
	"trainer probe --preset P [--task match|classify|contrast] [--mode train|eval] [--reg SPEC] --weights FILE --batch FILE --out FILE";
static const char description[] =
	"Runs the model forward and backward once, dropout off, and writes logits, loss (mean over the listed pairs) and "
	"every gradient as NAME.grad, to hold against another implementation. Files are safetensors; weights may be .pth or .bin "
	"files too.\n"
	"\n"
	"    trainer probe --preset small --mode eval --weights w.safetensors --batch b.safetensors --out grads.safetensors\n"
	"\n"
	"With --reg the gradients are those of one training step's whole objective, and what it drew at random (masks, shares, "
	"starts) is written too (schemas/probe.md).";

static int parse(struct options *o, struct args_result *args, int argc, char *const argv[], struct err *err)
{
	const struct args_option options[] = {
		{ .name = "preset", .kind = ARGS_TEXT, .value = &o->preset, .metavar = "NAME", .help = "full, small or tiny." },
		{ .name = "image-encoder", .kind = ARGS_TEXT, .value = &o->image_encoder, .metavar = "NAME",
		  .help = "resnet18, resnet34, resnet50, resnet101 or resnet152. Default: that of the run whose weights they are, else the preset's." },
		{ .name = "text-encoder", .kind = ARGS_TEXT, .value = &o->text_encoder, .metavar = "SIZES",
		  .help = "Sizes of the BERT, such as layers=4,width=256,heads=4,inner=1024. Default: the run's, else the preset's." },
		{ .name = "text-config", .kind = ARGS_TEXT, .value = &o->text_config, .metavar = "FILE",
		  .help = "Sizes of the BERT from Hugging Face's config.json." },
		{ .name = "task", .kind = ARGS_TEXT, .value = &o->task, .metavar = "TASK",
		  .help = "match (the batch has pair_image, pair_text, pair_label), classify (labels) or contrast. Default: match." },
		{ .name = "mode", .kind = ARGS_TEXT, .value = &o->mode, .metavar = "MODE",
		  .help = "train: batch norm on the batch's statistics, running ones untouched; eval: on running ones. "
			  "Default: train." },
		{ .name = "precision", .kind = ARGS_TEXT, .value = &o->precision, .metavar = "P",
		  .help = "fp32 or bf16, as in training. Default: fp32." },
		{ .name = "weights", .kind = ARGS_TEXT, .value = &o->weights, .metavar = "FILE",
		  .help = "The whole state dict; vocabulary size and classes are read off it." },
		{ .name = "batch", .kind = ARGS_TEXT, .value = &o->batch, .metavar = "FILE",
		  .help = "image, input_ids, attention_mask, and pairs or labels." },
		{ .name = "out", .kind = ARGS_TEXT, .value = &o->out, .metavar = "FILE", .help = "Where the results go." },
		{ .name = "pixel-gradients", .kind = ARGS_FLAG, .value = &o->pixel_gradients,
		  .help = "Write image.grad too." },
		{ .name = "accumulate", .kind = ARGS_INT, .value = &o->accumulate, .metavar = "K", .min = 1, .max = BATCH_ROWS_MAX,
		  .help = "Forward and backward for K micro-batches, one after the other, gradients added up: ceil(B / K) pictures each, "
			  "the last with what is left. Every pair must lie within one. Default: 1." },
		{ .name = "reg", .kind = ARGS_TEXT, .value = &o->reg, .metavar = "SPEC",
		  .help = "A step with these regularizers, each of them at work whatever its epochs, every and warmup say. No dropout but "
			  "what SPEC names." },
		{ .name = "seed", .kind = ARGS_INT, .value = &o->seed, .metavar = "S", .min = 0, .max = INT64_MAX,
		  .help = "Of what --reg draws. Default: 0." },
		{ .name = "step", .kind = ARGS_INT, .value = &o->step, .metavar = "N", .min = 0, .max = INT64_MAX,
		  .help = "Number of the step, which names what --reg draws. Default: 0." },
		{ .name = "image-size", .kind = ARGS_INT, .value = &o->image_size, .metavar = "N", .min = 1, .max = 65536,
		  .help = "Fails when the batch has another size. Default: the batch's." },
		{ .name = "threads", .kind = ARGS_INT, .value = &o->threads, .metavar = "N", .min = 1, .max = 1024,
		  .help = "Default: one for each core." },
		{ .name = "socket", .kind = ARGS_TEXT, .value = &o->socket, .metavar = "PATH", .help = "Not used here." },
		{ .name = "cache", .kind = ARGS_TEXT, .value = &o->cache, .metavar = "DIR", .help = "Not used here." },
	};
	const struct args_spec spec = { usage, description, options, (int)ARRAY_LEN(options), 0, 0 };
	int code = args_parse(&spec, argc, argv, args, err);

	if (code != 0)
		return code;
	if (args->help)
		args_print_help(&spec);
	return 0;
}

static int check_options(struct options *o, struct err *err)
{
	const struct {
		const char *name, *value;
	} needed[] = { { "preset", o->preset }, { "weights", o->weights }, { "batch", o->batch }, { "out", o->out } };

	for (size_t i = 0; i < ARRAY_LEN(needed); i++) {
		if (needed[i].value == NULL)
			return err_set(err, ERR_USAGE, "--%s is needed: %s", needed[i].name, usage);
	}
	enum model_task task;

	if (model_task_parse(&task, o->task, err) != 0)
		return err->code;
	if (o->reg != NULL && strcmp(o->task, "contrast") == 0)
		return reg_spec_refuse(o->reg, err, "the probe takes regularizers for --task match and classify; leave --reg out");
	if (o->reg != NULL && (o->pixel_gradients || o->accumulate > 1))
		return err_set(err, ERR_USAGE, "--%s is of the plain loss; leave out --reg", o->pixel_gradients ? "pixel-gradients" : "accumulate");
	if (strcmp(o->mode, "train") != 0 && strcmp(o->mode, "eval") != 0)
		return err_set(err, ERR_USAGE, "--mode %s: choose train or eval", o->mode);
	return kernels_check_precision(o->precision, err);
}

/* The first dimension of a matrix of the weights file. */
static int rows_of(const struct statefile *file, const char *name, int *out, struct err *err)
{
	const struct state_tensor *tensor = statefile_find(file, name);
	const struct tensor_view *view;
	char shape[128];

	if (tensor == NULL)
		return err_set(err, ERR_MISMATCH, "%s: lacks %s (its first tensor is %.80s); it must be the whole model's state dict, under the "
			       "names of the script", statefile_path(file), name,
			       statefile_count(file) > 0 ? statefile_at(file, 0)->view.name : "none");
	view = &tensor->view;
	if (view->rank != 2 || view->shape[0] < 1 || view->shape[0] > DIMENSION_MAX)
		return err_set(err, ERR_MISMATCH, "%s: %s has shape %s; it must be a matrix of at most %d rows",
			       tensor->path, name, tensor_shape_text(view->rank, view->shape, shape, sizeof(shape)),
			       DIMENSION_MAX);
	*out = (int)view->shape[0];
	return 0;
}

/* Of the weights of a run, what nobody named is the run's. */
static int apply_encoders(struct probe *probe, struct err *err)
{
	const struct options *o = &probe->options;
	const char *image = o->image_encoder, *text = o->text_encoder;
	struct origin origin;
	int code = origin_read(&origin, probe->weights, err);

	if (image == NULL)
		image = origin.config.image_encoder;
	if (text == NULL && o->text_config == NULL)
		text = origin.config.text_encoder;
	if (code == 0)
		code = encoders_apply(&probe->config, image, o->text_config, text, err);
	if (code == 0)
		code = origin_check_text(&origin, o->weights, &probe->config.text, err);
	origin_free(&origin);
	return code;
}

/* The preset, with the sizes that the two files decide. */
static int configure(struct probe *probe, struct err *err)
{
	const struct options *o = &probe->options;
	struct model_config *config = &probe->config;
	int image_size, code;

	if ((code = model_preset(config, o->preset, 0, err)) != 0 ||
	    (code = statefile_open(&probe->weights, o->weights, err)) != 0 ||
	    (code = tensorfile_open(&probe->batch_tensors, o->batch, err)) != 0 ||
	    (code = batch_file_image_size(probe->batch_tensors, &image_size, err)) != 0)
		return code;
	if (o->image_size != 0 && o->image_size != image_size)
		return err_set(err, ERR_MISMATCH, "%s: pictures of %d pixels, but --image-size %d", o->batch, image_size,
			       (int)o->image_size);
	if ((code = model_preset(config, o->preset, image_size, err)) != 0)
		return err_prefix(err, "%s", o->batch);
	if ((code = apply_encoders(probe, err)) != 0 ||
	    (code = model_task_parse(&config->task, o->task, err)) != 0)
		return code;
	if (config->task == TASK_CONTRAST)
		config->classes = 1;
	config->text.dropout = config->text.attention_dropout = 0;
	if ((code = rows_of(probe->weights, "text_encoder.embeddings.word_embeddings.weight", &config->text.vocab_size, err)) != 0 ||
	    (code = rows_of(probe->weights, "text_encoder.embeddings.position_embeddings.weight", &config->text.max_positions,
			    err)) != 0 ||
	    (code = rows_of(probe->weights, "text_encoder.embeddings.token_type_embeddings.weight", &config->text.token_types,
			    err)) != 0 ||
	    (config->task != TASK_CONTRAST && (code = rows_of(probe->weights, "head.weight", &config->classes, err)) != 0))
		return code;
	if (config->task == TASK_MATCH && config->classes != 2)
		return err_set(err, ERR_MISMATCH, "%s: head.weight has %d rows, but matching has 2 classes; use --task classify",
			       o->weights, config->classes);
	return 0;
}

static int logit_columns(const struct probe *probe)
{
	return probe->config.task == TASK_CONTRAST ? probe->batch.B : probe->config.classes;
}

static int open_model(struct probe *probe, struct err *err)
{
	const struct batch_file *batch = &probe->batch;
	int pictures = probe->parts.pictures;
	const struct model_limits limits = { .pictures = pictures, .captions = pictures, .tokens = batch->tokens,
					     .tokens_per_caption = batch->longest, .pairs = batch->pairs.count, .training = true,
					     .fused_rows = probe->reg == NULL ? 0 : batch->pairs.count };
	size_t B = (size_t)batch->B, F = (size_t)probe->config.features, S = (size_t)batch->image_size;
	size_t words = (size_t)batch->tokens * (size_t)probe->config.text.width;
	int code = model_open(&probe->model, &probe->config, &limits, err);

	if (code != 0)
		return code;
	probe->v = model_alloc(B * F);
	probe->t = model_alloc(B * F);
	probe->dv = model_alloc(B * F);
	probe->dt = model_alloc(B * F);
	probe->word = model_alloc(words);
	probe->dword = model_alloc(words);
	probe->logits = model_alloc((size_t)batch->pairs.count * (size_t)logit_columns(probe));
	if (probe->options.pixel_gradients)
		probe->dpixels = model_alloc(B * 3 * S * S);
	if (probe->v == NULL || probe->t == NULL || probe->dv == NULL || probe->dt == NULL || probe->word == NULL ||
	    probe->dword == NULL || probe->logits == NULL || (probe->options.pixel_gradients && probe->dpixels == NULL))
		return err_nomem(err, B * 3 * S * S * sizeof(float));
	if (probe->reg != NULL && (code = reg_step_plan(probe->reg, probe->model, &limits, batch, err)) != 0)
		return code;
	params_init(model_params(probe->model), 0); /* for running statistics, which the file may lack */
	return weights_load_strict(model_params(probe->model), probe->weights, "", err);
}

/* ---- micro-batches ---- */

static int split(struct probe *probe, struct err *err)
{
	const struct model_pairs *pairs = &probe->batch.pairs;
	struct parts *parts = &probe->parts;
	size_t N = (size_t)pairs->count;
	int wanted = (int)probe->options.accumulate, code;

	if (wanted > 1 && probe->config.task == TASK_CONTRAST)
		return err_set(err, ERR_USAGE, "--accumulate: contrast compares each picture with all captions of its batch, so micro-batches "
			       "are other batches; probe each of them alone");
	if (wanted > probe->batch.B)
		return err_set(err, ERR_USAGE, "--accumulate %d: %s has only %d picture%s", wanted, probe->options.batch, probe->batch.B,
			       plural((uint64_t)probe->batch.B));
	parts->pictures = (probe->batch.B + wanted - 1) / wanted;
	parts->count = (probe->batch.B + parts->pictures - 1) / parts->pictures;
	if (strcmp(probe->options.mode, "train") == 0 &&
	    (code = model_check_batch(&probe->config, probe->batch.B - (parts->count - 1) * parts->pictures, err)) != 0)
		return err_prefix(err, "%s", probe->options.batch);
	for (int n = 0; n < pairs->count; n++)
		if (pairs->picture[n] / (uint32_t)parts->pictures != pairs->caption[n] / (uint32_t)parts->pictures)
			return err_set(err, ERR_MISMATCH,
				       "%s: pair %d joins picture %u with caption %u of another micro-batch (each has %d pictures); leave such "
				       "pairs out, or choose another --accumulate", probe->options.batch, n, pairs->picture[n],
				       pairs->caption[n], parts->pictures);
	parts->picture = mem_array(N, sizeof(*parts->picture));
	parts->caption = mem_array(N, sizeof(*parts->caption));
	parts->label = mem_array(N, sizeof(*parts->label));
	parts->place = mem_array(N, sizeof(*parts->place));
	parts->offsets = mem_array((size_t)parts->pictures + 1, sizeof(*parts->offsets));
	parts->weight = mem_array(N, sizeof(*parts->weight));
	parts->logits = model_alloc(N * (size_t)probe->config.classes);
	if (parts->picture == NULL || parts->caption == NULL || parts->label == NULL || parts->place == NULL || parts->offsets == NULL ||
	    parts->weight == NULL || parts->logits == NULL)
		return err_nomem(err, N * sizeof(float));
	for (size_t n = 0; n < N; n++)
		parts->weight[n] = (float)(1.0 / (double)N);
	return 0;
}

/* The pairs of the pictures from `first` on. */
static struct model_pairs part_pairs(const struct batch_file *batch, struct parts *parts, int first, int pictures)
{
	struct model_pairs out = { .picture = parts->picture, .caption = parts->caption, .label = parts->label,
				   .weight = parts->weight };

	for (int n = 0; n < batch->pairs.count; n++) {
		uint32_t picture = batch->pairs.picture[n];

		if (picture < (uint32_t)first || picture >= (uint32_t)(first + pictures))
			continue;
		parts->picture[out.count] = picture - (uint32_t)first;
		parts->caption[out.count] = batch->pairs.caption[n] - (uint32_t)first;
		parts->label[out.count] = batch->pairs.label[n];
		parts->place[out.count++] = n;
	}
	return out;
}

static void run_part(struct probe *probe, int first)
{
	const struct batch_file *batch = &probe->batch;
	const struct model_call call = { .mode = strcmp(probe->options.mode, "train") == 0 ? MODEL_TRAIN_KEEP : MODEL_EVAL };
	struct model *model = probe->model;
	struct parts *parts = &probe->parts;
	size_t pixels = (size_t)first * 3 * (size_t)batch->image_size * (size_t)batch->image_size;
	size_t classes = (size_t)probe->config.classes;
	int B = batch->B - first < parts->pictures ? batch->B - first : parts->pictures;
	bool alone = parts->count == 1;
	struct model_pairs pairs = alone ? batch->pairs : part_pairs(batch, parts, first, B);
	const int32_t *ids = batch->ids + batch->offsets[first];
	int tokens = (int)(batch->offsets[first + B] - batch->offsets[first]);
	struct model_result result;

	for (int i = 0; i <= B; i++)
		parts->offsets[i] = batch->offsets[first + i] - batch->offsets[first];
	if (pairs.count == 0) { /* nothing to learn from: the gradient is zero */
		if (probe->dpixels != NULL)
			memset(probe->dpixels + pixels, 0, (size_t)B * 3 * (size_t)batch->image_size * (size_t)batch->image_size * sizeof(float));
		return;
	}
	model_image_forward(model, &call, batch->image + pixels, false, B, probe->v);
	model_embed_forward(model, ids, tokens, probe->word);
	model_text_forward(model, &call, probe->word, parts->offsets, B, probe->t);
	model_fusion_forward(model, &call, probe->v, B, probe->t, B, &pairs, NULL, NULL, alone ? probe->logits : parts->logits, &result);
	probe->loss += result.loss;
	for (int n = 0; !alone && n < pairs.count; n++)
		memcpy(probe->logits + (size_t)parts->place[n] * classes, parts->logits + (size_t)n * classes, classes * sizeof(float));
	model_fusion_backward(model, 1.0f, probe->dv, probe->dt);
	model_text_backward(model, probe->dt, probe->dword);
	model_embed_backward(model, ids, tokens, probe->dword);
	model_image_backward(model, probe->dv, probe->dpixels == NULL ? NULL : probe->dpixels + pixels);
}

static void run(struct probe *probe)
{
	params_zero_grads(model_params(probe->model));
	if (probe->reg != NULL) {
		enum model_mode mode = strcmp(probe->options.mode, "train") == 0 ? MODEL_TRAIN_KEEP : MODEL_EVAL;

		probe->loss = reg_step_run(probe->reg, mode, probe->logits);
		return;
	}
	for (int part = 0; part < probe->parts.count; part++)
		run_part(probe, part * probe->parts.pictures);
}

static struct tensor_view view_of(const char *name, int rank, const int64_t *shape, const float *data, size_t elements)
{
	struct tensor_view view = { .name = name, .dtype = TENSOR_F32, .rank = rank, .data = data,
				    .bytes = elements * sizeof(float) };

	memcpy(view.shape, shape, (size_t)rank * sizeof(*shape));
	return view;
}

static int write_results(const struct probe *probe, struct err *err)
{
	const struct params *params = model_params(probe->model);
	const struct batch_file *batch = &probe->batch;
	float loss = (float)probe->loss;
	const int64_t scores[] = { batch->pairs.count, logit_columns(probe) };
	const int64_t pixels[] = { batch->B, 3, batch->image_size, batch->image_size };
	int more = probe->reg == NULL ? 0 : reg_step_tensors(probe->reg);
	struct tensor_view *views = mem_array((size_t)params->count + EXTRA_TENSORS + (size_t)more, sizeof(*views));
	char (*names)[GRAD_NAME_BYTES] = mem_array((size_t)params->count, sizeof(*names));
	int count = 0, code;

	if (views == NULL || names == NULL) {
		code = err_nomem(err, (size_t)params->count * sizeof(*views));
		goto out;
	}
	views[count++] = view_of("logits", 2, scores, probe->logits, (size_t)(scores[0] * scores[1]));
	views[count++] = view_of("loss", 0, scores, &loss, 1);
	if (probe->dpixels != NULL)
		views[count++] = view_of("image.grad", 4, pixels, probe->dpixels,
					 (size_t)(pixels[0] * pixels[1] * pixels[2] * pixels[3]));
	for (int i = 0; i < params->count; i++) {
		const struct param *param = params_at(params, i);

		if (param->grad == NULL)
			continue;
		snprintf(names[i], sizeof(names[i]), "%s.grad", param->name);
		views[count++] = view_of(names[i], param->rank, param->shape, param->grad, param->count);
	}
	if (probe->reg != NULL)
		count += reg_step_views(probe->reg, views + count);
	code = tensorfile_write(probe->options.out, views, count, NULL, 0, err);
out:
	mem_free(views);
	mem_free(names);
	return code;
}

static void probe_free(struct probe *probe)
{
	float *const memory[] = { probe->v, probe->t, probe->dv, probe->dt, probe->word, probe->dword, probe->logits,
				  probe->dpixels, probe->parts.logits };

	for (size_t i = 0; i < ARRAY_LEN(memory); i++)
		model_release(memory[i]);
	mem_free(probe->parts.picture);
	mem_free(probe->parts.caption);
	mem_free(probe->parts.label);
	mem_free(probe->parts.place);
	mem_free(probe->parts.offsets);
	mem_free(probe->parts.weight);
	reg_step_close(probe->reg);
	model_close(probe->model);
	batch_file_free(&probe->batch);
	statefile_close(probe->weights);
	tensorfile_close(probe->batch_tensors);
	mem_free(probe);
}

int trainer_probe(int argc, char *const argv[], struct err *err)
{
	struct probe *probe = mem_array(1, sizeof(*probe));
	int code;

	if (probe == NULL)
		return err_nomem(err, sizeof(*probe));
	probe->options.task = "match";
	probe->options.mode = "train";
	probe->options.precision = "fp32";
	probe->options.accumulate = 1;
	if ((code = parse(&probe->options, &probe->args, argc, argv, err)) != 0 || probe->args.help)
		goto out;
	if ((code = check_options(&probe->options, err)) != 0)
		goto out;
	if ((code = configure(probe, err)) != 0 ||
	    (code = batch_file_read(&probe->batch, probe->batch_tensors, &probe->config, err)) != 0 || (code = split(probe, err)) != 0)
		goto out;
	kernels_set_precision(probe->options.precision);
	kernels_set_threads((int)probe->options.threads);
	if (probe->options.reg != NULL &&
	    (code = reg_step_open(&probe->reg, probe->options.reg, probe->config.task, (uint64_t)probe->options.seed,
				  (uint64_t)probe->options.step, err)) != 0)
		goto out;
	if ((code = open_model(probe, err)) != 0)
		goto out;
	run(probe);
	code = write_results(probe, err);
out:
	probe_free(probe);
	return code;
}
