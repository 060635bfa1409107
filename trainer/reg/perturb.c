#include "trainer/reg/perturb.h"

#include <math.h>
#include <string.h>

#include "shared/base/mem.h"
#include "shared/base/rng.h"
#include "shared/client/client.h"

/* Below this a gradient counts as zero: eps / norm would leave the range of a float. */
static const double norm_min = 1e-30;
/* A norm that is over its radius by rounding alone is left. */
static const double slack = 1.0 + 1e-6;

struct extent {
	size_t rows, width, groups;
};

static struct extent extent_of(enum reg_adv_target target, const struct model_config *config, const struct model_limits *limits)
{
	size_t F = (size_t)config->features, S = (size_t)config->image.image_size;
	size_t pictures = (size_t)limits->pictures, captions = (size_t)limits->captions, pairs = (size_t)limits->pairs;

	switch (target) {
	case ADV_TEXT: /* a caption is three groups: [CLS], its words, [SEP] */
		return (struct extent){ (size_t)limits->tokens, (size_t)config->text.width, 3 * captions };
	case ADV_FEAT:
		return (struct extent){ pictures, F, pictures };
	case ADV_FUSED:
		return (struct extent){ pairs, 2 * F, pairs };
	case ADV_PIXEL:
		return (struct extent){ pictures, 3 * S * S, pictures };
	}
	return (struct extent){ 0, 0, 0 };
}

size_t perturbation_bytes(enum reg_adv_target target, const struct model_config *config, const struct model_limits *limits)
{
	struct extent e = extent_of(target, config, limits);

	return sizeof(float) * e.rows * e.width * 2;
}

int perturbation_open(struct perturbation *out, enum reg_adv_target target, const struct model_config *config,
		      const struct model_limits *limits, struct err *err)
{
	struct extent e = extent_of(target, config, limits);
	size_t elements = e.rows * e.width;

	*out = (struct perturbation){ .target = target, .kernels = kernels_fast(), .groups_max = (int)e.groups,
				      .rows_max = (int)e.rows, .width_max = (int)e.width };
	out->delta = model_alloc(elements);
	out->moved = model_alloc(elements);
	out->offsets = mem_array(e.groups + 1, sizeof(*out->offsets));
	out->position = mem_array(e.rows, sizeof(*out->position));
	out->token = mem_array(e.rows, sizeof(*out->token));
	out->scale = mem_array(e.groups, sizeof(*out->scale));
	out->radius = mem_array(e.groups, sizeof(*out->radius));
	out->x2 = mem_array(e.groups, sizeof(*out->x2));
	out->d2 = mem_array(e.groups, sizeof(*out->d2));
	if (out->delta == NULL || out->moved == NULL || out->offsets == NULL ||
	    out->position == NULL || out->token == NULL || out->scale == NULL || out->radius == NULL || out->x2 == NULL ||
	    out->d2 == NULL) {
		perturbation_close(out);
		return err_nomem(err, perturbation_bytes(target, config, limits));
	}
	/* A carried perturbation starts at zero. */
	out->kernels->vector->fill(out->delta, elements, 0.0f);
	return 0;
}

void perturbation_close(struct perturbation *p)
{
	model_release(p->delta);
	model_release(p->moved);
	mem_free(p->offsets);
	mem_free(p->position);
	mem_free(p->token);
	mem_free(p->scale);
	mem_free(p->radius);
	mem_free(p->x2);
	mem_free(p->d2);
	*p = (struct perturbation){ 0 };
}

/* ---- groups, names, radii ---- */

static void name_text(struct perturbation *p, const struct stages *s)
{
	p->groups = 3 * s->captions;
	p->rows = s->tokens;
	for (int c = 0; c < s->captions; c++) {
		uint32_t from = s->offsets[c], to = s->offsets[c + 1], last = to - from > 1 ? to - 1 : to;

		p->offsets[3 * c] = from;
		p->offsets[3 * c + 1] = from + 1;
		p->offsets[3 * c + 2] = last;
		for (uint32_t r = from; r < to; r++) {
			p->position[r] = s->caption_positions == NULL ? (uint32_t)c : s->caption_positions[c];
			p->token[r] = r - from;
		}
	}
	p->offsets[p->groups] = s->offsets[s->captions];
}

/* One row is one group. */
static void name_rows(struct perturbation *p, int rows, const uint32_t *position, const uint32_t *token)
{
	p->groups = p->rows = rows;
	for (int r = 0; r < rows; r++) {
		p->offsets[r] = (uint32_t)r;
		p->position[r] = position == NULL ? (uint32_t)r : position[r];
		p->token[r] = token == NULL ? 0 : token[r];
	}
	p->offsets[rows] = (uint32_t)rows;
}

struct picture_space {
	float std[3], mean[3], inverse[3], low[3], high[3];
};

/* What the daemon's streams are normalized with unless told otherwise, and the trainer never tells. */
static struct picture_space picture_space(void)
{
	struct stream_options options;
	struct picture_space space;

	stream_options_init(&options);
	for (int c = 0; c < 3; c++) {
		space.std[c] = options.std[c];
		space.mean[c] = options.mean[c];
		space.inverse[c] = 1.0f / options.std[c];
		space.low[c] = (0.0f - options.mean[c]) / options.std[c];
		space.high[c] = (1.0f - options.mean[c]) / options.std[c];
	}
	return space;
}

static bool is_free(const struct perturbation *p, int group)
{
	return p->target != ADV_TEXT || group % 3 == 1;
}

static size_t elements_of(const struct perturbation *p, int group)
{
	return (size_t)(p->offsets[group + 1] - p->offsets[group]) * (size_t)p->width;
}

static size_t elements(const struct perturbation *p)
{
	return (size_t)p->rows * (size_t)p->width;
}

void perturbation_begin(struct perturbation *p, const struct reg_adv *spec, double eps, const struct stages *s, const float *x,
			const uint32_t *pair_picture, const uint32_t *pair_caption)
{
	const struct model_config *config = model_config(s->model);

	p->width = p->width_max;
	p->norm = (enum reg_adv_norm)spec->norm;
	if (p->target == ADV_TEXT)
		name_text(p, s);
	else if (p->target == ADV_FUSED)
		name_rows(p, s->pairs->count, pair_picture, pair_caption);
	else
		name_rows(p, s->pictures, s->picture_positions, NULL);
	CHECK(p->groups <= p->groups_max && p->rows <= p->rows_max);
	if (p->target == ADV_PIXEL) {
		struct picture_space space = picture_space();

		p->layout = (struct pixel_rows){ s->pictures, config->image.image_size * config->image.image_size, s->nhwc };
		p->kernels->reg->channel_affine(p->moved, x, p->layout, space.std, space.mean);
		x = p->moved;
	}
	p->kernels->vector->group_sum_squares(x, p->offsets, p->groups, p->width, p->x2);
	for (int g = 0; g < p->groups; g++) {
		double n = (double)elements_of(p, g), radius = spec->eps * eps;

		if (spec->relative)
			radius *= spec->norm == ADV_L2 ? sqrt(p->x2[g]) : sqrt(p->x2[g] / (n > 0 ? n : 1));
		p->radius[g] = is_free(p, g) && n > 0 ? (float)radius : 0.0f;
	}
}

/* ---- moves ---- */

void perturbation_zero(struct perturbation *p)
{
	p->kernels->vector->fill(p->delta, elements(p), 0.0f);
}

void perturbation_project(struct perturbation *p)
{
	bool outside = false;

	if (p->norm == ADV_LINF) {
		p->kernels->reg->group_clip(p->delta, p->offsets, p->groups, p->width, p->radius);
		return;
	}
	p->kernels->vector->group_sum_squares(p->delta, p->offsets, p->groups, p->width, p->d2);
	for (int g = 0; g < p->groups; g++) {
		double norm = sqrt(p->d2[g]), radius = p->radius[g];

		p->scale[g] = norm > radius * slack ? (float)(radius / norm) : 1.0f;
		outside = outside || p->scale[g] != 1.0f;
	}
	if (outside)
		p->kernels->reg->group_scale(p->delta, p->offsets, p->groups, p->width, p->scale);
}

void perturbation_random(struct perturbation *p, double share, bool corners, uint64_t seed, uint64_t step)
{
	struct random_source source = {
		.kind = p->norm == ADV_L2 ? RANDOM_NORMAL : corners ? RANDOM_SIGN : RANDOM_UNIFORM, .seed = seed, .step = step,
		.domain = RNG_NOISE + (uint32_t)p->target, .position = p->position, .token = p->token,
	};

	if (p->target == ADV_PIXEL)
		p->kernels->reg->random_pixels(p->delta, p->layout, &source);
	else
		p->kernels->reg->random_rows(p->delta, p->rows, p->width, &source);
	if (p->norm == ADV_L2)
		p->kernels->vector->group_sum_squares(p->delta, p->offsets, p->groups, p->width, p->d2);
	for (int g = 0; g < p->groups; g++) {
		double norm = p->norm == ADV_L2 ? sqrt(p->d2[g]) : 1.0;

		p->scale[g] = norm > norm_min ? (float)(share * p->radius[g] / norm) : 0.0f;
	}
	p->kernels->reg->group_scale(p->delta, p->offsets, p->groups, p->width, p->scale);
}

void perturbation_climb(struct perturbation *p, float *g, double step)
{
	const struct vector_ops *ops = p->kernels->vector;

	if (p->target == ADV_PIXEL) { /* d/dp = d/dx * dx/dp */
		static const float nothing[3] = { 0, 0, 0 };

		p->kernels->reg->channel_affine(g, g, p->layout, picture_space().inverse, nothing);
	}
	ops->group_sum_squares(g, p->offsets, p->groups, p->width, p->d2);
	for (int i = 0; i < p->groups; i++) {
		double norm = sqrt(p->d2[i]), length = step * p->radius[i];

		p->scale[i] = !(norm > norm_min) ? 0.0f : (float)(p->norm == ADV_L2 ? length / norm : length);
	}
	if (p->norm == ADV_L2)
		ops->group_axpy(p->delta, p->delta, g, p->offsets, p->groups, p->width, p->scale);
	else
		ops->group_axpy_sign(p->delta, p->delta, g, p->offsets, p->groups, p->width, p->scale);
	perturbation_project(p);
}

void perturbation_apply(struct perturbation *p, const float *x)
{
	if (p->target == ADV_PIXEL) {
		struct picture_space space = picture_space();

		p->kernels->reg->move_pixels(p->moved, p->delta, x, p->layout, space.inverse, space.low, space.high);
	} else if (p->target == ADV_TEXT) {
		p->kernels->vector->add(p->moved, x, p->delta, elements(p));
	}
}

double perturbation_ratio(struct perturbation *p)
{
	double total = 0;
	int counted = 0;

	p->kernels->vector->group_sum_squares(p->delta, p->offsets, p->groups, p->width, p->d2);
	for (int g = 0; g < p->groups; g++)
		if (is_free(p, g) && p->x2[g] > 0) {
			total += sqrt(p->d2[g] / p->x2[g]);
			counted++;
		}
	return counted > 0 ? total / counted : 0.0;
}
