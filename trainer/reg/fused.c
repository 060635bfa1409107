/* The fusion stage as --reg uses it: pairs as they are, mixed, or with a perturbation of their own. */
#include "trainer/kernels/profile.h"
#include "trainer/reg/mixup.h"
#include "trainer/reg/work.h"

static uint32_t name_of(const uint32_t *positions, uint32_t row)
{
	return positions == NULL ? row : positions[row];
}

void fused_begin(struct objective *o)
{
	const struct stages *s = o->s;
	const struct model_pairs *pairs = s->pairs;
	uint64_t began = profile_begin();

	for (int n = 0; o->iota != NULL && n < pairs->count; n++) {
		o->iota[n] = (uint32_t)n;
		o->picture[n] = pairs->picture[n];
		o->caption[n] = pairs->caption[n];
		o->pair_picture[n] = name_of(s->picture_positions, pairs->picture[n]);
		o->pair_caption[n] = name_of(s->caption_positions, pairs->caption[n]);
	}
	if (o->mixing)
		mixup_draw(pairs, o->pair_picture, o->pair_caption, o->spec->mixup.alpha, s->seed, s->step, o->partner, o->share,
			   o->sums);
	for (int n = 0; o->mixing && n < pairs->count; n++) {
		o->picture2[n] = pairs->picture[o->partner[n]];
		o->caption2[n] = pairs->caption[o->partner[n]];
		o->label2[n] = pairs->label[o->partner[n]];
	}
	if (o->iota != NULL)
		profile_end(began, KIND_CHOOSE);
}

static void expand(struct objective *o, const float *v, const float *t)
{
	int N = o->s->pairs->count, F = (int)o->F;
	const float *share = o->mixing ? o->share : NULL;

	o->kernels->reg->mix_rows(o->vx, v, o->picture, o->picture2, share, N, F);
	o->kernels->reg->mix_rows(o->tx, t, o->caption, o->caption2, share, N, F);
}

void fused_join(struct objective *o, const float *v, const float *t)
{
	expand(o, v, t);
	o->kernels->reg->join(o->joined, o->vx, o->tx, o->s->pairs->count, (int)o->F);
}

void fused_forward(struct objective *o, const float *v, const float *t, const float *delta, int masks, float *logits,
		   struct model_result *result)
{
	const struct stages *s = o->s;
	struct model_call call = work_call(o, masks);
	int N = s->pairs->count;

	if (!o->expanded) {
		model_fusion_forward(s->model, &call, v, s->pictures, t, s->captions, s->pairs, s->picture_positions,
				     s->caption_positions, logits, result);
		return;
	}
	struct model_pairs pairs = { .count = N, .picture = o->iota, .caption = o->iota, .label = s->pairs->label,
				     .weight = s->pairs->weight };

	if (delta != NULL) {
		fused_join(o, v, t);
		o->kernels->vector->add(o->joined, o->joined, delta, (size_t)N * 2 * o->F);
		o->kernels->reg->split(o->vx, o->tx, o->joined, N, (int)o->F);
	} else {
		expand(o, v, t);
	}
	model_fusion_forward(s->model, &call, o->vx, N, o->tx, N, &pairs, o->pair_picture, o->pair_caption, logits, result);
}

void fused_backward(struct objective *o, const float *dlogits, double scale, float *dv, float *dt, float *dfused)
{
	const struct stages *s = o->s;
	const float *share = o->mixing ? o->share : NULL;
	float *first = o->expanded && dv != NULL ? o->dvx : dv, *second = o->expanded && dt != NULL ? o->dtx : dt;
	int N = s->pairs->count, F = (int)o->F;

	if (dlogits != NULL)
		model_fusion_backward_from(s->model, dlogits, first, second);
	else
		model_fusion_backward(s->model, (float)scale, first, second);
	if (!o->expanded || dv == NULL)
		return;
	if (dfused != NULL)
		o->kernels->reg->join(dfused, first, second, N, F);
	o->kernels->reg->mix_rows_backward(dv, first, o->picture, o->picture2, share, N, s->pictures, F);
	o->kernels->reg->mix_rows_backward(dt, second, o->caption, o->caption2, share, N, s->captions, F);
}

double base_loss(struct objective *o, const float *logits, double scale, float *dz)
{
	const struct model_pairs *pairs = o->s->pairs;
	struct soft_labels soft = { .label = pairs->label, .smooth = o->smoothing ? o->spec->smooth.share : 0.0 };
	double loss;

	if (o->mixing) {
		soft.other = o->label2;
		soft.share = o->share;
	}
	loss = o->kernels->reg->soft_cross_entropy(dz, logits, &soft, pairs->weight, pairs->count, (int)o->K);
	o->kernels->vector->scale(dz, (size_t)pairs->count * o->K, (float)scale);
	return loss;
}
