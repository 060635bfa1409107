/* bert_backward.c - gradients of the text tower, from the features to the words. */
#include "trainer/model/bert_parts.h"

static float *weight_grad(const struct bert *bert, struct layer layer)
{
	return bert->inputs_only ? NULL : layer_weight_grad(bert->params, layer);
}

static float *bias_grad(const struct bert *bert, struct layer layer)
{
	return bert->inputs_only ? NULL : layer_bias_grad(bert->params, layer);
}

static float *table_grad(const struct bert *bert, int index)
{
	return bert->inputs_only ? NULL : params_at(bert->params, index)->grad;
}

/* Gradients of an encoder layer's parameters. bias false: done elsewhere. */
static void add_weight_gradients(const struct bert *bert, struct layer layer, const float *dy, const float *x,
				 struct linear_shape shape, bool bias)
{
	const struct dense_ops *ops = bert->kernels->dense;

	if (bert->inputs_only)
		return;
	ops->encoder_linear_weights(layer_weight_grad(bert->params, layer), dy, x, shape);
	if (bias)
		ops->sum_rows(layer_bias_grad(bert->params, layer), dy, shape.rows, shape.out, shape.ldy);
}

/* Through dropout, residual and LayerNorm: d (R, W) becomes the gradient of
 * the sum. Returns the gradient of the linear layer's output, which is d or e. */
static float *backward_norm(struct bert *bert, int number, int which, float *d, float *e)
{
	const struct encoder_layer *layer = &bert->layers[number];
	const struct encoder_state *s = &bert->states[number];
	bool attention = which == SITE_ATTENTION, last = number == bert->config.layers - 1;
	struct layer norm = attention ? layer->attention_norm : layer->output_norm;
	struct layer dense = attention ? layer->attention_output : layer->output;
	struct dropout_spec drop = bert_layer_dropout(bert, number, which);
	bool dropping = drop.probability > 0.0f || drop.branch > 0.0f;

	bert->kernels->dense->residual_norm_backward(
		d, dropping ? e : NULL, weight_grad(bert, norm), bias_grad(bert, norm), bias_grad(bert, dense), d,
		attention ? s->sum1 : s->sum2, attention ? s->mean1 : s->mean2, attention ? s->rstd1 : s->rstd2,
		bert_norm(bert, norm), bert->config.width, bert_rows(bert, last), &drop);
	return dropping ? e : d;
}

/* d (R, W): gradient of y2 -> of y1. */
static void backward_feed_forward(struct bert *bert, int number, float *d, float *e)
{
	const struct dense_ops *ops = bert->kernels->dense;
	const struct encoder_layer *layer = &bert->layers[number];
	const struct encoder_state *s = &bert->states[number];
	int W = bert->config.width, I = bert->config.inner, R = number == bert->config.layers - 1 ? bert->C : bert->T;
	const float *dout = backward_norm(bert, number, SITE_OUTPUT, d, e);

	ops->encoder_linear_input(bert->wide, dout, layer_weight(bert->params, layer->output), linear_packed(R, I, W), false);
	ops->gelu_backward(bert->wide, bert->act, s->pre, R, I);
	add_weight_gradients(bert, layer->output, dout, bert->act, linear_packed(R, I, W), false);
	add_weight_gradients(bert, layer->intermediate, bert->wide, s->y1, linear_packed(R, W, I), true);
	ops->encoder_linear_input(d, bert->wide, layer_weight(bert->params, layer->intermediate), linear_packed(R, W, I), true);
}

/* d (T, W): gradient of y1 -> of in. */
static void backward_attention(struct bert *bert, int number)
{
	const struct dense_ops *ops = bert->kernels->dense;
	const struct encoder_layer *layer = &bert->layers[number];
	const struct encoder_state *s = &bert->states[number];
	struct dropout_spec drop = bert_layer_dropout(bert, number, SITE_PROBS);
	int W = bert->config.width, T = bert->T;
	float *dqkv = bert->wide;
	const float *dout = backward_norm(bert, number, SITE_ATTENTION, bert->d, bert->e);

	add_weight_gradients(bert, layer->attention_output, dout, s->ctx, linear_packed(T, W, W), false);
	ops->encoder_linear_input(bert->f, dout, layer_weight(bert->params, layer->attention_output), linear_packed(T, W, W), false);
	ops->attention_backward(dqkv, dqkv + W, dqkv + 2 * W, bert->f, s->ctx, s->probs, s->q, s->kv, s->kv + W,
				bert_attention(bert, false), &drop);
	add_weight_gradients(bert, layer->query, dqkv, s->in, linear_packed(T, W, 3 * W), true);
	ops->encoder_linear_input(bert->d, dqkv, layer_weight(bert->params, layer->query), linear_packed(T, W, 3 * W), true);
}

/* The last layer: d_first (C, W), gradient of y1 -> d (T, W), of in. */
static void backward_last_attention(struct bert *bert)
{
	const struct dense_ops *ops = bert->kernels->dense;
	int number = bert->config.layers - 1, W = bert->config.width, T = bert->T, C = bert->C;
	const struct encoder_layer *layer = &bert->layers[number];
	const struct encoder_state *s = &bert->states[number];
	struct dropout_spec drop = bert_layer_dropout(bert, number, SITE_PROBS);
	const float *weight = layer_weight(bert->params, layer->query);
	float *dq = bert->e_first, *dctx = bert->f, *dkv = bert->wide;
	const float *dout = backward_norm(bert, number, SITE_ATTENTION, bert->d_first, bert->e_first);

	add_weight_gradients(bert, layer->attention_output, dout, s->ctx, linear_packed(C, W, W), false);
	ops->encoder_linear_input(dctx, dout, layer_weight(bert->params, layer->attention_output), linear_packed(C, W, W), false);
	ops->attention_backward(dq, dkv, dkv + W, dctx, s->ctx, s->probs, s->q, s->kv, s->kv + W, bert_attention(bert, true), &drop);
	add_weight_gradients(bert, layer->query, dq, s->first, linear_packed(C, W, W), true);
	add_weight_gradients(bert, layer->key, dkv, s->in, linear_packed(T, W, 2 * W), true);
	ops->encoder_linear_input(bert->d_first, dq, weight, linear_packed(C, W, W), true);
	ops->encoder_linear_input(bert->d, dkv, weight + (size_t)W * W, linear_packed(T, W, 2 * W), false);
	ops->scatter_first(bert->d, bert->d_first, bert_rows(bert, true), W);
}

void bert_backward(struct bert *bert, const float *dt, float *dword)
{
	const struct dense_ops *ops = bert->kernels->dense;
	struct params *params = bert->params;
	int W = bert->config.width, F = bert->features, last = bert->config.layers - 1;
	struct dropout_spec drop = bert_dropout(bert, SITE_EMBEDDINGS, bert->hidden, 0.0f);

	CHECK(bert->limits.training && bert->C > 0);
	if (!bert->inputs_only) {
		ops->linear_weights(layer_weight_grad(params, bert->projector), dt, bert->states[last].y2, linear_packed(bert->C, W, F));
		ops->sum_rows(layer_bias_grad(params, bert->projector), dt, bert->C, F, F);
	}
	ops->linear_input(bert->d_first, dt, layer_weight(params, bert->projector), linear_packed(bert->C, W, F), false);
	backward_feed_forward(bert, last, bert->d_first, bert->e_first);
	backward_last_attention(bert);
	for (int i = last - 1; i >= 0; i--) {
		if (bert->limits.recompute && i < last - 1) /* its buffers hold those of layer i + 1 */
			bert_forward_layer(bert, i);
		backward_feed_forward(bert, i, bert->d, bert->e);
		backward_attention(bert, i);
	}
	ops->embed_norm_backward(dword == NULL ? bert->e : dword, table_grad(bert, bert->position), table_grad(bert, bert->type),
				 weight_grad(bert, bert->embed_norm), bias_grad(bert, bert->embed_norm), bert->d, bert->embed_sum, bert->embed_mean,
				 bert->embed_rstd, bert_norm(bert, bert->embed_norm), W, bert_rows(bert, false), &drop);
}

void bert_embed_backward(struct bert *bert, const int32_t *ids, int T, const float *dword)
{
	if (bert->inputs_only)
		return;
	bert->kernels->dense->scatter_rows(params_at(bert->params, bert->word)->grad, dword, ids, T, bert->config.width,
					   bert->config.pad_id);
}
