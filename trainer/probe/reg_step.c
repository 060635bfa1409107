#include "trainer/probe/reg_step.h"

#include <stdio.h>
#include <string.h>

#include "shared/base/mem.h"
#include "trainer/probe/draws.h"
#include "trainer/reg/l2.h"
#include "trainer/reg/objective.h"
#include "trainer/reg/sam.h"

enum { VALUES = 6 };

struct reg_step {
	struct reg_spec spec;
	uint64_t seed, step;
	struct model *model;
	const struct batch_file *batch;
	struct stages stages;
	struct objective *objective;
	struct sam *sam;
	struct decay_spans spans;
	struct draws draws;
	float values[VALUES];
	struct objective_report report;
};

/* A step in which every term works: windows, every and warm-up are those of a run. */
static void always(struct reg_spec *spec)
{
	struct reg_window *const windows[] = { &spec->l2.when, &spec->smooth.when, &spec->mixup.when, &spec->depth.when,
					       &spec->rdrop.when, &spec->sam.when, &spec->adv.when };

	for (size_t i = 0; i < ARRAY_LEN(windows); i++)
		*windows[i] = (struct reg_window){ 0, 0 };
	for (int site = 0; site < DROP_SITES; site++)
		spec->dropout[site].when = (struct reg_window){ 0, 0 };
	spec->adv.every = 1;
	spec->adv.warmup = 0;
}

int reg_step_open(struct reg_step **out, const char *text, enum model_task task, uint64_t seed, uint64_t step, struct err *err)
{
	struct reg_step *s = mem_zalloc(sizeof(*s));
	int code;

	*out = NULL;
	if (s == NULL)
		return err_nomem(err, sizeof(*s));
	s->seed = seed;
	s->step = step;
	if ((code = reg_spec_parse(&s->spec, text, err)) != 0 || (code = objective_check(&s->spec, text, task, err)) != 0) {
		mem_free(s);
		return code;
	}
	always(&s->spec);
	*out = s;
	return 0;
}

void reg_step_close(struct reg_step *s)
{
	if (s == NULL)
		return;
	draws_free(&s->draws);
	sam_close(s->sam);
	objective_close(s->objective);
	decay_spans_free(&s->spans);
	stages_close(&s->stages);
	mem_free(s);
}

int reg_step_plan(struct reg_step *s, struct model *model, const struct model_limits *limits, const struct batch_file *batch,
		  struct err *err)
{
	int code;

	s->model = model;
	s->batch = batch;
	if ((code = stages_open(&s->stages, model, limits, kernels_fast()->vector, err)) != 0 ||
	    (code = objective_open(&s->objective, &s->spec, model_config(model), limits, err)) != 0 ||
	    (code = decay_spans_init(&s->spans, model_params(model), s->spec.l2.all, err)) != 0)
		return code;
	s->stages.pixels = batch->image;
	s->stages.pictures = s->stages.captions = batch->B;
	s->stages.ids = batch->ids;
	s->stages.offsets = batch->offsets;
	s->stages.tokens = batch->tokens;
	s->stages.pairs = &batch->pairs;
	s->stages.seed = s->seed;
	s->stages.step = s->step;
	s->stages.dropout = true;
	s->stages.scale = 1.0f;
	return s->spec.sam.on ? sam_open(&s->sam, &s->spec.sam, model_params(model), false, err) : 0;
}

double reg_step_run(struct reg_step *s, enum model_mode mode, float *logits)
{
	const struct reg_moment moment = { s->step, 0, 1 };
	const struct vector_ops *ops = kernels_fast()->vector;
	size_t scores = (size_t)s->batch->pairs.count * (size_t)model_config(s->model)->classes;
	double sam_loss = 0;

	params_zero_grads(model_params(s->model));
	objective_begin(s->objective, s->model, &moment);
	if (s->sam != NULL)
		sam_loss = sam_run(s->sam, s->objective, &s->stages, mode, &s->report);
	else
		objective_run(s->objective, &s->stages, mode, &s->report);
	for (int i = 1; i < objective_replays(s->objective); i++) {
		params_zero_grads(model_params(s->model)); /* where a run updates its weights */
		objective_replay(s->objective, &s->stages, &s->report);
	}
	reg_l2_add_gradient(&s->spans, reg_l2_coupled(&s->spec, 0), model_params(s->model), ops);
	ops->copy(logits, s->stages.logits, scores);
	const double values[VALUES] = { s->report.objective, s->report.rdrop_kl, sam_loss, s->report.adv_loss, s->report.adv_kl, 0 };
	for (int i = 0; i < VALUES; i++)
		s->values[i] = (float)values[i];
	return s->report.clean.loss;
}

int reg_step_tensors(const struct reg_step *s)
{
	(void)s;
	return VALUES + DRAWS_MAX;
}

int reg_step_views(struct reg_step *s, struct tensor_view *out)
{
	static const char *const names[VALUES - 1] = { "objective", "rdrop_kl", "sam_loss", "adv_loss", "adv_kl" };
	const bool on[VALUES - 1] = { true, s->report.rdrop, s->sam != NULL, s->report.adv, s->report.adv };
	int count = 0;

	for (int i = 0; i < VALUES - 1; i++)
		if (on[i])
			out[count++] = (struct tensor_view){ .name = names[i], .dtype = TENSOR_F32, .data = &s->values[i],
							     .bytes = sizeof(float) };
	draws_fill(&s->draws, &s->spec, s->objective, &s->stages);
	memcpy(out + count, s->draws.views, (size_t)s->draws.count * sizeof(*out));
	return count + s->draws.count;
}
