/* bert_forward.c - packed tokens to features, layer by layer. */
#include <string.h>

#include "trainer/model/bert_parts.h"

void bert_embed_forward(struct bert *bert, const int32_t *ids, int T, float *word)
{
	bert->kernels->dense->gather_rows(word, params_at(bert->params, bert->word)->value, ids, T, bert->config.width);
}

/* Queries, keys and values of a layer, and the attention on them. */
static void forward_attention(struct bert *bert, int number)
{
	const struct dense_ops *ops = bert->kernels->dense;
	const struct encoder_layer *layer = &bert->layers[number];
	struct encoder_state *s = &bert->states[number];
	struct dropout_spec drop = bert_layer_dropout(bert, number, SITE_PROBS);
	bool last = number == bert->config.layers - 1;
	int W = bert->config.width;
	const float *weight = layer_weight(bert->params, layer->query), *bias = layer_bias(bert->params, layer->query);

	if (last) {
		ops->gather_first(s->first, s->in, bert_rows(bert, true), W);
		ops->encoder_linear(s->q, s->first, weight, bias, linear_packed(bert->C, W, W), false);
		ops->encoder_linear(s->kv, s->in, weight + (size_t)W * W, bias + W, linear_packed(bert->T, W, 2 * W), false);
	} else {
		ops->encoder_linear(s->q, s->in, weight, bias, linear_packed(bert->T, W, 3 * W), false);
	}
	ops->attention(s->ctx, s->probs, s->q, s->kv, s->kv + W, bert_attention(bert, last), &drop);
}

void bert_forward_layer(struct bert *bert, int number)
{
	const struct dense_ops *ops = bert->kernels->dense;
	const struct encoder_layer *layer = &bert->layers[number];
	struct encoder_state *s = &bert->states[number];
	bool last = number == bert->config.layers - 1;
	int W = bert->config.width, I = bert->config.inner, R = last ? bert->C : bert->T;
	struct packed_rows rows = bert_rows(bert, last);
	struct dropout_spec drop = bert_layer_dropout(bert, number, SITE_ATTENTION);

	forward_attention(bert, number);
	ops->encoder_linear(s->sum1, s->ctx, layer_weight(bert->params, layer->attention_output), NULL, linear_packed(R, W, W), false);
	ops->residual_norm(s->y1, s->sum1, s->mean1, s->rstd1, layer_bias(bert->params, layer->attention_output),
			   last ? s->first : s->in, bert_norm(bert, layer->attention_norm), W, rows, &drop);
	ops->encoder_linear(s->pre, s->y1, layer_weight(bert->params, layer->intermediate), NULL, linear_packed(R, W, I), false);
	ops->bias_gelu(bert->act, s->pre, layer_bias(bert->params, layer->intermediate), R, I);
	ops->encoder_linear(s->sum2, bert->act, layer_weight(bert->params, layer->output), NULL, linear_packed(R, I, W), false);
	drop = bert_layer_dropout(bert, number, SITE_OUTPUT);
	ops->residual_norm(s->y2, s->sum2, s->mean2, s->rstd2, layer_bias(bert->params, layer->output), s->y1,
			   bert_norm(bert, layer->output_norm), W, rows, &drop);
}

/* Keeps what backward needs of a call. */
static void remember(struct bert *bert, const struct model_call *call, const uint32_t *offsets, int C)
{
	struct bert_size size;
	int longest = 1;

	CHECK(C > 0 && C <= bert->limits.captions && offsets[0] == 0 && offsets[C] <= (uint32_t)bert->limits.tokens);
	for (int c = 0; c < C; c++) {
		int length = (int)(offsets[c + 1] - offsets[c]);

		CHECK(offsets[c + 1] > offsets[c] && length <= bert->limits.tokens_per_caption);
		longest = length > longest ? length : longest;
		bert->positions[c] = call->positions == NULL ? (uint32_t)c : call->positions[c];
	}
	memcpy(bert->offsets, offsets, ((size_t)C + 1) * sizeof(*offsets));
	bert->call = *call;
	bert->C = C;
	bert->T = (int)offsets[C];
	bert->ldprobs = (int)bert_ldprobs(longest);
	/* Side by side as this batch needs them, so that memory of longer ones is not touched. */
	size = (struct bert_size){ (size_t)bert->T, (size_t)C, (size_t)longest, bert->limits.recompute };
	bert_lay_out(bert, &size);
}

void bert_forward(struct bert *bert, const struct model_call *call, const float *word, const uint32_t *offsets, int C,
		  float *t)
{
	const struct dense_ops *ops = bert->kernels->dense;
	int W = bert->config.width;

	remember(bert, call, offsets, C);
	struct dropout_spec drop = bert_dropout(bert, SITE_EMBEDDINGS, bert->hidden, 0.0f);
	ops->embed_norm(bert->states[0].in, bert->embed_sum, bert->embed_mean, bert->embed_rstd, word,
			params_at(bert->params, bert->position)->value, params_at(bert->params, bert->type)->value,
			bert_norm(bert, bert->embed_norm), W, bert_rows(bert, false), &drop);
	for (int i = 0; i < bert->config.layers; i++)
		bert_forward_layer(bert, i);
	ops->linear(t, bert->states[bert->config.layers - 1].y2, layer_weight(bert->params, bert->projector),
		    layer_bias(bert->params, bert->projector), linear_packed(C, W, bert->features), false);
}
