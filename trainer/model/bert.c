/* bert.c - the text tower's parameters, and what is set before it runs. */
#include <stdio.h>

#include "trainer/model/bert_parts.h"

#define INIT_DEVIATION 0.02f

static int add_encoder_layer(struct bert *bert, int number, struct err *err)
{
	struct encoder_layer *layer = &bert->layers[number];
	int W = bert->config.width, I = bert->config.inner, code;
	const int64_t square[2] = { W, W };
	static const char *const parts[] = { "query", "key", "value" };
	struct layer *qkv[] = { &layer->query, &layer->key, &layer->value };
	char name[PARAM_NAME_BYTES];

	for (int bias = 0; bias < 2; bias++) {
		for (int i = 0; i < 3; i++) {
			snprintf(name, sizeof(name), "text_encoder.encoder.layer.%d.attention.self.%s.%s", number, parts[i],
				 bias ? "bias" : "weight");
			code = bias ? params_add(bert->params, &qkv[i]->bias, name, PARAM_BIAS, INIT_ZERO, 0, 1, square, err)
				    : params_add(bert->params, &qkv[i]->weight, name, PARAM_WEIGHT, INIT_NORMAL,
						 INIT_DEVIATION, 2, square, err);
			if (code != 0)
				return code;
			params_at(bert->params, bias ? qkv[i]->bias : qkv[i]->weight)->joined = i > 0;
		}
	}
	const struct {
		const char *name;
		struct layer *layer;
		int out, in; /* in 0: LayerNorm */
	} rest[] = {
		{ "attention.output.dense", &layer->attention_output, W, W },
		{ "attention.output.LayerNorm", &layer->attention_norm, W, 0 },
		{ "intermediate.dense", &layer->intermediate, I, W },
		{ "output.dense", &layer->output, W, I },
		{ "output.LayerNorm", &layer->output_norm, W, 0 },
	};
	for (size_t i = 0; i < ARRAY_LEN(rest); i++) {
		snprintf(name, sizeof(name), "text_encoder.encoder.layer.%d.%s", number, rest[i].name);
		code = rest[i].in == 0 ? layer_add_norm(bert->params, rest[i].layer, name, rest[i].out, err)
				       : layer_add_linear(bert->params, rest[i].layer, name, rest[i].out, rest[i].in,
							  INIT_DEVIATION, err);
		if (code != 0)
			return code;
	}
	return 0;
}

static int add_embeddings(struct bert *bert, struct err *err)
{
	const struct bert_config *config = &bert->config;
	const struct {
		const char *name;
		int *index, rows;
	} tables[] = {
		{ "text_encoder.embeddings.word_embeddings.weight", &bert->word, config->vocab_size },
		{ "text_encoder.embeddings.position_embeddings.weight", &bert->position, config->max_positions },
		{ "text_encoder.embeddings.token_type_embeddings.weight", &bert->type, config->token_types },
	};

	for (size_t i = 0; i < ARRAY_LEN(tables); i++) {
		const int64_t shape[2] = { tables[i].rows, config->width };
		int code = params_add(bert->params, tables[i].index, tables[i].name, PARAM_EMBEDDING,
				      i == 0 ? INIT_NORMAL_PAD_ZERO : INIT_NORMAL, INIT_DEVIATION, 2, shape, err);

		if (code != 0)
			return code;
	}
	params_at(bert->params, bert->word)->pad = config->pad_id;
	return layer_add_norm(bert->params, &bert->embed_norm, "text_encoder.embeddings.LayerNorm", config->width, err);
}

static int add_pooler(struct bert *bert, struct err *err)
{
	const int64_t square[2] = { bert->config.width, bert->config.width };
	int index, code;

	code = params_add(bert->params, &index, "text_encoder.pooler.dense.weight", PARAM_UNUSED, INIT_NORMAL, INIT_DEVIATION, 2,
			  square, err);
	return code != 0 ? code
			 : params_add(bert->params, &index, "text_encoder.pooler.dense.bias", PARAM_UNUSED, INIT_ZERO, 0, 1,
				      square, err);
}

static int check_config(const struct bert_config *config, struct err *err)
{
	if (config->layers < 1 || config->layers > BERT_LAYERS_MAX)
		return err_set(err, ERR_LIMIT, "text tower: %d layers; it takes 1 to %d", config->layers, BERT_LAYERS_MAX);
	if (config->heads < 1 || config->width < 1 || config->width % config->heads != 0)
		return err_set(err, ERR_USAGE, "text tower: width %d must be a multiple of its %d heads", config->width, config->heads);
	if (config->width / config->heads > DENSE_HEAD_MAX)
		return err_set(err, ERR_LIMIT, "text tower: heads of width %d; at most %d", config->width / config->heads,
			       DENSE_HEAD_MAX);
	if (!(config->norm_eps > 0 && config->norm_eps < 1))
		return err_set(err, ERR_USAGE, "text tower: LayerNorm's eps is above 0 and below 1, so not %g", config->norm_eps);
	if (config->inner < 1 || config->token_types < 1 || config->max_positions < 1 || config->pad_id < 0 ||
	    config->vocab_size <= config->pad_id)
		return err_set(err, ERR_USAGE, "text tower: vocabulary of %d, %d positions, %d types, inner width %d: all "
			       "must be positive, the padding id %d within the vocabulary", config->vocab_size,
			       config->max_positions, config->token_types, config->inner, config->pad_id);
	return 0;
}

int bert_open(struct bert **out, const struct bert_config *config, int out_features, const struct kernels *kernels,
	      struct params *params, struct err *err)
{
	struct bert *bert;
	int code = check_config(config, err);

	*out = NULL;
	if (code != 0)
		return code;
	bert = mem_array(1, sizeof(*bert));
	if (bert == NULL)
		return err_nomem(err, sizeof(*bert));
	bert->config = *config;
	bert->features = out_features;
	bert->kernels = kernels;
	bert->params = params;
	bert_set_dropout(bert, config->dropout, config->attention_dropout < 0 ? config->dropout : config->attention_dropout, 0);
	if ((code = add_embeddings(bert, err)) != 0)
		goto failed;
	for (int i = 0; i < config->layers; i++) {
		if ((code = add_encoder_layer(bert, i, err)) != 0)
			goto failed;
	}
	if ((code = add_pooler(bert, err)) != 0 ||
	    (code = layer_add_linear(params, &bert->projector, "text_projector", out_features, config->width, 0, err)) != 0)
		goto failed;
	*out = bert;
	return 0;
failed:
	bert_close(bert);
	return code;
}

void bert_close(struct bert *bert)
{
	if (bert == NULL)
		return;
	arena_release(&bert->arena);
	mem_free(bert->offsets);
	mem_free(bert->positions);
	mem_free(bert);
}

void bert_set_dropout(struct bert *bert, double hidden, double attention, double depth)
{
	bert->hidden = (float)hidden;
	bert->attention = (float)attention;
	bert->depth = (float)depth;
}

void bert_inputs_only(struct bert *bert, bool inputs_only)
{
	bert->inputs_only = inputs_only;
}
