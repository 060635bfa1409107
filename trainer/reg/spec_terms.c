#include "trainer/reg/spec_terms.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(member) offsetof(struct reg_spec, member)
#define BIT(method) (1u << (method))
#define NO_LIMIT INFINITY
/* A perturbation beyond it has no length that a float can hold the square of, and would come out as none. */
#define EPS_MAX 1e12

const char *const reg_method_names[ADV_METHODS] = { "fgm", "pgd", "freelb", "villa", "smart", "free", "noise" };

enum {
	SEVERAL = BIT(ADV_PGD) | BIT(ADV_FREELB) | BIT(ADV_VILLA) | BIT(ADV_SMART) | BIT(ADV_FREE),
	STARTED = BIT(ADV_PGD) | BIT(ADV_FREELB) | BIT(ADV_VILLA) | BIT(ADV_SMART),
	WEIGHED = BIT(ADV_FGM) | BIT(ADV_PGD) | BIT(ADV_VILLA) | BIT(ADV_SMART) | BIT(ADV_NOISE),
	DIVERGING = BIT(ADV_VILLA) | BIT(ADV_SMART),
};

static const struct reg_option dropout_options[] = {
	{ .name = "p", .kind = REG_REAL, .at = AT(dropout[0].probability), .max = 1, .open_max = true,
	  .help = "probability that an element is zeroed (0.3)" },
	{ .name = "at", .kind = REG_SET, .at = 0,
	  .choices = { "fusion", "head", "image", "text", "bert.hidden", "bert.attention" },
	  .help = "places, joined by +: fusion, in front of the fusion layer (the default); head, behind it; image, text: "
		  "the towers' features; bert.hidden, bert.attention: inside the text tower, instead of --bert-dropout" },
};
static const struct reg_option l2_options[] = {
	{ .name = "lambda", .kind = REG_REAL, .at = AT(l2.lambda), .max = NO_LIMIT, .help = "strength (0.01)" },
	{ .name = "mode", .kind = REG_CHOICE, .at = AT(l2.mode), .choices = { "decoupled", "coupled" },
	  .help = "decoupled (as AdamW) or coupled, a penalty in the loss (decoupled)" },
	{ .name = "on", .kind = REG_CHOICE, .at = AT(l2.all), .choices = { "weights", "all" },
	  .help = "on=weights: matrices, kernels, embeddings; on=all: norms and biases too (weights)" },
};
static const struct reg_option smooth_options[] = {
	{ .name = "share", .kind = REG_REAL, .at = AT(smooth.share), .max = 1, .open_max = true,
	  .help = "of the target that is spread evenly over the classes (0.1)" },
};
static const struct reg_option mixup_options[] = {
	{ .name = "alpha", .kind = REG_REAL, .at = AT(mixup.alpha), .min = 0, .open_min = true, .max = 1000,
	  .help = "of Beta(alpha, alpha), from which each pair's lambda is drawn (0.2)" },
};
static const struct reg_option depth_options[] = {
	{ .name = "p", .kind = REG_REAL, .at = AT(depth.probability), .max = 1, .open_max = true,
	  .help = "probability that the last layer's branch is dropped; falls linearly to 0 towards the first (0.1)" },
	{ .name = "at", .kind = REG_SET, .at = AT(depth.places), .choices = { "image", "text" },
	  .help = "image (residual blocks), text (attention and feed-forward of BERT's layers), or image+text (the default)" },
};
static const struct reg_option rdrop_options[] = {
	{ .name = "weight", .kind = REG_REAL, .at = AT(rdrop.weight), .open_min = true, .max = NO_LIMIT,
	  .help = "of the divergence between the two passes (1)" },
};
static const struct reg_option sam_options[] = {
	{ .name = "rho", .kind = REG_REAL, .at = AT(sam.rho), .open_min = true, .max = NO_LIMIT,
	  .help = "radius of the neighbourhood of the weights (0.05; 0.5 for asam)" },
	{ .name = "mode", .kind = REG_CHOICE, .at = AT(sam.mode), .choices = { "sam", "asam" },
	  .help = "sam, or asam: scaled by the size of each weight (sam)" },
};
static const struct reg_option early_options[] = {
	{ .name = "patience", .kind = REG_COUNT, .at = AT(early.patience), .min = 1, .max = REG_EPOCH_MAX,
	  .help = "validations in a row without a new best that end the run (3)" },
};
static const struct reg_option adv_options[] = {
	{ .name = "method", .kind = REG_CHOICE, .at = AT(adv.method),
	  .choices = { "fgm", "pgd", "freelb", "villa", "smart", "free", "noise" },
	  .help = "fgm: one step; pgd: k passes, the last one counts; freelb: their mean; villa: each target alone, with a "
		  "divergence; smart: divergence alone; free: replayed minibatches; noise: a random direction, the control" },
	{ .name = "target", .kind = REG_SET, .at = AT(adv.targets), .choices = { "text", "feat", "fused", "pixel" },
	  .help = "text (word embeddings but [CLS] and [SEP]), feat (image features), fused (a pair's features), pixel (within "
		  "[0, 1] before normalization), or a sum of them" },
	{ .name = "eps", .kind = REG_EPS, .at = AT(adv.eps), .open_min = true, .max = EPS_MAX, .help = "norm of the perturbation" },
	{ .name = "rel", .kind = REG_REL, .at = AT(adv.eps), .open_min = true, .max = EPS_MAX,
	  .help = "instead of eps: as a share of the norm of what is perturbed" },
	{ .name = "norm", .kind = REG_CHOICE, .at = AT(adv.norm), .choices = { "l2", "linf" }, .help = "l2 or linf (l2)" },
	{ .name = "weight", .kind = REG_REAL, .at = AT(adv.weight), .open_min = true, .max = NO_LIMIT, .methods = WEIGHED,
	  .help = "of the adversarial term beside the clean loss (1)" },
	{ .name = "k", .kind = REG_COUNT, .at = AT(adv.k), .min = 2, .max = REG_PASSES_MAX, .methods = SEVERAL,
	  .help = "passes, the clean one included; of free: replays of a minibatch (3)" },
	{ .name = "step", .kind = REG_REAL, .at = AT(adv.step), .open_min = true, .max = 1000, .methods = SEVERAL,
	  .help = "length of an ascent step as a share of eps (1.5 / number of ascents; of free 1)" },
	{ .name = "init", .kind = REG_INIT, .at = AT(adv.init), .max = 1, .methods = STARTED,
	  .help = "norm of the random perturbation to start from as a share of eps; zero: 0, random: 1 (zero; of smart 0.1)" },
	{ .name = "kl", .kind = REG_REAL, .at = AT(adv.kl), .open_min = true, .max = NO_LIMIT, .methods = BIT(ADV_VILLA),
	  .help = "weight of the divergence beside the adversarial loss (1)" },
	{ .name = "through", .kind = REG_CHOICE, .at = AT(adv.through), .choices = { "both", "adv" }, .methods = DIVERGING,
	  .help = "the divergence's gradient goes through both predictions, or adv: the adversarial one alone, cheaper (both)" },
	{ .name = "every", .kind = REG_COUNT, .at = AT(adv.every), .min = 1, .max = 1e9, .quiet = true, .neutral = 1,
	  .help = "only in every N-th step (1)" },
	{ .name = "warmup", .kind = REG_WARMUP, .at = AT(adv.warmup), .max = 1e9, .quiet = true,
	  .help = "eps grows from 0 over so many epochs, or steps as in warmup=200steps, from the term's start on (0)" },
};

#define TERM(term, main_option, table, about, source)                                                                  \
	{ .name = #term, .on = AT(term.on), .when = AT(term.when), .number = main_option, .options = table,                \
	  .option_count = ARRAY_LEN(table), .help = about, .paper = source }

const struct reg_term reg_terms[] = {
	{ .name = "dropout", .on = AT(dropout[0].on), .when = AT(dropout[0].when), .number = "p", .options = dropout_options,
	  .option_count = ARRAY_LEN(dropout_options), .help = "random elements of features are zeroed",
	  .paper = "Srivastava et al., JMLR 2014" },
	TERM(l2, "lambda", l2_options, "weight decay", "Loshchilov and Hutter, ICLR 2019"),
	TERM(smooth, "share", smooth_options, "label smoothing", "Szegedy et al., CVPR 2016"),
	TERM(mixup, "alpha", mixup_options, "pairs are mixed in front of the fusion layer, labels in proportion",
	     "Zhang et al., ICLR 2018; Verma et al., ICML 2019"),
	TERM(depth, "p", depth_options, "stochastic depth: residual branches are dropped", "Huang et al., ECCV 2016"),
	TERM(rdrop, "weight", rdrop_options, "R-Drop: two passes with other dropout masks must agree", "Liang et al., NeurIPS 2021"),
	TERM(sam, "rho", sam_options, "sharpness-aware minimization",
	     "Foret et al., ICLR 2021; Kwon et al., ICML 2021 (asam)"),
	TERM(early, "patience", early_options, "early stopping on the validation", "Prechelt, 1998"),
	TERM(adv, "eps", adv_options, "adversarial training",
	     "Miyato et al. 2017 (fgm), Madry et al. 2018 (pgd), Zhu et al. 2020 (freelb), Gan et al. 2020 (villa), Jiang et "
	     "al. 2020 (smart), Shafahi et al. 2019 (free)"),
};
const int reg_term_count = ARRAY_LEN(reg_terms);

const struct reg_term *reg_term_find(const char *name, size_t length)
{
	static const char *const aliases[][2] = { { "noise", "adv" }, { "label-smoothing", "smooth" },
						  { "stochastic-depth", "depth" }, { "r-drop", "rdrop" },
						  { "early-stopping", "early" } };

	for (size_t i = 0; i < ARRAY_LEN(aliases); i++)
		if (strlen(aliases[i][0]) == length && memcmp(aliases[i][0], name, length) == 0)
			return reg_term_find(aliases[i][1], strlen(aliases[i][1]));
	for (int i = 0; i < reg_term_count; i++)
		if (strlen(reg_terms[i].name) == length && memcmp(reg_terms[i].name, name, length) == 0)
			return &reg_terms[i];
	return NULL;
}

void reg_choices_text(const struct reg_option *option, char *out, size_t bytes)
{
	size_t used = 0;

	out[0] = '\0';
	for (int i = 0; i < REG_CHOICES_MAX && option->choices[i] != NULL && used < bytes; i++) {
		bool last = i + 1 == REG_CHOICES_MAX || option->choices[i + 1] == NULL;

		used += (size_t)snprintf(out + used, bytes - used, "%s%s", i == 0 ? "" : last ? " or " : ", ", option->choices[i]);
	}
}

void reg_spec_defaults(struct reg_spec *out)
{
	*out = (struct reg_spec){
		.l2 = { .lambda = 0.01, .mode = L2_DECOUPLED },
		.smooth = { .share = 0.1 },
		.mixup = { .alpha = 0.2 },
		.depth = { .probability = 0.1, .places = DEPTH_IMAGE | DEPTH_TEXT },
		.rdrop = { .weight = 1.0 },
		.sam = { .rho = NAN },
		.early = { .patience = 3 },
		/* NaN and 0: the method decides. */
		.adv = { .weight = 1.0, .every = 1, .step = NAN, .init = NAN, .kl = 1.0 },
	};
	for (int site = 0; site < DROP_SITES; site++)
		out->dropout[site].probability = 0.3;
}

void reg_adv_settle(struct reg_adv *adv)
{
	bool random_start;

	if (adv->k == 0)
		adv->k = SEVERAL & BIT(adv->method) ? 3 : 2;
	if (isnan(adv->init))
		adv->init = adv->method == ADV_SMART ? 0.1 : 0.0;
	random_start = adv->init > 0 && adv->method != ADV_FREELB;
	if (isnan(adv->step)) {
		double ascents = (double)adv->k - (random_start ? 2 : 1);

		adv->step = adv->method == ADV_FREE || ascents < 1 ? 1.0 : 1.5 / ascents;
	}
}

const char *reg_number(char out[32], double value)
{
	if (fabs(value) < 1e6 && value == floor(value)) {
		snprintf(out, 32, "%.0f", value);
		return out;
	}
	for (int digits = 1; digits <= 17; digits++) {
		snprintf(out, 32, "%.*g", digits, value);
		if (strtod(out, NULL) == value)
			break;
	}
	char *plus = strchr(out, '+');
	if (plus != NULL)
		memmove(plus, plus + 1, strlen(plus));
	return out;
}
