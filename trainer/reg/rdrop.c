#include "trainer/reg/rdrop.h"

/* v or t of the second pass: the tower again, other masks on its features, or the same. */
static const float *second_image(struct objective *o)
{
	if (o->image_random)
		tower_image_forward(o, o->s->pixels, o->again_mode, MASKS_SECOND, o->v2);
	else if (o->image_drop > 0)
		drop_image(o, o->v2, o->v_raw, MASKS_SECOND);
	else
		return o->s->v;
	return o->v2;
}

static const float *second_text(struct objective *o)
{
	if (o->text_random)
		tower_text_forward(o, o->s->word, MASKS_SECOND, o->t2);
	else if (o->text_drop > 0)
		drop_text(o, o->t2, o->t_raw, MASKS_SECOND);
	else
		return o->s->t;
	return o->t2;
}

/* The second pass's way back, and the towers as the first pass left them. */
static void second_backward(struct objective *o)
{
	fused_backward(o, o->dz2, 0, o->dv2, o->dt2, NULL);
	if (o->text_random) {
		tower_text_backward(o, o->dt2, MASKS_SECOND, o->s->dword);
		tower_text_forward(o, o->s->word, MASKS_FIRST, o->s->t);
		o->text_moved = false;
	} else {
		drop_text(o, o->dt_other, o->dt2, MASKS_SECOND);
		o->other_t = true;
	}
	if (o->image_random) {
		tower_image_backward(o, o->dv2, MASKS_SECOND, NULL);
		tower_image_forward(o, o->s->pixels, o->again_mode, MASKS_FIRST, o->s->v);
		o->image_moved = false;
	} else {
		drop_image(o, o->dv_other, o->dv2, MASKS_SECOND);
		o->other_v = true;
	}
}

double rdrop_run(struct objective *o, const float *logits, double loss, struct objective_report *report)
{
	struct stages *s = o->s;
	const struct vector_ops *ops = o->kernels->vector;
	const struct model_pairs *pairs = s->pairs;
	size_t scores = (size_t)pairs->count * o->K;
	double weight = o->spec->rdrop.weight, scale = o->base_weight * (double)s->scale, second;
	const float *v = second_image(o), *t = second_text(o);
	struct model_result result;

	fused_forward(o, v, t, NULL, MASKS_SECOND, o->z2, &result);
	second = base_loss(o, o->z2, scale, o->dz2);
	ops->scale(o->dz, scores, 0.5f);
	ops->scale(o->dz2, scores, 0.5f);
	report->rdrop = true;
	report->rdrop_kl = o->kernels->reg->symmetric_kl(o->dz, o->dz2, logits, o->z2, pairs->weight, 0.5 * weight * scale,
							 pairs->count, (int)o->K);
	second_backward(o);
	fused_forward(o, s->v, s->t, NULL, MASKS_FIRST, NULL, &result);
	return 0.5 * (loss + second) + 0.5 * weight * report->rdrop_kl;
}
