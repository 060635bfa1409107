#include "trainer/reg/stages.h"

static size_t feature_elements(const struct model_config *config, int rows)
{
	return (size_t)rows * (size_t)config->features;
}

static size_t word_elements(const struct model_config *config, const struct model_limits *limits)
{
	return (size_t)limits->tokens * (size_t)config->text.width;
}

int stages_open(struct stages *out, struct model *model, const struct model_limits *limits, const struct vector_ops *ops,
		struct err *err)
{
	const struct model_config *config = model_config(model);

	*out = (struct stages){ .model = model, .ops = ops };
	out->v = model_alloc(feature_elements(config, limits->pictures));
	out->dv = model_alloc(feature_elements(config, limits->pictures));
	out->t = model_alloc(feature_elements(config, limits->captions));
	out->dt = model_alloc(feature_elements(config, limits->captions));
	out->word = model_alloc(word_elements(config, limits));
	out->dword = model_alloc(word_elements(config, limits));
	out->logits = model_alloc((size_t)limits->pairs * (size_t)config->classes);
	if (out->v == NULL || out->dv == NULL || out->t == NULL || out->dt == NULL || out->word == NULL || out->dword == NULL ||
	    out->logits == NULL) {
		stages_close(out);
		return err_nomem(err, stages_bytes(config, limits));
	}
	return 0;
}

void stages_close(struct stages *stages)
{
	model_release(stages->v);
	model_release(stages->dv);
	model_release(stages->t);
	model_release(stages->dt);
	model_release(stages->word);
	model_release(stages->dword);
	model_release(stages->logits);
	*stages = (struct stages){ 0 };
}

size_t stages_bytes(const struct model_config *config, const struct model_limits *limits)
{
	return sizeof(float) * (2 * feature_elements(config, limits->pictures) + 2 * feature_elements(config, limits->captions) +
				2 * word_elements(config, limits) + (size_t)limits->pairs * (size_t)config->classes);
}

struct model_call stages_text_call(const struct stages *stages)
{
	return (struct model_call){ .mode = MODEL_TRAIN, .dropout = stages->dropout, .seed = stages->seed, .step = stages->step,
				    .positions = stages->caption_positions };
}
