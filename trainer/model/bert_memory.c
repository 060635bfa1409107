/* bert_memory.c - where the text tower's activations and gradients lie. */
#include "trainer/model/bert_parts.h"

/* The buffers of one layer, but for its output. */
static void plan_layer(struct bert *bert, int number, const struct bert_size *size)
{
	struct encoder_state *s = &bert->states[number];
	struct arena *arena = &bert->arena;
	bool last = number == bert->config.layers - 1;
	size_t T = size->tokens, C = size->captions, R = last ? C : T;
	size_t W = (size_t)bert->config.width;

	s->q = arena_take(arena, last ? C * W : T * 3 * W);
	s->kv = last ? arena_take(arena, T * 2 * W) : s->q == NULL ? NULL : s->q + W;
	if (last)
		s->first = arena_take(arena, C * W);
	s->probs = arena_take(arena, R * (size_t)bert->config.heads * bert_ldprobs((int)size->longest));
	s->ctx = arena_take(arena, R * W);
	s->sum1 = arena_take(arena, R * W);
	s->y1 = arena_take(arena, R * W);
	s->pre = arena_take(arena, R * (size_t)bert->config.inner);
	s->sum2 = arena_take(arena, R * W);
	s->mean1 = arena_take(arena, R);
	s->rstd1 = arena_take(arena, R);
	s->mean2 = arena_take(arena, R);
	s->rstd2 = arena_take(arena, R);
}

/*
 * Without training, all layers but the last share one set of buffers, the
 * output, which is written when the input is no longer needed, included. With
 * recompute they share all but the output; backward makes the rest again.
 */
void bert_lay_out(struct bert *bert, const struct bert_size *size)
{
	struct arena *arena = &bert->arena;
	size_t T = size->tokens, C = size->captions, W = (size_t)bert->config.width, I = (size_t)bert->config.inner;
	int last = bert->config.layers - 1;
	bool share = !bert->limits.training || size->recompute;

	arena->used = 0;
	bert->embed_sum = arena_take(arena, T * W);
	bert->embed_mean = arena_take(arena, T);
	bert->embed_rstd = arena_take(arena, T);
	bert->states[0].in = arena_take(arena, T * W);
	for (int i = 0; i <= last; i++) {
		float *in = i == 0 ? bert->states[0].in : bert->states[i - 1].y2;
		bool like_first = i > 0 && i < last && share;

		if (like_first)
			bert->states[i] = bert->states[0];
		else
			plan_layer(bert, i, size);
		if (!like_first || bert->limits.training)
			bert->states[i].y2 = arena_take(arena, (i == last ? C : T) * W);
		bert->states[i].in = in;
	}
	bert->act = arena_take(arena, T * I);
	if (!bert->limits.training)
		return;
	bert->d = arena_take(arena, T * W);
	bert->e = arena_take(arena, T * W);
	bert->f = arena_take(arena, T * W);
	bert->wide = arena_take(arena, T * (I > 3 * W ? I : 3 * W));
	bert->d_first = arena_take(arena, C * W);
	bert->e_first = arena_take(arena, C * W);
}

/* Every shape of an encoder layer's products. */
static int reserve_products(const struct bert *bert, struct err *err)
{
	int T = bert->limits.tokens, W = bert->config.width, I = bert->config.inner, code = 0;
	const struct linear_shape shapes[] = { linear_packed(T, W, W), linear_packed(T, W, 2 * W), linear_packed(T, W, 3 * W),
					       linear_packed(T, W, I), linear_packed(T, I, W) };

	for (size_t i = 0; i < ARRAY_LEN(shapes) && code == 0; i++)
		code = bert->kernels->dense->encoder_reserve(shapes[i], err);
	return code;
}

size_t bert_activation_bytes(const struct bert *bert, const struct model_limits *batch, bool recompute)
{
	struct bert counting = *bert;
	struct bert_size size = { (size_t)batch->tokens, (size_t)batch->captions, (size_t)batch->tokens_per_caption, recompute };

	counting.arena = (struct arena){ NULL, 0, 0 };
	bert_lay_out(&counting, &size);
	if (counting.arena.used > bert->arena.elements) /* frozen: captions come in groups */
		return bert->arena.elements * sizeof(float);
	return counting.arena.used * sizeof(float);
}

int bert_plan(struct bert *bert, const struct model_limits *limits, struct err *err)
{
	struct bert_size size;
	int code;

	CHECK(bert->arena.memory == NULL && limits->captions > 0 && limits->tokens > 0);
	if (limits->tokens_per_caption < 1 || limits->tokens_per_caption > bert->config.max_positions)
		return err_set(err, ERR_LIMIT, "captions of %d tokens, but the text tower has %d positions; shorten them with "
			       "--max-len %d", limits->tokens_per_caption, bert->config.max_positions,
			       bert->config.max_positions);
	bert->limits = *limits;
	if ((code = reserve_products(bert, err)) != 0)
		return code;
	bert->offsets = mem_array((size_t)limits->captions + 1, sizeof(*bert->offsets));
	bert->positions = mem_array((size_t)limits->captions, sizeof(*bert->positions));
	if (bert->offsets == NULL || bert->positions == NULL)
		return err_nomem(err, ((size_t)limits->captions + 1) * sizeof(*bert->offsets));
	size = (struct bert_size){ (size_t)limits->tokens, (size_t)limits->captions, (size_t)limits->tokens_per_caption,
				    limits->recompute };
	bert_lay_out(bert, &size);
	return arena_allocate(&bert->arena, err);
}
