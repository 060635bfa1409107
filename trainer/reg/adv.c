#include "trainer/reg/adv.h"

#include <math.h>
#include <string.h>

#include "shared/base/clock.h"
#include "shared/base/mem.h"
#include "trainer/kernels/profile.h"

/* Below this a gradient counts as zero: eps / norm would leave the range of a float. */
static const double norm_min = 1e-30;

struct adversary {
	int groups_max;
	uint32_t *offsets;   /* (groups_max + 1) rows of what is perturbed together */
	float *scale;        /* (groups_max) */
	double *x2, *d2;     /* (groups_max) sums of squares */
	float *word;         /* (tokens, W) perturbed */
	float *v, *dv;       /* (pictures, F) */
	float *t, *dt;       /* (captions, F) */
};

int adversary_open(struct adversary **out, const struct model_config *config, const struct model_limits *limits, struct err *err)
{
	struct adversary *a = mem_zalloc(sizeof(*a));
	size_t pictures = (size_t)limits->pictures * (size_t)config->features;
	size_t captions = (size_t)limits->captions * (size_t)config->features;
	/* A caption is three groups: [CLS], its words, [SEP]. */
	size_t groups = (size_t)limits->captions * 3;

	*out = NULL;
	if (a == NULL)
		return err_nomem(err, sizeof(*a));
	if (groups < (size_t)limits->pictures)
		groups = (size_t)limits->pictures;
	a->groups_max = (int)groups;
	a->offsets = mem_array(groups + 1, sizeof(*a->offsets));
	a->scale = mem_array(groups, sizeof(*a->scale));
	a->x2 = mem_array(groups, sizeof(*a->x2));
	a->d2 = mem_array(groups, sizeof(*a->d2));
	a->word = model_alloc((size_t)limits->tokens * (size_t)config->text.width);
	a->v = model_alloc(pictures);
	a->dv = model_alloc(pictures);
	a->t = model_alloc(captions);
	a->dt = model_alloc(captions);
	if (a->offsets == NULL || a->scale == NULL || a->x2 == NULL || a->d2 == NULL || a->word == NULL || a->v == NULL ||
	    a->dv == NULL || a->t == NULL || a->dt == NULL) {
		adversary_close(a);
		return err_nomem(err, 2 * (pictures + captions) * sizeof(float));
	}
	*out = a;
	return 0;
}

void adversary_close(struct adversary *a)
{
	if (a == NULL)
		return;
	mem_free(a->offsets);
	mem_free(a->scale);
	mem_free(a->x2);
	mem_free(a->d2);
	model_release(a->word);
	model_release(a->v);
	model_release(a->dv);
	model_release(a->t);
	model_release(a->dt);
	mem_free(a);
}

/* out = x + r for the groups of a->offsets; groups for which perturbed(g) is
 * false stay as they are. Returns the mean of ||r|| / ||x|| over the others. */
static double perturb(struct adversary *a, const struct reg_adv *spec, const struct vector_ops *ops, float *out, const float *x,
		      const float *d, int groups, int width, int every, int first)
{
	double ratios = 0;
	int counted = 0;

	CHECK(groups <= a->groups_max);
	ops->group_sum_squares(x, a->offsets, groups, width, a->x2);
	ops->group_sum_squares(d, a->offsets, groups, width, a->d2);
	for (int g = 0; g < groups; g++) {
		double elements = (double)(a->offsets[g + 1] - a->offsets[g]) * width;
		double x_norm = sqrt(a->x2[g]), d_norm = sqrt(a->d2[g]), eps = spec->eps, r_norm;

		a->scale[g] = 0.0f;
		if (g % every != first || elements == 0 || !(d_norm > norm_min))
			continue;
		if (spec->norm == ADV_L2) {
			if (spec->relative)
				eps *= x_norm;
			a->scale[g] = (float)(eps / d_norm);
			r_norm = eps;
		} else {
			if (spec->relative)
				eps *= x_norm / sqrt(elements);
			a->scale[g] = (float)eps;
			r_norm = eps * sqrt(elements);
		}
		if (x_norm > 0) {
			ratios += r_norm / x_norm;
			counted++;
		}
	}
	if (spec->norm == ADV_L2)
		ops->group_axpy(out, x, d, a->offsets, groups, width, a->scale);
	else
		ops->group_axpy_sign(out, x, d, a->offsets, groups, width, a->scale);
	return counted > 0 ? ratios / counted : 0.0;
}

static double perturb_words(struct adversary *a, const struct reg_adv *spec, const struct stages *s)
{
	int width = model_config(s->model)->text.width;

	for (int c = 0; c < s->captions; c++) {
		uint32_t from = s->offsets[c], to = s->offsets[c + 1];

		/* A caption holds at least [CLS] and [SEP]. */
		a->offsets[3 * c] = from;
		a->offsets[3 * c + 1] = from + 1;
		a->offsets[3 * c + 2] = to - 1;
	}
	a->offsets[3 * s->captions] = s->offsets[s->captions];
	return perturb(a, spec, s->ops, a->word, s->word, s->dword, 3 * s->captions, width, 3, 1);
}

static double perturb_features(struct adversary *a, const struct reg_adv *spec, const struct stages *s)
{
	for (int b = 0; b <= s->pictures; b++)
		a->offsets[b] = (uint32_t)b;
	return perturb(a, spec, s->ops, a->v, s->v, s->dv, s->pictures, model_config(s->model)->features, 1, 0);
}

void adversary_run(struct adversary *a, const struct reg_adv *spec, struct stages *s, struct adv_report *report)
{
	struct model_call call = stages_text_call(s);
	struct model_result result;
	const float *v = s->v, *t = s->t;
	size_t features = (size_t)model_config(s->model)->features;
	bool text = spec->targets & ADV_TEXT;
	enum profile_part part;
	double began;

	*report = (struct adv_report){ 0 };
	/* The clean pass's text backward comes first: its activations are about to be overwritten. */
	if (text)
		stages_text_backward(s, s->dt);
	began = clock_seconds();
	part = profile_enter(PART_REGULARIZER);
	if (text) {
		report->text_ratio = perturb_words(a, spec, s);
		model_text_forward(s->model, &call, a->word, s->offsets, s->captions, a->t);
		t = a->t;
	}
	if (spec->targets & ADV_FEAT) {
		report->feat_ratio = perturb_features(a, spec, s);
		v = a->v;
	}
	model_fusion_forward(s->model, &call, v, s->pictures, t, s->captions, s->pairs, s->picture_positions,
			     s->caption_positions, NULL, &result);
	model_fusion_backward(s->model, s->scale * (float)spec->weight, a->dv, a->dt);
	s->ops->add(s->dv, s->dv, a->dv, (size_t)s->pictures * features);
	if (text)
		stages_text_backward(s, a->dt);
	else
		s->ops->add(s->dt, s->dt, a->dt, (size_t)s->captions * features);
	profile_leave(part);
	report->seconds = clock_seconds() - began;
	if (!text)
		stages_text_backward(s, s->dt);
	report->loss = result.loss;
}
