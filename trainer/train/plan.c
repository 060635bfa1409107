/*
 * --dry-run: what a run would take. Bytes are those of the arenas that were
 * planned; operations are counted from the shapes and the tokens of the first
 * batches; time is that of real steps, which are taken on the run's first
 * batches and thrown away. With frozen towers whose features are cached, steps are
 * taken on zeros, and a few features are computed to say what all of them take.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/clock.h"
#include "shared/base/fs.h"
#include "shared/base/plural.h"
#include "trainer/kernels/peak.h"
#include "trainer/train/session.h"

enum { TRIAL_STEPS = 3 };

/* Multiply-adds of one picture through a stack of convolutions. */
struct conv_count {
	double total;
	int channels, size; /* of what comes in next */
};

static int conv_out(int size, int kernel, int stride)
{
	return (size + 2 * (kernel / 2) - kernel) / stride + 1;
}

static void count_conv(struct conv_count *c, int out, int kernel, int stride)
{
	int size = conv_out(c->size, kernel, stride);

	c->total += (double)kernel * kernel * c->channels * out * size * size;
	c->channels = out;
	c->size = size;
}

static void count_block(struct conv_count *c, int width, int stride, bool bottleneck)
{
	int out = bottleneck ? 4 * width : width;
	struct conv_count shortcut = { 0, c->channels, c->size };

	if (c->channels != out || stride != 1)
		count_conv(&shortcut, out, 1, stride);
	if (bottleneck) {
		count_conv(c, width, 1, 1);
		count_conv(c, width, 3, stride);
		count_conv(c, out, 1, 1);
	} else {
		count_conv(c, width, 3, stride);
		count_conv(c, out, 3, 1);
	}
	c->total += shortcut.total;
}

static double picture_madds(const struct resnet_config *config)
{
	struct conv_count c = { 0, 3, config->image_size };

	count_conv(&c, config->width, 7, 2);
	c.size = conv_out(c.size, 3, 2); /* max pooling */
	for (int stage = 0; stage < 4; stage++)
		for (int block = 0; block < config->blocks[stage]; block++)
			count_block(&c, config->width << stage, block == 0 && stage > 0 ? 2 : 1, config->bottleneck);
	return c.total + (double)c.channels * config->out_features;
}

/* Projections and feed-forward of every token; attention over its own caption. */
static double token_madds(const struct bert_config *config, double caption_tokens)
{
	double width = config->width;

	return config->layers * (4 * width * width + 2 * width * config->inner + 2 * caption_tokens * width);
}

/* Passes of a stage behind the clean one, each counted as forward and backward. */
static double more_passes(const struct reg_spec *reg, unsigned through)
{
	const struct reg_adv *adv = &reg->adv;
	bool single = adv->method == ADV_FGM || adv->method == ADV_NOISE;
	double passes = 0;

	if (adv->on && adv->method == ADV_FREE)
		passes = (double)adv->k - 1;
	else if (adv->on && (through == 0 || adv->targets & through))
		passes = single ? 1 : (double)adv->k - 1;
	if (reg->rdrop.on && through != ADV_PIXEL)
		passes += 1;
	return passes;
}

/* A frozen tower's features come from the cache, or from its forward pass alone. */
static double frozen_share(const struct session *s, bool frozen)
{
	return !frozen ? 1.0 : s->plan.feature_cache ? 0.0 : 1.0 / 3.0;
}

/* Forward once, backward twice as much. batch: samples that are encoded at a time, with so many tokens. */
static double step_flops(const struct session *s, double batch, double tokens)
{
	const struct model_config *config = &s->model_config;
	double features = config->features;
	double pairs = (double)pairs_most(s->plan.task, (int)batch, s->plan.negatives);
	double text = tokens * token_madds(&config->text, tokens / batch) + batch * config->text.width * features;
	double fusion = pairs * (2 * features * features + features * config->classes);
	double image = batch * picture_madds(&config->image), sum;
	const struct reg_spec *reg = &s->plan.reg;

	image *= frozen_share(s, s->plan.freeze_image);
	text *= frozen_share(s, s->plan.freeze_text);
	sum = image * (1 + more_passes(reg, ADV_PIXEL)) + text * (1 + more_passes(reg, ADV_TEXT)) + fusion * (1 + more_passes(reg, 0));
	return 2 * 3 * sum * (reg->sam.on ? 2 : 1) * (double)step_batches(s);
}

static double mebibytes(size_t bytes)
{
	return (double)bytes / (1 << 20);
}

static size_t feature_bytes(const struct session *s)
{
	size_t rows = 0;

	if (s->plan.feature_cache && s->plan.freeze_image)
		rows += (size_t)s->train.pictures + (s->validates ? s->val.pictures : 0);
	if (s->plan.feature_cache && s->plan.freeze_text)
		rows += (size_t)s->train.captions + (s->validates ? s->val.captions : 0);
	return rows * (size_t)s->model_config.features * sizeof(float);
}

static void print_memory(const struct session *s)
{
	size_t values = s->params->value_elements * sizeof(float), grads = s->params->trained_elements * sizeof(float);
	size_t activations = model_activation_bytes(s->model, &s->limits, s->options->recompute) + stages_bytes(&s->model_config, &s->step_limits);
	size_t moments = optimizer_state_bytes(s->optimizer);

	printf("parameters      %12.1f million\n", (double)s->params->trained_elements / 1e6);
	printf("  weights       %12.1f MiB\n", mebibytes(values));
	printf("  gradients     %12.1f MiB\n", mebibytes(grads));
	printf("  moments       %12.1f MiB  (%s)\n", mebibytes(moments), optimizer_kind_name(s->plan.optimizer));
	printf("activations     %12.1f MiB  for %d picture%s, at most %d tokens and %d pair%s\n", mebibytes(activations),
	       s->limits.pictures, plural((uint64_t)s->limits.pictures), s->limits.tokens, s->limits.pairs, plural((uint64_t)s->limits.pairs));
	if (feature_bytes(s) > 0)
		printf("features        %12.1f MiB  of frozen towers, for every picture and caption\n", mebibytes(feature_bytes(s)));
	printf("together        %12.1f MiB at most, with every caption of %d tokens\n",
	       mebibytes(values + grads + moments + activations + feature_bytes(s)), s->limits.tokens_per_caption);
}

static void print_run(const struct session *s)
{
	char reg[REG_TEXT_BYTES];

	reg_spec_text(&s->plan.reg, reg);
	printf("data            %s: %u picture%s, %u caption%s in %s", s->config.data, s->train.pictures, plural(s->train.pictures), s->train.captions,
	       plural(s->train.captions), s->train.split);
	if (s->validates)
		printf("; %u, %u in %s", s->val.pictures, s->val.captions, s->val.split);
	printf("\nmodel           %s, %lld px, %u words, %d class%s\n", s->config.preset, (long long)s->config.image_size,
	       s->vocab_size, s->model_config.classes, s->model_config.classes == 1 ? "" : "es");
	printf("regularizer     %s\n", reg);
	const int64_t samples = step_batch_samples(s) * step_batches(s);

	printf("steps           %llu (%llu an epoch), %lld sample%s each\n", (unsigned long long)s->steps_total,
	       (unsigned long long)s->steps_per_epoch, (long long)samples, plural((uint64_t)samples));
}

/* What comes before the first step where the cache has none of it yet. */
static int print_features(const struct session *s, struct err *err)
{
	struct source_costs costs;
	int code;

	if (feature_bytes(s) == 0)
		return 0;
	if ((code = source_costs(s->train_source, &costs, err)) != 0)
		return code;
	double pictures = costs.pictures + (costs.pictures > 0 && s->validates ? s->val.pictures : 0);
	double captions = costs.captions + (costs.captions > 0 && s->validates ? s->val.captions : 0);
	printf("encoding        %12.0f s at most, once for all runs with these towers and threads; what the cache has is not encoded\n",
	       pictures * costs.picture_s + captions * costs.caption_s);
	if (costs.pictures > 0)
		printf("  pictures      %12.0f at %.1f a second\n", pictures, 1.0 / costs.picture_s);
	if (costs.captions > 0)
		printf("  captions      %12.0f at %.1f a second\n", captions, 1.0 / costs.caption_s);
	return 0;
}

/* The largest resident size so far. Not getrusage()'s: there a process starts with that of the one that started it, so a
 * script that has PyTorch in memory would be told its own. */
static int peak_bytes(double *out, struct err *err)
{
	static const char path[] = "/proc/self/status", key[] = "\nVmHWM:";
	struct buf text = BUF_INIT;
	int code = fs_read(path, 1 << 20, &text, err);
	const char *at = code == 0 && text.data != NULL ? strstr(text.data, key) : NULL;

	if (code == 0 && at == NULL)
		code = err_set(err, ERR_FORMAT, "%s: has no line VmHWM", path);
	if (code == 0)
		*out = 1024.0 * strtod(at + strlen(key), NULL);
	buf_free(&text);
	return code;
}

struct trial {
	double batch_s, tokens; /* of a batch, in the fastest step: one that ends an epoch may have fewer */
	double peak;            /* bytes */
};

/* Real steps on the run's first batches, to be thrown away. */
static int try_steps(struct session *s, struct trial *out, struct err *err)
{
	struct metrics_train line;
	int code = feed_seek(s->feed, 0, 0, err);

	*out = (struct trial){ 0 };
	for (int i = 0; code == 0 && i < TRIAL_STEPS; i++) {
		double began = clock_seconds(), waited = feed_wait_seconds(s->feed);

		if ((code = step_run(s, &line, err)) != 0)
			return code;
		double seconds = clock_seconds() - began - (feed_wait_seconds(s->feed) - waited);
		double batch_s = seconds * (double)step_batch_samples(s) / line.samples;
		if (i == 0 || batch_s < out->batch_s)
			out->batch_s = batch_s;
		out->tokens += s->stages.tokens / (double)TRIAL_STEPS;
	}
	return code == 0 ? peak_bytes(&out->peak, err) : code;
}

/* Computing features takes memory that steps on cached ones do not. */
static int print_peak(const struct session *s, const struct trial *trial, struct err *err)
{
	/* The rates that a profile is held against are measured at the end, beside everything else. */
	double features = (double)feature_bytes(s) + (s->options->profile ? PEAK_READ_BYTES : 0), most;
	int code = peak_bytes(&most, err);

	if (code != 0)
		return code;
	printf("peak memory     %12.1f MiB expected of the run, by %d steps", mebibytes((size_t)(trial->peak + features)), TRIAL_STEPS);
	if (feature_bytes(s) > 0)
		printf(" with the features cached; %.1f MiB where they must be computed", mebibytes((size_t)(most + features)));
	printf("\n");
	return 0;
}

/* A step that ends an epoch may have fewer. */
static double run_batches(const struct session *s)
{
	return (double)(s->steps_total / s->steps_per_epoch) * (double)s->train.steps +
	       (double)(s->steps_total % s->steps_per_epoch) * (double)step_batches(s);
}

int plan_print(struct session *s, struct err *err)
{
	struct trial trial;
	int code;

	print_run(s);
	print_memory(s);
	fflush(stdout);
	if ((code = try_steps(s, &trial, err)) != 0 || (code = print_features(s, err)) != 0)
		return code;
	double batch = (double)step_batch_samples(s), flops = step_flops(s, batch, trial.tokens);
	double step_s = trial.batch_s * (double)step_batches(s);
	printf("arithmetic      %12.1f GFLOP a step at %.1f tokens a caption\n", flops / 1e9, trial.tokens / batch);
	printf("a step          %12.3f s = %.1f pairs/s, %.0f GFLOP/s on %d thread%s\n", step_s, batch / trial.batch_s,
	       flops / step_s / 1e9, s->threads, plural((uint64_t)s->threads));
	printf("the run         %12.0f s without validation\n", trial.batch_s * run_batches(s));
	if ((code = print_peak(s, &trial, err)) != 0 || !s->options->profile)
		return code;
	printf("\n");
	return profile_report(s, NULL, err);
}
