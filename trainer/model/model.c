#include "trainer/model/model.h"

#include <string.h>

#include "shared/base/mem.h"
#include "trainer/kernels/kernels.h"
#include "trainer/kernels/profile.h"
#include "trainer/model/bert.h"
#include "trainer/model/contrast.h"
#include "trainer/model/fusion.h"
#include "trainer/model/resnet.h"

enum { IMAGE_SIZE_MIN = 16, IMAGE_SIZE_MAX = 2048, CLASSES_MAX = 65536 };

struct model {
	struct model_config config;
	struct params *params;
	struct resnet *image;
	struct bert *text;
	struct fusion *fusion;     /* or */
	struct contrast *contrast;
};

static const char *const task_names[] = { [TASK_MATCH] = "match", [TASK_CLASSIFY] = "classify", [TASK_CONTRAST] = "contrast" };

const char *model_task_name(enum model_task task)
{
	return task_names[task];
}

int model_task_parse(enum model_task *out, const char *name, struct err *err)
{
	for (size_t i = 0; i < ARRAY_LEN(task_names); i++)
		if (strcmp(task_names[i], name) == 0) {
			*out = (enum model_task)i;
			return 0;
		}
	return err_set(err, ERR_USAGE, "--task: '%s' is no task; choose match, classify or contrast", name);
}

/* BERT-base's vocabulary, positions, types and padding are the same at every size. */
#define BERT(l, w, h, i) { l, w, h, i, 30522, 512, 2, 0, 0.1, -1, 1e-12 }

static const struct {
	const char *name;
	struct model_config config;
} presets[] = {
	{ "full", { TASK_MATCH, { true, { 3, 4, 6, 3 }, 64, 224, 768 }, BERT(12, 768, 12, 3072), 768, 2, 0.3, false, false } },
	{ "small", { TASK_MATCH, { false, { 2, 2, 2, 2 }, 64, 112, 768 }, BERT(4, 256, 4, 1024), 768, 2, 0.3, false, false } },
	{ "tiny", { TASK_MATCH, { false, { 1, 1, 1, 1 }, 16, 64, 128 }, BERT(2, 64, 2, 256), 128, 2, 0.3, false, false } },
};

int model_preset(struct model_config *out, const char *name, int image_size, struct err *err)
{
	if (image_size != 0 && (image_size < IMAGE_SIZE_MIN || image_size > IMAGE_SIZE_MAX))
		return err_set(err, ERR_USAGE, "image size %d: choose %d to %d pixels", image_size, IMAGE_SIZE_MIN,
			       IMAGE_SIZE_MAX);
	for (size_t i = 0; i < ARRAY_LEN(presets); i++) {
		if (strcmp(presets[i].name, name) != 0)
			continue;
		*out = presets[i].config;
		if (image_size != 0)
			out->image.image_size = image_size;
		return 0;
	}
	return err_set(err, ERR_USAGE, "no preset is called '%s'; choose full, small or tiny", name);
}

int model_check_batch(const struct model_config *config, int pictures, struct err *err)
{
	/* Five layers of stride 2, each of which rounds up. */
	const int halvings = 5, last = (config->image.image_size + (1 << halvings) - 1) >> halvings;

	if (config->freeze_image || pictures * last * last > 1)
		return 0;
	return err_set(err, ERR_LIMIT, "a batch of one picture of %d px: the last stage of the image tower is one pixel then, and batch norm "
		       "makes nothing of one value a channel (PyTorch refuses it, too); take two pictures a batch, or more than %d px",
		       config->image.image_size, 1 << halvings);
}

/* What the fusion stage takes may be one row for each pair. */
static struct model_limits fusion_limits(const struct model_limits *limits)
{
	struct model_limits out = *limits;

	out.pictures = limits->fused_rows > out.pictures ? limits->fused_rows : out.pictures;
	out.captions = limits->fused_rows > out.captions ? limits->fused_rows : out.captions;
	return out;
}

static int open_last_stage(struct model *model, const struct kernels *kernels, struct err *err)
{
	const struct model_config *config = &model->config;

	if (config->task == TASK_CONTRAST)
		return contrast_open(&model->contrast, config->features, kernels, model->params, err);
	return fusion_open(&model->fusion, config->features, config->classes, kernels, model->params, err);
}

static int plan_last_stage(struct model *model, const struct model_limits *limits, struct err *err)
{
	if (model->contrast != NULL)
		return contrast_plan(model->contrast, limits, err);
	const struct model_limits fusion = fusion_limits(limits);

	return fusion_plan(model->fusion, &fusion, limits->training, err);
}

/* A frozen tower is planned for its groups whatever the batch is: the plan decides the order of additions. */
static int plan_towers(struct model *model, const struct model_limits *limits, struct err *err)
{
	struct model_limits frozen = {
		.pictures = MODEL_FROZEN_GROUP, .captions = MODEL_FROZEN_GROUP, .tokens = MODEL_FROZEN_GROUP * limits->tokens_per_caption,
		.tokens_per_caption = limits->tokens_per_caption, .pairs = limits->pairs, .training = false,
	};
	const struct model_limits *image = model->config.freeze_image ? &frozen : limits;
	int code = resnet_plan(model->image, image->pictures, image->training, image->recompute, err);

	return code != 0 ? code : bert_plan(model->text, model->config.freeze_text ? &frozen : limits, err);
}

static int open_stages(struct model *model, const struct model_limits *limits, struct err *err)
{
	const struct kernels *kernels = kernels_fast();
	const struct model_config *config = &model->config;
	int code;

	if ((code = params_open(&model->params, err)) != 0)
		return code;
	params_freeze(model->params, config->freeze_image);
	if ((code = resnet_open(&model->image, &config->image, kernels, model->params, err)) != 0)
		return code;
	params_freeze(model->params, config->freeze_text);
	if ((code = bert_open(&model->text, &config->text, config->features, kernels, model->params, err)) != 0)
		return code;
	params_freeze(model->params, false);
	if ((code = open_last_stage(model, kernels, err)) != 0 || (code = params_allocate(model->params, err)) != 0 ||
	    (code = plan_towers(model, limits, err)) != 0 ||
	    (code = plan_last_stage(model, limits, err)) != 0)
		return code;
	return 0;
}

int model_open(struct model **out, const struct model_config *config, const struct model_limits *limits, struct err *err)
{
	struct model *model = NULL;
	int code;

	*out = NULL;
	if (config->task != TASK_CONTRAST && (config->classes < 2 || config->classes > CLASSES_MAX))
		return err_set(err, ERR_USAGE, "%d classes: there must be 2 to %d", config->classes, CLASSES_MAX);
	CHECK(config->image.out_features == config->features);
	model = mem_array(1, sizeof(*model));
	if (model == NULL)
		return err_nomem(err, sizeof(*model));
	model->config = *config;
	if ((code = open_stages(model, limits, err)) != 0) {
		model_close(model);
		return code;
	}
	*out = model;
	return 0;
}

void model_close(struct model *model)
{
	if (model == NULL)
		return;
	resnet_close(model->image);
	bert_close(model->text);
	fusion_close(model->fusion);
	contrast_close(model->contrast);
	params_close(model->params);
	mem_free(model);
}

const struct model_config *model_config(const struct model *model)
{
	return &model->config;
}

struct params *model_params(struct model *model)
{
	return model->params;
}

size_t model_activation_bytes(const struct model *model, const struct model_limits *batch, bool recompute)
{
	struct model_limits fusion = fusion_limits(batch);

	return resnet_activation_bytes(model->image, recompute) + bert_activation_bytes(model->text, batch, recompute) +
	       (model->contrast != NULL ? contrast_activation_bytes(model->contrast) : fusion_activation_bytes(model->fusion, &fusion));
}

void model_set_fusion_dropout(struct model *model, double probability)
{
	CHECK(probability >= 0.0 && probability <= 1.0);
	model->config.fusion_dropout = probability;
}

void model_set_drops(struct model *model, const struct model_drops *drops)
{
	double p = model->config.text.dropout, probs = model->config.text.attention_dropout < 0 ? p : model->config.text.attention_dropout;

	if (model->fusion != NULL)
		fusion_set_head_dropout(model->fusion, drops->head);
	bert_set_dropout(model->text, drops->bert_hidden < 0 ? p : drops->bert_hidden,
			 drops->bert_attention < 0 ? probs : drops->bert_attention, drops->text_depth);
	resnet_set_depth(model->image, model->config.freeze_image ? 0 : drops->image_depth); /* a frozen tower drops nothing */
}

void model_inputs_only(struct model *model, bool inputs_only)
{
	resnet_inputs_only(model->image, inputs_only);
	bert_inputs_only(model->text, inputs_only);
	if (model->fusion != NULL)
		fusion_inputs_only(model->fusion, inputs_only);
	else
		contrast_inputs_only(model->contrast, inputs_only);
}

void model_image_forward(struct model *model, const struct model_call *call, const float *pixels, bool nhwc, int B, float *v)
{
	enum profile_part before = profile_enter(PART_IMAGE_FORWARD);

	resnet_draw(model->image, call, B);
	resnet_forward(model->image, call->mode, pixels, nhwc, B, v);
	profile_leave(before);
}

void model_image_backward(struct model *model, const float *dv, float *dpixels)
{
	enum profile_part before = profile_enter(PART_IMAGE_BACKWARD);

	resnet_backward(model->image, dv, dpixels);
	profile_leave(before);
}

void model_embed_forward(struct model *model, const int32_t *ids, int T, float *word)
{
	enum profile_part before = profile_enter(PART_TEXT_FORWARD);

	bert_embed_forward(model->text, ids, T, word);
	profile_leave(before);
}

void model_embed_backward(struct model *model, const int32_t *ids, int T, const float *dword)
{
	enum profile_part before = profile_enter(PART_TEXT_BACKWARD);

	bert_embed_backward(model->text, ids, T, dword);
	profile_leave(before);
}

void model_text_forward(struct model *model, const struct model_call *call, const float *word, const uint32_t *offsets,
			int C, float *t)
{
	enum profile_part before = profile_enter(PART_TEXT_FORWARD);

	bert_forward(model->text, call, word, offsets, C, t);
	profile_leave(before);
}

void model_text_backward(struct model *model, const float *dt, float *dword)
{
	enum profile_part before = profile_enter(PART_TEXT_BACKWARD);

	bert_backward(model->text, dt, dword);
	profile_leave(before);
}

void model_fusion_forward(struct model *model, const struct model_call *call, const float *v, int B, const float *t, int C,
			  const struct model_pairs *pairs, const uint32_t *picture_positions,
			  const uint32_t *caption_positions, float *logits, struct model_result *result)
{
	enum profile_part before = profile_enter(PART_FUSION);

	if (model->contrast != NULL)
		contrast_forward(model->contrast, v, B, t, C, pairs, logits, result);
	else
		fusion_forward(model->fusion, call, (float)model->config.fusion_dropout, v, B, t, C, pairs, picture_positions,
			       caption_positions, logits, result);
	profile_leave(before);
}

void model_fusion_backward(struct model *model, float scale, float *dv, float *dt)
{
	enum profile_part before = profile_enter(PART_FUSION);

	if (model->contrast != NULL)
		contrast_backward(model->contrast, scale, dv, dt);
	else
		fusion_backward(model->fusion, scale, dv, dt);
	profile_leave(before);
}

void model_settle(struct model *model)
{
	if (model->contrast != NULL)
		contrast_settle(model->contrast);
}

float model_contrast_log_scale(const struct model *model)
{
	CHECK(model->contrast != NULL);
	return contrast_log_scale(model->contrast);
}

void model_fusion_backward_from(struct model *model, const float *dlogits, float *dv, float *dt)
{
	enum profile_part before = profile_enter(PART_FUSION);

	CHECK(model->fusion != NULL);
	fusion_backward_from(model->fusion, dlogits, dv, dt);
	profile_leave(before);
}

float *model_alloc(size_t elements)
{
	size_t bytes;

	return size_mul(elements, sizeof(float), &bytes) ? mem_aligned(bytes) : NULL;
}

void model_release(float *memory)
{
	mem_free(memory);
}
